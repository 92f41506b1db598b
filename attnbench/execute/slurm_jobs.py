"""Cells as SLURM jobs, through submitit: one array with one job per cell; the logs are in `<store>/.slurm/`.

SLURM warns a job some time before its end (`--signal`), and at a preemption if the cluster is set up so; elsewhere it sends
SIGTERM. The cell then saves and exits, and its job requeues itself, until the cell is finished. So a job's time limit does not
limit the cell; it only has to cover the start-up and a few steps.
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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnbench.console import log, messages_shown
from attnbench.errors import UserError, unknown
from attnbench.execute.worker import Ending, Worker
from attnbench.store.folder import CellFolder
from attnbench.store.job import RunOptions
from attnbench.store.progress import slurm_job

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

MAX_REQUEUES = 10_000  # submitit counts every warning in a job of less than ten minutes as a time-out, and gives up after three
STARTS_WITHOUT_STEP = 3  # of a job, consecutive, before its cell counts as failed
BUSY_SECONDS = 120.0  # how long a job waits for its cell: SLURM may start it again before its last process has exited
ASK_SECONDS = 60  # after which SLURM counts as not responding
_POLL = 0.2  # seconds


def check_cluster(partitions: Sequence[str] = ()) -> None:
    """Raises UserError if submitit or a SLURM command is missing, SLURM does not respond, or lacks one of these partitions."""
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise UserError('SLURM jobs need submitit: pip install "attnbench[slurm]"') from None
    for command in ("sbatch", "srun"):
        if shutil.which(command) is None:
            raise UserError(
                f"{command} is not on the PATH: run this where SLURM jobs are submitted, on a login node of the cluster"
            )
    known = _partitions()
    for name in partitions:
        if name and name not in known:
            raise unknown("partition", name, known)


def submit_array(jobs: Sequence[CellJob], store: Path, parameters: Mapping[str, Any]) -> dict[Path, str]:
    """Submit cells to SLURM, as one array. Returns the job id of each folder.

    The jobs run in this environment (variables, working directory, Python), which therefore has to exist on their nodes.

    Args:
        parameters: for submitit's SlurmExecutor.

    Raises:
        UserError: SLURM rejects the jobs.
    """
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    executor = SlurmExecutor(store.absolute() / ".slurm", max_num_timeout=MAX_REQUEUES)
    executor.update_parameters(**parameters)
    try:
        with _outside_of_jobs(), contextlib.redirect_stderr(io.StringIO()):  # submitit repeats there what it raises
            submitted = executor.submit_array(jobs)
    except (FailedJobError, FailedSubmissionError) as rejected:
        raise UserError(f"SLURM rejects the jobs: {_reason(str(rejected))}") from None
    return {cell.folder: job.job_id for cell, job in zip(jobs, submitted, strict=True)}


def active(job_ids: Iterable[str]) -> dict[str, str] | None:
    """The states of those jobs that SLURM still has: `running`, `completing`, `pending (Resources)`, ...

    None if SLURM does not respond.
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
        device: `cpu`, or by default the GPU that the job has.
        grace_seconds: see `Worker`.
        step: the step that the cell had reached at the last requeue.
        idle: consecutive starts that saved no new step.
    """

    label: str
    folder: Path
    options: RunOptions
    device: str | None = None
    grace_seconds: float = 60.0
    step: int = 0
    idle: int = 0

    def __post_init__(self) -> None:
        self._watch: _Watch | None = None

    def __call__(self) -> str:
        """Run or resume the cell. A job whose cell does not finish has failed."""
        with messages_shown():
            return self._run()

    def _run(self) -> str:
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            self._watch = _Watch(self._worker())
            self._watch.start()
            ending = self._watch.wait()
            if ending != "busy" or time.monotonic() > deadline:
                break
            time.sleep(_POLL)
        if ending == "interrupted" and _is_running(slurm_job()):
            # SIGTERM without a warning: preemption with a grace period. (SLURM does not list a cancelled job as running.)
            os.kill(os.getpid(), _warning())
        if ending != "finished":
            sys.exit(f"{self.label}: {ending}")
        log.info(f"{self.label}: {ending}")
        return ending

    def _worker(self) -> Worker:
        return Worker(
            self.folder,
            self.options,
            label=self.label,
            device=self.device,
            threads=_cpus_of_job(),
            grace_seconds=self.grace_seconds,
        )

    def checkpoint(self) -> DelayedSubmission:
        """Save the cell. Returns the job that resumes it after the requeue; a job that is not to be requeued exits here."""
        from submitit.helpers import DelayedSubmission

        ending = self._watch.stop() if self._watch else "interrupted"
        if ending not in ("interrupted", "busy"):
            sys.exit(0 if ending == "finished" else f"{self.label}: {ending}")
        step = CellFolder(self.folder).step
        idle = 0 if step > self.step else self.idle + 1
        if idle >= STARTS_WITHOUT_STEP:
            reason = f"{idle} jobs in a row ended before a new step was saved (step {step}): give them more time (--time)"
            CellFolder(self.folder).fail(reason)
            sys.exit(f"{self.label}: {reason}")
        log.info(f"{self.label}: saved at step {step}; requeued")
        return DelayedSubmission(replace(self, step=step, idle=idle))


class _Watch(threading.Thread):
    """A worker, watched in a second thread.

    Signal handlers run in the main thread and wait for the worker to end, which they could not do in the middle of a
    wait of that thread.
    """

    def __init__(self, worker: Worker):
        super().__init__(name=worker.label, daemon=True)
        self.worker = worker
        self.stopping = False
        self.ending: Ending | None = None

    def run(self) -> None:
        # SLURM warns all processes of a job. The cell's process inherits this mask, so the signal does not kill it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {_warning()})
        self.ending = "interrupted" if self.stopping else self._run_worker()

    def _run_worker(self) -> Ending:
        self.worker.start()
        while (ending := self.worker.poll()) is None:
            if self.stopping:
                self.worker.stop()
            time.sleep(_POLL)
        return ending

    def wait(self) -> Ending:
        while self.is_alive():
            time.sleep(_POLL)  # not join(), which is not safe in signal handlers
        if self.ending is None:
            raise RuntimeError("the cell's process could not be watched: see the traceback above")
        return self.ending

    def stop(self) -> Ending:
        """Ask the cell to save and exit, and wait until it has."""
        self.stopping = True
        return self.wait() if self.ident else "interrupted"


def _warning() -> signal.Signals:
    """The signal with which SLURM warns of a job's end, as set by submitit: SIGUSR2, or $SUBMITIT_PREEMPT_SIGNAL."""
    from submitit.core.job_environment import JobEnvironment

    return signal.Signals[f"SIG{JobEnvironment.USR_SIG}"]


def _cpus_of_job() -> int | None:
    return int(os.environ["SLURM_CPUS_ON_NODE"]) if "SLURM_CPUS_ON_NODE" in os.environ else None


def _is_running(job: str | None) -> bool:
    return job is not None and (active([job]) or {}).get(job) == "running"


def _partitions() -> list[str]:
    """Names of the partitions. Raises UserError if SLURM does not respond."""
    command = ["sinfo", "--noheader", "--all", "--format=%R"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=ASK_SECONDS, check=True)
    except (FileNotFoundError, subprocess.SubprocessError) as error:
        stderr = error.stderr if isinstance(error, subprocess.CalledProcessError) else ""
        reason = _reason(stderr or str(error))
        raise UserError(f"SLURM does not respond ({reason}): run this where `sinfo` shows the cluster's partitions") from None
    return answer.stdout.split()


def _squeue(jobs: Sequence[str]) -> dict[str, str] | None:
    """The states of jobs and of the jobs of arrays, without those that SLURM has forgotten; None if it does not respond."""
    command = ["squeue", "--noheader", "--array", "--format=%i|%T|%r", f"--jobs={','.join(jobs)}"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=ASK_SECONDS, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    if answer.returncode and "Invalid job id" not in answer.stderr:
        return None
    rows = [line.split("|", 2) for line in answer.stdout.splitlines()]
    return {job: _state_text(state, reason) for job, state, reason in rows}


def _state_text(state: str, reason: str) -> str:
    text = state.lower().replace("_", " ")
    return f"{text} ({reason})" if state == "PENDING" and reason != "None" else text


def _reason(error: str) -> str:
    """The error messages of a SLURM command, on one line.

    >>> _reason("sbatch: error: invalid partition: x\\nsbatch: error: Batch job submission failed: Invalid partition")
    'invalid partition: x; Batch job submission failed: Invalid partition'
    """
    messages = re.findall(r"^s[a-z]+: (?:error: |fatal: )?(.+)$", error, re.MULTILINE)
    return "; ".join(messages) or " ".join(error.split())


@contextlib.contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Hide the variables of the job in which this may run (`salloc`, `srun --pty`): they would apply to the new jobs."""
    if "SLURM_JOB_ID" not in os.environ:
        yield
        return
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("SLURM_") and name != "SLURM_CONF"}
    try:
        yield
    finally:
        os.environ.update(hidden)
