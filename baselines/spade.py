"""SPADE: normalisation modulated, position by position, by a second map.

Paper: "Semantic Image Synthesis with Spatially-Adaptive Normalization", CVPR 2019, arXiv 1903.07291, section 3, equations 1-3.
With x the map that is modulated, m the condition, both (B, C, h, w), N a normalisation without parameters:

    a     = ReLU(conv3x3(m))                                (B, 128, h, w)
    gamma = conv3x3(a),  beta = conv3x3(a)                  (B, C, h, w)
    out   = N(x) (1 + gamma) + beta                         (B, C, h, w)

Here x = f_s and m = f_r, one layer, N = batch norm: the defaults, and the SPADE row of the comparison (Table 2). The
reference is not matched with the sketch: position i of f_r modulates position i of f_s, wherever its colours belong.

The authors' code has the 1 of (1 + gamma), which equation 1 lacks, so that a fresh layer is near N(x); its batch norm is
synchronised over GPUs, which on one GPU is batch norm.

Our choice, since SGA's authors published no code of their SPADE row, is which input is the condition. SPADE's own use would
make it the layout, here the sketch (`condition=sketch`). That the SGA paper counts SPADE among the ways "to make better use of
reference images" (section 2), and the row's very low SSIM, which an unaligned reference modulating the sketch would give,
speak for the reference. `variant=resblk` is SPADE's residual block: twice SPADE, LeakyReLU, 3x3 convolution under spectral
norm, plus identity.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from attnbench import at_least_float32, branch

HIDDEN = 128  # channels between the condition and gamma, beta
SLOPE = 0.2

Norm = Literal["batch", "instance", "pono"]


class SPADE(nn.Module):
    """SPADE, CVPR 2019: the reference modulates the normalised sketch features.

    (B, C, h, w), (B, C, h, w) -> (B, C, h, w).

    Args:
        channels: C.
        condition: which input gives gamma and beta, `reference` or `sketch`; the other one is modulated.
        variant: `layer`, or `resblk`: two layers with convolutions around an identity.
        norm: N, `batch`, `instance` (needs more than one position), or `pono` (over the channels of each position).
    """

    def __init__(
        self,
        channels: int,
        *,
        condition: Literal["reference", "sketch"] = "reference",
        variant: Literal["layer", "resblk"] = "layer",
        norm: Norm = "batch",
    ):
        super().__init__()
        if condition not in ("reference", "sketch"):
            raise ValueError(f"condition={condition!r}: expected reference or sketch")
        if variant not in ("layer", "resblk"):
            raise ValueError(f"variant={variant!r}: expected layer or resblk")
        self.condition = condition
        self.layers = nn.ModuleList([SPADELayer(channels, norm) for _ in range(1 if variant == "layer" else 2)])
        self.convs = nn.ModuleList(
            [spectral_norm(nn.Conv2d(channels, channels, 3, padding=1)) for _ in self.layers] if variant == "resblk" else []
        )

    def forward(self, sketch: Tensor, reference: Tensor) -> Tensor:
        (sketch,), (reference,) = branch(sketch, "content"), branch(reference, "content")
        x, condition = (sketch, reference) if self.condition == "reference" else (reference, sketch)
        if x.shape[-2:] != sketch.shape[-2:]:
            x = F.interpolate(x, sketch.shape[-2:])
        if not self.convs:
            return self.layers[0](x, condition)
        out = x
        for layer, conv in zip(self.layers, self.convs, strict=True):
            out = conv(F.leaky_relu(layer(out, condition), SLOPE))
        return x + out


class SPADELayer(nn.Module):
    """The layer in the header: x (B, C, h, w), condition (B, C, h', w') -> (B, C, h, w). A condition of another size is
    resized to nearest."""

    def __init__(self, channels: int, norm: Norm):
        super().__init__()
        self.normalize = normalization(channels, norm)
        self.hidden = nn.Conv2d(channels, HIDDEN, 3, padding=1)
        self.modulation = Modulation(channels)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        if condition.shape[-2:] != x.shape[-2:]:
            condition = F.interpolate(condition, x.shape[-2:])
        return self.modulation(self.normalize(x), F.relu(self.hidden(condition)))


class Modulation(nn.Module):
    """x (1 + gamma(a)) + beta(a): x (B, C, h, w), a (B, 128, h, w) -> (B, C, h, w)."""

    def __init__(self, channels: int):
        super().__init__()
        self.gamma = nn.Conv2d(HIDDEN, channels, 3, padding=1)
        self.beta = nn.Conv2d(HIDDEN, channels, 3, padding=1)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        return x * (1 + self.gamma(hidden)) + self.beta(hidden)


class PositionNorm(nn.Module):
    """PONO (Li et al., "Positional Normalization", NeurIPS 2019): mean 0 and variance 1 over the channels of each position."""

    def forward(self, x: Tensor) -> Tensor:
        wide = at_least_float32(x)
        variance, mean = wide.var(1, keepdim=True), wide.mean(1, keepdim=True)  # unbiased, as in the authors' code
        return ((wide - mean) / (variance + 1e-5).sqrt()).to(x.dtype)


def normalization(channels: int, norm: Norm) -> nn.Module:
    """N by name; (B, C, h, w) -> the same, without parameters."""
    if norm == "batch":
        return nn.BatchNorm2d(channels, affine=False)
    if norm == "instance":
        return nn.InstanceNorm2d(channels)
    if norm == "pono":
        return PositionNorm()
    raise ValueError(f"norm={norm!r}: expected batch, instance or pono")
