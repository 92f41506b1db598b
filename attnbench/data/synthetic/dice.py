"""Random numbers that are the same on every machine, with every Python and every NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TypeVar

Item = TypeVar("Item")


class Dice:
    """Independent draws for each name; Python promises that `Random.random` gives the same numbers in all its versions.

    Args:
        names: what the numbers are for: a seed, an index, an aspect of the drawing.
    """

    def __init__(self, *names: object):
        self._random = Random("/".join(map(str, names))).random

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self._random()

    def chance(self, probability: float) -> bool:
        return self._random() < probability

    def pick(self, items: Sequence[Item]) -> Item:
        return items[int(len(items) * self._random())]

    def side(self) -> int:
        """-1 or 1: left or right."""
        return self.pick((-1, 1))

    def shuffled(self, items: Sequence[Item]) -> list[Item]:
        """Fisher and Yates."""
        found = list(items)
        for last in range(len(found) - 1, 0, -1):
            other = int((last + 1) * self._random())
            found[last], found[other] = found[other], found[last]
        return found
