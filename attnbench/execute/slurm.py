"""A grid on a SLURM cluster: submit the cells that have work, and follow them by their files until all have ended."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from attnbench.cells.cell import Cell
from attnbench.console import log, warn
from attnbench.errors import UserError
from attnbench.execute.asked import Asked
from attnbench.execute.board import Board, Running
from attnbench.execute.executor import Executor, Outcome, check_jobs
from attnbench.execute.planned_cell import plan_cell, plan_new_cells
from attnbench.execute.slurm_jobs import CellJob, active, check_cluster, submit_array
from attnbench.execute.state import State, state_of
from attnbench.store.folder import CellFolder
from attnbench.store.job import RunOptions, read_job, update_job
from attnbench.store.progress import read_progress

DEFAULT_TIME = "4:00:00"  # of a job: less than most partitions allow, and short jobs start sooner
POLL = 2.0  # seconds between checks of the cells
ASK_SLURM = 15.0  # seconds between queries of the queue
LOST_AFTER = 3  # consecutive queries that find neither a job nor an end before a cell counts as lost


@dataclass
class _Sent:
    """A cell that SLURM or another runner has taken.

    Attributes:
        before: the state in which it was found.
        job: its job id, if SLURM has it.
        lost: consecutive queries that found no job.
    """

    cell: Cell
    folder: CellFolder
    asked: Asked
    before: State
    job: str | None = None
    lost: int = 0


@dataclass(frozen=True)
class Slurm(Executor):
    """One job per cell, in one array; options that are None are left to the cluster.

    Attributes:
        partition: one, or several separated by commas.
        time: limit of a job, in sbatch's format: minutes, or `HH:MM:SS`, `2-00:00:00`; by default DEFAULT_TIME.
        gpus: per cell; 0 for none.
        cpus: per cell.
        memory: per cell, with a unit: `32G`.
        jobs: how many cells run at once; by default as many as the cluster has room for.
        setup: shell lines to run before the cell, for example `module load cuda`.
        extra: any other options of sbatch, without their dashes; flags have the value "".
        detach: return as soon as the cells are submitted.
        warning_seconds: how long before its end a job is warned, to finish a step and save. SLURM may be 60 s early.
    """

    name = "slurm"
    flags: ClassVar = {
        "--partition": "partition",
        "--time": "time",
        "--gpus": "gpus",
        "--cpus": "cpus",
        "--memory": "memory",
        "--jobs": "jobs",
        "--setup": "setup",
        "--slurm": "extra",
        "--detach": "detach",
    }
    refusals: ClassVar = {"--devices": "--gpus sets the number per cell"}

    partition: str | None = None
    time: int | str | None = None
    gpus: int = 1
    cpus: int | None = None
    memory: str | None = None
    jobs: int | None = None
    setup: Sequence[str] = ()
    extra: Mapping[str, str] = field(default_factory=dict)
    detach: bool = False
    warning_seconds: int = 120

    def check(self, options: RunOptions) -> None:
        """As `Executor.check`: submitit and SLURM's commands are installed, SLURM responds, time and partition are valid."""
        super().check(options)
        check_jobs(self.jobs)
        minutes(self.time or DEFAULT_TIME)
        check_cluster((self.partition or "").split(",") if "clusters" not in self.extra else ())

    @property
    def leaves_cells(self) -> bool:
        return self.detach

    @property
    def place(self) -> str:
        return f"{self.jobs} at a time on the cluster" if self.jobs else "on the cluster"

    def at_once(self, cells: Sequence[Cell]) -> int:
        return self.jobs or len(cells)

    def parameters(self, cells: int) -> dict[str, Any]:
        """Parameters for submitit's SlurmExecutor."""
        return {
            "job_name": "attnbench",
            "partition": self.partition,
            "time": minutes(self.time or DEFAULT_TIME),
            "gpus_per_node": self.gpus or None,  # not 0, which clusters without GPUs reject
            "cpus_per_task": self.cpus,
            "mem": self.memory,
            "array_parallelism": self.jobs or cells,
            "signal_delay_s": self.warning_seconds,
            "setup": list(self.setup),
            "srun_args": [f"--cpus-per-task={self.cpus}"] if self.cpus else None,  # srun no longer inherits it from sbatch
            "wckey": None,  # submitit's default is not valid everywhere
            "additional_parameters": {"requeue": True, **{name: value or True for name, value in self.extra.items()}},
        }

    def submit(self, cells: Sequence[tuple[str, Path]], store: Path, options: RunOptions) -> dict[Path, str]:
        """Submit cells (label, folder) to SLURM. Returns the job id of each folder.

        Raises:
            UserError: as `check`, or SLURM rejects the jobs.
        """
        if not cells:
            return {}
        self.check(options)
        grace_seconds = self.warning_seconds / 2  # SLURM may warn late
        device = None if self.gpus else "cpu"
        jobs = [CellJob(label, folder.absolute(), options, device, grace_seconds) for label, folder in cells]
        ids = submit_array(jobs, store, self.parameters(len(cells)))
        return {folder: ids[folder.absolute()] for _, folder in cells}

    def run(self, cells: Sequence[Cell], store: Path, options: RunOptions) -> Outcome:
        """As `Executor.run`. Cells whose jobs are queued already are not submitted again; on SIGINT the jobs continue."""
        plan_new_cells(cells, store, options)
        with Board(len(cells)) as board:
            outcome = Outcome()
            sent = _send(self, cells, store, board, options, outcome)
            if self.detach:
                log.info(f"`attnbench status {store}` shows their progress; the same command without --detach follows them")
                return outcome
            try:
                _follow(sent, board, options, outcome)
            except KeyboardInterrupt:
                arrays = sorted({one.job.partition("_")[0] for one in sent if one.job})
                log.info(f"the jobs continue: `attnbench status {store}` shows them, `scancel {' '.join(arrays)}` cancels them")
                raise
        return outcome


def minutes(limit: int | str) -> int:
    """A time limit in sbatch's format, as minutes, rounded up.

    >>> [minutes(limit) for limit in (90, "90", "0:30", "01:30:00", "2-00", "1-12:30", "2-00:00:00")]
    [90, 90, 1, 90, 2880, 2190, 2880]

    Raises:
        UserError: it is not a time.
    """
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", str(limit).strip())
    if not found:
        raise UserError(f"time '{limit}' is not a time limit that SLURM accepts: minutes, HH:MM:SS or D-HH:MM:SS")
    days, *rest = (int(part) if part else None for part in found.groups())
    parts = [part for part in rest if part is not None]
    if days is None and len(parts) < 3:  # minutes, or minutes:seconds; else hours come first
        parts.insert(0, 0)
    hours, whole, seconds = [*parts, 0, 0][:3]
    total = (days or 0) * 24 * 60 + hours * 60 + whole + (seconds > 0)
    if total == 0:
        raise UserError(f"time '{limit}' is zero: give the minutes that a job may take")
    return total


def _send(slurm: Slurm, cells: Sequence[Cell], store: Path, board: Board, options: RunOptions, outcome: Outcome) -> list[_Sent]:
    """Submit the cells that have work and that no process is running. Returns all that SLURM or a runner has now."""
    found = []
    for cell in cells:
        folder = CellFolder(store / cell.folder_name)
        job = read_job(folder.path)
        asked = Asked.of(cell, options)
        found.append(_Sent(cell, folder, asked, state_of(folder, asked), job.slurm if job else None))
    queued = active(one.job for one in found if one.job)
    if queued is None:
        raise UserError("SLURM does not respond (squeue), so it is unknown which cells are queued already: try again later")
    sent, new = [], []
    for one in found:
        if one.job in queued:
            log.info(f"{one.cell.label}: {queued[one.job]}, as job {one.job}")
            sent.append(one)
        elif not one.before.has_work(options):
            _count(one, one.before, board, outcome)
        elif one.folder.is_held():
            log.info(f"{one.cell.label}: another process is running it")
            sent.append(one)
        else:
            plan_cell(one.cell, one.folder, options)
            new.append(one)
    jobs = slurm.submit([(one.cell.label, one.folder.path) for one in new], store, options)
    for one in new:
        one.job = jobs[one.folder.path]
        update_job(one.folder.path, slurm=one.job)
        log.info(f"{one.cell.label}: {one.before}, submitted as job {one.job}")
    return sent + new


def _follow(sent: Sequence[_Sent], board: Board, options: RunOptions, outcome: Outcome) -> None:
    waiting, asked = list(sent), 0.0
    while waiting:
        if time.monotonic() - asked > ASK_SLURM:
            asked = time.monotonic()
            _look_for_jobs(waiting)
        left = []
        for one in waiting:
            state = state_of(one.folder, one.asked)
            if _has_ended(one, state, options):
                _count(one, state, board, outcome)
            elif one.lost >= LOST_AFTER:
                warn(f"{one.cell.label}: its job {one.job} is gone ({state}); the same command submits it again")
                outcome.failed.append(one.cell.label)
                board.count(failed=True)
            else:
                left.append(one)
        waiting = left
        running = [Running(one.cell.label, one.folder.path) for one in waiting if read_progress(one.folder.path)]
        board.show(running, waiting=len(waiting) - len(running))
        time.sleep(POLL if waiting else 0)


def _has_ended(one: _Sent, state: State, options: RunOptions) -> bool:
    """Whether the cell has ended since it was found. A metric that failed stays open, and yet it has been tried."""
    if state.finished and state.untried:
        return False
    since = (state.ended, state.measured) != (one.before.ended, one.before.measured)
    return (state.finished or state.failed) and (since or not state.has_work(options))


def _look_for_jobs(waiting: Sequence[_Sent]) -> None:
    queued = active([one.job for one in waiting if one.job])
    if queued is None:  # without a response, nothing is known of the jobs
        return
    for one in waiting:
        one.lost = 0 if one.job in queued or one.folder.is_held() else one.lost + 1


def _count(one: _Sent, state: State, board: Board, outcome: Outcome) -> None:
    (warn if state.failed else log.info)(f"{one.cell.label}: {state}{state.hint}")
    (outcome.failed if state.failed else outcome.finished).append(one.cell.label)
    board.count(failed=state.failed)
