"""The precision of similarities, softmax and normalisation: at least float32, whatever the rest of the network uses.

Correspondence logits reach the hundreds and column sums fall to 1e-18; half precision loses both.

    with no_autocast(query):
        attention = (at_least_float32(query) @ at_least_float32(key).mT).softmax(-1)

Also the switches of NVIDIA GPUs: whether factors may be rounded to TF32's ten bits, and whether sums have a fixed order.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from attnbench.errors import UserError


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32, or in its own type if wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def no_autocast(x: Tensor) -> AbstractContextManager[None]:
    """Switch autocast off on the device of `x`."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


class PreciseParametrization(ParametrizationList):
    """A weight that is computed from others, as by a spectral norm, with autocast off: its iteration stays in float32."""

    def forward(self) -> Tensor:
        with no_autocast(next(self.parameters())):
            return super().forward()


def keep_parametrizations_precise(network: nn.Module) -> None:
    """Make every parametrization of a network a `PreciseParametrization`, in place."""
    for part in network.modules():
        if type(part) is ParametrizationList:
            part.__class__ = PreciseParametrization


@contextmanager
def tf32(convolutions: bool | None, products: bool | None = False) -> Iterator[None]:
    """Whether float32 convolutions and matrix products, which include similarities, may be rounded to TF32 on NVIDIA GPUs.

    None leaves a switch as it is. They are global to the process: code that does not set them depends on what ran before.

    Raises:
        UserError: one of them was set by PyTorch's newer `fp32_precision`, and cannot be read.
    """
    switches: dict[str, Any] = {"cudnn": torch.backends.cudnn, "cuda.matmul": torch.backends.cuda.matmul}
    wanted = zip(switches.items(), (convolutions, products), strict=True)
    changes = [(switch, _allows_tf32(name, switch), value) for (name, switch), value in wanted if value is not None]
    try:
        for switch, _, value in changes:
            switch.allow_tf32 = value
        yield
    finally:
        for switch, before, _ in changes:
            switch.allow_tf32 = before


def _allows_tf32(name: str, switch: Any) -> bool:
    try:
        return bool(switch.allow_tf32)
    except RuntimeError:  # PyTorch's two kinds of switches contradict each other
        raise UserError(
            f"TF32 was set in this process by fp32_precision, which PyTorch does not mix with allow_tf32: set "
            f"torch.backends.{name}.allow_tf32 instead"
        ) from None


@contextmanager
def sums_in_fixed_order() -> Iterator[None]:
    """cuDNN's deterministic algorithms alone, so that a run that was interrupted computes what an undisturbed one does."""
    switch = torch.backends.cudnn
    before = (switch.deterministic, switch.benchmark)
    try:
        switch.deterministic, switch.benchmark = True, False
        yield
    finally:
        switch.deterministic, switch.benchmark = before
