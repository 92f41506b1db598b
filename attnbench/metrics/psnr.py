"""Peak signal-to-noise ratio."""

from __future__ import annotations

import numpy as np
from skimage.metrics import peak_signal_noise_ratio

from attnbench.errors import NotMeasurable
from attnbench.metrics.against import ORIGINAL, checked, knowable, targets_of, title_of, uses_of
from attnbench.metrics.pictures import Pictures

HIGHEST = 100.0  # dB: one grey level in one channel of one pixel of 240 x 240


class PSNR:
    """Peak signal-to-noise ratio of a picture to the sketch's own original, in dB; in [0, 100], 100 for equal pictures.

    10 log10(255^2 / MSE) over all pixels and channels; against the answer, over the pixels of parts that the reference shows.
    Equal pictures, of an infinite ratio, count as 100 dB. It sees every error alike, wherever it is: large plain areas weigh
    most, and blur costs less than a crisp picture that is a pixel off.

    Args:
        against: original, or answer: the sketch in the reference's colours, where the dataset knows it.
    """

    unit, decimals, lower_is_better, per_image = "dB", 2, False, True
    range, packages = (0, HIGHEST), ("scikit-image",)

    def __init__(self, *, against: str = "original"):
        self.against = checked(against)
        self.uses, self.symmetric = uses_of(against), against == ORIGINAL
        self.gap = against == ORIGINAL

    @property
    def title(self) -> str:
        return title_of("PSNR", self.against)

    def measure(self, pictures: Pictures) -> np.ndarray:
        known = knowable(pictures, self.against).numpy()
        if not known.any():
            raise NotMeasurable("no reference shows any part of its sketch")
        rows = zip(pictures.generated.numpy(), targets_of(pictures, self.against).numpy(), known, strict=True)
        return np.array([psnr(made[:, where], target[:, where]) if where.any() else HIGHEST for made, target, where in rows])


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """In dB, at most HIGHEST. Args: a, b of one shape, uint8."""
    with np.errstate(divide="ignore"):  # equal pictures
        return min(HIGHEST, float(peak_signal_noise_ratio(a, b, data_range=255)))
