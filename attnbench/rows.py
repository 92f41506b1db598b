"""Which cells make a row of a table, what it is called, and in which order rows stand.

A row is a module with all its options, defaults included: a default that changes between two versions of a module makes another
row, and an option that was typed at its default makes none.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from attnbench.errors import UserError
from attnbench.grid_file import COMPARISON, GridFile, GridVariant, built_in_grids, label_of, titled

Key = tuple[str, str]  # module, all options as JSON


@dataclass(frozen=True)
class Row:
    """A variant in a table.

    Attributes:
        options: all of them; of a row without a cell, those that its grid names.
        given: those that differ from the defaults.
    """

    label: str
    module: str
    options: Mapping[str, Any]
    given: Mapping[str, Any]


def rows_of(frame: pd.DataFrame, grid: GridFile | None = None) -> tuple[pd.DataFrame, list[Row]]:
    """The cells that belong to rows, their `label` the row's, and the rows in order.

    Args:
        frame: as from `attnbench.results`.
        grid: its variants make the rows, in its order, with or without cells. Without one, every variant that has a cell, the
            paper's first and in the order of its tables.

    Raises:
        UserError: there is no cell of the grid.
    """
    found = _found(frame)
    if grid is None:
        keyed: list[tuple[Key | None, Row]] = [*sorted(found.items(), key=lambda item: _place(item[1]))]
    else:
        keyed = [pair for entry in grid.variants for pair in _of_entry(entry, found)]
    rows = _told_apart([row for _, row in keyed])
    places = {key: place for place, (key, _) in enumerate(keyed) if key is not None}
    if grid is not None and not places:
        raise UserError(f"no cell of the grid '{grid.title}' is here: `attnbench run --grid` makes them")
    place = pd.Series([places.get(key, -1) for key in _keys(frame)], index=frame.index)
    mine = place[place >= 0]
    return frame.loc[mine.index].assign(label=[rows[i].label for i in mine]), rows


def _keys(frame: pd.DataFrame) -> Iterable[Key]:
    return zip(frame["module"], frame["all_options"], strict=True)


def _found(frame: pd.DataFrame) -> dict[Key, Row]:
    """The variants that have cells. Of a variant's cells, the one that was given the fewest options says what it is called."""
    found: dict[Key, Row] = {}
    for key, given, label in zip(_keys(frame), frame["options"].map(json.loads), frame["label"], strict=True):
        if key not in found or len(given) < len(found[key].given):
            found[key] = Row(label_of(key[0], given) or label, key[0], json.loads(key[1]), given)
    return found


def _of_entry(entry: GridVariant, found: Mapping[Key, Row]) -> list[tuple[Key | None, Row]]:
    """The rows of a grid's variant: one, or one for each version of the module's defaults that has cells."""
    pairs: list[tuple[Key | None, Row]] = [
        (key, replace(row, label=entry.label or row.label)) for key, row in found.items() if _is(row, entry)
    ]
    label = entry.label or label_of(entry.module, entry.options) or titled(entry.module, entry.options)
    return pairs or [(None, Row(label, entry.module, entry.options, entry.options))]


def _is(row: Row, entry: GridVariant) -> bool:
    named = all(name in row.options and row.options[name] == value for name, value in entry.options.items())
    return row.module == entry.module and named and set(row.given) <= set(entry.options)


def _place(row: Row) -> tuple[int, int, str]:
    """Modules in the order of the paper's comparison, variants in that of its tables, others behind them by name."""
    grids = built_in_grids()
    entries = [*grids[COMPARISON].variants, *(entry for grid in grids.values() for entry in grid.variants)]
    last = len(entries)
    module = next((place for place, entry in enumerate(entries) if entry.module == row.module), last)
    same = (place for place, entry in enumerate(entries) if (entry.module, entry.options) == (row.module, row.given))
    return module, next(same, last), row.label


def _told_apart(rows: Sequence[Row]) -> list[Row]:
    """Rows of one label get behind it what they differ in: the module's name, or options."""
    return [replace(row, label=_with_difference(row, [other for other in rows if other.label == row.label])) for row in rows]


def _with_difference(row: Row, namesakes: Sequence[Row]) -> str:
    if len(namesakes) == 1:
        return row.label
    module = [row.module] if _differ(other.module for other in namesakes) else []
    named = dict.fromkeys(name for other in namesakes for name in other.options)
    options = [_said(row, name) for name in named if _differ(_said(other, name) for other in namesakes)]
    return f"{row.label} [{' '.join([*module, *options])}]"


def _said(row: Row, name: str) -> str:
    return f"{name}={json.dumps(row.options[name])}" if name in row.options else f"no {name}"


def _differ(values: Iterable[Hashable]) -> bool:
    return len(set(values)) > 1
