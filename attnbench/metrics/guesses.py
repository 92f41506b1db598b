"""Where positions of a sketch look in their warped reference, by the map that a module shows, and where they should."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from attnbench.errors import NotMeasurable
from attnbench.method.attention_maps import ShownMap
from attnbench.metrics.lacks import NO_MAP
from attnbench.metrics.pictures import Pictures
from attnbench.metrics.true_places import (
    MEAN,
    apart,
    from_anywhere,
    middles,
    nearest,
    places_in_reference,
    shares,
    shares_of_cells,
)

FIRST = 100  # pictures by which `one for all` is found, whose cost is quadratic in them


@dataclass(frozen=True)
class Guesses:
    """Where the positions of one sketch look, and where they should.

    Attributes:
        name: of the map.
        side, other_side: of the grids of sketch and reference.
        maximum, mean: (n, 2); nan for a position without attention.
        cells, places: the truth, see `places_in_reference`.
    """

    name: str
    side: int
    other_side: int
    maximum: np.ndarray
    mean: np.ndarray
    cells: np.ndarray
    places: np.ndarray

    def guess(self, way: str) -> np.ndarray:
        return self.mean if way == MEAN else self.maximum

    def errors(self, guess: np.ndarray) -> np.ndarray:
        """(C,): how far off the shown positions' guesses are, in shares of the side."""
        return nearest(guess, self.cells, self.places)

    @property
    def shown(self) -> float:
        """The share of the sketch's positions that the reference shows."""
        return len(np.unique(self.cells)) / self.side**2


def guesses_of(pictures: Pictures) -> list[Guesses]:
    """The guesses of every pair, found once for all metrics.

    Raises:
        NotMeasurable: the module shows no map between sketch and reference, or not one of square grids; or a reference shows
            nothing of its sketch.
    """
    return pictures.once("guesses", lambda: _guesses(pictures))


def _guesses(pictures: Pictures) -> list[Guesses]:
    found: list[Guesses] = []

    def note(start: int, maps: Sequence[ShownMap]) -> None:
        chosen = finest(maps)
        side, other = (math.isqrt(count) for count in chosen.weights.shape[1:])
        for row, (maximum, mean) in enumerate(zip(*look(chosen.weights, other), strict=True), start):
            cells, places = places_in_reference(pictures.shows(row), side)
            if not len(cells):
                raise NotMeasurable(f"the reference of '{pictures.names[row][0]}' shows nothing of its sketch")
            found.append(Guesses(chosen.name, side, other, maximum, mean, cells, places))

    pictures.maps(note)
    return found


def finest(maps: Sequence[ShownMap]) -> ShownMap:
    """The map between sketch and reference with the most entries, the first of equals.

    Raises:
        NotMeasurable: there is none, or it is not of square grids.
    """
    across = [one for one in maps if not one.within]
    if not across:
        raise NotMeasurable(NO_MAP)
    chosen = max(across, key=lambda one: one.weights[0].numel())
    n, m = chosen.weights.shape[1:]
    if math.isqrt(n) ** 2 != n or math.isqrt(m) ** 2 != m:
        raise NotMeasurable(f"its {chosen.name} map has {n} x {m} entries, which are not square grids")
    return chosen


def look(weights: Tensor, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each row of maps looks, by its largest weight and by its mean: (B, n, m), m = side^2 -> (B, n, 2) each.

    Rows are divided by their sums; one that is zero, or has a negative or infinite sum, looks nowhere: nan.
    """
    grid = middles(side)
    rows = weights.double()
    sums = rows.sum(-1, keepdim=True)
    usable = ((sums > 0) & sums.isfinite()).cpu().numpy()
    maximum = grid[rows.argmax(-1).cpu().numpy()]
    mean = (rows / sums).cpu().numpy() @ grid
    return np.where(usable, maximum, np.nan), np.where(usable, mean, np.nan)


def trivial_shares(guesses: Sequence[Guesses], alphas: Sequence[float]) -> dict[str, np.ndarray]:
    """The shares within each alpha, (len(alphas),), of guesses that do not depend on the reference.

    `anywhere`; `the middle`; `its own place`, where a position stays; and, of several pictures, `one for all`, the one place
    for each position that is right in the largest share of the other pictures: what a module can learn of the warps without
    ever looking.
    """
    own = middles(guesses[0].side)
    found = {
        "anywhere": [shares(from_anywhere(one.cells, one.places), alphas) for one in guesses],
        "the middle": [shares(one.errors(np.full_like(own, 0.5)), alphas) for one in guesses],
        "its own place": [shares(one.errors(own), alphas) for one in guesses],
    }
    means = {way: np.mean(of_pictures, axis=0) for way, of_pictures in found.items()}
    return means if len(guesses) == 1 else {**means, "one for all": one_for_all(guesses[:FIRST], alphas)}


def one_for_all(guesses: Sequence[Guesses], alphas: Sequence[float]) -> np.ndarray:
    """See `trivial_shares`. A position's candidates are its places in the pictures."""
    most = max(int(np.bincount(one.cells).max()) for one in guesses)
    places = np.full((len(guesses), guesses[0].side ** 2, most, 2), np.nan)  # (N, n, places of one position, 2)
    for of_picture, one in zip(places, guesses, strict=True):
        turn = np.arange(len(one.cells)) - np.searchsorted(one.cells, one.cells)
        of_picture[one.cells, turn] = one.places
    others = ~np.eye(len(guesses), dtype=bool)
    found = []
    for of_cell in places.swapaxes(0, 1):  # (N, places, 2)
        shown = np.isfinite(of_cell[:, 0, 0])
        distances = apart(of_cell[:, None, 0][:, :, None], of_cell[None]).min(-1)  # (candidates, pictures)
        usable = others & shown & shown[:, None]
        if usable.any():
            right = [(usable & (distances <= alpha)).sum(1) / np.maximum(usable.sum(1), 1) for alpha in alphas]
            found.append([share.max() for share in right])
    return np.mean(found, axis=0) if found else np.zeros(len(alphas))


def share_of_moved(guesses: Sequence[Guesses], alpha: float, way: str) -> float | None:
    """Of the positions that the warp moves farther than alpha, in all pictures, the percentage found; None if it moves none."""
    own = middles(guesses[0].side)
    moved = np.concatenate([one.errors(own) > alpha for one in guesses])
    found = np.concatenate([one.errors(one.guess(way)) <= alpha for one in guesses])
    return round(100 * float(found[moved].mean()), 2) if moved.any() else None


def best_share(guesses: Sequence[Guesses], alpha: float) -> float:
    """The share within alpha of a map whose largest weights are in the nearest cells: what its grid allows."""

    def nearest_cells(one: Guesses) -> np.ndarray:
        return (np.floor(one.places * one.other_side).clip(0, one.other_side - 1) + 0.5) / one.other_side

    found = [shares_of_cells(apart(nearest_cells(one), one.places) <= alpha, one.cells) for one in guesses]
    return float(np.mean(found))
