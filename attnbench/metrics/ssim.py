"""Two structural similarities, not comparable with each other: the paper's and the standard one of the field.

Both compare grey 8-bit images (BT.601 luma, rounded), so values are the same as for images read from files.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from attnbench.data.xdog import luma

C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def grey_levels(images: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 -> (B, 1, H, W) float64 with whole values 0..255."""
    return luma(images.double()).round()


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


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """SSIM of Wang et al. 2004: 11 x 11 Gaussian window, sigma 1.5, population moments, borders left out; in float64.

    The window is applied along columns and rows as two products with band matrices: float64 convolutions of 11 x 11, as in
    torchmetrics, take 26 times as long on a CPU.

    Args:
        a, b: (B, 1, H, W) in 0..255, H and W at least 11.

    Returns:
        (B,) in [-1, 1].
    """
    rows, columns = (gaussian_windows(size).to(a.device) for size in a.shape[2:])
    moments = torch.stack([a, b, a * a + b * b, a * b]).double()
    mean_a, mean_b, squares, product = rows @ moments @ columns.mT  # the window is separable
    variances = squares - mean_a**2 - mean_b**2
    covariance = product - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    return (luminance * (2 * covariance + C2) / (variances + C2)).mean((1, 2, 3))


@cache
def gaussian_windows(size: int) -> Tensor:
    """(size - 10, size): row i averages elements i .. i + 10 with Gaussian weights, sigma 1.5."""
    weights = torch.exp(-(torch.arange(-5, 6, dtype=torch.float64) ** 2) / (2 * 1.5**2))
    windows = torch.zeros(size - 10, size, dtype=torch.float64)
    for offset, weight in enumerate(weights / weights.sum()):
        windows.diagonal(offset).fill_(weight)
    return windows
