"""The notes below a table: footnotes, spreads, how distances of sets were measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from attnbench.metrics.known import OF_SETS
from attnbench.tables.columns import Column, network_name
from attnbench.tables.rows import Cells
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


def set_distances(finished: pd.DataFrame, columns: Iterable[Column]) -> list[str]:
    """Notes on every FID and KID: the network, the number of images, and the floor.

    The floor is the distance between real training and real test images, the best value that can be expected.
    """
    notes = []
    for title, same in _by_protocol(columns).items():
        metric = same[0].metric
        names = [f"{metric}.{part}" for part in ("n", "floor", "n_floor", "weights")]
        measured = finished.loc[finished[metric].notna()].reindex(columns=["dataset", "test_images", *names])
        measured = measured[measured[names[-1]] == same[0].weights]
        firsts: Any = measured.groupby("dataset").first()
        counts, floors = [], []
        for column in same:
            images, count, floor, real, _ = firsts.loc[column.dataset]
            counts.append(f"{column.dataset} {int(images if pd.isna(count) else count)}")
            if pd.notna(floor):
                floors.append(f"{column.dataset} {column.written(floor)} ({int(real)} images)")
        line = f"{title}: weights {network_name(same[0])} {str(same[0].weights)[:8]}; N = {', '.join(counts)} generated images"
        notes.append(line + (f"; floor, real training against real test images: {', '.join(floors)}." if floors else "."))
    return notes


def _by_protocol(columns: Iterable[Column]) -> dict[str, list[Column]]:
    """Columns of FID and KID by title; columns of one title share a protocol."""
    found: dict[str, list[Column]] = {}
    for column in columns:
        if column.metric in OF_SETS and column.weights is not None:
            found.setdefault(column.title, []).append(column)
    return found


def recipe_caption(cells: Cells) -> str:
    return f"Recipe: {cells.frame['recipe'].iloc[0]} ({cells.frame['recipe_digest'].iloc[0][:8]})"


def listed_seeds(seeds: Sequence[int]) -> str:
    """`0, 1, 2`, or `0-9` for more than four consecutive seeds."""
    whole = len(seeds) > 4 and seeds[-1] - seeds[0] == len(seeds) - 1
    return f"{seeds[0]}-{seeds[-1]}" if whole else ", ".join(map(str, seeds))
