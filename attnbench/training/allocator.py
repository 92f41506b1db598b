"""Memory that a step frees stays with the process, for the next step.

By default glibc maps every block of more than 32 MB separately and returns it to the system when it is freed. A training step
on a CPU makes hundreds of such tensors, and every page of each is faulted in anew, which takes a quarter of the step's time.
GPUs do not need this: PyTorch keeps freed GPU memory itself.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # of mallopt(3)
_KEPT = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1}
_GIVEN_BACK = {_MMAP_MAX: 65536, _MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 64 << 20}  # what glibc's thresholds grow to


@contextmanager
def freed_memory_kept(device: torch.device) -> Iterator[None]:
    """Keep freed memory inside the block, if the device is the CPU and the C library is glibc; otherwise no effect."""
    if device.type != "cpu" or _glibc() is None:
        yield
        return
    _set(_KEPT)
    try:
        yield
    finally:
        _set(_GIVEN_BACK)
        _glibc().malloc_trim(0)  # returns the kept memory to the system


def _set(options: dict[int, int]) -> None:
    for option, value in options.items():
        _glibc().mallopt(option, value)


@cache
def _glibc() -> Any:
    """The C library; None if it is not glibc."""
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
