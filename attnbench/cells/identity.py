"""A cell's identity: a hash of all that can change its numbers, and of nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
        recipe: every key of it, in JSON's types.
        options: all of the module's, defaults included.
        fingerprint: of the data set's images.
        weights: pretrained networks that training uses -> SHA-256 of their files.
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


def identity_of_record(record: Mapping[str, Any]) -> str:
    """What the identity of a cell.json must be.

    Raises:
        KeyError, TypeError: it lacks a part.
    """
    return identity_of(
        recipe=record["recipe"]["values"],
        module=record["module"]["name"],
        options=record["module"]["options"],
        fingerprint=record["dataset"]["fingerprint"],
        seed=record["seed"],
        weights=record["weights"],
    )
