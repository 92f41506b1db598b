"""The notes below a table: footnotes, spreads, how numbers were measured, chance, and what was not trained here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real

import pandas as pd

from attnbench.tables.columns import Column
from attnbench.tables.rows import NOT_TRAINED, Cells, Row, Setting, same_weights
from attnbench.tables.statistics import LEVEL


class Footnotes:
    """Notes that entries refer to; equal texts share a number."""

    def __init__(self) -> None:
        self._texts: dict[str, int] = {}

    def mark(self, text: str) -> str:
        """The reference to this note: `[1]`."""
        return f"[{self._texts.setdefault(text, len(self._texts) + 1)}]"

    @property
    def lines(self) -> list[str]:
        return [f"[{number}] {text}" for text, number in self._texts.items()]


def spread_notes(usual: int, intervals: bool) -> list[str]:
    """A note that explains the spreads of entries."""
    notes = [f"mean ± standard deviation over n = {usual} seeds, unless the entry gives another n"] if usual > 1 else []
    if intervals:
        notes.append(f"[low, high]: {LEVEL:.0%} bootstrap interval of the mean over the test pairs of one training run")
    return [f"{'; '.join(notes)}."] if notes else []


def unmeasured_notes(left_out: Mapping[tuple[Setting, str], Sequence[str]]) -> list[str]:
    """A note for each reason why metrics have no column on a dataset, see `columns.without_column`."""
    return [f"Not measured on {setting.text}: {', '.join(titles)} ({why})." for (setting, why), titles in left_out.items()]


def chance_notes(cells: Cells, columns: Iterable[Column]) -> list[str]:
    """What a method gets by chance, of every metric that records it, by dataset."""
    notes = []
    for title, same in _by_title(columns).items():
        chances = []
        for column in same:
            first = _first_measured(cells, column)
            chance = None if first is None else first["chance"]
            if isinstance(chance, Real) and math.isfinite(chance):  # a third party's may be anything
                value = f"{column.metric.written(float(chance))} {column.metric.unit}".rstrip()
                chances.append(f"{column.setting.dataset} {value}")
        if chances:
            named = ", ".join(dict.fromkeys(chances))  # a comparison has a column for each of its units
            notes.append(f"{title}: chance, without a look at the reference: {named}.")
    return notes


def set_notes(cells: Cells, columns: Iterable[Column]) -> list[str]:
    """Notes on every metric of whole sets: its networks, the number of images, and the floor.

    The floor is the number of real training against real test images, the best that can be expected of a distance.
    """
    notes = []
    for title, same in _by_title(column for column in columns if not column.metric.per_image).items():
        counts, floors = [], []
        for column in same:
            first = _first_measured(cells, column)
            if first is None:
                continue
            where = column.setting.dataset
            counts.append(f"{where} {int(first['test_images'] if pd.isna(first['n']) else first['n'])}")
            if pd.notna(first["floor"]):
                of = f" ({int(first['n_floor'])} images)" if pd.notna(first["n_floor"]) else ""
                floors.append(f"{where} {column.metric.written(first['floor'])}{of}")
        if counts:
            networks = f"weights {same[0].networks}; " if same[0].weights else ""
            floor = f"; floor, real training against real test images: {', '.join(floors)}" if floors else ""
            notes.append(f"{title}: {networks}N = {', '.join(counts)} generated images{floor}.")
    return notes


def _by_title(columns: Iterable[Column]) -> dict[str, list[Column]]:
    """Columns by title and protocol, without those that have the statuses alone."""
    found: dict[str, list[Column]] = {}
    for column in columns:
        if column.key:
            found.setdefault(column.named, []).append(column)
    return found


def _first_measured(cells: Cells, column: Column) -> pd.Series | None:
    """What the first cell of a column records beside its number, and for what it lacks, the next; None without a number."""
    parts = ["n", "floor", "n_floor", "chance", "weights"]
    finished = cells.finished_in(column.setting)
    if finished is None or column.key not in finished:
        return None
    measured = finished[["test_images"]].assign(**{part: finished.get(f"{column.key}.{part}") for part in parts})
    measured = measured[finished[column.key].notna().to_numpy() & same_weights(measured["weights"], column.weights)]
    return measured.apply(lambda part: next(iter(part.dropna()), None)) if len(measured) else None


def foreign_notes(cells: Cells, rows: Iterable[Row]) -> list[str]:
    """A note for each row that was not trained here, on what is known of its pictures."""
    present = set(cells.frame["label"])
    shown = [row for row in rows if row.pictures and row.label in present]
    return [f"{row.label.replace(f' ({NOT_TRAINED})', '')}: {NOT_TRAINED} ({row.pictures})." for row in shown]


def recipe_caption(cells: Cells) -> str:
    trained = cells.frame[cells.frame["elsewhere"].isna()]
    if trained.empty:
        return f"Not trained here: pictures of {cells.frame['size'].iloc[0]:.0f} px"
    return f"Recipe: {trained['recipe'].iloc[0]} ({trained['recipe_digest'].iloc[0][:8]})"


def listed_seeds(seeds: Sequence[int]) -> str:
    """`0, 1, 2`, or `0-9` for more than four consecutive seeds."""
    whole = len(seeds) > 4 and seeds[-1] - seeds[0] == len(seeds) - 1
    return f"{seeds[0]}-{seeds[-1]}" if whole else ", ".join(map(str, seeds))
