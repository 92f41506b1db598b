"""Whether parts have the right colours: the nearest of those that there are to choose from."""

from __future__ import annotations

from typing import Any

import numpy as np

from attnbench.errors import NotMeasurable
from attnbench.metrics.metric import Score
from attnbench.metrics.parts import USES, difference, left_out, mean_colours, over_parts, over_pictures, regions_of
from attnbench.metrics.pictures import Pictures

CHANCE_PAIRS = 200  # the first ones, by which chance is found: every answer is held against every other


class Match:
    """Share of a picture's parts that have the right one of its answer's colours, in percent; in [0, 100], 100 for the answer.

    Each part has one colour, the mean in CIELAB of its pixels that are no lines. It is right if, of the colours of all parts in
    the right answer, none is nearer to it, by CIEDE2000, than the part's own. So it sees whether colours went to where they
    belong, and neither how exactly they were hit nor where they end: see `ciede2000` and `bleed`.

    Recorded with it: the shares of each part, and `chance`, what the best of single palettes scores, in which a method that
    never looks at a reference may paint all pictures.
    """

    title, unit, decimals, lower_is_better, per_image = "match", "%", 1, False, True
    range, uses, packages = (0, 100), USES, ("scikit-image",)

    def measure(self, pictures: Pictures) -> Score:
        regions = regions_of(pictures)
        if regions.counted.sum(1).max() < 2:
            raise NotMeasurable("no picture has two parts that count, and of one colour there is nothing to choose")
        palette = mean_colours(pictures, "answers")
        right = 100.0 * nearest_is_own(mean_colours(pictures, "generated"), palette, regions.counted)
        details: dict[str, Any] = {"parts": over_pictures(right, regions.counted, pictures.part_names)}
        if (blind := chance(palette[:CHANCE_PAIRS], regions.counted[:CHANCE_PAIRS])) is not None:
            details["chance"] = blind
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
    """What one palette for all pictures scores at best, in percent; None for a single picture.

    A part's candidates are its colours in the answers; the best of them is right in the largest share of the other pictures.
    These shares stand in place of right and wrong in the score: the mean over a picture's parts, and over the pictures. A part
    that counts in no other picture is left out.

    Args:
        palette: (N, P, 3): the mean colours of the answers' parts.
        counted: (N, P) bool.
    """
    fits = np.stack([nearest_is_own(palette, own, has) for own, has in zip(palette, counted, strict=True)])
    usable = counted[:, None] & counted[None] & ~np.eye(len(counted), dtype=bool)[..., None]  # (pictures, candidates, P)
    often = (fits & usable).sum(0) / np.maximum(usable.sum(0), 1)  # (candidates, P)
    known = counted & usable.any((0, 1))
    of_pictures = [often.max(0)[mine].mean() for mine in known if mine.any()]
    return round(100 * float(np.mean(of_pictures)), 2) if of_pictures else None
