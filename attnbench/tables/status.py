"""The state of every cell of a store, from its files alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from attnbench.cells.record import DIVERGED, FAILED, FINISHED, INTERRUPTED, RUNNING, STATUSES, cell_label
from attnbench.store.frame import results
from attnbench.store.progress import Progress, read_progress


@dataclass(frozen=True)
class Trouble:
    """Cells that need attention: what is wrong with them, what to do about it, and a line per cell."""

    title: str
    remedy: str
    lines: Sequence[str]


@dataclass(frozen=True)
class StoreStatus:
    """The state of a store.

    Attributes:
        counts: dataset -> status -> number of cells; `all` is their sum if there are several datasets.
        running: label and progress of each running cell.
        troubles: failed, stale and unmeasured cells.
    """

    counts: Mapping[str, Mapping[str, int]]
    running: Sequence[tuple[str, Progress | None]]
    troubles: Sequence[Trouble]

    @property
    def statuses(self) -> list[str]:
        """Those that any cell has, in the order in which they are shown."""
        return [status for status in STATUSES if any(counts[status] for counts in self.counts.values())]


def status_of(store: Path) -> StoreStatus:
    """Counts per dataset, the running cells, and those that need attention.

    Raises:
        UserError: the store does not exist, or has no cells.
    """
    frame = results(store).drop_duplicates("folder")  # a cell has a row for each of its measurements
    seen = running_now(frame, store)
    frame = frame.assign(status=statuses_now(frame, seen))
    groups = [*frame.groupby("dataset", sort=False), *([("all", frame)] if frame["dataset"].nunique() > 1 else [])]
    running = frame[frame["status"] == RUNNING].to_dict("records")
    return StoreStatus(
        {str(dataset): Counter(group["status"]) for dataset, group in groups},
        [(row_label(cell), seen[cell["folder"]]) for cell in running],
        _troubles(frame, store),
    )


def running_now(frame: pd.DataFrame, store: Path) -> dict[str, Progress]:
    """Folder -> progress of the cells that a process trains, or measures for the first time, at this moment."""
    unmeasured = frame["measurement"].isna() if "measurement" in frame else True
    perhaps = (frame["status"] == RUNNING) | ((frame["status"] == FINISHED) & unmeasured)
    seen = {folder: read_progress(store / folder) for folder in frame.loc[perhaps, "folder"]}
    return {folder: progress for folder, progress in seen.items() if progress is not None}


def statuses_now(frame: pd.DataFrame, running: Mapping[str, Progress]) -> list[str]:
    """The cells' statuses. One that is recorded as running, without a process, was killed: it counts as interrupted."""
    return [
        RUNNING if folder in running else INTERRUPTED if status == RUNNING else status
        for status, folder in zip(frame["status"], frame["folder"], strict=True)
    ]


def row_label(cell: Mapping[Any, Any]) -> str:
    """The label of a row of the frame: `SGA on cat, seed 0`; without the seed where nothing was trained here."""
    if isinstance(cell.get("elsewhere"), str):
        return f"{cell['label']} on {cell['dataset']}"
    return cell_label(cell["label"], cell["dataset"], cell["seed"])


def _troubles(frame: pd.DataFrame, store: Path) -> list[Trouble]:
    found = []
    failed = frame[frame["status"].isin([FAILED, DIVERGED])].to_dict("records")
    if failed:
        lines = [f"{row_label(cell)}: {cell['failure']} ({cell['folder']})" for cell in failed]
        remedy = "`attnbench run ... --retry-failed` runs them again; tracebacks are in their cell.json"
        found.append(Trouble("failed", remedy, lines))
    stale = frame[frame["stale"].notna() & (frame["status"] == FINISHED)].to_dict("records")
    if stale:
        lines = [f"{row_label(cell)}: {cell['stale']} has changed since ({cell['folder']})" for cell in stale]
        remedy = "`attnbench run ... --rerun-stale` runs them again, and keeps these in .superseded"
        found.append(Trouble("stale", remedy, lines))
    lacking = frame["measurement"].isna() if "measurement" in frame else True
    unmeasured = frame[(frame["status"] == FINISHED) & lacking].to_dict("records")
    if unmeasured:
        lines = [f"{row_label(cell)} ({cell['folder']})" for cell in unmeasured]
        found.append(Trouble("not measured", f"`attnbench measure {store}` measures them", lines))
    return found
