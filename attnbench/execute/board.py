"""The display of a running grid: a board in a terminal, plain lines elsewhere; `attnbench status` shows the same."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from attnbench.console import PLAIN_INTERVAL, draws, duration, log, screen
from attnbench.store.progress import Progress, read_progress

SILENT = 300.0  # seconds without an update before a cell is shown as silent
_SHOWN = ("G", "rec")  # losses that fit on a line
REFRESH = 0.5  # seconds between looks at the running cells


@dataclass(frozen=True)
class Running:
    """A running cell, whichever process runs it."""

    label: str
    folder: Path


class Board:
    """Counts of a grid's cells, and one line per running cell."""

    def __init__(self, cells: int) -> None:
        self.cells = cells
        self.finished = self.failed = 0
        self._whole: float | None = None  # seconds that a cell's training takes, at the latest known speed
        self._started = self._shown = self._logged = time.monotonic()
        self._live = Live(console=screen(), auto_refresh=False, transient=True) if draws() else None

    def __enter__(self) -> Board:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def count(self, *, failed: bool) -> None:
        """Count a cell that needs no more work."""
        if failed:
            self.failed += 1
        else:
            self.finished += 1

    def show(self, running: Sequence[Running], *, waiting: int, elsewhere: int = 0) -> None:
        """Update the display. It may be called at any rate; it draws at intervals."""
        now = time.monotonic()
        if now - self._shown < REFRESH:
            return
        self._shown = now
        if self._live:
            seen = [(cell.label, read_progress(cell.folder)) for cell in running]
            self._live.update(Group(running_table(seen), self.summary(seen, waiting, elsewhere)), refresh=True)
        elif now - self._logged >= PLAIN_INTERVAL:
            self._logged = now
            seen = [(cell.label, read_progress(cell.folder)) for cell in running]
            for label, progress in seen:
                log.info(f"  {label}: {' '.join(filter(None, figures(progress)))}")
            log.info(f"  {self.summary(seen, waiting, elsewhere)}")

    def summary(self, running: Sequence[tuple[str, Progress | None]], waiting: int, elsewhere: int) -> str:
        """`5 of 24 cells done, 1 failed, 2 running, 16 waiting; 12 min so far, about 40 min left`."""
        done = f"{self.finished} of {self.cells} cells done"
        counts = {"failed": self.failed, "running": len(running), "run by another process": elsewhere, "waiting": waiting}
        parts = [done, *(f"{count} {what}" for what, count in counts.items() if count)]
        line = f"{', '.join(parts)}; {duration(time.monotonic() - self._started)} so far"
        left = self._left([progress for _, progress in running], waiting)
        return f"{line}, about {duration(left)} of training left" if left else line

    def _left(self, running: Sequence[Progress | None], waiting: int) -> float | None:
        """Seconds of training, at the speed of the cells that run, or ran last; None until a first step has been timed."""
        if timed := [whole for progress in running if progress and (whole := progress.training_seconds) is not None]:
            self._whole = sum(timed) / len(timed)
        if self._whole is None or not running:
            return None
        own = [_own_left(progress, self._whole) for progress in running]
        return max(*own, (sum(own) + waiting * self._whole) / len(own))


def _own_left(progress: Progress | None, whole: float) -> float:
    """Seconds of training left to a running cell: its own estimate, or its share of a whole cell where it has none yet."""
    if progress is None:
        return whole
    return progress.seconds_left if progress.seconds_left is not None else whole * (1 - progress.step / progress.total)


def running_table(cells: Sequence[tuple[str, Progress | None]]) -> Table:
    """One row per cell: its step, losses, speed, time left, and where it runs."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("running", overflow="fold")
    for heading in ("step", "losses", "images/s", "left", "where"):
        table.add_column(heading, justify="right" if heading in ("step", "images/s") else "left", no_wrap=True)
    for label, progress in cells:
        table.add_row(Text(label), *(Text(figure) for figure in figures(progress)), Text(where(progress)))
    return table


def figures(progress: Progress | None) -> tuple[str, str, str, str]:
    """Step, losses, images per second and time left, as text; empty if there is none."""
    if progress is None:
        return "", "starting", "", ""
    if progress.age > SILENT:
        return f"{progress.step}/{progress.total}", f"silent for {duration(progress.age)}", "", ""
    if progress.phase == "measuring":
        return f"{progress.done}/{progress.of}", "measuring", "", ""
    losses = " ".join(f"{name} {value:.3g}" for name, value in progress.losses.items() if name in _SHOWN)
    speed = f"{progress.images_per_second:.3g}" if progress.images_per_second else ""
    left = duration(progress.seconds_left) if progress.seconds_left is not None else ""
    return f"{progress.step}/{progress.total}", losses, speed, left


def where(progress: Progress | None) -> str:
    """The device of a cell, and its SLURM job and host if it has one."""
    if progress is None:
        return ""
    return f"{progress.device}, job {progress.job} on {progress.host}" if progress.job else progress.device
