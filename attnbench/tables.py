"""The store as tables: a row a variant, two columns or more a data set, in the shape of the paper's Tables 1-3.

Cells are put into one table only if they share a recipe, and into one column only if they share the metric's protocol (width of
the FID layer, weights of the network): numbers that cannot be compared never meet.

An entry is the mean over seeds with their standard deviation; of a single seed, the number with its bootstrap interval over
test pairs where the metric has a score for each. What an entry lacks, and what is odd about it, is said in its footnotes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from attnbench.errors import UserError, unknown
from attnbench.grid_file import GridFile
from attnbench.rows import IMAGE_METRICS, Cells, Row, by_recipe, once_each, rows_of
from attnbench.statistics import LEVEL, SIGNIFICANT, bootstrap_interval, by_length, over_seeds, sign_flip_p
from attnbench.store import DIVERGED, FAILED, FINISHED
from attnbench.table_formats import DAGGER, Entry, Heading, Line, Sheet, written

LOWER_IS_BETTER = frozenset({"fid", "kid", "lpips"})
DEFAULT_METRICS = ("fid", "ssim_global")  # the paper's columns
METRIC_NAMES = {"fid": "FID", "kid": "KID", "ssim_global": "SSIM (global)", "ssim": "SSIM (windowed)", "lpips": "LPIPS"}
SET_METRICS = ("fid", "kid")  # distances of sets of images: no image has a score of its own
INCEPTION = "inception"  # their network, as `attnbench weights` lists it
_DECIMALS = {"fid": 2, "kid": 4, "ssim_global": 3, "ssim": 3, "lpips": 3}
_MISSING = "-"

PaperValues = Mapping[tuple[str, str], float]  # (data set, metric) -> the paper's number
Place = tuple[str, int]  # of an entry: label of its row, index of its column


@dataclass(frozen=True)
class Column:
    """A metric on a data set, under one protocol."""

    dataset: str
    metric: str
    title: str  # with the protocol, without the arrow
    weights: str | None  # SHA-256 of the metric's network
    dims: int | None = None  # width of FID's and KID's layer

    @property
    def falls(self) -> bool:
        return self.metric in LOWER_IS_BETTER

    @property
    def decimals(self) -> int:
        return _DECIMALS[self.metric] + 2 * (self.dims in (64, 768))  # distances at these layers are far smaller

    @property
    def heading(self) -> Heading:
        return Heading(self.dataset, f"{self.title} {'↓' if self.falls else '↑'}")

    @property
    def is_the_papers(self) -> bool:
        """Whether the paper measured the same quantity."""
        return self.metric == "ssim_global" or (self.metric == "fid" and self.dims in (None, 2048))

    def written(self, value: float, sign: str = "") -> str:
        return f"{value:{sign}.{self.decimals}f}"


@dataclass(frozen=True)
class Cost:
    """What a variant costs: counted for the recipe, or measured on one device."""

    name: str  # column of the frame
    title: str
    unit: float
    decimals: int
    device: str | None = None

    @property
    def heading(self) -> Heading:
        return Heading(self.device or "costs", self.title)


@dataclass(frozen=True)
class Table:
    """Rows of entries, and all that must be said with them."""

    columns: Sequence[Column | Cost]
    rows: dict[str, list[Entry]]  # label -> an entry a column
    caption: str
    notes: list[str] = field(default_factory=list)

    @property
    def sheet(self) -> Sheet:
        lines = [Line(label, entries) for label, entries in self.rows.items()]
        return Sheet([column.heading for column in self.columns], lines, self.caption, self.notes)


class Footnotes:
    """Notes that entries refer to; equal ones share a number."""

    def __init__(self) -> None:
        self._texts: dict[str, int] = {}

    def mark(self, text: str) -> str:
        """`[1]`"""
        return f"[{self._texts.setdefault(text, len(self._texts) + 1)}]"

    @property
    def lines(self) -> list[str]:
        return [f"[{number}] {text}" for text, number in self._texts.items()]


@cache
def published() -> pd.DataFrame:
    """The paper's numbers: table, label, module, options (JSON), dataset, metric, value, source."""
    with resources.files("attnbench_results").joinpath("published.csv").open() as file:
        return pd.read_csv(file)


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
    """One table a recipe.

    Args:
        frame: as from `attnbench.results`.
        grid: only its variants, all of them, in its order; by default every variant that has a cell.
        metrics: which, in which order; by default the paper's (FID and global SSIM), or all of a recipe that has no FID.
        epoch: `last`, or `best` (by FID; recipes with `evaluation.when: each_epoch`).
        with_published: put the paper's number behind ours with the difference, where the metric is the same.
        costs: add parameters, operations, speed and memory.
        significance: mark what cannot be told apart from the best of its column.
        store: the results folder, for the scores of single test pairs (pairs.csv): without it there are no intervals, and no
            tests between networks of a single seed.

    Raises:
        UserError: a metric or an epoch that no cell has, a grid of which there is no cell.
    """
    check_metrics(metrics)
    if epoch == "best":
        frame, store = _best_epochs(frame), None  # pairs.csv is the last epoch's
    frame, rows = rows_of(once_each(frame), grid)
    found = []
    for cells in by_recipe(frame, store):
        labels = set(cells.frame["label"])
        shown = [row for row in rows if grid is not None or row.label in labels]
        found.append(_table(cells, shown, grid, metrics, epoch, with_published, costs, significance))
    return found


def check_metrics(metrics: Iterable[str]) -> None:
    """Raises UserError for a name that is no metric's."""
    for metric in metrics:
        if metric not in METRIC_NAMES:
            raise unknown("metric", metric, METRIC_NAMES)


def _best_epochs(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with the metrics of each cell's best epoch in place of the last one's."""
    if not any(name.startswith("best.") for name in frame.columns):
        raise UserError("no cell has a best epoch: it needs a recipe with evaluation.when=each_epoch and an FID network")
    own = [name for name in frame.columns if name.split(".")[0] in METRIC_NAMES]
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
    shown = list(metrics) or ([name for name in DEFAULT_METRICS if name in asked] if "fid" in asked else asked)
    columns = columns_of(cells, _ordered(cells.frame["dataset"], grid), shown)
    labels = [row.label for row in rows]
    values = {(label, i): values_of(cells, label, column) for label in labels for i, column in enumerate(columns)}
    usual = _usual_count(values.values())
    intervals = _intervals(cells, columns, values)
    paper = {row.label: published_values(row) for row in rows} if with_published else {}
    ranks = {i: _ranks([values[label, i] for label in labels], column) for i, column in enumerate(columns)}
    alike, untested = _indistinct(cells, labels, columns, values) if significance else (set[Place](), False)

    notes = Footnotes()
    body: dict[str, list[Entry]] = {}
    for y, label in enumerate(labels):
        body[label] = [
            _entry(
                column,
                values[label, i],
                ranks[i][y],
                _spread(values[label, i], intervals.get((label, i)), usual, column),
                [DAGGER] if (label, i) in alike else [],
                _footnotes(cells, label, column, values[label, i], notes),
                published_value(paper.get(label, {}), column),
            )
            for i, column in enumerate(columns)
        ]
    said = [*notes.lines, *spread_notes(usual, bool(intervals)), *set_distances(cells.finished, columns)]
    said += _significance_note(untested) if significance else []
    said += _other_packages(cells.frame)
    if with_published:
        said.append(_published_note(columns, paper.values()))
    if not costs:
        return Table(columns, body, _caption(cells, columns, epoch), said)
    priced = _cost_columns(cells.finished)
    for cost in priced:
        means = _cost_means(cells.finished, cost)
        for label in labels:
            body[label].append(Entry(f"{means[label] / cost.unit:.{cost.decimals}f}" if label in means else _MISSING))
    return Table([*columns, *priced], body, _caption(cells, columns, epoch), [*said, *_cost_note(priced)])


def columns_of(cells: Cells, datasets: Iterable[str], metrics: Iterable[str]) -> list[Column]:
    """For each data set and metric one column, or one for each of several protocols that the cells used.

    Where only the weights tell two protocols of a recipe apart, the title has their digest.
    """
    used = {metric: _protocols(cells.finished, metric) for metric in metrics}
    found = []
    for dataset in datasets:
        for metric, protocols in used.items():
            titles = Counter(title for title, *_ in {protocol[1:] for protocol in protocols})
            mine = [protocol[1:] for protocol in protocols if protocol[0] == dataset]
            found += [
                Column(dataset, metric, title if titles[title] == 1 else f"{title} [{str(weights)[:6]}]", weights, dims)
                for title, weights, dims in mine or [(METRIC_NAMES[metric], None, None)]
            ]
    return found


def _protocols(finished: pd.DataFrame, metric: str) -> list[tuple[str, str, str | None, int | None]]:
    """(data set, the metric's title, weights, width) of each protocol that the cells of a data set used."""
    if metric not in finished:
        return []
    parts = ["dataset", *(f"{metric}.{part}" for part in ("weights", "dims", "network"))]
    unique = finished.reindex(columns=parts).loc[finished[metric].notna()].drop_duplicates()
    plain: Any = unique.astype(object).where(unique.notna(), None).to_numpy()
    return [
        (dataset, METRIC_NAMES[metric] + _protocol_suffix(metric, dims, network), weights, None if dims is None else int(dims))
        for dataset, weights, dims, network in plain
    ]


def _protocol_suffix(metric: str, dims: float | None, network: str | None) -> str:
    if metric in SET_METRICS and dims not in (None, 2048):
        return f"-{dims:.0f}"
    return f"-{network}" if metric == "lpips" else ""


def values_of(cells: Cells, label: str, column: Column) -> pd.Series:
    """A row's numbers in a column, by seed."""
    return cells.values(label, column.dataset, column.metric, column.weights)


def _usual_count(values: Iterable[pd.Series]) -> int:
    """How many seeds most entries have; the more of two that are as common."""
    counts = Counter(len(series) for series in values if len(series))
    return max(counts, key=lambda n: (counts[n], n), default=0)


def _intervals(
    cells: Cells, columns: Sequence[Column], values: Mapping[Place, pd.Series]
) -> Mapping[Place, tuple[float, float]]:
    """Bootstrap intervals over test pairs of the entries that have one seed and a metric with scores of pairs."""
    scores = {}
    for (label, i), series in values.items():
        column = columns[i]
        if len(series) == 1 and column.metric in IMAGE_METRICS:
            found = cells.scores(label, column.dataset, column.metric, series.index)
            if found is not None and len(found) > 1:
                scores[label, i] = found.to_numpy()
    return by_length(scores, bootstrap_interval)


def _ranks(values: Sequence[pd.Series], column: Column) -> list[int | None]:
    """0 for the best mean, 1 for the second; equal values share a rank; None elsewhere and for a column of one."""
    means = [None if series.empty else round(series.mean(), column.decimals) for series in values]
    order = sorted({mean for mean in means if mean is not None}, reverse=not column.falls)
    if sum(mean is not None for mean in means) < 2:
        return [None] * len(means)
    places = [order.index(mean) if mean is not None else None for mean in means]
    return [place if place is not None and place < 2 else None for place in places]


def _indistinct(
    cells: Cells, labels: Sequence[str], columns: Sequence[Column], values: Mapping[Place, pd.Series]
) -> tuple[set[Place], bool]:
    """The entries whose difference from the best of their column has p >= 0.05, and whether there are others without a test.

    Over seeds where the two share several; over test pairs where they share one.
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
            if len(seeds) == 1 and column.metric in IMAGE_METRICS:
                found = cells.image_differences(label, best, column.dataset, column.metric, seeds)
            if found is None:
                untested = True
            else:
                differences[label, i] = found
    p |= by_length(differences, sign_flip_p)
    return {place for place, chance in p.items() if chance >= SIGNIFICANT}, untested or any(map(np.isnan, p.values()))


def _significance_note(untested: bool) -> list[str]:
    note = (
        f"{DAGGER} not told apart from the best of its column (p ≥ {SIGNIFICANT}): paired t-test over the common seeds, which "
        "with two or three tells only large differences; with one common seed, sign-flip test over the test pairs, which says "
        "nothing about another training. Not corrected for the number of comparisons."
    )
    missing = "Without a mark where there is no test: FID and KID of one seed, no common seed, no scores of pairs (pairs.csv)."
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


def spread_notes(usual: int, intervals: bool) -> list[str]:
    """What stands behind numbers, in words."""
    notes = [f"mean ± standard deviation over n = {usual} seeds, or over as many as the entry says"] if usual > 1 else []
    if intervals:
        notes.append(f"[low, high]: {LEVEL:.0%} bootstrap interval of one training's mean over its test pairs")
    return [f"{'; '.join(notes)}."] if notes else []


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
    """What an entry must say beyond its number: (failed or diverged, if that is so of a cell; marks of the footnotes)."""
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
    marks += [notes.mark(f"{METRIC_NAMES[column.metric]}: {text}") for text in pd.unique(reasons) if pd.notna(text)]
    changed = pd.unique(of("stale")[finished])
    marks += [notes.mark(f"stale: {files} changed since this was trained") for files in changed if pd.notna(files)]
    return status, marks


def _open_cells(frame: pd.DataFrame) -> str:
    waiting = frame[~frame["status"].isin([FINISHED, FAILED, DIVERGED])]
    return f"Not finished: {', '.join(waiting['folder'])}."


def set_distances(finished: pd.DataFrame, columns: Iterable[Column]) -> list[str]:
    """What belongs to every FID and KID: the network, the number of images, and the distance of real images from real images.

    The last, the floor, is what the distance could at best be.
    """
    said = []
    for title, same in _by_protocol(columns).items():
        metric = same[0].metric
        names = [f"{metric}.{part}" for part in ("n", "floor", "n_floor", "weights")]
        measured = finished.loc[finished[metric].notna()].reindex(columns=["dataset", "test_images", *names])
        measured = measured[measured[names[-1]] == same[0].weights]
        firsts: Any = measured.groupby("dataset").first()
        counts, floors = [], []
        for column in same:
            images, count, floor, real, _ = firsts.loc[column.dataset]
            counts.append(f"{column.dataset} {int(images if pd.isna(count) else count)}")
            if pd.notna(floor):
                floors.append(f"{column.dataset} {column.written(floor)} ({int(real)} images)")
        line = f"{title}: weights {network_name(same[0])} {str(same[0].weights)[:8]}; N = {', '.join(counts)} generated images"
        said.append(line + (f"; floor, real training against real test images: {', '.join(floors)}." if floors else "."))
    return said


def _by_protocol(columns: Iterable[Column]) -> dict[str, list[Column]]:
    """Columns of FID and KID by title: those of one title share a protocol."""
    found: dict[str, list[Column]] = {}
    for column in columns:
        if column.metric in SET_METRICS and column.weights is not None:
            found.setdefault(column.title, []).append(column)
    return found


def network_name(column: Column) -> str:
    """Under which name `attnbench weights` lists the column's network."""
    return INCEPTION if column.metric in SET_METRICS else column.title.split(" ")[0].lower()


def _caption(cells: Cells, columns: Sequence[Column], epoch: str) -> str:
    finished = cells.finished
    counts = finished.groupby("dataset")["test_images"].first()
    images = ", ".join(f"{name} {int(count)}" for name, count in counts.items())
    seeds = sorted({int(seed) for seed in finished["seed"].unique()})
    parts = [recipe_of(cells)]
    if images:
        parts.append(f"test images: {images}")
    if seeds:
        parts.append(f"{'seeds' if len(seeds) > 1 else 'seed'} {listed(seeds)}")
    if epoch == "best":
        parts.append("each cell's epoch with the lowest FID")
    perceptual = {column.title: column for column in columns if column.weights and column.metric not in SET_METRICS}
    parts += [f"{title}: weights {network_name(column)} {str(column.weights)[:8]}" for title, column in perceptual.items()]
    return "; ".join(parts) + "."


def recipe_of(cells: Cells) -> str:
    return f"Recipe: {cells.frame['recipe'].iloc[0]} ({cells.frame['recipe_digest'].iloc[0][:8]})"


def listed(seeds: Sequence[int]) -> str:
    """`0, 1, 2`, or `0-9` where there are many and none is left out."""
    whole = len(seeds) > 4 and seeds[-1] - seeds[0] == len(seeds) - 1
    return f"{seeds[0]}-{seeds[-1]}" if whole else ", ".join(map(str, seeds))


@cache
def _published_options() -> pd.Series:
    return published()["options"].map(json.loads)


def published_values(row: Row) -> PaperValues:
    """The paper's numbers for a variant: (data set, metric) -> value."""
    paper = published()
    same = paper[(paper["module"] == row.module) & (_published_options() == row.given)]
    return dict(zip(zip(same["dataset"], same["metric"], strict=True), same["value"].astype(float), strict=True))


def published_value(paper: PaperValues, column: Column) -> float | None:
    """The paper's number, if it measured the same quantity."""
    return paper.get((column.dataset, column.metric)) if column.is_the_papers else None


def _published_note(columns: Sequence[Column], rows: Iterable[PaperValues]) -> str:
    source = published()["source"].iloc[0].partition(", Table")[0]
    if not any(published_value(paper, column) is not None for paper in rows for column in columns):
        return f"{source} has no number for these rows and columns."
    note = f"In parentheses: {source} (256 px, 40 epochs, FID at width 2048, global SSIM), and ours less it"
    others = sorted({column.title for column in columns if not column.is_the_papers})
    return note + (f"; it has no number for {', '.join(others)}." if others else ".")


def _other_packages(frame: pd.DataFrame) -> list[str]:
    """Where the modules come from that are not attnbench's own."""
    others = frame.loc[frame["package"] != "attnbench", ["label", "package", "version"]].drop_duplicates().sort_values("label")
    named = [f"{row.label} ({row.package} {row.version})" for row in others.itertuples()]
    return [f"From other packages: {', '.join(named)}."] if named else []


def _ordered(datasets: Iterable[str], grid: GridFile | None) -> list[str]:
    """Each once, the grid's first and in its order."""
    found = list(dict.fromkeys(datasets))
    first = [name for name in (grid.datasets if grid else ()) if name in found]
    return list(dict.fromkeys([*first, *found]))


def _cost_columns(finished: pd.DataFrame) -> list[Cost]:
    """What is counted once; what is measured, for each device by itself."""
    counted = [
        Cost("module_parameters", "module (M)", 1e6, 2),
        Cost("generator_parameters", "generator (M)", 1e6, 2),
        Cost("generator_gflop", "GFLOP", 1, 2),
        Cost("step_gflop", "GFLOP (step)", 1, 2),
    ]
    measured = [("images_per_second", "images/s", 1.0, 1), ("peak_memory_bytes", "peak (GB)", 1e9, 2)]
    devices = sorted(finished["device"].dropna().unique()) if "device" in finished else []
    return counted + [Cost(*what, device=device) for device in devices for what in measured]


def _cost_means(finished: pd.DataFrame, cost: Cost) -> dict[str, float]:
    """Label -> the cost's mean over the row's cells, on the one device where it was measured."""
    if cost.name not in finished:
        return {}
    mine = finished if cost.device is None else finished[finished["device"] == cost.device]
    return {str(label): mean for label, mean in mine.groupby("label")[cost.name].mean().dropna().items()}


def _cost_note(costs: Sequence[Cost]) -> list[str]:
    devices = list(dict.fromkeys(cost.device for cost in costs if cost.device))
    counted = (
        "Costs: millions of parameters of the module and of the whole generator; GFLOP of one forward of the generator and of "
        "a training step, an image"
    )
    measured = f"; images a second in training and peak memory: mean over a row's cells on {', and apart on '.join(devices)}."
    return [counted + (measured if devices else ".")]


def render(table: Table, style: str) -> str:
    """As `md`, `latex` or `html` text.

    Raises:
        UserError: no such format.
    """
    return written(table.sheet, style)


def for_pandas(frame: pd.DataFrame, *, grid: GridFile | None = None, with_published: bool = False) -> pd.DataFrame:
    """A row a cell, as CSV has it: the frame of `attnbench.results`, with the name of the network beside its weights.

    Args:
        grid: only the cells of its variants, with its labels.
        with_published: the paper's numbers in `<metric>.published`, and what ours differ from them by in `<metric>.difference`.
    """
    cells, rows = rows_of(once_each(frame), grid)
    for metric in SET_METRICS:
        if f"{metric}.weights" in cells:
            cells[f"{metric}.network"] = cells[f"{metric}.weights"].where(cells[f"{metric}.weights"].isna(), INCEPTION)
    if with_published:
        paper = {(row.label, *place): value for row in rows for place, value in published_values(row).items()}
        for metric in DEFAULT_METRICS:
            keys = zip(cells["label"], cells["dataset"], strict=True)
            theirs = pd.Series([paper.get((*key, metric), np.nan) for key in keys], index=cells.index)
            if f"{metric}.dims" in cells:
                theirs = theirs.where(cells[f"{metric}.dims"] == 2048)
            cells[f"{metric}.published"] = theirs
            cells[f"{metric}.difference"] = cells[metric] - theirs if metric in cells else np.nan
    return cells
