"""Every record of a store, read in one pass."""

from __future__ import annotations

import os
from collections.abc import Iterator
from io import FileIO
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from attnbench.cells.record import NewerFormat, Record, parse_record
from attnbench.console import warn
from attnbench.errors import UserError


class Stored(NamedTuple):
    """A cell's record, and its folder relative to the store."""

    folder: str
    record: Record


def read_record(file: str | Path) -> Record:
    """The record in a cell.json.

    Raises:
        ValueError: the file is damaged, or not a record.
        UserError: it was written by a newer attnbench.
    """
    with FileIO(file) as raw:  # in stores of thousands, a Path or a buffered file takes as long as the read itself
        data = raw.readall()
    try:
        return parse_record(data)
    except NewerFormat as newer:
        raise UserError(f"'{file}' cannot be read: {newer}") from None


def records(store: Path) -> list[Stored]:
    """Every readable record in a store, see `each_record`."""
    return list(each_record(store))


def each_record(store: Path) -> Iterator[Stored]:
    """Every record, from folders at any depth, except folders inside cells and hidden ones.

    Records that are damaged or from a newer attnbench are left out with a warning; their files are not changed.

    Raises:
        UserError: there is no such folder, or no cell in it.
    """
    if not store.is_dir():
        raise UserError(f"there is no results folder '{store}': `attnbench run -o {store} ...` makes one")
    found = 0
    for stored in chain(_record_of(str(store), ".") or (), _records_in(str(store), "")):
        found += 1
        yield stored
    if not found:
        raise UserError(f"no cells in '{store}': `attnbench run -o {store} ...` makes them")


def _records_in(folder: str, prefix: str) -> Iterator[Stored]:
    """Records of the folders in a folder, by name, recursively. Cells are not searched for further cells."""
    try:
        with os.scandir(folder) as entries:
            inner = sorted((entry.name, entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        warn(f"{folder} is left out: {error}")
        return
    for name, path in inner:
        if (record := _record_of(path, prefix + name)) is not None:
            yield from record
        elif not Path(path).is_symlink():  # a link may lead back to a folder above
            yield from _records_in(path, f"{prefix}{name}/")


def _record_of(cell: str, name: str) -> list[Stored] | None:
    """A cell's record; an empty list if it cannot be read, None if there is no cell."""
    file = f"{cell}/cell.json"
    try:
        return [Stored(name, read_record(file))]
    except FileNotFoundError:
        return None
    except (ValueError, OSError, UserError) as error:
        reason = str(error).removeprefix(f"'{file}' cannot be read: ")
        warn(f"{file} is left out: {reason}")
        return []
