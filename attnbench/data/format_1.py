"""The fingerprint of a dataset as records of format 1 have it: of training and test images together."""

from __future__ import annotations

from pathlib import Path

from attnbench.config.recipe import digest
from attnbench.data.images import PreparedDataset, cache_folder, content_digests


def fingerprint_of_format_1(dataset: PreparedDataset, cache: Path | None = None) -> str:
    """The fingerprint that a record of format 1 has for these images.

    None has that of the built-in drawings: those of that time are not drawn any more.
    """
    splits = {"train": dataset.train_pictures, "test": dataset.test_pictures}
    prints = {}
    for split, pictures in splits.items():
        contents = content_digests(pictures, cache or cache_folder())
        prints[split] = [(picture.name, content) for picture, content in zip(pictures, contents, strict=True)]
    return digest(prints)
