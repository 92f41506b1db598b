"""Rows and entries of a table: the cells of each, the labels of rows, and their order.

A row is a module with all its options, defaults included: a default that changed between two versions of a module makes another
row, an option that was typed at its default does not. Pictures that were made elsewhere make rows of their own, after the
others. An entry is a row on one dataset, under one protocol: its cells differ in their seeds.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from attnbench.cells.record import FINISHED
from attnbench.config.grid_files import COMPARISON, GridFile, GridVariant, built_in_grids, paper_label, title_with_options
from attnbench.console import warn
from attnbench.errors import UserError
from attnbench.metrics.descriptor import Descriptor
from attnbench.store.frame import keys_in

NOT_TRAINED = "not trained here"
RowKey = tuple[str, str, int]  # module, all options as JSON, and which of several sets of pictures; -1 for a trained module
_EXPECTED = (
    "protocol",
    "test_fingerprint",
    "metrics",
    "elsewhere",
    "size",
)  # columns that a frame without measurements may lack
_TRAINED = -1


@dataclass(frozen=True)
class Row:
    """A variant in a table.

    Attributes:
        options: all of them; for a row without cells, those that its grid names.
        given: those that differ from the defaults.
        pictures: what is known of pictures that were not made by a network that was trained here; None for trained ones.
        digests: the beginnings of the digests of these pictures, of each dataset.
    """

    label: str
    module: str
    options: Mapping[str, Any]
    given: Mapping[str, Any]
    pictures: str | None = None
    digests: tuple[str, ...] = ()


@dataclass(frozen=True)
class Setting:
    """Where numbers can be compared: a dataset, under one protocol.

    Attributes:
        protocol: what differs from the usual one; empty for the usual one.
    """

    dataset: str
    protocol: str = ""

    @property
    def text(self) -> str:
        return ", ".join(filter(None, [self.dataset, self.protocol]))


class Cells:
    """A recipe's cells, grouped once by row, dataset and protocol, with the scores of their test pairs.

    Args:
        frame: a row per cell and measurement, of one recipe; `label` is the row's, and datasets and protocols with different
            images have different names.
        metrics: the metrics by key, described.
        store: the folder that the frame's `folder` is relative to; without it there are no scores of pairs.
    """

    def __init__(self, frame: pd.DataFrame, metrics: Mapping[str, Descriptor], store: Path | None = None):
        self.frame = frame
        self.metrics = metrics
        self.store = store
        self._measured = _places(frame, frame["protocol"].notna(), ["label", "dataset", "protocol"])
        self._cells = _places(frame, ~frame.duplicated(["dataset", "identity"]), ["label", "dataset"])
        self._columns: dict[str, np.ndarray] = {}  # arrays: slicing a frame for each entry takes seconds at 10,000 cells
        self._scores: dict[Path, pd.DataFrame | None] = {}

    @cached_property
    def finished(self) -> pd.DataFrame:
        return self.frame[self.frame["status"] == FINISHED]

    def finished_in(self, setting: Setting) -> pd.DataFrame | None:
        """The finished cells that were measured in a setting; None if there are none."""
        return self._by_setting.get((setting.dataset, setting.protocol))

    @cached_property
    def _by_setting(self) -> dict[Any, pd.DataFrame]:
        return dict(iter(self.finished.groupby(["dataset", "protocol"], sort=False)))

    @cached_property
    def trained(self) -> pd.DataFrame:
        """The finished cells that were trained here, each once."""
        return self.finished[self.finished["elsewhere"].isna()].drop_duplicates(["dataset", "identity"])

    @cached_property
    def settings(self) -> list[Setting]:
        """Datasets by name, each with its protocols, the usual one first; one without a measurement has the usual one."""
        protocols: dict[str, list[str]] = {dataset: [] for dataset in sorted(self.frame["dataset"].unique())}
        for dataset, protocol in self.frame[["dataset", "protocol"]].dropna().drop_duplicates().to_numpy():
            protocols[dataset].append(protocol)
        return [Setting(dataset, name) for dataset, names in protocols.items() for name in sorted(names or [""], key=bool)]

    @cached_property
    def asked(self) -> Mapping[Setting, list[str]]:
        """The keys of the metrics that were measured in each setting, or were to be, in the order of the records."""
        found: dict[Setting, dict[str, None]] = {setting: {} for setting in self.settings}
        for dataset, protocol, keys in self.frame[["dataset", "protocol", "metrics"]].dropna().drop_duplicates().to_numpy():
            found[Setting(dataset, protocol)] |= dict.fromkeys(keys_in(keys))
        return {setting: list(keys) for setting, keys in found.items()}

    def cannot(self, setting: Setting, key: str) -> list[str]:
        """Why the metric has no number of any cell of a setting, if it can have none there: not where it failed, or where
        weights are missing. Empty where it has or could have one.
        """
        finished = self.finished_in(setting)
        if finished is None or f"{key}.reason" not in finished:
            return []
        mendable = [key, *(name for name in (f"{key}.missing", f"{key}.failed") if name in finished)]
        if finished[mendable].notna().any(axis=None):
            return []
        return list(finished[f"{key}.reason"].dropna().unique())

    def of(self, label: str, setting: Setting, name: str) -> np.ndarray:
        """A column of the frame for an entry's measurements; all None if the frame lacks the column."""
        return self._column(name)[self._measured.get((label, setting.dataset, setting.protocol), [])]

    def every(self, label: str, dataset: str, name: str) -> np.ndarray:
        """A column of the frame for all cells of a row on a dataset, each once, whatever their status, measured or not."""
        return self._column(name)[self._cells.get((label, dataset), [])]

    def _column(self, name: str) -> np.ndarray:
        if name not in self._columns:
            lacking = np.full(len(self.frame), None, dtype=object)
            self._columns[name] = self.frame[name].to_numpy() if name in self.frame else lacking
        return self._columns[name]

    def values(self, label: str, setting: Setting, metric: str, weights: str) -> pd.Series:
        """An entry's numbers by seed, from its finished cells that were measured with the metric and these weights."""
        values = self.of(label, setting, metric).astype(float)
        wanted = (self.of(label, setting, "status") == FINISHED) & ~np.isnan(values)
        if f"{metric}.weights" in self.frame:
            wanted &= same_weights(self.of(label, setting, f"{metric}.weights"), weights)
        return pd.Series(values[wanted], index=self.of(label, setting, "seed")[wanted])

    def unmeasured(self, label: str, setting: Setting, metric: str) -> bool:
        """Whether a finished cell of the entry, trained here, was not measured with the metric at all; "" for any metric."""
        asked = [metric in keys_in(keys) if metric else keys_in(keys) != () for keys in self.of(label, setting, "metrics")]
        measured = set(self.of(label, setting, "identity")[np.array(asked, dtype=bool)])
        cells = zip(*(self.every(label, setting.dataset, name) for name in ("identity", "status", "elsewhere")), strict=True)
        return any(status == FINISHED and identity not in measured and pd.isna(given) for identity, status, given in cells)

    def scores(self, label: str, setting: Setting, metric: str, seeds: Iterable[int]) -> pd.Series | None:
        """Scores by sketch, averaged over its pairs and over the seeds; None if one of these cells has no scores."""
        wanted = (self.of(label, setting, "status") == FINISHED) & np.isin(self.of(label, setting, "seed"), list(seeds))
        names = ("folder", "measured", "metrics", metric)
        places = zip(*(self.of(label, setting, name)[wanted] for name in names), strict=True)
        found = [self._scored(metric, *place) for place in places]
        scored = [scores for scores in found if scores is not None]
        if not scored or len(scored) < len(found):
            return None
        by_pair = pd.concat(scored, axis=1).mean(axis=1, skipna=False).dropna()
        return by_pair.groupby(level="sketch", sort=False).mean()  # what is of one sketch is not independent

    def _scored(self, metric: str, folder: str, measured: str, metrics: str, value: Any) -> pd.Series | None:
        """A measurement's scores by a metric; None if it has none, with a warning if they are not those of its number."""
        pairs = self._pairs(folder, measured, metrics)
        if pairs is None or metric not in pairs:
            return None
        if pd.notna(value) and not np.isclose(pairs[metric].mean(), float(value), rtol=1e-6, atol=1e-9):
            file = Path(folder, measured, "pairs.csv")
            warn(f"{file} does not agree with cell.json on {metric}: left out; `attnbench measure --again` writes it anew")
            return None
        return pairs[metric]

    def _pairs(self, folder: str, measured: str, metrics: str) -> pd.DataFrame | None:
        """A measurement's pairs.csv by (sketch, reference); None if it is missing or damaged (a score is text, or infinite)."""
        if self.store is None:
            return None
        file = self.store / folder / measured / "pairs.csv"
        if file not in self._scores:
            try:
                pairs = pd.read_csv(file, index_col=["sketch", "reference"]).astype(float)
            except (OSError, ValueError):  # committed or copied results may lack it
                pairs = None
            if pairs is not None and np.isinf(pairs).any(axis=None):
                pairs = None
            self._scores[file] = None if pairs is None else pairs.rename(columns=keys_of_scores(measured, metrics))
        return self._scores[file]

    def image_differences(self, a: str, b: str, setting: Setting, metric: str, seeds: Iterable[int]) -> np.ndarray | None:
        """A's score minus B's on every sketch that both coloured, averaged over the seeds: (n,); None without scores."""
        seeds = list(seeds)
        ours, theirs = self.scores(a, setting, metric, seeds), self.scores(b, setting, metric, seeds)
        if ours is None or theirs is None:
            return None
        both = pd.concat([ours, theirs], axis=1, join="inner").to_numpy()
        return both[:, 0] - both[:, 1] if len(both) else None


def _places(frame: pd.DataFrame, wanted: pd.Series, names: list[str]) -> dict[Any, np.ndarray]:
    """Positions in the frame of the wanted rows, by their values in the columns `names`."""
    kept = np.flatnonzero(wanted)
    groups = frame[names].iloc[kept].groupby(names, sort=False).indices
    return {key: kept[places] for key, places in groups.items()}


def same_weights(found: Any, wanted: str) -> np.ndarray:
    """Where weights, as the frame has them, are these; of metrics without weights, both are absent."""
    return np.asarray(pd.isna(found) if wanted == "" else found == wanted, dtype=bool)


def keys_of_scores(measured: str, metrics: str) -> dict[str, str]:
    """Names of columns of a pairs.csv -> the metrics' keys. Files of format 1 have names without options.

    >>> keys_of_scores(".", '["mine:size=3", "other"]'), keys_of_scores("measured/cross-1a2b3c", '["mine:size=3"]')
    ({'mine': 'mine:size=3', 'other': 'other'}, {})
    """
    return {key.partition(":")[0]: key for key in keys_in(metrics)} if measured == "." else {}


def by_recipe(frame: pd.DataFrame, metrics: Mapping[str, Descriptor], store: Path | None = None) -> Iterator[Cells]:
    """The cells of each recipe and training weights, whose numbers can be compared.

    Pictures that were not made by networks trained here join every recipe that has cells measured at their size on their test
    images; those that join none are a group of their own for each size.

    Args:
        frame: as from `rows_of`.
        metrics: as from `metrics_in`.
    """
    frame = frame.assign(**{name: None for name in _EXPECTED if name not in frame}).reset_index(drop=True)
    frame.attrs = {}  # of which pandas makes a copy in every step
    foreign = frame["elsewhere"].notna().to_numpy()
    guests = np.flatnonzero(foreign)
    joined: set[int] = set()
    for own in _grouped(frame, np.flatnonzero(~foreign), ["recipe_digest", "train_weights"]):
        group = _datasets_apart(frame.iloc[own])
        theirs = [(place, dataset) for place, dataset in _joining(frame.iloc[guests], group)]
        joined |= {place for place, _ in theirs}
        whole = frame.iloc[[*own, *(place for place, _ in theirs)]]
        named = whole.assign(dataset=[*group["dataset"], *(dataset for _, dataset in theirs)])
        yield Cells(_protocols_apart(named), metrics, store)
    for rest in _grouped(frame, np.array([place for place in guests if place not in joined], dtype=int), ["size"]):
        yield Cells(_protocols_apart(frame.iloc[rest]), metrics, store)


def _grouped(frame: pd.DataFrame, places: np.ndarray, names: list[str]) -> list[np.ndarray]:
    """Groups of these positions, by their values in the columns, in order of appearance."""
    groups = frame[names].iloc[places].groupby(names, sort=False, dropna=False).ngroup().to_numpy()
    return [places[groups == number] for number in range(groups.max() + 1)] if len(places) else []


def _datasets_apart(group: pd.DataFrame) -> pd.DataFrame:
    """Datasets of one name with different training images get different names."""
    several = group["dataset"].map(group.groupby("dataset")["fingerprint"].nunique()) > 1
    return group.assign(dataset=group["dataset"].where(~several, group["dataset"] + " [" + group["fingerprint"].str[:6] + "]"))


def _joining(guests: pd.DataFrame, group: pd.DataFrame) -> Iterator[tuple[int, str]]:
    """The rows of pictures that were measured as cells of the group were: (index, the cells' dataset)."""
    datasets: dict[tuple[Any, Any], list[str]] = {}
    if len(guests):
        for size, test, dataset in group[["size", "test_fingerprint", "dataset"]].dropna().drop_duplicates().to_numpy():
            datasets.setdefault((size, test), []).append(dataset)
    for place, size, test in zip(guests.index, guests["size"], guests["test_fingerprint"], strict=True):
        yield from ((place, dataset) for dataset in datasets.get((size, test), ()))


def _protocols_apart(frame: pd.DataFrame) -> pd.DataFrame:
    """Protocols of one name on different test images of a dataset get different names."""
    if frame["protocol"].isna().all():
        return frame
    apart = frame.groupby(["dataset", "protocol"])["test_fingerprint"].transform("nunique") > 1
    if not apart.any():
        return frame
    named = (frame["protocol"] + ", test images " + frame["test_fingerprint"].str[:6]).str.removeprefix(", ")
    return frame.assign(protocol=frame["protocol"].where(~apart, named))


def without_copies(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with one copy of each cell and measurement: of finished cells if there are any, in the store's order."""
    if "identity" not in frame or frame[["identity", "folder"]].drop_duplicates()["identity"].is_unique:
        return frame
    measurement = frame["measurement"] if "measurement" in frame else pd.Series(None, frame.index, dtype=object)
    kept = frame["status"].eq(FINISHED)
    kept |= ~kept.groupby(frame["identity"]).transform("any")
    measured = kept & measurement.notna()
    kept &= measured | ~measured.groupby(frame["identity"]).transform("any")
    copies = pd.DataFrame({"identity": frame["identity"], "measurement": measurement})[kept].duplicated()
    return frame[kept & ~copies.reindex(frame.index, fill_value=False)]


def rows_of(frame: pd.DataFrame, grid: GridFile | None = None) -> tuple[pd.DataFrame, list[Row]]:
    """The cells that belong to a row, with the row's `label`, and the rows in order.

    Args:
        frame: as from `attnbench.results`.
        grid: its variants make the rows, in its order, with or without cells. Without a grid, every variant that has
            cells, the paper's first and in the order of its tables, and last what was not trained here.

    Raises:
        UserError: no cell belongs to the grid.
    """
    found = variants_in(frame)
    if grid is None:
        return labelled(frame, sorted(found.items(), key=lambda item: _place(item[1])))
    keyed = [pair for entry in grid.variants for pair in _of_entry(entry, found)]
    if not any(key is not None for key, _ in keyed):
        raise UserError(f"there is no cell of the grid '{grid.title}': `attnbench run --grid` runs its cells")
    return labelled(frame, keyed)


def labelled(frame: pd.DataFrame, keyed: Sequence[tuple[RowKey | None, Row]]) -> tuple[pd.DataFrame, list[Row]]:
    """The cells that belong to one of the rows, with the row's `label`, and the rows, no two of them with one label."""
    rows = _with_distinct_labels([row for _, row in keyed])
    places = {key: place for place, (key, _) in enumerate(keyed) if key is not None}
    place = np.array([places.get(key, -1) for key in _keys(frame)], dtype=int)
    mine = np.flatnonzero(place >= 0)
    return frame.iloc[mine].assign(label=[rows[i].label for i in place[mine]]), rows


def _keys(frame: pd.DataFrame) -> Iterable[RowKey]:
    return zip(frame["module"], frame["all_options"], _turns(frame), strict=True)


def _turns(frame: pd.DataFrame) -> list[int]:
    """-1 for trained cells; of pictures with one name for one dataset, which of them they are: 0, 1, ...

    Those that were made under different protocols go together: another reference gives another picture.
    """
    names = ["module", "all_options", "dataset", "identity", "protocol"]
    foreign = np.flatnonzero(frame["elsewhere"].notna()) if "elsewhere" in frame else np.array([], dtype=int)
    pictures = [(tuple(row[:-1]), row[-1]) for row in frame.reindex(columns=names).iloc[foreign].to_numpy()]
    protocols: dict[tuple[Hashable, ...], set[Hashable]] = {}  # of each set of pictures
    for one, protocol in pictures:
        protocols.setdefault(one, set()).add(protocol if isinstance(protocol, str) else None)
    taken: dict[tuple[Hashable, ...], list[set[Hashable]]] = {}  # by the turns of each name
    turn_of: dict[tuple[Hashable, ...], int] = {}
    for one, own in protocols.items():
        others = taken.setdefault(one[:-1], [])
        turn_of[one] = next((turn for turn, theirs in enumerate(others) if theirs.isdisjoint(own)), len(others))
        if turn_of[one] == len(others):
            others.append(set())
        others[turn_of[one]] |= own
    turns = [_TRAINED] * len(frame)
    for place, (one, _) in zip(foreign, pictures, strict=True):
        turns[place] = turn_of[one]
    return turns


def variants_in(frame: pd.DataFrame) -> dict[RowKey, Row]:
    """The variants that have cells, each with the label of its cell that was given the fewest options."""
    found: dict[RowKey, Row] = {}
    said: dict[RowKey, dict[str, list[str]]] = {}  # of pictures made elsewhere -> the digests of those of which it is said
    foreign = {name: frame.get(name) for name in ("elsewhere", "pictures")}
    parts = frame[["module", "all_options", "options", "label"]].assign(**foreign, turn=_turns(frame))
    for module, everything, options, label, elsewhere, digest, turn in parts.drop_duplicates().to_numpy():
        key, given = (module, everything, turn), json.loads(options)
        if turn != _TRAINED:
            said.setdefault(key, {}).setdefault(elsewhere, []).append(digest)
            text = "; ".join(_with_digests(*one) for one in said[key].items())
            digests = tuple(digest for theirs in said[key].values() for digest in theirs)
            found[key] = Row(f"{label} ({NOT_TRAINED})", module, json.loads(everything), given, text, digests)
        elif key not in found or len(given) < len(found[key].given):
            found[key] = Row(paper_label(module, given) or label, module, json.loads(everything), given)
    return found


def _with_digests(said: str, digests: Sequence[str]) -> str:
    """What is said of pictures that were made elsewhere, with the beginnings of their digests.

    >>> _with_digests("made at 512 px", ["1a2b3c4d", "5e6f7a8b"])
    'made at 512 px; pictures 1a2b3c4d, 5e6f7a8b'
    """
    return "; ".join(filter(None, [said, f"pictures {', '.join(digests)}"]))


def _of_entry(entry: GridVariant, found: Mapping[RowKey, Row]) -> list[tuple[RowKey | None, Row]]:
    """The rows of a grid's variant: one, or one for each version of the module's defaults that has cells."""
    pairs: list[tuple[RowKey | None, Row]] = [
        (key, replace(row, label=entry.label or row.label)) for key, row in found.items() if belongs_to(row, entry)
    ]
    label = entry.label or paper_label(entry.module, entry.options) or title_with_options(entry.module, entry.options)
    return pairs or [(None, Row(label, entry.module, entry.options, entry.options))]


def belongs_to(row: Row, entry: GridVariant) -> bool:
    named = all(name in row.options and row.options[name] == value for name, value in entry.options.items())
    return row.pictures is None and row.module == entry.module and named and set(row.given) <= set(entry.options)


def _place(row: Row) -> tuple[bool, int, int, str]:
    """Sort key: modules in the order of the paper's comparison, variants in that of its tables, then others by label."""
    grids = built_in_grids()
    entries = [*grids[COMPARISON].variants, *(entry for grid in grids.values() for entry in grid.variants)]
    last = len(entries)
    module = next((place for place, entry in enumerate(entries) if entry.module == row.module), last)
    same = (place for place, entry in enumerate(entries) if (entry.module, entry.options) == (row.module, row.given))
    return row.pictures is not None, module, next(same, last), row.label


def _with_distinct_labels(rows: Sequence[Row]) -> list[Row]:
    """Append what distinguishes rows that share a label: the module's name, options, or the pictures' digests."""
    return [replace(row, label=_with_difference(row, [other for other in rows if other.label == row.label])) for row in rows]


def _with_difference(row: Row, namesakes: Sequence[Row]) -> str:
    if len(namesakes) == 1:
        return row.label
    module = [row.module] if _differ(other.module for other in namesakes) else []
    named = dict.fromkeys(name for other in namesakes for name in other.options)
    options = [_option_text(row, name) for name in named if _differ(_option_text(other, name) for other in namesakes)]
    digests = row.digests if _differ(other.digests for other in namesakes) else ()
    return f"{row.label} [{' '.join([*module, *options, *digests])}]"


def _option_text(row: Row, name: str) -> str:
    return f"{name}={json.dumps(row.options[name])}" if name in row.options else f"no {name}"


def _differ(values: Iterable[Hashable]) -> bool:
    return len(set(values)) > 1
