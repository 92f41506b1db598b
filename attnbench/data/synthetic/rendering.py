"""From shapes to a canvas of their numbers, and from there to pictures and part maps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from attnbench.data.synthetic.colours import INK, RGB, SHADOW, WHITE, mixed
from attnbench.data.synthetic.head import Head
from attnbench.data.synthetic.pose import Style
from attnbench.data.synthetic.raster import Filled, Outlines
from attnbench.data.synthetic.shapes import Shape

LINE_WIDTH = 0.0085  # of the picture's side
MIN_LINE_PIXELS = 0.8  # thinner lines fade into the fills of small pictures
_SHIFTS = (0, 16, 32)  # of the channels of a colour that is packed into one number, with room for sums of canvas pixels


@dataclass(frozen=True)
class Rendering:
    """Which shape each pixel of a canvas shows.

    Attributes:
        shown: (F S, F S), F canvas pixels for each of the picture's S: twice the place of a shape in `shapes`, and one more
            where it is the shape's outline.
        shapes: from back to front.
        factor: F.
    """

    shown: npt.NDArray[np.uint16]
    shapes: Sequence[Shape]
    style: Style
    factor: int

    def picture(self, base: Sequence[RGB]) -> Image.Image:
        """In these colours of the parts, each pixel the mean of its canvas pixels."""
        table = np.array([_packed(colour) for shape in self.shapes for colour in _colours(shape, base, self.style)])
        size, count = len(self.shown) // self.factor, self.factor**2
        total = np.zeros((size, size), np.int64)
        for row in range(self.factor):
            line = table.take(self.shown[row :: self.factor])  # (S, F S)
            for column in range(self.factor):
                total += line[:, column :: self.factor]
        channels = np.stack([(total >> shift) & 0xFFFF for shift in _SHIFTS], -1)
        return Image.fromarray(((channels + count // 2) // count).astype(np.uint8))

    def parts(self) -> npt.NDArray[np.uint8]:
        """(S, S): the part in the middle of each pixel."""
        table = np.repeat([shape.part for shape in self.shapes], 2).astype(np.uint8)
        middle = slice(self.factor // 2, None, self.factor)
        return table[self.shown[middle, middle]]


def rendered(head: Head, size: int) -> Rendering:
    """The head on a canvas for pictures of `size` x `size`."""
    factor = 4 if size <= 128 else 3 if size <= 256 else 2
    side = size * factor
    line = max(LINE_WIDTH * side, MIN_LINE_PIXELS * factor) * head.style.line
    nested = list(_with_parents(head.shapes))
    halves = np.array([line * shape.line / 2 for shape, _ in nested])
    outlines = Outlines([shape.outline * side for shape, _ in nested])
    inner, outer = (outlines.runs(outlines.grown(distance), side) for distance in (-halves, halves))
    shown = np.zeros((side, side), np.uint16)
    clips: dict[int, npt.NDArray[np.bool_]] = {}
    parents = {parent for _, parent in nested}
    for place, (_, parent) in enumerate(nested):
        if halves[place]:
            _paint(shown, outer[place].filled(), clips.get(parent), 2 * place + 1)
        filled = _paint(shown, inner[place].filled(), clips.get(parent), 2 * place)
        if place in parents:
            clips[place] = filled.on(side)
    return Rendering(shown, [shape for shape, _ in nested], head.style, factor)


def _with_parents(shapes: Iterable[Shape], parent: int = -1, start: int = 0) -> Iterator[tuple[Shape, int]]:
    """Every shape in the order in which it is painted, with the place of the one that it is inside of; -1 for none."""
    place = start
    for shape in shapes:
        yield shape, parent
        inner = list(_with_parents(shape.inside, place, place + 1))
        yield from inner
        place += 1 + len(inner)


def _paint(shown: npt.NDArray[np.uint16], filled: Filled, clip: npt.NDArray[np.bool_] | None, number: int) -> Filled:
    """Write the number where the shape is, within the clip; what was written."""
    if clip is not None:
        filled = filled.within(clip)
    shown[filled.place][filled.mask] = number
    return filled


def _packed(colour: RGB) -> int:
    return sum(channel << shift for channel, shift in zip(colour, _SHIFTS, strict=True))


def _colours(shape: Shape, base: Sequence[RGB], style: Style) -> tuple[RGB, RGB]:
    """Of its area and of its outline."""
    strength = {SHADOW: style.shade, WHITE: style.gloss if shape.line == 0 else 1.0}.get(shape.tint, 1.0)
    colour = mixed(base[shape.part], shape.tint, min(strength * shape.amount, 1.0))
    return colour, mixed(base[shape.part], INK, style.ink)
