"""Cells on this machine: a process each, spread over its devices."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path

from attnbench.cells.cell import Cell
from attnbench.cells.provenance import now
from attnbench.console import Reporter, duration
from attnbench.errors import DiskFull
from attnbench.execute.board import Board, Running
from attnbench.execute.inline import Tally, disk_is_full, stop_signals
from attnbench.execute.planned_cell import plan_new, write_job
from attnbench.execute.state import state_of
from attnbench.execute.worker import CellOptions, Outcome, Worker
from attnbench.store.folder import CellFolder

POLL = 0.1  # seconds between looks at the processes
LOOK_ELSEWHERE = 2.0  # seconds between looks at cells that another runner has


def run_local(
    cells: Sequence[Cell],
    store: Path,
    reporter: Reporter,
    options: CellOptions,
    *,
    devices: Sequence[str],
    jobs: int | None = None,
) -> Tally:
    """Run what is not finished, `jobs` cells at a time (by default one a device), each in a process on one of the devices.

    Cells that another runner has in work are left to it; they are taken up if it lets go of them unfinished.

    Raises:
        KeyboardInterrupt: SIGINT or SIGTERM; the cells in work are saved.
        DiskFull: cells are as of their last checkpoints.
    """
    jobs = jobs or len(devices)
    slots = deque(islice(cycle(devices), jobs))
    options = replace(options, threads=options.threads or _threads(jobs))
    plan_new(cells, store)
    with stop_signals() as stop, Board(reporter, len(cells)) as board:
        runner = _Runner(cells, store, options, slots, board)
        try:
            while runner.goes_on():
                if stop.is_set():
                    raise KeyboardInterrupt
                time.sleep(POLL)
        except BaseException as error:
            runner.stop()
            if disk_is_full(error, store):
                raise DiskFull(store) from error
            raise
        finally:
            runner.kill()
    return runner.tally


def _threads(jobs: int) -> int | None:
    """Threads of the processor for each of several cells at a time; None leaves it to torch, and to $OMP_NUM_THREADS."""
    if jobs == 1 or "OMP_NUM_THREADS" in os.environ:
        return None
    return max(1, len(os.sched_getaffinity(0)) // jobs) if hasattr(os, "sched_getaffinity") else 1


class _Runner:
    """Cells that wait, cells that run, and cells that another runner has."""

    def __init__(
        self,
        cells: Sequence[Cell],
        store: Path,
        options: CellOptions,
        slots: deque[str],
        board: Board,
    ) -> None:
        self.store, self.options, self.slots, self.board = store, options, slots, board
        self.waiting = deque(cells)
        self.running: dict[Worker, Cell] = {}
        self.elsewhere: list[Cell] = []
        self.tally = Tally()
        self._started, self._looked = now(), 0.0

    def goes_on(self) -> bool:
        """Start what can start, see what has ended. Returns whether anything is left."""
        while self.slots and self.waiting:
            self._take(self.waiting.popleft())
        for worker in list(self.running):
            if (outcome := worker.poll()) is not None:
                self._ended(worker, outcome)
        if self.elsewhere and time.monotonic() - self._looked > LOOK_ELSEWHERE:
            self._looked = time.monotonic()
            self._look_elsewhere()
        running = [Running(cell.label, worker.folder.path) for worker, cell in self.running.items()]
        self.board.show(running, waiting=len(self.waiting), elsewhere=len(self.elsewhere))
        return bool(self.waiting or self.running or self.elsewhere)

    def stop(self) -> None:
        """Ask all processes to save and to end, and wait for that."""
        self.board.say("stopping: waiting for the running cells to save")
        for worker in self.running:
            worker.stop()
        while self.running:
            for worker in list(self.running):
                if worker.poll() is not None:
                    cell = self.running.pop(worker)
                    self.board.say(f"{cell.label}: {state_of(worker.folder)}")
            time.sleep(POLL)

    def kill(self) -> None:
        for worker in self.running:
            worker.kill()

    def _take(self, cell: Cell) -> None:
        folder = CellFolder(self.store / cell.folder_name)
        state = state_of(folder)
        if not state.finished and folder.is_held():
            self.board.say(f"{cell.label}: another process runs it; going on with the rest")
            self.elsewhere.append(cell)
            return
        failed_meanwhile = state.failed and state.ended >= self._started  # in another runner: it is not tried again here
        if failed_meanwhile or not state.to_do(self.options.retry_failed, self.options.rerun_stale):
            self._count(cell, failed=state.failed)
            self.board.say(f"{cell.label}: {state}{state.hint}")
            return
        device = self.slots.popleft()
        worker = Worker(folder.path, replace(self.options, device=device), label=cell.label, say=self.board.say)
        write_job(cell, folder, self.board.say)
        worker.start()
        self.running[worker] = cell
        self.board.say(f"{cell.label}: {state}, on {device}")

    def _ended(self, worker: Worker, outcome: Outcome) -> None:
        if outcome == "interrupted":  # by somebody else's signal: it was not asked to end
            again = worker.restart("told to end")
            if again is None:
                return
            outcome = again
        cell = self.running.pop(worker)
        self.slots.append(worker.options.device or "cpu")
        if outcome == "disk full":
            raise DiskFull(self.store)
        if outcome == "busy":
            self.elsewhere.append(cell)
            return
        self._count(cell, failed=outcome != "finished")
        self.board.say(f"{cell.label}: {state_of(worker.folder)}, after {duration(worker.seconds)}")

    def _look_elsewhere(self) -> None:
        still: list[Cell] = []
        for cell in self.elsewhere:
            folder = CellFolder(self.store / cell.folder_name)
            if folder.is_held():
                still.append(cell)
            else:
                self.waiting.append(cell)  # finished, or let go of: taking it up tells
        self.elsewhere = still

    def _count(self, cell: Cell, *, failed: bool) -> None:
        (self.tally.failed if failed else self.tally.finished).append(cell.label)
        self.board.count(failed=failed)
