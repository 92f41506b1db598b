"""What a step frees is there for the next one, without page faults."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys

import pytest

PAGES = 64 * 256  # of a tensor of 64 MB
FAULTS = f"""
import json, resource, sys
import torch
from attnbench.allocator import freed_memory_kept

def faults(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.zeros({PAGES << 10})
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

with freed_memory_kept(torch.device("cuda")):
    gpu = faults(4)
with freed_memory_kept(torch.device("cpu")):
    faults(10)  # until the heap has room for its alignment as well
    inside = faults(4)
json.dump({{"gpu": gpu, "inside": inside, "after": faults(4)}}, sys.stdout)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="the C library is not glibc")
def test_large_tensors_are_made_of_what_was_freed_only_inside_and_only_on_a_cpu() -> None:
    """In a process of its own: a heap with large gaps, as other tests leave it, needs no pages either way."""
    found = json.loads(subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True).stdout)
    assert found["inside"] < PAGES
    assert found["gpu"] > 2 * PAGES
    assert found["after"] > 2 * PAGES
