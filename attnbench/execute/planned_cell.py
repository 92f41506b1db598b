"""A planned cell: cell.json says what it is, job.json where its images are on this machine. `attnbench cell` reads both."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from attnbench import weights
from attnbench.cells.cell import Cell
from attnbench.cells.record import new_record
from attnbench.cells.variant import make_variant
from attnbench.config.recipe import Recipe
from attnbench.console import Say
from attnbench.data.images import Progress, prepare
from attnbench.data.origin import Origin
from attnbench.errors import UserError
from attnbench.store.folder import CellFolder
from attnbench.store.job import read_job, update_job
from attnbench.store.progress import ProgressFile


def plan_new(cells: Iterable[Cell], store: Path) -> None:
    """Make the folders of cells that have none, so that whoever looks sees what is to come."""
    for cell in cells:
        folder = CellFolder(store / cell.folder_name)
        if not folder.record_file.is_file():
            write_job(cell, folder)


def write_job(cell: Cell, folder: CellFolder, say: Say = lambda line: None) -> None:
    """Make the cell's folder, with what another process needs to run it. A record that is there and can be read stays."""
    folder.path.mkdir(parents=True, exist_ok=True)
    job = {
        "dataset": cell.origin.text,
        "data_root": str(cell.origin.root) if cell.origin.root else None,
        "skip_corrupt": cell.origin.skip_corrupt,
        "torch_home": str(Path(torch.hub.get_dir()).parent.absolute()),
    }
    with folder.locked(wait=False) as ours:
        if not ours:  # another runner's process is at it
            return
        update_job(folder.path, job)
        ProgressFile(folder.path).remove()  # of a process that was killed
        if folder.record(say) is None:
            folder.write_record(new_record(cell), sync=False)  # it can be made again


def load_cell(path: Path, progress: Progress) -> Cell:
    """The cell that a folder is for.

    Raises:
        UserError: it is none, or its module, images or weights are not what they were when it was planned.
    """
    record, job = CellFolder(path).record(), read_job(path)
    if record is None:
        raise UserError(f"'{path}' holds no cell.json: name a cell's folder, as `attnbench run --executor commands` lists them")
    if not job:
        raise UserError(f"'{path}' does not say where its images are (job.json): `attnbench run` for this cell writes it")
    if job["torch_home"] and Path(job["torch_home"]).is_dir():
        weights.use_torch_home(Path(job["torch_home"]))
    module = record["module"]
    variant = make_variant(module["name"], module["given"], module["label"])
    recipe = Recipe.model_validate(record["recipe"]["values"])
    origin = Origin(job["dataset"], Path(job["data_root"]) if job["data_root"] else None, job["skip_corrupt"])
    dataset = prepare(origin.find(), recipe.data, skip_corrupt=origin.skip_corrupt, progress=progress)
    cell = Cell(variant, dataset, origin, record["seed"], recipe, record["recipe"]["name"])
    if cell.identity != record["identity"]:
        raise UserError(f"'{path}' cannot be run as planned: {_difference(cell, record)}: `attnbench run` plans it anew")
    return cell


def _difference(cell: Cell, record: dict[str, Any]) -> str:
    now = {
        f"the options of module '{cell.variant.module}'": (dict(cell.variant.options), record["module"]["options"]),
        f"the images of '{cell.dataset.name}'": (cell.dataset.fingerprint, record["dataset"]["fingerprint"]),
        "the pretrained weights": (cell.training_weights, record["weights"]),
    }
    changed = [what for what, (a, b) in now.items() if a != b]
    return f"{' and '.join(changed) or 'attnbench itself'} changed since"
