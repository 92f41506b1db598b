"""What the page shows, read from a store: plain values, no HTML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from attnbench.cells.record import FINISHED, INTERRUPTED, RUNNING, STATUSES, WAITING, Record
from attnbench.console import warn, warnings_noted
from attnbench.metrics.descriptor import Descriptor
from attnbench.report.cell_facts import command_of, facts, metrics, numbers_in, troubles
from attnbench.report.curves import EpochMetric, epoch_metrics, loss_curves, rounded
from attnbench.report.figures import Analysed, find_figures
from attnbench.report.pair_grid import Album, finite_numbers, pair_grid
from attnbench.store.frame import frame_of, metrics_in
from attnbench.store.reading import Stored, each_record
from attnbench.tables.columns import Column, columns_of, titles, values_of
from attnbench.tables.compile import for_pandas, render_table, tables
from attnbench.tables.cost_columns import COSTS, Cost, cost_means, devices_of
from attnbench.tables.formats import Entry
from attnbench.tables.gaps import Gap
from attnbench.tables.rows import NOT_TRAINED, Cells, Row, by_recipe, rows_of, without_copies
from attnbench.tables.selection import all_metrics, select
from attnbench.tables.status import row_label, running_now, statuses_now


@dataclass(frozen=True)
class PageTable:
    """A table, and its text in other formats.

    Attributes:
        groups: (name, columns, whether they are costs) of the headings' upper line.
        columns: {title, is_cost, falls} of each.
        rows: (label, (entry, number to sort by) per column).
        notes: (text, kind): `always`, or shown with `published` or `costs`.
        texts: "", "published", "costs" or both with a space -> {"latex", "md", "csv"}.
    """

    caption: str
    groups: list[tuple[str, int, bool]]
    columns: list[dict[str, Any]]
    rows: list[tuple[str, list[tuple[Entry, float | None]]]]
    notes: list[tuple[str, str]]
    texts: dict[str, dict[str, str]]


@dataclass(frozen=True)
class View:
    """A dataset under one recipe and protocol: its numbers and pictures can be compared with each other.

    Attributes:
        variants: labels, in the order of the table.
        metrics, costs: {title, falls, values: label -> (mean, standard deviation or None, seeds)}; of costs the mean alone.
        curves: {label, seed, steps, losses} of each cell.
        epochs: {title, metric, first, label, seed, points: (epoch, value)} of each cell and metric; `first` is the metric by
            which the best epoch is chosen.
        grid: a `PairGrid` as a dictionary.
    """

    title: str
    variants: list[str]
    metrics: list[dict[str, Any]]
    costs: list[dict[str, Any]]
    curves: list[dict[str, Any]]
    epochs: list[dict[str, Any]]
    grid: dict[str, Any]


@dataclass(frozen=True)
class PageData:
    """Everything that the page shows.

    Attributes:
        counts: status -> cells.
        running: folder -> (label, status) of the running cells.
        waiting: labels of the cells that wait or were interrupted, with their status.
        notes: what could not be read.
        troubles: (cell's label, folder, sentence).
        variants: labels of all recipes, in order: a variant keeps its colour on the whole page.
        recipes: digest -> (name, YAML).
        albums: one per view, in the same order.
    """

    store: Path
    counts: dict[str, int]
    running: dict[str, tuple[str, str]]
    waiting: list[str]
    troubles: list[tuple[str, str, str]]
    tables: list[PageTable]
    variants: list[str]
    views: list[View]
    albums: list[Album]
    figures: list[Analysed]
    cells: list[dict[str, Any]]
    recipes: dict[str, tuple[str, str]]
    notes: list[str] = field(default_factory=list)


def collect(store: Path, *, pairs: int) -> PageData:
    """Read a store. Damaged parts are left out, with a warning that the report notes as well.

    Args:
        pairs: number of pairs of a dataset that are shown whatever their scores.

    Raises:
        UserError: there is no such folder, or no cell in it can be read.
    """
    with warnings_noted() as notes:
        return replace(_collect(store, pairs), notes=notes)


def _collect(store: Path, pairs: int) -> PageData:
    stored = dict(each_record(store))  # folder -> record
    frame = without_copies(_with_numbers(frame_of(Stored(*one) for one in stored.items()), store))
    status = statuses_now(frame, running_now(frame, store))
    shown, rows = rows_of(frame.assign(status=status))
    groups = list(by_recipe(shown, metrics_in(frame), store))
    views, albums = [], []
    for cells in groups:
        for view, album in _views(cells, rows, pairs, several=len(groups) > 1):
            views.append(view)
            albums.append(album)
    once = shown.drop_duplicates("identity")  # a cell has a row for each of its measurements
    listed = [_cell(stored[row["folder"]], row, store) for row in once.to_dict("records")]
    return PageData(
        store=store,
        counts={name: count for name in STATUSES if (count := Counter(once["status"])[name])},
        running={cell["folder"]: (cell["label"], cell["status"]) for cell in listed if cell["status"] == RUNNING},
        waiting=[f"{cell['label']} ({cell['status']})" for cell in listed if cell["status"] in (WAITING, INTERRUPTED)],
        troubles=[(cell["label"], cell["folder"], text) for cell in listed for text in cell["troubles"]],
        tables=_tables(frame, groups, store),
        variants=[row.label for row in rows],
        views=views,
        albums=albums,
        figures=find_figures(store, {cell["folder"]: cell["label"] for cell in listed}),
        cells=listed,
        recipes=_recipes(stored[folder] for folder in once["folder"]),
    )


def _with_numbers(frame: pd.DataFrame, store: Path) -> pd.DataFrame:
    """The frame with metrics and costs that are finite numbers or missing; warns of any other value."""
    changed = {}
    for name in (*metrics_in(frame), *(cost.name for cost in COSTS)):
        if name not in frame:
            continue
        numbers, others = finite_numbers(frame[name])
        bad = zip(frame.loc[others.index, "folder"], others.astype(str), strict=True)
        for folder, value in dict.fromkeys(bad):  # a cost stands in each of a cell's rows
            warn(f"{store / folder / 'cell.json'} has {name} {value!r}: not a finite number, left out")
        if len(others):
            changed[name] = numbers
    return frame.assign(**changed)


def _tables(frame: pd.DataFrame, groups: Sequence[Cells], store: Path) -> list[PageTable]:
    """One table per recipe, with everything that can be shown on demand."""
    choices = {" ".join(filter(None, [p, c])): (bool(p), bool(c)) for p in ("", "published") for c in ("", "costs")}

    made = {
        name: tables(frame, with_published=published, costs=costs, significance=True, store=store)
        for name, (published, costs) in choices.items()
    }
    csv = {name: for_pandas(frame, with_published=published) for name, (published, _) in choices.items()}
    found = []
    for place, cells in enumerate(groups):
        whole = made["published costs"][place]
        seen = {name: one[place].notes for name, one in made.items()}
        notes = [
            (text, "always" if text in seen[""] else "published" if text in seen["published"] else "costs")
            for text in whole.notes
        ]
        columns = [
            {
                "title": column.heading.title,
                "is_cost": isinstance(column, Cost),
                "falls": isinstance(column, Column) and column.metric.lower_is_better,
            }
            for column in whole.columns
        ]
        numbers = [numbers_in([entries[i] for entries in whole.rows.values()]) for i in range(len(columns))]
        rows = [
            (label, [(entry, numbers[i][y]) for i, entry in enumerate(entries)])
            for y, (label, entries) in enumerate(whole.rows.items())
        ]
        folders = cells.frame["folder"]
        texts = {
            name: {
                **{style: render_table(one[place], style) for style in ("latex", "md")},
                "csv": csv[name][csv[name]["folder"].isin(folders)].to_csv(index=False),
            }
            for name, one in made.items()
        }
        found.append(PageTable(whole.caption, _groups(whole.columns), columns, rows, notes, texts))
    return found


def _groups(columns: Sequence[Column | Gap | Cost]) -> list[tuple[str, int, bool]]:
    found: list[tuple[str, int, bool]] = []
    for column in columns:
        name, is_cost = column.heading.group, isinstance(column, Cost)
        count = found.pop()[1] if found and (found[-1][0], found[-1][2]) == (name, is_cost) else 0
        found.append((name, count + 1, is_cost))
    return found


def _views(cells: Cells, rows: Sequence[Row], pairs: int, *, several: bool) -> Iterator[tuple[View, Album]]:
    of_datasets = {dataset: _of_dataset(cells, dataset) for dataset in dict.fromkeys(cells.frame["dataset"])}
    columns = columns_of(cells, select(cells, cells.settings, all_metrics(cells)).shown)
    for setting in cells.settings:
        labels = [row.label for row in rows if len(cells.every(row.label, setting.dataset, "folder"))]
        album = Album()
        grid = asdict(pair_grid(cells, setting, labels, pairs, album))
        first = cells.frame[cells.frame["dataset"] == setting.dataset].iloc[0]
        recipe = (
            f"{first['recipe']} ({first['recipe_digest'][:6]})"
            if pd.isna(first["elsewhere"])
            else f"{NOT_TRAINED}, {first['size']} px"
        )
        title = f"{setting.text} · {recipe}" if several else setting.text
        qualities = _qualities(cells, [column for column in columns if column.setting == setting], labels)
        yield View(title, labels, qualities, **of_datasets[setting.dataset], grid=grid), album


def _of_dataset(cells: Cells, dataset: str) -> dict[str, Any]:
    """What the views of a dataset share, whatever their protocol."""
    mine = cells.frame[cells.frame["dataset"] == dataset]
    curves, epochs = _curves(mine, cells.store or Path())
    return {"costs": _costs(cells.trained[cells.trained["dataset"] == dataset]), "curves": curves, "epochs": epochs}


def _qualities(cells: Cells, columns: Iterable[Column], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Values of each metric that any of the cells has."""
    found = []
    for column in columns:
        values = {label: values_of(cells, label, column) for label in labels}
        entries = {
            label: (rounded(series.mean(), 6), rounded(series.std(), 3) if len(series) > 1 else None, len(series))
            for label, series in values.items()
            if len(series)
        }
        if entries:
            metric = column.metric
            described = {"title": column.title, "falls": metric.lower_is_better, "decimals": metric.decimals}
            found.append({**described, "values": entries})
    return found


def _costs(finished: pd.DataFrame) -> list[dict[str, Any]]:
    """Means over a variant's finished cells; costs measured on different devices are kept separate."""
    found = []
    for kind in COSTS:
        for device in devices_of(finished) if kind.measured else [None]:
            means = cost_means(finished, replace(kind, device=device))
            if means:
                title = kind.description if device is None else f"{kind.description}, on {device}"
                values = {label: rounded(mean / kind.unit) for label, mean in means.items()}
                found.append({"name": kind.name, "title": title, "values": values})
    return found


def _curves(frame: pd.DataFrame, store: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    curves, epochs = [], []
    described: dict[str, Descriptor] = {}
    for row in frame.drop_duplicates("identity").sort_values("seed", kind="stable").to_dict("records"):
        cell = {"label": row["label"], "seed": int(row["seed"])}
        if (found := loss_curves(store / row["folder"])) is not None:
            curves.append({**cell, "steps": found.steps, "losses": found.losses})
        measured = epoch_metrics(store / row["folder"])
        described |= {point.metric: point.described for point in measured if point.metric not in described}
        for key in dict.fromkeys(point.metric for point in measured):
            points = [(point.epoch, point.value) for point in measured if point.metric == key]
            epochs.append({**cell, "metric": key, "first": key == _chosen_by(row, measured), "points": points})
    names = titles(described, [(key, "") for key in described])
    return curves, [{**one, "title": names[one["metric"], ""]} for one in epochs]


def _chosen_by(row: Mapping[Any, Any], measured: Sequence[EpochMetric]) -> str:
    """The metric by which the cell's best epoch is chosen; of a cell that has none yet, the first."""
    by = row.get("best_by")
    return by if isinstance(by, str) else measured[0].metric


def _cell(record: Record, row: Mapping[Any, Any], store: Path) -> dict[str, Any]:
    """What the page shows of a cell."""
    record = record.model_copy(update={"status": row["status"]})
    command, remark = command_of(record, store / row["folder"])
    stale = row["stale"] if isinstance(row["stale"], str) else None
    return {
        "folder": row["folder"],
        "label": row_label(row),
        "variant": row["label"],
        "dataset": record.dataset.name,
        "seed": record.seed,
        "status": record.status,
        "command": command,
        "remark": remark,
        "recipe": record.recipe.name,
        "recipe_digest": record.recipe.digest,
        "facts": facts(record),
        "metrics": metrics(record),
        "troubles": troubles(record, stale),
        "traceback": record.failure.traceback if record.failure and record.status != FINISHED else None,
    }


def _recipes(records: Iterable[Record]) -> dict[str, tuple[str, str]]:
    import yaml

    found = {}
    for record in records:
        recipe = record.recipe
        if recipe.digest not in found and not record.pictures:
            found[recipe.digest] = (recipe.name, yaml.safe_dump(recipe.values, sort_keys=False))
    return found
