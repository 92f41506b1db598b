"""Finished cells of one results folder into another: what somebody else measured counts, and is not measured again."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attnbench.cells.identity import identity_of_record
from attnbench.cells.record import FINISHED
from attnbench.console import Say
from attnbench.errors import UserError
from attnbench.store.folder import CellFolder, open_store
from attnbench.store.frame import row_of
from attnbench.store.reading import each_record, records

# Of the machine that made the cell, or only needed to go on with it.
_LEFT_BEHIND = (".*", "job.json", "progress.json", "cell.log", "checkpoint*.pt*")


_DRAFTS = ".merging"  # folder in the destination: a cell is whole before it is moved to its place


_RUNNING = "another process runs it here just now: merge again when that has ended"


@dataclass
class Merged:
    """What came of it.

    Attributes:
        merged, there: folders of the cells that came, and of those that were finished here already.
        left_out: folder -> why it was not taken.
    """

    merged: list[str] = field(default_factory=list)
    there: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        counts = f"merged {len(self.merged)}, already there {len(self.there)}, left out {len(self.left_out)}"
        return "\n".join([counts, *(f"left out: {folder}: {why}" for folder, why in self.left_out.items())])


def merge(other: Path, store: Path, say: Say = lambda line: None) -> Merged:
    """Copy every finished cell of `other` that is not finished in `store`.

    A cell that is unfinished in `store` is replaced, and kept in its `.superseded`. Where both are finished, `store` keeps its
    own, and `say` hears of a metric that differs.

    Raises:
        UserError: no such folder, no cell in it, one of the two is the other or in it, a file that cannot be copied, another
            merge at the same time.
    """
    _refuse_nested(other, store)
    theirs = records(other, say)
    drafts = CellFolder(open_store(store) / _DRAFTS)
    drafts.path.mkdir(exist_ok=True)
    with drafts.locked(wait=False) as alone:
        if not alone:
            raise UserError(f"another `attnbench merge` into '{store}' is at work: run this one after it")
        try:
            return _merge(theirs, other, store, say)
        finally:
            shutil.rmtree(drafts.path)


def _merge(theirs: list[dict[str, Any]], other: Path, store: Path, say: Say) -> Merged:
    ours, outcome = _cells_of(store), Merged()
    for record in theirs:
        folder, mine = record["folder"], ours.get(record["identity"])
        source = (other / folder).resolve()  # of a cell that is `.`, too, the name
        place = store / (mine["folder"] if mine else source.name)
        if problem := problem_of(record, source.name):
            outcome.left_out[folder] = problem
        elif mine and mine["status"] == FINISHED:
            outcome.there.append(folder)
            if difference := _difference(mine, record):
                say(f"{place}: the one that is here is kept: {difference}")
        elif problem := _take(source, place, store / _DRAFTS / source.name):
            outcome.left_out[folder] = problem
        else:
            outcome.merged.append(folder)
            ours[record["identity"]] = {**_summary(record), "folder": str(place.relative_to(store))}
    return outcome


def problem_of(record: Mapping[str, Any], name: str) -> str | None:
    """Why a record in a folder of that name cannot count, in words; None if it can."""
    if record["status"] != FINISHED:
        return f"it is not finished ({record['status']})"
    try:
        row_of(dict(record), {})
        identity = identity_of_record(record)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return f"its cell.json is not a cell's record ({error!r})"
    if identity != record["identity"]:
        return "its identity is not that of what its cell.json says: it was edited, or made by another attnbench"
    if not name.endswith(f"-{identity[:10]}"):
        return f"its folder's name does not end in -{identity[:10]}, its identity: it was renamed"
    return None


def _refuse_nested(other: Path, store: Path) -> None:
    source, destination = other.resolve(), store.resolve()
    if source == destination:
        raise UserError(f"'{other}' and '{store}' are the same folder: name another results folder to merge from")
    if source.is_relative_to(destination) or destination.is_relative_to(source):
        raise UserError(f"one of '{other}' and '{store}' lies in the other: move it out before merging")


def _cells_of(store: Path) -> dict[str, dict[str, Any]]:
    """Identity -> summary of a store's cells, the finished one where there are several; empty for a new store."""
    found: dict[str, dict[str, Any]] = {}
    try:
        for record in each_record(store):
            if found.get(record["identity"], {}).get("status") != FINISHED:
                found[record["identity"]] = _summary(record)
    except UserError:  # no cells yet
        return {}
    return found


def _summary(record: Mapping[str, Any]) -> dict[str, Any]:
    return {"folder": record["folder"], "status": record["status"], "metrics": record.get("metrics") or {}}


def _difference(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
    """The first metric in which two records of one cell differ, in words."""
    for name in {**mine["metrics"], **theirs["metrics"]}:
        here, there = (record["metrics"].get(name, {}).get("value") for record in (mine, theirs))
        if here != there:
            return f"{name} is {here} here and {there} there"
    return None


def _take(source: Path, place: Path, draft: Path) -> str | None:
    """Copy a cell to its place. Returns why it could not, if another process is at it."""
    shutil.rmtree(draft, ignore_errors=True)  # of a merge that was killed
    try:
        shutil.copytree(source, draft, ignore=shutil.ignore_patterns(*_LEFT_BEHIND), copy_function=_copy)
        return _put(draft, place)
    except OSError as error:
        first = error.args[0][0][2] if isinstance(error, shutil.Error) else error.strerror
        raise UserError(f"'{source}' cannot be copied to '{place}': {first}: what was merged before it stays") from error


def _copy(source: str, target: str) -> None:
    """With its time, and on the disk: it outlives the machine's crash."""
    shutil.copy2(source, target)
    with Path(target).open("rb") as file:
        os.fsync(file.fileno())


def _put(draft: Path, place: Path) -> str | None:
    """Move a whole cell to its place, by one rename where there is none."""
    if not place.exists():
        try:
            draft.rename(place)
            return None
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise  # else a runner has begun it meanwhile
    cell = CellFolder(place)
    with cell.locked(wait=False) as ours:
        if not ours:
            return _RUNNING
        if (record := cell.record()) and record["status"] == FINISHED:
            return "it was finished here meanwhile"
        if any(path.name not in (".lock", "job.json") for path in place.iterdir()):
            cell.set_aside()
        for path in sorted(draft.iterdir(), key=lambda path: path.name == "cell.json"):  # last: without it, it is no cell
            path.rename(place / path.name)
    return None
