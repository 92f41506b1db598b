"""The paper's numbers, for comparison with ours."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import resources

import pandas as pd

from attnbench.tables.columns import Column
from attnbench.tables.rows import Row

PaperValues = Mapping[tuple[str, str], float]  # (dataset, metric) -> the paper's number


@cache
def published() -> pd.DataFrame:
    """The paper's numbers: table, label, module, options (JSON), dataset, metric, value, source."""
    with resources.files("attnbench_results").joinpath("published.csv").open() as file:
        return pd.read_csv(file)


@cache
def published_metrics() -> list[str]:
    """Names of the metrics that the paper reports, in the order of its tables."""
    return list(published()["metric"].unique())


@cache
def _published_options() -> pd.Series:
    return published()["options"].map(json.loads)


def published_values(row: Row) -> PaperValues:
    """The paper's numbers for a variant: (dataset, metric) -> value; none for pictures that were made elsewhere."""
    if row.pictures is not None:
        return {}
    paper = published()
    same = paper[(paper["module"] == row.module) & (_published_options() == row.given)]
    return dict(zip(zip(same["dataset"], same["metric"], strict=True), same["value"].astype(float), strict=True))


def published_value(paper: PaperValues, column: Column) -> float | None:
    """The paper's number, if it measured the same quantity."""
    return paper.get((column.setting.dataset, column.metric.name)) if column.is_the_papers else None


def published_note(columns: Sequence[Column], rows: Iterable[PaperValues]) -> str:
    source = published()["source"].iloc[0].partition(", Table")[0]
    if not any(published_value(paper, column) is not None for paper in rows for column in columns):
        return f"{source} has no number for these rows and columns."
    note = f"In parentheses: {source} (256 px, 40 epochs), and ours minus that"
    others = sorted({column.named for column in columns if not column.is_the_papers})
    return note + (f"; it has no number for {', '.join(others)}." if others else ".")
