"""Columns of a table: a metric on a dataset, under one protocol, with one set of weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from attnbench.metrics.descriptor import Descriptor
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


def columns_of(cells: Cells, shown: Mapping[Setting, Sequence[str]]) -> list[Column]:
    """One column for each setting and metric, or one for each set of weights where the cells used several.

    Args:
        shown: the keys of each setting, see `selection`. One without any has a column for the cells' statuses.
    """
    every = list(dict.fromkeys(key for keys in shown.values() for key in keys))
    used: dict[str, list[tuple[Setting, str]]] = {key: _used(cells.finished, key) for key in every}
    named = titles(
        cells.metrics, [(key, weights) for key in every for weights in {weights: None for _, weights in used[key]} or [""]]
    )
    found = []
    for setting, keys in shown.items():
        for key in keys:
            networks = [weights for place, weights in used[key] if place == setting]
            for weights in networks or [""]:
                title = named.get((key, weights), cells.metrics[key].title)
                found.append(Column(setting, key, cells.metrics[key], title, weights))
        if not keys:
            found.append(Column(setting, "", _STATUS, _STATUS.title))
    return found


def _used(finished: pd.DataFrame, key: str) -> list[tuple[Setting, str]]:
    """The weights with which a metric was measured in each setting."""
    if key not in finished:
        return []
    parts = ["dataset", "protocol", f"{key}.weights"]
    unique = finished.reindex(columns=parts).loc[finished[key].notna()].drop_duplicates()
    plain: Any = unique.astype(object).where(unique.notna(), "").to_numpy()
    return [(Setting(dataset, protocol), weights) for dataset, protocol, weights in plain]


def values_of(cells: Cells, label: str, column: Column) -> pd.Series:
    """A row's numbers in a column, by seed."""
    return cells.values(label, column.setting, column.key, column.weights)


def spread_of(metric: Descriptor, values: pd.Series, interval: Sequence[float] | None, usual: int) -> str:
    """`± 2.00`, or `[0.52, 0.57]`; with `n=2` where most entries of the table have another number of seeds."""
    parts = []
    if len(values) > 1:
        parts.append(f"± {metric.written(values.std())}")
    if interval is not None:
        parts.append(f"[{metric.written(interval[0])}, {metric.written(interval[1])}]")
    if len(values) and len(values) != usual:
        parts.append(f"n={len(values)}")
    return " ".join(parts)
