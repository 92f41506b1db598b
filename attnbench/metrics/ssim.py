"""SSIM: Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity", 2004."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from attnbench.metrics.against import ORIGINAL, checked, compared, title_of, uses_of
from attnbench.metrics.grey_levels import C1, C2, grey_levels
from attnbench.metrics.pictures import Pictures


class SSIM:
    """Structural similarity of a picture and the sketch's own original; in [-1, 1], 1 for equal pictures.

    It sees outlines and shading; no hue, since it compares grey levels.

    Args:
        against: original, or answer: the sketch in the reference's colours, where the dataset knows it.
    """

    decimals, lower_is_better, per_image = 3, False, True
    range, note, added_options = (-1, 1), "11 x 11 Gaussian window", ("against",)

    def __init__(self, *, against: str = "original"):
        self.against = checked(against)
        self.uses, self.symmetric = uses_of(against), against == ORIGINAL

    @property
    def title(self) -> str:
        return title_of("SSIM (windowed)", self.against)

    def measure(self, pictures: Pictures) -> np.ndarray:
        return pictures.scores(lambda a, b: ssim(grey_levels(a), grey_levels(b)), *compared(pictures, self.against))


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """SSIM of Wang et al. 2004: 11 x 11 Gaussian window, sigma 1.5, population moments, borders left out; in float64.

    The window is applied along columns and rows as two products with band matrices: float64 convolutions of 11 x 11, as in
    torchmetrics, take 26 times as long on a CPU.

    Args:
        a, b: (B, 1, H, W) in 0..255, H and W at least 11.

    Returns:
        (B,) in [-1, 1].
    """
    contrast, luminance = contrast_and_luminance(a, b)
    return (luminance * contrast).mean((1, 2, 3))


def contrast_and_luminance(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """SSIM's contrast with structure, and its luminance, in every window: (B, 1, H - 10, W - 10) each; see `ssim`."""
    rows, columns = (gaussian_windows(size).to(a.device) for size in a.shape[2:])
    moments = torch.stack([a, b, a * a + b * b, a * b]).double()
    mean_a, mean_b, squares, product = rows @ moments @ columns.mT  # the window is separable
    variances = squares - mean_a**2 - mean_b**2
    covariance = product - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    return (2 * covariance + C2) / (variances + C2), luminance


@cache
def gaussian_windows(size: int) -> Tensor:
    """(size - 10, size): row i averages elements i .. i + 10 with Gaussian weights, sigma 1.5."""
    weights = torch.exp(-(torch.arange(-5, 6, dtype=torch.float64) ** 2) / (2 * 1.5**2))
    windows = torch.zeros(size - 10, size, dtype=torch.float64)
    for offset, weight in enumerate(weights / weights.sum()):
        windows.diagonal(offset).fill_(weight)
    return windows
