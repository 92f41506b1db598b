"""SGA, Stop-Gradient Attention.

Paper: "Eliminating Gradient Conflict in Reference-based Line-Art Colorization", ECCV 2022, arXiv 2207.06095; section 3.4,
equations 7-10, algorithm 1, figure 6.

One block takes source tokens S and message tokens M, both (B, n, C):

    A~ = softmax_j(S M^T)                               (B, n, n)   equations 8, 9; no projection, no 1/sqrt(C)
    A^ = A~_ij / max(sum_k A~_kj, 1e-12)                (B, n, n)   equation 10: every column sums to one
    Z  = BN( A^ LeakyReLU(M W_m) + LeakyReLU(S W_s) )   (B, n, C)   equation 7; BN over channels, statistics over B n tokens
    out = Z + S                                         (B, n, C)   figure 6b: the shortcut is outside of BN

No gradient flows through A^ (the "stop-gradient"). The module is cross-SGA, S = f_s, M = f_r, then self-SGA, S = M = what
cross-SGA gave.

| row of Table 3        | options                                                                        |
|-----------------------|--------------------------------------------------------------------------------|
| SGA                   | (defaults)                                                                     |
| w/o stop-gradient     | `stop_gradient=false`: the same forward, gradients through A^ in both blocks   |
| w/o double-norm       | `double_norm=false`: A^ := A~                                                  |
| w/o self-SGA          | `self_attention=false`: the output of cross-SGA, with its BN and shortcut      |

Where the authors' code and paper differ, this follows the code: algorithm 1 as printed puts the linear layers inside of
`no_grad`, the code only the attention; batch norm, shortcut, biases and the slope 0.2 are in the code (and figure 6b), not in
equation 7; the clamp 1e-12 is in the code, not in equation 10. The clamp matters: at initialisation many columns receive less
mass than that and stay near zero instead of summing to one. `exact_norm=true` is equation 10 to the letter, in the log domain.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from attnbench import Attention, branch, observe

SLOPE = 0.2


class SGA(nn.Module):
    """Stop-Gradient Attention, ECCV 2022: cross-SGA, then self-SGA.

    (B, C, h, w), (B, C, h, w) -> (B, C, h, w).

    Args:
        channels: C.
        stop_gradient: block the gradient through the attention map.
        double_norm: normalise the map's columns after its rows.
        self_attention: follow cross-SGA by self-SGA.
        exact_norm: normalise columns exactly, without the clamp at 1e-12.
    """

    def __init__(
        self,
        channels: int,
        *,
        stop_gradient: bool = True,
        double_norm: bool = True,
        self_attention: bool = True,
        exact_norm: bool = False,
    ):
        super().__init__()
        if exact_norm and not double_norm:
            raise ValueError("exact_norm=true needs double_norm=true")
        options = {"stop_gradient": stop_gradient, "double_norm": double_norm, "exact_norm": exact_norm}
        self.cross_sga = SGABlock(channels, **options)
        self.self_sga = SGABlock(channels, **options) if self_attention else None

    def forward(self, sketch: Tensor, reference: Tensor) -> Tensor:
        f_s, f_r = sketch.flatten(2).mT, reference.flatten(2).mT  # (B, n, C)
        f_gen = self.cross_sga(f_s, f_r)
        if self.self_sga is not None:
            f_gen = self.self_sga(f_gen, f_gen)
        return f_gen.mT.reshape(sketch.shape)


class SGABlock(nn.Module):
    """One block, as in the header: source (B, n, C), message (B, m, C) -> (B, n, C)."""

    def __init__(self, channels: int, *, stop_gradient: bool, double_norm: bool, exact_norm: bool):
        super().__init__()
        self.stop_gradient = stop_gradient
        self.double_norm = double_norm
        self.exact_norm = exact_norm
        self.project_source = nn.Linear(channels, channels)
        self.project_message = nn.Linear(channels, channels)
        self.norm = nn.BatchNorm1d(channels)

    def forward(self, source: Tensor, message: Tensor) -> Tensor:
        source, source_matching = branch(source, "content", "query")
        message, message_matching = branch(message, "value", "key")
        attention = self.attention(source_matching, message_matching)
        observe("attention", attention.map)
        projected = F.leaky_relu(self.project_message(message), SLOPE)
        gathered = attention.apply(projected)
        own = F.leaky_relu(self.project_source(source), SLOPE)
        z = self.norm((gathered + own).flatten(0, 1)).view_as(source)
        return z + source

    def attention(self, source: Tensor, message: Tensor) -> Attention:
        """A^, (B, n, m)."""
        options = {"double_norm": self.double_norm, "exact_norm": self.exact_norm, "stop_gradient": self.stop_gradient}
        return Attention(source, message, **options)
