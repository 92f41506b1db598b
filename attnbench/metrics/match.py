"""Whether parts have the right colours: the nearest of those that there are to choose from."""

from __future__ import annotations

from typing import Any

import numpy as np

from attnbench.metrics.metric import Score
from attnbench.metrics.parts import USES, difference, left_out, mean_colours, over_parts, over_pictures, regions_of
from attnbench.metrics.pictures import Pictures


class Match:
    """Share of a picture's parts that have the right one of its answer's colours, in percent; in [0, 100], 100 for the answer.

    Each part has one colour, the mean in CIELAB of its pixels that are no lines. It is right if, of the colours of all parts in
    the right answer, none is nearer to it, by CIEDE2000, than the part's own. So it sees whether colours went to where they
    belong, and neither how exactly they were hit nor where they end: see `ciede2000` and `bleed`. A reference dealt at random
    scores `chance`, which is recorded with it, as are the shares of each part.
    """

    title, unit, decimals, lower_is_better, per_image = "match", "%", 1, False, True
    range, uses, packages = (0, 100), USES, ("scikit-image",)

    def measure(self, pictures: Pictures) -> Score:
        regions = regions_of(pictures)
        palette = mean_colours(pictures, "answers")
        right = 100.0 * nearest_is_own(mean_colours(pictures, "generated"), palette, regions.counted)
        details: dict[str, Any] = {"parts": over_pictures(right, regions.counted, pictures.part_names)}
        if (at_random := chance(palette, regions.counted)) is not None:
            details["chance"] = at_random
        return Score(over_parts(right, regions.counted, right=100), details | left_out(regions))


def nearest_is_own(colours: np.ndarray, palette: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """(..., P) bool: whether no colour of the palette is nearer to a part's than its own.

    Args:
        colours: (..., P, 3) CIELAB.
        palette: (..., P, 3): the right colours.
        counted: (..., P) bool: the entries of the palette that there are.
    """
    distances = difference(colours[..., :, None, :], palette[..., None, :, :])  # (..., P, P)
    nearest = np.where(counted[..., None, :], distances, np.inf).min(-1)
    return np.diagonal(distances, axis1=-2, axis2=-1) <= nearest


def chance(palette: np.ndarray, counted: np.ndarray) -> float | None:
    """What the right answers of all other pairs score in a picture's place, in percent; None for a single picture.

    For each picture and part the share of the other answers whose colour of that part is right, then as a score: the mean over
    the picture's parts, and over the pictures. Parts that count in no other answer are left out.

    Args:
        palette: (N, P, 3): the mean colours of the answers' parts.
        counted: (N, P) bool.
    """
    shares = []
    for row, own in enumerate(counted):
        others = np.arange(len(counted)) != row
        both = counted[others] & own  # (N - 1, P)
        right = nearest_is_own(palette[others], palette[row], own) & both
        known = both.any(0)
        if known.any():
            shares.append(float((right.sum(0)[known] / both.sum(0)[known]).mean()))
    return round(100 * float(np.mean(shares)), 2) if shares else None
