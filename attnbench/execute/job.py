"""A planned cell: cell.json says what it is, job.json where its images are on this machine. `attnbench cell` reads both."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from attnbench import store as stores
from attnbench import weights
from attnbench.cell import new_record
from attnbench.data.images import Progress, prepare
from attnbench.errors import UserError
from attnbench.grid import Cell, Origin, make_variant
from attnbench.progress import ProgressFile
from attnbench.recipe import Recipe
from attnbench.store import CellFolder


def plan_new(cells: Iterable[Cell], store: Path) -> None:
    """Make the folders of cells that have none, so that whoever looks sees what is to come."""
    for cell in cells:
        folder = CellFolder(store / cell.folder_name)
        if not folder.record_file.is_file():
            write_job(cell, folder)


def write_job(cell: Cell, folder: CellFolder, say: stores.Say = lambda line: None) -> None:
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


def update_job(folder: Path, changes: dict[str, Any]) -> None:
    stores.write_text(folder / "job.json", json.dumps({**read_job(folder), **changes}, indent=1) + "\n", sync=False)


def read_job(folder: Path) -> dict[str, Any]:
    """What job.json holds; empty where there is none."""
    file = folder / "job.json"
    try:
        job: dict[str, Any] = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(
            f"'{folder / 'job.json'}' is damaged ({error}): delete it, and `attnbench run` again writes it"
        ) from None
    return job


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
