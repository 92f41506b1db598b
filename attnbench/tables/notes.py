"""The notes below a table: footnotes, spreads, what numbers can be compared with, what is not shown, or not trained here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import pandas as pd

from attnbench.metrics.descriptor import BOUNDS, Descriptor
from attnbench.tables.columns import Column
from attnbench.tables.gaps import Gap
from attnbench.tables.rows import NOT_TRAINED, Cells, Row, same_weights
from attnbench.tables.selection import Selection
from attnbench.tables.statistics import LEVEL

_TRIVIAL = "trivial."  # what guesses score that do not look: `trivial.anywhere`, ...


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


def unmeasured_notes(metrics: Mapping[str, Descriptor], selection: Selection) -> list[str]:
    """Why metrics have no column: for each reason why they cannot measure a setting, and for each companion that is lacking."""
    unable = [
        f"Not measured on {setting.text}: {', '.join(metrics[key].title for key in keys)} ({why})."
        for (setting, why), keys in selection.unable.items()
    ]
    return [*unable, *withheld_notes(metrics, selection)]


def withheld_notes(metrics: Mapping[str, Descriptor], selection: Selection) -> list[str]:
    """A note for each metric that is not shown for want of its companion."""
    return [
        f"{'; '.join(setting.text for setting in settings)}: {metrics[key].title} is not shown without "
        f"{metrics[key].companion}, which copying the reference would lose: "
        f"`attnbench measure STORE --metrics {metrics[key].companion}` measures it."
        for key, settings in selection.withheld.items()
    ]


def gap_notes(gaps: Iterable[Gap]) -> list[str]:
    """What a gap says; none without gaps."""
    named = ", ".join(dict.fromkeys(gap.title for gap in gaps))
    what = "how much higher it is where the reference is the sketch's own original, warped"
    why = "a method that takes colours from where they are gains from that, and so does one that copies by position"
    return [f"{named}: {what}; {why}."] if named else []


def metric_notes(cells: Cells, columns: Iterable[Column]) -> list[str]:
    """A note on every metric of whole sets, and on every other that records numbers with which its own can be compared."""
    notes = []
    for title, same in _by_title(columns).items():
        measured = [(column, first) for column in same if (first := _first_measured(cells, column)) is not None]
        facts = [*_about_sets(measured), *(_bound(name, measured) for name in BOUNDS), _trivial(measured)]
        facts = [fact for fact in facts if fact]
        notes += [f"{title}: {'; '.join(facts)}."] if facts else []
    return notes


def _about_sets(measured: Sequence[tuple[Column, pd.Series]]) -> list[str]:
    """The networks of a metric of whole sets, and the number of images of each dataset."""
    of_sets = [(column, first) for column, first in measured if not column.metric.per_image]
    networks = [f"weights {column.networks}" for column, _ in of_sets[:1] if column.weights]
    counts = dict.fromkeys(
        f"{column.setting.dataset} {int(first['test_images'] if pd.isna(first['n']) else first['n'])}"
        for column, first in of_sets
    )
    return [*networks, f"N = {', '.join(counts)} generated images"] if counts else []


def _bound(name: str, measured: Iterable[tuple[Column, pd.Series]]) -> str:
    """`floor, real training against real test images: anime 7.00 (400 images), cat 5.00`; empty where none is recorded."""
    found: dict[str, str] = {}  # number -> what it is; each once: a comparison has a column for each of its units
    for column, first in measured:
        if _is_number(first[name]):
            metric = column.metric
            number = f"{column.setting.dataset} {metric.written(float(first[name]))} {metric.unit}".rstrip()
            of = f" ({int(first[f'n_{name}'])} images)" if _is_number(first[f"n_{name}"]) else ""
            found[number + of] = metric.bound(name)
    return f"{next(iter(found.values()))}: {', '.join(found)}" if found else ""


def _trivial(measured: Iterable[tuple[Column, pd.Series]]) -> str:
    """`trivial guesses: cat anywhere 3.2, the middle 2.6; dog ...` of a metric that records what these score."""
    found: dict[str, None] = {}
    for column, first in measured:
        guesses = {str(part).removeprefix(_TRIVIAL): value for part, value in first.items() if str(part).startswith(_TRIVIAL)}
        shares = [f"{guess} {column.metric.written(float(value))}" for guess, value in guesses.items() if _is_number(value)]
        found |= {f"{column.setting.dataset} {', '.join(shares)}": None} if shares else {}
    return f"trivial guesses: {'; '.join(found)}" if found else ""


def _is_number(value: Any) -> bool:
    """Whether it is one; what a third party's metric records may be anything."""
    return isinstance(value, Real) and math.isfinite(value)


def _by_title(columns: Iterable[Column]) -> dict[str, list[Column]]:
    """Columns by title and protocol, without those that have the statuses alone."""
    found: dict[str, list[Column]] = {}
    for column in columns:
        if column.key:
            found.setdefault(column.named, []).append(column)
    return found


def _first_measured(cells: Cells, column: Column) -> pd.Series | None:
    """What the first cell of a column records beside its number, and for what it lacks, the next; None without a number."""
    finished = cells.finished_in(column.setting)
    if finished is None or column.key not in finished:
        return None
    own = f"{column.key}."
    trivial = [name.removeprefix(own) for name in map(str, finished.columns) if name.startswith(own + _TRIVIAL)]
    parts = ["n", "weights", *BOUNDS, *(f"n_{name}" for name in BOUNDS), *trivial]
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
