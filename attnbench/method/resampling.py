"""Maps made larger and smaller, with gradients that are sums in a fixed order.

PyTorch's bilinear doubling and adaptive pooling add up their gradients on GPUs with atomic operations, in any order, so that
no two runs agree to the last bit; autocast also takes the first out of bfloat16. Bilinear interpolation is linear along each
axis: with x (h, w) of one channel,

    y = U_h x U_w^T,    U_n (2n, n):  U_n[i, j] = max(0, 1 - |p_i - j|),  p_i = i (n - 1) / (2n - 1)

and its gradient is U_h^T g U_w: products, twice.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def doubled(x: Tensor) -> Tensor:
    """Bilinear, corners aligned: (B, C, h, w) -> (B, C, 2h, 2w), in the memory format of `x`."""
    batch, channels, height, width = x.shape
    rows, columns = (_doubling(side, x) for side in (height, width))
    if not x.is_contiguous(memory_format=torch.channels_last) or x.is_contiguous():
        return rows @ (x @ columns.mT)
    last = rows @ x.permute(0, 2, 3, 1).reshape(batch, height, width * channels)
    last = columns @ last.view(batch * 2 * height, width, channels)
    return last.view(batch, 2 * height, 2 * width, channels).permute(0, 3, 1, 2)


def _doubling(side: int, like: Tensor) -> Tensor:
    """U_n, computed in float64."""
    place = torch.arange(2 * side, dtype=torch.float64, device=like.device) * ((side - 1) / (2 * side - 1))
    distance = (place[:, None] - torch.arange(side, dtype=torch.float64, device=like.device)).abs()
    return (1 - distance).clamp_min(0).to(like.dtype)


def average_to(x: Tensor, height: int, width: int) -> Tensor:
    """Averages over areas: (B, C, H, W) -> (B, C, height, width); over equal blocks where the sizes divide."""
    if x.shape[-2] % height or x.shape[-1] % width:
        return F.adaptive_avg_pool2d(x, (height, width))
    blocks = (x.shape[-2] // height, x.shape[-1] // width)
    return x if blocks == (1, 1) else F.avg_pool2d(x, blocks)
