"""Palettes, held to SciPy's Wasserstein distance, to closed forms, and to what on drawings they answer to and what not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance
from skimage.color import rgb2lab
from torch import Tensor

from attnbench import Pictures
from attnbench.config.recipe import Data
from attnbench.contract.distortions import blurred, recoloured, shifted
from attnbench.data.images import PreparedDataset
from attnbench.metrics.generate import PairSet
from attnbench.metrics.measure import Number, measure, pictures_of
from attnbench.metrics.metric import parse_metric
from attnbench.metrics.palette import DIRECTIONS, MOST, directions, distance, sorted_shadows
from attnbench.metrics.protocol import Protocol

CPU = torch.device("cpu")
DATA = Data(size=64)


def points(count: int, seed: int = 0) -> np.ndarray:
    """(count, 3), clustered and spread unevenly, as colours are."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 3)) * (5, 20, 10) + rng.choice([0, 30, 60], size=(count, 1))


def apart(a: np.ndarray, b: np.ndarray) -> float:
    return distance(sorted_shadows(a), sorted_shadows(b))


def palette(pictures: Pictures) -> Number:
    (number,) = measure(pictures, [parse_metric("palette")]).values()
    assert number.scores is not None, number.reason
    return number


def score(pictures: Pictures) -> float:
    return float(palette(pictures).value or 0)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def given(generated: Tensor, reference: Tensor, *, sketch: Tensor | None = None, ink: Tensor | None = None) -> Pictures:
    """Pictures by hand, (N, 3, S, S). Args: sketch (N, 1, S, S), by default white; ink (N, S, S): lines of the references."""
    white = torch.full((len(generated), 1, *generated.shape[2:]), 255, dtype=torch.uint8)
    drawn = white if ink is None else torch.where(ink[:, None], 0, white)
    available = {
        "sketch": lambda: white if sketch is None else sketch,
        "reference": lambda: reference,
        "draw": lambda: lambda images, rows: drawn[list(rows)],
    }
    return Pictures(generated, [(str(row), str(row)) for row in range(len(generated))], CPU, available)


def coloured(pictures: Pictures, generated: Tensor) -> Pictures:
    return replace(pictures, generated=generated, _made={}, _own={})


# The distance of two sets of points


@pytest.mark.parametrize(("n", "m"), [(50, 50), (50, 17), (17, 50), (64, 32), (1, 9), (9, 1), (1, 1), (101, 97)])
def test_it_is_scipys_wasserstein_distance_along_each_direction(n: int, m: int) -> None:
    a, b = points(n, seed=1), points(m, seed=2)
    wanted = np.mean([wasserstein_distance(a @ one, b @ one) for one in directions()])
    assert apart(a, b) == pytest.approx(wanted, rel=1e-12)
    assert apart(b, a) == pytest.approx(wanted, rel=1e-12)


def test_directions_are_unit_vectors_of_one_half_and_spread_evenly() -> None:
    found = directions()
    assert found.shape == (DIRECTIONS, 3)
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(DIRECTIONS))
    assert found[:, 0].min() > 0
    both = np.concatenate([found, -found])  # t and -t are one direction
    nearest = np.degrees(np.arccos(np.sort(found @ both.T, axis=1)[:, -2].clip(-1, 1)))
    assert nearest.min() > 8
    assert nearest.max() < 20
    vectors = np.random.default_rng(0).normal(size=(200, 3))
    lengths = np.abs(vectors @ found.T).mean(1) / np.linalg.norm(vectors, axis=1)
    assert lengths == pytest.approx(np.full(200, 0.5), abs=0.01)


@pytest.mark.parametrize("shift", [(10, 0, 0), (0, 7, 0), (3, -4, 12)])
def test_points_that_are_all_shifted_are_as_far_as_the_shift_s_mean_shadow_which_is_half_its_length(
    shift: Sequence[float],
) -> None:
    a, by = points(40), np.array(shift)
    found = apart(a, a + by)
    assert found == pytest.approx(np.abs(directions() @ by).mean())
    assert found == pytest.approx(np.linalg.norm(by) / 2, rel=0.02)


def test_the_same_points_in_any_order_or_any_number_of_times_over_are_at_distance_0() -> None:
    a = points(40)
    assert apart(a, a) == 0
    assert apart(a, a[np.random.default_rng(1).permutation(40)]) == pytest.approx(0, abs=1e-12)
    assert apart(a, np.repeat(a, 3, axis=0)) == pytest.approx(0, abs=1e-12)


def test_of_scaled_points_it_is_scaled() -> None:
    a, b = points(40, seed=1), points(31, seed=2)
    assert apart(3 * a, 3 * b) == pytest.approx(3 * apart(a, b))


def test_a_share_of_another_colour_counts_by_its_share() -> None:
    one, other = np.array([[50.0, 0, 0]]), np.array([[50.0, 40, 0]])
    mixed = np.repeat(np.concatenate([one, other]), [3, 1], axis=0)
    assert apart(mixed, one) == pytest.approx(apart(one, other) / 4)


# Of pictures


def test_it_is_the_distance_of_the_pictures_colours_in_cielab() -> None:
    made, reference = noise(3, 3, 16, 16, seed=1), noise(3, 3, 16, 16, seed=2)
    found = palette(given(made, reference)).scores
    labs = [[rgb2lab(one.permute(1, 2, 0).numpy()).reshape(-1, 3) for one in images] for images in (made, reference)]
    wanted = [np.mean([wasserstein_distance(a @ one, b @ one) for one in directions()]) for a, b in zip(*labs, strict=True)]
    assert found == pytest.approx(wanted, rel=1e-9)


def test_where_a_colour_is_makes_no_difference() -> None:
    made, reference = noise(1, 3, 32, 32, seed=1) // 2, noise(1, 3, 32, 32, seed=2)
    order = torch.from_numpy(np.random.default_rng(3).permutation(32 * 32))
    mixed = made.flatten(2)[..., order].view_as(made)
    assert not torch.equal(mixed, made)
    assert score(given(mixed, reference)) == pytest.approx(score(given(made, reference)), abs=1e-10)
    assert score(given(reference.flatten(2)[..., order].view_as(made), reference)) == pytest.approx(0, abs=1e-10)


def test_a_copy_of_the_reference_scores_0() -> None:
    reference = noise(2, 3, 16, 16)
    assert palette(given(reference, reference)).scores == pytest.approx([0, 0])


def test_lines_count_on_neither_side() -> None:
    made, reference = noise(1, 3, 32, 32, seed=1), noise(1, 3, 32, 32, seed=2)
    sketch, ink = torch.full((1, 1, 32, 32), 255, dtype=torch.uint8), torch.zeros(1, 32, 32, dtype=torch.bool)
    sketch[..., 5:9, :], ink[..., 20:22] = 0, True
    wanted = score(given(made, reference, sketch=sketch, ink=ink))
    made[..., 5:9, :], reference[..., 20:22] = 0, 77
    assert score(given(made, reference, sketch=sketch, ink=ink)) == wanted
    assert score(given(made, reference)) != pytest.approx(wanted, abs=0.1)


def test_of_pictures_that_are_all_lines_every_pixel_counts() -> None:
    made, reference = noise(1, 3, 16, 16, seed=1), noise(1, 3, 16, 16, seed=2)
    black, all_ink = torch.zeros(1, 1, 16, 16, dtype=torch.uint8), torch.ones(1, 16, 16, dtype=torch.bool)
    assert score(given(made, reference, sketch=black, ink=all_ink)) == score(given(made, reference))


@pytest.mark.parametrize(("size", "step"), [(MOST, 1), (MOST + 2, 2), (2 * MOST, 2), (2 * MOST + 1, 3)])
def test_large_pictures_are_looked_at_on_a_lattice(size: int, step: int) -> None:
    made, reference = noise(1, 3, size, size, seed=1), noise(1, 3, size, size, seed=2) // 2
    a, b = (one[..., step // 2 :: step, step // 2 :: step].contiguous() for one in (made, reference))
    assert a.shape[-1] <= MOST
    assert score(given(made, reference)) == pytest.approx(score(given(a, b)), rel=1e-12)


def test_a_picture_s_score_depends_on_no_other_and_not_on_its_place() -> None:
    made, reference = noise(5, 3, 16, 16, seed=1), noise(5, 3, 16, 16, seed=2)
    together, rows = palette(given(made, reference)).scores, [3, 0, 4, 2, 1]
    assert together is not None
    assert palette(given(made[rows], reference[rows])).scores == pytest.approx(together[rows])
    assert [score(given(made[i : i + 1], reference[i : i + 1])) for i in range(5)] == pytest.approx(together)


def test_no_table_shows_it_without_the_metric_that_a_copy_would_lose() -> None:
    assert parse_metric("palette").descriptor.companion == "outline"


# On drawings


def test_recorded_with_it_is_what_the_originals_have(drawings: Pictures, dataset: PreparedDataset) -> None:
    found = palette(coloured(drawings, drawings.wanted))
    assert found.details["original"] == pytest.approx(found.value, abs=0.006)
    assert palette(drawings).details["original"] == found.details["original"]
    elsewhere = Protocol(references="folder", folder="x", folder_digest="1a")
    pairs = PairSet.of(dataset.test, elsewhere, DATA, dataset.train)
    foreign = palette(pictures_of(dataset.test.images, pairs, dataset, CPU))
    assert foreign.value is not None
    assert "original" not in foreign.details


def test_a_copy_of_the_reference_wins_and_has_another_drawing_s_outline(drawings: Pictures) -> None:
    made = {"copy": drawings.reference, "answer": drawings.answers, "original": drawings.wanted}
    found = {name: score(coloured(drawings, images)) for name, images in made.items()}
    assert found["copy"] < found["answer"] < 0.5 * found["original"]  # a copy's lines are not those of the sketch: not quite 0
    (outline,) = measure(coloured(drawings, drawings.reference), [parse_metric("outline")]).values()
    assert (outline.value or 0) < 65


@pytest.mark.parametrize("of", ["answers", "reference"])
def test_the_further_colours_are_moved_the_higher_it_is(of: str, drawings: Pictures) -> None:
    right, parts = getattr(drawings, of), drawings.parts if of == "answers" else drawings.reference_parts
    found = [score(coloured(drawings, recoloured(right, parts, amount))) for amount in (0, 5, 10, 20, 40, 60)]
    assert all(b > a for a, b in pairwise(found)), found
    assert found[-1] > 3 * found[0]


@pytest.mark.parametrize(
    ("distort", "steps"),
    [(lambda images, by: shifted(images, int(by)), (1, 2, 3, 4)), (lambda images, by: blurred(images, by), (0.5, 1, 1.5, 2))],
    ids=["shifted", "blurred"],
)
def test_what_moves_colours_by_a_few_pixels_or_mixes_them_at_edges_is_hardly_seen(
    distort: Callable[[Tensor, float], Tensor], steps: Sequence[float], drawings: Pictures
) -> None:
    """Dark lines come out from under those of the sketch, or into the areas beside them: a share of a few pixels."""
    found = [score(coloured(drawings, distort(drawings.answers, step))) for step in steps]
    assert found == pytest.approx([score(drawings)] * len(steps), abs=1)
