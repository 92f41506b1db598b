"""Ears, face, eyes, nose and mouth; in head units."""

from __future__ import annotations

import numpy as np

from attnbench.data.synthetic.colours import EYES, HAIR, INK, PINK, SHADOW, SKIN, WHITE
from attnbench.data.synthetic.dice import Dice
from attnbench.data.synthetic.shapes import SIDES, Points, Shape, bent, both, drawn, ellipse, flat, shaded, smooth, stroke


def face(dice: Dice, fringe: Points, *, eyes_open: bool, eye_size: float) -> list[Shape]:
    """A face that looks ahead, in the shade of `fringe`."""
    jaw, chin = dice.between(0.5, 0.68), dice.between(1.08, 1.25)
    right, left = [(0.98, -0.1), (0.9, 0.45), (jaw, 0.9)], [(-jaw, 0.9), (-0.9, 0.45), (-0.98, -0.1)]
    contour = smooth((0, -1.1), (0.8, -0.8), *right, (0, chin), *left, (-0.8, -0.8))
    blush = flat(SKIN, (ellipse(0.6 * side, 0.62, 0.17, 0.09) for side in SIDES), PINK, 0.35)
    cast = Shape(SKIN, fringe + np.array([0.03, 0.1]), PINK, 0.22, line=0)
    ears = [shaded(SKIN, ear, depth=0.06) for ear in both(ellipse(0.98, 0.2, 0.16, 0.24))]
    nose = Shape(SKIN, stroke((-0.03, 0.56), (0.05, 0.56), -0.2, 0.1), INK, 0.7, line=0.4)
    eyes = _open_eyes(dice, eye_size) if eyes_open else _closed_eyes(dice)
    return [*ears, Shape(SKIN, contour, inside=(*blush, cast)), nose, _mouth(dice), *eyes]


def _mouth(dice: Dice) -> Shape:
    y, half = dice.between(0.78, 0.84), dice.between(0.1, 0.2)
    mouths = (
        Shape(SKIN, stroke((-half, y), (half, y), -0.2, 0.06), INK, 0.9, line=0.5),  # a smile
        Shape(SKIN, stroke((-half, y), (half, y - 0.03), -0.04, 0.06), INK, 0.9, line=0.5),  # calm
        Shape(SKIN, stroke((-half, y + 0.04), (half, y + 0.04), 0.18, 0.06), INK, 0.9, line=0.5),  # sad
        Shape(SKIN, bent((-half, y, -0.05), (half, y, 0.45)), PINK, 0.8, line=0.8),  # laughing
        Shape(SKIN, ellipse(0, y + 0.02, 0.07, 0.08), PINK, 0.8, line=0.8),  # surprised
        Shape(SKIN, ellipse(0, y + 0.04, 0.13, 0.15), PINK, 0.8, line=0.8),  # singing
    )
    return dice.pick(mouths)


def _brow(dice: Dice) -> tuple[float, float]:
    """How far brows are lifted, and by how much their outer ends are higher."""
    return dice.between(0, 0.1), dice.between(-0.1, 0.1)


def _open_eyes(dice: Dice, size: float) -> list[Shape]:
    width, height = size * dice.between(0.25, 0.29), size * dice.between(0.25, 0.31)
    apart, slant, gaze = dice.between(0.44, 0.49), dice.between(-0.08, 0.1), dice.between(-0.05, 0.05)
    lift, arch = _brow(dice)
    w, h = width, height
    lid = [(-w, 0.06), (-0.55 * w, -0.8 * h), (0.4 * w, -h), (w, -0.25 * h - slant)]
    white = smooth(*lid, (0.7 * w, 0.75 * h), (0, h), (-0.7 * w, 0.75 * h))
    lash = smooth(*lid, (1.25 * w, -0.4 * h - slant), (0.5 * w, -1.25 * h), (-0.6 * w, -1.02 * h))
    brow = stroke((-0.9 * w, -0.45 - lift - arch), (w, -0.45 - lift + arch), 0.14, 0.1)
    shapes: list[Shape] = []
    for side in SIDES:
        place, mirror = np.array([side * apart, 0.24]), np.array([side, 1])
        iris = _iris(place[0] + gaze, place[1] + 0.02, 0.76 * w, 0.97 * h)
        shapes.append(Shape(SKIN, white * mirror + place, WHITE, 0.95, line=0.5, inside=(iris,)))
        shapes += drawn(SKIN, [lash * mirror + place])
        shapes.append(Shape(HAIR, brow * mirror + place, INK, 0.35, line=0.5))
    return shapes


def _closed_eyes(dice: Dice) -> list[Shape]:
    """Arcs: up for a laugh, down for sleep."""
    bend, apart = dice.pick((0.3, -0.3)), dice.between(0.44, 0.49)
    lift, arch = _brow(dice)
    arcs = [stroke((side * apart - 0.24, 0.26), (side * apart + 0.24, 0.26), bend, bend / 3) for side in SIDES]
    brows = [stroke((-0.22, -0.4 - lift - arch), (0.25, -0.4 - lift + arch), 0.14, 0.1) * np.array([s, 1]) for s in SIDES]
    placed = [brow + np.array([side * apart, 0]) for side, brow in zip(SIDES, brows, strict=True)]
    return [*drawn(SKIN, arcs, 2), *(Shape(HAIR, brow, INK, 0.35, line=0.5) for brow in placed)]


def _iris(x: float, y: float, rx: float, ry: float) -> Shape:
    lid_shade = Shape(EYES, ellipse(x, y - 1.1 * ry, 1.2 * rx, 0.6 * ry), SHADOW, 0.45, line=0)
    pupil = Shape(EYES, ellipse(x, y + 0.05 * ry, 0.3 * rx, 0.36 * ry), INK, 0.85, line=0)
    gleam = Shape(EYES, ellipse(x, y + 0.75 * ry, 0.45 * rx, 0.16 * ry), WHITE, 0.4, line=0)
    glint = Shape(EYES, ellipse(x - 0.4 * rx, y - 0.4 * ry, 0.3 * rx, 0.26 * ry), WHITE, 1, line=0)
    return Shape(EYES, ellipse(x, y, rx, ry), line=0.6, inside=(lid_shade, pupil, gleam, glint))
