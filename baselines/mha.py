"""MHA: multi-head attention with queries and keys normalised, in the block that transformers have today.

Papers: "Attention Is All You Need", 2017, arXiv 1706.03762, section 3.2 (heads); "On Layer Normalization in the Transformer
Architecture", 2020, arXiv 2002.04745 (norms before); "Scaling Vision Transformers to 22 Billion Parameters", 2023, arXiv
2302.05442, section 2 (queries and keys normalised, so that logits cannot grow). A block takes tokens X and a message Y, both
(B, n, C), to H heads of D = C / H channels:

    q, k, v = LN(X) W_q, LN(Y) W_k, LN(Y) W_v            (B, H, n, D)   a norm for X and one for Y
    A   = softmax_j( RMS(q)_i . RMS(k)_j / sqrt(D) )     (B, H, n, m)   RMS: root-mean-square norm over D, with a gain
    X'  = X + concat_H(A v) W_o                          (B, n, C)
    out = X' + W_2 GELU(W_1 LN(X'))                      (B, n, C)      W_1: C -> 4 C

The module is a cross block, X = f_s, Y = f_r, then a self block, X = Y = what the cross block gave, as SGA has two; `layers`
repeats both. Where H does not divide C, D is rounded up.

| option               | what it changes                                                                                    |
|----------------------|----------------------------------------------------------------------------------------------------|
| `heads=1`            | one map for all channels, as the other modules have                                                |
| `qk_norm=false`      | A = softmax(q k^T / sqrt(D)), as before 2023                                                       |
| `ffn=0`              | attention alone, without the feed-forward part                                                     |
| `stop_gradient=true` | no gradient through A: W_q, W_k, and the norms that lead to A alone, keep their initial values     |
| `fused=false`        | the same by `Attention`: on a GPU slower, and with sums in a fixed order                           |

Our choices: no encoding of positions, since no module here has one, and zero padding tells f_s and f_r where they are; no
dropout; PyTorch's default initialisation, as the backbone has; no norm after the last block, so that f_s passes to the decoder
as it does in SCFT and SGA; two norms in the self block, too, where X and Y are the same. Queries and keys have the norm of the
2023 paper, which centres nothing and has no bias. Other than there, all other norms are layer norms, W_q, W_k and W_v have
biases, as SCFT's have, and the feed-forward part follows attention instead of running beside it.

Heads of up to 256 channels go to PyTorch's fused attention, which does not hold A where the device has a kernel for their width
(a GPU in float32: a multiple of 4, as the default's 124 is); wider ones to `Attention`. An observer gets the mean of the heads'
maps. On a GPU the backward of the fused kernels adds up in no fixed order: a run that is repeated or resumed there equals
another up to rounding. With `fused=false`, as of the other modules, it is meant to be equal to the last bit.
"""

from __future__ import annotations

import math
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from attnbench import Attention, at_least_float32, branch, no_autocast, observe

WIDEST = 256  # channels of a head for which there are fused kernels
EPSILON = 1e-6  # in the root mean square


class MHA(nn.Module):
    """Multi-head attention as transformers have it since 2023: pre-norm, normalised queries and keys, feed-forward.

    (B, C, h, w), (B, C, h, w) -> (B, C, h, w).

    Args:
        channels: C.
        heads: H, maps per block, 1 or more.
        qk_norm: normalise queries and keys, each head's by itself.
        ffn: width of the feed-forward part, in multiples of C; 0 leaves it out.
        layers: how many times a cross block is followed by a self block, 1 or more.
        stop_gradient: block the gradient through the attention maps.
        fused: use PyTorch's fused kernels where heads are narrow enough.
    """

    def __init__(
        self,
        channels: int,
        *,
        heads: int = 8,
        qk_norm: bool = True,
        ffn: int = 4,
        layers: int = 1,
        stop_gradient: bool = False,
        fused: bool = True,
    ):
        super().__init__()
        for name, value, least in (("heads", heads, 1), ("ffn", ffn, 0), ("layers", layers, 1)):
            if value < least:
                raise ValueError(f"{name}={value!r}: expected {least} or more")
        block = partial(Block, channels, heads=heads, qk_norm=qk_norm, ffn=ffn, stop_gradient=stop_gradient, fused=fused)
        self.cross_blocks = nn.ModuleList([block() for _ in range(layers)])
        self.self_blocks = nn.ModuleList([block() for _ in range(layers)])

    def forward(self, sketch: Tensor, reference: Tensor) -> Tensor:
        x, y = sketch.flatten(2).mT, reference.flatten(2).mT  # (B, n, C)
        for cross_block, self_block in zip(self.cross_blocks, self.self_blocks, strict=True):
            x = cross_block(x, y)
            x = self_block(x, x)
        return x.mT.reshape(sketch.shape)


class Block(nn.Module):
    """One block, as in the header: tokens (B, n, C), message (B, m, C) -> (B, n, C)."""

    def __init__(self, channels: int, *, heads: int, qk_norm: bool, ffn: int, stop_gradient: bool, fused: bool):
        super().__init__()
        self.heads = heads
        self.head_width = -(-channels // heads)  # rounded up
        self.stop_gradient = stop_gradient
        self.fused = fused and self.head_width <= WIDEST
        width = heads * self.head_width
        self.norm = nn.LayerNorm(channels)
        self.norm_message = nn.LayerNorm(channels)
        self.query = nn.Linear(channels, width)
        self.key = nn.Linear(channels, width)
        self.value = nn.Linear(channels, width)
        self.norm_query = nn.RMSNorm(self.head_width, EPSILON) if qk_norm else nn.Identity()
        self.norm_key = nn.RMSNorm(self.head_width, EPSILON) if qk_norm else nn.Identity()
        self.project = nn.Linear(width, channels)
        self.feed_forward = FeedForward(channels, ffn * channels) if ffn else None

    def forward(self, tokens: Tensor, message: Tensor) -> Tensor:
        x_skip, x_query = branch(tokens, "skip", "query")
        y_value, y_key = branch(message, "value", "key")
        query, key = self.query_and_key(x_query, y_key)
        observe("attention", lambda: self.mean_map(query, key))
        gathered = self.gather(query, key, self.split(self.value(self.norm_message(y_value))))
        x = x_skip + self.project(gathered.transpose(1, 2).flatten(2))
        return x if self.feed_forward is None else x + self.feed_forward(x)

    def query_and_key(self, tokens: Tensor, message: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, n, D), (B, H, m, D), normalised in at least float32."""
        query, key = self.split(self.query(self.norm(tokens))), self.split(self.key(self.norm_message(message)))
        with no_autocast(query):
            query, key = self.norm_query(at_least_float32(query)), self.norm_key(at_least_float32(key))
        return (query.detach(), key.detach()) if self.stop_gradient else (query, key)

    def split(self, x: Tensor) -> Tensor:
        """(B, n, H D) -> (B, H, n, D)."""
        return x.unflatten(-1, (self.heads, self.head_width)).transpose(1, 2)

    def gather(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """A v, (B, H, n, D)."""
        if self.fused:
            query, key = query.to(value.dtype), key.to(value.dtype)
            return F.scaled_dot_product_attention(query, key, value)
        each = (x.flatten(0, 1) for x in (query, key))  # heads as samples
        return Attention(*each, temperature=math.sqrt(self.head_width)).apply(value.flatten(0, 1)).view(query.shape)

    def mean_map(self, query: Tensor, key: Tensor) -> Tensor:
        """The mean of the heads' maps, (B, n, m)."""
        with no_autocast(query):
            return (query @ key.mT / math.sqrt(self.head_width)).softmax(-1).mean(1)


class FeedForward(nn.Sequential):
    """W_2 GELU(W_1 LN(x)): (..., C) -> (..., C)."""

    def __init__(self, channels: int, hidden: int):
        super().__init__(nn.LayerNorm(channels), nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels))
