"""Whether colours end where parts do."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_dilation, maximum_filter, minimum_filter

from attnbench.metrics.metric import Score
from attnbench.metrics.parts import LINE, MIN_PIXELS, NO_PART, USES, difference, lab_of, left_out, part_means, regions_of
from attnbench.metrics.pictures import Pictures

NOTICEABLE = 1.0  # CIEDE2000


class Bleed:
    """Colour error beside the borders of parts, as a multiple of that inside of them; from 1, where it is not larger.

    The error is the CIEDE2000 to the right answer after each part's mean colour has been set right: a part in one wrong colour
    up to its border has none, so that the score does not depend on `match`. To both errors 1 is added, a just noticeable
    difference, which keeps a flawless picture at 1. The band beside a border is a 32nd of the picture wide. Inside is what is
    twice as far from any border, so that colours that run a little beyond the band do not pass for errors inside; in parts that
    have no such place, all but the band.

    It sees colours that run over the edge of a part or stop short of it, and blur. It does not see errors that are as large
    everywhere, such as noise; nor what happens under a line, or in parts that are all band, as eyes are. A picture without
    colours has nothing that could run over, and scores little above 1: read it beside `match`. The two errors are recorded with
    it, as `band` and `inside`.
    """

    title, decimals, lower_is_better, per_image = "bleed", 2, True, True
    range, uses, packages = (1, None), USES, ("scikit-image",)

    def measure(self, pictures: Pictures) -> Score:
        regions = regions_of(pictures)
        lines = pictures.sketch[:, 0].numpy() < LINE
        labels = [clear_of_lines(*pair) for pair in zip(regions.labels, lines, strict=True)]
        rows = zip(labels, pictures.parts.numpy(), lab_of(pictures, "generated"), lab_of(pictures, "answers"), strict=True)
        found = [errors(*row, count=regions.counted.shape[1]) for row in rows]
        band, inside = np.array([pair or (0, 0) for pair in found]).T
        known = np.array([pair is not None for pair in found])
        means = {"band": band[known], "inside": inside[known]} if known.any() else {}
        details = {name: round(float(values.mean()), 2) for name, values in means.items()}
        return Score(np.maximum(1, (band + NOTICEABLE) / (inside + NOTICEABLE)), details | left_out(regions))


def clear_of_lines(labels: np.ndarray, lines: np.ndarray) -> np.ndarray:
    """(S, S): the labels without the pixels next to a line, half ink in the answer, which no shift of colour sets right."""
    return np.where(binary_dilation(lines, np.ones((3, 3))), NO_PART, labels)


def near_borders(parts: np.ndarray, distance: int) -> np.ndarray:
    """(S, S) bool: pixels with another part within a square of so many pixels to each side."""
    side = 2 * distance + 1
    return np.asarray(maximum_filter(parts, side) != minimum_filter(parts, side))


def errors(
    labels: np.ndarray, parts: np.ndarray, made: np.ndarray, right: np.ndarray, *, count: int
) -> tuple[float, float] | None:
    """The mean CIEDE2000 in the band and inside, with each part's mean colour inside set right; None without a part with both.

    Both are means over the parts, weighted by their pixels in the band: an error that is as large all over each part is as
    large in both, though parts have more or less of a border.

    Args:
        labels: (S, S): the part of each pixel that counts, else NO_PART.
        parts: (S, S): the part of each pixel.
        made, right: (S, S, 3) CIELAB.
        count: how many parts there are.
    """
    width = max(1, round(labels.shape[0] / 32))
    counts, band = labels != NO_PART, near_borders(parts, width)
    deep = counts & ~near_borders(parts, 2 * width)
    shallow = np.bincount(labels[deep], minlength=count) < MIN_PIXELS  # (P,)
    inside = np.where(counts & np.where(shallow[labels], ~band, deep), labels, NO_PART)
    beside = np.where(counts & band, labels, NO_PART)
    shift = part_means(inside, made, count) - part_means(inside, right, count)  # (P, 3)
    error = difference(made, right + shift[labels])
    has_inside = np.bincount(inside[inside != NO_PART], minlength=count) >= MIN_PIXELS
    weights = has_inside * np.bincount(beside[beside != NO_PART], minlength=count)
    if not weights.any():
        return None
    in_band, in_parts = (float(np.average(part_means(where, error, count), weights=weights)) for where in (beside, inside))
    return in_band, in_parts
