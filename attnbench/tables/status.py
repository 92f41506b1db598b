"""`attnbench status`: what is known of every cell of a store, from its files alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from attnbench.cells.record import DIVERGED, FAILED, FINISHED, INTERRUPTED, RUNNING, WAITING
from attnbench.console import Reporter
from attnbench.execute.board import running_table
from attnbench.store.frame import results
from attnbench.store.progress import read_progress

_ORDER = (FINISHED, RUNNING, WAITING, INTERRUPTED, FAILED, DIVERGED)


_LISTED = 20  # failures that are shown one by one


def print_status(store: Path) -> None:
    """Print counts for each data set, the running cells, and those that need a person.

    Raises:
        UserError: there is no such store, or no cell in it.
    """
    frame = results(store, Reporter().say)
    seen = {folder: read_progress(store / folder) for folder in frame.loc[frame["status"] == RUNNING, "folder"]}
    gone = [folder for folder, progress in seen.items() if progress is None]  # killed; the runner took its progress away
    frame.loc[frame["folder"].isin(gone), "status"] = INTERRUPTED
    console = Console(highlight=False)
    console.print(_counts(frame))
    running = frame[frame["status"] == RUNNING]
    if len(running):
        console.print()
        console.print(running_table([(label_of(cell), seen[cell["folder"]]) for cell in running.to_dict("records")]))
    for title, remedy, cells in _attention(frame):
        console.print()
        console.print(title, style="bold", markup=False)
        for line in cells[:_LISTED]:
            console.print(f"  {line}", markup=False, soft_wrap=True)
        if len(cells) > _LISTED:
            console.print(f"  and {len(cells) - _LISTED} more")
        console.print(f"  {remedy}", style="dim", markup=False, soft_wrap=True)


def label_of(cell: Mapping[Any, Any]) -> str:
    """`SGA on cat, seed 0`, of a row of the frame."""
    return f"{cell['label']} on {cell['dataset']}, seed {cell['seed']}"


def _counts(frame: pd.DataFrame) -> Table:
    """A row a data set, a column a status."""
    shown = [status for status in _ORDER if (frame["status"] == status).any()]
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("cells")
    for status in shown:
        table.add_column(status, justify="right")
    table.add_column("all", justify="right")
    groups = [*frame.groupby("dataset", sort=False), *([("all", frame)] if frame["dataset"].nunique() > 1 else [])]
    for name, group in groups:
        counts = Counter(group["status"])
        table.add_row(Text(str(name)), *(str(counts[status] or "-") for status in shown), str(len(group)))
    return table


def _attention(frame: pd.DataFrame) -> Sequence[tuple[str, str, list[str]]]:
    """(title, remedy, lines): what failed, what is stale."""
    found = []
    failed = frame[frame["status"].isin([FAILED, DIVERGED])].to_dict("records")
    if failed:
        lines = [f"{label_of(cell)}: {cell['failure']} ({cell['folder']})" for cell in failed]
        found.append(("failed", "`attnbench run ... --retry-failed` runs them again; tracebacks are in their cell.json", lines))
    stale = frame[frame["stale"].notna() & (frame["status"] == FINISHED)].to_dict("records")
    if stale:
        lines = [f"{label_of(cell)}: {cell['stale']} has changed since ({cell['folder']})" for cell in stale]
        found.append(("stale", "`attnbench run ... --rerun-stale` runs them again, and keeps these in .superseded", lines))
    return found
