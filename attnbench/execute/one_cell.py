"""One cell, in this process: for `attnbench cell FOLDER`, and for each cell of a grid that runs inline."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from attnbench.cells.cell import Cell
from attnbench.cells.record import DIVERGED, FAILED, INTERRUPTED
from attnbench.console import log, warn
from attnbench.devices import pick_device
from attnbench.errors import DiskFull, Diverged, Interrupted, UserError
from attnbench.execute.asked import Asked
from attnbench.execute.cell_run import CellRun
from attnbench.execute.planned_cell import load_planned_cell
from attnbench.execute.signals import stop_signals
from attnbench.execute.state import state_of
from attnbench.files import disk_full_raised
from attnbench.store.folder import CellFolder
from attnbench.store.job import RunOptions, read_job
from attnbench.training.gradient_cosines import check_recordable
from attnbench.training.logs import check_logger

# Exit codes of `attnbench cell`, besides 0, 1 and 2.
EXIT_DISK_FULL, EXIT_BUSY, EXIT_INTERRUPTED = 3, 75, 130


def run_cell(cell: Cell, folder: CellFolder, options: RunOptions, device: torch.device, stop: threading.Event) -> bool:
    """Run a cell that this process has locked, if it has work. Returns whether it is finished; a failure is recorded.

    Raises:
        Interrupted: `stop` was set; the cell is saved.
        DiskFull: the cell is kept as of its last checkpoint.
    """
    folder.set_damaged_record_aside()
    asked = Asked.of(cell, options)
    state = state_of(folder, asked)
    if not state.has_work(options):
        log.info(f"{cell.label}: {state}{state.hint}")
        return state.finished
    log.info(f"{cell.label}: {state}")
    if state.restarts or (state.finished and state.changed):
        log.info(f"{cell.label}: its previous files are kept in {folder.set_aside()}")
        folder.write_record(cell.new_record())
        state = state_of(folder, asked)
    run = CellRun(cell, folder, asked, options, device, stop)
    try:
        with disk_full_raised(folder.path.parent):
            if not state.finished:
                run.train()
            run.measure()
    except Interrupted as interrupted:
        if not run.trained:  # else its record is still valid
            run.close(INTERRUPTED, str(interrupted))
        raise
    except DiskFull:
        raise
    except Diverged as diverged:
        run.close(DIVERGED, str(diverged))
        warn(f"{cell.label}: {diverged}; the checkpoint before it is kept")
        return False
    except (Exception, SystemExit) as error:  # whatever a module raises, even exit(), affects only its cell
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        if run.trained:  # it could not be measured: its record is still valid
            warn(f"{cell.label}: trained, but not measured: {reason}")
        else:
            run.close(FAILED, reason, traceback.format_exc())
            warn(f"{cell.label}: failed: {reason} (traceback in {folder.record_file})")
        return False
    finally:
        run.progress.remove()
    return True


def run_planned_cell(
    path: Path,
    *,
    device: str | None = None,
    options: RunOptions | None = None,
    changes: Mapping[str, Any] | None = None,
    stop_at_eof: bool = False,
) -> int:
    """Run a planned cell, and return the process's exit code.

    Args:
        device: `cuda:1`, `cpu`; by default the first GPU, or the CPU.
        options: by default those of the run that planned it, but for running it again.
        changes: fields of the options, and other values for them.
        stop_at_eof: save and stop when standard input ends.

    Raises:
        UserError: it is not a planned cell, or cannot be run as planned.
    """
    if not path.is_dir():
        raise UserError(f"there is no cell '{path}': `attnbench run --executor commands` plans cells and lists their folders")
    job, folder = read_job(path), CellFolder(path)
    if options is None:
        stored = job.options if job else RunOptions()
        options = stored.model_copy(
            update={"retry_failed": False, "rerun_stale": False, "again": False}
        )  # these are decided each time
    options = options.model_copy(update=changes)
    check_logger(options.log_to)
    where = pick_device(device)
    if sys.__stderr__ is not None and hasattr(faulthandler, "register"):
        faulthandler.register(signal.SIGUSR1, file=sys.__stderr__)  # kill -USR1 shows where a cell hangs
    with stop_signals() as stop, folder.locked(wait=False) as ours:
        if not ours:
            log.info(f"{path.name}: another process is running it")
            return EXIT_BUSY
        if stop_at_eof:
            threading.Thread(target=_at_eof, args=(stop,), daemon=True).start()
        state = state_of(folder)
        if not state.finished and not state.has_work(options):
            log.info(f"{path.name}: {state}{state.hint}")
            return 1
        try:
            cell = load_planned_cell(path, options.evaluation)
            if options.record_gradients:
                check_recordable(cell.recipe)
            return 0 if run_cell(cell, folder, options, where, stop) else 1
        except Interrupted as interrupted:
            log.info(f"{interrupted}; everything is saved, the same command continues from there")
            return EXIT_INTERRUPTED
        except DiskFull as full:
            log.error(f"error: {full}")
            return EXIT_DISK_FULL


def _at_eof(stop: threading.Event) -> None:
    """Set `stop` at the end of standard input, read without Python's buffer: a thread may not hold its lock at exit."""
    while os.read(sys.stdin.fileno(), 1024):
        pass
    stop.set()
