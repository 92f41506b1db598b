"""What a step frees is there for the next one, without page faults."""

from __future__ import annotations

import ctypes
import resource

import pytest
import torch

from attnbench.allocator import freed_memory_kept

CPU = torch.device("cpu")
MEGABYTES = 64


def faults(times: int) -> int:
    """Page faults of making and dropping a large tensor again and again."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.zeros(MEGABYTES << 18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="the C library is not glibc")
def test_large_tensors_are_made_of_what_was_freed_and_only_inside() -> None:
    pages = MEGABYTES * 256
    with freed_memory_kept(CPU):
        faults(10)  # until the heap has room for its alignment as well
        assert faults(4) < pages
    assert faults(4) > 2 * pages


def test_for_a_gpu_nothing_changes() -> None:
    with freed_memory_kept(torch.device("cuda")):
        assert faults(4) > 2 * MEGABYTES * 256 or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version")
