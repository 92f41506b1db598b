"""A store as tables in the shape of the paper's Tables 1-3: one row per variant, two or more columns per dataset.

Cells share a table only if they share a recipe, and a column only if they share the metric's protocol (width of the FID layer,
weights of the network): numbers that cannot be compared never meet.

An entry is the mean over seeds with their standard deviation; for a single seed, the number with its bootstrap interval over
test pairs if the metric has a score for each. Footnotes name what an entry lacks and what is unusual about it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from attnbench.cells.record import DIVERGED, FAILED, FINISHED
from attnbench.config.grid_files import GridFile
from attnbench.errors import UserError
from attnbench.metrics.known import IN_PAPER, METRICS, OF_SETS, PER_IMAGE, USUAL_DIMS, check_metrics, default_columns, title_of
from attnbench.tables.columns import Column, columns_of, network_name, values_of
from attnbench.tables.cost_columns import Cost, cost_columns, cost_means, cost_note
from attnbench.tables.formats import DAGGER, Entry, Line, Sheet, written
from attnbench.tables.notes import Footnotes, listed_seeds, recipe_caption, set_distances, spread_notes
from attnbench.tables.published import published_note, published_value, published_values
from attnbench.tables.rows import Cells, Row, by_recipe, rows_of, without_copies
from attnbench.tables.statistics import SIGNIFICANT, bootstrap_interval, by_length, over_seeds, sign_flip_p

_MISSING = "-"
Place = tuple[str, int]  # of an entry: label of its row, index of its column


@dataclass(frozen=True)
class Table:
    """Rows of entries, with caption and notes."""

    columns: Sequence[Column | Cost]
    rows: dict[str, list[Entry]]  # label -> one entry per column
    caption: str
    notes: list[str] = field(default_factory=list)

    @property
    def sheet(self) -> Sheet:
        lines = [Line(label, entries) for label, entries in self.rows.items()]
        return Sheet([column.heading for column in self.columns], lines, self.caption, self.notes)


def tables(
    frame: pd.DataFrame,
    *,
    grid: GridFile | None = None,
    metrics: Sequence[str] = (),
    epoch: str = "last",
    with_published: bool = False,
    costs: bool = False,
    significance: bool = False,
    store: Path | None = None,
) -> list[Table]:
    """One table per recipe.

    Args:
        frame: as from `attnbench.results`.
        grid: rows are its variants, all of them, in its order; by default every variant that has a cell.
        metrics: columns, in this order; by default the paper's (FID and global SSIM), or all of a recipe without FID.
        epoch: `last`, or `best` (by FID; recipes with `evaluation.when: each_epoch`).
        with_published: add the paper's number and the difference from it, where the metric is the same.
        costs: add parameters, operations, speed and memory.
        significance: mark entries that do not differ significantly from the best of their column.
        store: the results folder, for the scores of single test pairs (pairs.csv): without it there are no intervals, and no
            tests between networks of a single seed.

    Raises:
        UserError: an unknown metric, no cell with a best epoch, or no cell of the grid.
    """
    check_metrics(metrics)
    if epoch == "best":
        frame, store = _best_epochs(frame), None  # pairs.csv has the scores of the last epoch
    frame, rows = rows_of(without_copies(frame), grid)
    found = []
    for cells in by_recipe(frame, store):
        labels = set(cells.frame["label"])
        shown = [row for row in rows if grid is not None or row.label in labels]
        found.append(_table(cells, shown, grid, metrics, epoch, with_published, costs, significance))
    return found


def _best_epochs(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with the metrics of each cell's best epoch in place of the last one's."""
    if not any(name.startswith("best.") for name in frame.columns):
        raise UserError("no cell has a best epoch: it needs a recipe with evaluation.when=each_epoch and an FID network")
    own = [name for name in frame.columns if name.split(".")[0] in METRICS]
    return frame.drop(columns=own).rename(columns=lambda name: str(name).removeprefix("best."))


def _table(
    cells: Cells,
    rows: Sequence[Row],
    grid: GridFile | None,
    metrics: Sequence[str],
    epoch: str,
    with_published: bool,
    costs: bool,
    significance: bool,
) -> Table:
    asked = cells.frame["recipe_metrics"].iloc[0].split(",")
    shown = list(metrics) or default_columns(asked)
    columns = columns_of(cells, _ordered(cells.frame["dataset"], grid), shown)
    labels = [row.label for row in rows]
    values = {(label, i): values_of(cells, label, column) for label in labels for i, column in enumerate(columns)}
    usual = _usual_count(values.values())
    intervals = _intervals(cells, columns, values)
    paper = {row.label: published_values(row) for row in rows} if with_published else {}
    ranks = {i: _ranks([values[label, i] for label in labels], column) for i, column in enumerate(columns)}
    alike, untested = _indistinct(cells, labels, columns, values) if significance else (set[Place](), False)

    footnotes = Footnotes()
    body: dict[str, list[Entry]] = {}
    for y, label in enumerate(labels):
        body[label] = [
            _entry(
                column,
                values[label, i],
                ranks[i][y],
                _spread(values[label, i], intervals.get((label, i)), usual, column),
                [DAGGER] if (label, i) in alike else [],
                _footnotes(cells, label, column, values[label, i], footnotes),
                published_value(paper.get(label, {}), column),
            )
            for i, column in enumerate(columns)
        ]
    notes = [*footnotes.lines, *spread_notes(usual, bool(intervals)), *set_distances(cells.finished, columns)]
    notes += _significance_note(untested) if significance else []
    notes += _other_packages(cells.frame)
    if with_published:
        notes.append(published_note(columns, paper.values()))
    if not costs:
        return Table(columns, body, _caption(cells, columns, epoch), notes)
    priced = cost_columns(cells.finished)
    for cost in priced:
        means = cost_means(cells.finished, cost)
        for label in labels:
            body[label].append(Entry(cost.written(means[label]) if label in means else _MISSING))
    return Table([*columns, *priced], body, _caption(cells, columns, epoch), [*notes, *cost_note(priced)])


def _usual_count(values: Iterable[pd.Series]) -> int:
    """The most common number of seeds of an entry, the larger of equally common ones."""
    counts = Counter(len(series) for series in values if len(series))
    return max(counts, key=lambda n: (counts[n], n), default=0)


def _intervals(
    cells: Cells, columns: Sequence[Column], values: Mapping[Place, pd.Series]
) -> Mapping[Place, tuple[float, float]]:
    """Bootstrap intervals over test pairs, for entries with one seed and a metric with a score per pair."""
    scores = {}
    for (label, i), series in values.items():
        column = columns[i]
        if len(series) == 1 and column.metric in PER_IMAGE:
            found = cells.scores(label, column.dataset, column.metric, series.index)
            if found is not None and len(found) > 1:
                scores[label, i] = found.to_numpy()
    return by_length(scores, bootstrap_interval)


def _ranks(values: Sequence[pd.Series], column: Column) -> list[int | None]:
    """0 for the best mean, 1 for the second; equal values share a rank; None for the others, and in a column of one mean."""
    means = [None if series.empty else round(series.mean(), column.decimals) for series in values]
    order = sorted({mean for mean in means if mean is not None}, reverse=not column.falls)
    if sum(mean is not None for mean in means) < 2:
        return [None] * len(means)
    places = [order.index(mean) if mean is not None else None for mean in means]
    return [place if place is not None and place < 2 else None for place in places]


def _indistinct(
    cells: Cells, labels: Sequence[str], columns: Sequence[Column], values: Mapping[Place, pd.Series]
) -> tuple[set[Place], bool]:
    """The entries whose difference from the best of their column has p >= 0.05, and whether any entry is untested.

    Tests are over seeds where the two share several, over test pairs where they share one.
    """
    p: dict[Place, float] = {}
    differences: dict[Place, np.ndarray] = {}
    untested = False
    for i, column in enumerate(columns):
        means = {label: values[label, i].mean() for label in labels if len(values[label, i])}
        if len(means) < 2:
            continue
        best = (min if column.falls else max)(means, key=lambda label: means[label])
        for label in means.keys() - {best}:
            seeds = values[label, i].index.intersection(values[best, i].index)
            if len(seeds) > 1:
                p[label, i] = over_seeds(values[label, i][seeds] - values[best, i][seeds]).p
                continue
            found = None
            if len(seeds) == 1 and column.metric in PER_IMAGE:
                found = cells.image_differences(label, best, column.dataset, column.metric, seeds)
            if found is None:
                untested = True
            else:
                differences[label, i] = found
    p |= by_length(differences, sign_flip_p)
    return {place for place, chance in p.items() if chance >= SIGNIFICANT}, untested or any(map(np.isnan, p.values()))


def _significance_note(untested: bool) -> list[str]:
    note = (
        f"{DAGGER} not significantly different from the best of its column (p ≥ {SIGNIFICANT}): paired t-test over the common "
        "seeds, which with two or three seeds detects only large differences; with one common seed, sign-flip test over the "
        "test pairs, which does not cover other training runs. Not corrected for the number of comparisons."
    )
    missing = "Unmarked where there is no test: FID and KID of one seed, no common seed, no scores of pairs (pairs.csv)."
    return [note, missing] if untested else [note]


def _spread(values: pd.Series, interval: Sequence[float] | None, usual: int, column: Column) -> str:
    """`± 2.00`, or `[0.52, 0.57]`; with `n=2` where most entries of the table have another number of seeds."""
    parts = []
    if len(values) > 1:
        parts.append(f"± {column.written(values.std())}")
    if interval is not None:
        parts.append(f"[{column.written(interval[0])}, {column.written(interval[1])}]")
    if len(values) and len(values) != usual:
        parts.append(f"n={len(values)}")
    return " ".join(parts)


def _entry(
    column: Column,
    values: pd.Series,
    rank: int | None,
    spread: str,
    marks: Sequence[str],
    footnotes: tuple[str | None, Sequence[str]],
    paper: float | None,
) -> Entry:
    status, numbers = footnotes
    value = (status or _MISSING) if values.empty else column.written(values.mean())
    beside = ""
    if paper is not None:
        difference = "" if values.empty else f", {column.written(values.mean() - paper, '+')}"
        beside = f"({column.written(paper)}{difference})"
    return Entry(value, rank, spread, (*marks, *numbers), beside)


def _footnotes(cells: Cells, label: str, column: Column, values: pd.Series, notes: Footnotes) -> tuple[str | None, list[str]]:
    """(`failed` or `diverged` if a cell of the entry is, else None; marks of the entry's footnotes)."""
    of = partial(cells.of, label, column.dataset)
    statuses = of("status")
    marks, status = [], None
    for ending in (FAILED, DIVERGED):
        ended = statuses == ending
        for folder, failure in zip(of("folder")[ended], of("failure")[ended], strict=True):
            status = status or ending
            marks.append(notes.mark(f"{folder}: {failure}" if values.empty else f"{folder}: {ending}: {failure}"))
    if not np.isin(statuses, [FINISHED, FAILED, DIVERGED]).all():
        marks.append(notes.mark(_open_cells(cells.frame)))
    finished = statuses == FINISHED
    reasons = of(f"{column.metric}.reason")[finished & pd.isna(of(column.metric))]
    marks += [notes.mark(f"{title_of(column.metric)}: {text}") for text in pd.unique(reasons) if pd.notna(text)]
    changed = pd.unique(of("stale")[finished])
    marks += [notes.mark(f"stale: {files} changed since this was trained") for files in changed if pd.notna(files)]
    return status, marks


def _open_cells(frame: pd.DataFrame) -> str:
    waiting = frame[~frame["status"].isin([FINISHED, FAILED, DIVERGED])]
    return f"Not finished: {', '.join(waiting['folder'])}."


def _caption(cells: Cells, columns: Sequence[Column], epoch: str) -> str:
    finished = cells.finished
    counts = finished.groupby("dataset")["test_images"].first()
    images = ", ".join(f"{name} {int(count)}" for name, count in counts.items())
    seeds = sorted({int(seed) for seed in finished["seed"].unique()})
    parts = [recipe_caption(cells)]
    if images:
        parts.append(f"test images: {images}")
    if seeds:
        parts.append(f"{'seeds' if len(seeds) > 1 else 'seed'} {listed_seeds(seeds)}")
    if epoch == "best":
        parts.append("each cell's epoch with the lowest FID")
    perceptual = {column.title: column for column in columns if column.weights and column.metric not in OF_SETS}
    parts += [f"{title}: weights {network_name(column)} {str(column.weights)[:8]}" for title, column in perceptual.items()]
    return "; ".join(parts) + "."


def _other_packages(frame: pd.DataFrame) -> list[str]:
    """A note on the packages of modules that are not attnbench's own."""
    others = frame.loc[frame["package"] != "attnbench", ["label", "package", "version"]].drop_duplicates().sort_values("label")
    named = [f"{row.label} ({row.package} {row.version})" for row in others.itertuples()]
    return [f"From other packages: {', '.join(named)}."] if named else []


def _ordered(datasets: Iterable[str], grid: GridFile | None) -> list[str]:
    """The datasets, each once, the grid's first and in its order."""
    found = list(dict.fromkeys(datasets))
    first = [name for name in (grid.datasets if grid else ()) if name in found]
    return list(dict.fromkeys([*first, *found]))


def render_table(table: Table, style: str) -> str:
    """As `md`, `latex` or `html` text.

    Raises:
        UserError: unknown format.
    """
    return written(table.sheet, style)


def for_pandas(frame: pd.DataFrame, *, grid: GridFile | None = None, with_published: bool = False) -> pd.DataFrame:
    """One row per cell, as in the CSV: the frame of `attnbench.results`, with the name of a network beside its weights.

    Args:
        grid: keep only the cells of its variants, with its labels.
        with_published: add the paper's numbers as `<metric>.published`, and ours minus them as `<metric>.difference`.
    """
    cells, rows = rows_of(without_copies(frame), grid)
    for metric in OF_SETS:
        if f"{metric}.weights" in cells:
            cells[f"{metric}.network"] = cells[f"{metric}.weights"].where(
                cells[f"{metric}.weights"].isna(), METRICS[metric].network
            )
    if with_published:
        paper = {(row.label, *place): value for row in rows for place, value in published_values(row).items()}
        for metric in IN_PAPER:
            keys = zip(cells["label"], cells["dataset"], strict=True)
            theirs = pd.Series([paper.get((*key, metric), np.nan) for key in keys], index=cells.index)
            if f"{metric}.dims" in cells:
                theirs = theirs.where(cells[f"{metric}.dims"] == USUAL_DIMS)
            cells[f"{metric}.published"] = theirs
            cells[f"{metric}.difference"] = cells[metric] - theirs if metric in cells else np.nan
    return cells
