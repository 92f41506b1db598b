"""Whether colours come from where they should: PCK of coloured marks in the reference, by where they appear in the picture."""

from __future__ import annotations

from typing import Any

from attnbench.metrics.marks import marks_of
from attnbench.metrics.metric import Score
from attnbench.metrics.pictures import Pictures
from attnbench.metrics.true_places import MAXIMUM, WAYS, checked, correct, title_of


class MarkedPCK:
    """Share of marks in the reference that appear within alpha of where they belong in the picture, in percent; in [0, 100].

    It needs pictures alone, so it measures any module, with or without an attention map, and any method: what comes out, not
    where a module looks. A method that adopts the colours of the reference as a whole makes no difference between the two
    pictures of a pair, and has no mark anywhere. Colours that are rare in the training images may be ignored by a network that
    transfers others: see `strength`.

    Recorded with it: the shares of both ways and both usual alphas; `strength`, how much of a mark's colour arrives where it
    belongs, in percent; `trivial`, what marks score that appear anywhere, in the middle, or, as where the reference is copied,
    in their own place; `chance`, the better of the first two; `moved`, the share of marks whose own place is wrong, so that a
    copy scores 0.

    Args:
        alpha: the largest distance that counts as right, as a share of the picture's side.
        at: maximum of the difference over an area of the mark's size, or mean of its positive part.
    """

    unit, decimals, lower_is_better, per_image = "%", 1, False, True
    range, uses = (0, 100), ("marks",)

    def __init__(self, *, alpha: float = 0.1, at: str = MAXIMUM):
        self.alpha, self.at = checked(alpha, at)

    @property
    def title(self) -> str:
        return f"{title_of('PCK', self.alpha, self.at)} of marks"

    def measure(self, pictures: Pictures) -> Score:
        marks = marks_of(pictures)
        errors = {way: marks.errors(way) for way in WAYS}
        trivial = {way: round(100 * float(share[0]), 2) for way, share in marks.trivial_shares([self.alpha]).items()}
        details: dict[str, Any] = {
            **correct({way: list(of_marks[:, None]) for way, of_marks in errors.items()}),
            "chance": max(trivial["anywhere"], trivial["the middle"]),
            "trivial": trivial,
            "moved": marks.share_of_moved(self.alpha, self.at),
            "strength": round(100 * float(marks.strengths.mean()), 2),
        }
        return Score(100.0 * (errors[self.at] <= self.alpha), details)
