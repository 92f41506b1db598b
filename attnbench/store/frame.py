"""A store as one pandas frame: one row per cell and measurement."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnbench.cells import sources
from attnbench.cells.record import MetricRecord, ModuleRecord, Record
from attnbench.metrics.descriptor import Descriptor
from attnbench.metrics.protocol import Protocol
from attnbench.store.reading import Stored, each_record

if TYPE_CHECKING:
    import pandas as pd


def results(store: str | Path = "results") -> pd.DataFrame:
    """A store as one frame, one row per cell and measurement; a cell that is not measured has one row.

    Columns: folder, identity, status, stale (files of the module whose code has changed since, comma-separated), label,
    module, options (JSON; all_options has the defaults as well), dataset, seed, recipe, recipe_digest, package, version;
    measurement, protocol (its label, empty for the usual one), test_images, measured (the folder with its pairs.csv), metrics
    (a JSON list of their keys), said (what the module said while it coloured, if anything); every metric by its key (`mine`,
    `mine:size=5`), `<metric>.<what is recorded with it>` (of a mapping, a column for each of its values: `mine.parts.hair`),
    `best.<...>`; costs, device, cells_on_device (how many shared it, if several); elsewhere (of pictures made elsewhere: note
    and size), pictures (the beginning of their digest).
    Absent values are NaN or None. `frame.attrs["metrics"]` describes the metrics, by key.

    Raises:
        UserError: there is no such folder, or no cell in it.
    """
    return frame_of(each_record(Path(store)))


def frame_of(records: Iterable[Stored]) -> pd.DataFrame:
    """Records as a frame, see `results`."""
    import pandas as pd

    sources.forget()
    modules: dict[str, dict[str, Any]] = {}
    described: dict[str, Descriptor] = {}
    with without_collector():
        frame = pd.DataFrame([row for stored in records for row in rows_of_cell(stored, modules, described)])
    frame.attrs["metrics"] = {key: one.model_dump() for key, one in described.items()}
    return frame


@cache
def keys_in(metrics: object) -> tuple[str, ...]:
    """The keys in the frame's column `metrics`; none where it is missing."""
    return tuple(json.loads(metrics)) if isinstance(metrics, str) else ()


def metrics_in(frame: pd.DataFrame) -> dict[str, Descriptor]:
    """The metrics in a frame, by key, described."""
    return {key: Descriptor.model_validate(values) for key, values in frame.attrs.get("metrics", {}).items()}


@contextmanager
def without_collector() -> Iterator[None]:
    """No garbage collection in the block: rows hold no cycles, and searching thousands of them takes a fifth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def rows_of_cell(
    stored: Stored, modules: dict[str, dict[str, Any]], described: dict[str, Descriptor]
) -> Iterator[dict[str, Any]]:
    """A cell's rows in `results`; `modules` caches the columns about modules, `described` collects the metrics."""
    record = stored.record
    cell = {
        "folder": stored.folder,
        "identity": record.identity,
        "status": record.status,
        **_columns_of_module(record.module, modules),
        "dataset": record.dataset.name,
        "fingerprint": record.dataset.fingerprint,
        "seed": record.seed,
        "recipe": record.recipe.name,
        "recipe_digest": record.recipe.digest,
        "size": _size(record),
        "train_weights": _as_text(tuple(record.weights.items())),
        "failure": record.failure.message if record.failure else None,
        "device": record.provenance.device,
        "cells_on_device": record.provenance.cells_on_device,
        "elsewhere": _made_elsewhere(record),
        "pictures": record.pictures.digest[:8] if record.pictures else None,
        **record.costs,
    }
    best = record.best
    if not record.measurements:
        yield cell
    for measurement in record.measurements:
        row = cell | {
            "measurement": measurement.identity,
            "protocol": _label(measurement.protocol),
            "test_fingerprint": measurement.test.fingerprint,
            "test_images": measurement.test.images,
            "measured": measurement.folder,
            "metrics": _as_list(tuple(measurement.metrics)),
        }
        if measurement.said:
            row["said"] = "; ".join(measurement.said)
        _add_numbers(row, "", measurement.metrics, described)
        if best and best.measurement in (measurement.identity, None):
            row["best_by"] = best.by
            _add_numbers(row, "best.", best.metrics, described)
        yield row


def _add_numbers(
    row: dict[str, Any], prefix: str, metrics: Mapping[str, MetricRecord], described: dict[str, Descriptor]
) -> None:
    for key, number in metrics.items():
        if key not in described or len(number.metric.model_fields_set) > len(described[key].model_fields_set):
            described[key] = number.metric  # of a record that is older than some of these fields, another's tells more
        name = prefix + key
        row[name] = number.value
        for part, value in number.parts.items():
            if part == "weights":
                row[_column(name, part)] = _as_text(tuple(value.items()))
            else:
                _add_part(row, _column(name, part), value)


def _add_part(row: dict[str, Any], name: str, value: Any) -> None:
    """A column, or one for each value of a mapping: numbers that pandas can compute with."""
    if isinstance(value, Mapping):
        for inner, one in value.items():
            _add_part(row, _column(name, inner), one)
    else:
        row[name] = value


@cache
def _label(protocol: Protocol) -> str:
    return protocol.label


@cache
def _as_list(keys: tuple[str, ...]) -> str:
    return json.dumps(keys)


@cache
def _column(metric: str, part: str) -> str:
    return f"{metric}.{part}"


@cache
def _as_text(weights: tuple[tuple[str, str], ...]) -> str:
    """`net=31b6...`: comparable, and a column of one type."""
    return " ".join(f"{name}={digest}" for name, digest in sorted(weights))


def _size(record: Record) -> int | None:
    """Side of the pictures that were measured, in pixels."""
    if record.pictures:
        return record.pictures.size
    data = record.recipe.values.get("data")
    return data.get("size") if isinstance(data, dict) else None


def _made_elsewhere(record: Record) -> str | None:
    """Of a row that was not trained here: what is said of its pictures, and their size; empty if that is nothing."""
    given = record.pictures
    if not given:
        return None
    size = f"made at {given.side} px" if given.side != given.size else ""
    return ", ".join(filter(None, [given.note, size]))


def _columns_of_module(module: ModuleRecord, known: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The columns about a module, cached in `known`, since most cells share their module with others."""
    key = str([*vars(module).values()])  # its own repr takes twice as long
    if key not in known:
        known[key] = {
            "stale": ", ".join(sources.changed_sources(module) or ()) or None,
            "label": module.label,
            "module": module.name,
            "options": json.dumps(module.given, sort_keys=True),
            "all_options": json.dumps(module.options, sort_keys=True),
            "package": module.package,
            "version": module.version,
        }
    return known[key]
