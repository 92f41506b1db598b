"""Where the coloured marks of a reference appear in a picture.

Under `references: marked`, the reference is the sketch's own original under a known warp, with two discs in it, and each pair
comes twice: what is magenta in one is green in the other. With G and G' the two pictures, m and g the two colours,

    d = (G - G') . (m - g) / |m - g|^2      (S, S)   1 where all of a mark's colour has arrived, 0 where nothing of it has

The true place of the mark that is magenta in G is known; d says where the method takes it to be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.signal import fftconvolve
from torch import Tensor

from attnbench.data.marks import COLOURS, RADIUS
from attnbench.metrics.pictures import Pictures
from attnbench.metrics.true_places import MEAN, apart, middles, shares

FAINTEST = 1 / 255  # the least mean difference over a mark's area that is one: a grey level


@dataclass(frozen=True)
class Marks:
    """Where the marks of N pictures are, and where they appear.

    Attributes:
        side: of the pictures.
        in_reference, in_sketch: (N, 2): the truth.
        maximum, mean: (N, 2): where they appear; nan: nowhere.
        strengths: (N,): the mean difference over the area of the mark where it belongs.
    """

    side: int
    in_reference: np.ndarray
    in_sketch: np.ndarray
    maximum: np.ndarray
    mean: np.ndarray
    strengths: np.ndarray

    def errors(self, way: str) -> np.ndarray:
        """(N,): how far from where they belong the marks appear, in shares of the side."""
        return apart(self.mean if way == MEAN else self.maximum, self.in_sketch)

    def share_of_moved(self, alpha: float, way: str) -> float | None:
        """Of the marks that the warp has moved farther than alpha, the percentage found; None if it has moved none."""
        moved = apart(self.in_reference, self.in_sketch) > alpha
        return round(100 * float((self.errors(way)[moved] <= alpha).mean()), 2) if moved.any() else None

    def trivial_shares(self, alphas: Sequence[float]) -> dict[str, np.ndarray]:
        """Shares within each alpha of marks that appear `anywhere`, in `the middle`, or, as if copied, in `its own place`."""
        grid = middles(self.side)
        return {
            "anywhere": np.mean([shares(apart(grid, true), alphas) for true in self.in_sketch], axis=0),
            "the middle": shares(apart(np.full(2, 0.5), self.in_sketch), alphas),
            "its own place": shares(apart(self.in_reference, self.in_sketch), alphas),
        }


def marks_of(pictures: Pictures) -> Marks:
    """The marks of every pair, found once for all metrics."""
    return pictures.once("marks found", lambda: _found(pictures))


def _found(pictures: Pictures) -> Marks:
    in_reference, in_sketch = pictures.marks
    arrived = differences(pictures.generated)
    strengths = [strength(one, true) for one, true in zip(arrived, in_sketch, strict=True)]
    maximum = np.stack([peak(one) for one in arrived])
    mean = np.stack([centre(one) for one in arrived])
    mean[np.isnan(maximum)] = np.nan
    return Marks(arrived.shape[-1], in_reference, in_sketch, maximum, mean, np.array(strengths))


def strength(difference: np.ndarray, true: np.ndarray) -> float:
    """The mean difference over the area of the mark that belongs there; 0 where a warp has put it outside of the picture."""
    area = disc(len(difference), true)
    return float(difference[area].mean()) if area.any() else 0.0


def differences(generated: Tensor) -> np.ndarray:
    """d of each picture, (N, S, S), from (N, 3, S, S) uint8 of which 2 i and 2 i + 1 are a pair."""
    magenta, green = torch.tensor(COLOURS, dtype=torch.float64)
    way = (magenta - green) / (magenta - green).square().sum()
    pairs = generated.double().div(255).unflatten(0, (-1, 2))
    first = torch.einsum("nchw,c->nhw", pairs[:, 0] - pairs[:, 1], way)
    return torch.stack([first, -first], 1).flatten(0, 1).numpy()


def peak(difference: np.ndarray) -> np.ndarray:
    """(2,): the middle of the area of a mark's size with the largest mean; nan if that is below FAINTEST."""
    size = len(difference)
    reach = np.arange(-int(RADIUS * size), int(RADIUS * size) + 1)
    area = (np.hypot(*np.meshgrid(reach, reach)) <= RADIUS * size).astype(float)
    mean = fftconvolve(difference, area / area.sum(), mode="same")
    if mean.max() < FAINTEST:
        return np.full(2, np.nan)
    row, column = np.unravel_index(mean.argmax(), mean.shape)
    return (np.array([column, row]) + 0.5) / size


def centre(difference: np.ndarray) -> np.ndarray:
    """(2,): the mean place of what is positive; nan if nothing is."""
    weights = difference.clip(min=0).ravel()
    total = weights.sum()
    return weights @ middles(len(difference)) / total if total > 1e-9 else np.full(2, np.nan)


def disc(size: int, middle: np.ndarray) -> np.ndarray:
    """(size, size) bool: a mark of which this is the middle."""
    return (np.linalg.norm(middles(size) - middle, axis=1) <= RADIUS).reshape(size, size)
