"""Multi-scale SSIM, held to the formula and to closed forms; and metrics that need pictures of some size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from attnbench import Pictures, plugins
from attnbench.contract.distortions import blurred, noisy, recoloured, shifted
from attnbench.data.synthetic import draw
from attnbench.metrics.grey_levels import C1, C2, grey_levels
from attnbench.metrics.lacks import is_lack
from attnbench.metrics.measure import Number, measure
from attnbench.metrics.metric import Metric, metric_of, parse_metric
from attnbench.metrics.ms_ssim import MSSSIM, ms_ssim

CPU = torch.device("cpu")
SIZE = MSSSIM.smallest
EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # table of the paper, section 3.2


@pytest.fixture(scope="module")
def heads() -> Tensor:
    """(4, 3, S, S)."""
    return torch.stack([torch.from_numpy(np.array(draw(0, index, SIZE))).permute(2, 0, 1) for index in range(4)])


def given(generated: Tensor, wanted: Tensor) -> Pictures:
    names = [(str(row), str(row)) for row in range(len(generated))]
    return Pictures(generated, names, CPU, {"wanted": lambda: wanted})


def number(generated: Tensor, wanted: Tensor, metric: Metric | None = None) -> Number:
    (found,) = measure(given(generated, wanted), [metric or parse_metric("ms_ssim")]).values()
    return found


def score(generated: Tensor, wanted: Tensor) -> float:
    return float(number(generated, wanted).value or 0)


def by_the_formula(a: np.ndarray, b: np.ndarray) -> float:
    """Of two grey pictures: contrast and structure in windows inside of the picture, at the last scale with luminance."""
    mean = partial(gaussian_filter, sigma=1.5, mode="mirror", truncate=3.5)  # 11 x 11
    product = 1.0
    for scale, exponent in enumerate(EXPONENTS, 1):
        mean_a, mean_b = mean(a), mean(b)
        covariance = mean(a * b) - mean_a * mean_b
        variances = mean(a * a) - mean_a**2 + mean(b * b) - mean_b**2
        term = (2 * covariance + C2) / (variances + C2)
        if scale == len(EXPONENTS):
            term = term * (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
        product *= max(term[5:-5, 5:-5].mean(), 0) ** exponent
        a, b = (by_pairs(by_pairs(x).T).T for x in (a, b))
    return product


def by_pairs(rows: np.ndarray) -> np.ndarray:
    """Means of two rows; the last of an odd number by itself."""
    return np.stack([rows[i : i + 2].mean(0) for i in range(0, len(rows), 2)])


@pytest.mark.parametrize("size", [176, 192])
def test_it_is_torchmetrics_but_for_the_coarsest_scale_s_border(size: int) -> None:
    """torchmetrics' last mean takes in windows that look at a mirrored picture."""
    heads = torch.stack([torch.from_numpy(np.array(draw(1, index, size))).permute(2, 0, 1) for index in range(3)])
    made = grey_levels(noisy(blurred(heads, 2), 20))
    right = grey_levels(heads)
    theirs = partial(multiscale_structural_similarity_index_measure, reduction="none", data_range=255.0, normalize="relu")
    assert torch.allclose(ms_ssim(made, right), theirs(made, right), atol=2e-3)


def test_it_is_the_formula_scale_by_scale(heads: Tensor) -> None:
    made = torch.cat([blurred(heads[:1], 2), noisy(heads[1:2], 20), shifted(heads[2:3], 3), heads[:1]])
    found = number(made, heads).scores
    grey = (grey_levels(made)[:, 0].numpy(), grey_levels(heads)[:, 0].numpy())
    assert found == pytest.approx([by_the_formula(a, b) for a, b in zip(*grey, strict=True)], abs=1e-6)


@pytest.mark.parametrize(("one", "other"), [(200, 100), (0, 255), (90, 91), (7, 7)])
def test_of_plain_pictures_the_luminance_at_the_coarsest_scale_is_all_that_differs(one: int, other: int) -> None:
    a, b = (torch.full((1, 1, SIZE, SIZE), float(level), dtype=torch.float64) for level in (one, other))
    luminance = (2 * one * other + C1) / (one**2 + other**2 + C1)
    assert ms_ssim(a, b).item() == pytest.approx(luminance ** EXPONENTS[-1], abs=1e-6)


def test_equal_pictures_score_1_and_opposite_ones_0_not_nothing(heads: Tensor) -> None:
    rough = torch.from_numpy(np.random.default_rng(0).integers(0, 2, (1, 1, 11, 11), dtype=np.uint8) * 255)
    rough = rough.repeat_interleave(16, 2).repeat_interleave(16, 3).expand(-1, 3, -1, -1).contiguous()  # contrast at all scales
    assert number(heads, heads).scores == pytest.approx(np.ones(4))
    assert number(255 - rough, rough).scores == pytest.approx([0], abs=0)
    assert score(rough, rough) == pytest.approx(1)


def test_it_is_symmetric_and_depends_neither_on_other_pictures_nor_on_the_order(heads: Tensor) -> None:
    made, rows = noisy(blurred(heads, 1), 10), [2, 0, 3, 1]
    together = number(made, heads).scores
    assert together is not None
    assert number(heads, made).scores == pytest.approx(together)
    assert number(made[rows], heads[rows]).scores == pytest.approx(together[rows])
    assert [score(made[i : i + 1], heads[i : i + 1]) for i in range(4)] == pytest.approx(together)


@pytest.mark.parametrize(
    ("distort", "steps", "last"),
    [
        (blurred, (0, 1, 2, 3), 0.9),
        (shifted, (0, 1, 2, 4), 0.7),
        (noisy, (0, 10, 20, 40), 0.9),
    ],
    ids=["blurred", "shifted", "noisy"],
)
def test_the_worse_a_picture_is_the_lower_it_is(
    distort: Callable[[Tensor, Any], Tensor], steps: Sequence[int], last: float, heads: Tensor
) -> None:
    found = [score(distort(heads[:2], step), heads[:2]) for step in steps]
    assert found[0] == pytest.approx(1)
    assert all(b < a for a, b in pairwise(found)), found
    assert found[-1] < last


def test_hues_of_the_same_lightness_are_hardly_seen(heads: Tensor) -> None:
    halves = (torch.arange(SIZE) >= SIZE // 2).long().expand(2, SIZE, SIZE)
    assert score(recoloured(heads[:2], halves, 20), heads[:2]) > 0.98


# Pictures that are too small


def test_below_its_smallest_size_it_has_no_number_and_says_so_and_at_this_size_it_has_one(heads: Tensor) -> None:
    small, large = number(heads[..., :64, :64], heads[..., :64, :64]), number(heads[:1], heads[:1])
    assert (small.value, small.failed, small.missing) == (None, False, None)
    assert small.reason == f"pictures of 64 px are too small: it needs {SIZE}"
    assert large.value == pytest.approx(1)
    below = heads[:1, ..., 1:, 1:]
    assert number(below, below).reason == f"pictures of {SIZE - 1} px are too small: it needs {SIZE}"


class ForLarge:
    """Scores pictures of 40 pixels and more, by a network that nobody has."""

    title, lower_is_better, per_image, smallest, needs = "large", False, True, 40, ("no-such-network",)

    def measure(self, pictures: Pictures) -> object:
        raise AssertionError("it is not asked")


def test_the_size_is_looked_at_before_networks_are() -> None:
    metric, picture = metric_of(ForLarge, "large", {}), torch.zeros(1, 3, 39, 39, dtype=torch.uint8)
    found = number(picture, picture, metric)
    assert (found.reason, found.missing, found.failed) == ("pictures of 39 px are too small: it needs 40", None, False)


def test_a_size_is_no_secret_of_a_machine() -> None:
    assert is_lack("pictures of 64 px are too small: it needs 161", "mine")
    assert not is_lack("it failed: pictures of 64 px are too small: it needs 161 GB of /home/me", "mine")


def test_metrics_that_say_nothing_of_it_measure_pictures_of_any_size() -> None:
    others = [plugin.name for plugin in plugins.installed(plugins.METRICS) if plugin.name != "ms_ssim"]
    assert {parse_metric(name).smallest for name in others} == {1}


@pytest.mark.parametrize("name", ["psnr", "ms_ssim"])
def test_tables_show_how_it_differs_between_protocols(name: str) -> None:
    assert parse_metric(name).descriptor.gap
