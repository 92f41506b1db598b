"""The record of a cell: the content of its cell.json, typed. `attnbench schema cell` prints it as a JSON schema.

A record is frozen; `record.model_copy(update=...)` makes the next. Fields that this attnbench does not know are kept.
Fields that a cell does not have yet are absent from the file, not null.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

FORMAT = 1  # raised by a change after which an older attnbench would misread a record

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
    """The images of a cell."""

    name: str
    fingerprint: Digest = Field(description="Hash of the names and the content of all images.")
    train: Annotated[int, Field(ge=1)] = Field(description="Training images.")
    test: Annotated[int, Field(ge=1)] = Field(description="Test images.")
    side: int | None = Field(None, description="Median of the training images' shorter sides in their files, in pixels.")
    skipped: list[str] = Field([], description="Images that were left out because they could not be decoded.")


class RecipeRecord(_Part):
    """Everything that is held fixed while modules are compared."""

    name: str
    digest: Digest
    values: dict[str, Any] = Field(description="Every key, resolved.")

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics that the recipe asks for."""
        evaluation = self.values.get("evaluation")
        return list(evaluation.get("metrics", ())) if isinstance(evaluation, dict) else []


class Provenance(_Part):
    """What made the numbers."""

    versions: dict[str, str | None] = Field({}, description="Package -> version.")
    commit: str | None = Field(None, description="Commit of attnbench's checkout, `-dirty` if it had changes.")
    device: str | None = None
    threads: int | None = None
    platform: str | None = None


class MetricRecord(_Part):
    """A number with its protocol. What else is recorded (`n`, `dims`, `weights`, `floor`, ...) depends on the metric."""

    value: float | None = Field(description="null where it could not be measured.")
    reason: str | None = Field(None, description="Why there is no value.")
    missing: str | None = Field(None, description="The pretrained weights that were missing.")

    @property
    def parts(self) -> dict[str, Any]:
        """All that is recorded beside the value: reason and missing network, then the protocol in the file's order."""
        given = {"reason": self.reason, "missing": self.missing}
        return {name: value for name, value in given.items() if name in self.model_fields_set} | (self.model_extra or {})


class BestEpoch(_Part):
    """The epoch with the lowest FID, where the recipe measures every epoch."""

    step: Count
    epoch: Count
    metrics: dict[str, MetricRecord]


class Failure(_Part):
    """Why a cell failed or diverged, or was interrupted."""

    message: str
    traceback: str | None = None


class Record(_Part):
    """A cell: its description, its progress, and its numbers once it is finished."""

    format: int = 0
    identity: Digest = Field(description="Hash of everything that can change the cell's numbers, and of nothing else.")
    status: Status
    module: ModuleRecord
    dataset: DatasetRecord
    seed: Count
    recipe: RecipeRecord
    weights: dict[str, Digest] = Field(description="Pretrained weights that training uses: name -> digest.")
    step: Count = Field(0, description="Step of the newest checkpoint.")
    provenance: Provenance = Provenance()
    started: str | None = Field(None, description="Last start, UTC.")
    metrics: dict[str, MetricRecord] = {}
    losses: dict[str, float] = Field({}, description="Losses of the last step.")
    best: BestEpoch | None = None
    costs: dict[str, int | float] = Field({}, description="Counted and measured: parameters, GFLOP, seconds, bytes.")
    ended: str | None = Field(None, description="UTC.")
    failure: Failure | None = None

    @property
    def label(self) -> str:
        return cell_label(self.module.label, self.dataset.name, self.seed)


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
        _check_format(json.loads(data))
        raise NotARecord(_problem(first)) from None
    _check_format({"format": record.format})
    return record


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
