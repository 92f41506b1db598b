"""Cells in this process, one after the other: what `attnbench cell` does for one, and a debugger wants for all."""

from __future__ import annotations

import errno
import os
import signal
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attnbench.cells.cell import Cell
from attnbench.cells.record import DIVERGED, FAILED, INTERRUPTED, new_record
from attnbench.console import Reporter
from attnbench.errors import DiskFull, Diverged, Interrupted
from attnbench.execute.cell_run import CellRun, Settings
from attnbench.execute.state import state_of
from attnbench.store.folder import CellFolder


@dataclass
class Tally:
    """What came of a grid: labels of its cells."""

    finished: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def run_inline(cells: Sequence[Cell], settings: Settings, reporter: Reporter) -> Tally:
    """Run what is not finished. A failed cell is recorded and the rest goes on.

    Raises:
        Interrupted: SIGINT or SIGTERM; the cell in work is saved.
        DiskFull: nothing is lost.
    """
    tally = Tally()
    with stop_signals() as stop:
        waiting: list[Cell] = []
        for wait, queue in ((False, cells), (True, waiting)):
            for cell in queue:
                folder = CellFolder(settings.store / cell.folder_name)
                folder.path.mkdir(parents=True, exist_ok=True)
                if wait:
                    reporter.say(f"{cell.label}: waiting for the other process that runs it")
                with folder.locked(wait=wait, stop=stop.is_set) as ours:
                    if not ours and wait:
                        raise KeyboardInterrupt
                    if not ours:
                        reporter.say(f"{cell.label}: another process runs it; going on with the rest")
                        waiting.append(cell)
                        continue
                    ended_well = run_cell(cell, folder, settings, reporter, stop)
                    (tally.finished if ended_well else tally.failed).append(cell.label)
    return tally


def run_cell(cell: Cell, folder: CellFolder, settings: Settings, reporter: Reporter, stop: threading.Event) -> bool:
    """Run a cell that this process holds, if there is anything to do. Returns whether it is finished; a failure is recorded.

    Raises:
        Interrupted: `stop` was set; the cell is saved.
        DiskFull: the cell is as of its last checkpoint.
    """
    state = state_of(folder, reporter.say)
    if not state.to_do(settings.retry_failed, settings.rerun_stale):
        reporter.say(f"{cell.label}: {state}{state.hint}")
        return state.finished
    reporter.say(f"{cell.label}: {state}")
    if state.restarts or (state.finished and state.changed):
        reporter.say(f"{cell.label}: what was there is kept in {folder.set_aside()}")
        folder.write_record(new_record(cell))
        state = state_of(folder)
    work = CellRun(cell, folder, settings, reporter, stop, new_record(cell))
    try:
        with _full_disk_in_words(settings.store):
            if state.finished:
                work.measure_again()
            else:
                work.run()
    except Interrupted as interrupted:
        if not state.finished:  # else its record still holds
            work.close(INTERRUPTED, str(interrupted))
        raise
    except DiskFull:
        raise
    except Diverged as diverged:
        work.close(DIVERGED, str(diverged))
        reporter.say(f"{cell.label}: {diverged}; the checkpoint before it is kept")
        return False
    except (Exception, SystemExit) as error:  # whatever a module raises, exit() too, is its cell's affair, not the grid's
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        if state.finished:  # it could not be measured again: its record still holds
            reporter.say(f"{cell.label}: not measured again: {reason}")
        else:
            work.close(FAILED, reason, traceback.format_exc())
            reporter.say(f"{cell.label}: failed: {reason} (traceback in {work.folder.record_file})")
        return False
    finally:
        work.progress.remove()
    return True


@contextmanager
def _full_disk_in_words(store: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if disk_is_full(error, store):
            raise DiskFull(store) from error
        raise


def disk_is_full(error: BaseException | None, store: Path) -> bool:
    """Whether a full disk is behind an error, unless it is another than the store's; torch wraps the system's in its own."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return error.filename is None or Path(os.fsdecode(error.filename)).absolute().is_relative_to(store.absolute())
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """SIGINT and SIGTERM set the event; a second SIGINT ends the process as usual. (SLURM sends SIGTERM twice.)"""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: Any) -> None:
        stop.set()
        if number == signal.SIGINT:
            signal.signal(number, before[signal.SIGINT])

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
