"""`attnbench cell FOLDER`: one cell, in this process."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
from pathlib import Path

from attnbench.console import Reporter
from attnbench.devices import pick_device
from attnbench.errors import DiskFull, Interrupted, UserError
from attnbench.execute.cell_run import Settings
from attnbench.execute.inline import run_cell, stop_signals
from attnbench.execute.planned_cell import load_cell
from attnbench.execute.state import state_of
from attnbench.execute.worker import EXIT_BUSY, EXIT_DISK_FULL, EXIT_INTERRUPTED
from attnbench.store.folder import CellFolder
from attnbench.training.gradient_cosines import check_recordable


def run_command(
    path: Path,
    *,
    device: str | None,
    checkpoint_seconds: float,
    retry_failed: bool,
    rerun_stale: bool,
    record_gradients: bool,
    stop_at_eof: bool,
) -> int:
    """Run a planned cell, and return the process's exit code.

    Raises:
        UserError: it is no planned cell, or cannot be run as planned.
    """
    reporter, folder = Reporter(), CellFolder(path)
    if not path.is_dir():
        raise UserError(f"there is no cell '{path}': `attnbench run --executor commands` plans cells and lists their folders")
    settings = Settings(path.parent, pick_device(device), checkpoint_seconds, retry_failed, rerun_stale, record_gradients)
    if sys.__stderr__ is not None and hasattr(faulthandler, "register"):
        faulthandler.register(signal.SIGUSR1, file=sys.__stderr__)  # kill -USR1 shows what a hanging cell is at
    with stop_signals() as stop, folder.locked(wait=False) as ours:
        if not ours:
            reporter.say(f"{path.name}: another process runs it")
            return EXIT_BUSY
        if stop_at_eof:
            threading.Thread(target=_at_eof, args=(stop,), daemon=True).start()
        state = state_of(folder, reporter.say)
        if not state.to_do(retry_failed, rerun_stale):
            reporter.say(f"{path.name}: {state}{state.hint}")
            return 0 if state.finished else 1
        try:
            cell = load_cell(path, reporter.progress)
            if record_gradients:
                check_recordable(cell.recipe)
            return 0 if run_cell(cell, folder, settings, reporter, stop) else 1
        except Interrupted as interrupted:
            reporter.say(f"{interrupted}; everything is saved, the same command goes on from there")
            return EXIT_INTERRUPTED
        except DiskFull as full:
            reporter.say(f"error: {full}")
            return EXIT_DISK_FULL


def _at_eof(stop: threading.Event) -> None:
    """Reads without Python's buffer, whose lock a thread may not hold when the interpreter ends."""
    while os.read(sys.stdin.fileno(), 1024):
        pass
    stop.set()
