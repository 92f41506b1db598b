"""The fingerprint of a dataset as records of format 1 have it: of training and test images together."""

from __future__ import annotations

import hashlib
from pathlib import Path

from attnbench.config.recipe import digest
from attnbench.data import synthetic
from attnbench.data.images import PreparedDataset, cache_folder, content_digests
from attnbench.data.layouts import Drawing, Picture


def fingerprint_of_format_1(dataset: PreparedDataset, cache: Path | None = None) -> str:
    """The fingerprint that a record of format 1 has for these images.

    For drawings it covers the text of the file that draws them, so that it is found only while that text stays as it was.
    """
    splits = {"train": dataset.train_pictures, "test": dataset.test_pictures}
    prints = {}
    for split, pictures in splits.items():
        if any(isinstance(picture, Drawing) for picture in pictures):
            contents = [_content_of_drawing(picture) for picture in pictures]
        else:
            contents = content_digests(pictures, cache or cache_folder())
        prints[split] = [(picture.name, content) for picture, content in zip(pictures, contents, strict=True)]
    return digest(prints)


def _content_of_drawing(picture: Picture) -> str:
    code = Path(synthetic.__file__).read_bytes()
    return hashlib.sha256(code + str(picture).encode()).hexdigest()
