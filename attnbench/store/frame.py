"""A store as one pandas frame: a row a cell."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnbench.cells import sources
from attnbench.console import Say
from attnbench.errors import UserError
from attnbench.store.reading import each_record

if TYPE_CHECKING:
    import pandas as pd


def results(store: str | Path = "results", say: Say = lambda line: None) -> pd.DataFrame:
    """A store as one frame, a row a cell.

    Columns: folder, identity, status, stale (files of the module whose code has changed since, comma-separated), label,
    module, options (JSON; all_options has the defaults as well), dataset, seed, recipe, recipe_digest, recipe_metrics, package,
    version, every metric and `<metric>.<part of its protocol>`, `best.<...>`, costs, device. What a cell lacks is missing.

    Raises:
        UserError: there is no such folder, or no cell in it.
    """
    import pandas as pd

    sources.forget()
    rows: list[dict[str, Any]] = []
    modules: dict[str, dict[str, Any]] = {}
    with without_collector():
        for record in each_record(Path(store), say):
            try:
                rows.append(row_of(record, modules))
            except (AttributeError, KeyError, TypeError) as error:
                say(f"{Path(store, record['folder'], 'cell.json')} is left out: it is not a cell's record ({error!r})")
    if not rows:
        raise UserError(f"no cell in '{store}' can be read: `attnbench run -o {store} ...` makes them")
    return pd.DataFrame(rows)


@contextmanager
def without_collector() -> Iterator[None]:
    """Thousands of rows hold no cycles; looking for some among them, again and again, takes a fifth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def row_of(record: dict[str, Any], modules: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A cell's row in `results`; `modules` remembers what rows say of their modules, for a reading of many.

    Raises:
        AttributeError, KeyError, TypeError: a part of the record is missing or of another kind.
    """
    module, dataset = record["module"], record["dataset"]
    row = {
        "folder": record["folder"],
        "identity": record["identity"],
        "status": record["status"],
        **_columns_of_module(module, modules),
        "dataset": dataset["name"],
        "fingerprint": dataset["fingerprint"],
        "test_images": dataset["test"],
        "seed": record["seed"],
        "recipe": record["recipe"]["name"],
        "recipe_digest": record["recipe"]["digest"],
        "recipe_metrics": ",".join(record["recipe"]["values"]["evaluation"]["metrics"]),
        "train_weights": " ".join(f"{name}={digest}" for name, digest in sorted(record["weights"].items())),
        "failure": (record.get("failure") or {}).get("message"),
        "device": record["provenance"].get("device"),
        **record.get("costs", {}),
    }
    for prefix, metrics in (("", record.get("metrics")), ("best.", (record.get("best") or {}).get("metrics"))):
        for name, metric in (metrics or {}).items():
            for part, value in metric.items():
                row[prefix + name if part == "value" else f"{prefix}{name}.{part}"] = value
    return row


def _columns_of_module(module: dict[str, Any], known: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What a row says of its module; `known` remembers it, since most cells have the module of another."""
    key = repr(module)
    if key not in known:
        known[key] = {
            "stale": ", ".join(sources.changed_sources(module) or ()) or None,
            "label": module["label"],
            "module": module["name"],
            "options": json.dumps(module["given"], sort_keys=True),
            "all_options": json.dumps(module["options"], sort_keys=True),
            "package": module["package"],
            "version": module["version"],
        }
    return known[key]
