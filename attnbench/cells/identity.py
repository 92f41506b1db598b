"""A cell's identity: a hash of everything that can change the trained network, and of nothing else.

How it is measured is not part of it: a measurement has an identity of its own (`metrics.protocol`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attnbench.cells.record import Record
from attnbench.config.recipe import digest

if TYPE_CHECKING:
    from attnbench.data.images import PreparedDataset

IDENTITY_VERSION = 2  # raised when the meaning of what is trained changes


def identity_of(
    *,
    recipe: Mapping[str, Any],
    module: str,
    options: Mapping[str, Any],
    fingerprint: str,
    seed: int,
    weights: Mapping[str, str],
    version: int = IDENTITY_VERSION,
) -> str:
    """SHA-256, in hex.

    Args:
        recipe: the keys that training depends on, as JSON types.
        options: all options of the module, defaults included.
        fingerprint: of the training images.
        weights: pretrained weights that training uses, name -> SHA-256 of the file.
        version: 1 for cells of format 1, whose recipe and fingerprint include evaluation and test images.
    """
    return digest(
        {
            "version": version,
            "recipe": recipe,
            "module": {"name": module, "options": dict(options)},
            "dataset": fingerprint,
            "seed": seed,
            "weights": weights,
        }
    )


def identity_of_pictures(pixels: str, label: str, dataset: str) -> str:
    """Of pictures that were made elsewhere: SHA-256, in hex, of the digest of their pixels, their label and their dataset."""
    return digest({"version": IDENTITY_VERSION, "pictures": pixels, "label": label, "dataset": dataset})


def identity_of_record(record: Record) -> str:
    """The identity that a record must have."""
    if record.pictures:
        return identity_of_pictures(record.pictures.digest, record.module.label, record.dataset.name)
    recipe = record.recipe.values
    if record.identity_version == 1 and record.recipe.evaluation is not None:
        recipe = {**recipe, "evaluation": record.recipe.evaluation}
    return identity_of(
        recipe=recipe,
        module=record.module.name,
        options=record.module.options,
        fingerprint=record.dataset.fingerprint,
        seed=record.seed,
        weights=record.weights,
        version=record.identity_version,
    )


def was_trained_on(record: Record, dataset: PreparedDataset) -> bool:
    """Whether a dataset's training images are those of a cell; for cells of format 1, whether its test images are, too."""
    if record.identity_version == 1:
        from attnbench.data.format_1 import fingerprint_of_format_1  # which imports torch, and merging needs none

        return record.dataset.fingerprint == fingerprint_of_format_1(dataset)
    return record.dataset.fingerprint == dataset.fingerprints["train"]
