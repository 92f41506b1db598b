"""A cell's identity: a hash of everything that can change its numbers, and of nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attnbench.cells.record import Record
from attnbench.config.recipe import digest

IDENTITY_VERSION = 1  # raised when the meaning of a stored number changes


def identity_of(
    *,
    recipe: Mapping[str, Any],
    module: str,
    options: Mapping[str, Any],
    fingerprint: str,
    seed: int,
    weights: Mapping[str, str],
) -> str:
    """SHA-256, in hex.

    Args:
        recipe: all of its keys, as JSON types.
        options: all options of the module, defaults included.
        fingerprint: of the dataset's images.
        weights: pretrained weights that training uses, name -> SHA-256 of the file.
    """
    return digest(
        {
            "version": IDENTITY_VERSION,
            "recipe": recipe,
            "module": {"name": module, "options": dict(options)},
            "dataset": fingerprint,
            "seed": seed,
            "weights": weights,
        }
    )


def identity_of_record(record: Record) -> str:
    """The identity that a record must have."""
    return identity_of(
        recipe=record.recipe.values,
        module=record.module.name,
        options=record.module.options,
        fingerprint=record.dataset.fingerprint,
        seed=record.seed,
        weights=record.weights,
    )
