"""Drawings as the network expects them, dark lines on white paper: extracted from a picture, or a cleaned drawing."""

from __future__ import annotations

from typing import Literal, cast, get_args

import numpy as np
import torch
from PIL import Image, ImageOps

from attnbench.config.recipe import Sketch
from attnbench.data.images import draw_sketches
from attnbench.errors import UserError, unknown

Lines = Literal["auto", "dark", "light", "keep"]
NATIVE = 512  # pixels, the shorter side of AFHQ's photographs: assumed of training images if the record does not give it
MOSTLY_DARK = 2 / 3  # a larger share of dark pixels means light lines; XDoG drawings of dark photographs reach 0.54
CONTRAST = 16  # grey levels between paper and ink below which a drawing is blank
LINE = 80  # ink, of 255: about the median of inked pixels in XDoG line art reduced by 2 to 5 (61 to 102, by dataset)


def checked_lines(text: str) -> Lines:
    """The text as `Lines`. Raises UserError for any other text."""
    if text not in get_args(Lines):
        raise unknown("kind of lines", text, get_args(Lines))
    return cast(Lines, text)


def extracted(picture: Image.Image, size: tuple[int, int], sketch: Sketch, native: int = NATIVE) -> Image.Image:
    """Grey line art of an RGB picture at another size, drawn before or after the resizing, as the recipe specifies.

    Pictures whose shorter side has more than `native` pixels, that of the training pictures, are first reduced to it.
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
    """A grey drawing (mode L) as the network expects it, at another size.

    Thin lines fade when a drawing is reduced. A factor brings the inked pixels to the darkness of the training's line art
    after its own reduction: `LINE`. Darker drawings are not changed. If the recipe draws at the network's own size, the
    training's lines are black, and the drawing's are made black as well.
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
    """Mode L at another size, in floats: a thin line may change a pixel by less than a grey level."""
    return np.asarray(resized(ink.convert("F"), size))


def _middle(values: np.ndarray) -> float:
    """The mean of the middle half: steadier than the median, and unaffected by black areas of up to a quarter."""
    cut = values.size // 4
    return float(np.sort(values)[cut : values.size - cut].mean())


def cleaned(drawing: Image.Image, lines: Lines = "auto", name: str = "the sketch") -> Image.Image:
    """A grey drawing as the network expects it: white paper, and black for the darkest lines.

    Otsu's threshold (IEEE Transactions on Systems, Man, and Cybernetics 9(1), 1979) separates ink from paper. The paper's
    median, less its usual variation, becomes white; the darkest twentieth of the ink becomes black.

    Args:
        drawing: mode L.
        lines: as for `colorize`; `auto` means light if more than two thirds of the drawing are dark.
        name: the drawing's name, for errors.

    Raises:
        UserError: the drawing is blank.
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
    deviation = 1.4826 * _quantile(abs(levels - middle), paper, 0.5)  # a normal distribution's, from its median deviation
    white, black = middle - 2 * deviation, _quantile(levels, ink, 0.05)
    if white - black < CONTRAST:
        raise _blank(name)
    return drawing.point([round(min(max((level - black) / (white - black), 0), 1) * 255) for level in range(256)])


def _otsu(counts: np.ndarray) -> int:
    """Last grey level of the darker of two classes, split for the largest variance between them; `counts` has shape (256,)."""
    levels = np.arange(256)
    below, mass = counts.cumsum(), (counts * levels).cumsum()
    above = below[-1] - below
    both = (below > 0) & (above > 0)
    between = np.zeros(256)
    between[both] = (mass[-1] * below[both] - mass[both] * below[-1]) ** 2 / (below[both] * above[both])
    best = np.flatnonzero(between >= between.max() * (1 - 1e-12))  # empty levels between the classes are equally good
    return int(best[len(best) // 2])


def _quantile(values: np.ndarray, counts: np.ndarray, share: float) -> int:
    """The least of the values that at least `share` of them do not exceed; each value occurs `counts` times."""
    order = values.argsort(kind="stable")
    reached = counts[order].cumsum() >= share * counts.sum()
    return int(values[order][reached.argmax()])


def _blank(name: str) -> UserError:
    return UserError(f"{name} is blank: its tones hardly differ (--lines keep colours it anyway)")


def resized(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Bilinear with antialiasing, as for the training images."""
    return picture if picture.size == size else picture.resize(size, Image.Resampling.BILINEAR)
