"""A head: all its shapes, from back to front, in the picture's coordinates (0 to 1), and the style they are drawn in."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from attnbench.data.synthetic.clothes import body, raised_arm
from attnbench.data.synthetic.dice import Dice
from attnbench.data.synthetic.face import face
from attnbench.data.synthetic.hair import hair
from attnbench.data.synthetic.pose import Style, pose_of, shown_of, style_of
from attnbench.data.synthetic.shapes import Points, Shape, reshaped
from attnbench.data.synthetic.surroundings import backdrop, thing


@dataclass(frozen=True)
class Head:
    """Shapes from back to front, and how they are drawn."""

    shapes: tuple[Shape, ...]
    style: Style


def head_of(seed: int, index: int, difficulty: int) -> Head:
    """The head, with random numbers of its own for each aspect: another pose changes no hair."""

    def dice(aspect: str) -> Dice:
        return Dice(aspect, seed, index)

    pose, shown = pose_of(dice("pose"), difficulty), shown_of(dice("shown"), difficulty)
    style = style_of(dice("style"), difficulty)
    own = hair(dice("hair"), shown.accessory)
    front = face(dice("face"), own.fringe.outline, eyes_open=shown.eyes, eye_size=style.eyes)
    torso = body(dice("clothes"), shown.trim)
    arm = raised_arm(pose.arm, dice("arm")) if pose.arm else []
    held = thing(dice("thing")) if shown.thing else []

    def with_body(points: Points) -> Points:
        """Shoulders grow or shrink about the neck."""
        neck = (0.0, 1.2)
        return pose.placed_body((points - neck) * style.body + neck)

    return Head(
        (
            *backdrop(dice("backdrop")),
            *_all(own.behind, pose.placed),
            *_all(torso, with_body),
            *_all([*front, own.fringe, *own.worn], lambda points: pose.placed(pose.turned(points))),
            *_all(arm, with_body),
            *_all(held, pose.placed_body),
        ),
        style,
    )


def _all(shapes: Iterable[Shape], change: Callable[[Points], Points]) -> list[Shape]:
    return [reshaped(shape, change) for shape in shapes]
