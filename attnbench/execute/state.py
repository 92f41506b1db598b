"""What a run finds of a cell, and what it does with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from attnbench import weights
from attnbench.cells.record import DIVERGED, FAILED, FINISHED, INTERRUPTED, RUNNING, WAITING
from attnbench.cells.sources import changed_sources
from attnbench.console import Say
from attnbench.store.folder import CellFolder


@dataclass(frozen=True)
class State:
    """What a run finds of a cell.

    Attributes:
        status: `new`, or one of the store's.
        step: of its checkpoint.
        failure: why it failed or diverged.
        arrived: networks that its metrics lacked and that are here now.
        changed: source files of its module whose code is not what it was.
        ended: when, in UTC, as in the record.
    """

    status: str
    step: int = 0
    ended: str = ""
    failure: str = ""
    arrived: tuple[str, ...] = ()
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

    def to_do(self, retry_failed: bool, rerun_stale: bool) -> bool:
        """Whether a run with these options works on the cell."""
        if self.finished:
            return rerun_stale if self.changed else bool(self.arrived)
        return retry_failed or not self.failed

    @property
    def hint(self) -> str:
        """How to have it run, where it does not."""
        option = "--retry-failed" if self.failed else "--rerun-stale" if self.finished and self.changed else ""
        return f"; {option} runs it again" if option else ""

    def __str__(self) -> str:
        """In words."""
        changed = f"the code of {', '.join(self.changed)} has changed since"
        if self.finished and self.changed:
            return f"finished; stale: {changed}"
        if self.finished and self.arrived:
            return f"finished; measured again: the weights of {', '.join(self.arrived)} are here now"
        if self.failed:
            return f"{self.status}: {self.failure}"
        if self.restarts:
            return f"starts again: {changed} its checkpoint at step {self.step}"
        if self.status in (RUNNING, INTERRUPTED):
            return f"continues at step {self.step}" if self.step else "continues"
        return "new" if self.status == WAITING else self.status


def state_of(folder: CellFolder, say: Say | None = None) -> State:
    """What a run would find. A damaged record is set aside if there is a `say` to tell."""
    if not folder.path.is_dir():
        return State("new")
    record = folder.record(say)
    if record is None:
        return State(INTERRUPTED if (folder.path / "checkpoint.pt").is_file() else "new")
    return State(
        status=record["status"],
        step=record.get("step", 0),
        ended=record.get("ended", ""),
        failure=(record.get("failure") or {}).get("message", ""),
        arrived=_arrived(record),
        changed=tuple(changed_sources(record["module"]) or ()),
    )


def _arrived(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Networks that the metrics of a finished cell lack, if all of them are here now."""
    missing = sorted({metric["missing"] for metric in record.get("metrics", {}).values() if metric.get("missing")})
    return tuple(missing) if all(weights.find(name) for name in missing) else ()
