"""Drawings as the network knows them: white paper, dark lines; drawn from a picture, or cleaned."""

from __future__ import annotations

from typing import Literal, cast, get_args

import numpy as np
import torch
from PIL import Image, ImageOps

from attnbench.config.recipe import Sketch
from attnbench.data.images import draw_sketches
from attnbench.errors import UserError, unknown

Lines = Literal["auto", "dark", "light", "keep"]


NATIVE = 512  # pixels of the shorter side of AFHQ's photographs: taken for the training's where its record does not say


MOSTLY_DARK = 2 / 3  # a drawing with more dark than this has light lines. XDoG's of dark photographs reach 0.54


CONTRAST = 16  # grey levels between paper and ink below which a drawing is blank


LINE = 80  # ink, of 255: about the median where XDoG's line art has any, reduced by 2 to 5 (61 to 102 over data sets)


def checked_lines(text: str) -> Lines:
    """Raises UserError for what are no `Lines`."""
    if text not in get_args(Lines):
        raise unknown("kind of lines", text, get_args(Lines))
    return cast(Lines, text)


def extracted(picture: Image.Image, size: tuple[int, int], sketch: Sketch, native: int = NATIVE) -> Image.Image:
    """Line art of an RGB picture, in grey, at another size: drawn before or after the change, as the recipe has it.

    Pictures whose shorter side has more than `native` pixels, as those of the training had, are reduced to that before.
    """
    native = max(native, min(size))
    if sketch.at == "target":
        picture = resized(picture, size)
    elif min(picture.size) > native:
        scale = native / min(picture.size)
        picture = resized(picture, (round(picture.width * scale), round(picture.height * scale)))
    rgb = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255
    middle = sorted(sketch.sigma)[len(sketch.sigma) // 2]
    drawn = draw_sketches(rgb, torch.tensor([middle]), sketch)[0, 0]
    return resized(Image.fromarray((drawn * 255).round().byte().numpy()), size)


def redrawn(
    drawing: Image.Image,
    size: tuple[int, int],
    sketch: Sketch,
    lines: Lines = "auto",
    name: str = "the sketch",
) -> Image.Image:
    """A grey drawing (mode L) as the network knows them, at another size.

    Thin lines fade where a drawing is reduced. One factor brings what has ink to the darkness that the training's line art has
    behind its own reduction: `LINE`. Drawings that are darker stay as they are. Where the recipe draws at the
    network's own size, at which its lines are black, these are made black as well.
    """
    if lines == "keep":
        return resized(drawing, size)
    ink = ImageOps.invert(cleaned(drawing, lines, name))
    small = _small(ink, size)
    strong = _small(ink.point([0] * 128 + [*range(128, 256)]), size)  # without the paper's grain
    darker = max(LINE / _middle(strong[strong > 0]), 1)
    levels = np.clip(255 - darker * small, 0, 255).round().astype(np.uint8)
    drawn = Image.fromarray(levels)
    if sketch.at == "native" or sketch.source == "dataset":
        return drawn
    threshold = _otsu(np.array(drawn.histogram(), dtype=np.float64))
    return drawn.point([0 if level <= threshold else 255 for level in range(256)])


def _small(ink: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """Mode L at another size, in floats: a thin line's share in a pixel may be less than a grey level."""
    return np.asarray(resized(ink.convert("F"), size))


def _middle(values: np.ndarray) -> float:
    """The mean of the middle half: steadier than the median, and as blind to black areas of up to a quarter."""
    cut = values.size // 4
    return float(np.sort(values)[cut : values.size - cut].mean())


def cleaned(drawing: Image.Image, lines: Lines = "auto", name: str = "the sketch") -> Image.Image:
    """A grey drawing as the network knows them: white paper, and lines whose darkest are black.

    Otsu's threshold (IEEE Transactions on Systems, Man, and Cybernetics 9(1), 1979) parts ink from paper. The paper's median,
    less its usual variation, becomes white; the darkest twentieth of the ink becomes black.

    Args:
        drawing: mode L.
        lines: as for `colorize`; `auto` takes them for light where more than two thirds of the drawing are dark.
        name: of the drawing, for errors.

    Raises:
        UserError: it is blank.
    """
    if lines == "keep":
        return drawing
    counts = np.array(drawing.histogram(), dtype=np.float64)
    threshold = _otsu(counts)
    dark = counts[: threshold + 1].sum() / counts.sum()
    if lines == "light" or (lines == "auto" and dark > MOSTLY_DARK):
        drawing, counts = ImageOps.invert(drawing), counts[::-1]
        threshold = _otsu(counts)
    levels = np.arange(256)
    ink, paper = np.where(levels <= threshold, counts, 0), np.where(levels > threshold, counts, 0)
    if not ink.any() or not paper.any():
        raise _blank(name)
    middle = _quantile(levels, paper, 0.5)
    deviation = 1.4826 * _quantile(abs(levels - middle), paper, 0.5)  # a normal distribution's, by its median
    white, black = middle - 2 * deviation, _quantile(levels, ink, 0.05)
    if white - black < CONTRAST:
        raise _blank(name)
    return drawing.point([round(min(max((level - black) / (white - black), 0), 1) * 255) for level in range(256)])


def _otsu(counts: np.ndarray) -> int:
    """The last grey level of the darker of two classes, whose variance between them is the largest; (256,) counts."""
    levels = np.arange(256)
    below, mass = counts.cumsum(), (counts * levels).cumsum()
    above = below[-1] - below
    both = (below > 0) & (above > 0)
    between = np.zeros(256)
    between[both] = (mass[-1] * below[both] - mass[both] * below[-1]) ** 2 / (below[both] * above[both])
    best = np.flatnonzero(between >= between.max() * (1 - 1e-12))  # empty levels between the classes all do as well
    return int(best[len(best) // 2])


def _quantile(values: np.ndarray, counts: np.ndarray, share: float) -> int:
    """The least of the values, each of which occurs `counts` times, that at least that share does not exceed."""
    order = values.argsort(kind="stable")
    reached = counts[order].cumsum() >= share * counts.sum()
    return int(values[order][reached.argmax()])


def _blank(name: str) -> UserError:
    return UserError(f"{name} is blank: its tones hardly differ (--lines keep colours it all the same)")


def resized(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Bilinear with antialiasing, as training's images."""
    return picture if picture.size == size else picture.resize(size, Image.Resampling.BILINEAR)
