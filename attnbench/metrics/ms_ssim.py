"""Multi-scale SSIM: Wang, Simoncelli and Bovik, "Multiscale Structural Similarity for Image Quality Assessment", 2003.

    MS-SSIM = l_5^w_5  prod_{k = 1..5} cs_k^w_k,   w = 0.0448, 0.2856, 0.3001, 0.2363, 0.1333

cs_k is the mean of SSIM's contrast and structure at scale k, each scale half of the one before, and l_5 its luminance, which is
multiplied in before the mean of the last scale is taken, as in the authors' code. Windows stay inside of the picture.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from attnbench.metrics.against import ORIGINAL, checked, compared, title_of, uses_of
from attnbench.metrics.grey_levels import grey_levels
from attnbench.metrics.pictures import Pictures
from attnbench.metrics.ssim import contrast_and_luminance

EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # section 3.2


class MSSSIM:
    """Multi-scale SSIM of a picture and the sketch's own original; in [0, 1], 1 for equal pictures.

    It sees outlines and shading from fine to coarse; no hue, since it compares grey levels. The coarsest scale of a picture
    below 161 px is smaller than the window of 11 x 11: there is no number. A scale whose mean is negative, where the picture is
    rather the original's opposite, counts as 0, and so does the whole picture; the formula has no number there.

    Args:
        against: original, or answer: the sketch in the reference's colours, where the dataset knows it.
    """

    decimals, lower_is_better, per_image = 3, False, True
    range, note = (0, 1), "five scales, 11 x 11 Gaussian window"
    smallest = 161  # halved four times, with odd sides rounded up, it has the window's 11 pixels

    def __init__(self, *, against: str = "original"):
        self.against = checked(against)
        self.uses, self.symmetric = uses_of(against), against == ORIGINAL
        self.gap = against == ORIGINAL

    @property
    def title(self) -> str:
        return title_of("MS-SSIM", self.against)

    def measure(self, pictures: Pictures) -> np.ndarray:
        return pictures.scores(lambda a, b: ms_ssim(grey_levels(a), grey_levels(b)), *compared(pictures, self.against))


def ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    """In float64. Args: a, b (B, 1, S, S) in 0..255, S at least 161. Returns (B,) in [0, 1]."""
    a, b = a.double(), b.double()
    product = torch.ones(len(a), dtype=torch.float64, device=a.device)
    for scale, exponent in enumerate(EXPONENTS, 1):
        if scale > 1:
            a, b = halved(a), halved(b)
        contrast, luminance = contrast_and_luminance(a, b)
        term = contrast * luminance if scale == len(EXPONENTS) else contrast
        product = product * term.mean((1, 2, 3)).clamp_min(0) ** exponent
    return product


def halved(images: Tensor) -> Tensor:
    """Means of 2 x 2 pixels, (B, 1, S, S) -> (B, 1, ceil(S / 2), ceil(S / 2)); the last of an odd number is repeated."""
    odd = images.shape[-1] % 2
    return F.avg_pool2d(F.pad(images, (0, odd, 0, odd), mode="replicate"), 2)
