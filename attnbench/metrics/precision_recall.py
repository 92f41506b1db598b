"""Precision and recall of sets of pictures.

Kynkäänniemi et al., "Improved Precision and Recall Metric for Assessing Generative Models", NeurIPS 2019. Around each picture
of a set lies a ball whose radius is the distance to its k-th nearest neighbour in the set; the union of the balls is where the
set's pictures are taken to lie.

    precision = share of the generated pictures that lie in the balls of the real ones
    recall    = share of the real pictures that lie in the balls of the generated ones

The paper's features are those of a VGG16. Here they are the Inception's, which the distances of sets use, too: so these numbers
can be compared among themselves, and not with those of papers.
"""

from __future__ import annotations

import numpy as np
import torch

from attnbench.metrics.inception import USUAL_DIMS, SetMetric
from attnbench.metrics.pictures import Pictures

USUAL_K = 3


class _Coverage(SetMetric):
    """Precision, or recall: how much of one set lies where the other does.

    Its ceiling is what as many real training images have: the best that can be expected, and well below 1 for few pictures.

    Args:
        k: which neighbour's distance is the radius of a ball. The larger, the higher are the numbers.
    """

    limit, ceiling_is = "ceiling", "real training against real test images"
    decimals, lower_is_better, range = 3, False, (0, 1)

    def __init__(self, *, dims: int = USUAL_DIMS, real_size: str = "native", k: int = USUAL_K):
        super().__init__(dims=dims, real_size=real_size)
        if k < 1:
            raise ValueError(f"k={k}: expected 1 or more")
        self.k = k

    @property
    def title(self) -> str:
        return super().title + (f" (k = {self.k})" if self.k != USUAL_K else "")

    def lack(self, generated: int, real: int) -> str | None:
        if min(generated, real) > self.k:
            return None
        return f"with k = {self.k} it needs at least {self.k + 1} pictures of each kind: {generated} generated, {real} real"

    def both(self, pictures: Pictures, side: str) -> tuple[float, float]:
        """Precision and recall of a side of `Features`; computed once for the two metrics."""
        features = self.features(pictures)
        key = ("precision and recall", self.dims, self.real_size, self.k, side)
        return pictures.once(key, lambda: precision_and_recall(getattr(features, side), features.test, self.k))


class Precision(_Coverage):
    """Share of the generated pictures that lie among the real test images, in Inception features; in [0, 1], 1 is best.

    It sees whether pictures look real: blur, noise and colours that no real picture has lower it. It does not see how few kinds
    of pictures there are: one good picture, made again and again, has 1. Read it beside `recall`. Both depend on the number of
    pictures, generated and real, so numbers of different counts are different quantities; so are those of other features.
    """

    name = "precision"

    def between(self, pictures: Pictures, side: str) -> float:
        return self.both(pictures, side)[0]


class Recall(_Coverage):
    """Share of the real test images that lie among the generated pictures, in Inception features; in [0, 1], 1 is best.

    It sees whether the pictures are as varied as the real ones: with a fair precision, a low recall is a generator that has
    collapsed. A picture that is made more than k times has a ball without an extent, and covers nothing but itself. Pictures
    that are far from real ones but differ among themselves have large balls, which may hold real pictures: read it beside
    `precision`, whose remarks on features and numbers of pictures apply.
    """

    name = "recall"

    def between(self, pictures: Pictures, side: str) -> float:
        return self.both(pictures, side)[1]


def precision_and_recall(made: np.ndarray, real: np.ndarray, k: int = USUAL_K) -> tuple[float, float]:
    """Eq. 1 and 2 of the paper: the shares of `made` in the balls of `real`, and of `real` in those of `made`.

    Args:
        made, real: (N, dims), (M, dims); N, M > k.
    """
    across = distances(made, real)  # (N, M)
    in_real = across <= radii(distances(real, real), k)
    in_made = across <= radii(distances(made, made), k)[:, None]
    return float(in_real.any(1).mean()), float(in_made.any(0).mean())


def radii(within: np.ndarray, k: int) -> np.ndarray:
    """(N,): how far the k-th nearest neighbour is, the point itself not counted. Args: within, distances in a set, (N, N)."""
    return np.asarray(np.partition(within, k, axis=1)[:, k])  # at place 0 the point itself, or one that equals it


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, M) Euclidean distances of (N, dims) and (M, dims).

    By differences: |a|^2 + |b|^2 - 2 a.b, which is faster, leaves equal points apart, and then not in their own balls.
    """
    exact = "donot_use_mm_for_euclid_dist"
    return np.asarray(torch.cdist(torch.from_numpy(a), torch.from_numpy(b), compute_mode=exact))
