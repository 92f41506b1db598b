"""How long a cell has trained: with the waits for its device, without pictures, measurements and checkpoints in between."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

import torch

from attnbench.devices import wait_for


class Stopwatch:
    """Seconds of training. A GPU works on after it has been asked to, so before the watch stops it is waited for.

    Args:
        seconds: of an earlier start.
    """

    def __init__(self, device: torch.device, seconds: float = 0.0):
        self.device = device
        self._before = seconds
        self._since: float | None = None  # None while it stands

    @property
    def seconds(self) -> float:
        return self._before + (monotonic() - self._since if self._since is not None else 0.0)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the block's seconds, until the device is done with it."""
        self._since = monotonic()
        try:
            yield
        finally:
            self._stop()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the block's seconds, if the watch runs."""
        if self._since is None:
            yield
            return
        self._stop()
        try:
            yield
        finally:
            wait_for(self.device)
            self._since = monotonic()

    def _stop(self) -> None:
        wait_for(self.device)
        self._before, self._since = self.seconds, None
