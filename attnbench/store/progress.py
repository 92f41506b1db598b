"""progress.json: how far a running cell is, for the runner's board and for `attnbench status`, also on another machine."""

from __future__ import annotations

import json
import os
import platform
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from attnbench.files import write_text

INTERVAL = 1.0  # seconds between writes
Phase = Literal["starting", "training", "measuring"]


def slurm_job() -> str | None:
    """The id of the SLURM job that this process runs in: `12`, or `12_3` in an array."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


@dataclass(frozen=True)
class Progress:
    """The progress of a running cell at one moment.

    Attributes:
        step, total: training steps, done and in total.
        done, of: test pairs, done and in total, while it is measured.
        losses: the latest, by short name.
        images_per_second: over the latest steps.
        seconds_left: seconds of training left, at that speed.
        updated: when this was written, in seconds since 1970.
        host, pid, device: where it runs.
        job: the id of its SLURM job.
    """

    phase: Phase
    step: int
    total: int
    device: str
    done: int = 0
    of: int = 0
    losses: dict[str, float] = field(default_factory=dict)
    images_per_second: float | None = None
    seconds_left: float | None = None
    updated: float = field(default_factory=time.time)
    host: str = field(default_factory=platform.node)
    pid: int = field(default_factory=os.getpid)
    job: str | None = field(default_factory=slurm_job)

    @property
    def age(self) -> float:
        """Seconds since it was written."""
        return max(0.0, time.time() - self.updated)

    @property
    def training_seconds(self) -> float | None:
        """Seconds that the whole training takes at this speed; None before the first timed step, and after the last."""
        if self.seconds_left is None or self.step >= self.total:
            return None
        return self.seconds_left * self.total / (self.total - self.step)


class ProgressFile:
    """Writes a cell's progress at intervals, and removes the file at the end."""

    def __init__(self, folder: Path):
        self.path = folder / "progress.json"
        self._written = float("-inf")

    def write(self, progress: Progress, *, always: bool = False) -> None:
        if not always and time.monotonic() - self._written < INTERVAL:
            return
        self._written = time.monotonic()
        # Not synced to the disk: after a crash nobody needs it.
        write_text(self.path, json.dumps(asdict(progress)), sync=False)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def read_progress(folder: Path) -> Progress | None:
    """The latest progress of a cell, or None if it is not running."""
    try:
        return Progress(**json.loads((folder / "progress.json").read_text()))
    except (OSError, ValueError, TypeError):  # not there, or of another version
        return None
