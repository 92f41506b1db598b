"""Every record of a store, read in one pass."""

from __future__ import annotations

import os
from collections.abc import Iterator
from io import FileIO
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from attnbench.cells.record import FORMAT
from attnbench.console import Say
from attnbench.errors import UserError


def read_record(file: str | Path) -> dict[str, Any]:
    """A cell.json.

    Raises:
        ValueError: it is not one.
        UserError: it was written by a newer attnbench.
    """
    with FileIO(file) as raw:  # a Path or a buffered file takes as long as the reading, in stores of thousands
        record = from_json(raw.readall())
    version = record.get("format", 0) if isinstance(record, dict) else None
    if isinstance(version, int) and version > FORMAT:
        raise UserError(f"'{file}' is of format {version}, from a newer attnbench: upgrade this one")
    if not isinstance(version, int) or not all(isinstance(record.get(name), str) for name in ("identity", "status")):
        raise ValueError("it is not a cell's record")
    return record


def records(store: Path, say: Say = lambda line: None) -> list[dict[str, Any]]:
    """Every readable cell.json in a store, with its `folder`, see `each_record`."""
    return list(each_record(store, say))


def each_record(store: Path, say: Say = lambda line: None) -> Iterator[dict[str, Any]]:
    """One cell.json after the other, with its `folder` in the store, at any depth but not in cells or hidden folders.

    `say` hears of those that are damaged or from a newer attnbench; they stay as they are.

    Raises:
        UserError: there is no such folder, or no cell in it.
    """
    if not store.is_dir():
        raise UserError(f"there is no results folder '{store}': `attnbench run -o {store} ...` makes one")
    found = 0
    for record in chain(_record_of(str(store), ".", say) or (), _records_in(str(store), "", say)):
        found += 1
        yield record
    if not found:
        raise UserError(f"no cells in '{store}': `attnbench run -o {store} ...` makes them")


def _records_in(folder: str, prefix: str, say: Say) -> Iterator[dict[str, Any]]:
    """Of the folders in a folder, by name, and of those in them that are no cells: what is in a cell is its own affair."""
    try:
        with os.scandir(folder) as entries:
            inner = sorted((entry.name, entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        say(f"{folder} is left out: {error}")
        return
    for name, path in inner:
        if (record := _record_of(path, prefix + name, say)) is not None:
            yield from record
        elif not Path(path).is_symlink():  # it may lead in a circle
            yield from _records_in(path, f"{prefix}{name}/", say)


def _record_of(cell: str, name: str, say: Say) -> list[dict[str, Any]] | None:
    """A cell's record, or none that can be read, which `say` hears of; None where there is no cell."""
    file = f"{cell}/cell.json"
    try:
        return [{**read_record(file), "folder": name}]
    except FileNotFoundError:
        return None
    except (ValueError, OSError, UserError) as error:
        say(f"{file} is left out: {error}")
        return []
