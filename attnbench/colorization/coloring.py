"""Pictures of any size and kind, coloured with a trained generator.

    drawing   (any size) -> grey, white paper, dark lines    \
    picture   (any size) -> its XDoG line art, if `extract`   > sketch    (1, 1, h, w)  \
                                                                                         > generator -> cropped, resized back
    reference (any size) -> resized and cropped to cover      > reference (1, 3, h, w)  /

The network works at the scale that it was trained at: the sketch's shorter side becomes the recipe's `data.size`, with the
aspect ratio kept. White is added on the right and at the bottom until both sides are multiples of the backbone's stride.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from attnbench.colorization.line_art import NATIVE, Lines, checked_lines, extracted, redrawn
from attnbench.colorization.picture_files import backdrop, read_picture
from attnbench.config.recipe import Recipe
from attnbench.data.images import decode
from attnbench.errors import UserError
from attnbench.method.backbone import Colorizer
from attnbench.method.precision import tf32
from attnbench.metrics.generate import to_bytes
from attnbench.store.generators import load, recipe_of, side_of

SMALLEST = 16  # pixels, the shortest side of a picture, as of a recipe's images
MOST_PIXELS, MOST_POSITIONS = 2048**2, 128**2  # of a frame and of its feature map: full attention on the latter takes 1 GB


@dataclass(frozen=True)
class Frame:
    """The size at which the network sees a drawing: (width, height) in pixels, before and after padding."""

    size: tuple[int, int]
    padded: tuple[int, int]


@dataclass(frozen=True)
class Colorized:
    """The result, RGB at the drawing's own size; and the sketch and reference that the network saw, at the frame's size."""

    picture: Image.Image
    sketch: Image.Image
    reference: Image.Image


def colorize(
    model: Colorizer | str | Path,
    sketch: Image.Image | str | Path,
    reference: Image.Image | str | Path,
    *,
    size: int | None = None,
    extract: bool = False,
    lines: Lines = "auto",
) -> Image.Image:
    """Colour a drawing with the colours of a reference.

    Args:
        model: a generator from `attnbench.load`, or the folder of a finished or an exported cell.
        sketch: a drawing, of any size and mode, or its file; or, with `extract`, a photograph or coloured picture.
        reference: a coloured picture of any size, or its file; cropped around its centre to the sketch's aspect ratio.
        size: shorter side, in pixels, at which the network works; by default the size that it was trained at, 0 for the
            sketch's own.
        extract: draw the sketch's line art first: XDoG with the recipe's parameters (the middle one of its sigmas), as for
            training. Pictures larger than the training's, whose lines would be too thin, are first reduced to the training
            pictures' size (512 pixels if the cell's record does not give it).
        lines: `dark` or `light`, against the paper; `auto` detects which. Paper becomes white, the darkest ink black. `keep`
            leaves tones unchanged.

    Returns:
        RGB, of the sketch's size.

    Raises:
        UserError: a picture is smaller than 16 pixels or cannot be read, the drawing is blank, the size is too large, or
            `load` refuses the folder.
        TypeError: a picture is neither a Pillow image nor a path.
    """
    generator = model if isinstance(model, Colorizer) else load(model)
    options = Options(size, extract, lines)
    names = (_name_of(sketch, "sketch"), _name_of(reference, "reference"))
    return colorize_picture(generator, _decoded(sketch, options.drawn_with), _decoded(reference), options, names).picture


def _decoded(picture: Image.Image | str | Path, lines: Lines = "dark") -> Image.Image:
    return decode(picture, backdrop(picture, lines)) if isinstance(picture, Image.Image) else read_picture(Path(picture), lines)


def _name_of(picture: Image.Image | str | Path, what: str) -> str:
    """A picture's name in errors.

    Raises:
        TypeError: it is neither a Pillow image nor a path.
    """
    if isinstance(picture, (str, Path)):
        return f"'{picture}'"
    if not isinstance(picture, Image.Image):
        raise TypeError(
            f"{what}: expected a Pillow image or a path, not {type(picture).__name__} (Image.fromarray takes arrays)"
        )
    return f"the {what}"


@dataclass(frozen=True)
class Options:
    """The options of `colorize`.

    Raises:
        UserError: an invalid value.
    """

    size: int | None
    extract: bool
    lines: Lines

    def __post_init__(self) -> None:
        checked_lines(self.lines)
        if self.size is not None and self.size != 0 and self.size < SMALLEST:
            raise UserError(f"size {self.size}: expected {SMALLEST} pixels or more, or 0 for the drawing's own size")

    @property
    def drawn_with(self) -> Lines:
        """The kind of lines that decides a sketch's `backdrop`: photographs get white."""
        return "dark" if self.extract else self.lines


@torch.no_grad()
@tf32(False)  # as in evaluation
def colorize_picture(
    generator: Colorizer, sketch: Image.Image, reference: Image.Image, options: Options, names: tuple[str, str]
) -> Colorized:
    """`colorize` for RGB pictures; `names` are those of sketch and reference in errors."""
    recipe = recipe_of(generator)
    frame = frame_for(sketch.size, reference.size, recipe, options, names)
    if options.extract:
        drawn = extracted(sketch, frame.size, recipe.data.sketch, side_of(generator) or NATIVE)
    else:
        drawn = redrawn(sketch.convert("L"), frame.size, recipe.data.sketch, options.lines, names[0])
    drawing = Image.new("L", frame.padded, "white")
    drawing.paste(drawn)
    fitted = ImageOps.fit(reference, frame.padded, Image.Resampling.BILINEAR)
    device = next(generator.parameters()).device
    try:
        made = generator(_signed(drawing).to(device), _signed(fitted).to(device))
    except torch.OutOfMemoryError:
        raise UserError(
            f"{device} has too little memory for {names[0]} at {dimensions(frame.size)} pixels: choose a smaller --size"
        ) from None
    width, height = frame.size
    picture = Image.fromarray(to_bytes(made)[0, :, :height, :width].permute(1, 2, 0).contiguous().cpu().numpy())
    if picture.size != sketch.size:
        picture = picture.resize(sketch.size, Image.Resampling.BICUBIC)
    return Colorized(picture, drawn, fitted)


def frame_for(
    sketch: tuple[int, int], reference: tuple[int, int], recipe: Recipe, options: Options, names: tuple[str, str]
) -> Frame:
    """The frame for pictures of these sizes.

    Raises:
        UserError: a picture is too small, or the network cannot take that many pixels.
    """
    for size, name in zip((sketch, reference), names, strict=True):
        if min(size) < SMALLEST:
            raise UserError(f"{name} has {dimensions(size)} pixels: at least {SMALLEST} x {SMALLEST} are needed")
    return working_frame(sketch, recipe.data.size if options.size is None else options.size, recipe.backbone.levels, names[0])


def working_frame(size: tuple[int, int], shorter: int, levels: int, name: str = "the sketch") -> Frame:
    """The frame for a drawing.

    Args:
        size: (width, height) of the drawing, in pixels.
        shorter: new length of the shorter side; 0 for no change.
        levels: levels of the backbone, whose stride is 2^(levels - 1); a padded side has at least two strides.
        name: the drawing's name, for errors.

    Raises:
        UserError: the network cannot take that many pixels.

    >>> working_frame((300, 180), 64, 4)
    Frame(size=(107, 64), padded=(112, 64))
    """
    scale = shorter / min(size) if shorter else 1.0
    width, height = (max(1, round(side * scale)) for side in size)
    stride = 2 ** (levels - 1)
    padded = (max(2, math.ceil(width / stride)) * stride, max(2, math.ceil(height / stride)) * stride)
    most = min(MOST_PIXELS, MOST_POSITIONS * stride**2)
    if math.prod(padded) > most:
        fits = int(min(width, height) * math.sqrt(most / math.prod(padded)) / stride) * stride
        remedy = f"--size {fits} or less fits" if fits >= SMALLEST else "its sides differ too much, cut it into parts"
        size_ = dimensions((width, height))
        raise UserError(
            f"{name} would be coloured at {size_} pixels, but this network takes at most {most / 1e6:.2g} million: {remedy}"
        )
    return Frame((width, height), padded)


def _signed(picture: Image.Image) -> Tensor:
    """Mode L or RGB -> (1, 1 or 3, H, W) in [-1, 1], as `data.batches` makes them."""
    array = np.atleast_3d(np.array(picture))
    return (torch.from_numpy(array).permute(2, 0, 1)[None].float() / 255) * 2 - 1


def dimensions(size: tuple[int, int]) -> str:
    return f"{size[0]:,} x {size[1]:,}"
