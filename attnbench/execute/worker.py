"""One cell in a process of its own, watched: `attnbench cell FOLDER`.

Whatever happens to that process (out of memory, SIGKILL, a hang) affects only its cell. A process that dies is restarted from
the cell's checkpoint; one that keeps dying without a new checkpoint, or exceeds its time limit, is recorded as failed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

from attnbench.cells.provenance import CELLS_ON_DEVICE
from attnbench.cells.record import DIVERGED, FAILED, FINISHED
from attnbench.console import log, warn
from attnbench.execute.one_cell import EXIT_BUSY, EXIT_DISK_FULL, EXIT_INTERRUPTED
from attnbench.store.folder import CellFolder
from attnbench.store.job import RunOptions
from attnbench.store.progress import ProgressFile

Ending = Literal["finished", "failed", "diverged", "interrupted", "busy", "disk full"]

RESTARTS = 2  # of a process that died, without a new checkpoint in between


class Worker:
    """A cell's process.

    Args:
        device: `cuda:1`, `cpu`; by default the first GPU, or the CPU.
        threads: CPU threads; a different number may change the last bits of numbers.
        sharing: the most cells that run on the device at a time, this one among them.
        grace_seconds: seconds that the process has to finish a step and save when it is asked to stop, before it is killed.
    """

    def __init__(
        self,
        folder: Path,
        options: RunOptions,
        *,
        label: str,
        device: str | None = None,
        threads: int | None = None,
        sharing: int = 1,
        grace_seconds: float = 120.0,
    ) -> None:
        self.folder, self.options, self.label = CellFolder(folder), options, label
        self.device, self.threads, self.sharing, self.grace_seconds = device, threads, sharing, grace_seconds
        self.log_file = folder / "cell.log"
        self.first_start: float | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._asked_at: float | None = None  # when it was asked to stop
        self._over_time = False
        self._deaths: list[int] = []  # steps of the checkpoints at which it died
        self._log_from = 0  # where this start's lines begin

    @property
    def seconds(self) -> float:
        """Since it was first started."""
        return time.monotonic() - self.first_start if self.first_start is not None else 0.0

    def start(self) -> None:
        self.first_start = self.first_start or time.monotonic()
        # -P: the working directory may hold files with the names of modules.
        command = [sys.executable, "-P", "-m", "attnbench", "cell", str(self.folder.path), "--stop-at-eof"]
        command += ["--options", self.options.model_dump_json()]  # job.json may hold another runner's by now
        command += ["--device", self.device] if self.device else []
        threads = str(self.threads) if self.threads else os.environ.get("OMP_NUM_THREADS")
        told = {CELLS_ON_DEVICE: str(self.sharing), **({"OMP_NUM_THREADS": threads} if threads else {})}
        with self.log_file.open("ab") as output:
            self._log_from = output.tell()
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,  # closed when this process ends, in whatever way
                stdout=output,
                stderr=output,
                start_new_session=True,  # a terminal's Ctrl-C reaches only this process, which stops the others
                env={**os.environ, **told},
            )

    def stop(self) -> None:
        """Ask the process to save and exit; once."""
        if self._process and self._asked_at is None:
            self._asked_at = time.monotonic()
            self._process.terminate()

    def kill(self) -> None:
        if self._process and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def poll(self) -> Ending | None:
        """The outcome, or None while the process runs."""
        if self._process is None:
            raise RuntimeError("poll() needs start() first")
        code = self._process.poll()
        if code is None:
            self._watch_the_time(self._process)
            return None
        if self._process.stdin:
            self._process.stdin.close()
        outcome = self._outcome(code)
        if outcome in ("failed", "diverged", "interrupted"):  # a process that was killed could not do so
            ProgressFile(self.folder.path).remove()
        return outcome

    def _watch_the_time(self, process: subprocess.Popen[bytes]) -> None:
        limit = self.options.time_limit_minutes
        if self._asked_at is None and limit is not None and self.seconds > 60 * limit:
            self._over_time = True
            if hasattr(signal, "SIGUSR1"):  # it writes the stacks of its threads to cell.log
                process.send_signal(signal.SIGUSR1)
            time.sleep(0.2)
            self.stop()
        if self._asked_at is not None and time.monotonic() - self._asked_at > self.grace_seconds:
            process.kill()

    def _outcome(self, code: int) -> Ending | None:
        """The meaning of an exit code; a failure is recorded. None if the process was restarted."""
        record = self.folder.record()
        status = record.status if record else None
        if code == 0 and status == FINISHED:
            return "finished"
        if code == EXIT_BUSY:
            return "busy"
        if code == EXIT_DISK_FULL:
            return "disk full"
        if code == 1 and status in (FAILED, DIVERGED, FINISHED):  # trained, but not measured
            return "diverged" if status == DIVERGED else "failed"
        if self._over_time:
            limit = self.options.time_limit_minutes
            return self._fail(f"exceeded the time limit of {limit:g} minutes, at step {self.folder.step}")
        if code in (EXIT_INTERRUPTED, -signal.SIGTERM) or self._asked_at is not None:
            return "interrupted"
        if code == 2:
            return self._fail(self._error_line())
        return self.restart(f"killed by {_signal_name(-code)}" if code < 0 else f"ended with code {code}")

    def restart(self, how: str) -> Ending | None:
        """Restart the process, which ended as `how` says, unless it did so too often without a new checkpoint."""
        step = self.folder.step
        self._deaths = [*(earlier for earlier in self._deaths if earlier == step), step]
        if len(self._deaths) > RESTARTS:
            perhaps = ", perhaps out of memory" if "SIGKILL" in how else ""
            return self._fail(f"{how} {len(self._deaths)} times at step {step}, without a new checkpoint{perhaps}")
        log.info(f"{self.label}: process {how}; restarting at step {step}")
        self.start()
        return None

    def _fail(self, reason: str) -> Ending:
        if (record := self.folder.record()) and record.status == FINISHED:
            warn(f"{self.label}: trained, but not measured: {reason}")
        self.folder.fail(reason, self._log_tail())
        return "failed"

    def _error_line(self) -> str:
        lines = [line for line in self._log_tail().splitlines() if line.startswith("error: ")]
        return lines[-1].removeprefix("error: ") if lines else f"bad input, see {self.log_file}"

    def _log_tail(self, size: int = 10_000) -> str:
        """The end of what the process has written since its last start."""
        try:
            with self.log_file.open("rb") as output:
                output.seek(max(self._log_from, self.log_file.stat().st_size - size))
                return output.read().decode(errors="replace")
        except FileNotFoundError:
            return ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal has none
        return f"signal {number}"
