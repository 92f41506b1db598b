"""What a method gains from its own original: a metric under `same` minus under `cross`, as a column of its own.

Where the reference is the sketch's own original, warped, each place has its colour to be found, and a method that takes colours
from where they are scores much higher than with another picture. One that guesses them scores much alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from attnbench.tables.columns import Column, spread_of, values_of
from attnbench.tables.formats import MINUS, Entry, Heading
from attnbench.tables.rows import Cells, Setting
from attnbench.tables.statistics import bootstrap_interval, by_length

_SAME = "same"  # in the label of a protocol
_DIFFERENCE = f"same {MINUS} cross"


@dataclass(frozen=True)
class Gap:
    """A column of differences, beside `same`: of neither sign it can be said that it is better."""

    same: Column
    cross: Column

    @property
    def title(self) -> str:
        return f"{self.same.title}, {_DIFFERENCE}"

    @property
    def heading(self) -> Heading:
        named = self.same.metric.model_copy(update={"title": self.same.title})
        return Heading(self.same.setting.text, f"{named.title_with_unit}, {_DIFFERENCE}")


def gaps_of(cells: Cells, columns: Sequence[Column]) -> dict[int, Gap]:
    """The gaps of columns whose metric has one: place of the column under `same` -> its gap.

    The protocols differ in nothing but the references, and were measured on the same test images.
    """
    found = {}
    for place, same in enumerate(columns):
        crossed = _crossed(same.setting)
        if same.metric.gap and crossed and _tested(cells, crossed) == _tested(cells, same.setting):
            for cross in columns:
                if (cross.setting, cross.key, cross.weights) == (crossed, same.key, same.weights):
                    found[place] = Gap(same, cross)
    return found


def _crossed(setting: Setting) -> Setting | None:
    """The setting with other images as references; None unless it has the sketches' own.

    >>> _crossed(Setting("cat", "same, first 50 pairs")), _crossed(Setting("cat"))
    (Setting(dataset='cat', protocol='first 50 pairs'), None)
    """
    parts = setting.protocol.split(", ")
    if _SAME not in parts:
        return None
    return Setting(setting.dataset, ", ".join(part for part in parts if part != _SAME))


def _tested(cells: Cells, setting: Setting) -> list[str]:
    """The fingerprints of the test images."""
    finished = cells.finished_in(setting)
    return [] if finished is None else list(finished["test_fingerprint"].unique())


def gap_entries(cells: Cells, gap: Gap, labels: Sequence[str], usual: int) -> dict[str, Entry]:
    """Label -> the mean difference over the seeds that were measured under both, with its standard deviation; of a single
    seed, with its bootstrap interval over the sketches, where there are scores.

    Args:
        usual: as of `spread_of`.
    """
    metric = gap.same.metric
    values = {label: _differences(cells, gap, label) for label in labels}
    scores = {label: _of_sketches(cells, gap, label, series.index) for label, series in values.items() if len(series) == 1}
    intervals = by_length({label: found for label, found in scores.items() if len(found) > 1}, bootstrap_interval)
    return {
        label: Entry(
            metric.written(series.mean(), "+") if len(series) else "-",
            spread=spread_of(metric, series, intervals.get(label), usual),
        )
        for label, series in values.items()
    }


def _differences(cells: Cells, gap: Gap, label: str) -> pd.Series:
    """By seed, of those that both have."""
    same, cross = values_of(cells, label, gap.same), values_of(cells, label, gap.cross)
    seeds = same.index.intersection(cross.index)
    return same[seeds] - cross[seeds]


def _of_sketches(cells: Cells, gap: Gap, label: str, seeds: pd.Index) -> np.ndarray:
    """(n,): the differences of the sketches that were coloured under both; empty without scores."""
    found = [cells.scores(label, column.setting, column.key, seeds) for column in (gap.same, gap.cross)]
    if any(scores is None for scores in found):
        return np.empty(0)
    both = pd.concat(found, axis=1, join="inner").to_numpy()
    return np.asarray(both[:, 0] - both[:, 1])
