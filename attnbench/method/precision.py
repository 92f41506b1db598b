"""The precision of similarities, softmax and normalisation: at least float32, whatever the rest of the network uses.

Correspondence logits reach the hundreds and column sums fall to 1e-18; half precision loses both.

    with no_autocast(query):
        attention = (at_least_float32(query) @ at_least_float32(key).mT).softmax(-1)

Also the switches that let NVIDIA GPUs round factors to TF32's ten bits: for convolutions only, PyTorch's default.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32, or in its own type if wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def no_autocast(x: Tensor) -> AbstractContextManager[None]:
    """Switch autocast off on the device of `x`."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


@contextmanager
def tf32(convolutions: bool, products: bool = False) -> Iterator[None]:
    """Whether float32 convolutions and matrix products, which include similarities, may be rounded to TF32 on NVIDIA GPUs.

    The switches are global to the process: code that does not set them depends on what ran before.
    """
    switches: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [switch.allow_tf32 for switch in switches]
    try:
        for switch, value in zip(switches, (convolutions, products), strict=True):
            switch.allow_tf32 = value
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value
