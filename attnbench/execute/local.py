"""Cells on this machine: one process per cell, spread over the devices."""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import ClassVar, Self

from attnbench.cells.cell import Cell
from attnbench.cells.provenance import now
from attnbench.console import duration, log, warn
from attnbench.devices import pick_devices
from attnbench.errors import DiskFull
from attnbench.execute.asked import Asked
from attnbench.execute.board import Board, Running
from attnbench.execute.executor import DeviceExecutor, Outcome, check_jobs
from attnbench.execute.gpu_sharing import usual_slots
from attnbench.execute.planned_cell import plan_cell, plan_new_cells
from attnbench.execute.signals import stop_signals
from attnbench.execute.state import state_of, with_work
from attnbench.execute.worker import Ending, Worker
from attnbench.files import disk_is_full
from attnbench.store.folder import CellFolder
from attnbench.store.job import RunOptions

POLL = 0.1  # seconds between checks of the processes
LOOK_ELSEWHERE = 2.0  # seconds between checks of cells that another runner is running


@dataclass(frozen=True)
class Local(DeviceExecutor):
    """Processes on this machine.

    Attributes:
        devices: devices on which cells run, in turns; by default all GPUs, or the CPU.
        jobs: cells at a time; by default one per device, and more where they fit on a GPU, see `usual_slots`.
    """

    name = "local"
    flags: ClassVar = {"--devices": "devices", "--jobs": "jobs"}
    refusals: ClassVar = {"--time": "--time-limit sets the minutes per cell"}

    jobs: int | None = None

    def check(self, options: RunOptions) -> None:
        super().check(options)
        check_jobs(self.jobs)

    def fitted(self, cells: Sequence[Cell]) -> Self:
        """As `Executor.fitted`; it names a device as often as cells share it."""
        devices = pick_devices(self.devices)
        slots = list(islice(cycle(devices), self.jobs)) if self.jobs else usual_slots(devices, cells)
        return replace(self, devices=slots, jobs=len(slots))

    @property
    def place(self) -> str:
        if self.jobs is None:
            return super().place
        return f"{self.jobs if self.jobs > 1 else 'one'} at a time {super().place}"

    def at_once(self, cells: Sequence[Cell]) -> int:
        return len(self.fitted(cells).devices)

    def run(self, cells: Sequence[Cell], store: Path, options: RunOptions) -> Outcome:
        """As `Executor.run`. Cells that another runner is running are left to it, and taken up if it leaves them
        unfinished."""
        fitted = self.fitted(cells)
        slots = fitted.devices
        if len(slots) > 1:
            log.info(f"cells run {fitted.place}")
        plan_new_cells(cells, store, options)
        with stop_signals() as stop, Board(len(cells)) as board:
            runner = _Runner(cells, store, options, slots, board, busy=len(with_work(cells, store, options)))
            try:
                while runner.advance():
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
        return runner.outcome


def _threads(jobs: int) -> int | None:
    """CPU threads per cell if several run at a time; None leaves the count to torch and $OMP_NUM_THREADS."""
    if jobs == 1 or "OMP_NUM_THREADS" in os.environ:
        return None
    return max(1, len(os.sched_getaffinity(0)) // jobs) if hasattr(os, "sched_getaffinity") else 1


class _Runner:
    """Waiting cells, running cells, and cells that another runner is running."""

    def __init__(
        self,
        cells: Sequence[Cell],
        store: Path,
        options: RunOptions,
        slots: Sequence[str],
        board: Board,
        busy: int,
    ) -> None:
        self.store, self.options, self.slots, self.board = store, options, list(slots), board
        self.threads = _threads(len(slots))
        self.sharing = Counter(slots[:busy])  # device -> the most cells that will share it
        self.waiting = deque(cells)
        self.running: dict[Worker, Cell] = {}
        self.elsewhere: list[Cell] = []
        self.outcome = Outcome()
        self._started, self._looked = now(), 0.0

    def advance(self) -> bool:
        """Start the cells that have a free slot, and handle those that have ended. Returns whether any are left."""
        while self.slots and self.waiting:
            self._take(self.waiting.popleft())
        for worker in list(self.running):
            if (ending := worker.poll()) is not None:
                self._ended(worker, ending)
        if self.elsewhere and time.monotonic() - self._looked > LOOK_ELSEWHERE:
            self._looked = time.monotonic()
            self._look_elsewhere()
        running = [Running(cell.label, worker.folder.path) for worker, cell in self.running.items()]
        self.board.show(running, waiting=len(self.waiting), elsewhere=len(self.elsewhere))
        return bool(self.waiting or self.running or self.elsewhere)

    def stop(self) -> None:
        """Ask all processes to save and exit, and wait until they have."""
        log.info("stopping: waiting for the running cells to save")
        for worker in self.running:
            worker.stop()
        while self.running:
            for worker in list(self.running):
                if worker.poll() is not None:
                    cell = self.running.pop(worker)
                    log.info(f"{cell.label}: {state_of(worker.folder)}")
            time.sleep(POLL)

    def kill(self) -> None:
        for worker in self.running:
            worker.kill()

    def _take(self, cell: Cell) -> None:
        folder = CellFolder(self.store / cell.folder_name)
        state = state_of(folder, Asked.of(cell, self.options))
        if folder.is_held() and (not state.finished or state.has_work(self.options)):
            log.info(f"{cell.label}: another process is running it; continuing with the rest")
            self.elsewhere.append(cell)
            return
        failed_meanwhile = state.failed and state.ended >= self._started  # by another runner: it is not retried here
        if failed_meanwhile or not state.has_work(self.options):
            self._count(cell, failed=state.failed)
            log.info(f"{cell.label}: {state}{state.hint}")
            return
        busy = Counter(other.device for other in self.running)
        device = min(self.slots, key=busy.__getitem__)  # so that none is shared while another is idle
        self.slots.remove(device)
        sharing = self.sharing[device]
        worker = Worker(folder.path, self.options, label=cell.label, device=device, threads=self.threads, sharing=sharing)
        plan_cell(cell, folder, self.options)
        worker.start()
        self.running[worker] = cell
        log.info(f"{cell.label}: {state}, on {device}")

    def _ended(self, worker: Worker, ending: Ending) -> None:
        if ending == "interrupted":  # by a signal from elsewhere: this runner did not stop it
            again = worker.restart("stopped by a signal")
            if again is None:
                return
            ending = again
        cell = self.running.pop(worker)
        self.slots.append(worker.device or "cpu")
        if ending == "disk full":
            raise DiskFull(self.store)
        if ending == "busy":
            self.elsewhere.append(cell)
            return
        self._count(cell, failed=ending != "finished")
        report = log.info if ending == "finished" else warn
        report(f"{cell.label}: {state_of(worker.folder)}, after {duration(worker.seconds)}")

    def _look_elsewhere(self) -> None:
        still: list[Cell] = []
        for cell in self.elsewhere:
            folder = CellFolder(self.store / cell.folder_name)
            if folder.is_held():
                still.append(cell)
            else:
                self.waiting.append(cell)  # finished or released: `_take` finds out which
        self.elsewhere = still

    def _count(self, cell: Cell, *, failed: bool) -> None:
        (self.outcome.failed if failed else self.outcome.finished).append(cell.label)
        self.board.count(failed=failed)
