"""Taking over cells of format 1, whose identity covered their evaluation and test images, as cells with one measurement each.

Only the record and the folder's name change; pairs.csv, pictures, checkpoints and all other files stay where they are. The
training images' fingerprint is not in such a record, so the images are needed; without them the cell stays as it is, and is
read as before.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from attnbench.cells.format_1 import metrics_from_format_1
from attnbench.cells.identity import IDENTITY_VERSION, identity_of_record
from attnbench.cells.record import BestEpoch, MeasurementRecord, Record, TestRecord
from attnbench.console import log
from attnbench.data.format_1 import fingerprint_of_format_1
from attnbench.data.images import PreparedDataset
from attnbench.errors import UserError
from attnbench.execute.cell_images import images_of
from attnbench.files import write_text
from attnbench.metrics.protocol import measurement_identity, number_identity
from attnbench.store.folder import CellFolder, open_store
from attnbench.store.generators import recorded_recipe
from attnbench.store.reading import each_record

_EVALUATIONS = "evaluations.jsonl"
FindImages = Callable[[Path, Record], PreparedDataset]


@dataclass
class Migrated:
    """Folders of cells that were taken over: old name -> new name; and why others were not."""

    taken: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        counts = f"taken over {len(self.taken)}, left as they are {len(self.left)}"
        return "\n".join([counts, *(f"left as it is: {folder}: {why}" for folder, why in self.left.items())])


def migrate(store: Path, data_root: Path | None = None) -> Migrated:
    """Take over every cell of format 1 whose images are at hand.

    Raises:
        UserError: there is no such store, no cell in it, or it cannot be written to.
    """

    def find(path: Path, record: Record) -> PreparedDataset:
        return images_of(path, record, recorded_recipe(path, record).data, data_root)

    return _migrate(open_store(store) if store.is_dir() else store, find)


def migrate_for(store: Path, datasets: Iterable[PreparedDataset]) -> Migrated:
    """Take over the cells of format 1 on these datasets, so that a run does not train them anew."""
    found = {fingerprint_of_format_1(dataset): dataset for dataset in datasets} if _has_format_1(store) else {}

    def find(path: Path, record: Record) -> PreparedDataset:
        if record.dataset.fingerprint not in found:
            raise UserError("it is of another dataset")
        return found[record.dataset.fingerprint]

    migrated = _migrate(store, find) if found else Migrated()
    for old, new in migrated.taken.items():
        log.info(f"{old}: taken over from an older attnbench, as {new}")
    return migrated


def _has_format_1(store: Path) -> bool:
    """Whether a cell directly in the store is of format 1, by the first bytes of its record."""
    for file in store.glob("*/cell.json"):
        with file.open("rb") as opened:
            if b'"format": 1,' in opened.read(40):
                return True
    return False


def _migrate(store: Path, find: FindImages) -> Migrated:
    outcome = Migrated()
    for stored in list(each_record(store)):
        record, path = stored.record, store / stored.folder
        if record.identity_version == IDENTITY_VERSION:
            continue
        try:
            taken = _take_over(path, record, find(path, record))
        except UserError as why:
            outcome.left[stored.folder] = str(why)
        else:
            outcome.taken[stored.folder] = taken.name
    return outcome


def _take_over(path: Path, record: Record, dataset: PreparedDataset) -> Path:
    """Rename the folder, then write the record: a process killed in between leaves a cell that can be taken over again.

    Raises:
        UserError: its images have changed, another process runs it, or it was trained anew meanwhile.
    """
    if fingerprint_of_format_1(dataset) != record.dataset.fingerprint:
        raise UserError(
            f"'{dataset.name}' in {dataset.source} differs from the images of its training: pass the --data-root that has them"
        )
    changed = taken_over(record, dataset)
    place = path.with_name(f"{record.module.name}-{record.dataset.name}-seed{record.seed}-{changed.identity[:10]}")
    if place != path and place.exists():
        raise UserError(f"'{place.name}' is there already")
    with CellFolder(path).locked(wait=False) as ours:
        if not ours:
            raise UserError("another process is running it: run this again when it has ended")
        path.rename(place)
        _convert_evaluations(place / _EVALUATIONS)
        CellFolder(place).write_record(changed)
    return place


def taken_over(record: Record, dataset: PreparedDataset) -> Record:
    """A record of format 1 with the identities of the present format."""
    images = record.dataset.model_copy(update={"fingerprint": dataset.fingerprints["train"]})
    draft = record.model_copy(update={"dataset": images, "identity_version": IDENTITY_VERSION})
    identity = identity_of_record(draft)
    measurements = [_measurement(one, identity, dataset) for one in record.measurements]
    best: BestEpoch | None = record.best
    if best and measurements:
        best = best.model_copy(update={"measurement": measurements[0].identity})
    changes = {"identity": identity, "measurements": measurements, "best": best}
    return draft.model_copy(update={name: value for name, value in changes.items() if value})


def _measurement(old: MeasurementRecord, cell: str, dataset: PreparedDataset) -> MeasurementRecord:
    test = TestRecord(fingerprint=dataset.fingerprints["test"], images=old.test.images)
    identity = measurement_identity(cell, test.fingerprint, old.protocol)
    numbers = {
        key: number.model_copy(
            update={"identity": number_identity(identity, number.metric.name, number.metric.options, number.weights)}
        )
        for key, number in old.metrics.items()
    }
    return old.model_copy(update={"identity": identity, "test": test, "metrics": numbers})


def _convert_evaluations(file: Path) -> None:
    """Write the numbers of epochs as the present format has them, up to a damaged line."""
    if not file.is_file():
        return
    lines = []
    for line in file.read_text().splitlines():
        try:
            row = json.loads(line)
            metrics = metrics_from_format_1(row["metrics"], {}, "")
        except (KeyError, TypeError, ValueError):
            break
        lines.append(json.dumps({**row, "metrics": metrics}))
    write_text(file, "".join(f"{line}\n" for line in lines))
