"""Curves, and the coloured shapes that they bound."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import cos, pi, sin
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from attnbench.data.synthetic.colours import INK, RGB, SHADOW

Point: TypeAlias = tuple[float, float]
Corner: TypeAlias = tuple[float, float, float]  # x, y and how far the edge that starts here bends outwards
Points: TypeAlias = npt.NDArray[np.float64]  # (n, 2): x, y

SIDES = (-1, 1)  # left and right
MIRROR: Points = np.array([-1.0, 1.0])
CIRCLE: Points = np.array([(cos(2 * pi * turn / 40), sin(2 * pi * turn / 40)) for turn in range(40)])
STEP = np.arange(10) / 10  # along each span of a curve; below, what each knot weighs there
PARABOLA = np.column_stack([(1 - STEP) ** 2, 2 * STEP * (1 - STEP), STEP**2])
CATMULL_ROM = np.vander(STEP, 4) @ np.array([(-1, 3, -3, 1), (2, -5, 4, -1), (-1, 0, 1, 0), (0, 2, 0, 0)]) / 2


@dataclass(frozen=True)
class Shape:
    """A closed polygon in its part's colour, pulled towards `tint` by `amount`; `inside` is painted on it, clipped."""

    part: int
    outline: Points
    tint: RGB = SHADOW
    amount: float = 0.0
    line: float = 1.0  # width of the dark outline, relative to the usual one
    inside: tuple[Shape, ...] = ()


def bent(*corners: Corner, closed: bool = True) -> Points:
    """A path through `corners`, clockwise; each edge is a parabola that bends outwards by a fraction of its length."""
    rows = np.array(corners, float)
    start, bend = rows[:, :2], rows[:, 2:]
    end = np.concatenate([start[1:], start[:1]])
    across = (start - end)[:, ::-1] * MIRROR
    control = (start + end) / 2 + 2 * bend * across
    path: Points = np.concatenate(PARABOLA @ np.stack([start, control, end], 1))
    return path if closed else path[: 1 - len(STEP)]


def stroke(start: Point, end: Point, bend: float, width: float) -> Points:
    """A stroke that tapers towards its ends: two arcs between the same points."""
    return bent((*start, bend), (*end, width - bend))


def smooth(*knots: Point) -> Points:
    """The closed Catmull-Rom curve through `knots`."""
    points = np.array(knots, float)
    spans = np.stack([np.concatenate([points[shift:], points[:shift]]) for shift in (-1, 0, 1, 2)], 1)
    curve: Points = np.concatenate(CATMULL_ROM @ spans)
    return curve


def ellipse(x: float, y: float, rx: float, ry: float) -> Points:
    points: Points = CIRCLE * np.array([rx, ry]) + np.array([x, y])
    return points


def band(path: Points, width: float) -> Points:
    """A ribbon of even width along an open path."""
    step = np.diff(path, axis=0, append=path[-1:] + (path[-1:] - path[-2:-1]))
    across = step[:, ::-1] * MIRROR / np.sqrt((step * step).sum(1))[:, None] * (width / 2)
    ribbon: Points = np.concatenate([path + across, (path - across)[::-1]])
    return ribbon


def both(points: Points) -> list[Points]:
    return [points, points * MIRROR]


def flat(part: int, outlines: Iterable[Points], tint: RGB = SHADOW, amount: float = 0, line: float = 0) -> list[Shape]:
    return [Shape(part, outline, tint, amount, line) for outline in outlines]


def drawn(part: int, outlines: Iterable[Points], width: float = 1) -> list[Shape]:
    """Strokes in ink."""
    return [Shape(part, outline, INK, 0.85, 0.3 * width) for outline in outlines]


def shaded(part: int, outline: Points, *inside: Shape, depth: float = 0.1) -> Shape:
    """A shape lit from the upper left: what its own copy, moved towards the light, leaves uncovered is in shade."""
    lit = Shape(part, outline - np.array([0.7 * depth, depth]), line=0)
    return Shape(part, outline, SHADOW, 0.28, inside=(lit, *inside))


def reshaped(shape: Shape, change: Callable[[Points], Points]) -> Shape:
    """The shape and what is inside it, with other outlines."""
    return replace(shape, outline=change(shape.outline), inside=tuple(reshaped(inner, change) for inner in shape.inside))
