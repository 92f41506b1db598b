"""The images of a cell in a store: found again where its run found them, or under another data root."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from attnbench import plugins
from attnbench.cells.record import Record
from attnbench.config.recipe import Data
from attnbench.data.images import PreparedDataset, prepare
from attnbench.data.origin import Origin, default_data_root
from attnbench.errors import UserError
from attnbench.store.job import read_job


def images_of(path: Path, record: Record, data: Data, data_root: Path | None = None) -> PreparedDataset:
    """The dataset of a cell as it is on this machine now, which may differ from what the cell was trained on.

    Args:
        path: the cell's folder.
        data_root: searched before the data root of the cell's run.

    Raises:
        UserError: it is missing, or images cannot be decoded.
    """
    job, wanted = read_job(path), record.dataset
    root = data_root or (Path(job.data_root) if job and job.data_root else None) or default_data_root()
    text = job.dataset if job else _text_of(wanted.name, root)
    skips = bool((job and job.skip_corrupt) or wanted.skipped)
    try:
        return _prepared(Origin.of(text, root), data, skips)
    except UserError as error:
        raise UserError(f"the images of '{path}' are missing: {error}") from None


@lru_cache(maxsize=8)  # cells of a store share their images
def _prepared(origin: Origin, data: Data, skip_corrupt: bool) -> PreparedDataset:
    return prepare(origin.find(), data, skip_corrupt=skip_corrupt)


def _text_of(name: str, root: Path | None) -> str:
    """The dataset to look for by its name alone: a plug-in's, or the folder of that name under the data root."""
    if name in {plugin.name for plugin in plugins.installed(plugins.DATASETS)} or root is None:
        return name
    return f"{name}={root / name}"
