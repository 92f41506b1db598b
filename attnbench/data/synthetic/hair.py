"""Hair, and what is worn in it; in head units."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from attnbench.data.synthetic.clothes import bow
from attnbench.data.synthetic.colours import ACCESSORY, HAIR, INK, WHITE
from attnbench.data.synthetic.dice import Dice
from attnbench.data.synthetic.shapes import CIRCLE, Corner, Point, Points, Shape, bent, both, ellipse, flat, shaded, stroke


@dataclass(frozen=True)
class Hair:
    """Shapes behind the head, the fringe before the face, and what is worn on it."""

    behind: list[Shape]
    fringe: Shape
    worn: list[Shape]


def hair(dice: Dice, accessory: bool) -> Hair:
    """Loose or tied hair with a fringe, and at least one thing in the accessory's colour, or none."""
    tied = dice.chance(0.5)
    behind = [_curtain(dice), *(_tied(dice, accessory) if tied else [])]
    fringe, worn = _fringe(dice), _worn(dice, hats=not tied)
    if not accessory:
        return Hair(behind, fringe, [])
    if dice.chance(0.25):
        hoop = Shape(ACCESSORY, bent((-1.25, -0.3, 0.44), (1.25, -0.3, -0.33)))
        return Hair(behind, replace(fringe, inside=(*fringe.inside, hoop)), _flower(dice.side()) if tied else [])
    return Hair(behind, fringe, worn)


def _curtain(dice: Dice) -> Shape:
    """What hangs behind the head: short, to the chin, or past the shoulders."""
    bottom = dice.pick((0.5, dice.between(0.95, 1.4), dice.between(2.0, 3.6)))
    half = dice.between(1.05, 1.2) + 0.15 * bottom * dice.between(0.2, 1)
    outline = bent((-half, bottom, 0.06), (-1.15, -0.3, 0.2), (0, -1.35, 0.2), (1.15, -0.3, 0.06), (half, bottom, 0.08))
    folds = both(stroke((0.9, 0.5), (half - 0.2, bottom - 0.25), -0.03, 0.03)) if bottom > 0.5 else []
    return shaded(HAIR, outline, *flat(HAIR, folds, INK, 0.7))


def _tied(dice: Dice, ribbons: bool) -> list[Shape]:
    """Twin tails, two buns, one bun, or a tail at one side."""
    make = dice.pick((_twin_tails, _two_buns, _one_bun, _side_tail))
    shapes = make(dice)
    return shapes if ribbons else [shape for shape in shapes if shape.part == HAIR]


def _tail(dice: Dice) -> Points:
    length, spread = dice.between(1.2, 2.2), dice.between(0, 0.35)
    return bent((0.85, -0.9, 0.2), (1.6 + spread, -0.1, 0.12), (1.3 + spread, length, 0.02), (1.2, 0.1, -0.1))


def _twin_tails(dice: Dice) -> list[Shape]:
    ties = flat(ACCESSORY, both(ellipse(1, -0.8, 0.22, 0.22)), line=1)
    return [*(shaded(HAIR, outline) for outline in both(_tail(dice))), *ties]


def _side_tail(dice: Dice) -> list[Shape]:
    mirror = np.array([dice.side(), 1])
    return [shaded(HAIR, _tail(dice) * mirror), Shape(ACCESSORY, ellipse(1, -0.8, 0.26, 0.26) * mirror)]


def _two_buns(dice: Dice) -> list[Shape]:
    bun = dice.between(0.34, 0.46)
    return [shaded(HAIR, outline) for outline in both(ellipse(0.9, -1.2, bun, bun))]


def _one_bun(dice: Dice) -> list[Shape]:
    bun = dice.between(0.34, 0.46)
    return [shaded(HAIR, ellipse(0.1, -1.5, bun, 0.9 * bun)), Shape(ACCESSORY, ellipse(0.1, -1.32, 0.42, 0.16))]


def _worn(dice: Dice, *, hats: bool) -> list[Shape]:
    """A bow, a flower, clips or, where no tied hair takes its room, a beret, a cap, a wide hat or ears of a cat with a bow."""
    side = dice.side()
    small = [bow(ACCESSORY, 0.7 * side, -1.0, 0.5), _flower(side), _clips(side)]
    return dice.pick([*small, _beret(side), _cap_with_peak(side), _wide_hat(), _cat_ears(side)] if hats else small)


def _flower(side: int) -> list[Shape]:
    petals = [ellipse(0.8 * side, -0.75, 0.17, 0.17) + 0.22 * CIRCLE[i] for i in (0, 8, 16, 24, 32)]
    return [*flat(ACCESSORY, petals, line=1), Shape(ACCESSORY, ellipse(0.8 * side, -0.75, 0.12, 0.12), WHITE, 0.5)]


def _clips(side: int) -> list[Shape]:
    clips = [stroke((0.42, y), (0.95, y + 0.22), 0.13, 0.26) * np.array([side, 1]) for y in (-0.75, -0.5)]
    return flat(ACCESSORY, clips, line=1)


def _beret(side: int) -> list[Shape]:
    outline = bent((-1, -0.95, 0.3), (0.2, -1.75, 0.2), (1.35, -1.05, 0.3), (1, -0.75, 0.12)) * np.array([side, 1])
    return [shaded(ACCESSORY, outline, depth=0.14)]


def _cap_with_peak(side: int) -> list[Shape]:
    crown = bent((-1.2, -0.62, 0.3), (0, -1.6, 0.3), (1.2, -0.62, 0.02))
    peak = bent((-0.2, -0.66, 0.06), (1.5, -0.78, 0.12), (1.3, -0.5, 0.1)) * np.array([side, 1])
    return [shaded(ACCESSORY, crown, depth=0.14), shaded(ACCESSORY, peak, depth=0.05)]


def _wide_hat() -> list[Shape]:
    brim, crown = (
        ellipse(0, -0.72, 1.75, 0.32),
        bent((-0.95, -0.8, 0.12), (-0.7, -1.7, 0.15), (0.7, -1.7, 0.12), (0.95, -0.8, 0.1)),
    )
    ribbon = bent((-1.2, -1.08, -0.06), (1.2, -1.08, 0), (1.2, -0.84, 0.06), (-1.2, -0.84, 0))
    return [shaded(ACCESSORY, brim, depth=0.06), shaded(ACCESSORY, crown, *flat(ACCESSORY, [ribbon], WHITE, 0.5), depth=0.14)]


def _cat_ears(side: int) -> list[Shape]:
    ears = both(bent((0.3, -1.15, 0.05), (0.95, -1.85, 0.1), (1.08, -0.75, 0)))
    return [*(shaded(HAIR, ear) for ear in ears), *bow(ACCESSORY, 0.75 * side, -1.0, 0.42)]


def _fringe(dice: Dice) -> Shape:
    """The cap of hair over the skull with its fringe and the locks beside the cheeks."""
    parting = dice.between(-0.45, 0.45)
    edge, roots = _fringe_edge(dice, parting)
    reach = dice.pick((dice.between(0.3, 0.6), dice.between(0.8, 1.6)))
    right: list[Corner] = [(1.18, -0.2, 0.06), (1.0, reach + dice.between(-0.08, 0.08), 0.03)]
    left: list[Corner] = [(-1.0, reach + dice.between(-0.08, 0.08), 0.06), (-1.18, -0.2, 0)]
    outline = np.concatenate([_cap(dice), bent(*right, *edge, *left, closed=False)])
    strands = [stroke((x, y), (0.75 * x + 0.25 * parting, y - 0.35), 0.08 if x > 0 else -0.08, 0.06) for x, y in roots]
    shine = Shape(HAIR, stroke((-0.7, -0.68), (0.6, -0.75), 0.22, 0.08), WHITE, 0.45, line=0)
    return shaded(HAIR, outline, shine, *flat(HAIR, strands, INK, 0.7))


def _fringe_edge(dice: Dice, parting: float) -> tuple[list[Corner], list[Point]]:
    """The fringe's lower edge, from the right temple to the left one, and where on it strands of hair begin."""
    style = dice.pick(("parted", "straight", "jagged", "swept", "over one eye"))
    if style == "parted":
        return [(0.84, -0.05, 0.1), (parting, -0.95, 0.1), (-0.84, -0.05, 0)], [(parting, -0.95)]
    if style == "straight":
        return [(0.84, -0.16, 0.04), (-0.84, -0.16, 0)], [(-0.5, -0.2), (-0.1, -0.18), (0.3, -0.18)]
    if style == "over one eye":
        lock: list[Corner] = [(0.84, 0.62, 0.08), (0.3, -0.2, 0.05), (-0.2, -0.72, 0.1), (-0.84, -0.1, 0)]
        return (lock if dice.chance(0.5) else _mirrored(lock)), [(0.1, -0.55)]
    count = 2 * dice.pick((3, 4, 5)) + 1
    slope = 0.0 if style == "jagged" else 0.22 * dice.side()
    edge: list[Corner] = []
    for i in range(count):
        x, tip = 0.84 - 1.68 * i / (count - 1), i % 2 == 1
        y = (dice.between(-0.19, -0.07) if tip else -0.42) + slope * x
        edge.append((0.83 * x + 0.17 * parting if tip else x, y, 0.06))
    return edge, [(x, y) for x, y, _ in edge[2:-1:2]]


def _mirrored(path: list[Corner]) -> list[Corner]:
    """The same path on the other side, still from the right to the left: each bend belongs to the edge that starts there."""
    bends = [bend for _, _, bend in path]
    turned = zip(path[::-1], [*bends[-2::-1], 0.0], strict=True)
    return [(-x, y, bend) for (x, y, _), bend in turned]


def _cap(dice: Dice) -> Points:
    """The outer edge of the hair over the skull, from the left over the top to the right: sleek or tousled."""
    if dice.chance(0.65):
        return bent((-1.18, -0.2, 0.207), (0, -1.44, 0.207), (1.18, -0.2, 0), closed=False)
    rim = CIRCLE[[20, 22, 24, 26, 28, 29, 31, 32, 34, 36, 38, 0]]  # the upper half
    radius = [dice.between(1.3, 1.5) if i % 2 else 1.2 for i in range(len(rim))]
    tufts = [(float(r * x), float(r * y - 0.2), 0.08) for r, (x, y) in zip(radius, rim, strict=True)]
    return bent(*tufts, closed=False)
