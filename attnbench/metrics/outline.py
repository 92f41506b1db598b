"""Whether the lines of the sketch are still there in the picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from attnbench.metrics.line_art import lines_in, sketch_lines
from attnbench.metrics.metric import Score
from attnbench.metrics.pictures import Pictures


class Outline:
    """F1 of the lines in a picture against those of its sketch, in percent; in [0, 100], 100 where all lines agree.

    The picture's lines are those that XDoG draws in it as the recipe draws its sketches. With one pixel's tolerance: a line's
    pixel counts as right if the other has a line there or on one of the eight pixels around. Precision is the share of the
    picture's line pixels that are right, recall that of the sketch's; F1 is their harmonic mean. Where neither has lines it is
    100, where only one has, 0.

    The paper takes SSIM for how well outlines are preserved; this looks at them. It sees lines that are lost, thinned, moved by
    more than a pixel, or made up. It sees no colours; and since XDoG fills what is dark, a dark area counts as lines: one that
    the sketch does not have costs precision, even if it has the right colour. Lines of another drawing lie near some by chance,
    and the more so the smaller the pictures are and the more lines they have.

    Recorded with it: the mean `precision` and `recall`; `floor`, what a picture scores that is one line all over; and where
    there are originals `ceiling`, what these score, drawn at the pictures' size: what is missing to 100 there, no colouring can
    be blamed for.
    """

    title, unit, decimals, lower_is_better, per_image = "outline F1", "%", 1, False, True
    range, uses = (0, 100), ("sketch", "draw")
    floor_is, ceiling_is = "a picture that is one line all over", "the sketches' own originals"

    def measure(self, pictures: Pictures) -> Score:
        wanted = sketch_lines(pictures)
        found = agreement(lines_in(pictures, pictures.generated), wanted)
        all_over = agreement(torch.ones_like(wanted), wanted)
        details: dict[str, Any] = {
            "precision": _mean(found.precision),
            "recall": _mean(found.recall),
            "floor": _mean(all_over.f1),
        }
        if "wanted" in pictures.available:
            details["ceiling"] = _mean(agreement(lines_in(pictures, pictures.wanted), wanted).f1)
        return Score(found.f1, details)


@dataclass(frozen=True)
class Agreement:
    """Of N pictures, in percent, (N,) each."""

    precision: np.ndarray
    recall: np.ndarray

    @property
    def f1(self) -> np.ndarray:
        together = self.precision + self.recall
        return 2 * self.precision * self.recall / np.where(together > 0, together, 1)


def agreement(found: Tensor, wanted: Tensor) -> Agreement:
    """How lines agree with those that should be there. Args: (N, S, S) bool both."""
    neither = (~(found | wanted)).all((1, 2)).numpy()
    shares = [_share_near(found, wanted), _share_near(wanted, found)]
    precision, recall = (np.where(neither, 100.0, share) for share in shares)
    return Agreement(precision, recall)


def _share_near(lines: Tensor, others: Tensor) -> np.ndarray:
    """(N,): the percentage of the lines' pixels that have one of the others within a pixel; 0 without lines."""
    near = F.max_pool2d(others[:, None].float(), 3, stride=1, padding=1)[:, 0] > 0  # dilated by one pixel
    right, count = (lines & near).sum((1, 2)).numpy(), lines.sum((1, 2)).numpy()
    return 100.0 * right / np.maximum(count, 1)


def _mean(values: np.ndarray) -> float:
    return round(float(values.mean()), 2)
