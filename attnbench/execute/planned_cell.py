"""A planned cell: cell.json describes it, job.json locates its images on this machine. `attnbench cell` reads both."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from attnbench import weights
from attnbench.cells.cell import Cell
from attnbench.cells.record import Record
from attnbench.cells.variant import make_variant
from attnbench.config.recipe import Evaluation
from attnbench.data.images import prepare
from attnbench.data.origin import Origin
from attnbench.errors import UserError
from attnbench.store.folder import CellFolder
from attnbench.store.generators import recorded_recipe
from attnbench.store.job import Job, RunOptions, read_job, write_job
from attnbench.store.progress import ProgressFile


def plan_new_cells(cells: Iterable[Cell], store: Path, options: RunOptions) -> None:
    """Create the folders of cells that have none, so that `attnbench status` shows all cells to come."""
    for cell in cells:
        folder = CellFolder(store / cell.folder_name)
        if not folder.record_file.is_file():
            plan_cell(cell, folder, options)


def plan_cell(cell: Cell, folder: CellFolder, options: RunOptions) -> None:
    """Create the cell's folder, with all that another process needs to run it. A readable record is kept."""
    folder.path.mkdir(parents=True, exist_ok=True)
    with folder.locked(wait=False) as ours:
        if not ours:  # another process is running it
            return
        try:
            earlier = read_job(folder.path)
        except UserError:  # damaged: it is written anew
            earlier = None
        write_job(folder.path, job_of(cell.origin, options, slurm=earlier.slurm if earlier else None))
        ProgressFile(folder.path).remove()  # left by a process that was killed
        folder.set_damaged_record_aside()
        if folder.record() is None:
            folder.write_record(cell.new_record(), sync=False)  # it can be written again


def job_of(origin: Origin, options: RunOptions, slurm: str | None = None) -> Job:
    """What another process on this machine needs: where images and weights are, and the options."""
    return Job(
        dataset=origin.text,
        data_root=str(origin.root) if origin.root else None,
        skip_corrupt=origin.skip_corrupt,
        torch_home=str(Path(torch.hub.get_dir()).parent.absolute()),
        slurm=slurm,
        options=options,
    )


def load_planned_cell(path: Path, evaluation: Evaluation) -> Cell:
    """The cell planned in a folder.

    Args:
        evaluation: how it is to be measured.

    Raises:
        UserError: it is not a planned cell, or its module, images or weights have changed since it was planned.
    """
    folder, job = CellFolder(path), read_job(path)
    record = folder.record()
    if record is None and folder.record_file.is_file():
        raise UserError(f"'{folder.record_file}' is damaged: `attnbench run` for this cell sets it aside and goes on")
    if record is None:
        raise UserError(f"'{path}' holds no cell.json: name a cell's folder, as `attnbench run --executor commands` lists them")
    if job is None:
        raise UserError(f"'{path}' has no job.json, which says where its images are: `attnbench run` for this cell writes it")
    if job.torch_home and Path(job.torch_home).is_dir():
        weights.use_torch_home(Path(job.torch_home))
    variant = make_variant(record.module.name, record.module.given, record.module.label)
    recipe = recorded_recipe(path, record).model_copy(update={"evaluation": evaluation})
    origin = Origin(job.dataset, Path(job.data_root) if job.data_root else None, job.skip_corrupt)
    dataset = prepare(origin.find(), recipe.data, skip_corrupt=origin.skip_corrupt)
    cell = Cell(variant, dataset, origin, record.seed, recipe, record.recipe.name)
    if cell.identity != record.identity:
        raise UserError(f"'{path}' cannot be run as planned: {_difference(cell, record)}: `attnbench run` plans it again")
    return cell


def _difference(cell: Cell, record: Record) -> str:
    now_and_then = {
        f"the options of module '{cell.variant.module}'": (dict(cell.variant.options), record.module.options),
        f"the training images of '{cell.dataset.name}'": (cell.dataset.fingerprints["train"], record.dataset.fingerprint),
        "the pretrained weights": (cell.training_weights, record.weights),
    }
    changed = [what for what, (now, then) in now_and_then.items() if now != then]
    return f"{' and '.join(changed) or 'attnbench itself'} changed since"
