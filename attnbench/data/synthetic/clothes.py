"""Neck, clothes with their trim, and a raised arm; in head units."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attnbench.data.synthetic.colours import CLOTHES, INK, PINK, SKIN, TRIM
from attnbench.data.synthetic.dice import Dice
from attnbench.data.synthetic.shapes import (
    Corner,
    Points,
    Shape,
    band,
    bent,
    both,
    ellipse,
    flat,
    shaded,
    stroke,
)

_DIPS = {"turtleneck": 1.45, "shirt": 1.9, "sailor": 2.0, "round": 1.55, "trimmed": 1.75, "hood": 1.6, "scarf": 1.5}


def body(dice: Dice, trim: bool) -> list[Shape]:
    """Neck and clothes; only the neckline and what lies just below it is in the picture."""
    style = dice.pick(tuple(_DIPS) if trim else ("turtleneck", "round"))
    dip = _DIPS[style]
    width = dice.between(1.25, 1.6)
    neck = bent((-0.32, 0.5, 0), (0.32, 0.5, 0), (0.34, 1.35, -0.1), (0.7, 2.5, 0), (-0.7, 2.5, 0), (-0.34, 1.35, -0.1))
    neckline: list[Corner] = [(-0.42, 1.35, -0.08), (0, dip, -0.08), (0.42, 1.35, 0.12)]
    right: list[Corner] = [(width, 1.9, 0.05), (width + 0.45, 6, 0)]
    torso = bent((-width - 0.45, 6, 0.05), (-width, 1.9, 0.12), *neckline, *right)
    sleeves = flat(CLOTHES, both(stroke((0.72 * width, 2.1), (0.78 * width, 3.2), 0.05, 0.02)), INK, 1, line=1)
    always = style in ("turtleneck", "round", "hood")  # what has no trim of its own has a pattern, or a collar in its colour
    pattern = _pattern(dice, dip, plain=not trim, always=always)
    under_chin = Shape(SKIN, ellipse(0.05, 0.75, 0.8, 0.62), PINK, 0.3, line=0)
    hood = [shaded(CLOTHES, ellipse(0, 1.35, 0.95, 0.52))] if style == "hood" else []
    torso_shape = shaded(CLOTHES, torso, *pattern, *sleeves, depth=0.16)
    return [*hood, Shape(SKIN, neck, inside=(under_chin,)), torso_shape, *_collar(style, neckline)]


def _pattern(dice: Dice, dip: float, *, plain: bool, always: bool) -> list[Shape]:
    rows = (1.6, 2.0, 2.4, 2.8, 3.2, 3.6, 4.0)
    bands = [bent((-2.2, y, -0.02), (2.2, y, 0), (2.2, y + 0.18, 0.02), (-2.2, y + 0.18, 0)) for y in rows]
    checks = [np.array([(x, 0), (x + 0.2, 0), (x + 0.2, 6), (x, 6)]) for x in (-1.5, -0.9, -0.3, 0.3, 0.9, 1.5)]
    dots = [ellipse(0.5 * i - 1.75 + j % 2 / 4, dip + 0.3 + 0.45 * j, 0.11, 0.11) for j in range(7) for i in range(8)]
    braces = [band(np.array([(0.75, 1.3), (0.7, 6.0)]), 0.26), band(np.array([(-0.75, 1.3), (-0.7, 6.0)]), 0.26)]
    front = [np.array([(-0.3, 1.2), (0.3, 1.2), (0.3, 6), (-0.3, 6)])]
    pattern = dice.pick((bands, checks, dots, braces, front))
    wanted = always or dice.chance(0.35)
    return flat(TRIM, pattern, line=0.6 if pattern in (braces, front) else 0.4) if wanted and not plain else []


def _collar(style: str, neckline: Sequence[Corner]) -> list[Shape]:
    dip = neckline[1][1]
    if style == "turtleneck":
        return [shaded(CLOTHES, bent((-0.38, 1, -0.06), (0.38, 1, 0.05), (0.46, 1.5, 0.12), (-0.46, 1.5, 0.05)))]
    if style == "scarf":
        tail = shaded(TRIM, bent((0.15, 1.4, 0), (0.6, 1.4, 0.06), (0.75, 2.6, 0), (0.3, 2.7, 0)), depth=0.08)
        return [tail, shaded(TRIM, bent((-0.6, 1.05, -0.1), (0.6, 1.05, 0.2), (0.55, 1.55, 0.2), (-0.55, 1.55, 0.2)))]
    if style == "trimmed":
        trim = bent(*neckline[:2], (0.42, 1.35, 0), (0.62, 1.3, 0.08), (0, dip + 0.26, 0.08), (-0.62, 1.3, 0))
        return [Shape(TRIM, trim)]
    if style == "hood":
        return flat(TRIM, both(stroke((0.2, 1.56), (0.22, 2.2), 0.09, 0.18)), line=1)
    flaps = both(np.array([(-0.42, 1.2), (0, dip), (-0.38, dip + 0.36), (-0.95, 1.5)]))
    if style == "shirt":
        return flat(TRIM, flaps, line=1)
    if style == "sailor":
        return flat(TRIM, flaps, line=1) + bow(TRIM, 0, dip + 0.05, 0.4)
    return []


def bow(part: int, x: float, y: float, size: float) -> list[Shape]:
    loops = both(bent((0, 0, 0.1), (-1, 0.55, 0.15), (-1, -0.6, 0.1)) * size)
    wings = [shaded(part, loop + np.array([x, y]), depth=0.06) for loop in loops]
    return [*wings, Shape(part, ellipse(x, y, 0.28 * size, 0.3 * size))]


def raised_arm(side: int, dice: Dice) -> list[Shape]:
    """A sleeve from the shoulder upwards, and a waving hand."""
    x, y = dice.between(1.35, 1.75), dice.between(0.2, 0.9)
    hand = np.array([x, y])
    sleeve = bent((0.95, 2.9, 0.05), (1.15, 2.0, 0.03), (x - 0.22, y + 0.4, -0.05), (x + 0.26, y + 0.45, 0.05), (1.75, 2.9, 0))
    fingers = [stroke((0.1 * i, -0.05), (0.2 * i, -0.52 + 0.05 * i * i), 0.16, 0.32) + hand for i in (-1, 0, 1)]
    thumb = stroke((-0.1, 0.15), (-0.4, -0.1), 0.16, 0.32) + hand
    palm = ellipse(x, y + 0.12, 0.25, 0.3)
    mirror = np.array([side, 1])

    def mirrored(outline: Points) -> Points:
        return outline * mirror

    parts = [shaded(CLOTHES, mirrored(sleeve)), *flat(SKIN, map(mirrored, [*fingers, thumb]), line=0.8)]
    return [*parts, shaded(SKIN, mirrored(palm), depth=0.06)]
