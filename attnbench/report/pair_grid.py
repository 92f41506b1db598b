"""The image grid: the pairs that are shown, a column per variant, and their pictures, each of them once."""

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
from attnbench.console import warn
from attnbench.errors import UserError
from attnbench.metrics.descriptor import Descriptor
from attnbench.report.curves import rounded
from attnbench.store.pictures import PICTURES, PairPictures
from attnbench.tables.columns import titles
from attnbench.tables.rows import Cells, Setting, keys_of_scores
from attnbench.tables.selection import select

EXTREMES = 3  # number of best pairs, of worst pairs, and of pairs in which modules differ most
BUDGET = 24_000_000  # bytes of pictures in a page; beyond it, they are scaled down: docs/the-report.md has the costs
_SMALLEST, _QUALITY = 64, 80
_NAMES = ["sketch", "reference"]  # columns of pairs.csv that name a pair


class Album:
    """Pictures of one dataset as files, without duplicates."""

    def __init__(self) -> None:
        self.files: list[bytes] = []
        self._places: dict[bytes, int] = {}

    def add(self, data: bytes) -> int:
        """Add a picture unless it is there; returns its place in `files`."""
        if data not in self._places:
            self._places[data] = len(self.files)
            self.files.append(data)
        return self._places[data]


@dataclass(frozen=True)
class PairColumn:
    """A finished cell with pictures.

    Attributes:
        seed: None where nothing was trained here.
        scores: pairs.csv by (sketch, reference), the scores by their metrics' keys, with each pair's `place` in `pictures`.
    """

    label: str
    seed: int | None
    folder: str
    pictures: PairPictures
    scores: pd.DataFrame


@dataclass(frozen=True)
class PairGrid:
    """What the page shows of a dataset's pairs.

    Attributes:
        columns: {label, seed, folder} of each.
        metrics: {key, title, falls, decimals} of each score of a pair.
        chosen_by: title of the metric that ranks pairs: the first of those that every column has, in the order of the records.
        sets: {kind, label, pairs}: indices of `pairs`; kind is `spread`, `differ`, `best` or `worst`, the last two of a label.
        pairs: {sketch, reference (names), pictures (of sketch, reference, original: places in the album), generated (a place
            per column, None where it cannot be read), scores (a list per column)}.
        left_out: variants that have no pictures.
        test_pairs: number of pairs that all columns have.
    """

    columns: list[dict[str, Any]] = field(default_factory=list)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    chosen_by: str | None = None
    sets: list[dict[str, Any]] = field(default_factory=list)
    pairs: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    test_pairs: int = 0


def pair_grid(cells: Cells, setting: Setting, labels: Sequence[str], count: int, album: Album) -> PairGrid:
    """The grid of one dataset under one recipe and protocol.

    If a file is damaged, the cell's column or the picture is left out with a warning.

    Args:
        cells: cells of the recipe; they distinguish datasets of one name with different images, so columns share the images.
        labels: labels of the variants, in order.
        count: number of pairs that are shown whatever their scores.
        album: takes the pictures.
    """
    found = {label: _column(cells, setting, label) for label in labels}
    columns = [column for column in found.values() if column is not None]
    left_out = [
        label for label, column in found.items() if column is None and len(cells.every(label, setting.dataset, "folder"))
    ]
    common = _common_pairs(columns)
    if not len(common):
        return PairGrid(left_out=left_out)
    index = pd.MultiIndex.from_tuples(common, names=_NAMES)
    aligned = [column.scores.loc[index] for column in columns]
    places = np.stack([frame["place"].to_numpy(int) for frame in aligned])  # (columns, pairs), as are the scores
    per_image = [key for key in select(cells, [setting], cells.asked[setting]).shown[setting] if cells.metrics[key].per_image]
    metrics = [key for key in per_image if any(key in frame for frame in aligned)]
    lacking = np.full(len(common), np.nan)
    scores = {
        name: np.stack([frame[name].to_numpy(float) if name in frame else lacking for frame in aligned]) for name in metrics
    }
    in_all = [key for key in metrics if all(key in frame for frame in aligned)]
    chosen_by = next(iter(in_all), None)
    rising = _rising(scores[chosen_by], cells.metrics[chosen_by]) if chosen_by else None
    sets = _sets([column.label for column in columns], len(common), count, rising)
    names = titles(cells.metrics, [(key, "") for key in metrics])
    shown = sorted({pair for _, _, pairs in sets for pair in pairs})
    order = {pair: k for k, pair in enumerate(shown)}
    return PairGrid(
        [{"label": column.label, "seed": column.seed, "folder": column.folder} for column in columns],
        [
            {
                "key": key,
                "title": names[key, ""],
                "falls": cells.metrics[key].lower_is_better,
                "decimals": cells.metrics[key].decimals,
            }
            for key in metrics
        ],
        names[chosen_by, ""] if chosen_by else None,
        [{"kind": kind, "label": label, "pairs": [order[pair] for pair in pairs]} for kind, label, pairs in sets],
        [
            {
                "sketch": common[pair][0],
                "reference": common[pair][1],
                "pictures": _given(columns, places[:, pair].tolist(), album),
                "generated": [
                    _read(column.pictures.generated, int(place), album, column)
                    for column, place in zip(columns, places[:, pair], strict=True)
                ],
                "scores": [[rounded(scores[name][k, pair]) for name in metrics] for k in range(len(columns))],
            }
            for pair in shown
        ],
        left_out,
        len(common),
    )


def _column(cells: Cells, setting: Setting, label: str) -> PairColumn | None:
    """The variant's finished cell of the lowest seed whose pictures can be read."""
    values = {name: cells.of(label, setting, name) for name in ("seed", "status", "folder", "measured", "metrics", "elsewhere")}
    for place in np.argsort(values["seed"], kind="stable"):
        if values["status"][place] != FINISHED or cells.store is None:
            continue
        path = cells.store / values["folder"][place] / values["measured"][place]
        try:
            pictures = PairPictures(path)
            scores = _scores(
                path / "pairs.csv", keys_of_scores(values["measured"][place], values["metrics"][place]), cells.metrics
            )
            if len(scores) != len(pictures):
                raise UserError(
                    f"'{path / PICTURES}' has {len(pictures)} pairs, pairs.csv {len(scores)}: its pictures are left out"
                )
            scores = scores.assign(place=range(len(scores))).set_index(_NAMES)
        except FileNotFoundError:  # not kept, made by an earlier version, or copied without the file
            continue
        except UserError as error:
            warn(str(error))
            continue
        except (KeyError, OSError, ValueError) as error:
            warn(f"{path / 'pairs.csv'} is left out: {error}")
            continue
        once = scores[~scores.index.duplicated()]
        seed = int(values["seed"][place]) if pd.isna(values["elsewhere"][place]) else None
        return PairColumn(label, seed, values["folder"][place], pictures, once)
    return None


def _scores(file: Path, keys: Mapping[str, str], metrics: Mapping[str, Descriptor]) -> pd.DataFrame:
    """A pairs.csv whose scores are finite numbers or NaN; warns of any other value.

    Args:
        keys: columns of the file that are called otherwise than their metrics' keys -> the keys.
    """
    scores = pd.read_csv(file, converters=dict.fromkeys(_NAMES, str))  # 000023 is a name, not a number
    scores = scores.rename(columns=dict(keys))
    for name in scores.columns.intersection(pd.Index(list(metrics))):
        numbers, others = finite_numbers(scores[name])
        if len(others):
            warn(f"{file} has {name} {str(others.iloc[0])!r} in line {others.index[0] + 2}: not a finite number, left out")
        scores[name] = numbers
    return scores


def finite_numbers(values: pd.Series) -> tuple[pd.Series, pd.Series]:
    """The values as floats, NaN for all but finite numbers; and those values that were neither finite numbers nor missing."""
    numbers = pd.to_numeric(values, errors="coerce").astype(float)
    numbers = numbers.where(np.isfinite(numbers))
    return numbers, values[numbers.isna() & values.notna()]


def _common_pairs(columns: Sequence[PairColumn]) -> Sequence[tuple[str, str]]:
    """Pairs that every column has, in the order of the first column."""
    if not columns:
        return []
    shared = set.intersection(*(set(column.scores.index) for column in columns))
    return [pair for pair in columns[0].scores.index if pair in shared]


def _rising(scores: np.ndarray, metric: Descriptor) -> np.ndarray:
    """A metric's scores, (columns, pairs), with the sign that makes higher better."""
    return -scores if metric.lower_is_better else scores


def _sets(labels: Sequence[str], total: int, count: int, scores: np.ndarray | None) -> list[tuple[str, str, list[int]]]:
    """(kind, label, pairs of 0 ... total - 1): a spread over all, then the extremes of the scores (columns, pairs)."""
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


def _given(columns: Sequence[PairColumn], places: Sequence[int], album: Album) -> list[int | None]:
    """Sketch, reference and original of a pair, each from the first column that kept it."""

    def first(name: str) -> int | None:
        for column, place in zip(columns, places, strict=True):
            if (found := _read(getattr(column.pictures, name), place, album, column)) is not None:
                return found
        return None

    return [first(name) for name in ("sketch", "reference", "original")]


def _read(read: Callable[[int], bytes], place: int, album: Album, column: PairColumn) -> int | None:
    """A picture's place in the album; None where it was not kept, or, with a warning, is damaged."""
    try:
        data = read(place)
        return album.add(_lossy(data) if column.pictures.lossless else data)
    except KeyError:
        return None
    except (BadZipFile, EOFError, OSError, ValueError) as error:
        warn(f"{column.folder}/{PICTURES} is damaged ({error}): a picture of pair {place} is left out")
        return None


def fit(albums: Sequence[Album], budget: int = BUDGET) -> tuple[list[list[bytes]], int | None]:
    """The albums' files, scaled down together where they take more than `budget` bytes.

    Returns:
        The files, and the side in pixels that the largest were scaled to; None if they are unchanged.
    """
    total = sum(len(data) for album in albums for data in album.files)
    if total <= budget:
        return [album.files for album in albums], None
    largest = max(_side(album.files[0]) for album in albums if album.files)  # an album's pictures have one size
    side = max(_SMALLEST, int(largest * (budget / total) ** 0.5) // 16 * 16)
    with ThreadPoolExecutor() as threads:
        return [list(threads.map(lambda data: _scaled(data, side), album.files)) for album in albums], side


def _side(data: bytes) -> int:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return max(image.size)
    except (OSError, UnidentifiedImageError):
        return 0


@lru_cache(maxsize=16384)  # for `--serve`, which makes the page again and again
def _scaled(data: bytes, side: int) -> bytes:
    try:
        return _encoded(data, side)
    except (OSError, UnidentifiedImageError):  # the browser shows its alternative text
        return data


@lru_cache(maxsize=16384)
def _lossy(data: bytes) -> bytes:
    """A picture that was kept without loss, at a tenth of the size; UnidentifiedImageError, an OSError, if it is damaged."""
    return _encoded(data)


def _encoded(data: bytes, side: int | None = None) -> bytes:
    with Image.open(io.BytesIO(data)) as image:
        if side is not None:
            image.thumbnail((side, side), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", quality=_QUALITY, method=2)
    return buffer.getvalue()
