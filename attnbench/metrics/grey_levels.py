"""Grey levels as structural similarities compare them, and their constants."""

from __future__ import annotations

from torch import Tensor

from attnbench.data.xdog import luma

C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def grey_levels(images: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 -> (B, 1, H, W) float64 with whole values 0..255: BT.601 luma, rounded as in files of 8 bits."""
    return luma(images.double()).round()
