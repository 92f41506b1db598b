"""The image grid: which pairs are shown, one column a variant, and their pictures, each of them once."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from PIL import Image, UnidentifiedImageError

from attnbench.cells.record import FINISHED
from attnbench.console import Say
from attnbench.errors import UserError
from attnbench.metrics.known import IMAGE_METRICS, LOWER_IS_BETTER, METRIC_NAMES
from attnbench.report.curves import rounded
from attnbench.store.pictures import PICTURES, PairPictures
from attnbench.tables.rows import Cells

EXTREMES = 3  # best pairs, worst pairs, and those in which modules differ most


CHOSEN_BY = ("lpips", "ssim", "ssim_global")  # the first of these that every column has ranks the pairs


BUDGET = 24_000_000  # bytes of pictures in a page; beyond, they are scaled down: see docs/the-report.md for what that costs


_SMALLEST, _QUALITY = 64, 80


_NAMES = ["sketch", "reference"]  # columns of pairs.csv that name a pair


class Album:
    """Pictures of one data set as files, equal ones once."""

    def __init__(self) -> None:
        self.files: list[bytes] = []
        self._places: dict[bytes, int] = {}

    def add(self, data: bytes) -> int:
        """The picture's place in `files`."""
        if data not in self._places:
            self._places[data] = len(self.files)
            self.files.append(data)
        return self._places[data]


@dataclass(frozen=True)
class Column:
    """A finished cell with pictures.

    Attributes:
        scores: of pairs.csv by (sketch, reference), with each pair's `place` in the pictures.
    """

    label: str
    seed: int
    folder: str
    pictures: PairPictures
    scores: pd.DataFrame


@dataclass(frozen=True)
class PairGrid:
    """What the page shows of a data set's pairs.

    Attributes:
        columns: {label, seed, folder} of each.
        metrics: {key, title, falls} of each score of a pair.
        chosen_by: title of the metric that ranks pairs; None where no metric is in all columns.
        sets: {kind, label, pairs}: indices of `pairs`; kind is `spread`, `differ`, `best` or `worst`, the latter of a label.
        pairs: {sketch, reference (names), pictures (of sketch, reference, original: places in the album), generated (a place
            a column, None where it cannot be read), scores (a list a column)}.
        left_out: variants that have no pictures.
    """

    columns: list[dict[str, Any]] = field(default_factory=list)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    chosen_by: str | None = None
    sets: list[dict[str, Any]] = field(default_factory=list)
    pairs: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    test_pairs: int = 0


def pair_grid(cells: Cells, dataset: str, labels: Sequence[str], count: int, album: Album, say: Say) -> PairGrid:
    """The grid of one data set under one recipe.

    Args:
        cells: of the recipe; its data sets of one name and different images are told apart, so columns share the images.
        labels: of the variants, in order.
        count: pairs that are shown whatever their scores.
        album: takes the pictures.
        say: hears of files that are damaged; the cell's column is left out, or its picture.
    """
    found = {label: _column(cells, dataset, label, say) for label in labels}
    columns = [column for column in found.values() if column is not None]
    left_out = [label for label, column in found.items() if column is None and len(cells.of(label, dataset, "folder"))]
    common = _common_pairs(columns)
    if not len(common):
        return PairGrid(left_out=left_out)
    index = pd.MultiIndex.from_tuples(common, names=_NAMES)
    aligned = [column.scores.loc[index] for column in columns]
    places = np.stack([frame["place"].to_numpy(int) for frame in aligned])  # (columns, pairs), as are the scores
    metrics = [name for name in IMAGE_METRICS if any(name in frame for frame in aligned)]
    lacking = np.full(len(common), np.nan)
    scores = {
        name: np.stack([frame[name].to_numpy(float) if name in frame else lacking for frame in aligned]) for name in metrics
    }
    chosen_by = next((name for name in CHOSEN_BY if all(name in frame for frame in aligned)), None)
    sets = _sets([column.label for column in columns], len(common), count, _rising(scores, chosen_by))
    shown = sorted({pair for _, _, pairs in sets for pair in pairs})
    order = {pair: k for k, pair in enumerate(shown)}
    return PairGrid(
        [{"label": column.label, "seed": column.seed, "folder": column.folder} for column in columns],
        [{"key": name, "title": METRIC_NAMES[name], "falls": name in LOWER_IS_BETTER} for name in metrics],
        METRIC_NAMES[chosen_by] if chosen_by else None,
        [{"kind": kind, "label": label, "pairs": [order[pair] for pair in pairs]} for kind, label, pairs in sets],
        [
            {
                "sketch": common[pair][0],
                "reference": common[pair][1],
                "pictures": _given(columns[0], int(places[0, pair]), album, say),
                "generated": [
                    _read(column.pictures.generated, int(place), album, column, say)
                    for column, place in zip(columns, places[:, pair], strict=True)
                ],
                "scores": [[rounded(scores[name][k, pair]) for name in metrics] for k in range(len(columns))],
            }
            for pair in shown
        ],
        left_out,
        len(common),
    )


def _column(cells: Cells, dataset: str, label: str, say: Say) -> Column | None:
    """The variant's finished cell of the lowest seed that has pictures which can be read."""
    of = {name: cells.of(label, dataset, name) for name in ("seed", "status", "folder")}
    for place in np.argsort(of["seed"], kind="stable"):
        if of["status"][place] != FINISHED or cells.store is None:
            continue
        path = cells.store / of["folder"][place]
        try:
            pictures = PairPictures(path)
            scores = _scores(path / "pairs.csv", say)
            if len(scores) != len(pictures):
                raise UserError(
                    f"'{path / PICTURES}' has {len(pictures)} pairs, pairs.csv {len(scores)}: its pictures are left out"
                )
            scores = scores.assign(place=range(len(scores))).set_index(_NAMES)
        except FileNotFoundError:  # of an earlier version; or copied without it
            continue
        except UserError as error:
            say(str(error))
            continue
        except (KeyError, OSError, ValueError) as error:
            say(f"{path / 'pairs.csv'} is left out: {error}")
            continue
        return Column(label, int(of["seed"][place]), of["folder"][place], pictures, scores[~scores.index.duplicated()])
    return None


def _scores(file: Path, say: Say) -> pd.DataFrame:
    """A pairs.csv with scores that are finite numbers, or NaN; `say` hears of what else there was."""
    scores = pd.read_csv(file, converters=dict.fromkeys(_NAMES, str))  # 000023 is no number
    for name in scores.columns.intersection(pd.Index(IMAGE_METRICS)):
        numbers, others = finite_numbers(scores[name])
        if len(others):
            say(
                f"{file} has {name} {str(others.iloc[0])!r} in line {others.index[0] + 2}: what is no finite number is left out"
            )
        scores[name] = numbers
    return scores


def finite_numbers(values: pd.Series) -> tuple[pd.Series, pd.Series]:
    """The values as floats, NaN for what is no finite number; and those that were something else, not just missing."""
    numbers = pd.to_numeric(values, errors="coerce").astype(float)
    numbers = numbers.where(np.isfinite(numbers))
    return numbers, values[numbers.isna() & values.notna()]


def _common_pairs(columns: Sequence[Column]) -> Sequence[tuple[str, str]]:
    """Those that every column has, in the order of the first."""
    if not columns:
        return []
    shared = set.intersection(*(set(column.scores.index) for column in columns))
    return [pair for pair in columns[0].scores.index if pair in shared]


def _rising(scores: Mapping[str, np.ndarray], metric: str | None) -> np.ndarray | None:
    """A metric's scores, (columns, pairs), so that more is better."""
    if metric is None:
        return None
    return -scores[metric] if metric in LOWER_IS_BETTER else scores[metric]


def _sets(labels: Sequence[str], total: int, count: int, scores: np.ndarray | None) -> list[tuple[str, str, list[int]]]:
    """(kind, label, pairs of 0 ... total - 1): a spread over all, then what the scores (columns, pairs) single out."""
    spread = np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int)).tolist()
    sets: list[tuple[str, str, list[int]]] = [("spread", "", spread)]
    if scores is None:
        return sets
    if len(labels) > 1:
        sets.append(("differ", "", _highest(scores.max(0) - scores.min(0))))
    sets += [("best", label, _highest(row)) for label, row in zip(labels, scores, strict=True)]
    return sets + [("worst", label, _highest(-row)) for label, row in zip(labels, scores, strict=True)]


def _highest(values: np.ndarray) -> list[int]:
    """Places of the EXTREMES highest of the finite values, the highest first."""
    order = np.argsort(-values, kind="stable")
    return [int(place) for place in order if np.isfinite(values[place])][:EXTREMES]


def _given(column: Column, place: int, album: Album, say: Say) -> list[int | None]:
    pictures = column.pictures
    return [_read(read, place, album, column, say) for read in (pictures.sketch, pictures.reference, pictures.original)]


def _read(read: Callable[[int], bytes], place: int, album: Album, column: Column, say: Say) -> int | None:
    try:
        return album.add(read(place))
    except (BadZipFile, EOFError, KeyError, OSError, ValueError) as error:
        say(f"{column.folder}/{PICTURES} is damaged ({error}): a picture of pair {place} is left out")
        return None


def fit(albums: Sequence[Album], budget: int = BUDGET) -> tuple[list[list[bytes]], int | None]:
    """The albums' files, scaled down together where they take more than `budget` bytes.

    Returns:
        The files, and the side in pixels that the largest were scaled to; None where they are as they were.
    """
    total = sum(len(data) for album in albums for data in album.files)
    if total <= budget:
        return [album.files for album in albums], None
    largest = max(_side(album.files[0]) for album in albums if album.files)  # those of an album are of one size
    side = max(_SMALLEST, int(largest * (budget / total) ** 0.5) // 16 * 16)
    with ThreadPoolExecutor() as threads:
        return [list(threads.map(lambda data: _scaled(data, side), album.files)) for album in albums], side


def _side(data: bytes) -> int:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return max(image.size)
    except (OSError, UnidentifiedImageError):
        return 0


@lru_cache(maxsize=16384)  # of `--serve`, which makes the page again and again
def _scaled(data: bytes, side: int) -> bytes:
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.thumbnail((side, side), Image.Resampling.LANCZOS)
            buffer = io.BytesIO()
            image.save(buffer, "WEBP", quality=_QUALITY, method=2)
    except (OSError, UnidentifiedImageError):  # the browser shows its alternative text
        return data
    return buffer.getvalue()
