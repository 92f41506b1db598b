"""The paper's SSIM: over one window, the whole image, as in the released code of arXiv 2207.06095."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from attnbench.metrics.grey_levels import C1, C2, grey_levels
from attnbench.metrics.pictures import Pictures


class GlobalSSIM:
    """Structural similarity of a picture and the sketch's own original, over one window; in [-1, 1], 1 for equal pictures.

    Far more lenient than the windowed SSIM, and not comparable with it. It sees brightness, contrast and whether dark and
    light lie alike over the whole picture; no hue, since it compares grey levels, and no fine detail.
    """

    title, decimals, lower_is_better, per_image = "SSIM (global)", 3, False, True
    range, symmetric = (-1, 1), True
    uses, in_paper, note = ("wanted",), True, "one window, the whole grey image"

    def measure(self, pictures: Pictures) -> np.ndarray:
        return pictures.scores(lambda a, b: ssim_global(grey_levels(a), grey_levels(b)), pictures.generated, pictures.wanted)


def ssim_global(a: Tensor, b: Tensor) -> Tensor:
    """SSIM over one window, the whole image: what the released code of arXiv 2207.06095 reports as SSIM.

    l c s with population moments; C3 = C2 / 2, which folds c and s into one fraction.

    Args:
        a, b: (B, 1, H, W) in 0..255.

    Returns:
        (B,) in [-1, 1]; 1 for equal images.
    """
    a, b = a.flatten(1).double(), b.flatten(1).double()
    mean_a, mean_b = a.mean(1), b.mean(1)
    variance_a, variance_b = a.var(1, correction=0), b.var(1, correction=0)
    covariance = ((a - mean_a[:, None]) * (b - mean_b[:, None])).mean(1)
    luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    contrast_structure = _contrast_structure(variance_a, variance_b, covariance)
    return luminance * contrast_structure


def _contrast_structure(variance_a: Tensor, variance_b: Tensor, covariance: Tensor) -> Tensor:
    deviations = (variance_a * variance_b).sqrt()
    contrast = (2 * deviations + C2) / (variance_a + variance_b + C2)
    structure = (covariance + C2 / 2) / (deviations + C2 / 2)
    return contrast * structure
