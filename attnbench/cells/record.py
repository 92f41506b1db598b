"""The record of a cell: the content of its cell.json, typed. `attnbench schema cell` prints it as a JSON schema.

A record is frozen; `record.model_copy(update=...)` makes the next. Fields that this attnbench does not know are kept.
Fields that a cell does not have yet are absent from the file, not null.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from attnbench.metrics.descriptor import Descriptor
from attnbench.metrics.protocol import Protocol

FORMAT = 2  # raised by a change after which an older attnbench would misread a record

Status = Literal["finished", "running", "waiting", "interrupted", "failed", "diverged"]
WAITING: Status = "waiting"
RUNNING: Status = "running"
INTERRUPTED: Status = "interrupted"
FINISHED: Status = "finished"
FAILED: Status = "failed"
DIVERGED: Status = "diverged"
STATUSES: tuple[Status, ...] = (
    FINISHED,
    RUNNING,
    WAITING,
    INTERRUPTED,
    FAILED,
    DIVERGED,
)  # in the order in which they are shown

PicturesKind = Literal["lossless", "small", "none"]
Source = Literal["generator", "lossless pictures", "small pictures", "given pictures"]
Count = Annotated[int, Field(ge=0)]
Digest = str  # SHA-256, in hex


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow", strict=True)


class ModuleRecord(_Part):
    """A module with its options and its code."""

    name: str = Field(description="Name of the entry point.")
    label: str = Field(description="Label of this variant in tables.")
    given: dict[str, Any] = Field(description="Options that differ from their defaults.")
    options: dict[str, Any] = Field(description="All options, defaults included.")
    package: str
    version: str
    target: str | None = Field(None, description="`package.module:attribute` of the entry point.")
    sources: dict[str, Digest] | None = Field(None, description="Dotted name -> digest of the code of each of its files.")
    source_sha256: Digest | None = Field(None, description="Digest of its file's bytes, in records older than `sources`.")


class DatasetRecord(_Part):
    """The images that a cell is trained on."""

    name: str
    fingerprint: Digest = Field(description="Hash of the names and the content of the training images.")
    train: Count = Field(description="Training images.")
    side: int | None = Field(None, description="Median of the training images' shorter sides in their files, in pixels.")
    skipped: list[str] = Field([], description="Images that were left out because they could not be decoded.")


class RecipeRecord(_Part):
    """Everything that training holds fixed while modules are compared."""

    name: str
    digest: Digest
    values: dict[str, Any] = Field(description="Every key that training depends on, resolved.")
    evaluation: dict[str, Any] | None = Field(None, description="The other keys, which the identity of format 1 has.")


class Provenance(_Part):
    """What made the numbers."""

    versions: dict[str, str | None] = Field({}, description="Package -> version.")
    protocol: int | None = Field(None, description="Version of the protocol, docs/protocol.md, that was followed.")
    commit: str | None = Field(
        None, description="Commit of attnbench's checkout, or of its wheel's, `-dirty` if it had changes."
    )
    device: str | None = None
    threads: int | None = None
    platform: str | None = None
    cells_on_device: int | None = Field(None, description="The most cells that shared the device at a time, if several did.")


class MetricRecord(_Part):
    """A number. What else is recorded (`n`, `floor`, `chance`, ...) depends on the metric."""

    value: float | None = Field(description="null where it could not be measured.")
    reason: str | None = Field(None, description="Why there is no value.")
    missing: str | None = Field(None, description="The pretrained weights that were missing.")
    failed: bool = Field(False, description="Whether the metric raised an error, or gave something else than numbers.")
    metric: Descriptor = Field(description="The metric with its options, described.")
    weights: dict[str, Digest] = Field({}, description="Weights of the metric's networks: name -> digest.")
    identity: Digest | None = Field(None, description="Hash of the measurement, the metric with all options, and its weights.")
    source: Source | None = Field(None, description="The pictures that were measured.")
    measured: str | None = Field(None, description="UTC.")
    provenance: Provenance | None = None

    @property
    def parts(self) -> dict[str, Any]:
        """What is recorded beside the value: reason, missing network, failure, weights, source, then what the metric gave."""
        given = {}
        for name in ("reason", "missing", "failed", "weights", "source"):
            if value := getattr(self, name):
                given[name] = value
        return given | (self.model_extra or {})


class TestRecord(_Part):
    """The test images of a measurement."""

    fingerprint: Digest = Field(description="Hash of their names and content.")
    images: Count = Field(description="How many there are.")


class MeasurementRecord(_Part):
    """Pictures of one protocol, and their numbers."""

    identity: Digest = Field(description="Hash of the cell (or the pictures), the test images and the protocol.")
    protocol: Protocol
    test: TestRecord
    folder: str = Field(description="Where its pairs.csv and pictures are, in the cell's folder; `.` for the folder itself.")
    pictures: PicturesKind = Field("none", description="How the pictures are kept.")
    generated: Digest | None = Field(None, description="Hash of the pictures' pixels.")
    said: list[str] = Field([], description="What the module said, by `attnbench.warn`, while it coloured them.")
    metrics: dict[str, MetricRecord] = {}

    @property
    def lossless(self) -> bool:
        return self.pictures == "lossless"


class BestEpoch(_Part):
    """The best epoch by one of the metrics, where every epoch is measured."""

    step: Count
    epoch: Count
    by: str = Field(description="The metric by which it is the best.")
    measurement: Digest | None = Field(None, description="Identity of the measurement whose protocol it was measured under.")
    metrics: dict[str, MetricRecord]


class PicturesRecord(_Part):
    """Pictures that were made elsewhere, scored as they are."""

    digest: Digest = Field(description="Hash of their pixels.")
    note: str = ""
    side: Count = Field(description="Side of the pictures as they came, in pixels.")
    size: Count = Field(description="Side at which they were measured, in pixels.")


class Failure(_Part):
    """Why a cell failed or diverged, or was interrupted."""

    message: str
    traceback: str | None = None


class Record(_Part):
    """A cell: its description, its progress, and its numbers once it is finished."""

    format: int = 0
    identity: Digest = Field(description="Hash of everything that can change the trained network, and of nothing else.")
    identity_version: int = Field(2, description="What the identity covers; 1: its evaluation and its test images too.")
    status: Status
    module: ModuleRecord
    dataset: DatasetRecord
    seed: Count
    recipe: RecipeRecord
    weights: dict[str, Digest] = Field(description="Pretrained weights that training uses: name -> digest.")
    step: Count = Field(0, description="Step of the newest checkpoint.")
    provenance: Provenance = Provenance()
    started: str | None = Field(None, description="Last start, UTC.")
    measurements: list[MeasurementRecord] = []
    losses: dict[str, float] = Field({}, description="Losses of the last step.")
    best: BestEpoch | None = None
    costs: dict[str, int | float] = Field({}, description="Counted and measured: parameters, GFLOP, seconds, bytes.")
    ended: str | None = Field(None, description="UTC.")
    failure: Failure | None = None
    pictures: PicturesRecord | None = Field(None, description="Of a row that was not trained here: its pictures.")

    @property
    def label(self) -> str:
        if self.pictures:
            return f"{self.module.label} on {self.dataset.name}"
        return cell_label(self.module.label, self.dataset.name, self.seed)

    def measurement(self, identity: str) -> MeasurementRecord | None:
        return next((one for one in self.measurements if one.identity == identity), None)

    def with_measurement(self, measurement: MeasurementRecord) -> Record:
        """The record with this measurement in the place of the one with its identity, or behind the others."""
        others = [one.identity for one in self.measurements]
        changed = [*self.measurements]
        if measurement.identity in others:
            changed[others.index(measurement.identity)] = measurement
        else:
            changed.append(measurement)
        return self.model_copy(update={"measurements": changed})


def cell_label(variant: str, dataset: str, seed: int) -> str:
    """`SGA on cat, seed 0`: what messages and figures call a cell."""
    return f"{variant} on {dataset}, seed {seed}"


class NotARecord(ValueError):
    """JSON, but not a cell's record; `problem` is its first invalid field: `seed is null`."""

    def __init__(self, problem: str):
        super().__init__(f"it is not a cell's record ({problem})")
        self.problem = problem


class NewerFormat(ValueError):
    """A record of a newer attnbench."""


def parse_record(data: bytes | str) -> Record:
    """The record in a cell.json's bytes.

    Raises:
        ValueError: they are not JSON; NotARecord, NewerFormat: they are JSON, but not a record that this attnbench can read.
    """
    try:
        record = Record.model_validate_json(data)
    except ValidationError as errors:
        first = errors.errors()[0]
        if first["type"] == "json_invalid":
            raise ValueError(first["ctx"]["error"]) from None
        if isinstance(values := json.loads(data), dict) and values.get("format", 0) in (0, 1):
            return _from_format_1(values)
        _check_format(values)
        raise NotARecord(_problem(first)) from None
    _check_format({"format": record.format})
    return record if record.format == FORMAT else _from_format_1(json.loads(data))


def _from_format_1(values: dict[str, Any]) -> Record:
    from attnbench.cells.format_1 import LATER, from_format_1  # which reads metrics' plug-ins: newer records need none

    validated_record({name: value for name, value in values.items() if name not in LATER})  # says what else is wrong
    return validated_record(from_format_1(values))


def validated_record(values: Any) -> Record:
    """Plain values as a record.

    Raises:
        NotARecord: a part is missing or of another type.
    """
    try:
        return Record.model_validate_json(json.dumps(values))  # strict, and yet JSON's lists may be tuples
    except ValidationError as errors:
        raise NotARecord(_problem(errors.errors()[0])) from None


def _check_format(values: Any) -> None:
    number = values.get("format", 0) if isinstance(values, dict) else None
    if isinstance(number, int) and number > FORMAT:
        raise NewerFormat(f"it has format {number}, from a newer attnbench: upgrade this one")


def _problem(error: Any) -> str:
    """`dataset.train is missing`, `seed is "0"`."""
    part = ".".join(str(name) for name in error["loc"] if name not in ("int", "float")) or "it"  # without a union's branch
    return f"{part} is missing" if error["type"] == "missing" else f"{part} is {json.dumps(error['input'])[:40]}"


def record_text(record: Record) -> str:
    """What a cell.json holds.

    Raises:
        ValueError: a number in it is not finite.
    """
    return json.dumps(record.model_dump(mode="json", exclude_unset=True), indent=1, allow_nan=False) + "\n"
