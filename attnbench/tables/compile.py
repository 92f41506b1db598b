"""A store as tables in the shape of the paper's Tables 1-3: one row per variant, two or more columns per dataset.

Cells share a table only if they share a recipe, and a column only if they share the protocol, the metric with its options, and
the weights of its networks: numbers that cannot be compared never meet.

An entry is the mean over seeds with their standard deviation; for a single seed, the number with its bootstrap interval over
test pairs if the metric has a score for each. Footnotes name what an entry lacks and what is unusual about it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from attnbench.cells.record import DIVERGED, FAILED, FINISHED, Source
from attnbench.config.grid_files import GridFile
from attnbench.errors import UserError
from attnbench.metrics.descriptor import Descriptor
from attnbench.store.frame import metrics_in
from attnbench.tables.columns import Column, columns_of, spread_of, titles, values_of
from attnbench.tables.cost_columns import Cost, cost_columns, cost_means, cost_note
from attnbench.tables.formats import DAGGER, Entry, Line, Sheet, written
from attnbench.tables.gaps import Gap, gap_entries, gaps_of
from attnbench.tables.notes import (
    Footnotes,
    foreign_notes,
    gap_notes,
    listed_seeds,
    metric_notes,
    recipe_caption,
    spread_notes,
    unmeasured_notes,
)
from attnbench.tables.published import published_note, published_value, published_values
from attnbench.tables.rows import Cells, Row, Setting, by_recipe, rows_of, same_weights, without_copies
from attnbench.tables.selection import chosen_metrics, select
from attnbench.tables.statistics import SIGNIFICANT, bootstrap_interval, by_length, over_seeds, sign_flip_p

_MISSING = "-"
_SMALL: Source = "small pictures"
Place = tuple[str, int]  # of an entry: label of its row, index of its column


@dataclass(frozen=True)
class Table:
    """Rows of entries, with caption and notes."""

    columns: Sequence[Column | Gap | Cost]
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
        metrics: columns, in this order: keys, or names that stand for a metric with any options; by default as
            `selection.usual_metrics`.
        epoch: `last`, or `best` (recipes with `evaluation.when: each_epoch`).
        with_published: add the paper's number and the difference from it, where the metric is the same.
        costs: add parameters, operations, speed and memory.
        significance: mark entries that do not differ significantly from the best of their column.
        store: the results folder, for the scores of single test pairs (pairs.csv): without it there are no intervals, and no
            tests between networks of a single seed.

    Raises:
        UserError: an unknown metric, no cell with a best epoch, or no cell of the grid.
    """
    known = metrics_in(frame)
    chosen = chosen_metrics(known, metrics)
    if epoch == "best":
        frame, store = _best_epochs(frame, known), None  # pairs.csv has the scores of the last epoch
    frame, rows = rows_of(without_copies(frame), grid)
    found = []
    for cells in by_recipe(frame, known, store):
        labels = set(cells.frame["label"])
        shown = [row for row in rows if (grid is not None and row.pictures is None) or row.label in labels]
        found.append(_table(cells, shown, grid, chosen, epoch, with_published, costs, significance))
    return found


def _best_epochs(frame: pd.DataFrame, metrics: Iterable[str]) -> pd.DataFrame:
    """The frame with the metrics of each cell's best epoch in place of the last one's, under the protocol of both."""
    if "best_by" not in frame or frame["best_by"].isna().all():
        raise UserError("no cell has a best epoch: it needs a recipe with evaluation.when=each_epoch")
    has = frame["best_by"].notna()
    frame = frame[has | ~has.groupby(frame["identity"]).transform("any")]
    own = [name for name in frame.columns if any(name == key or name.startswith(f"{key}.") for key in metrics)]
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
    selection = select(cells, _ordered(cells.settings, grid), metrics)
    columns = columns_of(cells, selection.shown)
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
                spread_of(column.metric, values[label, i], intervals.get((label, i)), usual),
                [DAGGER] if (label, i) in alike else [],
                _footnotes(cells, label, column, values[label, i], footnotes),
                published_value(paper.get(label, {}), column),
            )
            for i, column in enumerate(columns)
        ]
    gaps = gaps_of(cells, columns)
    shown: list[Column | Gap | Cost] = [*columns]
    for place, gap in reversed(gaps.items()):  # the last one first, so that the others' places stay
        shown.insert(place + 1, gap)
        for label, entry in gap_entries(cells, gap, labels, usual).items():
            body[label].insert(place + 1, entry)
    has_intervals = any("[" in entry.spread for entries in body.values() for entry in entries)
    notes = [*footnotes.lines, *spread_notes(usual, has_intervals), *gap_notes(gaps.values()), *metric_notes(cells, columns)]
    notes += unmeasured_notes(cells.metrics, selection)
    notes += foreign_notes(cells, rows)
    notes += _significance_note(untested) if significance else []
    notes += _other_packages(cells.frame)
    if with_published:
        notes.append(published_note(columns, paper.values()))
    if not costs:
        return Table(shown, body, _caption(cells, columns, epoch), notes)
    priced = cost_columns(cells.trained)
    for cost in priced:
        means = cost_means(cells.trained, cost)
        for label in labels:
            body[label].append(Entry(cost.written(means[label]) if label in means else _MISSING))
    return Table([*shown, *priced], body, _caption(cells, columns, epoch), [*notes, *cost_note(priced)])


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
        if len(series) == 1 and column.metric.per_image:
            found = cells.scores(label, column.setting, column.key, series.index)
            if found is not None and len(found) > 1:
                scores[label, i] = found.to_numpy()
    return by_length(scores, bootstrap_interval)


def _ranks(values: Sequence[pd.Series], column: Column) -> list[int | None]:
    """0 for the best mean, 1 for the second; equal values share a rank; None for the others, and in a column of one mean."""
    means = [None if series.empty else round(series.mean(), column.metric.decimals) for series in values]
    order = sorted({mean for mean in means if mean is not None}, reverse=not column.metric.lower_is_better)
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
        best = column.metric.best_of(means)
        for label in means.keys() - {best}:
            seeds = values[label, i].index.intersection(values[best, i].index)
            if len(seeds) > 1:
                p[label, i] = over_seeds(values[label, i][seeds] - values[best, i][seeds]).p
                continue
            found = None
            if len(seeds) == 1 and column.metric.per_image:
                found = cells.image_differences(label, best, column.setting, column.key, seeds)
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
    missing = (
        "Unmarked where there is no test: no common seed, or one, and no scores of pairs (pairs.csv), which metrics of whole "
        "sets never have."
    )
    return [note, missing] if untested else [note]


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
    written = column.metric.written
    value = (status or _MISSING) if values.empty else written(values.mean())
    beside = ""
    if paper is not None:
        difference = "" if values.empty else f", {written(values.mean() - paper, '+')}"
        beside = f"({written(paper)}{difference})"
    return Entry(value, rank, spread, (*marks, *numbers), beside)


def _footnotes(cells: Cells, label: str, column: Column, values: pd.Series, notes: Footnotes) -> tuple[str | None, list[str]]:
    """(`failed` or `diverged` if a cell of the entry is, else None; marks of the entry's footnotes)."""
    every = partial(cells.every, label, column.setting.dataset)
    statuses = every("status")
    marks, status = [], None
    for ending in (FAILED, DIVERGED):
        ended = statuses == ending
        for folder, failure in zip(every("folder")[ended], every("failure")[ended], strict=True):
            status = status or ending
            marks.append(notes.mark(f"{folder}: {failure}" if values.empty else f"{folder}: {ending}: {failure}"))
    if not np.isin(statuses, [FINISHED, FAILED, DIVERGED]).all():
        marks.append(notes.mark(_open_cells(cells.frame)))
    finished = statuses == FINISHED
    if len(values) < finished.sum() and cells.unmeasured(label, column.setting, column.key):
        marks.append(notes.mark("not measured: `attnbench measure` measures it"))
    marks += [notes.mark(text) for text in _about_numbers(cells, label, column)]
    changed = pd.unique(every("stale")[finished])
    marks += [notes.mark(f"stale: {files} changed since this was trained") for files in changed if pd.notna(files)]
    return status, marks


def _about_numbers(cells: Cells, label: str, column: Column) -> list[str]:
    """Why an entry lacks numbers, and what is unusual about the pictures that were measured."""
    of = partial(cells.of, label, column.setting)
    finished = of("status") == FINISHED
    lacking = finished & pd.isna(of(column.key))
    reasons = [text for text in pd.unique(of(f"{column.key}.reason")[lacking]) if pd.notna(text)]
    lacks = cells.cannot(column.setting, column.key) if reasons else []  # which several metrics may have in common
    mine = finished & ~lacking & same_weights(of(f"{column.key}.weights"), column.weights)
    small = (of(f"{column.key}.source")[mine] == _SMALL).any()
    said = pd.unique(of("said")[mine])
    return [
        *(text if text in lacks else f"{column.title}: {text}" for text in reasons),
        *(["measured from small (lossy) copies of the pictures"] if small else []),
        *(text for text in said if pd.notna(text)),
    ]


def _open_cells(frame: pd.DataFrame) -> str:
    waiting = frame[~frame["status"].isin([FINISHED, FAILED, DIVERGED])]
    return f"Not finished: {', '.join(waiting['folder'].unique())}."


def _caption(cells: Cells, columns: Sequence[Column], epoch: str) -> str:
    finished = cells.finished
    seeds = sorted({int(seed) for seed in (cells.trained if len(cells.trained) else finished)["seed"].unique()})
    parts = [recipe_caption(cells)]
    if images := _test_images(finished):
        parts.append(f"test images: {', '.join(images)}")
    if seeds:
        parts.append(f"{'seeds' if len(seeds) > 1 else 'seed'} {listed_seeds(seeds)}")
    if epoch == "best":
        parts.append(f"each cell's best epoch by {', '.join(_titles(cells, finished['best_by'].dropna().unique()))}")
    weighed = {column.title: column.networks for column in columns if column.weights and column.metric.per_image}
    parts += [f"{title}: weights {networks}" for title, networks in weighed.items()]
    return "; ".join(parts) + "."


def _test_images(finished: pd.DataFrame) -> list[str]:
    """`cat 500`; with the protocols where those of a dataset differ in their test images."""
    if "test_images" not in finished:
        return []
    found: dict[str, dict[str, int]] = {}
    known = finished[["dataset", "protocol", "test_images"]].dropna().drop_duplicates(["dataset", "protocol"])
    for dataset, protocol, count in known.to_numpy():
        found.setdefault(dataset, {})[protocol] = int(count)
    return [
        f"{Setting(dataset, protocol if len(set(counts.values())) > 1 else '').text} {count}"
        for dataset, counts in sorted(found.items())
        for protocol, count in (counts.items() if len(set(counts.values())) > 1 else [*counts.items()][:1])
    ]


def _titles(cells: Cells, keys: Iterable[str]) -> list[str]:
    known = [(key, "") for key in keys if key in cells.metrics]
    return list(titles(cells.metrics, known).values())


def _other_packages(frame: pd.DataFrame) -> list[str]:
    """A note on the packages of modules that are not attnbench's own."""
    others = frame.loc[(frame["package"] != "attnbench") & frame["elsewhere"].isna(), ["label", "package", "version"]]
    named = [f"{row.label} ({row.package} {row.version})" for row in others.drop_duplicates().sort_values("label").itertuples()]
    return [f"From other packages: {', '.join(named)}."] if named else []


def _ordered(settings: Iterable[Setting], grid: GridFile | None) -> list[Setting]:
    """The settings, those of the grid's datasets first and in its order."""
    order = {name: place for place, name in enumerate(grid.datasets if grid else ())}
    return sorted(settings, key=lambda setting: order.get(setting.dataset, len(order)))


def render_table(table: Table, style: str) -> str:
    """As `md`, `latex` or `html` text.

    Raises:
        UserError: unknown format.
    """
    return written(table.sheet, style)


def for_pandas(frame: pd.DataFrame, *, grid: GridFile | None = None, with_published: bool = False) -> pd.DataFrame:
    """One row per cell and measurement, as in the CSV: the frame of `attnbench.results`.

    Args:
        grid: keep only the cells of its variants, with its labels.
        with_published: add the paper's numbers as `<metric>.published`, and ours minus them as `<metric>.difference`.
    """
    metrics = metrics_in(frame)
    cells, rows = rows_of(without_copies(frame), grid)
    if with_published and "protocol" in cells:
        papers = {key: metric for key, metric in metrics.items() if metric.in_paper}
        cells = cells.assign(**{name: values for key, one in papers.items() for name, values in _beside(cells, rows, key, one)})
    return cells


def _beside(cells: pd.DataFrame, rows: Sequence[Row], key: str, metric: Descriptor) -> Iterator[tuple[str, pd.Series]]:
    """The paper's numbers under its protocol, and ours minus them, as columns."""
    paper = {(row.label, *place): value for row in rows for place, value in published_values(row).items()}
    places = zip(cells["label"], cells["dataset"], strict=True)
    theirs = pd.Series([paper.get((*place, metric.name), np.nan) for place in places], index=cells.index)
    theirs = theirs.where(cells["protocol"] == "")
    yield f"{key}.published", theirs
    yield f"{key}.difference", cells[key] - theirs
