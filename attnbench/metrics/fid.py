"""FID: Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", NeurIPS 2017."""

from __future__ import annotations

import numpy as np

from attnbench.metrics.inception import USUAL_DIMS, SetDistance


class FID(SetDistance):
    """Frechet distance between generated and real test images, in Inception features; 0 for equal sets.

    It sees whether the pictures as a set look real, and not whether a picture has the right colours. It falls with the
    number of pictures, so numbers of different counts are different quantities.
    """

    name, usual_decimals, range = "FID", 2, (0, None)

    @property
    def in_paper(self) -> bool:
        return self.dims == USUAL_DIMS

    def distance(self, a: np.ndarray, b: np.ndarray) -> float:
        return frechet_distance(a, b)


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """|mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), unbiased covariances, in float64.

    With centred features X / sqrt(n - 1) = Q R, the trace of the root is the nuclear norm of R_a R_b^T: no matrix root is
    taken, and rank-deficient covariances (fewer images than dimensions; Q = I then) need no regularisation.

    Args:
        a, b: (N, dims), (M, dims); N, M >= 2.
    """
    difference = a.mean(0) - b.mean(0)
    root_a, root_b = _covariance_root(a), _covariance_root(b)
    cross = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    return float(difference @ difference + (root_a**2).sum() + (root_b**2).sum() - 2 * cross)


def _covariance_root(features: np.ndarray) -> np.ndarray:
    """R with R^T R = covariance; min(images, dims) rows."""
    centred = (features - features.mean(0)) / np.sqrt(len(features) - 1)
    return centred if len(centred) <= centred.shape[1] else np.asarray(np.linalg.qr(centred, mode="r"))
