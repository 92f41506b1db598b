"""Before anything runs: decode the images and list the cells."""

from __future__ import annotations

from attnbench import weights
from attnbench.cells.cell import Cell
from attnbench.cells.grid import Grid
from attnbench.console import Reporter
from attnbench.data.images import prepare
from attnbench.errors import UserError


def plan(grid: Grid, reporter: Reporter, *, skip_corrupt: bool = False) -> list[Cell]:
    """Decode the images, and list the cells.

    Raises:
        UserError: images that cannot be decoded (`skip_corrupt` leaves them out); weights that training needs are missing.
    """
    if grid.recipe.needs_perceptual_network:
        try:
            weights.find_or_download("vgg19")
        except weights.MissingWeights as missing:
            raise UserError(f"the perceptual and style losses need a network: {missing}") from None
    prepared = []
    for dataset in grid.datasets:
        prepared.append(prepare(dataset, grid.recipe.data, skip_corrupt=skip_corrupt, progress=reporter.progress))
        for name in prepared[-1].skipped:
            reporter.say(f"left out, cannot be decoded: {dataset.name}/{name}")
    return grid.cells(prepared, skip_corrupt=skip_corrupt)
