"""Cells as jobs of a SLURM cluster, through submitit: one array, a job a cell; its logs are in `<store>/.slurm/`.

SLURM warns a job some time before its end (`--signal`), and at a preemption where the cluster is set up so; elsewhere it sends
SIGTERM. The cell then saves and ends, and its job requeues itself, until the cell is finished. So a job's time limit limits no
cell; it has to cover the start-up and a few steps.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnbench.errors import UserError, unknown
from attnbench.execute.worker import CellOptions, Outcome, Worker
from attnbench.store.folder import CellFolder
from attnbench.store.progress import slurm_job

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

DEFAULT_TIME = "4:00:00"  # of a job: less than most partitions allow, and short jobs are let in sooner
MAX_REQUEUES = 10_000  # submitit counts every warning in a job of less than ten minutes as a time-out, and gives up after three
STARTS_WITHOUT_STEP = 3  # of a job in a row, before its cell counts as failed
BUSY_SECONDS = 120.0  # how long a job waits for its cell: SLURM may start it again while its last process still ends
ASK_SECONDS = 60  # until squeue is taken not to answer
_POLL = 0.2  # seconds


@dataclass(frozen=True)
class SlurmOptions:
    """What each cell's job asks of SLURM; what is None is left to the cluster.

    Attributes:
        time: limit of a job, as sbatch takes it: minutes, or `HH:MM:SS`, `2-00:00:00`; by default DEFAULT_TIME.
        gpus: for a cell; 0 for none.
        cpus: for a cell.
        memory: with a unit, `32G`.
        parallel: how many cells run at once; by default as many as there is room for.
        signal_seconds: how long before its end a job is warned: it has to finish a step and save. SLURM may be 60 s early.
        setup: shell lines before the cell, for example `module load cuda`.
        extra: any other option of sbatch, without its dashes; flags have the value "".
    """

    partition: str | None = None
    time: int | str | None = None
    gpus: int = 1
    cpus: int | None = None
    memory: str | None = None
    parallel: int | None = None
    signal_seconds: int = 120
    setup: Sequence[str] = ()
    extra: Mapping[str, str] = field(default_factory=dict)

    def parameters(self, cells: int) -> dict[str, Any]:
        """For submitit's SlurmExecutor."""
        return {
            "job_name": "attnbench",
            "partition": self.partition,
            "time": minutes(self.time or DEFAULT_TIME),
            "gpus_per_node": self.gpus or None,  # not 0, which clusters without GPUs refuse
            "cpus_per_task": self.cpus,
            "mem": self.memory,
            "array_parallelism": self.parallel or cells,
            "signal_delay_s": self.signal_seconds,
            "setup": list(self.setup),
            "srun_args": [f"--cpus-per-task={self.cpus}"] if self.cpus else None,  # srun no longer takes it over from sbatch
            "wckey": None,  # submitit's default is not valid everywhere
            "additional_parameters": {"requeue": True, **{name: value or True for name, value in self.extra.items()}},
        }


def minutes(limit: int | str) -> int:
    """A time limit as sbatch takes it, in minutes, rounded up.

    >>> [minutes(limit) for limit in (90, "90", "0:30", "01:30:00", "2-00", "1-12:30", "2-00:00:00")]
    [90, 90, 1, 90, 2880, 2190, 2880]

    Raises:
        UserError: it is none.
    """
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", str(limit).strip())
    if not found:
        raise UserError(f"time '{limit}' is none that SLURM knows: minutes, HH:MM:SS or D-HH:MM:SS")
    days, *rest = (int(part) if part else None for part in found.groups())
    parts = [part for part in rest if part is not None]
    if days is None and len(parts) < 3:  # minutes, or minutes:seconds; else hours come first
        parts.insert(0, 0)
    hours, whole, seconds = [*parts, 0, 0][:3]
    total = (days or 0) * 24 * 60 + hours * 60 + whole + (seconds > 0)
    if total == 0:
        raise UserError(f"time '{limit}' is no time: give the minutes that a job may take")
    return total


def check(options: SlurmOptions) -> None:
    """Raises UserError if submitit or SLURM's commands are missing, SLURM does not answer, or time or partition is none."""
    minutes(options.time or DEFAULT_TIME)
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise UserError('SLURM jobs need submitit: pip install "attnbench[slurm]"') from None
    for command in ("sbatch", "srun"):
        if shutil.which(command) is None:
            raise UserError(
                f"{command} is not on the path: run this where SLURM jobs are submitted, a login node of the cluster"
            )
    partitions = _partitions()
    for name in (options.partition or "").split(",") if "clusters" not in options.extra else ():
        if name and name not in partitions:
            raise unknown("partition", name, partitions)


def submit(cells: Sequence[tuple[str, Path]], store: Path, options: SlurmOptions, cell: CellOptions) -> dict[Path, str]:
    """Hand cells (label, folder) to SLURM, as one array. Returns the job id of each folder.

    The jobs run in this environment (variables, working directory, Python), which they therefore have to find on their nodes.

    Raises:
        UserError: submitit or SLURM's commands are missing, or SLURM refuses.
    """
    if not cells:
        return {}
    check(options)
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    cell = replace(cell, grace=options.signal_seconds / 2)  # SLURM may be late with its warning
    jobs = [CellJob(label, folder.absolute(), cell) for label, folder in cells]
    executor = SlurmExecutor(store.absolute() / ".slurm", max_num_timeout=MAX_REQUEUES)
    executor.update_parameters(**options.parameters(len(cells)))
    try:
        with _outside_of_jobs(), contextlib.redirect_stderr(io.StringIO()):  # submitit repeats there what it raises
            submitted = executor.submit_array(jobs)
    except (FailedJobError, FailedSubmissionError) as refused:
        raise UserError(f"SLURM refuses the jobs: {_reason(str(refused))}") from None
    return {folder: job.job_id for (_, folder), job in zip(cells, submitted, strict=True)}


def active(job_ids: Iterable[str]) -> dict[str, str] | None:
    """What the jobs are at that SLURM has not done with: `running`, `completing`, `pending (Resources)`, ...

    None where SLURM does not answer.
    """
    wanted = set(job_ids)
    if not wanted:
        return {}
    found = _squeue(sorted({job.partition("_")[0] for job in wanted}))
    return None if found is None else {job: state for job, state in found.items() if job in wanted}


@dataclass
class CellJob:
    """A cell as a job: submitit pickles it, calls it in the job, and asks for a checkpoint when SLURM warns of the end.

    Attributes:
        step: that the cell had reached at the last requeue.
        idle: starts in a row that got no further.
    """

    label: str
    folder: Path
    options: CellOptions
    step: int = 0
    idle: int = 0

    def __post_init__(self) -> None:
        self._watch: _Watch | None = None

    def __call__(self) -> str:
        """Run the cell, or go on with it. A job whose cell does not finish has failed."""
        options = replace(self.options, threads=self.options.threads or _cpus_of_job())
        waits_until = time.monotonic() + BUSY_SECONDS
        while True:
            self._watch = _Watch(Worker(self.folder, options, label=self.label, say=_say))
            self._watch.start()
            outcome = self._watch.wait()
            if outcome != "busy" or time.monotonic() > waits_until:
                break
            time.sleep(_POLL)
        if outcome == "interrupted" and _is_running(slurm_job()):
            # SIGTERM, without a warning: preemption with a time of grace. (Of jobs that are cancelled SLURM says so.)
            os.kill(os.getpid(), _warning())
        if outcome != "finished":
            sys.exit(f"{self.label}: {outcome}")
        _say(f"{self.label}: {outcome}")
        return outcome

    def checkpoint(self) -> DelayedSubmission:
        """Have the cell saved. Returns what goes on with it after the requeue; a job that is not to be requeued exits here."""
        from submitit.helpers import DelayedSubmission

        outcome = self._watch.stop() if self._watch else "interrupted"
        if outcome not in ("interrupted", "busy"):
            sys.exit(0 if outcome == "finished" else f"{self.label}: {outcome}")
        step = CellFolder(self.folder).step
        idle = 0 if step > self.step else self.idle + 1
        if idle >= STARTS_WITHOUT_STEP:
            reason = f"{idle} jobs in a row ended before a new step was saved (step {step}): give them more time (--time)"
            CellFolder(self.folder).fail(reason)
            sys.exit(f"{self.label}: {reason}")
        _say(f"{self.label}: saved at step {step}; requeued")
        return DelayedSubmission(CellJob(self.label, self.folder, self.options, step, idle))


class _Watch(threading.Thread):
    """A worker, watched beside the main thread.

    Signal handlers run in the main thread and wait for the worker's end; in the middle of a wait of that thread they could not.
    """

    def __init__(self, worker: Worker):
        super().__init__(name=worker.label, daemon=True)
        self.worker = worker
        self.stopping = False
        self.outcome: Outcome | None = None

    def run(self) -> None:
        # SLURM warns all processes of a job. The cell's takes over this mask, and so does not die of it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {_warning()})
        self.outcome = "interrupted" if self.stopping else self._run_worker()

    def _run_worker(self) -> Outcome:
        self.worker.start()
        while (outcome := self.worker.poll()) is None:
            if self.stopping:
                self.worker.stop()
            time.sleep(_POLL)
        return outcome

    def wait(self) -> Outcome:
        while self.is_alive():
            time.sleep(_POLL)  # not join(), which is not for signal handlers
        if self.outcome is None:
            raise RuntimeError("the cell's process could not be watched: see the traceback above")
        return self.outcome

    def stop(self) -> Outcome:
        """Ask the cell to save and to end, and wait for that."""
        self.stopping = True
        return self.wait() if self.ident else "interrupted"


def _warning() -> signal.Signals:
    """The signal with which SLURM warns of a job's end, by submitit's wish: SIGUSR2, or $SUBMITIT_PREEMPT_SIGNAL."""
    from submitit.core.job_environment import JobEnvironment

    return signal.Signals[f"SIG{JobEnvironment.USR_SIG}"]


def _cpus_of_job() -> int | None:
    return int(os.environ["SLURM_CPUS_ON_NODE"]) if "SLURM_CPUS_ON_NODE" in os.environ else None


def _is_running(job: str | None) -> bool:
    return job is not None and (active([job]) or {}).get(job) == "running"


def _partitions() -> list[str]:
    """Raises UserError if SLURM does not answer."""
    command = ["sinfo", "--noheader", "--all", "--format=%R"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=ASK_SECONDS, check=True)
    except (FileNotFoundError, subprocess.SubprocessError) as error:
        said = error.stderr if isinstance(error, subprocess.CalledProcessError) else ""
        reason = _reason(said or str(error))
        raise UserError(f"SLURM does not answer ({reason}): run this where `sinfo` shows the cluster's partitions") from None
    return answer.stdout.split()


def _squeue(jobs: Sequence[str]) -> dict[str, str] | None:
    """The states of jobs and of arrays' jobs; without those that SLURM has forgotten. None where it does not answer."""
    command = ["squeue", "--noheader", "--array", "--format=%i|%T|%r", f"--jobs={','.join(jobs)}"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=ASK_SECONDS, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    if answer.returncode and "Invalid job id" not in answer.stderr:
        return None
    rows = [line.split("|", 2) for line in answer.stdout.splitlines()]
    return {job: _in_words(state, reason) for job, state, reason in rows}


def _in_words(state: str, reason: str) -> str:
    words = state.lower().replace("_", " ")
    return f"{words} ({reason})" if state == "PENDING" and reason != "None" else words


def _reason(error: str) -> str:
    """What a command of SLURM says, in one line.

    >>> _reason("sbatch: error: invalid partition: x\\nsbatch: error: Batch job submission failed: Invalid partition")
    'invalid partition: x; Batch job submission failed: Invalid partition'
    """
    said = re.findall(r"^s[a-z]+: (?:error: |fatal: )?(.+)$", error, re.MULTILINE)
    return "; ".join(said) or " ".join(error.split())


@contextlib.contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Without the variables of the job in which this may run (`salloc`, `srun --pty`), which would count for the new ones."""
    if "SLURM_JOB_ID" not in os.environ:
        yield
        return
    of_job = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("SLURM_") and name != "SLURM_CONF"}
    try:
        yield
    finally:
        os.environ.update(of_job)


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - into the job's log
