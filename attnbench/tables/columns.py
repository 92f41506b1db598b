"""Columns of a table: a metric on a dataset, under one protocol."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from attnbench.metrics.known import DECIMALS, INCEPTION, LOWER_IS_BETTER, METRIC_NAMES, SET_METRICS
from attnbench.tables.formats import Heading
from attnbench.tables.rows import Cells


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
        return DECIMALS[self.metric] + 2 * (self.dims in (64, 768))  # distances at these layers are far smaller

    @property
    def heading(self) -> Heading:
        return Heading(self.dataset, f"{self.title} {'↓' if self.falls else '↑'}")

    @property
    def is_the_papers(self) -> bool:
        """Whether the paper measured the same quantity."""
        return self.metric == "ssim_global" or (self.metric == "fid" and self.dims in (None, 2048))

    def written(self, value: float, sign: str = "") -> str:
        return f"{value:{sign}.{self.decimals}f}"


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


def network_name(column: Column) -> str:
    """Under which name `attnbench weights` lists the column's network."""
    return INCEPTION if column.metric in SET_METRICS else column.title.split(" ")[0].lower()
