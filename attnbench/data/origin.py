"""Datasets as typed on the command line: found on this machine, and found again by another process."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from attnbench import plugins
from attnbench.data.layouts import Dataset, folder
from attnbench.errors import UserError
from attnbench.plugins import as_default, check_names, options_of, split_options


@dataclass(frozen=True)
class Origin:
    """Where a dataset is on this machine: enough for another process to find it.

    Attributes:
        text: as on the command line, paths absolute.
        root: the data root.
        skip_corrupt: whether images that cannot be decoded are left out.
    """

    text: str
    root: Path | None
    skip_corrupt: bool = False

    @classmethod
    def of(cls, text: str, root: Path | None) -> Origin:
        name, equals, path = text.partition("=")
        if path and equals and ":" not in name:
            text = f"{name}={Path(path).expanduser().absolute()}"
        return cls(text, root.absolute() if root else None)

    def find(self) -> Dataset:
        """Raises UserError as `parse_dataset` does."""
        return parse_dataset(self.text, self.root)


def parse_dataset(text: str, root: Path | None) -> Dataset:
    """`cat`, `synthetic:train=200:size=64`, or `name=folder`.

    Raises:
        UserError: an unknown dataset or option, a missing folder, or no images.
    """
    head, equals, path = text.partition("=")
    if equals and ":" not in head:
        name = head.strip()
        if not name or name.startswith(".") or "/" in name or not path:
            raise UserError(f"dataset '{name}': expected name=folder, with a name that can stand in a cell's folder name")
        return folder(name, Path(path).expanduser())
    name, options = split_options(text, "dataset")
    loaded = plugins.find(plugins.DATASETS, name).load()
    accepted, where = options_of(loaded, name), f"dataset '{name}'"
    check_names(options, accepted, where)
    dataset = loaded(root, **{key: as_default(key, value, accepted[key], where) for key, value in options.items()})
    if not isinstance(dataset, Dataset):
        raise UserError(f"dataset '{name}' returned a {type(dataset).__name__}, not an attnbench.data.layouts.Dataset")
    return dataset


def default_data_root() -> Path | None:
    """`$ATTNBENCH_DATA`."""
    root = os.environ.get("ATTNBENCH_DATA")
    return Path(root).expanduser() if root else None
