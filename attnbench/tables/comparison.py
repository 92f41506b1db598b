"""Comparison of two modules: the difference on each dataset, its uncertainty, and the mean relative improvement.

Only cells that differ in the module alone are compared: one recipe, the same training weights, the same images, the metric
measured by the same protocol, at the seeds that both have. Pictures that were not made by a network trained here are compared
with the cells that were measured at their size on their test images. `statistics` explains the two units.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from attnbench.cells.record import FINISHED
from attnbench.config.grid_files import GridVariant
from attnbench.errors import UserError, unknown
from attnbench.metrics.descriptor import Descriptor
from attnbench.metrics.lacks import is_of_protocol
from attnbench.plugins import split_options
from attnbench.store.frame import metrics_in, results
from attnbench.tables.columns import Column, columns_of, values_of
from attnbench.tables.formats import Entry, Heading, Line, Sheet
from attnbench.tables.notes import Footnotes, foreign_notes, listed_seeds, metric_notes, recipe_caption, withheld_notes
from attnbench.tables.published import PaperValues, published, published_value, published_values
from attnbench.tables.rows import (
    NOT_TRAINED,
    Cells,
    Row,
    RowKey,
    Setting,
    belongs_to,
    by_recipe,
    labelled,
    variants_in,
    without_copies,
)
from attnbench.tables.selection import all_metrics, chosen_metrics, select
from attnbench.tables.statistics import (
    LEVEL,
    SIGNIFICANT,
    Difference,
    by_length,
    mean_relative_improvement,
    over_images,
    over_seeds,
    relative_improvement,
)

SEEDS, IMAGES = "seeds", "images"  # units of a comparison
_UNSCORED = "there are no scores of test pairs (pairs.csv)"
COMPARISON_FORMATS = ("text", "md", "latex", "csv")


@dataclass(frozen=True)
class Compared:
    """A metric on a dataset under one protocol, A against B.

    Attributes:
        seeds: common to A and B.
        a, b: means over these seeds.
        unit: of `difference`, `seeds` or `images`.
        reason: why there is no interval, or None if there is one.
        paper: the published numbers of A and B, or None unless there are both.
    """

    column: Column
    seeds: Sequence[int]
    a: float
    b: float
    unit: str
    difference: Difference
    reason: str | None = None
    paper: tuple[float, float] | None = None

    @property
    def better(self) -> str | None:
        """`a` or `b`, by the mean; None where they are equal."""
        if self.a == self.b:
            return None
        return "a" if (self.a < self.b) == self.column.metric.lower_is_better else "b"


@dataclass(frozen=True)
class Comparison:
    """A against B over the cells of one recipe."""

    a: Row
    b: Row
    cells: Cells
    found: Sequence[Compared]
    notes: Sequence[str]  # on datasets and protocols that only one of them has, and missing scores
    withheld: Sequence[str]  # notes on metrics that are not shown without their companions


def compare(store: str | Path = "results", a: str = "sga", b: str = "scft", *, metrics: Sequence[str] = ()) -> pd.DataFrame:
    """Compare two modules: a row for each recipe, dataset, protocol, metric and unit (`seeds`, `images`).

    Columns: recipe, recipe_digest, dataset, protocol (empty for the usual one), metric (its key), title, unit, n (of units),
    seeds, a and b (means over the seeds that both have), difference (a - b), low, high (95 % interval), p, better (A's or B's
    label), improvement (relative; positive where A is better), reason (why there is no interval), published_a, published_b.

    Args:
        store: the results folder.
        a, b: variants, such as `sga` or `sga:stop_gradient=false`; or what pictures are called that were made elsewhere.
        metrics: to compare, in this order: keys, or names that stand for a metric with any options; by default all.

    Raises:
        UserError: a module has no finished cells, A equals B, or they have no dataset and seed in common; or none of the
            metrics is shown, for want of their companions.
    """
    return as_frame(comparisons(results(store), a, b, metrics=metrics, store=Path(store)))


def comparisons(
    frame: pd.DataFrame, a: str, b: str, *, metrics: Sequence[str] = (), store: Path | None = None
) -> list[Comparison]:
    """One comparison for each recipe under which both have cells with a dataset and a seed in common.

    Args:
        frame: as from `attnbench.results`.
        a, b, metrics: as for `compare`.
        store: the results folder, for the scores of test pairs; None: no comparison over images.

    Raises:
        UserError: as for `compare`.
    """
    known = metrics_in(frame)
    chosen = chosen_metrics(known, metrics)
    frame = without_copies(frame)
    finished = frame[frame["status"] == FINISHED]
    if finished.empty:
        raise UserError("no cell is finished: `attnbench run` continues the cells")
    variants = variants_in(finished)
    keys = [_key(variants, text, store) for text in (a, b)]
    if keys[0] == keys[1]:
        raise UserError(f"'{a}' and '{b}' are the same variant: a comparison needs two")
    mine, (row_a, row_b) = labelled(finished, [(key, variants[key]) for key in keys])
    every = [_comparison(cells, row_a, row_b, chosen) for cells in by_recipe(mine, known, store)]
    found = [one for one in every if one.found]
    if not found:
        why = [note.rstrip(".") for one in every for note in one.withheld]
        why += [text for key in chosen for row in (row_a, row_b) if (text := _no_number(mine, row, known[key], key))]
        raise UserError(why[0] if why else _nothing_in_common(mine, row_a, row_b))
    return found


def _no_number(finished: pd.DataFrame, row: Row, metric: Descriptor, key: str) -> str | None:
    """Why a variant has no number of a metric; None if it has one, or was not measured with it."""
    mine = finished[finished["label"] == row.label]
    if f"{key}.reason" not in mine or mine[key].notna().any():
        return None
    reasons = sorted(mine[f"{key}.reason"].dropna().unique(), key=is_of_protocol)  # the module's own first
    return f"{metric.title} has no number of {row.label}: {reasons[0]}" if reasons else None


def _key(variants: Mapping[RowKey, Row], text: str, store: Path | None) -> RowKey:
    """The variant that `text` names, among those that have finished cells."""
    where = f" in '{store}'" if store is not None else ""
    trained = {row.module for row in variants.values() if row.pictures is None}
    foreign = [key for key, row in variants.items() if row.pictures is not None and text in (row.module, _bare(row))]
    if foreign and text not in trained:
        return _only(foreign, variants, text, where, "keep one of them in this store")
    module, options = split_options(text, "module")
    if module not in trained:
        others = {_bare(row) for row in variants.values() if row.pictures is not None}
        hint = str(unknown("module", module, trained | others)).removeprefix(f"unknown module '{module}'")
        raise UserError(f"no finished cell of '{module}'{where}{hint}; `attnbench run --modules {text}` runs its cells")
    entry = GridVariant(module=module, options=options)
    keys = [key for key, row in variants.items() if belongs_to(row, entry)]
    if not keys:
        here = ", ".join(row.label for row in variants.values() if row.module == module and row.pictures is None)
        raise UserError(
            f"no finished cell of '{text}'{where} (of {module}: {here}): `attnbench run --modules {text}` runs its cells"
        )
    return _only(keys, variants, text, where, "name the options that differ")


def _bare(row: Row) -> str:
    """What pictures are called that were made elsewhere."""
    return row.label.removesuffix(f" ({NOT_TRAINED})")


def _only(keys: Sequence[RowKey], variants: Mapping[RowKey, Row], text: str, where: str, remedy: str) -> RowKey:
    if len(keys) > 1:
        _, rows = labelled(pd.DataFrame(columns=["module", "all_options"]), [(key, variants[key]) for key in keys])
        raise UserError(f"'{text}' matches several variants{where}: {', '.join(row.label for row in rows)}: {remedy}")
    return keys[0]


def _nothing_in_common(mine: pd.DataFrame, a: Row, b: Row) -> str:
    """Error message for two variants without comparable cells: the cells that each has."""
    has = {}
    for row in (a, b):
        cells = mine[mine["label"] == row.label]
        named = {f"{cell.dataset} seed {cell.seed} ({str(cell.recipe_digest)[:8]})" for cell in cells.itertuples()}
        has[row.label] = ", ".join(sorted(named))
    cells_of_each = "; ".join(f"{label}: {cells}" for label, cells in has.items())
    return (
        f"{a.label} and {b.label} share no dataset and seed under one recipe ({cells_of_each}): "
        "`attnbench run` runs the missing cells"
    )


def _comparison(cells: Cells, a: Row, b: Row, metrics: Sequence[str]) -> Comparison:
    paper = published_values(a), published_values(b)
    lacking = {setting: _lacking(cells, a, b, setting) for setting in cells.settings}
    notes = [note for note in lacking.values() if note]
    selection = select(cells, [setting for setting, note in lacking.items() if not note], metrics or all_metrics(cells))
    columns = columns_of(cells, selection.shown)
    found: list[Compared] = []
    for setting in selection.shown:
        mine = [column for column in columns if column.setting == setting]
        over_all = [one for column in mine for one in _over_seeds(cells, a, b, column, paper)]
        compared, unscored = _with_images(cells, a, b, over_all)
        found += compared
        notes += unscored
    return Comparison(a, b, cells, found, list(dict.fromkeys(notes)), withheld_notes(cells.metrics, selection))


def _lacking(cells: Cells, a: Row, b: Row, setting: Setting) -> str | None:
    """A note on the one that has no cell of the dataset, or was not measured under the protocol."""
    for row in (a, b):
        if not len(cells.every(row.label, setting.dataset, "folder")):
            return f"{setting.dataset}: no finished cell of {row.label}."
    for row in (a, b):
        if not len(cells.of(row.label, setting, "folder")):
            return f"{setting.text}: {row.label} is not measured."
    return None


def _over_seeds(cells: Cells, a: Row, b: Row, column: Column, paper: tuple[PaperValues, PaperValues]) -> list[Compared]:
    """The metric over the common seeds: one comparison, or none where there is no common seed."""
    ours, theirs = values_of(cells, a.label, column), values_of(cells, b.label, column)
    seeds = sorted(int(seed) for seed in ours.index.intersection(theirs.index))
    if not seeds:
        return []
    difference = over_seeds(ours[seeds] - theirs[seeds])
    reason = None
    if len(seeds) == 1:
        why = NOT_TRAINED if a.pictures or b.pictures else "one seed in common"
        lacking = _UNSCORED if column.metric.per_image else f"{column.title} has no scores per image"
        reason = f"{why}, and {lacking}"
    elif np.isnan(difference.p):
        reason = "the same difference at every seed, so its spread is unknown"
    values = published_value(paper[0], column), published_value(paper[1], column)
    both = None if values[0] is None or values[1] is None else (values[0], values[1])
    means = float(ours[seeds].mean()), float(theirs[seeds].mean())
    return [Compared(column, seeds, *means, SEEDS, difference, reason, both)]


def _with_images(cells: Cells, a: Row, b: Row, found: Sequence[Compared]) -> tuple[list[Compared], list[str]]:
    """The comparisons and those over images, which replace those over a single seed; and a note on missing scores."""
    scores = {}
    for place, one in enumerate(found):
        if one.column.metric.per_image:
            differences = cells.image_differences(a.label, b.label, one.column.setting, one.column.key, one.seeds)
            if differences is not None:
                scores[place] = differences
    tested = by_length(scores, over_images)
    over_all: list[Compared] = []
    over_pairs = []
    unscored = []
    for place, one in enumerate(found):
        if place in tested:
            over_pairs.append(replace(one, unit=IMAGES, difference=tested[place], reason=None))
        elif one.column.metric.per_image:
            unscored += [one.column.title] if len(one.seeds) > 1 else []
        if place not in tested or len(one.seeds) > 1:
            over_all.append(one)
    where = found[0].column.setting.text if found else ""
    notes = [f"{where}, {', '.join(unscored)}: not compared over images, {_UNSCORED}."] if unscored else []
    return over_all + over_pairs, notes


def improvements(found: Iterable[Compared]) -> list[tuple[str, list[str], float]]:
    """Mean relative improvement of A over B over the datasets: (title, datasets, fraction of B's value) for each metric."""
    columns: dict[str, dict[str, Compared]] = {}
    for one in found:
        columns.setdefault(one.column.named, {}).setdefault(one.column.setting.dataset, one)
    return [
        (
            title,
            list(by_dataset),
            _gain(((one.a, one.b) for one in by_dataset.values()), next(iter(by_dataset.values())).column.metric),
        )
        for title, by_dataset in columns.items()
    ]


def published_improvements(a: Row, b: Row, metrics: Iterable[Descriptor]) -> list[tuple[str, list[str], float]]:
    """The same from the paper's numbers, over the datasets for which it has both.

    Args:
        metrics: those that the paper does not have are left out.
    """
    ours, theirs = published_values(a), published_values(b)
    found = []
    for metric in metrics:
        datasets = [dataset for dataset, name in ours if name == metric.name and (dataset, name) in theirs]
        if metric.in_paper and datasets:
            pairs = [(ours[dataset, metric.name], theirs[dataset, metric.name]) for dataset in datasets]
            found.append((metric.title, datasets, _gain(pairs, metric)))
    return found


def _gain(pairs: Iterable[tuple[float, float]], metric: Descriptor) -> float:
    return mean_relative_improvement(pairs, falls=metric.lower_is_better)


def as_frame(found: Iterable[Comparison]) -> pd.DataFrame:
    """The frame that `compare` returns."""
    return pd.DataFrame([_record(comparison, one) for comparison in found for one in comparison.found])


def _record(comparison: Comparison, one: Compared) -> dict[str, object]:
    frame, difference = comparison.cells.frame, one.difference
    labels = {"a": comparison.a.label, "b": comparison.b.label}
    paper = one.paper or (np.nan, np.nan)
    return {
        "recipe": frame["recipe"].iloc[0],
        "recipe_digest": frame["recipe_digest"].iloc[0],
        "dataset": one.column.setting.dataset,
        "protocol": one.column.setting.protocol,
        "metric": one.column.key,
        "title": one.column.title,
        "unit": one.unit,
        "n": difference.n,
        "seeds": ",".join(map(str, one.seeds)),
        "a": one.a,
        "b": one.b,
        "difference": difference.mean,
        "low": difference.low,
        "high": difference.high,
        "p": difference.p,
        "better": labels[one.better] if one.better else None,
        "improvement": relative_improvement(one.a, one.b, falls=one.column.metric.lower_is_better),
        "reason": one.reason,
        "published_a": paper[0],
        "published_b": paper[1],
    }


def sheet(comparison: Comparison, *, with_published: bool = False) -> Sheet:
    """A comparison as it is printed: a section for each dataset, protocol and unit, a line for each metric."""
    a, b = comparison.a.label, comparison.b.label
    titles = ["A", "B", f"A - B [{LEVEL:.0%}]", "p", "better", *(["paper A - B"] if with_published else [])]
    footnotes = Footnotes()
    lines = []
    for one in comparison.found:
        entries = _entries(one, footnotes)
        if with_published:
            theirs = one.column.metric.written(one.paper[0] - one.paper[1], "+") if one.paper else "-"
            entries.append(Entry(theirs))
        lines.append(Line(one.column.heading.title, entries, _section(one)))
    columns = [one.column for one in comparison.found]
    notes = [
        _improvement_line(f"Mean relative improvement of {a} over {b}", improvements(comparison.found)),
        *([_published_line(comparison)] if with_published else []),
        *footnotes.lines,
        *comparison.notes,
        *comparison.withheld,
        *_units(comparison.found),
        *metric_notes(comparison.cells, columns),
        *_stale(comparison.cells.finished),
        *foreign_notes(comparison.cells, [comparison.a, comparison.b]),
    ]
    return Sheet([Heading("", title) for title in titles], lines, f"A: {a}; B: {b}. {recipe_caption(comparison.cells)}.", notes)


def _section(one: Compared) -> str:
    n = one.difference.n
    return f"{one.column.setting.text}: {n} {one.unit.removesuffix('s') if n == 1 else one.unit}"


def _entries(one: Compared, footnotes: Footnotes) -> list[Entry]:
    """A, B, their difference, p, and the better one, in parentheses where the difference is not significant."""
    written, difference = one.column.metric.written, one.difference
    finer = max(4, one.column.metric.decimals) if one.column.metric.per_image else one.column.metric.decimals
    best = {one.better: 0}
    interval = "" if np.isnan(difference.low) else f"[{difference.low:.{finer}f}, {difference.high:.{finer}f}]"
    marks = (footnotes.mark(f"No interval: {one.reason}."),) if one.reason else ()
    name = one.better.upper() if one.better else "-"
    return [
        Entry(written(one.a), best.get("a")),
        Entry(written(one.b), best.get("b")),
        Entry(f"{difference.mean:+.{finer}f}", None, interval, marks),
        Entry("-" if np.isnan(difference.p) else f"{difference.p:.4f}"),
        Entry(name if difference.significant or one.better is None else f"({name})"),
    ]


def _improvement_line(subject: str, found: Iterable[tuple[str, list[str], float]]) -> str:
    """`Mean relative improvement of SGA over SCFT over anime, cat: Mine 1.20 %, Other -0.31 %.`"""
    by_datasets: dict[str, list[str]] = {}
    for title, datasets, gain in found:
        number = "undefined" if np.isnan(gain) else f"{100 * gain:.2f} %"
        by_datasets.setdefault(", ".join(datasets), []).append(f"{title} {number}")
    parts = "; ".join(f"over {datasets}: {', '.join(gains)}" for datasets, gains in by_datasets.items())
    return f"{subject} {parts}."


def _published_line(comparison: Comparison) -> str:
    source = published()["source"].iloc[0].partition(", Table")[0]
    found = published_improvements(comparison.a, comparison.b, comparison.cells.metrics.values())
    if not found:
        return f"{source} does not have numbers for both."
    return _improvement_line(f"The same in {source} (256 px, 40 epochs)", found)


def _units(found: Sequence[Compared]) -> list[str]:
    """Notes on the tests that were made, and what they cover."""
    units = {one.unit for one in found if not one.reason}
    notes = ["Improvement is positive where A is better, by the metric's direction; bold: the better mean."]
    if SEEDS in units:
        seeds = sorted({seed for one in found for seed in one.seeds})
        notes.append(
            f"Over seeds ({listed_seeds(seeds)}): paired t-test of the differences at the seeds that both have, which covers "
            "other training runs."
        )
    if IMAGES in units:
        notes.append(
            "Over images: the same test pairs, each score averaged over the common seeds; bootstrap interval, sign-flip "
            "p-value. Covers these trained networks on other such images, not other training runs."
        )
    if units:
        notes.append(
            f"better: in parentheses where p ≥ {SIGNIFICANT} or untested. p is not corrected for the number of comparisons."
        )
    return notes


def _stale(finished: pd.DataFrame) -> list[str]:
    if "stale" not in finished:
        return []
    changed = finished[finished["stale"].notna()]
    return [
        f"{label}: stale: {files} changed since it was trained."
        for label, files in changed[["label", "stale"]].drop_duplicates().itertuples(index=False)
    ]
