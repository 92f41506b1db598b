"""The state in which a run finds a cell, and what the run does with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from attnbench.cells.cell import Cell
from attnbench.cells.record import DIVERGED, FAILED, FINISHED, INTERRUPTED, RUNNING, WAITING
from attnbench.cells.sources import changed_sources
from attnbench.execute.asked import Asked, can_be_measured
from attnbench.store.folder import CellFolder
from attnbench.store.job import RunOptions


@dataclass(frozen=True)
class State:
    """The state in which a run finds a cell.

    Attributes:
        status: `new`, or the status in its record.
        step: of its checkpoint.
        failure: why it failed or diverged.
        unmeasured: what of it is asked for and not measured yet, a text for each protocol.
        unmeasurable: why that cannot be measured, if it cannot.
        untried: whether a metric that is asked for was never tried.
        measured: when the newest of its numbers was measured, in UTC.
        changed: source files of its module whose code has changed since.
        ended: when it ended, in UTC, as in the record.
    """

    status: str
    step: int = 0
    ended: str = ""
    failure: str = ""
    unmeasured: tuple[str, ...] = ()
    unmeasurable: str = ""
    untried: bool = False
    measured: str = ""
    changed: tuple[str, ...] = ()

    @property
    def finished(self) -> bool:
        return self.status == FINISHED

    @property
    def failed(self) -> bool:
        return self.status in (FAILED, DIVERGED)

    @property
    def restarts(self) -> bool:
        """Whether going on would mix two versions of a module."""
        return bool(self.changed) and not self.finished and self.step > 0

    def has_work(self, options: RunOptions) -> bool:
        """Whether a run with these options has work to do on the cell."""
        if self.finished:
            return options.rerun_stale if self.changed else bool(self.unmeasured) and not self.unmeasurable
        return options.retry_failed or not self.failed

    @property
    def hint(self) -> str:
        """How to run the cell again, if this run does not."""
        option = "--retry-failed" if self.failed else "--rerun-stale" if self.finished and self.changed else ""
        return f"; {option} runs it again" if option else ""

    def __str__(self) -> str:
        """`new`, `continues at step 40`, `failed: ...`: the state in messages."""
        changed = f"the code of {', '.join(self.changed)} has changed since"
        if self.finished and self.changed:
            return f"finished; stale: {changed}"
        if self.finished and self.unmeasured:
            open_ = "; ".join(self.unmeasured)
            return (
                f"finished; cannot be measured: {open_}: {self.unmeasurable}"
                if self.unmeasurable
                else f"trained; measures {open_}"
            )
        if self.failed:
            return f"{self.status}: {self.failure}"
        if self.restarts:
            return f"starts again: {changed} its checkpoint at step {self.step}"
        if self.status in (RUNNING, INTERRUPTED):
            return f"continues at step {self.step}" if self.step else "continues"
        return "new" if self.status == WAITING else self.status


def state_of(folder: CellFolder, asked: Asked | None = None) -> State:
    """The state in which a run would find a cell.

    Args:
        asked: what is to be measured of it; without it, a trained cell is finished.
    """
    if not folder.path.is_dir():
        return State("new")
    record = folder.record()
    if record is None:
        return State(INTERRUPTED if (folder.path / "checkpoint.pt").is_file() else "new")
    todo = asked.open(record) if asked and record.status == FINISHED else []
    return State(
        status=record.status,
        step=record.step,
        ended=record.ended or "",
        failure=record.failure.message if record.failure else "",
        unmeasured=tuple(map(str, todo)),
        unmeasurable=(can_be_measured(folder.path, record, todo) or "") if todo else "",
        untried=any(not one.tried for one in todo),
        measured=max((number.measured or "" for one in record.measurements for number in one.metrics.values()), default=""),
        changed=tuple(changed_sources(record.module) or ()),
    )


def with_work(cells: Sequence[Cell], store: Path, options: RunOptions) -> list[Cell]:
    """The cells on which a run has work to do."""
    return [cell for cell in cells if state_of(CellFolder(store / cell.folder_name), Asked.of(cell, options)).has_work(options)]
