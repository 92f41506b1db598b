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
from typing import Any, Literal

from attnbench import store as stores
from attnbench.progress import ProgressFile
from attnbench.provenance import now
from attnbench.store import CellFolder

Outcome = Literal["finished", "failed", "diverged", "interrupted", "busy", "disk full"]

# Exit codes of `attnbench cell`, beside 0, 1 and 2.
EXIT_DISK_FULL, EXIT_BUSY, EXIT_INTERRUPTED = 3, 75, 130

RESTARTS = 2  # of a process that died, without a new checkpoint in between
GRACE = 120.0  # seconds that a process has to end its step and save, before it is killed
_POLL = 0.1  # seconds


@dataclass(frozen=True)
class CellOptions:
    """How a cell's process runs; none of it changes a number.

    Attributes:
        device: `cuda:1`, `cpu`; by default the first GPU that it sees, or the CPU.
        time_limit: seconds that a cell may take in this run.
        threads: of the processor, for each process.
    """

    device: str | None = None
    checkpoint_minutes: float = 10.0
    retry_failed: bool = False
    rerun_stale: bool = False
    time_limit: float | None = None
    threads: int | None = None

    def arguments(self) -> list[str]:
        """Of `attnbench cell`, behind the folder."""
        found = ["--checkpoint-minutes", str(self.checkpoint_minutes)]
        found += ["--device", self.device] if self.device else []
        found += ["--retry-failed"] if self.retry_failed else []
        return found + (["--rerun-stale"] if self.rerun_stale else [])


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

    def run(self) -> Outcome:
        """Start it, and wait for its end."""
        self.start()
        while (outcome := self.poll()) is None:
            time.sleep(_POLL)
        return outcome

    def start(self) -> None:
        self.first_start = self.first_start or time.monotonic()
        command = [sys.executable, "-m", "attnbench", "cell", str(self.folder.path), *self.options.arguments(), "--stop-at-eof"]
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
            process.send_signal(signal.SIGUSR1)  # it writes what its threads are at into cell.log
            time.sleep(0.2)
            self.stop()
        if self._asked_at is not None and time.monotonic() - self._asked_at > GRACE:
            process.kill()

    def _outcome(self, code: int) -> Outcome | None:
        """What an exit code means, after what is to be done about it; None if the process was started again."""
        if code == 0:
            return "finished"
        if code == EXIT_BUSY:
            return "busy"
        if code == EXIT_DISK_FULL:
            return "disk full"
        if self._over_time:
            limit = self.options.time_limit or 0.0
            return self._record_failure(f"longer than the {_duration(limit)} that a cell may take, at step {self._step()}")
        if code in (EXIT_INTERRUPTED, -signal.SIGTERM) or self._asked_at is not None:
            return "interrupted"
        status = (self.folder.record() or {}).get("status")
        if code == 1 and status in (stores.FAILED, stores.DIVERGED, stores.FINISHED):  # finished, and not measured again
            return "diverged" if status == stores.DIVERGED else "failed"
        if code == 2:
            return self._record_failure(self._error_line())
        return self._after_death(f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}")

    def _after_death(self, how: str) -> Outcome | None:
        step = self._step()
        self._deaths = [*(earlier for earlier in self._deaths if earlier == step), step]
        if len(self._deaths) > RESTARTS:
            perhaps = ", perhaps out of memory" if "SIGKILL" in how else ""
            return self._record_failure(f"{how} {len(self._deaths)} times at step {step}, without a new checkpoint{perhaps}")
        self.say(f"{self.label}: its process was {how}; it starts again at step {step}")
        self.start()
        return None

    def _step(self) -> int:
        """Of the newest checkpoint."""
        return int((self.folder.record() or {}).get("step", 0))

    def _record_failure(self, reason: str) -> Outcome:
        with self.folder.locked(wait=False) as ours:
            record = self.folder.record()
            if ours and record and record["status"] != stores.FINISHED:
                failure: dict[str, Any] = {"message": reason, "traceback": self._log_tail()}
                self.folder.write_record({**record, "status": stores.FAILED, "failure": failure, "ended": now()})
        return "failed"

    def _error_line(self) -> str:
        lines = [line for line in self._log_tail().splitlines() if line.startswith("error: ")]
        return lines[-1].removeprefix("error: ") if lines else f"bad input, see {self.log}"

    def _log_tail(self, size: int = 10_000) -> str:
        """The last of what this start wrote."""
        with self.log.open("rb") as log:
            log.seek(max(self._log_from, self.log.stat().st_size - size))
            return log.read().decode(errors="replace")


def _duration(seconds: float) -> str:
    return f"{seconds / 60:g} minutes" if seconds >= 60 else f"{seconds:g} seconds"
