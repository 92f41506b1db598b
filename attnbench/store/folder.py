"""The store: a results folder with one folder per cell.

    results/sga-cat-seed0-1a2b3c4d5e/
        cell.json                status, measurements with their protocol, costs, provenance; written last
        recipe.yaml              the resolved recipe: `--recipe` takes it
        losses.jsonl             one line per step
        gradients.jsonl          one line per epoch: gradient cosines of the module's branches, if recorded
        samples.png, samples/    sketch, reference, generated, original and, where known, the right answer
        measured/<protocol>/     pairs.csv: test pairs with their scores; pictures.zip: the same four for every pair
        generator.safetensors    the trained generator
        analysis/                figures and tables of `attnbench analyze`
        checkpoint.pt            everything needed to resume training; checkpoint.previous.pt is the one before

Every file is written as a draft and then moved into place, so a file that exists is complete. Folders can be copied between
stores.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attnbench.cells.provenance import now
from attnbench.cells.record import FAILED, FINISHED, Failure, Record, record_text
from attnbench.console import warn
from attnbench.errors import UserError
from attnbench.files import check_writable, replacing, set_aside, write_text
from attnbench.store.reading import read_record

SUPERSEDED = ".superseded"  # folder in a store for replaced cells
MEASURED = "measured"  # folder of measurements, in a cell
ANALYSIS = "analysis"  # folder of figures, in a cell and in the store


class CellFolder:
    """One cell on disk."""

    def __init__(self, path: Path):
        self.path = path

    @property
    def record_file(self) -> Path:
        return self.path / "cell.json"

    def record(self) -> Record | None:
        """The content of cell.json; None if it does not exist or is damaged. A damaged file is left unchanged."""
        try:
            return read_record(self.record_file) if self.record_file.is_file() else None
        except ValueError:
            return None

    def set_damaged_record_aside(self) -> None:
        """Move a cell.json that cannot be read out of the way, with a warning; the process must hold the cell's lock.

        Without a checkpoint to continue from, the other files go with it, so that none is overwritten.
        """
        if not self.record_file.is_file():
            return
        try:
            read_record(self.record_file)
        except ValueError as error:
            damaged = f"{self.record_file} is damaged ({error})"
            if (self.path / "checkpoint.pt").is_file() or not (self.path / "generator.safetensors").is_file():
                aside = set_aside(self.record_file)
                warn(f"{damaged}: set aside as {aside.name}; the cell continues from its checkpoint")
            else:
                warn(f"{damaged}: the whole cell is set aside as {self.set_aside()}; it starts again")

    def write_record(self, record: Record, *, sync: bool = True) -> None:
        write_text(self.record_file, record_text(record), sync=sync)

    def write_checkpoint(self, state: dict[str, Any]) -> None:
        """Write a checkpoint, and keep the previous one: a disk failure during the write costs a few minutes, not the run."""
        import torch

        current, previous = self.path / "checkpoint.pt", self.path / "checkpoint.previous.pt"
        with replacing(current) as draft:
            with draft.open("wb") as file:  # given a path, torch would hide why it could not write
                torch.save(state, file)
            if current.is_file():
                current.replace(previous)

    def read_checkpoint(self) -> dict[str, Any] | None:
        """The newest checkpoint that can be read, or None. Damaged ones are set aside, with a warning."""
        import torch

        for name in ("checkpoint.pt", "checkpoint.previous.pt"):
            path = self.path / name
            if not path.is_file():
                continue
            try:
                state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=False)
                return state
            except Exception as error:  # torch.load may raise anything on damaged bytes
                aside = set_aside(path)
                reason = str(error).split("\n")[0][:100]
                warn(f"{path} is damaged ({reason}): set aside as {aside.name}; using the previous one, or starting over")
        return None

    def drop_previous_checkpoint(self) -> None:
        (self.path / "checkpoint.previous.pt").unlink(missing_ok=True)

    @property
    def step(self) -> int:
        """Step of the newest checkpoint, according to the record; 0 without a record."""
        record = self.record()
        return record.step if record else 0

    def fail(self, reason: str, traceback: str | None = None) -> None:
        """Record that the cell failed, if its own process could not. A finished cell is left unchanged."""
        deadline = time.monotonic() + 10
        with self.locked(wait=True, stop=lambda: time.monotonic() > deadline) as ours:  # `is_held` locks it for a moment
            record = self.record()
            if ours and record and record.status != FINISHED:
                failure = Failure(message=reason, traceback=traceback)
                self.write_record(record.model_copy(update={"status": FAILED, "failure": failure, "ended": now()}))

    def set_aside(self) -> Path:
        """Move all files except lock, job and log to `<store>/.superseded/<name>-<k>`. The caller holds the cell's lock."""
        number = 1
        while (aside := self.path.parent / SUPERSEDED / f"{self.path.name}-{number}").exists():
            number += 1
        aside.mkdir(parents=True)
        for path in list(self.path.iterdir()):
            if path.name not in (".lock", "job.json", "cell.log"):  # the running process has the log open
                path.replace(aside / path.name)
        return aside

    def is_held(self) -> bool:
        """Whether another process is running the cell."""
        from filelock import FileLock, Timeout

        if not (self.path / ".lock").is_file():
            return False
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
        return False

    @contextmanager
    def locked(self, *, wait: bool, stop: Callable[[], bool] = lambda: False) -> Iterator[bool]:
        """Lock the cell, with `wait` retrying until `stop()`. Yields whether it is ours. A process that dies releases it."""
        from filelock import FileLock, Timeout

        lock = FileLock(self.path / ".lock")
        while True:
            try:
                lock.acquire(timeout=0)
                break
            except Timeout:
                if not wait or stop():
                    yield False
                    return
                time.sleep(0.2)
        try:
            for draft in self.path.rglob(".*.draft"):  # left by a process that was killed while writing
                if not draft.name.startswith((".job.json.", ".progress.json.")):  # these are written without the lock
                    draft.unlink(missing_ok=True)
            yield True
        finally:
            lock.release()


def check_store(path: Path) -> None:
    """Check that a results folder, which may not exist yet, can be written to; nothing is created.

    Raises:
        UserError: it cannot.
    """
    try:
        check_writable(path / "cell")
    except OSError as error:
        raise UserError(f"results folder '{path}' cannot be written to: {error.strerror}: choose another with -o") from None


def open_store(path: Path) -> Path:
    """Create the results folder, and check that it can be written to.

    Raises:
        UserError: it cannot be created or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"results folder '{path}' cannot be written to: {error.strerror}: choose another with -o") from None
    check_store(path)
    return path
