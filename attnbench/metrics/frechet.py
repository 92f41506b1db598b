"""Distances between sets of images, in the features of a fixed network: FID and KID.

The network is pytorch-fid's Inception with the weights in common use; the distances are computed here in float64.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from attnbench import weights


class InceptionFeatures(nn.Module):
    """pytorch-fid's Inception up to the layer of width `dims`; (B, 3, H, W) uint8 -> (B, dims) float32.

    Images are resized to 299 x 299 inside the network; a feature map is averaged over its positions. Features differ from
    pytorch-fid's by float32 rounding: batch norms are folded into convolutions, and channels come last in memory, which
    together make it 1.5 times as fast on a CPU.

    Raises:
        weights.MissingWeights: its weights are not on this machine and cannot be downloaded.
    """

    def __init__(self, dims: int = 2048):
        from pytorch_fid.inception import InceptionV3

        super().__init__()
        weights.find_or_download("inception")
        with weights.quiet_libraries():
            self.network = InceptionV3([InceptionV3.BLOCK_INDEX_BY_DIM[dims]])
        self.eval()
        fold_batch_norms(self.network)
        self.network.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        (features,) = self.network(images.to(memory_format=torch.channels_last).float() / 255)
        return features.mean((2, 3))


def fold_batch_norms(network: nn.Module) -> None:
    """Fold each batch norm of an Inception in eval mode, a fixed scale and shift, into the convolution before it, in place."""
    from torchvision.models.inception import BasicConv2d

    for layer in network.modules():
        if isinstance(layer, BasicConv2d):  # conv, bn, relu
            layer.conv, layer.bn = fuse_conv_bn_eval(layer.conv, layer.bn), nn.Identity()


def features_of(batches: Iterable[Tensor], network: nn.Module, device: torch.device) -> np.ndarray:
    """Features of all images, in order: batches of (B, 3, H, W) uint8 -> (N, dims) float64."""
    features = [network(batch.to(device)) for batch in batches]  # kept on the device: copying each would wait for it
    return torch.cat(features).cpu().double().numpy()


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """|mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), unbiased covariances, in float64.

    With centred features X / sqrt(n - 1) = Q R, the trace of the root is the nuclear norm of R_a R_b^T: no matrix root is
    taken, and rank-deficient covariances (fewer images than dimensions; Q = I then) need no regularisation.

    Args:
        a, b: (N, dims), (M, dims); N, M >= 2.
    """
    difference = a.mean(0) - b.mean(0)
    root_a, root_b = _covariance_root(a), _covariance_root(b)
    cross = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    return float(difference @ difference + (root_a**2).sum() + (root_b**2).sum() - 2 * cross)


def _covariance_root(features: np.ndarray) -> np.ndarray:
    """R with R^T R = covariance; min(images, dims) rows."""
    centred = (features - features.mean(0)) / np.sqrt(len(features) - 1)
    return centred if len(centred) <= centred.shape[1] else np.asarray(np.linalg.qr(centred, mode="r"))


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
