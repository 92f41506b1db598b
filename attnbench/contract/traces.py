"""Leaving no trace: what a check changes in the process is afterwards what it was."""

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
    """Random numbers, the default type and whether gradients are recorded are afterwards what they were before."""
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
def quiet_compiler() -> Iterator[None]:
    """What the compiler prints, logs and warns of is repeated in its exception, or none of an author's business."""
    heard = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.filterwarnings("ignore", module=r"torch\.")
            yield
    finally:
        logging.disable(heard)


def eager_random_numbers(backend: str) -> Any:
    """Inductor's own dropout would draw other numbers than eager mode."""
    if backend != "inductor":
        return nullcontext()
    import torch._inductor.config as inductor

    return inductor.patch(fallback_random=True)
