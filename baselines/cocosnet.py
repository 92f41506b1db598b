"""CoCosNet: a cross-domain correlation that warps the reference, injected by spatially-adaptive normalisation.

Paper: "Cross-domain Correspondence Learning for Exemplar-based Image Translation", CVPR 2020, arXiv 2004.05571, section 3.1
(equations 3, 4) and 3.2. With theta, phi 1x1 convolutions C -> 256, on n positions of the sketch and m of the reference:

    q_i = centre(unfold3x3(theta f_s))_i / |.|     (B, n, 2304)   k_j likewise, from phi f_r
    A   = softmax_j( q_i . k_j / tau )             (B, n, m)      tau = 0.01 (the paper's alpha = 100)
    W   = A f_r                                    (B, C, h, w)   the reference, warped: no value projection
    out = PONO(f_s) (1 + gamma(W)) + beta(W)       (B, C, h, w)   gamma, beta: SPADE's head, see spade.py

The defaults are the CoCosNet row of the comparison (Table 2).

What the authors' code does beyond their paper: it compares 3x3 neighbourhoods (`match_kernel`), and centres each vector over
its channels, not the map over space. In it, feature adaptors and four residual blocks that both domains share (reflection
padding, instance norm, PReLU) precede theta and phi; f_s and f_r are deep features already, so `pre_blocks` is 0 here. What it
warps is the average-pooled reference image; here it is f_r, since features are what this backbone's decoder reads.

Our choices, since SGA's authors published no code of their CoCosNet row: the injection by SPADE's head, which is the method's
own fusion, and to which the row's SSIM, near SPADE's, points (`inject=residual` gives f_s + W instead); that head's zero
padding, where the authors reflect; a floor of 1e-6 under norms, where they add 2.2e-16, so that a zero vector has a gradient
that is finite; and the losses, the ones that all modules share (the contextual, cycle and domain losses are left out).

`stop_gradient=true` is SGA's question to this module: A passes no gradient, and theta and phi keep their initial values.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from attnbench import Attention, at_least_float32, branch, no_autocast, observe

from .spade import SPADELayer

WIDTH = 256  # channels of theta and phi
FLOOR = 1e-6  # of norms


class CoCosNet(nn.Module):
    """CoCosNet, CVPR 2020: the reference warped by correlation modulates the sketch features.

    (B, C, h, w), (B, C, h, w) -> (B, C, h, w).

    Args:
        channels: C.
        match_kernel: side of the neighbourhoods that are compared, 3 or 1.
        tau: temperature of the softmax over the reference.
        pre_blocks: residual blocks before theta and phi, shared by both inputs, 0 to 4; they need maps of 2 x 2 or more.
        inject: `spade`, or `residual`: f_s + W.
        stop_gradient: block the gradient through the attention map.
    """

    def __init__(
        self,
        channels: int,
        *,
        match_kernel: Literal[1, 3] = 3,
        tau: float = 0.01,
        pre_blocks: int = 0,
        inject: Literal["spade", "residual"] = "spade",
        stop_gradient: bool = False,
    ):
        super().__init__()
        if match_kernel not in (1, 3):
            raise ValueError(f"match_kernel={match_kernel!r}: expected 1 or 3")
        if not tau > 0:
            raise ValueError(f"tau={tau!r}: expected a number above 0")
        if pre_blocks not in range(5):
            raise ValueError(f"pre_blocks={pre_blocks!r}: expected 0 to 4")
        if inject not in ("spade", "residual"):
            raise ValueError(f"inject={inject!r}: expected spade or residual")
        self.match_kernel = match_kernel
        self.tau = tau
        self.stop_gradient = stop_gradient
        width = WIDTH if pre_blocks else channels
        self.adapt_sketch = Adaptor(channels) if pre_blocks else nn.Identity()
        self.adapt_reference = Adaptor(channels) if pre_blocks else nn.Identity()
        self.pre_blocks = nn.Sequential(*[MatchingBlock(WIDTH) for _ in range(pre_blocks)])
        self.theta = nn.Conv2d(width, WIDTH, 1)
        self.phi = nn.Conv2d(width, WIDTH, 1)
        self.inject = SPADELayer(channels, "pono") if inject == "spade" else None

    def forward(self, sketch: Tensor, reference: Tensor) -> Tensor:
        sketch, sketch_matching = branch(sketch, "content", "query")
        reference, reference_matching = branch(reference, "value", "key")
        attention = self.attention(
            self.theta(self.pre_blocks(self.adapt_sketch(sketch_matching))),
            self.phi(self.pre_blocks(self.adapt_reference(reference_matching))),
        )
        observe("attention", attention.map)
        warped = attention.apply(reference.flatten(2).mT).mT.reshape(sketch.shape).to(sketch.dtype)
        return sketch + warped if self.inject is None else self.inject(sketch, warped)

    def attention(self, query: Tensor, key: Tensor) -> Attention:
        """A, (B, n, m), from (B, 256, h, w) maps."""
        with no_autocast(query):
            vectors = (unit_vectors(x, self.match_kernel) for x in (query, key))
            return Attention(*vectors, temperature=self.tau, stop_gradient=self.stop_gradient)


def unit_vectors(features: Tensor, kernel: int = 1) -> Tensor:
    """Each position's neighbourhood, minus its mean over channels, over its norm: (B, D, h, w) -> (B, n, D kernel^2)."""
    vectors = F.unfold(at_least_float32(features), kernel, padding=kernel // 2).mT
    return F.normalize(vectors - vectors.mean(-1, keepdim=True), dim=-1, eps=FLOOR)


class Adaptor(nn.Module):
    """A 1x1 convolution, then unit norm over the channels of each position: (B, C, h, w) -> (B, 256, h, w)."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        adapted = self.conv(x)
        return F.normalize(at_least_float32(adapted), dim=1, eps=FLOOR).to(adapted.dtype)


class MatchingBlock(nn.Module):
    """x + IN(conv(PReLU(IN(conv(x))))), then PReLU; 3x3 convolutions with reflection padding; (B, D, h, w) -> the same."""

    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect"),
            nn.InstanceNorm2d(channels),
            nn.PReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect"),
            nn.InstanceNorm2d(channels),
        )
        self.activation = nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(x + self.body(x))
