"""How much disk space cells need, and whether there is enough."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from attnbench.cells.cell import Cell
from attnbench.cells.record import FINISHED
from attnbench.errors import UserError
from attnbench.method.backbone import Discriminator, count_parameters
from attnbench.store.folder import CellFolder
from attnbench.training.costs import on_meta
from attnbench.training.state import build_generator


def disk_bytes(cells: Sequence[Cell]) -> list[tuple[int, int]]:
    """Of each cell: (bytes kept, bytes while it runs)."""
    of_variant = {id(cell.variant): _disk_bytes(cell) for cell in {id(cell.variant): cell for cell in cells}.values()}
    return [of_variant[id(cell.variant)] for cell in cells]


def _disk_bytes(cell: Cell) -> tuple[int, int]:
    """float32 weights and Adam's two moments in one checkpoint; up to three checkpoints at once while it runs."""
    shape = cell.recipe.backbone
    with torch.device("meta"):
        generator = count_parameters(build_generator(on_meta(cell.variant.factory), cell.recipe, cell.seed))
        discriminator = count_parameters(Discriminator(shape.discriminator_width, shape.discriminator_layers))
    checkpoint, generator_weights = 4 * 3 * (generator + discriminator), 4 * generator
    return checkpoint + generator_weights, 3 * checkpoint + generator_weights


def check_space(cells: Sequence[Cell], store: Path, at_once: int = 1) -> None:
    """Raises UserError if the store's disk is too small for the files of the new cells, `at_once` of them running."""
    new = [cell for cell in cells if _takes_space(CellFolder(store / cell.folder_name))]
    if not new:
        return
    sizes = disk_bytes(new)
    needed = sum(kept for kept, _ in sizes) + min(at_once, len(new)) * max(peak - kept for kept, peak in sizes)
    free = shutil.disk_usage(store).free
    if free < needed:
        raise UserError(
            f"the disk of '{store}' has {free / 1e6:,.0f} MB free, {len(new)} new cells need {needed / 1e6:,.0f} MB"
            ": free some space or choose another folder with -o"
        )


def _takes_space(folder: CellFolder) -> bool:
    """Whether a cell has no checkpoint yet and is not finished (merged cells are finished without a checkpoint)."""
    if (folder.path / "checkpoint.pt").is_file():
        return False
    record = folder.record()
    return record is None or record.status != FINISHED
