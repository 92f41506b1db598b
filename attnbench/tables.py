"""The store as tables: a row a variant, two columns or more a data set, in the shape of the paper's Tables 1-3.

Cells are put into one table only if they share a recipe, and into one column only if they share the metric's protocol (width of
the FID layer, weights of the network): numbers that cannot be compared never meet.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

import pandas as pd

from attnbench.errors import UserError, unknown
from attnbench.grid_file import GridFile
from attnbench.rows import Row, rows_of
from attnbench.store import DIVERGED, FAILED, FINISHED

FORMATS = ("text", "md", "latex", "csv", "html")
LOWER_IS_BETTER = frozenset({"fid", "kid", "lpips"})
DEFAULT_METRICS = ("fid", "ssim_global")  # the paper's columns
_NAMES = {"fid": "FID", "kid": "KID", "ssim_global": "SSIM (global)", "ssim": "SSIM (windowed)", "lpips": "LPIPS"}
_DECIMALS = {"fid": 2, "kid": 4, "ssim_global": 3, "ssim": 3, "lpips": 3}
_MISSING = "-"

PaperValues = Mapping[tuple[str, str], float]  # (data set, metric) -> the paper's number


@dataclass(frozen=True)
class Column:
    """A metric on a data set, under one protocol."""

    dataset: str
    metric: str
    title: str  # with the protocol, without the arrow
    network: str | None  # weights of the metric's network

    @property
    def falls(self) -> bool:
        return self.metric in LOWER_IS_BETTER

    @property
    def decimals(self) -> int:
        narrow = self.title.startswith(("FID-", "KID-"))  # distances at narrower layers are far smaller
        return _DECIMALS[self.metric] + 2 * narrow


@dataclass(frozen=True)
class Entry:
    """What stands in a field: a text, and whether it is the best or second of its column."""

    text: str
    rank: int | None = None  # 0 best, 1 second


@dataclass(frozen=True)
class Table:
    """Rows of entries, and all that must be said with them."""

    columns: list[Column]
    rows: dict[str, list[Entry]]  # label -> an entry a column
    caption: str
    notes: list[str] = field(default_factory=list)


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
) -> list[Table]:
    """One table a recipe.

    Args:
        frame: as from `attnbench.results`.
        grid: only its variants, all of them, in its order; by default every variant that has a cell.
        metrics: which, in which order; by default the paper's (FID and global SSIM), or all of a recipe that has no FID.
        epoch: `last`, or `best` (by FID; recipes with `evaluation.when: each_epoch`).
        with_published: put the paper's number behind ours, where the metric is the same.

    Raises:
        UserError: a metric or an epoch that no cell has, a grid of which there is no cell.
    """
    for metric in metrics:
        if metric not in _NAMES:
            raise unknown("metric", metric, _NAMES)
    if epoch == "best":
        if not any(name.startswith("best.") for name in frame.columns):
            raise UserError("no cell has a best epoch: it needs a recipe with evaluation.when=each_epoch and an FID network")
        own = [name for name in frame.columns if name.split(".")[0] in _NAMES]
        frame = frame.drop(columns=own).rename(columns=lambda name: str(name).removeprefix("best."))
    frame, rows = rows_of(frame, grid)
    found = []
    for _, group in frame.groupby(["recipe_digest", "train_weights"], sort=False, dropna=False):
        labels = set(group["label"])
        shown = [row for row in rows if grid is not None or row.label in labels]
        found.append(_table(group, shown, grid, metrics, epoch, with_published))
    return found


def _table(
    frame: pd.DataFrame, rows: Sequence[Row], grid: GridFile | None, metrics: Sequence[str], epoch: str, with_published: bool
) -> Table:
    frame = _with_distinct_datasets(frame)
    finished = frame[frame["status"] == FINISHED]
    asked = frame["recipe_metrics"].iloc[0].split(",")
    shown = list(metrics) or ([name for name in DEFAULT_METRICS if name in asked] if "fid" in asked else asked)
    datasets = _ordered(frame["dataset"], grid)
    columns = [column for dataset in datasets for metric in shown for column in _columns(finished, dataset, metric)]
    labels = [row.label for row in rows]
    paper = {row.label: _published_values(row) for row in rows} if with_published else {}

    notes: list[str] = []
    values = {label: [_values(finished, label, column) for column in columns] for label in labels}
    ranks = [_ranks([values[label][i] for label in labels], column) for i, column in enumerate(columns)]
    body = {}
    for y, label in enumerate(labels):
        body[label] = [
            Entry(_text(values[label][x], column, frame, label, notes, paper.get(label, {})), ranks[x][y])
            for x, column in enumerate(columns)
        ]
    notes += _open_cells(frame)
    notes += _floors(finished, columns)
    notes += _other_packages(frame)
    if with_published:
        notes.append(_published_note(columns, paper.values()))
    return Table(columns, body, _caption(frame, finished, columns, epoch), notes)


def _with_distinct_datasets(frame: pd.DataFrame) -> pd.DataFrame:
    """Tell apart data sets of one name and different images."""
    prints = frame.groupby("dataset")["fingerprint"].nunique()
    several = frame["dataset"].map(prints) > 1
    named = frame["dataset"].where(~several, frame["dataset"] + " [" + frame["fingerprint"].str[:6] + "]")
    return frame.assign(dataset=named)


def _columns(finished: pd.DataFrame, dataset: str, metric: str) -> list[Column]:
    """One, or one for each of several protocols that the cells used."""
    name = _NAMES[metric]
    cells = finished[finished["dataset"] == dataset]
    if metric not in cells:
        return [Column(dataset, metric, name, None)]
    cells = cells[cells[metric].notna()]
    parts = {part: cells.get(f"{metric}.{part}", pd.Series(index=cells.index)) for part in ("dims", "network", "weights")}
    protocols = pd.DataFrame(parts).drop_duplicates().to_dict("records")
    found = []
    for protocol in protocols:
        title = name
        if metric in ("fid", "kid") and protocol["dims"] != 2048:
            title += f"-{int(protocol['dims'])}"
        if metric == "lpips":
            title += f"-{protocol['network']}"
        network = protocol["weights"] if pd.notna(protocol["weights"]) else None
        if len(protocols) > 1:
            title += f" [{str(network)[:6]}]"
        found.append(Column(dataset, metric, title, network))
    return found or [Column(dataset, metric, name, None)]


def _values(finished: pd.DataFrame, label: str, column: Column) -> pd.Series:
    """The column's numbers for one row: one a seed."""
    cells = finished[(finished["label"] == label) & (finished["dataset"] == column.dataset)]
    if column.metric not in cells:
        return pd.Series(dtype=float)
    if column.network is not None:
        cells = cells[cells[f"{column.metric}.weights"] == column.network]
    return cells[column.metric].dropna().astype(float)


def _ranks(values: Sequence[pd.Series], column: Column) -> list[int | None]:
    """0 for the best mean, 1 for the second; equal values share a rank; None elsewhere and for a column of one."""
    means = [None if series.empty else round(series.mean(), column.decimals) for series in values]
    order = sorted({mean for mean in means if mean is not None}, reverse=not column.falls)
    if sum(mean is not None for mean in means) < 2:
        return [None] * len(means)
    places = [order.index(mean) if mean is not None else None for mean in means]
    return [place if place is not None and place < 2 else None for place in places]


def _text(values: pd.Series, column: Column, frame: pd.DataFrame, label: str, notes: list[str], paper: PaperValues) -> str:
    decimals = column.decimals
    cells = frame[(frame["label"] == label) & (frame["dataset"] == column.dataset)]
    if values.empty:
        text = _absence(cells, column, notes)
    else:
        text = f"{values.mean():.{decimals}f}"
        if len(values) > 1:
            text += f" ± {values.std():.{decimals}f}"
    if (number := _published_value(paper, column)) is not None:
        text += f" ({number:.{decimals}f})"
    return text


def _absence(cells: pd.DataFrame, column: Column, notes: list[str]) -> str:
    """Why there is no number: a status or a dash, with a footnote."""
    for status in (FAILED, DIVERGED):
        ended = cells[cells["status"] == status]
        if not ended.empty:
            return status + _footnote(notes, f"{ended.iloc[0]['folder']}: {ended.iloc[0]['failure']}")
    reason = f"{column.metric}.reason"
    if reason in cells and cells[reason].notna().any():
        return _MISSING + _footnote(notes, f"{_NAMES[column.metric]}: {cells[reason].dropna().iloc[0]}")
    return _MISSING


def _footnote(notes: list[str], text: str) -> str:
    """[1] for the note's number; equal notes share one."""
    numbered = [note for note in notes if note.startswith("[")]
    for number, note in enumerate(numbered, 1):
        if note == f"[{number}] {text}":
            return f" [{number}]"
    notes.append(f"[{len(numbered) + 1}] {text}")
    return f" [{len(numbered) + 1}]"


def _open_cells(frame: pd.DataFrame) -> list[str]:
    waiting = frame[~frame["status"].isin([FINISHED, FAILED, DIVERGED])]
    return [f"Not finished: {', '.join(waiting['folder'])}."] if len(waiting) else []


def _floors(finished: pd.DataFrame, columns: Iterable[Column]) -> list[str]:
    """The distance of real images from real images, for each data set: what FID and KID could at best be."""
    floors: dict[str, list[str]] = {}
    for column in columns:
        name = f"{column.metric}.floor"
        if column.network is None or name not in finished:
            continue
        cells = finished[(finished["dataset"] == column.dataset) & (finished[f"{column.metric}.weights"] == column.network)]
        first = cells.iloc[0]
        count = int(first[f"{column.metric}.n_floor"])
        floors.setdefault(column.title, []).append(f"{column.dataset} {first[name]:.{column.decimals}f} ({count} images)")
    return [f"{title} of real training images against the real test images: {', '.join(of)}." for title, of in floors.items()]


def _caption(frame: pd.DataFrame, finished: pd.DataFrame, columns: Sequence[Column], epoch: str) -> str:
    counts = finished.groupby("dataset")["test_images"].first()
    images = ", ".join(f"{name} {int(count)}" for name, count in counts.items())
    seeds = sorted({int(seed) for seed in finished["seed"]})
    parts = [f"Recipe: {frame['recipe'].iloc[0]} ({frame['recipe_digest'].iloc[0][:8]})"]
    if images:
        parts.append(f"test images: {images}")
    if seeds:
        parts.append(f"{'seeds' if len(seeds) > 1 else 'seed'} {', '.join(map(str, seeds))}")
    if epoch == "best":
        parts.append("each cell's epoch with the lowest FID")
    networks = {column.title: column.network for column in columns if column.network}
    parts += [f"{title}: weights {network[:8]}" for title, network in networks.items()]
    return "; ".join(parts) + "."


def _published_values(row: Row) -> PaperValues:
    """The paper's numbers for a variant: (data set, metric) -> value."""
    paper = published()
    same = paper[(paper["module"] == row.module) & (paper["options"].map(json.loads) == row.given)]
    return dict(zip(zip(same["dataset"], same["metric"], strict=True), same["value"].astype(float), strict=True))


def _published_value(paper: PaperValues, column: Column) -> float | None:
    """The paper's number, if it measured the same quantity."""
    return paper.get((column.dataset, column.metric)) if column.title in ("FID", "SSIM (global)") else None


def _published_note(columns: Sequence[Column], rows: Iterable[PaperValues]) -> str:
    source = published()["source"].iloc[0].partition(", Table")[0]
    if not any(_published_value(paper, column) is not None for paper in rows for column in columns):
        return f"{source} has no number for these rows and columns."
    note = f"In parentheses: {source} (256 px, 40 epochs, FID at width 2048, global SSIM)"
    others = sorted({column.title for column in columns} - {"FID", "SSIM (global)"})
    return note + (f"; it has no number for {', '.join(others)}." if others else ".")


def _other_packages(frame: pd.DataFrame) -> list[str]:
    """Where the modules come from that are not attnbench's own."""
    others = frame[frame["package"] != "attnbench"].sort_values("label")
    named = [f"{row.label} ({row.package} {row.version})" for row in others.itertuples()]
    return [f"From other packages: {', '.join(dict.fromkeys(named))}."] if named else []


def _ordered(datasets: Iterable[str], grid: GridFile | None) -> list[str]:
    """Each once, the grid's first and in its order."""
    found = list(dict.fromkeys(datasets))
    first = [name for name in (grid.datasets if grid else ()) if name in found]
    return list(dict.fromkeys([*first, *found]))


def render(table: Table, style: str) -> str:
    """As `md`, `latex` or `html` text.

    Raises:
        UserError: no such format.
    """
    renderers: dict[str, Callable[[Table], str]] = {"md": _markdown, "latex": _latex, "html": _html}
    if style not in renderers:
        raise unknown("format", style, FORMATS)
    return renderers[style](table)


def _markdown(table: Table) -> str:
    body = _strings(table, best="**{}**", second="<u>{}</u>")
    body.columns = body.columns.map(" ".join)
    lines = [body.to_markdown(disable_numparse=True, stralign="right"), "", table.caption]
    return "\n".join([*lines, *(f"\n{note}" for note in table.notes)]) + "\n"


def _latex(table: Table) -> str:
    """Needs booktabs."""
    body = _strings(table, best=r"\textbf{{{}}}", second=r"\underline{{{}}}", escape=_escape_latex)
    text: str = body.style.to_latex(
        hrules=True,
        column_format="l" + "r" * len(table.columns),
        multicol_align="c",
        caption=_escape_latex(" ".join([table.caption, *table.notes])),
        position_float="centering",
    )
    return text


def _html(table: Table) -> str:
    body = _strings(table, best="<b>{}</b>", second="<u>{}</u>", escape=_escape_html)
    caption = "<br>".join(_escape_html(line) for line in [table.caption, *table.notes])
    return body.style.set_caption(caption).to_html() + "\n"


def _strings(table: Table, *, best: str, second: str, escape: Callable[[str], str] = str) -> pd.DataFrame:
    """The body with its marks; columns (data set, metric with arrow)."""
    marks = {0: best, 1: second, None: "{}"}
    columns = pd.MultiIndex.from_tuples(
        [(escape(column.dataset), escape(f"{column.title} {arrow(column)}")) for column in table.columns]
    )
    rows = [[marks[entry.rank].format(escape(entry.text)) for entry in entries] for entries in table.rows.values()]
    return pd.DataFrame(rows, index=[escape(label) for label in table.rows], columns=columns)


def arrow(column: Column) -> str:
    return "↓" if column.falls else "↑"


def _escape_latex(text: str) -> str:
    replacements: dict[str, Any] = {
        "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
        "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "↓": r"$\downarrow$", "↑": r"$\uparrow$", "±": r"$\pm$",
    }  # fmt: skip
    return text.translate(str.maketrans(replacements))


def _escape_html(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
