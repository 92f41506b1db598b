"""How a head is placed and turned, which parts it shows, and how it is drawn: what the difficulty grades."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attnbench.data.synthetic.dice import Dice
from attnbench.data.synthetic.shapes import Points

DIFFICULTIES = range(1, 5)
_WIDTH, _HEIGHT = 1.25, 1.6  # of what turns, in head units: beyond, nothing moves


@dataclass(frozen=True)
class Pose:
    """Where a head is and how it is turned.

    Attributes:
        scale: of a head unit, as a share of the picture's side.
        centre: of the face, in the picture.
        tilt, lean: of head and body, as the tangent of half the angle.
        turn, nod: how far the middle of the face moves sideways and down, in head units.
        arm: the side of a raised arm, -1 or 1; 0 for none.
    """

    scale: float
    centre: Points
    tilt: float
    lean: float
    turn: float
    nod: float
    arm: int

    def turned(self, points: Points) -> Points:
        """Points on the front of a head that turns: the middle moves, the outline stays."""
        x, y = points.T
        across = np.maximum(1 - (x / _WIDTH) ** 2, 0)
        along = np.maximum(1 - (y / _HEIGHT) ** 2, 0)
        return np.column_stack([x + self.turn * across, y + self.nod * along])

    def placed(self, points: Points) -> Points:
        """From head units to the picture."""
        return _rotated(points, self.tilt) * self.scale + self.centre

    def placed_body(self, points: Points) -> Points:
        return _rotated(points, self.lean) * self.scale + self.centre


@dataclass(frozen=True)
class Shown:
    """Which of the parts that a head can lack it has; whether its eyes are open."""

    trim: bool = True
    accessory: bool = True
    eyes: bool = True
    thing: bool = False


@dataclass(frozen=True)
class Style:
    """How a head is drawn.

    Attributes:
        line: width of outlines, relative to the usual one.
        ink: how much of an outline is ink, and not the colour that it bounds.
        shade, gloss: strength of shade and of highlights, relative to the usual ones.
        eyes, body: their sizes, relative to the usual ones.
    """

    line: float = 1.0
    ink: float = 1.0
    shade: float = 1.0
    gloss: float = 1.0
    eyes: float = 1.0
    body: float = 1.0


CEL = Style()
STYLES = (
    CEL,
    Style(line=2.0, shade=0, gloss=0, eyes=0.9, body=1.1),  # a poster: bold lines, flat colours
    Style(line=0.7, ink=0.55, shade=0.55, gloss=1.4, eyes=1.05),  # pastel: thin lines in the colours' own tones
    Style(line=1.5, shade=1.5, gloss=0.6, eyes=1.18, body=0.72),  # a large head on a small body
    Style(line=0.9, shade=1.3, eyes=0.78, body=1.3),  # a small head, nearer to life
)


def pose_of(dice: Dice, difficulty: int) -> Pose:
    """1: seen from the front, anywhere in the picture, tilted a little; from 2 on turned, nodding, leaning, far or near."""
    free = difficulty >= 2
    scale = dice.between(0.15, 0.31) if free else dice.between(0.18, 0.26)
    roam = 0.16 if free else 0.14
    x, y = 0.5 + dice.between(-roam, roam), 0.47 + dice.between(-0.8 * roam, 0.8 * roam)
    return Pose(
        scale=scale,
        centre=np.array([x, min(y, 0.99 - 1.9 * scale)]),  # clothes are always in the picture
        tilt=dice.between(-0.22, 0.22) if free else dice.between(-0.12, 0.12),
        lean=dice.between(-0.1, 0.1) if free else 0.0,
        turn=dice.between(0.1, 0.38) * dice.side() if free else dice.between(-0.12, 0.12),
        nod=dice.between(-0.14, 0.14) if free else 0.0,
        arm=dice.pick((-1, 0, 0, 1)) if free else 0,
    )


def shown_of(dice: Dice, difficulty: int) -> Shown:
    """Up to 2 every head has the same parts; from 3 on one has what the other has not."""
    if difficulty < 3:
        return Shown()
    return Shown(trim=dice.chance(0.6), accessory=dice.chance(0.5), eyes=dice.chance(0.8), thing=dice.chance(0.5))


def style_of(dice: Dice, difficulty: int) -> Style:
    return dice.pick(STYLES) if difficulty >= 4 else CEL


def _rotated(points: Points, half: float) -> Points:
    """By twice the angle whose tangent is `half`: sine and cosine without trigonometry."""
    x, y = points.T
    cosine, sine = (1 - half**2) / (1 + half**2), 2 * half / (1 + half**2)
    return np.column_stack([cosine * x - sine * y, sine * x + cosine * y])
