"""The record of a cell."""

from __future__ import annotations

from typing import Any

from attnbench.cells.cell import Cell
from attnbench.config.recipe import digest

FORMAT = 1


WAITING, RUNNING, INTERRUPTED = "waiting", "running", "interrupted"


FINISHED, FAILED, DIVERGED = "finished", "failed", "diverged"


def new_record(cell: Cell) -> dict[str, Any]:
    """What is known of a cell before it runs."""
    variant, dataset = cell.variant, cell.dataset
    return {
        "format": FORMAT,
        "identity": cell.identity,
        "status": WAITING,
        "module": {
            "name": variant.module,
            "label": variant.label,
            "given": dict(variant.given),
            "options": dict(variant.options),
            **variant.provenance,
        },
        "dataset": {
            "name": dataset.name,
            "fingerprint": dataset.fingerprint,
            "train": len(dataset.train),
            "test": len(dataset.test),
            "side": dataset.side,
            "skipped": dataset.skipped,
        },
        "seed": cell.seed,
        "recipe": {
            "name": cell.recipe_name,
            "digest": digest(cell.recipe.model_dump(mode="json")),
            "values": cell.recipe.model_dump(mode="json"),
        },
        "weights": cell.training_weights,
        "step": 0,
        "provenance": {},
    }
