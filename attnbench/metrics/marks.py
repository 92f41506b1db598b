"""Where the coloured marks of a reference appear in a picture.

Under `references: marked`, the reference is the sketch's own original under a known warp, with two discs in it, and each pair
comes twice: what is magenta in one is green in the other. With G and G' the two pictures, m and g the two colours,

    d = (G - G') . (m - g) / |m - g|^2      (S, S)   1 where all of a mark's colour has arrived, 0 where nothing of it has

The true place of the mark that is magenta in G is known; d says where the method takes it to be.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.signal import fftconvolve
from torch import Tensor

from attnbench.data.marks import COLOURS, RADIUS
from attnbench.metrics.pictures import Pictures
from attnbench.metrics.true_places import BLIND, MEAN, apart, middles


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

    def blind_shares(self, alpha: float) -> dict[str, float]:
        """The shares of marks within alpha that those find who do not look: BLIND."""
        grid = middles(self.side)

        def shares(there: np.ndarray, true: np.ndarray) -> list[float]:
            return [float((apart(guess, true) <= alpha).mean()) for guess in (grid, np.full(2, 0.5), there)]

        found = [shares(there, true) for there, true in zip(self.in_reference, self.in_sketch, strict=True)]
        return dict(zip(BLIND, np.mean(found, axis=0).tolist(), strict=True))


def marks_of(pictures: Pictures) -> Marks:
    """The marks of every pair, found once for all metrics."""
    return pictures.once("marks found", lambda: _found(pictures))


def _found(pictures: Pictures) -> Marks:
    in_reference, in_sketch = pictures.marks
    arrived = differences(pictures.generated)
    strengths = [one[disc(one.shape[-1], true)].mean() for one, true in zip(arrived, in_sketch, strict=True)]
    maximum, mean = (np.stack([find(one) for one in arrived]) for find in (peak, centre))
    return Marks(arrived.shape[-1], in_reference, in_sketch, maximum, mean, np.array(strengths))


def differences(generated: Tensor) -> np.ndarray:
    """d of each picture, (N, S, S), from (N, 3, S, S) uint8 of which 2 i and 2 i + 1 are a pair."""
    magenta, green = torch.tensor(COLOURS, dtype=torch.float64)
    way = (magenta - green) / (magenta - green).square().sum()
    pairs = generated.double().div(255).unflatten(0, (-1, 2))
    first = torch.einsum("nchw,c->nhw", pairs[:, 0] - pairs[:, 1], way)
    return torch.stack([first, -first], 1).flatten(0, 1).numpy()


def peak(difference: np.ndarray) -> np.ndarray:
    """(2,): the middle of the area of a mark's size with the largest mean; nan if none is positive."""
    size = len(difference)
    reach = np.arange(-int(RADIUS * size), int(RADIUS * size) + 1)
    area = (np.hypot(*np.meshgrid(reach, reach)) <= RADIUS * size).astype(float)
    mean = fftconvolve(difference, area / area.sum(), mode="same")
    if mean.max() <= 1e-9:  # above what rounding leaves
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
