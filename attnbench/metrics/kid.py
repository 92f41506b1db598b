"""KID: Binkowski et al., "Demystifying MMD GANs", ICLR 2018."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from attnbench.metrics.inception import NETWORK, USUAL_DIMS, checked, distances, finer, networks, titled
from attnbench.metrics.metric import Score
from attnbench.metrics.pictures import Pictures


class KID:
    """Kernel distance between generated and real test images, in Inception features; about 0 for equal sets.

    Unbiased, so that it does not fall with the number of pictures, and may be negative. It sees what FID sees.

    Args:
        dims, real_size: as of FID.
    """

    lower_is_better, per_image, range = True, False, (None, None)
    needs, uses = (NETWORK,), ("real",)
    settings = {"fid_dims": "dims", "real_size": "real_size"}  # noqa: RUF012
    packages = ("pytorch-fid",)
    networks = staticmethod(networks)

    def __init__(self, *, dims: int = USUAL_DIMS, real_size: str = "native"):
        self.dims, self.real_size = checked(dims, real_size)

    @property
    def title(self) -> str:
        return titled("KID", self.dims, self.real_size)

    @property
    def decimals(self) -> int:
        return 4 + finer(self.dims)

    def measure(self, pictures: Pictures) -> Score:
        return Score(*distances(pictures, kernel_distance, self.dims, self.real_size))


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
