"""Right pictures made wrong by known amounts: what metrics of colours should answer to, each in its own way."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from skimage.color import lab2rgb, rgb2lab
from torch import Tensor

GOLDEN = 2.39996  # radians: multiples of this angle are never close to one another


def recoloured(images: Tensor, parts: Tensor, amount: float) -> Tensor:
    """Each part's colours moved by `amount` along a and b of CIELAB, each part in a direction of its own.

    Args:
        images: (N, 3, S, S) uint8.
        parts: (N, S, S).

    Returns:
        (N, 3, S, S) uint8; colours that sRGB does not have are the nearest that it has, channel by channel.
    """
    angle = GOLDEN * parts.numpy()
    return _moved(images, amount * np.stack([np.zeros_like(angle), np.cos(angle), np.sin(angle)], axis=-1))


def swapped(images: Tensor, parts: Tensor, one: int, other: int) -> Tensor:
    """The mean colours of two parts in each other's place, their shades kept; pictures without one of them are unchanged.

    Arguments and result as of `recoloured`.
    """
    labels = parts.numpy()
    move = np.zeros((*labels.shape, 3))
    for shift, lab, label in zip(move, _lab(images), labels, strict=True):
        here, there = label == one, label == other
        if here.any() and there.any():
            apart = lab[there].mean(0) - lab[here].mean(0)
            shift[here], shift[there] = apart, -apart
    return _moved(images, move)


def shifted(images: Tensor, pixels: int) -> Tensor:
    """Colours that lie so many pixels to the right of where they belong; the left column is repeated."""
    columns = (torch.arange(images.shape[-1]) - pixels).clamp(min=0)
    return images[..., columns]


def blurred(images: Tensor, sigma: float) -> Tensor:
    """A Gaussian over the picture, sigma in pixels; 0 changes nothing."""
    smooth = gaussian_filter(images.numpy().astype(float), (0, 0, sigma, sigma), mode="nearest")
    return torch.from_numpy(smooth.round().astype(np.uint8))


def noisy(images: Tensor, sigma: float) -> Tensor:
    """Gaussian noise in every channel, sigma in grey levels; the same noise each time."""
    noise = sigma * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images + noise).round().clamp(0, 255).to(torch.uint8)


def _lab(images: Tensor) -> np.ndarray:
    """(N, S, S, 3)."""
    return np.asarray(rgb2lab(images.permute(0, 2, 3, 1).numpy()))


def _moved(images: Tensor, move: np.ndarray) -> Tensor:
    """Pictures whose CIELAB is moved by (N, S, S, 3)."""
    inside = np.clip(_lab(images) + move, [0, -128, -128], [100, 127, 127])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Conversion from CIE-LAB")  # colours that sRGB does not have
        colours = (lab2rgb(inside) * 255).round().astype(np.uint8)
    return torch.from_numpy(colours).permute(0, 3, 1, 2).contiguous()
