"""Whether an attention map looks where it should: the percentage of correct keypoints (PCK), with a known warp as the truth.

PCK as in Yang and Ramanan, "Articulated Human Detection with Flexible Mixtures of Parts", PAMI 2013, relative to the picture's
side, over all positions of the sketch instead of annotated ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from attnbench.metrics.guesses import best_share, guesses_of, share_of_moved, trivial_shares
from attnbench.metrics.metric import Score
from attnbench.metrics.pictures import Pictures
from attnbench.metrics.true_places import MAXIMUM, WAYS, checked, correct, title_of


class PCK:
    """Share of the sketch's positions whose attention falls within alpha of the true place, in percent; in [0, 100].

    The reference is the sketch's own original under a known warp (`references: same`), so the true place is known on any image.
    Measured at the resolution of the map, of positions that the reference shows; of several maps between sketch and reference,
    the finest counts, and of equally fine ones the first. It sees where a module looks, not what it makes of it, and nothing of
    a module that shows no map: see `marked_pck`.

    Recorded with it: the shares of both ways and both usual alphas; `trivial`, what guesses score that do not depend on the
    reference: anywhere, the middle, the position's own place, which a mild warp leaves near, and the best one place for all
    pictures; `chance`, the best of these; `moved`, the share found of positions whose own place is wrong, since the warp has
    moved them farther than alpha; `ceiling`, what a map of this resolution can reach: the middle of a coarse cell may be
    farther than alpha from every place that the cell holds.

    Args:
        alpha: the largest distance that counts as right, as a share of the picture's side.
        at: maximum or mean of a position's attention.
    """

    unit, decimals, lower_is_better, per_image = "%", 1, False, True
    range, uses, ceiling_is = (0, 100), ("shows", "maps"), "what a map of this resolution can reach"

    def __init__(self, *, alpha: float = 0.1, at: str = MAXIMUM):
        self.alpha, self.at = checked(alpha, at)

    @property
    def title(self) -> str:
        return title_of("PCK", self.alpha, self.at)

    def measure(self, pictures: Pictures) -> Score:
        guesses = guesses_of(pictures)
        errors = {way: [one.errors(one.guess(way)) for one in guesses] for way in WAYS}
        trivial = {way: round(100 * float(share[0]), 2) for way, share in trivial_shares(guesses, [self.alpha]).items()}
        details: dict[str, Any] = {
            **correct(errors),
            "chance": max(trivial.values()),
            "trivial": trivial,
            "moved": share_of_moved(guesses, self.alpha, self.at),
            "map": guesses[0].name,
            "grid": f"{guesses[0].side} x {guesses[0].side} to {guesses[0].other_side} x {guesses[0].other_side}",
            "shown": round(100 * float(np.mean([one.shown for one in guesses])), 1),
        }
        if self.at == MAXIMUM:
            details["ceiling"] = round(100 * best_share(guesses, self.alpha), 2)
        return Score(np.array([100 * (error <= self.alpha).mean() for error in errors[self.at]]), details)
