"""Files that are there are whole: each is written beside its place and moved there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from attnbench.errors import UserError


def check_path(path: Path) -> None:
    """See that the system can look for a path, there or not.

    Raises:
        UserError: it cannot: a name that is too long, links that lead in a circle, a folder that is closed.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise UserError(f"'{path}' cannot be used: {error.strerror}: choose another") from None


def check_writable(path: Path) -> None:
    """See that a file or folder can be made where there may be none yet, by a draft that is gone again.

    Raises:
        OSError: it cannot.
    """
    with suppress(FileNotFoundError):
        draft_of(path).lstat()  # the longest name that will be written
    parent = next(parent for parent in path.absolute().parents if parent.exists())
    with tempfile.TemporaryFile(dir=parent) as probe:
        probe.write(b"attnbench")
        probe.flush()


def draft_of(path: Path) -> Path:
    """The file beside `path` in which this process writes it, until it is whole."""
    return path.with_name(f".{path.name}.{os.getpid()}.draft")


@contextmanager
def replacing(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """A draft beside `path` that takes its place when the block ends well, and is removed when it does not.

    With `sync` it is on the disk before that: it outlives the machine's crash.
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


def set_aside(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged{number}")).exists():
        number += 1
    path.replace(aside)
    return aside
