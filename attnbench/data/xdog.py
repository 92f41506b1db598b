"""Line art from a colour image: the extended difference of Gaussians (XDoG).

Winnemoeller, Kyprianidis, Olsen: "XDoG: an eXtended difference-of-Gaussians compendium", Computers & Graphics 36(6), 2012;
constants of arXiv 2207.06095, section 4.1. With I the grey image in [0, 1] and G_s a Gaussian of standard deviation s:

    S = (1 + p) G_sigma(I) - p G_{k sigma}(I)
    T = 1                                   where I S >= epsilon
    T = 1 + tanh(phi (I S - epsilon))       elsewhere

At phi = 1e9 T is binary: 1 is paper, 0 is line. A flat region darker than sqrt(epsilon) = 0.1 becomes solid black.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from attnbench.devices import send

LUMA = (0.299, 0.587, 0.114)


def luma(rgb: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, 1, H, W), ITU-R BT.601 weights."""
    red, green, blue = (weight * rgb[:, i : i + 1] for i, weight in enumerate(LUMA))
    return red + green + blue


def xdog(
    rgb: Tensor,
    sigma: Tensor | float,
    *,
    p: float = 19.0,
    k: float = 4.5,
    epsilon: float = 0.01,
    phi: float = 1e9,
) -> Tensor:
    """Line art of a batch.

    Args:
        rgb: (B, 3, H, W) in [0, 1].
        sigma: standard deviation of the narrower Gaussian in pixels: of each image, (B,) on the CPU, or of all.

    Returns:
        (B, 1, H, W) float32 in [0, 1], white paper.
    """
    # In float64: the threshold is a cliff, and rounding that depends on the rest of the batch must not push a pixel over it.
    grey = luma(rgb.double())
    sigma = sigma.double() if isinstance(sigma, Tensor) else sigma
    blurred, wider = gaussian_blur(grey, sigma), gaussian_blur(grey, k * sigma)
    response = grey * ((1 + p) * blurred - p * wider)
    return torch.where(response >= epsilon, 1.0, 1 + torch.tanh(phi * (response - epsilon))).float()


def gaussian_blur(grey: Tensor, sigma: Tensor | float) -> Tensor:
    """Separable Gaussian blur with one deviation per image, (B,) on the CPU, or one for all; (B, 1, H, W) -> (B, 1, H, W).

    Kernel widths and borders are OpenCV's for float images: round(8 sigma + 1), made odd; mirrored without repeating the edge.
    """
    if isinstance(sigma, Tensor):
        kernels = send(_kernels(sigma), grey.device)  # (B, K)
    else:
        kernels = _kernel(sigma, grey.device).expand(len(grey), -1)
    radius = kernels.shape[1] // 2
    images = grey.transpose(0, 1)  # one group per image: (1, B, H, W)
    groups = images.shape[1]
    rows = _mirrored(images.shape[-1], radius, grey.device)
    columns = _mirrored(images.shape[-2], radius, grey.device)
    images = F.conv2d(images[..., rows], kernels[:, None, None, :], groups=groups)
    images = F.conv2d(images[..., columns, :], kernels[:, None, :, None], groups=groups)
    return images.transpose(0, 1)


def _kernels(sigma: Tensor) -> Tensor:
    """(B,) -> (B, K): normalised Gaussians, each cut off at its own width and padded with zeros to the widest."""
    width = torch.round(8 * sigma + 1).long() | 1
    largest = int(width.max()) // 2
    offset = torch.arange(-largest, largest + 1)
    weight = torch.exp(-(offset**2) / (2 * sigma[:, None] ** 2)) * (offset.abs() <= width[:, None] // 2)
    return weight / weight.sum(1, keepdim=True)


def _kernel(sigma: float, device: torch.device) -> Tensor:
    """(K,): a normalised Gaussian, made on the device from numbers alone, so that no step of training waits for it."""
    radius = (round(8 * sigma + 1) | 1) // 2
    offset = torch.arange(-radius, radius + 1, dtype=torch.float64, device=device)
    weight = torch.exp(-(offset**2) / (2 * sigma**2))
    return weight / weight.sum()


def _mirrored(length: int, radius: int, device: torch.device) -> Tensor:
    """Indices -radius .. length + radius - 1 folded into 0 .. length - 1 by mirroring, however small the length."""
    index = torch.arange(-radius, length + radius, device=device)
    if length == 1:
        return torch.zeros_like(index)
    period = 2 * (length - 1)
    index = index % period
    return torch.where(index < length, index, period - index)
