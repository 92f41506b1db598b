"""Networks compiled part by part.

One graph of a whole generator would have to be compiled anew for every module. Its encoders, its residual blocks (one graph for
all four), its decoder and everything else are the same code with the same shapes for all modules: compiled apart, their
kernels are found in the compiler's cache by the next cell, which then compiles its module alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from attnbench.method.backbone import Colorizer


def compile_parts(network: nn.Module) -> None:
    """Compile a network in place. A generator's parts are compiled each by itself; others are one part."""
    for part in _parts(network):
        part.forward = compiled(part.forward)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, compiled at its first call, for each set of shapes anew: training has one, and generic code is slower."""
    return torch.compile(function, dynamic=False)


@contextmanager
def uncompiled() -> Iterator[None]:
    """Inside the block, compiled networks run as they were written."""
    if "torch._dynamo" not in sys.modules:  # nothing can be compiled, and its import takes a second
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def _parts(network: nn.Module) -> Iterator[nn.Module]:
    if not isinstance(network, Colorizer):
        yield network
        return
    yield from (network.sketch_encoder, network.reference_encoder, network.module, *network.residual, network.decoder)
