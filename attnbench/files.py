"""Atomic writes: a file is written as a draft beside its path and then moved there, so a file that exists is complete."""

from __future__ import annotations

import errno
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from attnbench.errors import DiskFull, UserError


@cache
def _process_name(pid: int) -> str:
    """Unlike any other process's, also on a disk that several machines share."""
    return f"{pid}-{secrets.token_hex(3)}"


def check_path(path: Path) -> None:
    """Check that the system can look up a path, whether or not it exists.

    Raises:
        UserError: it cannot: the name is too long, links form a cycle, or a folder is not accessible.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise UserError(f"'{path}' cannot be used: {error.strerror}: choose another") from None


def check_writable(path: Path) -> None:
    """Check, with a temporary file, that a file or folder can be created at a path whose parents may not exist yet.

    Raises:
        OSError: it cannot be created.
    """
    with suppress(FileNotFoundError):
        draft_of(path).lstat()  # the longest name that will be written
    parent = next(parent for parent in path.absolute().parents if parent.exists())
    with tempfile.TemporaryFile(dir=parent) as probe:
        probe.write(b"attnbench")
        probe.flush()


def draft_of(path: Path) -> Path:
    """The file beside `path` to which this process writes until it is complete."""
    return path.with_name(f".{path.name}.{_process_name(os.getpid())}.draft")


@contextmanager
def replacing(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """A draft beside `path` that replaces it if the block succeeds, and is removed if it does not.

    With `sync` the draft is flushed to the disk first, so that it survives a crash of the machine.
    """
    draft = draft_of(path)
    try:
        yield draft
        if sync:
            with draft.open("rb") as file:
                os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_text(path: Path, text: str, *, sync: bool = True) -> None:
    with replacing(path, sync=sync) as draft:
        draft.write_text(text)


def disk_is_full(error: BaseException | None, store: Path) -> bool:
    """Whether a full disk caused an error that names no file outside the store. torch wraps the system's error in its own."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return error.filename is None or Path(os.fsdecode(error.filename)).absolute().is_relative_to(store.absolute())
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def disk_full_raised(store: Path) -> Iterator[None]:
    """In the block, an error that a full disk of `store` caused becomes DiskFull."""
    try:
        yield
    except Exception as error:
        if disk_is_full(error, store):
            raise DiskFull(store) from error
        raise


def set_aside(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged{number}")).exists():
        number += 1
    path.replace(aside)
    return aside
