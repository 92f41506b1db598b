"""Columns of a table: a metric on a dataset, under one protocol, with one set of weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from attnbench.errors import UserError, unknown
from attnbench.metrics.descriptor import Descriptor, matching
from attnbench.tables.formats import Heading
from attnbench.tables.rows import Cells, Setting

Measured = tuple[str, str]  # a metric's key, and its weights as the frame has them; "" for none
_STATUS = Descriptor(name="", title="status", lower_is_better=True, per_image=False)  # where nothing is measured yet


@dataclass(frozen=True)
class Column:
    """A metric on a dataset, under one protocol.

    Attributes:
        key: the metric's; empty for a column that has the statuses alone.
        title: without unit and arrow, see `titles`.
        weights: of its networks, as the frame has them: `net=31b6...`; empty for a metric without networks.
    """

    setting: Setting
    key: str
    metric: Descriptor
    title: str
    weights: str = ""

    @property
    def heading(self) -> Heading:
        named = self.metric.model_copy(update={"title": self.title})
        return Heading(self.setting.text, named.heading if self.key else self.title)

    @property
    def named(self) -> str:
        """The title with the protocol, for sentences."""
        return ", ".join(filter(None, [self.title, self.setting.protocol]))

    @property
    def is_the_papers(self) -> bool:
        """Whether the paper measured the same quantity."""
        return self.metric.in_paper and not self.setting.protocol

    @property
    def networks(self) -> str:
        """The names of its networks, with the beginning of their weights' digests: `net 31b69c56`."""
        return ", ".join(f"{name} {digest[:8]}" for name, digest in _networks(self.weights))


def _networks(weights: str) -> list[tuple[str, str]]:
    """(name, digest) of each.

    >>> _networks("net=31b6 other=27dd")
    [('net', '31b6'), ('other', '27dd')]
    """
    return [(name, digest) for name, _, digest in (one.partition("=") for one in weights.split())]


def titles(metrics: Mapping[str, Descriptor], used: Iterable[Measured]) -> dict[Measured, str]:
    """What columns are called: the metric's title; where others have it too, with the key, and with the weights' digests.

    >>> mine = Descriptor(name="mine", title="Mine", lower_is_better=True, per_image=True)
    >>> list(titles({"mine": mine}, [("mine", "net=31b69c56"), ("mine", "net=27ddffee")]).values())
    ['Mine [31b69c]', 'Mine [27ddff]']
    >>> list(titles({"mine": mine, "mine:size=3": mine}, [("mine", ""), ("mine:size=3", "")]).values())
    ['Mine (mine)', 'Mine (mine:size=3)']
    """
    used = dict.fromkeys(used)
    keys = Counter(metrics[key].title for key in {key for key, _ in used})
    weights = Counter(key for key, _ in used)
    found = {}
    for key, networks in used:
        title = metrics[key].title
        title += f" ({key})" if keys[title] > 1 else ""
        digests = " ".join(digest[:6] for _, digest in _networks(networks)) or "no weights"
        found[key, networks] = title + (f" [{digests}]" if weights[key] > 1 else "")
    return found


def columns_of(cells: Cells, settings: Iterable[Setting], shown: Sequence[str], *, chosen: bool = True) -> list[Column]:
    """One column for each setting and metric, or one for each set of weights where the cells used several.

    A setting has those of the metrics that any of its cells was measured with; if there are none, all of them.

    Args:
        chosen: whether a user chose them; else a setting that has none of them shows what it has, and metrics that cannot
            measure it have no column, see `without_column`.
    """
    every = list(shown) if chosen else list(dict.fromkeys([*shown, *all_metrics(cells)]))
    used: dict[str, list[tuple[Setting, str]]] = {key: _used(cells.finished, key) for key in every}
    named = titles(
        cells.metrics, [(key, weights) for key in every for weights in {weights: None for _, weights in used[key]} or [""]]
    )
    found = []
    for setting in settings:
        has = [key for key in every if key in cells.asked[setting]]
        if not chosen:
            has = [key for key in has if not cells.cannot(setting, key)] or has
        mine = [key for key in shown if key in has] or has or shown
        for key in mine:
            networks = [weights for place, weights in used[key] if place == setting]
            for weights in networks or [""]:
                title = named.get((key, weights), cells.metrics[key].title)
                found.append(Column(setting, key, cells.metrics[key], title, weights))
        if not mine:
            found.append(Column(setting, "", _STATUS, _STATUS.title))
    return found


def without_column(cells: Cells, columns: Sequence[Column], shown: Iterable[str]) -> dict[tuple[Setting, str], list[str]]:
    """Metrics that cannot measure a setting, and have no column there: (setting, reason) -> their titles."""
    there = {(column.setting, column.key) for column in columns}
    found: dict[tuple[Setting, str], list[str]] = {}
    for key in shown:
        for setting in dict.fromkeys(column.setting for column in columns):
            for reason in cells.cannot(setting, key) if (setting, key) not in there else ():
                found.setdefault((setting, reason), []).append(cells.metrics[key].title)
    return found


def _used(finished: pd.DataFrame, key: str) -> list[tuple[Setting, str]]:
    """The weights with which a metric was measured in each setting."""
    if key not in finished:
        return []
    parts = ["dataset", "protocol", f"{key}.weights"]
    unique = finished.reindex(columns=parts).loc[finished[key].notna()].drop_duplicates()
    plain: Any = unique.astype(object).where(unique.notna(), "").to_numpy()
    return [(Setting(dataset, protocol), weights) for dataset, protocol, weights in plain]


def chosen_metrics(metrics: Mapping[str, Descriptor], asked: Iterable[str]) -> list[str]:
    """The keys that names and keys stand for: a name stands for the metric with any options.

    Raises:
        UserError: one is not among the metrics.
    """
    found: dict[str, None] = {}
    for one in asked:
        keys = matching(metrics, one)
        if not keys and not metrics:
            raise UserError(f"there is no number of '{one}', and none of any other metric: `attnbench measure` measures cells")
        if not keys:
            measured = unknown("metric", one, {*metrics, *(metric.name for metric in metrics.values())}, where="measured here")
            raise UserError(f"{measured}; `attnbench measure` measures others")
        found |= dict.fromkeys(keys)
    return list(found)


def all_metrics(cells: Cells) -> list[str]:
    """The keys of the metrics that any of the cells was measured with, in the order of the records."""
    return list(dict.fromkeys(key for keys in cells.asked.values() for key in keys if key in cells.metrics))


def values_of(cells: Cells, label: str, column: Column) -> pd.Series:
    """A row's numbers in a column, by seed."""
    return cells.values(label, column.setting, column.key, column.weights)
