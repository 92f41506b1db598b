"""Columns of a table: a metric on a dataset, under one protocol."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from attnbench.metrics.known import METRICS, USUAL_DIMS, lower_is_better, title_of, titled
from attnbench.tables.formats import Heading
from attnbench.tables.rows import Cells


@dataclass(frozen=True)
class Column:
    """A metric on a dataset, under one protocol."""

    dataset: str
    metric: str
    title: str  # with the protocol, without the arrow
    weights: str | None  # SHA-256 of the metric's network
    dims: int | None = None  # width of the Inception layer
    network: str | None = None  # the network's name in the protocol, for metrics that allow several

    @property
    def falls(self) -> bool:
        return lower_is_better(self.metric)

    @property
    def decimals(self) -> int:
        return METRICS[self.metric].decimals_at(self.dims)

    @property
    def heading(self) -> Heading:
        return Heading(self.dataset, f"{self.title} {'↓' if self.falls else '↑'}")

    @property
    def is_the_papers(self) -> bool:
        """Whether the paper measured the same quantity."""
        return METRICS[self.metric].in_paper and self.dims in (None, USUAL_DIMS)

    def written(self, value: float, sign: str = "") -> str:
        return f"{value:{sign}.{self.decimals}f}"


def columns_of(cells: Cells, datasets: Iterable[str], metrics: Iterable[str]) -> list[Column]:
    """One column for each dataset and metric, or one per protocol where the cells used several.

    Where two protocols of a recipe differ only in their weights, the title includes the digest of the weights.
    """
    used = {metric: _protocols(cells.finished, metric) for metric in metrics}
    found = []
    for dataset in datasets:
        for metric, protocols in used.items():
            titles = Counter(title for title, *_ in {protocol[1:] for protocol in protocols})
            mine = [protocol[1:] for protocol in protocols if protocol[0] == dataset]
            found += [
                Column(
                    dataset, metric, title if titles[title] <= 1 else f"{title} [{str(weights)[:6]}]", weights, dims, network
                )
                for title, weights, dims, network in mine or [(title_of(metric), None, None, None)]
            ]
    return found


_Protocol = tuple[str, str, str | None, int | None, str | None]


def _protocols(finished: pd.DataFrame, metric: str) -> list[_Protocol]:
    """(dataset, the metric's title, weights, width, network) of each protocol that the cells of a dataset used."""
    if metric not in finished:
        return []
    parts = ["dataset", *(f"{metric}.{part}" for part in ("weights", "dims", "network"))]
    unique = finished.reindex(columns=parts).loc[finished[metric].notna()].drop_duplicates()
    plain: Any = unique.astype(object).where(unique.notna(), None).to_numpy()
    return [
        (dataset, titled(metric, {"dims": dims, "network": network}), weights, None if dims is None else int(dims), network)
        for dataset, weights, dims, network in plain
    ]


def values_of(cells: Cells, label: str, column: Column) -> pd.Series:
    """A row's numbers in a column, by seed."""
    return cells.values(label, column.dataset, column.metric, column.weights)


def network_name(column: Column) -> str:
    """The name under which `attnbench weights` lists the column's network."""
    return METRICS[column.metric].network_name({"lpips_network": column.network}) or ""
