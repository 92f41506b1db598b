"""SCFT's spatially corresponding feature transfer: dot-product attention with a skip.

Paper: "Reference-Based Sketch Image Colorization using Augmented-Self Reference and Dense Semantic Correspondence", CVPR 2020;
here as SGA's authors use it (arXiv 2207.06095, section 3.3, equation 6), on tokens X = f_s and Y = f_r, both (B, n, C):

    A = softmax_j( (X W_q) (Y W_k)^T / sqrt(C) )        (B, n, n)
    Z = A (Y W_v) + X                                   (B, n, C)

W_q, W_k and W_v have biases. One head, no dropout, no output projection, no normalisation.

| row of Table 1            | options                                                                                    |
|---------------------------|--------------------------------------------------------------------------------------------|
| no stop-grad, W_q and W_k | (defaults)                                                                                 |
| no stop-grad, without     | `projections=false`: A = softmax(X Y^T / sqrt(C))                                          |
| stop-grad, W_q and W_k    | `stop_gradient=true`: A has no gradient; W_q and W_k keep their random initial values      |
| stop-grad, without        | `stop_gradient=true`, `projections=false`                                                  |

The SCFT paper's triplet loss on A is not used: the comparison trains every module with the same losses (section 4.2). That
sqrt(C) stays where the projections are removed is this project's reading; the paper leaves it open.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from attnbench import Attention, at_least_float32, branch, observe


class SCFT(nn.Module):
    """SCFT's dot-product attention with a skip, CVPR 2020.

    (B, C, h, w), (B, C, h, w) -> (B, C, h, w).

    Args:
        channels: C.
        stop_gradient: block the gradient through the attention map.
        projections: learn W_q and W_k; without, queries and keys are the features themselves.
    """

    def __init__(self, channels: int, *, stop_gradient: bool = False, projections: bool = True):
        super().__init__()
        self.stop_gradient = stop_gradient
        self.scale = 1 / math.sqrt(channels)
        self.query = nn.Linear(channels, channels) if projections else nn.Identity()
        self.key = nn.Linear(channels, channels) if projections else nn.Identity()
        self.value = nn.Linear(channels, channels)

    def forward(self, sketch: Tensor, reference: Tensor) -> Tensor:
        x, y = sketch.flatten(2).mT, reference.flatten(2).mT  # (B, n, C)
        x_skip, x_query = branch(x, "skip", "query")
        y_value, y_key = branch(y, "value", "key")
        attention = self.attention(self.query(x_query), self.key(y_key))
        observe("attention", attention.map)
        z = attention.apply(self.value(y_value)) + x_skip
        return z.mT.reshape(sketch.shape)

    def attention(self, query: Tensor, key: Tensor) -> Attention:
        """A, (B, n, n)."""
        return Attention(self.scale * at_least_float32(query), key, stop_gradient=self.stop_gradient)
