"""How far colours are from the right ones: CIEDE2000, ISO/CIE 11664-6, part by part."""

from __future__ import annotations

import numpy as np

from attnbench.metrics.metric import Score
from attnbench.metrics.parts import USES, difference, lab_of, left_out, over_parts, over_pictures, part_means, regions_of
from attnbench.metrics.pictures import Pictures


class ColourDifference:
    """Colour difference to the right answer, CIEDE2000, mean over the parts; from 0, for the answer itself, seldom above 60.

    Of each part the mean over its pixels that are no lines; then of a picture the mean over its parts, so that the eyes weigh
    as much as the background. 1 is just noticeable. It sees every error of colour, and does not tell a wrong one from a
    right one with an edge that is off: see `match` and `bleed`. The means of each part are recorded with it.
    """

    title, decimals, lower_is_better, per_image = "ΔE00", 1, True, True
    range, uses, packages = (0, None), USES, ("scikit-image",)

    def measure(self, pictures: Pictures) -> Score:
        regions = regions_of(pictures)
        parts = regions.counted.shape[1]
        rows = zip(regions.labels, lab_of(pictures, "generated"), lab_of(pictures, "answers"), strict=True)
        errors = np.stack([part_means(labels, difference(made, right), parts) for labels, made, right in rows])
        details = {"parts": over_pictures(errors, regions.counted, pictures.part_names)}
        return Score(over_parts(errors, regions.counted, right=0), details | left_out(regions))
