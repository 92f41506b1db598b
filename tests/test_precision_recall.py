"""Precision and recall of sets: naive loops, closed forms, and what they answer to."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from attnbench import NotMeasurable, Pictures, UserError, check_metric, weights
from attnbench.config.recipe import Data
from attnbench.contract.distortions import blurred, noisy
from attnbench.data.images import prepare
from attnbench.data.layouts import synthetic
from attnbench.metrics import inception, precision_recall
from attnbench.metrics.generate import PairSet
from attnbench.metrics.inception import Features
from attnbench.metrics.measure import Number, measure, pictures_of
from attnbench.metrics.metric import parse_metric
from attnbench.metrics.precision_recall import distances, precision_and_recall, radii
from attnbench.metrics.protocol import Protocol

CPU = torch.device("cpu")


def points(count: int, dims: int = 8, *, seed: int = 0, at: float = 0, scale: float = 1) -> np.ndarray:
    return at + scale * np.random.default_rng(seed).normal(size=(count, dims))


# The formula


def naive(made: np.ndarray, real: np.ndarray, k: int) -> tuple[float, float]:
    """Equations 1 and 2, point by point."""

    def distance(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True))))

    def share(of: np.ndarray, among: np.ndarray) -> float:
        inside = 0
        for point in of:
            for i, centre in enumerate(among):
                others = sorted(distance(centre, other) for j, other in enumerate(among) if i != j)
                if distance(point, centre) <= others[k - 1]:
                    inside += 1
                    break
        return inside / len(of)

    return share(made, real), share(real, made)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize(("at", "scale"), [(0, 1), (0.7, 1), (0, 0.3), (0, 2)])
def test_both_are_what_naive_loops_find(k: int, at: float, scale: float) -> None:
    made, real = points(17, 4, seed=1, at=at, scale=scale), points(23, 4, seed=2)
    assert precision_and_recall(made, real, k) == pytest.approx(naive(made, real, k))


def test_by_hand_on_a_line() -> None:
    """With k = 1, real 0, 1, 3, 10 have balls of radius 1, 1, 2, 7; generated -1, 4, 20 have 5, 5, 16."""
    made, real = np.array([[-1.0], [4], [20]]), np.array([[0.0], [1], [3], [10]])
    assert precision_and_recall(made, real, 1) == (2 / 3, 1)  # 20 is in none
    assert radii(distances(real, real), 1).tolist() == [1, 1, 2, 7]
    assert radii(distances(made, made), 1).tolist() == [5, 5, 16]
    assert radii(distances(real, real), 3).tolist() == [10, 9, 7, 10]


def test_equal_sets_have_one_in_any_order_even_if_points_come_several_times() -> None:
    real = np.repeat(points(6, 2048, scale=1e3), 5, 0)  # with k = 3 all balls have the radius 0
    assert precision_and_recall(real[::-1].copy(), real) == (1, 1)
    assert precision_and_recall(points(40), points(40)) == (1, 1)


def test_changing_places_turns_one_into_the_other() -> None:
    made, real = points(20, seed=1, scale=0.5), points(30, seed=2)
    assert precision_and_recall(made, real) == precision_and_recall(real, made)[::-1]


def test_neither_depends_on_the_order_of_pictures() -> None:
    made, real = points(40, seed=1, at=0.3), points(50, seed=2)
    mixed = np.random.default_rng(0).permutation
    assert precision_and_recall(made[mixed(40)], real[mixed(50)]) == precision_and_recall(made, real)


# What they answer to


def test_one_picture_made_again_and_again_has_full_precision_and_no_recall() -> None:
    real = points(50)
    precision, recall = precision_and_recall(np.repeat(real[:1], 50, 0), real)
    assert precision == 1
    assert recall == 1 / 50  # itself


@pytest.mark.parametrize(("times", "recall"), [(1, 1), (3, 1), (4, 0.25)])
def test_pictures_made_more_than_k_times_cover_nothing_but_themselves(times: int, recall: float) -> None:
    """On a ring of which every n-th point is made n times: up to k times, a ball reaches as far as the next that is made."""
    angles = np.arange(48) * 2 * np.pi / 48
    ring = np.stack([np.cos(angles), np.sin(angles)], 1)
    made = np.repeat(ring[::times], times, 0)
    assert precision_and_recall(made, ring) == (1, recall)


@pytest.mark.parametrize("missing", [20, 50, 80])
def test_a_cluster_that_is_never_made_lacks_in_recall_and_not_in_precision(missing: int) -> None:
    one, other = points(100 - missing, seed=1), points(missing, seed=2, at=100)
    precision, recall = precision_and_recall(one, np.concatenate([one, other]))
    assert precision == 1
    assert recall == pytest.approx(1 - missing / 100)


def test_pictures_far_away_have_neither() -> None:
    assert precision_and_recall(points(50, seed=1, at=100), points(50)) == (0, 0)


def test_half_of_the_pictures_far_away_halves_precision() -> None:
    real = points(50)
    precision, recall = precision_and_recall(np.concatenate([real, points(50, seed=1, at=100)]), real)
    assert (precision, recall) == (0.5, 1)


def test_the_further_away_the_lower_are_both_and_the_narrower_the_lower_is_recall() -> None:
    real = points(200, 4)
    apart = [precision_and_recall(points(200, 4, seed=1, at=at), real) for at in (0, 1, 1.5, 3)]
    for column in zip(*apart, strict=True):
        assert all(nearer > farther for nearer, farther in pairwise(column))
    narrow = [precision_and_recall(points(200, 4, seed=1, scale=scale), real) for scale in (1, 0.7, 0.4, 0.2)]
    assert all(wider[1] > narrower[1] for wider, narrower in pairwise(narrow))
    assert all(wider[0] <= narrower[0] for wider, narrower in pairwise(narrow))


def test_a_larger_k_gives_larger_numbers() -> None:
    found = [precision_and_recall(points(40, seed=1), points(40), k) for k in (1, 3, 9, 39)]
    for column in zip(*found, strict=True):
        assert all(a <= b for a, b in pairwise(column))


# As metrics


def measured(features: Features, monkeypatch: pytest.MonkeyPatch, *texts: str) -> dict[str, Number]:
    """The numbers of made-up features."""
    real = SimpleNamespace(dataset=SimpleNamespace(test_pictures=list(features.test)))
    images = torch.zeros(len(features.generated), 3, 8, 8, dtype=torch.uint8)
    monkeypatch.setattr(inception, "features_for", lambda pictures, dims, real_size: features)
    monkeypatch.setattr(weights, "find_or_download", lambda name: Path(__file__))
    pictures = Pictures(images, [("a", "b")] * len(images), CPU, {"real": lambda: real})
    return measure(pictures, [parse_metric(text) for text in texts or ("precision", "recall")])


def test_a_number_says_of_how_many_it_is_and_what_training_images_have(monkeypatch: pytest.MonkeyPatch) -> None:
    made, test, train = points(20, seed=1, at=1), points(30, seed=2), points(25, seed=3)
    numbers = measured(Features(made, test, train), monkeypatch)
    for at, name in enumerate(("precision", "recall")):
        number = numbers[name]
        assert number.value == precision_and_recall(made, test)[at]
        ceiling = precision_and_recall(train, test)[at]
        assert number.details == {"n": 20, "n_real": 30, "ceiling": ceiling, "n_ceiling": 25}
        assert number.value < ceiling
        assert number.descriptor.options == {"dims": 2048, "real_size": "native", "k": 3}
        assert list(number.weights) == ["inception"]


def test_without_training_images_or_with_too_few_there_is_no_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    for train in (None, points(3)):
        numbers = measured(Features(points(20), points(30), train), monkeypatch)
        assert all(number.details == {"n": 20, "n_real": 30} for number in numbers.values())


def test_the_two_share_their_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    computed = []

    def counted(made: np.ndarray, real: np.ndarray, k: int) -> tuple[float, float]:
        computed.append(k)
        return precision_and_recall(made, real, k)

    monkeypatch.setattr(precision_recall, "precision_and_recall", counted)
    texts = ["precision", "recall", "recall:k=5"]
    numbers = measured(Features(points(9), points(9, seed=1), points(9, seed=2)), monkeypatch, *texts)
    assert computed == [3, 3, 5, 5]  # generated and training images
    assert len({number.descriptor.title for number in numbers.values()}) == 3


@pytest.mark.parametrize(("made", "real", "k", "told"), [(3, 9, 3, "3 generated, 9 real"), (9, 5, 5, "9 generated, 5 real")])
def test_with_no_more_pictures_than_neighbours_there_is_no_number_and_the_reason(
    made: int, real: int, k: int, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"precision:k={k}", f"recall:k={k}"]
    for number in measured(Features(points(made), points(real), None), monkeypatch, *texts).values():
        assert (number.value, number.failed) == (None, False)
        assert number.reason == f"with k = {k} it needs at least {k + 1} pictures of each kind: {told}"


def test_titles_name_what_changes_the_scale_and_options_are_checked() -> None:
    titles = [parse_metric(text, {"fid_dims": 768}).descriptor.title for text in ("precision", "recall:k=5:real_size=target")]
    assert titles == ["precision-768", "recall-768 (real at target size) (k = 5)"]
    for text, told in (("recall:k=0", "k=0: expected 1 or more"), ("precision:dims=7", "dims=7: expected one of 64, 192")):
        with pytest.raises(UserError, match=told):
            parse_metric(text)


# With real weights


@pytest.fixture
def drawings(torch_home: Path, tmp_path: Path) -> Pictures:
    """Drawn heads, whose pictures are the sketches' own originals."""
    if weights.find("inception") is None:
        pytest.skip("needs the weights inception")
    dataset = prepare(synthetic(train=16, test=16, size=48), Data(size=48))
    pairs = PairSet.of(dataset.test, Protocol(), Data(size=48))
    return pictures_of(pairs.wanted(), pairs, dataset, CPU, cache=tmp_path)


def values(pictures: Pictures, **changed: Any) -> tuple[float, float]:
    """Precision and recall at 64 channels."""
    numbers = measure(replace(pictures, **changed, _made={}, _own={}), [parse_metric(f"{name}:dims=64") for name in BOTH])
    precision, recall = (number.value for number in numbers.values())
    assert precision is not None
    assert recall is not None
    return precision, recall


BOTH = ("precision", "recall")


def test_originals_have_one_blur_and_noise_lower_both_and_a_collapse_recall_alone(drawings: Pictures) -> None:
    images = drawings.generated
    assert values(drawings) == (1, 1)
    for distortion, amounts in ((blurred, (0.4, 0.8, 3)), (noisy, (2, 8, 60))):
        precisions = [1.0, *(values(drawings, generated=distortion(images, amount))[0] for amount in amounts)]
        assert all(less >= more for less, more in pairwise(precisions)), precisions
        assert precisions[-1] < 0.2
    precision, recall = values(drawings, generated=images[:1].expand_as(images).contiguous())
    assert precision == 1
    assert recall < 0.2
    half = torch.cat([images[:8], images[:8]])
    assert values(drawings, generated=half)[1] < 1


def test_features_of_other_batches_and_orders_give_the_same_numbers(
    drawings: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    soft = blurred(drawings.generated, 0.4)
    wanted = values(drawings, generated=soft)
    assert values(drawings, generated=soft.flip(0)) == wanted
    monkeypatch.setattr("attnbench.metrics.pictures.CHUNK", {"cpu": 3})
    assert values(drawings, generated=soft) == wanted


@pytest.mark.parametrize("name", BOTH)
def test_both_keep_the_contract_of_metrics(name: str, drawings: Pictures) -> None:
    report = check_metric(name, device="cpu", options={"dims": 64})
    report.raise_if_failed()
    assert {found.name for found in report.findings if found.status == "note"} <= {"random"}


def test_they_need_nothing_that_distances_of_sets_do_not() -> None:
    for name in BOTH:
        mine, theirs = parse_metric(name, {"fid_dims": 192}), parse_metric("fid", {"fid_dims": 192})
        assert (mine.needs, mine.uses, mine.packages) == (theirs.needs, theirs.uses, theirs.packages)


def test_a_reason_is_given_where_references_come_from_elsewhere() -> None:
    pictures = Pictures(torch.zeros(5, 3, 8, 8, dtype=torch.uint8), [("a", "b")] * 5, CPU, {}, {"real": "none here"})
    with pytest.raises(NotMeasurable, match="none here"):
        parse_metric("precision").scorer.measure(pictures)
