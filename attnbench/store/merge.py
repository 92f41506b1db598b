"""Copying the finished cells of one results folder into another, so that nobody has to run them again."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from attnbench.cells.identity import identity_of_record
from attnbench.cells.record import FINISHED, Record
from attnbench.console import warn
from attnbench.errors import UserError
from attnbench.store.folder import MEASURED, CellFolder, open_store
from attnbench.store.pictures import PICTURES
from attnbench.store.reading import Stored, each_record, records
from attnbench.store.scores import add_scores, read_scores

# Specific to the machine that ran the cell, or only needed to resume it.
_LEFT_BEHIND = (".*", "job.json", "progress.json", "cell.log", "checkpoint*.pt*")
_DRAFTS = ".merging"  # folder in the destination: a cell is complete before it is moved into place
_RUNNING = "another process is running it here: merge again when it has ended"


@dataclass
class Merged:
    """The outcome of a merge.

    Attributes:
        merged, there: folders of the cells that were copied, and of those already finished here.
        added: of these, the ones that were given measurements, or numbers, which they lacked.
        left_out: folder -> why it was not copied.
    """

    merged: list[str] = field(default_factory=list)
    there: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        counts = f"merged {len(self.merged)}, already there {len(self.there)}, left out {len(self.left_out)}"
        counts += f"; measurements added to {len(self.added)}" if self.added else ""
        return "\n".join([counts, *(f"left out: {folder}: {why}" for folder, why in self.left_out.items())])


def merge(other: Path, store: Path) -> Merged:
    """Copy every finished cell of `other` that is not finished in `store`.

    A cell that is unfinished in `store` is replaced, and kept in `.superseded`. If both are finished, `store` keeps its own,
    with a warning if a number differs, and gets the measurements that it lacks.

    Raises:
        UserError: no such folder, no cell in it, the two folders are the same or nested, a file cannot be copied, or another
            merge is running.
    """
    _refuse_nested(other, store)
    theirs = records(other)
    drafts = CellFolder(open_store(store) / _DRAFTS)
    drafts.path.mkdir(exist_ok=True)
    with drafts.locked(wait=False) as alone:
        if not alone:
            raise UserError(f"another `attnbench merge` into '{store}' is running: run this one after it")
        try:
            return _merge(theirs, other, store)
        finally:
            shutil.rmtree(drafts.path)


def _merge(theirs: list[Stored], other: Path, store: Path) -> Merged:
    ours, outcome = _cells_of(store), Merged()
    for folder, record in theirs:
        mine = ours.get(record.identity)
        source = (other / folder).resolve()  # resolved, so that a cell that is `.` has a name too
        place = store / (mine.folder if mine else source.name)
        if problem := problem_of(record, source.name):
            outcome.left_out[folder] = problem
        elif mine and mine.record.status == FINISHED:
            outcome.there.append(folder)
            if difference := _difference(mine.record, record):
                warn(f"{place}: the cell here is kept: {difference}")
            if _add_measurements(place, source, record):
                outcome.added.append(folder)
        elif problem := _take(source, place, store / _DRAFTS / source.name):
            outcome.left_out[folder] = problem
        else:
            outcome.merged.append(folder)
            ours[record.identity] = Stored(str(place.relative_to(store)), record)
    return outcome


def problem_of(record: Record, name: str) -> str | None:
    """Why a record in a folder with that name is not valid; None if it is."""
    if record.status != FINISHED:
        return f"it is not finished ({record.status})"
    identity = identity_of_record(record)
    if identity != record.identity:
        return "its identity does not match the rest of its cell.json: it was edited, or made by another version of attnbench"
    if not name.endswith(f"-{identity[:10]}"):
        return f"its folder's name does not end in -{identity[:10]}, its identity: it was renamed"
    return None


def _refuse_nested(other: Path, store: Path) -> None:
    source, destination = other.resolve(), store.resolve()
    if source == destination:
        raise UserError(f"'{other}' and '{store}' are the same folder: name another results folder to merge from")
    if source.is_relative_to(destination) or destination.is_relative_to(source):
        raise UserError(f"one of '{other}' and '{store}' lies in the other: move it out before merging")


def _cells_of(store: Path) -> dict[str, Stored]:
    """A store's cells by identity, the finished one if there are several; empty for a new store."""
    found: dict[str, Stored] = {}
    try:
        for stored in each_record(store):
            known = found.get(stored.record.identity)
            if known is None or known.record.status != FINISHED:
                found[stored.record.identity] = stored
    except UserError:  # no cells yet
        return {}
    return found


def _add_measurements(place: Path, source: Path, theirs: Record) -> bool:
    """Give a cell the measurements and numbers that it lacks and the other has. Returns whether there were any."""
    cell = CellFolder(place)
    with cell.locked(wait=False) as ours:
        record = cell.record() if ours else None
        if record is None:
            return False
        changed = record
        for other in theirs.measurements:
            mine = record.measurement(other.identity)
            inner = mine.folder if mine else f"{MEASURED}/{other.protocol.slug}-{other.identity[:6]}"
            lacking = {key: number for key, number in other.metrics.items() if not mine or key not in mine.metrics}
            if not lacking and mine:
                continue
            (place / inner).mkdir(parents=True, exist_ok=True)
            if mine is None and (source / other.folder / PICTURES).is_file():
                _copy(str(source / other.folder / PICTURES), str(place / inner / PICTURES))
            scores = read_scores(source / other.folder)
            if scores is not None:
                add_scores(place / inner, scores[[name for name in scores if name in ("sketch", "reference", *lacking)]])
            whole = mine.model_copy(update={"metrics": {**mine.metrics, **lacking}}) if mine else other
            changed = changed.with_measurement(whole.model_copy(update={"folder": inner}))
        if changed is not record:
            cell.write_record(changed)
    return changed is not record


def _difference(mine: Record, theirs: Record) -> str | None:
    """The first number in which two records of one cell differ."""
    for measurement in mine.measurements:
        other = theirs.measurement(measurement.identity)
        for key, number in measurement.metrics.items():
            if other and key in other.metrics and number.value != (there := other.metrics[key].value):
                return f"{key} is {number.value} here and {there} there"
    return None


def _take(source: Path, place: Path, draft: Path) -> str | None:
    """Copy a cell into place. Returns why it was not copied, if another process was first."""
    shutil.rmtree(draft, ignore_errors=True)  # left by a merge that was killed
    try:
        shutil.copytree(source, draft, ignore=shutil.ignore_patterns(*_LEFT_BEHIND), copy_function=_copy)
        return _put(draft, place)
    except OSError as error:
        first = error.args[0][0][2] if isinstance(error, shutil.Error) else error.strerror
        raise UserError(f"'{source}' cannot be copied to '{place}': {first}: the cells merged before it are kept") from error


def _copy(source: str, target: str) -> None:
    """Copy a file with its time, and flush it to the disk: it survives a crash of the machine."""
    shutil.copy2(source, target)
    with Path(target).open("rb") as file:
        os.fsync(file.fileno())


def _put(draft: Path, place: Path) -> str | None:
    """Move a complete cell into place, by a single rename if nothing is there."""
    if not place.exists():
        try:
            draft.rename(place)
            return None
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise  # else a runner has started the cell in the meantime
    cell = CellFolder(place)
    with cell.locked(wait=False) as ours:
        if not ours:
            return _RUNNING
        if (record := cell.record()) and record.status == FINISHED:
            return "it was finished here meanwhile"
        if any(path.name not in (".lock", "job.json") for path in place.iterdir()):
            cell.set_aside()
        for path in sorted(draft.iterdir(), key=lambda path: path.name == "cell.json"):  # last: without it, not a cell
            path.rename(place / path.name)
    return None
