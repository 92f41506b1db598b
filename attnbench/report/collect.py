"""What the page shows, read from a store: plain values, no HTML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from attnbench.cells.record import DIVERGED, FAILED, FINISHED, INTERRUPTED, RUNNING, WAITING
from attnbench.console import Say
from attnbench.metrics.known import METRIC_NAMES
from attnbench.report.cell_facts import command_of, facts, metrics, numbers_in, troubles
from attnbench.report.curves import epoch_metrics, loss_curves, rounded
from attnbench.report.figures import Analysed, find_figures
from attnbench.report.pair_grid import Album, finite_numbers, pair_grid
from attnbench.store.frame import results
from attnbench.store.progress import read_progress
from attnbench.store.reading import records
from attnbench.tables.columns import Column, columns_of, values_of
from attnbench.tables.compile import for_pandas, render, tables
from attnbench.tables.cost_columns import Cost
from attnbench.tables.formats import Entry
from attnbench.tables.rows import Cells, Row, by_recipe, rows_of, without_copies
from attnbench.tables.status import label_of

STATUSES = (FINISHED, RUNNING, WAITING, INTERRUPTED, FAILED, DIVERGED)
_COSTS = (  # (column of the frame, title, unit, whether each device has its own)
    ("images_per_second", "images a second, training", 1.0, True),
    ("module_parameters", "parameters of the module (M)", 1e6, False),
    ("generator_parameters", "parameters of the generator (M)", 1e6, False),
    ("generator_gflop", "GFLOP an image, generator", 1.0, False),
    ("step_gflop", "GFLOP an image, training step", 1.0, False),
    ("peak_memory_bytes", "peak memory (GB)", 1e9, True),
)


@dataclass(frozen=True)
class PageTable:
    """A table, and its texts for other programs.

    Attributes:
        groups: (name, columns, whether they are costs) of the headings' upper line.
        columns: {title, is_cost, falls} of each.
        rows: (label, (entry, number to sort by) a column).
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
    """A data set under one recipe: numbers and pictures in it can be compared.

    Attributes:
        variants: labels, in the order of the table.
        metrics, costs: {title, falls, values: label -> (mean, standard deviation or None, seeds)}; of costs the mean alone.
        curves: {label, seed, steps, losses} of each cell.
        epochs: {title, metric, label, seed, points: (epoch, value)} of each cell and metric.
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
class Report:
    """All that the page shows.

    Attributes:
        counts: status -> cells.
        running: folder -> (label, status) of the cells in work.
        waiting: labels of the cells that wait or were interrupted, with their status.
        notes: what could not be read, in words.
        troubles: (cell's label, folder, sentence).
        variants: labels of all recipes, in order: a variant keeps its colour on the whole page.
        recipes: digest -> (name, YAML).
        albums: of each view, in its order.
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


def collect(store: Path, *, pairs: int, say: Say = lambda line: None) -> Report:
    """Read a store. What is damaged is left out, said to `say`, and noted in the report.

    Args:
        pairs: of a data set that are shown whatever their scores.

    Raises:
        UserError: there is no such folder, or no cell in it that can be read.
    """
    notes: list[str] = []

    def note(line: str) -> None:
        if line not in notes:
            notes.append(line)
            say(line)

    frame = _with_numbers(results(store, note), store, note)
    by_folder = {record["folder"]: record for record in records(store)}
    frame = without_copies(frame[frame["folder"].isin(by_folder)])
    status = _statuses(frame, store)
    shown, rows = rows_of(frame.assign(status=status))
    groups = list(by_recipe(shown, store))
    views, albums = [], []
    for cells in groups:
        for view, album in _views(cells, rows, pairs, note, several=len(groups) > 1):
            views.append(view)
            albums.append(album)
    listed = [_cell(by_folder[row["folder"]], row, store) for row in shown.to_dict("records")]
    return Report(
        store=store,
        counts={name: count for name in STATUSES if (count := Counter(status)[name])},
        running={cell["folder"]: (cell["label"], cell["status"]) for cell in listed if cell["status"] == RUNNING},
        waiting=[f"{cell['label']} ({cell['status']})" for cell in listed if cell["status"] in (WAITING, INTERRUPTED)],
        troubles=[(cell["label"], cell["folder"], text) for cell in listed for text in cell["troubles"]],
        tables=_tables(frame, groups, store),
        variants=[row.label for row in rows],
        views=views,
        albums=albums,
        figures=find_figures(store, {cell["folder"]: cell["label"] for cell in listed}, note),
        cells=listed,
        recipes=_recipes(by_folder[folder] for folder in shown["folder"]),
        notes=notes,
    )


def _with_numbers(frame: pd.DataFrame, store: Path, say: Say) -> pd.DataFrame:
    """The frame with metrics and costs that are finite numbers, or missing; `say` hears of what else there was."""
    changed = {}
    for name in (*METRIC_NAMES, *(cost[0] for cost in _COSTS)):
        if name not in frame:
            continue
        numbers, others = finite_numbers(frame[name])
        for folder, value in zip(frame.loc[others.index, "folder"], others, strict=True):
            say(f"{store / folder / 'cell.json'} has {name} {str(value)!r}, which is no finite number: it is left out")
        if len(others):
            changed[name] = numbers
    return frame.assign(**changed)


def _statuses(frame: pd.DataFrame, store: Path) -> list[str]:
    """A cell whose process was killed says `running` and has no progress: it is interrupted."""
    return [
        INTERRUPTED if status == RUNNING and read_progress(store / folder) is None else status
        for status, folder in zip(frame["status"], frame["folder"], strict=True)
    ]


def _tables(frame: pd.DataFrame, groups: Sequence[Cells], store: Path) -> list[PageTable]:
    """One of each recipe, with everything that can be shown on demand."""
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
                "falls": isinstance(column, Column) and column.falls,
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
                **{style: render(one[place], style) for style in ("latex", "md")},
                "csv": csv[name][csv[name]["folder"].isin(folders)].to_csv(index=False),
            }
            for name, one in made.items()
        }
        found.append(PageTable(whole.caption, _groups(whole.columns), columns, rows, notes, texts))
    return found


def _groups(columns: Sequence[Column | Cost]) -> list[tuple[str, int, bool]]:
    found: list[tuple[str, int, bool]] = []
    for column in columns:
        name, is_cost = column.heading.group, isinstance(column, Cost)
        count = found.pop()[1] if found and (found[-1][0], found[-1][2]) == (name, is_cost) else 0
        found.append((name, count + 1, is_cost))
    return found


def _views(cells: Cells, rows: Sequence[Row], pairs: int, say: Say, *, several: bool) -> Iterator[tuple[View, Album]]:
    for dataset in dict.fromkeys(cells.frame["dataset"]):
        mine = cells.frame[cells.frame["dataset"] == dataset]
        present = set(mine["label"])
        labels = [row.label for row in rows if row.label in present]
        album = Album()
        grid = pair_grid(cells, dataset, labels, pairs, album, say)
        curves, epochs = _curves(mine, cells.store or Path(), say)
        recipe = mine["recipe"].iloc[0]
        title = f"{dataset} · {recipe} ({mine['recipe_digest'].iloc[0][:6]})" if several else dataset
        yield View(title, labels, _qualities(cells, dataset, labels), _costs(mine), curves, epochs, asdict(grid)), album


def _qualities(cells: Cells, dataset: str, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Of each metric that any of the cells has."""
    known = [name for name in METRIC_NAMES if name in cells.finished and cells.finished[name].notna().any()]
    found = []
    for column in columns_of(cells, [dataset], known):
        values = {label: values_of(cells, label, column) for label in labels}
        entries = {
            label: (rounded(series.mean(), 6), rounded(series.std(), 3) if len(series) > 1 else None, len(series))
            for label, series in values.items()
            if len(series)
        }
        if entries:
            found.append({"title": column.title, "falls": column.falls, "decimals": column.decimals, "values": entries})
    return found


def _costs(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Means over a variant's finished cells; what was measured on different devices stays apart."""
    finished = frame[frame["status"] == FINISHED]
    devices = sorted(finished["device"].dropna().unique())
    found = []
    for name, title, unit, per_device in _COSTS:
        for device in devices if per_device else [None]:
            mine = finished if device is None else finished[finished["device"] == device]
            if name not in mine:
                continue
            means = mine.groupby("label")[name].mean().dropna() / unit
            if len(means):
                named = title if device is None else f"{title}, on {device}"
                found.append({"name": name, "title": named, "values": {label: rounded(mean) for label, mean in means.items()}})
    return found


def _curves(frame: pd.DataFrame, store: Path, say: Say) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    curves, epochs = [], []
    for row in frame.sort_values("seed", kind="stable").to_dict("records"):
        cell = {"label": row["label"], "seed": int(row["seed"])}
        if (found := loss_curves(store / row["folder"], say)) is not None:
            curves.append({**cell, "steps": found.steps, "losses": found.losses})
        measured = epoch_metrics(store / row["folder"], say)
        for metric, title in dict.fromkeys((point.metric, point.title) for point in measured):
            points = [(point.epoch, point.value) for point in measured if point.title == title]
            epochs.append({**cell, "metric": metric, "title": title, "points": points})
    return curves, epochs


def _cell(record: dict[str, Any], row: Mapping[Any, Any], store: Path) -> dict[str, Any]:
    """What the page lists of a cell."""
    record = {**record, "status": row["status"]}
    command, remark = command_of(record, store)
    stale = row["stale"] if isinstance(row["stale"], str) else None
    return {
        "folder": record["folder"],
        "label": label_of(row),
        "variant": row["label"],
        "dataset": record["dataset"]["name"],
        "seed": record["seed"],
        "status": record["status"],
        "command": command,
        "remark": remark,
        "recipe": record["recipe"]["name"],
        "recipe_digest": record["recipe"]["digest"],
        "facts": facts(record),
        "metrics": metrics(record),
        "troubles": troubles(record, stale),
        "traceback": (record.get("failure") or {}).get("traceback") if record["status"] != FINISHED else None,
    }


def _recipes(records: Iterable[Mapping[str, Any]]) -> dict[str, tuple[str, str]]:
    import yaml

    found = {}
    for record in records:
        recipe = record["recipe"]
        if recipe["digest"] not in found:
            found[recipe["digest"]] = (recipe["name"], yaml.safe_dump(recipe["values"], sort_keys=False))
    return found
