"""A store as one pandas frame: one row per cell."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnbench.cells import sources
from attnbench.cells.record import ModuleRecord
from attnbench.store.reading import Stored, each_record

if TYPE_CHECKING:
    import pandas as pd


def results(store: str | Path = "results") -> pd.DataFrame:
    """A store as one frame, one row per cell.

    Columns: folder, identity, status, stale (files of the module whose code has changed since, comma-separated), label,
    module, options (JSON; all_options has the defaults as well), dataset, seed, recipe, recipe_digest, recipe_metrics, package,
    version, every metric and `<metric>.<part of its protocol>`, `best.<...>`, costs, device. Absent values are NaN or None.

    Raises:
        UserError: there is no such folder, or no cell in it.
    """
    return frame_of(each_record(Path(store)))


def frame_of(records: Iterable[Stored]) -> pd.DataFrame:
    """Records as a frame, see `results`."""
    import pandas as pd

    sources.forget()
    modules: dict[str, dict[str, Any]] = {}
    with without_collector():
        return pd.DataFrame([row_of(stored, modules) for stored in records])


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


def row_of(stored: Stored, modules: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A cell's row in `results`; `modules` caches the columns about modules across rows."""
    record = stored.record
    row = {
        "folder": stored.folder,
        "identity": record.identity,
        "status": record.status,
        **_columns_of_module(record.module, modules),
        "dataset": record.dataset.name,
        "fingerprint": record.dataset.fingerprint,
        "test_images": record.dataset.test,
        "seed": record.seed,
        "recipe": record.recipe.name,
        "recipe_digest": record.recipe.digest,
        "recipe_metrics": ",".join(record.recipe.metrics),
        "train_weights": " ".join(f"{name}={digest}" for name, digest in sorted(record.weights.items())),
        "failure": record.failure.message if record.failure else None,
        "device": record.provenance.device,
        **record.costs,
    }
    for prefix, metrics in (("", record.metrics), ("best.", record.best.metrics if record.best else {})):
        for name, metric in metrics.items():
            row[prefix + name] = metric.value
            row |= {f"{prefix}{name}.{part}": value for part, value in metric.parts.items()}
    return row


def _columns_of_module(module: ModuleRecord, known: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The columns about a module, cached in `known`, since most cells share their module with others."""
    key = repr(module)
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
