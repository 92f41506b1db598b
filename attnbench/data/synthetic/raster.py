"""From outlines to pixels, in whole numbers: the same pixels on every machine.

Coordinates are rounded to a fraction of a pixel that is millions of times coarser than what cosines and sums of products
differ by from one machine to another. What comes after that is arithmetic of integers, or single additions, products,
quotients and square roots, which are the same everywhere. A pixel belongs to an outline if its centre has a positive winding
number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from attnbench.data.synthetic.shapes import MIRROR, Points

Mask = npt.NDArray[np.bool_]
Whole = npt.NDArray[np.int64]
FINE = 64  # steps of a coordinate within a pixel


@dataclass(frozen=True)
class Filled:
    """The pixels of an outline: `mask` is the part of the canvas from row `top` and column `left`."""

    top: int
    left: int
    mask: Mask

    @property
    def place(self) -> tuple[slice, slice]:
        rows, columns = self.mask.shape
        return slice(self.top, self.top + rows), slice(self.left, self.left + columns)

    def within(self, clip: Mask) -> Filled:
        """What of it lies within a mask of the whole canvas."""
        return Filled(self.top, self.left, self.mask & clip[self.place])

    def on(self, side: int) -> Mask:
        """As a mask of the whole canvas."""
        whole = np.zeros((side, side), bool)
        whole[self.place] = self.mask
        return whole


@dataclass(frozen=True)
class Runs:
    """The pixels of an outline, as runs within rows: row, first column and column behind the last, sorted."""

    row: Whole
    first: Whole
    stop: Whole

    def filled(self) -> Filled:
        if not len(self.row):
            return Filled(0, 0, np.zeros((0, 0), bool))
        top, left = int(self.row[0]), int(self.first.min())
        rows, columns = int(self.row[-1]) - top + 1, int(self.stop.max()) - left + 1  # one more, for the ends of runs
        change = np.zeros(rows * columns, np.int8)
        begin = (self.row - top) * columns - left
        change[begin + self.first] += 1
        change[begin + self.stop] -= 1
        mask = np.cumsum(change, dtype=np.int8).view(bool).reshape(rows, columns)[:, :-1]
        return Filled(top, left, mask)


class Outlines:
    """Closed outlines, all their points in one array.

    Args:
        outlines: (n, 2) each, in pixels; y points down.
    """

    def __init__(self, outlines: Sequence[Points]):
        self.points = _rounded(np.concatenate(outlines)) / FINE
        lengths = np.array([len(outline) for outline in outlines])
        last = np.cumsum(lengths) - 1
        self.count = len(lengths)
        self.owner = np.repeat(np.arange(self.count), lengths)
        self.following = np.arange(1, len(self.points) + 1)
        self.following[last] = last - lengths + 1
        self.previous = np.empty_like(self.following)
        self.previous[self.following] = np.arange(len(self.points))
        (x, y), (u, v) = self.points.T, self.points[self.following].T
        area = np.bincount(self.owner, x * v - u * y, self.count)
        self.turn = np.where(area >= 0, 1, -1)  # whether the outline goes round clockwise, as seen on the screen

    def grown(self, distances: npt.NDArray[np.float64]) -> Points:
        """The points moved outwards, each outline by a distance of its own; inwards by a negative one."""
        step = self.points[self.following] - self.points
        length = np.sqrt(step[:, 0] ** 2 + step[:, 1] ** 2)  # 0 where two curves meet in the same point
        normal = step[:, ::-1] * -MIRROR / np.where(length > 0, length, 1)[:, None]
        between = normal + normal[self.previous]
        square = between[:, 0] ** 2 + between[:, 1] ** 2  # 4 on a straight line
        reach = (self.turn * distances)[self.owner] * np.minimum(2 / np.maximum(square, 1), 1)  # blunt, where it is sharp
        moved: Points = self.points + between * reach[:, None]
        return moved

    def runs(self, points: Points, side: int) -> list[Runs]:
        """The pixels of each outline, its points moved to `points`, on a canvas of `side` x `side`.

        What has shrunk to nothing has none: its edges, or its inside, are turned round.
        """
        owner, row, first, stop = self._all_runs(_rounded(points), side)
        bounds = np.searchsorted(owner, np.arange(self.count + 1))
        return [Runs(row[a:b], first[a:b], stop[a:b]) for a, b in pairwise(bounds)]

    def _all_runs(self, start: Whole, side: int) -> tuple[Whole, Whole, Whole, Whole]:
        """Runs of pixels: outline, row, first column, column behind the last; in this order."""
        end = start[self.following]
        down = end[:, 1] > start[:, 1]
        upper, lower = np.where(down[:, None], start, end), np.where(down[:, None], end, start)
        top, bottom = (np.clip(_first_centre(place[:, 1]), 0, side) for place in (upper, lower))
        count = bottom - top
        edge = np.repeat(np.arange(len(count)), count)
        row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + top[edge]
        height, width = (lower - upper)[edge, 1], (lower - upper)[edge, 0]
        along = upper[edge, 0] * height + width * (row * FINE + FINE // 2 - upper[edge, 1])  # where it crosses, times height
        column = np.clip(-((FINE // 2 * height - along) // (FINE * height)), 0, side)
        order = np.argsort((self.owner[edge] * side + row) * (side + 1) + column, kind="stable")
        kept = ((end - start) * (self.points[self.following] - self.points)).sum(1)
        turn = np.where(np.bincount(self.owner, kept, self.count) > 0, self.turn, 0)
        winding = np.cumsum((np.where(down, -1, 1) * turn[self.owner])[edge][order])
        inside = winding > 0
        before = np.concatenate([[False], inside[:-1]])
        opens, closes = order[inside & ~before], order[before & ~inside]
        some = column[opens] < column[closes]
        opens, closes = opens[some], closes[some]
        return self.owner[edge][opens], row[opens], column[opens], column[closes]


def _rounded(points: Points) -> Whole:
    whole: Whole = np.rint(points * FINE).astype(np.int64)
    return whole


def _first_centre(place: Whole) -> Whole:
    """The first pixel whose centre is not before a coordinate."""
    first: Whole = -((FINE // 2 - place) // FINE)
    return first
