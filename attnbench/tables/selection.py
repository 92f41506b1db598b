"""Which metrics are shown of a dataset under a protocol: those that a user chose, or else by default, see `usual_metrics`.

A metric that a copy of the reference would win has a companion, which the copy loses. It is followed by it, and is not shown
where the companion has no number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from attnbench.errors import UserError, unknown
from attnbench.metrics.descriptor import Descriptor, matching, shown_by_default
from attnbench.tables.published import published_metrics
from attnbench.tables.rows import Cells, Setting


@dataclass(frozen=True)
class Selection:
    """The metrics of a table.

    Attributes:
        shown: setting -> keys, in the order of the columns; none where nothing is measured, or all that is was withheld.
        unable: (setting, reason) -> keys that would be shown, but cannot measure the setting.
        withheld: key -> the settings where it would be shown, but for want of its companion.
    """

    shown: Mapping[Setting, Sequence[str]]
    unable: Mapping[tuple[Setting, str], Sequence[str]]
    withheld: Mapping[str, Sequence[Setting]]


def select(cells: Cells, settings: Iterable[Setting], chosen: Sequence[str] = ()) -> Selection:
    """The metrics that are shown in each setting.

    A setting has those of the wanted metrics that any of its cells was measured with; if there are none, all of them. Of a
    metric that can measure some of a dataset's protocols, the others say nothing.

    Args:
        chosen: keys; if empty, the usual metrics, of which those that cannot measure a setting have no column there. A setting
            that none of them can measure shows what else it has. A protocol that has none of the chosen metrics is left out
            where another of its dataset has one.
    """
    settings = list(settings)
    shown: dict[Setting, Sequence[str]] = {}
    unable: dict[tuple[Setting, str], list[str]] = {}
    withheld: dict[str, list[Setting]] = {}
    for setting in settings:
        others = [other for other in settings if other.dataset == setting.dataset and other != setting]
        wanted = chosen or usual_metrics(cells, setting)
        wanted = [key for key in wanted if not _left_to(others, cells, setting, key)]
        if chosen and not wanted:
            continue
        has = [key for key in all_metrics(cells) if key in cells.asked[setting]]
        if not chosen:
            has = [key for key in has if not cells.cannot(setting, key)] or has
        keys = [key for key in wanted if key in has] or ([] if chosen else has) or wanted
        shown[setting] = _with_companions(cells, setting, keys)
        for key in wanted:
            for reason in cells.cannot(setting, key) if key not in keys else ():
                unable.setdefault((setting, reason), []).append(key)
        for key in keys:
            if key not in shown[setting] and _has_number(cells, setting, key):
                withheld.setdefault(key, []).append(setting)
    return Selection(shown, unable, withheld)


def usual_metrics(cells: Cells, setting: Setting) -> list[str]:
    """What is shown unless a user chose: where right answers are known, the metrics that hold pictures to them come first.

    Then, as without right answers, the paper's and those of other packages; or all, where the paper's first was not asked for
    in any setting.
    """
    own = [key for key in all_metrics(cells) if key in cells.asked[setting]]
    truth = [key for key in own if cells.metrics[key].truth and not cells.cannot(setting, key)]
    return list(dict.fromkeys([*truth, *shown_by_default(cells.metrics, all_metrics(cells), published_metrics())]))


def _with_companions(cells: Cells, setting: Setting, keys: Sequence[str]) -> list[str]:
    """Each key, followed by its companion's if that is not shown anyway; left out if this has no number in the setting."""
    return list(dict.fromkeys(one for key in keys for one in _accompanied(cells, setting, key, keys)))


def _accompanied(cells: Cells, setting: Setting, key: str, keys: Sequence[str], before: tuple[str, ...] = ()) -> list[str]:
    """The key and those that have to be shown with it, but are not among `keys`; none if one of them has no number.

    Args:
        before: keys that have to be shown with this one.
    """
    companion = cells.metrics[key].companion
    if not companion or matching(before, companion):
        return [key]
    for other in matching(cells.asked[setting], companion):
        if _has_number(cells, setting, other) and (chain := _accompanied(cells, setting, other, keys, (*before, key))):
            return [key, *(one for one in chain if one not in keys)]
    return []


def _left_to(others: Sequence[Setting], cells: Cells, setting: Setting, key: str) -> bool:
    """Whether a metric has numbers under another protocol, and here none, since it was not asked for or cannot measure it."""
    here = key in cells.asked[setting] and not cells.cannot(setting, key)
    return not here and any(_has_number(cells, other, key) for other in others)


def _has_number(cells: Cells, setting: Setting, key: str) -> bool:
    finished = cells.finished_in(setting)
    return finished is not None and key in finished and bool(finished[key].notna().any())


def chosen_metrics(metrics: Mapping[str, Descriptor], asked: Iterable[str]) -> list[str]:
    """The keys that names and keys stand for: a name stands for the metric with any options.

    Raises:
        UserError: one is not among the metrics.
    """
    found: dict[str, None] = {}
    for one in asked:
        keys = matching(metrics, one)
        if not keys and not metrics:
            raise UserError(f"there is no number of '{one}', and none of any other metric: `attnbench measure` measures cells")
        if not keys:
            measured = unknown("metric", one, {*metrics, *(metric.name for metric in metrics.values())}, where="measured here")
            raise UserError(f"{measured}; `attnbench measure` measures others")
        found |= dict.fromkeys(keys)
    return list(found)


def all_metrics(cells: Cells) -> list[str]:
    """The keys of the metrics that any of the cells was measured with, in the order of the records."""
    return list(dict.fromkeys(key for keys in cells.asked.values() for key in keys if key in cells.metrics))
