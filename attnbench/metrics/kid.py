"""KID: Binkowski et al., "Demystifying MMD GANs", ICLR 2018."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from attnbench.metrics.inception import SetDistance


class KID(SetDistance):
    """Kernel distance between generated and real test images, in Inception features; about 0 for equal sets.

    Unbiased, so that it does not fall with the number of pictures, and may be negative. It sees what FID sees.
    """

    name, usual_decimals, range = "KID", 4, (None, None)

    def distance(self, a: np.ndarray, b: np.ndarray) -> float:
        return kernel_distance(a, b)


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """KID: unbiased squared MMD with the kernel (x.y / dims + 1)^3, over all images at once (no random subsets).

    Args:
        a, b: (N, dims), (M, dims); N, M >= 2.
    """
    x, y = torch.from_numpy(a), torch.from_numpy(b)
    within = [_mean_off_diagonal(_kernel(z, z)) for z in (x, y)]
    return float(sum(within) - 2 * _kernel(x, y).mean())


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.mT / x.shape[1] + 1) ** 3


def _mean_off_diagonal(kernel: Tensor) -> Tensor:
    count = len(kernel)
    return (kernel.sum() - kernel.trace()) / (count * (count - 1))
