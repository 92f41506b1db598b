"""Rows and entries of a table: the cells of each, the labels of rows, and their order.

A row is a module with all its options, defaults included: a default that changed between two versions of a module makes another
row, an option that was typed at its default does not. An entry is a row on one dataset: its cells differ in their seeds.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from attnbench.cells.record import FINISHED
from attnbench.config.grid_files import COMPARISON, GridFile, GridVariant, built_in_grids, paper_label, title_with_options
from attnbench.errors import UserError

RowKey = tuple[str, str]  # module, all options as JSON


@dataclass(frozen=True)
class Row:
    """A variant in a table.

    Attributes:
        options: all of them; for a row without cells, those that its grid names.
        given: those that differ from the defaults.
    """

    label: str
    module: str
    options: Mapping[str, Any]
    given: Mapping[str, Any]


class Cells:
    """A recipe's cells, grouped once by row and dataset, with the scores of their test pairs.

    Args:
        frame: cells of one recipe; `label` is the row's, and datasets with different images have different names.
        store: the folder that the frame's `folder` is relative to; without it there are no scores of pairs.
    """

    def __init__(self, frame: pd.DataFrame, store: Path | None = None):
        self.frame = frame
        self.store = store
        self._groups = frame.groupby(["label", "dataset"], sort=False).indices
        self._columns: dict[str, np.ndarray] = {}  # arrays: slicing a frame for each entry takes seconds at 10,000 cells
        self._scores: dict[str, pd.DataFrame | None] = {}

    @cached_property
    def finished(self) -> pd.DataFrame:
        return self.frame[self.frame["status"] == FINISHED]

    def of(self, label: str, dataset: str, name: str) -> np.ndarray:
        """A column of the frame for all cells of an entry, whatever their status; all None if the frame lacks the column."""
        if name not in self._columns:
            lacking = np.full(len(self.frame), None, dtype=object)
            self._columns[name] = self.frame[name].to_numpy() if name in self.frame else lacking
        return self._columns[name][self._groups.get((label, dataset), [])]

    def values(self, label: str, dataset: str, metric: str, weights: str | None = None) -> pd.Series:
        """An entry's numbers by seed, from its finished cells that have the metric (measured with `weights`, if given)."""
        values = self.of(label, dataset, metric).astype(float)
        wanted = (self.of(label, dataset, "status") == FINISHED) & ~np.isnan(values)
        if weights is not None:
            wanted &= self.of(label, dataset, f"{metric}.weights") == weights
        return pd.Series(values[wanted], index=self.of(label, dataset, "seed")[wanted])

    def scores(self, label: str, dataset: str, metric: str, seeds: Iterable[int]) -> pd.Series | None:
        """Scores by test pair (sketch, reference), averaged over the seeds; None if one of these cells has no scores."""
        wanted = (self.of(label, dataset, "status") == FINISHED) & np.isin(self.of(label, dataset, "seed"), list(seeds))
        found = [self._pairs(folder) for folder in self.of(label, dataset, "folder")[wanted]]
        scored = [pairs[metric] for pairs in found if pairs is not None and metric in pairs]
        if not scored or len(scored) < len(found):
            return None
        return pd.concat(scored, axis=1).mean(axis=1, skipna=False).dropna()

    def _pairs(self, folder: str) -> pd.DataFrame | None:
        """A cell's pairs.csv by (sketch, reference); None if it is missing or damaged (a score is text, or infinite)."""
        if self.store is None:
            return None
        if folder not in self._scores:
            try:
                pairs = pd.read_csv(self.store / folder / "pairs.csv", index_col=["sketch", "reference"]).astype(float)
            except (OSError, ValueError):  # committed or copied results may lack it
                pairs = None
            self._scores[folder] = None if pairs is None or np.isinf(pairs).any(axis=None) else pairs
        return self._scores[folder]

    def image_differences(self, a: str, b: str, dataset: str, metric: str, seeds: Iterable[int]) -> np.ndarray | None:
        """A's score minus B's on every test pair that both coloured, averaged over the seeds: (n,); None without scores."""
        seeds = list(seeds)
        ours, theirs = self.scores(a, dataset, metric, seeds), self.scores(b, dataset, metric, seeds)
        if ours is None or theirs is None:
            return None
        both = pd.concat([ours, theirs], axis=1, join="inner").to_numpy()
        return both[:, 0] - both[:, 1] if len(both) else None


def by_recipe(frame: pd.DataFrame, store: Path | None = None) -> Iterator[Cells]:
    """The cells of each recipe and training weights, whose numbers can be compared.

    Args:
        frame: as from `rows_of`.
    """
    for _, group in frame.groupby(["recipe_digest", "train_weights"], sort=False, dropna=False):
        prints = group.groupby("dataset")["fingerprint"].nunique()
        several = group["dataset"].map(prints) > 1
        named = group["dataset"].where(~several, group["dataset"] + " [" + group["fingerprint"].str[:6] + "]")
        yield Cells(group.assign(dataset=named), store)


def without_copies(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with one copy of each cell: the first finished one in the store's folders, else the first."""
    if "identity" not in frame or frame["identity"].is_unique:
        return frame
    order = frame["status"].ne(FINISHED).argsort(kind="stable")
    kept = frame.iloc[order].drop_duplicates("identity").index
    return frame.loc[frame.index.isin(kept)]


def rows_of(frame: pd.DataFrame, grid: GridFile | None = None) -> tuple[pd.DataFrame, list[Row]]:
    """The cells that belong to a row, with the row's `label`, and the rows in order.

    Args:
        frame: as from `attnbench.results`.
        grid: its variants make the rows, in its order, with or without cells. Without a grid, every variant that has
            cells, the paper's first and in the order of its tables.

    Raises:
        UserError: no cell belongs to the grid.
    """
    found = _found(frame)
    if grid is None:
        keyed: list[tuple[RowKey | None, Row]] = [*sorted(found.items(), key=lambda item: _place(item[1]))]
    else:
        keyed = [pair for entry in grid.variants for pair in _of_entry(entry, found)]
    rows = _with_distinct_labels([row for _, row in keyed])
    places = {key: place for place, (key, _) in enumerate(keyed) if key is not None}
    if grid is not None and not places:
        raise UserError(f"there is no cell of the grid '{grid.title}': `attnbench run --grid` runs its cells")
    place = pd.Series([places.get(key, -1) for key in _keys(frame)], index=frame.index)
    mine = place[place >= 0]
    return frame.loc[mine.index].assign(label=[rows[i].label for i in mine]), rows


def _keys(frame: pd.DataFrame) -> Iterable[RowKey]:
    return zip(frame["module"], frame["all_options"], strict=True)


def _found(frame: pd.DataFrame) -> dict[RowKey, Row]:
    """The variants that have cells, each with the label of its cell that was given the fewest options."""
    found: dict[RowKey, Row] = {}
    for module, everything, options, label in frame[["module", "all_options", "options", "label"]].drop_duplicates().to_numpy():
        key, given = (module, everything), json.loads(options)
        if key not in found or len(given) < len(found[key].given):
            found[key] = Row(paper_label(module, given) or label, module, json.loads(everything), given)
    return found


def _of_entry(entry: GridVariant, found: Mapping[RowKey, Row]) -> list[tuple[RowKey | None, Row]]:
    """The rows of a grid's variant: one, or one for each version of the module's defaults that has cells."""
    pairs: list[tuple[RowKey | None, Row]] = [
        (key, replace(row, label=entry.label or row.label)) for key, row in found.items() if _belongs_to(row, entry)
    ]
    label = entry.label or paper_label(entry.module, entry.options) or title_with_options(entry.module, entry.options)
    return pairs or [(None, Row(label, entry.module, entry.options, entry.options))]


def _belongs_to(row: Row, entry: GridVariant) -> bool:
    named = all(name in row.options and row.options[name] == value for name, value in entry.options.items())
    return row.module == entry.module and named and set(row.given) <= set(entry.options)


def _place(row: Row) -> tuple[int, int, str]:
    """Sort key: modules in the order of the paper's comparison, variants in that of its tables, then others by label."""
    grids = built_in_grids()
    entries = [*grids[COMPARISON].variants, *(entry for grid in grids.values() for entry in grid.variants)]
    last = len(entries)
    module = next((place for place, entry in enumerate(entries) if entry.module == row.module), last)
    same = (place for place, entry in enumerate(entries) if (entry.module, entry.options) == (row.module, row.given))
    return module, next(same, last), row.label


def _with_distinct_labels(rows: Sequence[Row]) -> list[Row]:
    """Append what distinguishes rows that share a label: the module's name, or options."""
    return [replace(row, label=_with_difference(row, [other for other in rows if other.label == row.label])) for row in rows]


def _with_difference(row: Row, namesakes: Sequence[Row]) -> str:
    if len(namesakes) == 1:
        return row.label
    module = [row.module] if _differ(other.module for other in namesakes) else []
    named = dict.fromkeys(name for other in namesakes for name in other.options)
    options = [_option_text(row, name) for name in named if _differ(_option_text(other, name) for other in namesakes)]
    return f"{row.label} [{' '.join([*module, *options])}]"


def _option_text(row: Row, name: str) -> str:
    return f"{name}={json.dumps(row.options[name])}" if name in row.options else f"no {name}"


def _differ(values: Iterable[Hashable]) -> bool:
    return len(set(values)) > 1
