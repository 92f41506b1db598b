"""What a step frees is there for the next one, without page faults."""

from __future__ import annotations

import ctypes
import json

import pytest
from runs import Python

FAULTS = """
import json, resource, sys
import torch
from attnbench.training.allocator import freed_memory_kept

def faults(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(16 << 20)  # 64 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

found = {"bare": faults(4)}
with freed_memory_kept(torch.device("cuda")):
    found["gpu"] = faults(4)
with freed_memory_kept(torch.device("cpu")):
    faults(10)  # until the heap has room for its alignment as well
    found["inside"] = faults(4)
found["after"] = faults(4)
json.dump(found, sys.stdout)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="the C library is not glibc")
def test_large_tensors_are_made_of_what_was_freed_only_inside_and_only_on_a_cpu(
    python: Python,
) -> None:
    """In a process of its own: a heap with large gaps, as other tests leave it, needs no pages either way.

    Each has all the faults of a process that was left alone, or none; but in one run of four `after` has half of them.
    """
    found = json.loads(python("-c", FAULTS).stdout)
    if found["bare"] < 1000:
        pytest.skip("the system gives memory in huge pages")
    assert found["inside"] < found["bare"] / 4
    assert found["gpu"] > found["bare"] / 4
    assert found["after"] > found["bare"] / 4
