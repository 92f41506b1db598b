"""What is behind a head, and the things in front of it."""

from __future__ import annotations

import numpy as np

from attnbench.data.synthetic.colours import BACKGROUND, INK, SHADOW, THING, WHITE
from attnbench.data.synthetic.dice import Dice
from attnbench.data.synthetic.shapes import CIRCLE, Points, Shape, band, bent, drawn, ellipse, flat, shaded, stroke

_MOTIFS = ("plain", "moon", "hills", "stripes", "dots", "stars", "window", "skyline", "rays")


def backdrop(dice: Dice) -> list[Shape]:
    """A wall, plain or with a pale motif, in the picture's coordinates."""
    wall = Shape(BACKGROUND, np.array([(0, 0), (1, 0), (1, 1), (0, 1)], float), line=0)
    return [wall, *_motif(dice, dice.pick(_MOTIFS))]


def _motif(dice: Dice, style: str) -> list[Shape]:
    x, y, step = dice.between(0.3, 0.7), dice.between(0.3, 0.5), dice.between(0.18, 0.26)
    pale: list[Points] = []
    if style == "moon":
        pale = [ellipse(x, y, 0.36, 0.36)]
    elif style == "hills":
        pale = [bent((-0.1, y + 0.2, 0.1), (0.6, y + 0.3, 0.15), (1.1, y, 0), (1.1, 1.1, 0), (-0.1, 1.1, 0))]
    elif style == "stripes":
        starts = np.arange(0, 2, step)
        pale = [np.array([(u, 0), (u + step / 2, 0), (u + step / 2 - 1, 1), (u - 1, 1)]) for u in starts]
    elif style == "window":
        return _window(x)
    elif style == "skyline":
        return _skyline(dice)
    elif style == "rays":
        pale = _rays(dice, x, y)
    elif style in ("dots", "stars"):
        star = bent((0, -0.05, -0.2), (0.04, 0, -0.2), (0, 0.05, -0.2), (-0.04, 0, -0.2))
        spot = star if style == "stars" else CIRCLE * step / 6
        rows = range(round(1 / step) + 1)
        pale = [spot + np.array([i + j % 2 / 2, 0.4 + 0.8 * j]) * step for j in rows for i in rows]
    return flat(BACKGROUND, pale, WHITE, 0.35)


def _window(x: float) -> list[Shape]:
    """A window with four panes."""
    frame = np.array([(x - 0.3, 0.08), (x + 0.3, 0.08), (x + 0.3, 0.7), (x - 0.3, 0.7)])
    panes = [(x + dx, y) for dx in (-0.26, 0.02) for y in (0.12, 0.41)]
    glass = [np.array([(u, v), (u + 0.24, v), (u + 0.24, v + 0.25), (u, v + 0.25)]) for u, v in panes]
    return [Shape(BACKGROUND, frame, SHADOW, 0.16, line=0.8), *flat(BACKGROUND, glass, WHITE, 0.5, line=0.5)]


def _skyline(dice: Dice) -> list[Shape]:
    """Houses along the horizon."""
    houses = []
    left = -0.05
    while left < 1:
        width, top = dice.between(0.1, 0.2), dice.between(0.35, 0.7)
        houses.append(np.array([(left, top), (left + width, top), (left + width, 1.1), (left, 1.1)]))
        left += width
    return flat(BACKGROUND, houses, SHADOW, 0.14, line=0.4)


def _rays(dice: Dice, x: float, y: float) -> list[Points]:
    """Wedges from one point outwards, along the sides of a square around it."""
    count = dice.pick((8, 10, 12))
    corners = np.array([(-2, -2), (2, -2), (2, 2), (-2, 2)], float)

    def rim(place: float) -> Points:
        side, along = int(place) % 4, place - int(place)
        point: Points = corners[side] + along * (corners[(side + 1) % 4] - corners[side])
        return point

    return [np.array([(0, 0), rim(4 * i / count), rim(4 * (i + 0.5) / count)]) + np.array([x, y]) for i in range(count)]


def thing(dice: Dice) -> list[Shape]:
    """A balloon, a cup, a toy cat or a book, in front of the head or the body; in head units."""
    make = dice.pick((_balloon, _cup, _toy, _book))
    side = dice.side()
    return make(side, dice)


def _balloon(side: int, dice: Dice) -> list[Shape]:
    x, y, size = side * dice.between(1.2, 1.7), dice.between(-0.9, 0), dice.between(0.55, 0.75)
    string = band(bent((x, y + size, 0.1), (0.7 * x, 2.6, 0), closed=False), 0.05)
    gleam = Shape(THING, ellipse(x - 0.4 * size, y - 0.4 * size, 0.16 * size, 0.22 * size), WHITE, 0.6, line=0)
    knot = np.array([(x, y + 1.02 * size), (x + 0.1, y + 1.2 * size), (x - 0.1, y + 1.2 * size)])
    ball = shaded(THING, ellipse(x, y, 0.88 * size, 1.08 * size), gleam, depth=0.16)
    return [Shape(THING, string, INK, 0.5, line=0), Shape(THING, knot), ball]


def _cup(side: int, dice: Dice) -> list[Shape]:
    x, y = side * dice.between(0.1, 0.6), dice.between(1.35, 1.6)
    mug = bent((x - 0.42, y, -0.03), (x + 0.42, y, 0.03), (x + 0.36, y + 0.85, 0.06), (x - 0.36, y + 0.85, 0.03))
    handle = ellipse(x + 0.5 * side, y + 0.42, 0.24, 0.28)
    hole = Shape(THING, ellipse(x + 0.5 * side, y + 0.42, 0.12, 0.16), INK, 0.4, line=0.5)
    stripe = bent((x - 0.6, y + 0.3, -0.02), (x + 0.6, y + 0.3, 0), (x + 0.6, y + 0.5, 0.02), (x - 0.6, y + 0.5, 0))
    return [Shape(THING, handle, inside=(hole,)), shaded(THING, mug, *flat(THING, [stripe], WHITE, 0.45), depth=0.12)]


def _toy(side: int, dice: Dice) -> list[Shape]:
    x, y, size = side * dice.between(0.9, 1.3), dice.between(1.3, 1.7), dice.between(0.55, 0.75)
    place = np.array([x, y])

    def at(*outlines: Points) -> list[Points]:
        return [outline * size + place for outline in outlines]

    ear = bent((0.25, -0.7, 0.05), (0.85, -1.25, 0.05), (0.9, -0.3, 0))
    ears = [Shape(THING, outline) for outline in at(ear, ear * np.array([-1, 1]))]
    eyes = flat(THING, at(ellipse(-0.35, 0, 0.12, 0.16), ellipse(0.35, 0, 0.12, 0.16)), INK, 0.9)
    muzzle = drawn(THING, at(stroke((-0.2, 0.32), (0, 0.3), -0.3, 0.3), stroke((0, 0.3), (0.2, 0.32), -0.3, 0.3)))
    body, head = at(ellipse(0, 1.2, 0.8, 0.75), ellipse(0, 0, 1, 0.8))
    return [shaded(THING, body), *ears, shaded(THING, head, *eyes, *muzzle, depth=0.12)]


def _book(side: int, dice: Dice) -> list[Shape]:
    y, tilt = dice.between(1.3, 1.6), 0.12 * side
    cover = np.array([(-0.75, y - tilt), (0.75, y + tilt), (0.75, y + 1.1 + tilt), (-0.75, y + 1.1 - tilt)])
    spine = np.array([(-0.06, y), (0.06, y), (0.06, y + 1.1), (-0.06, y + 1.1)])
    label = np.array([(0.2, y + 0.3), (0.6, y + 0.32), (0.6, y + 0.6), (0.2, y + 0.58)])
    marks = [*flat(THING, [spine], SHADOW, 0.35, line=0.5), *flat(THING, [label], WHITE, 0.6, line=0.5)]
    return [shaded(THING, cover, *marks, depth=0.08)]
