"""The store: a results folder with one folder a cell.

    results/sga-cat-seed0-1a2b3c4d5e/
        cell.json                status, metrics with their protocol, costs, provenance; written last
        recipe.yaml              the resolved recipe: `--recipe` takes it
        losses.jsonl             a line a step
        gradients.jsonl          a line an epoch: cosines of the module's branches, if they were recorded
        pairs.csv                test pairs with their scores
        samples.png, samples/    sketch, reference, generated, original
        pictures.zip             the same of every test pair
        generator.safetensors    the trained generator
        analysis/                figures and tables of `attnbench analyze`
        checkpoint.pt            everything that training needs to go on; checkpoint.previous.pt is the one before

Every file is written beside its place and moved there, so a file that is there is whole. Folders can be copied between stores.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attnbench.cells.provenance import now
from attnbench.cells.record import FAILED, FINISHED
from attnbench.console import Say
from attnbench.errors import UserError
from attnbench.files import check_writable, replacing, set_aside, write_text
from attnbench.store.reading import read_record

SUPERSEDED = ".superseded"  # folder in a store, for what was replaced


ANALYSIS = "analysis"  # folder of figures, in a cell and in the store


class CellFolder:
    """One cell on disk."""

    def __init__(self, path: Path):
        self.path = path

    @property
    def record_file(self) -> Path:
        return self.path / "cell.json"

    def record(self, say: Say | None = None) -> dict[str, Any] | None:
        """What cell.json holds, or None. A damaged file is set aside, and `say` told; without `say` it stays as it is."""
        if not self.record_file.is_file():
            return None
        try:
            return read_record(self.record_file)
        except ValueError as error:
            if say is None:
                return None
            aside = set_aside(self.record_file)
            say(f"{self.record_file} is damaged ({error}): set aside as {aside.name}; the cell goes on from its checkpoint")
            return None

    def write_record(self, record: dict[str, Any], *, sync: bool = True) -> None:
        write_text(self.record_file, json.dumps(record, indent=1, allow_nan=False) + "\n", sync=sync)

    def write_checkpoint(self, state: dict[str, Any]) -> None:
        """Keep the one before as well: a disk that fails while this one is written costs a few minutes, not the run."""
        import torch

        current, previous = self.path / "checkpoint.pt", self.path / "checkpoint.previous.pt"
        with replacing(current) as draft:
            with draft.open("wb") as file:  # given a path, torch would hide why it could not write
                torch.save(state, file)
            if current.is_file():
                current.replace(previous)

    def read_checkpoint(self, say: Say = lambda line: None) -> dict[str, Any] | None:
        """The newest checkpoint that can be read, or None. Damaged ones are set aside, and `say` told."""
        import torch

        for name in ("checkpoint.pt", "checkpoint.previous.pt"):
            path = self.path / name
            if not path.is_file():
                continue
            try:
                state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=False)
                return state
            except Exception as error:  # torch.load raises whatever the damaged bytes lead it to
                aside = set_aside(path)
                reason = str(error).split("\n")[0][:100]
                say(f"{path} is damaged ({reason}): set aside as {aside.name}; using the one before, or starting again")
        return None

    def drop_previous_checkpoint(self) -> None:
        (self.path / "checkpoint.previous.pt").unlink(missing_ok=True)

    @property
    def step(self) -> int:
        """Of the newest checkpoint, by the record; 0 without one."""
        return int((self.record() or {}).get("step", 0))

    def fail(self, reason: str, traceback: str | None = None) -> None:
        """Record that the cell failed, where its own process could not. A finished one stays."""
        patience = time.monotonic() + 10
        with self.locked(wait=True, stop=lambda: time.monotonic() > patience) as ours:  # somebody may be looking
            record = self.record()
            if ours and record and record["status"] != FINISHED:
                failure = {"message": reason, "traceback": traceback}
                self.write_record({**record, "status": FAILED, "failure": failure, "ended": now()})

    def set_aside(self) -> Path:
        """Move what the cell has, but for lock, job and log, to `<store>/.superseded/<name>-<k>`. Hold it meanwhile."""
        number = 1
        while (aside := self.path.parent / SUPERSEDED / f"{self.path.name}-{number}").exists():
            number += 1
        aside.mkdir(parents=True)
        for path in list(self.path.iterdir()):
            if path.name not in (".lock", "job.json", "cell.log"):  # the log is open, by the process that runs it now
                path.replace(aside / path.name)
        return aside

    def is_held(self) -> bool:
        """Whether another process has the cell in work."""
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
        """Hold the cell, if need be after a wait until `stop`: yields whether it is ours. A process that dies lets go of it."""
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
            for draft in self.path.rglob(".*.draft"):  # of a process that was killed while it wrote
                if not draft.name.startswith((".job.json.", ".progress.json.")):  # these are written without the lock
                    draft.unlink(missing_ok=True)
            yield True
        finally:
            lock.release()


def open_store(path: Path) -> Path:
    """Make the results folder, and see that it can be written to.

    Raises:
        UserError: it cannot.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        check_writable(path / "cell")
    except OSError as error:
        raise UserError(f"results folder '{path}' cannot be written to: {error.strerror}: choose another with -o") from None
    return path
