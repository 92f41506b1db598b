"""Grids: which cells a command asks for. Everything is looked up and checked here; no image is decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from attnbench.cells.cell import Cell
from attnbench.cells.variant import Variant, make_variant, parse_variant
from attnbench.config.grid_files import load_grid
from attnbench.config.recipe import Recipe, describe, digest, load_recipe
from attnbench.data.images import PreparedDataset
from attnbench.data.layouts import Dataset
from attnbench.data.origin import Origin
from attnbench.errors import UserError
from attnbench.training.costs import on_meta
from attnbench.training.state import build_generator


@dataclass(frozen=True)
class Grid:
    """The cells that one command asks for, checked; no image is decoded yet."""

    variants: Sequence[Variant]
    datasets: Sequence[Dataset]
    origins: Sequence[Origin]  # of the datasets
    seeds: Sequence[int]
    recipe: Recipe
    recipe_name: str

    def cells(self, prepared: Sequence[PreparedDataset], *, skip_corrupt: bool = False) -> list[Cell]:
        """Every variant on every dataset with every seed, datasets outermost.

        Raises:
            UserError: a training set is smaller than a batch.
        """
        for dataset in prepared:
            _check_size(dataset.name, len(dataset.train), self.recipe)
        origins = [replace(origin, skip_corrupt=skip_corrupt) for origin in self.origins]
        return [
            Cell(variant, dataset, origin, seed, self.recipe, self.recipe_name)
            for dataset, origin in zip(prepared, origins, strict=True)
            for seed in self.seeds
            for variant in self.variants
        ]


def check_grid(
    modules: Sequence[str],
    datasets: Sequence[str],
    recipe: str | Path,
    *,
    grid: str | Path | None = None,
    overrides: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    data_root: Path | None = None,
) -> Grid:
    """Look everything up, and refuse a grid that cannot run.

    Args:
        modules, datasets: as on the command line, see `parse_variant` and `parse_dataset`.
        grid: a built-in grid or a YAML file; its variants come before `modules`, its datasets are used if `datasets` is empty.
        recipe, overrides: see `load_recipe`.

    Raises:
        UserError: anything that the user can fix.
    """
    file = load_grid(grid) if grid is not None else None
    datasets = datasets or (file.datasets if file else ())
    if file and not datasets:
        raise UserError(f"grid '{grid}' names no datasets: add --datasets")
    if not (modules or file) or not datasets or not seeds:
        raise UserError("a grid needs at least one module, one dataset and one seed")
    if min(seeds) < 0:
        raise UserError(f"seed {min(seeds)}: seeds are 0 or more")
    resolved = load_recipe(recipe, overrides)
    listed_first = file.variants if file else ()
    variants = [make_variant(entry.module, entry.options, entry.label) for entry in listed_first]
    variants += [parse_variant(text) for text in modules]
    for variant in variants:
        _check_runs(variant, resolved)
    origins = [Origin.of(text, data_root) for text in datasets]
    listed = [origin.find() for origin in origins]
    _check_distinct([digest([v.module, v.options]) for v in variants], [v.label for v in variants], "module")
    _check_distinct([d.name for d in listed], [d.name for d in listed], "dataset")
    _check_distinct(seeds, [str(seed) for seed in seeds], "seed")
    for dataset in listed:
        _check_size(dataset.name, len(dataset.train), resolved)
    return Grid(variants, listed, origins, seeds, resolved, describe(recipe, overrides))


def _check_runs(variant: Variant, recipe: Recipe) -> None:
    """Refuse options that the constructor rejects, or with which the forward pass does not fit the recipe's network."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"), torch.no_grad():
        generator = build_generator(on_meta(variant.factory), recipe, seed=0)
        size = recipe.data.size
        try:
            generator(torch.zeros(2, 1, size, size), torch.zeros(2, 3, size, size))
        except ValueError as error:
            raise UserError(
                f"module '{variant.module}' with {dict(variant.given)} cannot run under this recipe: {error}"
            ) from error
        except Exception:  # some forwards look at values, which the meta device does not have; the first step will show
            return


def _check_size(name: str, count: int, recipe: Recipe) -> None:
    if count < recipe.train.batch_size:
        remedy = f"add images or pass --set train.batch_size={count}" if count >= 2 else "add images"
        raise UserError(
            f"dataset '{name}' has {count} training images, fewer than a batch of {recipe.train.batch_size}: {remedy}"
        )


def _check_distinct(keys: Sequence[Any], shown: Sequence[str], kind: str) -> None:
    seen = set()
    for key, name in zip(keys, shown, strict=True):
        if key in seen:
            raise UserError(f"{kind} '{name}' is asked for twice")
        seen.add(key)
