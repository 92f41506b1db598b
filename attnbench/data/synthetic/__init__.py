"""The built-in data set `synthetic`: cartoon heads drawn by attnbench, with the right answer to every sketch and reference.

Each head is a list of polygons in layers (wall, hair behind, body, face, hair in front, things), each of which belongs to one
named part. The list is turned into pixels once, as numbers of shapes; looked up in a palette they are a picture, looked up in
the parts a part map. That gives what photographs of artwork cannot: the exact picture that a sketch should become when it takes
its colours from another head (`draw` with that head's palette), and the exact region in which to look for each colour.

Everything is a pure function of its arguments, the same bytes on every machine: random numbers are those that Python promises
(`dice`), and pixels are found in whole numbers (`raster`). Poses, shapes and colours come from separate random numbers, so a
head keeps its shape whatever its colours. Coordinates have y pointing down. In head units the face is centred on the origin and
about 1 in radius: eyes at y = 0.24, chin near 1.15, top of the hair at -1.44, shoulders below 2.

    difficulty  heads of a data set differ in ...
    1           place, size and a slight tilt, hair, clothes, accessories, expressions; all look ahead, and have the same parts
    2           also how far they turn, nod, lean; some wave; far ones and near ones
    3           also in which parts they have: trim, accessories, open eyes, a thing that hides what is behind it
    4           also in how they are drawn: lines, shade, proportions
"""

from __future__ import annotations

import operator
from dataclasses import astuple
from functools import lru_cache
from typing import SupportsIndex

import numpy as np
import numpy.typing as npt
from PIL import Image

from attnbench.data.synthetic.colours import PARTS, RGB, Palette, palette_of
from attnbench.data.synthetic.head import Head, head_of
from attnbench.data.synthetic.pose import DIFFICULTIES
from attnbench.data.synthetic.rendering import Rendering, rendered

VERSION = 2  # of the drawings: a change of any pixel is a new version, see tests/test_synthetic.py
MIN_SIZE, MAX_SIZE = 16, 4096

__all__ = ["DIFFICULTIES", "MAX_SIZE", "MIN_SIZE", "PARTS", "RGB", "VERSION", "Palette", "draw", "palette", "part_map"]


def palette(seed: int, index: int) -> Palette:
    """The colours of head `index`, whatever its difficulty; errors as of `draw`."""
    seed, index, _, _ = _checked(seed, index, MIN_SIZE, 1)
    return palette_of(seed, index)


def draw(seed: int, index: int, size: int, *, difficulty: int = 1, colors: Palette | None = None) -> Image.Image:
    """Head `index` as an RGB picture of `size` x `size`, in its own colours or in `colors`.

    ValueError if `size` is not in 16..4096, `difficulty` not in 1..4, or `seed` or `index` negative; TypeError if
    one of them is no whole number.
    """
    seed, index, size, difficulty = _checked(seed, index, size, difficulty)
    return _rendering(seed, index, size, difficulty).picture(astuple(colors or palette_of(seed, index)))


def part_map(seed: int, index: int, size: int, *, difficulty: int = 1) -> npt.NDArray[np.uint8]:
    """The part that each pixel of `draw` shows: (size, size), indices into `PARTS`; a line belongs to the part that it bounds.

    Iris and pupil are `eyes`, the white around them is `skin`, eyebrows are `hair`; collars and patterns are `trim`; hats,
    bows, flowers and ribbons are `accessory`; what is held or floats in front is `thing`. Errors as of `draw`.
    """
    seed, index, size, difficulty = _checked(seed, index, size, difficulty)
    return _rendering(seed, index, size, difficulty).parts()


def _checked(seed: int, index: int, size: int, difficulty: int) -> tuple[int, int, int, int]:
    """The four as Python's ints: random numbers go by how they are written, and 1.0 or True would draw another head than 1."""
    given = {"seed": seed, "index": index, "size": size, "difficulty": difficulty}
    seed, index, size, difficulty = (_whole(name, value) for name, value in given.items())
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must not be negative, got {seed} and {index}")
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise ValueError(f"size must be from {MIN_SIZE} to {MAX_SIZE}, got {size}")
    if difficulty not in DIFFICULTIES:
        raise ValueError(f"difficulty must be 1, 2, 3 or 4, got {difficulty}")
    return seed, index, size, difficulty


def _whole(name: str, value: SupportsIndex) -> int:
    try:
        return int(operator.index(value))
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {value!r}") from None


@lru_cache(maxsize=32)
def _head(seed: int, index: int, difficulty: int) -> Head:
    return head_of(seed, index, difficulty)


@lru_cache(maxsize=8)  # a head is often wanted again at once: its part map, its recolouring
def _rendering(seed: int, index: int, size: int, difficulty: int) -> Rendering:
    return rendered(_head(seed, index, difficulty), size)
