"""The rule of precision for similarities, softmax and normalisation: float32 at least, whatever surrounds them.

Correspondence logits reach the hundreds and column masses fall to 1e-18; half precisions lose both.

    with no_autocast(query):
        attention = (at_least_float32(query) @ at_least_float32(key).mT).softmax(-1)
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32, or in its own type where that is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def no_autocast(x: Tensor) -> AbstractContextManager[None]:
    """Switch autocast off on the device of `x`."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)
