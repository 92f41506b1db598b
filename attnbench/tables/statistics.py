"""Uncertainty of numbers and of differences: intervals, paired tests, relative improvements.

Two units, never mixed. Over *seeds*, the difference of two modules is taken seed by seed (at one seed both saw the same images
in the same order) and tested with a paired t-test: the result covers other training runs. Over *images*, it is taken test
pair by test pair (every module colours the same ones), with a bootstrap interval and a sign-flip test: the result covers
these trained networks on other such images, not other training runs. No p-value is corrected for the number of comparisons.

Every call starts from the same random seed, so one store gives one table. Resampling is written as a product with a matrix of
counts or signs, for all rows at once: up to chance the same numbers as scipy.stats' `bootstrap` and `permutation_test`, in a
fiftieth of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Key = TypeVar("Key")
LEVEL = 0.95  # of every interval
SIGNIFICANT = 0.05  # differences with a smaller p-value count as significant
RESAMPLES = 9999  # so that the smallest p-value of a sign-flip test is 1 in 10,000
_CHUNK = 2_000_000  # numbers of a resampling held in memory at once


@dataclass(frozen=True)
class Difference:
    """A mean difference of n units (seeds or images), its interval at `LEVEL`, and a two-sided p-value; nan where undefined."""

    mean: float
    low: float
    high: float
    p: float
    n: int

    @property
    def significant(self) -> bool:
        return self.p < SIGNIFICANT


def over_seeds(differences: npt.ArrayLike) -> Difference:
    """Paired t-test of (n,) differences, one per seed: mean +- t(n - 1) s / sqrt(n).

    Interval and p-value are nan for a single seed, and where all differences are the same nonzero number, whose spread is
    unknown. Differences that are all 0 have p = 1.
    """
    from scipy.special import stdtr, stdtrit  # imports in a tenth of the time of scipy.stats

    values = np.asarray(differences, dtype=float)
    n, mean = len(values), float(values.mean())
    if n < 2:
        return Difference(mean, np.nan, np.nan, np.nan, n)
    error = float(values.std(ddof=1)) / np.sqrt(n)
    if error <= 1e-12 * abs(mean):
        nothing = not values.any()
        return Difference(mean, *((0.0, 0.0, 1.0) if nothing else (np.nan, np.nan, np.nan)), n)
    half = float(stdtrit(n - 1, (1 + LEVEL) / 2)) * error
    return Difference(mean, mean - half, mean + half, float(2 * stdtr(n - 1, -abs(mean) / error)), n)


def over_images(differences: npt.ArrayLike) -> list[Difference]:
    """(k, n) differences of n images, one row per comparison -> each with its bootstrap interval and sign-flip p-value."""
    values = np.atleast_2d(np.asarray(differences, dtype=float))
    intervals, p = bootstrap_interval(values), sign_flip_p(values)
    return [
        Difference(float(row.mean()), float(low), float(high), float(chance), values.shape[1])
        for row, (low, high), chance in zip(values, intervals, p, strict=True)
    ]


def bootstrap_interval(scores: npt.ArrayLike) -> Array:
    """Percentile bootstrap of means: (k, n) scores -> (k, 2), the interval's ends for each row at `LEVEL`.

    A resample has the same images in all rows, since the modules coloured the same pairs. Undefined (nan) for a single image.
    """
    values = np.atleast_2d(np.asarray(scores, dtype=float))
    k, n = values.shape
    if n < 2:
        return np.full((k, 2), np.nan)
    rng = np.random.default_rng(0)
    means = []
    for count in _chunks(n):
        drawn = rng.integers(n, size=(count, n)) + n * np.arange(count)[:, None]
        times = np.bincount(drawn.ravel(), minlength=count * n).reshape(count, n)  # how often each image was drawn
        means.append(times @ values.T / n)
    tail = (1 - LEVEL) / 2
    return np.quantile(np.concatenate(means), [tail, 1 - tail], axis=0).T


def sign_flip_p(differences: npt.ArrayLike) -> Array:
    """Two-sided sign-flip permutation test that means are 0: (k, n) paired differences -> (k,) p-values.

    If the modules did not differ, each difference would be as likely of either sign: p is the share of random signs whose mean
    is at least as far from 0 as the observed one, which itself counts as one of them (Phipson and Smyth 2010).
    """
    values = np.atleast_2d(np.asarray(differences, dtype=float))
    k, n = values.shape
    observed = np.abs(values.sum(axis=1)) * (1 - 1e-12)  # equal sums in another order of addition count as equal
    rng = np.random.default_rng(0)
    as_far = np.ones(k)
    for count in _chunks(n):
        signs = 2.0 * rng.integers(2, size=(count, n), dtype=np.int8) - 1
        as_far += (np.abs(signs @ values.T) >= observed).sum(axis=0)
    return as_far / (RESAMPLES + 1)


def by_length(vectors: Mapping[Key, Array], function: Callable[[Array], Iterable[Any]]) -> dict[Key, Any]:
    """Apply `function`, from (k, n) to k results, to vectors of several lengths n, all of one length in one call."""
    found: dict[Key, Any] = {}
    for n in {len(vector) for vector in vectors.values()}:
        same = [key for key, vector in vectors.items() if len(vector) == n]
        found |= dict(zip(same, function(np.stack([vectors[key] for key in same])), strict=True))
    return found


def relative_improvement(a: float, b: float, *, falls: bool) -> float:
    """Improvement of A as a fraction of B's value: (B - A) / B if lower is better (`falls`), else (A - B) / B.

    Undefined (nan) where B is not positive, which an unbiased distance may be.
    """
    if not b > 0:
        return np.nan
    return (b - a) / b if falls else (a - b) / b


def mean_relative_improvement(pairs: Iterable[tuple[float, float]], *, falls: bool) -> float:
    """Mean of `relative_improvement` over (A, B), one pair per dataset: the 27.21 % and 25.67 % in the SGA paper's text."""
    return float(np.mean([relative_improvement(a, b, falls=falls) for a, b in pairs]))


def _chunks(n: int) -> Iterator[int]:
    """`RESAMPLES`, in chunks small enough for n images."""
    size = max(1, _CHUNK // n)
    for start in range(0, RESAMPLES, size):
        yield min(size, RESAMPLES - start)
