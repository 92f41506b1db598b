"""Where a warped reference shows the places of its sketch, and how far a guess is from there.

Places are (x, y) in shares of the sides; those of a grid are its cells' middles. A warp that folds shows a place several times,
and each of these is right; one that moves a place out of the picture, or behind a fold's edge, shows it nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

ALPHAS = (0.05, 0.1)  # shares of the side within which a guess counts as right, as usual for PCK
MAXIMUM, MEAN = WAYS = ("maximum", "mean")  # of attention, or of a difference of pictures: what is taken for the guess

_LATTICE = 32  # side of the lattice of guesses that are made anywhere


def checked(alpha: float, at: str) -> tuple[float, str]:
    """The options of metrics that count guesses within `alpha`; ValueError if they cannot be."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha={alpha}: expected a share of the picture's side, between 0 and 1")
    if at not in WAYS:
        raise ValueError(f"at={at}: expected {' or '.join(WAYS)}")
    return alpha, at


def title_of(title: str, alpha: float, at: str) -> str:
    """The heading of the column.

    >>> title_of("PCK", 0.1, "maximum"), title_of("PCK", 0.05, "mean")
    ('PCK@0.1', 'PCK@0.05 (mean)')
    """
    return f"{title}@{alpha:g}" + (f" ({MEAN})" if at == MEAN else "")


def middles(side: int) -> np.ndarray:
    """(side^2, 2): the cells of a square grid, row by row."""
    along = (np.arange(side) + 0.5) / side
    return np.stack(np.meshgrid(along, along), axis=-1).reshape(-1, 2)


def places_in_reference(shows: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """All places of the reference that show the middle of a cell of the sketch.

    Four neighbouring pixels of the reference are two triangles, in each of which what is shown is linear in the place.

    Args:
        shows: (S, S, 2): the place in the sketch that each pixel of the reference shows.
        side: of the sketch's grid.

    Returns:
        (K,) indices of cells, ascending, and (K, 2) places. A cell that is shown nowhere is absent.
    """
    size = len(shows)
    there = middles(size).reshape(size, size, 2)
    corners = [np.s_[:-1, :-1], np.s_[:-1, 1:], np.s_[1:, :-1], np.s_[1:, 1:]]
    halves = [(0, 1, 2), (3, 2, 1)]
    shown, places = (
        np.concatenate([np.stack([grid[corners[c]] for c in half], axis=2).reshape(-1, 3, 2) for half in halves])
        for grid in (shows, there)
    )  # (triangles, 3, 2) each
    lowest = np.ceil(shown.min(1) * side - 0.5).astype(int).clip(0)  # (column, row) of the first middle inside of its box
    highest = np.floor(shown.max(1) * side - 0.5).astype(int).clip(max=side - 1)
    spans = highest - lowest + 1
    hit = (spans > 0).all(1)
    shown, places, lowest, spans = shown[hit], places[hit], lowest[hit], spans[hit]
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for right, down in np.ndindex(*(spans.max(0) if len(spans) else (0, 0))):
        mine = (spans > (right, down)).all(1)
        cell = lowest[mine] + (right, down)
        weights = _barycentric(shown[mine], (cell + 0.5) / side)
        inside = (weights >= -1e-9).all(1)
        at = (weights[inside, :, None] * places[mine][inside]).sum(1)
        found.append((cell[inside] @ (1, side), at))
    if not found:
        return np.empty(0, int), np.empty((0, 2))
    cells, at = (np.concatenate(column) for column in zip(*found, strict=True))
    once = np.unique(np.column_stack([cells, at.round(9)]), axis=0)  # one on the edge of two triangles is found in both
    return once[:, 0].astype(int), once[:, 1:]


def _barycentric(triangles: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(T, 3): the weights of each triangle's corners that give its point; -1 for a triangle without an area."""
    a, b, c = triangles.transpose(1, 0, 2)
    across, along, to = b - a, c - a, points - a
    area = _cross(across, along)
    with np.errstate(divide="ignore", invalid="ignore"):
        second, third = _cross(to, along) / area, _cross(across, to) / area
    weights = np.stack([1 - second - third, second, third], axis=1)
    return np.where(np.abs(area)[:, None] > 1e-15, weights, -1.0)


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]


def apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(...): the distance of places (..., 2); infinite from nan, which is no place."""
    return np.nan_to_num(np.linalg.norm(a - b, axis=-1), nan=np.inf)


def nearest(guesses: np.ndarray, cells: np.ndarray, places: np.ndarray) -> np.ndarray:
    """(C,): how far the guess for each shown cell is from the nearest of its places.

    Args:
        guesses: (n, 2), one for each cell of the grid; nan: none.
        cells, places: as from `places_in_reference`, of C cells.
    """
    return np.minimum.reduceat(apart(guesses[cells], places), _firsts(cells))


def from_anywhere(cells: np.ndarray, places: np.ndarray) -> np.ndarray:
    """(C, m): how far each of m guesses, spread evenly over the reference, is from the nearest place of each shown cell."""
    return np.minimum.reduceat(apart(middles(_LATTICE)[None], places[:, None]), _firsts(cells))


def shares(distances: np.ndarray, alphas: Sequence[float]) -> np.ndarray:
    """(len(alphas),): the share of distances, of any shape, within each alpha."""
    return np.searchsorted(np.sort(distances, axis=None), np.asarray(alphas), side="right") / distances.size


def shares_of_cells(of_places: np.ndarray, cells: np.ndarray) -> float:
    """The mean over cells, each of which counts if any of its places, (K, ...) bool, does."""
    return float(np.logical_or.reduceat(of_places, _firsts(cells)).mean())


def _firsts(cells: np.ndarray) -> np.ndarray:
    """Where each cell begins."""
    return np.flatnonzero(np.diff(cells, prepend=-1))


def correct(distances: Mapping[str, list[np.ndarray]]) -> dict[str, dict[str, float]]:
    """For the record: the percentage within each of ALPHAS, of each way to guess, over pictures of equal weight."""
    return {
        way: {f"{alpha:g}": round(100 * float(np.mean([(one <= alpha).mean() for one in of_pictures])), 2) for alpha in ALPHAS}
        for way, of_pictures in distances.items()
    }
