"""Restoring what a check changes in the process."""

from __future__ import annotations

import io
import logging
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from typing import Any

import numpy as np
import torch


@contextmanager
def undisturbed() -> Iterator[None]:
    """Enable gradients in the block; restore the random state, the default dtype and the gradient mode after it."""
    everywhere = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    python, numpy, dtype = random.getstate(), np.random.get_state(), torch.get_default_dtype()
    with torch.random.fork_rng(devices=everywhere), torch.enable_grad():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
            torch.set_default_dtype(dtype)


@contextmanager
def no_progress_lines() -> Iterator[None]:
    """In the block, attnbench tells nothing but warnings."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.INFO))
    try:
        yield
    finally:
        logging.disable(before)


@contextmanager
def quiet_compiler() -> Iterator[None]:
    """Silence the compiler: its output, logs and warnings are repeated in its exception or irrelevant to a module's author."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.filterwarnings("ignore", module=r"torch\.")
            yield
    finally:
        logging.disable(disabled)


def eager_random_numbers(backend: str) -> Any:
    """Make inductor draw the random numbers of eager mode, unlike its own dropout."""
    if backend != "inductor":
        return nullcontext()
    import torch._inductor.config as inductor

    return inductor.patch(fallback_random=True)
