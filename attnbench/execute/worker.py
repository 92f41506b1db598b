"""One cell in a process of its own, watched: `attnbench cell FOLDER`.

Whatever happens to that process, out of memory, SIGKILL, a hang, its cell alone is concerned. A process that dies is started
again from the cell's checkpoint; one that dies without getting further, or takes longer than it may, is recorded as failed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from attnbench.cells.record import DIVERGED, FAILED, FINISHED
from attnbench.store.folder import CellFolder
from attnbench.store.progress import ProgressFile

Outcome = Literal["finished", "failed", "diverged", "interrupted", "busy", "disk full"]

# Exit codes of `attnbench cell`, beside 0, 1 and 2.
EXIT_DISK_FULL, EXIT_BUSY, EXIT_INTERRUPTED = 3, 75, 130

RESTARTS = 2  # of a process that died, without a new checkpoint in between


@dataclass(frozen=True)
class CellOptions:
    """How a cell's process runs; none of it changes a number, but for the last bits that a count of threads may change.

    Attributes:
        device: `cuda:1`, `cpu`; by default the first GPU that it sees, or the CPU.
        time_limit: seconds that a cell may take in this run.
        threads: of the processor, for each process.
        grace: seconds that a process has to end its step and save when it is asked to, before it is killed.
    """

    device: str | None = None
    checkpoint_minutes: float = 10.0
    retry_failed: bool = False
    rerun_stale: bool = False
    record_gradients: bool = False
    time_limit: float | None = None
    threads: int | None = None
    grace: float = 120.0

    def arguments(self) -> list[str]:
        """Of `attnbench cell`, behind the folder."""
        found = ["--checkpoint-minutes", str(self.checkpoint_minutes)]
        found += ["--device", self.device] if self.device else []
        found += ["--retry-failed"] if self.retry_failed else []
        found += ["--rerun-stale"] if self.rerun_stale else []
        return found + (["--record-gradients"] if self.record_gradients else [])


class Worker:
    """A cell's process."""

    def __init__(
        self, folder: Path, options: CellOptions, *, label: str, say: Callable[[str], None] = lambda line: None
    ) -> None:
        self.folder, self.options, self.label, self.say = CellFolder(folder), options, label, say
        self.log = folder / "cell.log"
        self.first_start: float | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._asked_at: float | None = None  # when it was asked to end
        self._over_time = False
        self._deaths: list[int] = []  # steps of the checkpoints at which it died
        self._log_from = 0  # where this start's lines begin

    @property
    def seconds(self) -> float:
        """Since it was first started."""
        return time.monotonic() - self.first_start if self.first_start is not None else 0.0

    def start(self) -> None:
        self.first_start = self.first_start or time.monotonic()
        # -P: the working directory may hold files that are called like modules.
        command = [sys.executable, "-P", "-m", "attnbench", "cell", str(self.folder.path)]
        command += [*self.options.arguments(), "--stop-at-eof"]
        threads = str(self.options.threads) if self.options.threads else os.environ.get("OMP_NUM_THREADS")
        with self.log.open("ab") as log:
            self._log_from = log.tell()
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,  # which ends with this process, however that ends
                stdout=log,
                stderr=log,
                start_new_session=True,  # a terminal's Ctrl-C reaches this process alone, which asks the others
                env={**os.environ, **({"OMP_NUM_THREADS": threads} if threads else {})},
            )

    def stop(self) -> None:
        """Ask it to save and to end, once."""
        if self._process and self._asked_at is None:
            self._asked_at = time.monotonic()
            self._process.terminate()

    def kill(self) -> None:
        if self._process and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def poll(self) -> Outcome | None:
        """What came of it, or None while it runs."""
        if self._process is None:
            raise RuntimeError("start() it first")
        code = self._process.poll()
        if code is None:
            self._watch_the_time(self._process)
            return None
        if self._process.stdin:
            self._process.stdin.close()
        outcome = self._outcome(code)
        if outcome in ("failed", "diverged", "interrupted"):  # a process that was killed could not
            ProgressFile(self.folder.path).remove()
        return outcome

    def _watch_the_time(self, process: subprocess.Popen[bytes]) -> None:
        limit = self.options.time_limit
        if self._asked_at is None and limit is not None and self.seconds > limit:
            self._over_time = True
            if hasattr(signal, "SIGUSR1"):  # it writes what its threads are at into cell.log
                process.send_signal(signal.SIGUSR1)
            time.sleep(0.2)
            self.stop()
        if self._asked_at is not None and time.monotonic() - self._asked_at > self.options.grace:
            process.kill()

    def _outcome(self, code: int) -> Outcome | None:
        """What an exit code means, after what is to be done about it; None if the process was started again."""
        status = (self.folder.record() or {}).get("status")
        if code == 0 and status == FINISHED:
            return "finished"
        if code == EXIT_BUSY:
            return "busy"
        if code == EXIT_DISK_FULL:
            return "disk full"
        if code == 1 and status in (FAILED, DIVERGED, FINISHED):  # finished, and not measured again
            return "diverged" if status == DIVERGED else "failed"
        if self._over_time:
            limit = self.options.time_limit or 0.0
            return self._fail(f"longer than the {_duration(limit)} that a cell may take, at step {self.folder.step}")
        if code in (EXIT_INTERRUPTED, -signal.SIGTERM) or self._asked_at is not None:
            return "interrupted"
        if code == 2:
            return self._fail(self._error_line())
        return self.restart(f"killed by {_signal_name(-code)}" if code < 0 else f"ended with code {code}")

    def restart(self, how: str) -> Outcome | None:
        """Start the process again that ended so, unless it did that too often without a new checkpoint."""
        step = self.folder.step
        self._deaths = [*(earlier for earlier in self._deaths if earlier == step), step]
        if len(self._deaths) > RESTARTS:
            perhaps = ", perhaps out of memory" if "SIGKILL" in how else ""
            return self._fail(f"{how} {len(self._deaths)} times at step {step}, without a new checkpoint{perhaps}")
        self.say(f"{self.label}: its process was {how}; it starts again at step {step}")
        self.start()
        return None

    def _fail(self, reason: str) -> Outcome:
        self.folder.fail(reason, self._log_tail())
        return "failed"

    def _error_line(self) -> str:
        lines = [line for line in self._log_tail().splitlines() if line.startswith("error: ")]
        return lines[-1].removeprefix("error: ") if lines else f"bad input, see {self.log}"

    def _log_tail(self, size: int = 10_000) -> str:
        """The last of what this start wrote."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(self._log_from, self.log.stat().st_size - size))
                return log.read().decode(errors="replace")
        except FileNotFoundError:
            return ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal has none
        return f"signal {number}"


def _duration(seconds: float) -> str:
    return f"{seconds / 60:g} minutes" if seconds >= 60 else f"{seconds:g} seconds"
