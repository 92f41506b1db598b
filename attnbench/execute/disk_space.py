"""How much disk space cells need, and whether there is enough."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from attnbench.cells.cell import Cell
from attnbench.cells.record import FINISHED, PicturesKind
from attnbench.errors import UserError
from attnbench.method.backbone import Discriminator, count_parameters
from attnbench.metrics.generate import PairSet
from attnbench.metrics.protocol import protocols_of
from attnbench.store.folder import CellFolder
from attnbench.store.pictures import pictures_bytes
from attnbench.training.costs import on_meta
from attnbench.training.state import build_generator

_EXAMPLES = 6  # test pictures that are encoded to estimate what all take


def disk_bytes(cells: Sequence[Cell], pictures: PicturesKind) -> list[tuple[int, int]]:
    """Of each cell: (bytes kept, bytes while it runs), its test pictures among them."""
    of_variant = {id(cell.variant): _disk_bytes(cell) for cell in {id(cell.variant): cell for cell in cells}.values()}
    of_dataset = {
        id(cell.dataset): picture_bytes(cell, pictures) for cell in {id(cell.dataset): cell for cell in cells}.values()
    }
    sums = [(of_variant[id(cell.variant)], of_dataset[id(cell.dataset)]) for cell in cells]
    return [(kept + shown, peak + shown) for (kept, peak), shown in sums]


def picture_bytes(cell: Cell, kind: PicturesKind) -> int:
    """About how many bytes a cell's test pictures take, over all protocols of its recipe."""
    total = 0
    for protocol in protocols_of(cell.recipe.evaluation):
        pairs = PairSet.of(cell.dataset.test, protocol, cell.recipe.data)
        few = pairs.first(_EXAMPLES)
        total += pictures_bytes(len(pairs), few.sketches(), few.wanted(), kind)
    return total


def _disk_bytes(cell: Cell) -> tuple[int, int]:
    """float32 weights and Adam's two moments in one checkpoint; up to three checkpoints at once while it runs."""
    shape = cell.recipe.backbone
    with torch.device("meta"):
        generator = count_parameters(build_generator(on_meta(cell.variant.factory), cell.recipe, cell.seed))
        discriminator = count_parameters(Discriminator(shape.discriminator_width, shape.discriminator_layers))
    checkpoint, generator_weights = 4 * 3 * (generator + discriminator), 4 * generator
    return checkpoint + generator_weights, 3 * checkpoint + generator_weights


def check_space(cells: Sequence[Cell], store: Path, pictures: PicturesKind, at_once: int = 1) -> None:
    """Raises UserError if the store's disk is too small for the files of the new cells, `at_once` of them running."""
    new = [cell for cell in cells if _takes_space(CellFolder(store / cell.folder_name))]
    if not new:
        return
    sizes = disk_bytes(new, pictures)
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
