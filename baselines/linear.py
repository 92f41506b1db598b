"""Linear attention with a skip: the cost grows with the number of positions, not with its square.

Paper: "Transformers are RNNs: Fast Autoregressive Transformers with Linear Attention", ICML 2020, arXiv 2006.16236, section
3.2, equations 4-7. SCFT's block (scft.py) with another similarity, on tokens X = f_s and Y = f_r, both (B, n, C):

    Q = phi(X W_q),  K = phi(Y W_k),  V = Y W_v          (B, n, C)   phi(x) = elu(x) + 1 > 0
    Z = (Q (K^T V)) / (Q sum_j K_j) + X                  (B, n, C)   K^T V: (B, C, C), once for all positions

The map that this amounts to, A_ij = Q_i . K_j / sum_l Q_i . K_l, (B, n, m), exists only for an observer. Its weights are sums
of positive products: it singles out a position only where features hardly overlap, without a softmax's contrast, the price of
being linear.

W_q, W_k and W_v have biases, as in scft.py. One head, where the paper has several: with C = 992 features for 256 positions the
map's rank is not bounded by the head's width, which several heads would divide. As in the authors' code, 1e-6 keeps the divisor
from zero, but as a floor, where they add it. Sums are in float32.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from attnbench import at_least_float32, branch, no_autocast, observe

FLOOR = 1e-6  # of the divisor


class LinearAttention(nn.Module):
    """Linear attention with a skip, ICML 2020: SCFT's block with the kernel elu(x) + 1 in place of the softmax.

    (B, C, h, w), (B, C, h, w) -> (B, C, h, w).

    Args:
        channels: C.
        stop_gradient: block the gradient through the attention map.
    """

    def __init__(self, channels: int, *, stop_gradient: bool = False):
        super().__init__()
        self.stop_gradient = stop_gradient
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)

    def forward(self, sketch: Tensor, reference: Tensor) -> Tensor:
        x, y = sketch.flatten(2).mT, reference.flatten(2).mT  # (B, n, C)
        x_skip, x_query = branch(x, "skip", "query")
        y_value, y_key = branch(y, "value", "key")
        query, key = (self.positive(x) for x in (self.query(x_query), self.key(y_key)))
        observe("attention", lambda: attention_map(query, key))
        z = linear_attention(query, key, self.value(y_value)).to(x.dtype) + x_skip
        return z.mT.reshape(sketch.shape)

    def positive(self, x: Tensor) -> Tensor:
        """phi, in at least float32."""
        x = at_least_float32(x.detach() if self.stop_gradient else x)
        return F.relu(x) + x.clamp_max(0).exp()  # elu(x) + 1; of elu itself, torch.compile's eager backends fail in backward


def linear_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """A V, (B, n, D), from Q (B, n, C) and K (B, m, C), both positive, and V (B, m, D), without A."""
    with no_autocast(query):
        gathered = query @ (key.mT @ value.to(key.dtype))
        return gathered / (query @ key.sum(1, keepdim=True).mT).clamp_min(FLOOR)


def attention_map(query: Tensor, key: Tensor) -> Tensor:
    """A, (B, n, m)."""
    with no_autocast(query):
        products = query @ key.mT
        return products / products.sum(-1, keepdim=True).clamp_min(FLOOR)
