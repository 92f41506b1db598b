"""A matrix product that says itself whether NVIDIA GPUs may round its factors to TF32's ten bits.

PyTorch's switch belongs to the whole process. Compiled code runs long after it was traced, and gradients are computed after the
block that set the switch has ended: so the product sets it itself, as one operation that compilers do not look into.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from attnbench.method.precision import tf32


@torch.library.custom_op("attnbench::product", mutates_args=())
def product(a: Tensor, b: Tensor, allow_tf32: bool) -> Tensor:
    """a b: (..., M, K), (..., K, N) -> (..., M, N). Without a gradient of its own."""
    with tf32(None, allow_tf32):
        return a @ b


@product.register_fake
def _shape(a: Tensor, b: Tensor, allow_tf32: bool) -> Tensor:
    return a @ b


@register_flop_formula(torch.ops.attnbench.product)
def _flops(a: torch.Size, b: torch.Size, *_: Any, **__: Any) -> int:
    return 2 * a.numel() * b[-1]
