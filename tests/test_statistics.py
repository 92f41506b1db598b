"""Intervals and tests against closed forms and scipy, their coverage, and uniform p-values without a difference."""

import numpy as np
import pytest
import scipy.stats

from attnbench.tables.statistics import (
    bootstrap_interval,
    by_length,
    mean_relative_improvement,
    over_images,
    over_seeds,
    relative_improvement,
    sign_flip_p,
)


def test_over_seeds_is_scipys_paired_t():
    a, b = np.array([30.1, 31.4, 29.2, 33.0]), np.array([32.0, 31.9, 31.1, 33.3])
    ours, theirs = over_seeds(a - b), scipy.stats.ttest_rel(a, b)
    interval = theirs.confidence_interval(0.95)
    assert ours.n == 4
    assert [ours.mean, ours.low, ours.high, ours.p] == pytest.approx(
        [np.mean(a - b), interval.low, interval.high, theirs.pvalue], rel=1e-9
    )


def test_of_two_seeds_the_interval_is_the_textbooks():
    """t of one degree of freedom at 97.5 % is 12.706; the differences 1 and 3 have mean 2 and standard error 1."""
    found = over_seeds([1.0, 3.0])
    assert [found.low, found.high] == pytest.approx([2 - 12.7062, 2 + 12.7062], abs=1e-3)
    assert found.p == pytest.approx(0.29517, abs=1e-4)  # 1 - 2 arctan(2) / pi
    assert not found.significant


@pytest.mark.parametrize("differences", [[0.3], [0.3, 0.3, 0.3]])
def test_without_a_spread_there_is_a_mean_and_no_test(differences):
    found = over_seeds(differences)
    assert found.mean == pytest.approx(0.3)
    assert np.isnan([found.low, found.high, found.p]).all()
    assert not found.significant


def test_networks_with_equal_scores_do_not_differ():
    assert over_seeds([0.0, 0.0]).p == 1
    (found,) = over_images(np.zeros((1, 20)))
    assert (found.mean, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_the_bootstrap_interval_is_scipys():
    scores = np.random.default_rng(1).gamma(2.0, 0.1, (3, 200))
    theirs = scipy.stats.bootstrap(
        (scores,), np.mean, axis=-1, method="percentile", n_resamples=9999, rng=np.random.default_rng(2)
    )
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert np.abs(bootstrap_interval(scores)[:, 0] - theirs.confidence_interval.low) == pytest.approx(0, abs=0.03 * width.max())
    assert np.abs(bootstrap_interval(scores)[:, 1] - theirs.confidence_interval.high) == pytest.approx(
        0, abs=0.03 * width.max()
    )


def test_the_bootstrap_interval_covers_the_truth_as_often_as_it_says():
    """One call for 400 datasets of 100 images: 95 % of the intervals hold the true mean, within three standard errors."""
    scores = np.random.default_rng(3).beta(5, 2, (400, 100))
    low, high = bootstrap_interval(scores).T
    assert np.mean((low <= 5 / 7) & (high >= 5 / 7)) == pytest.approx(0.95, abs=0.033)


def test_the_sign_flip_test_is_scipys():
    differences = np.random.default_rng(4).normal(0.15, 1, 60)
    theirs = scipy.stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=9999, vectorized=True, rng=np.random.default_rng(5)
    )
    assert sign_flip_p(differences)[0] == pytest.approx(theirs.pvalue, abs=0.02)


def test_with_few_images_the_sign_flip_test_matches_counting_by_hand():
    """Five differences of one sign: 2 of the 32 choices of signs are as far from 0."""
    assert sign_flip_p([0.1, 0.2, 0.3, 0.4, 0.5])[0] == pytest.approx(2 / 32, abs=0.01)


def test_where_nothing_differs_the_p_value_of_the_sign_flip_test_is_uniform():
    differences = np.random.default_rng(6).standard_t(4, (500, 80))
    assert scipy.stats.kstest(sign_flip_p(differences), "uniform").pvalue > 0.01


def test_a_small_difference_on_many_images_is_found_because_they_are_paired():
    """Images differ far more than the modules: unpaired, the difference would drown."""
    rng = np.random.default_rng(7)
    images = rng.normal(0.6, 0.2, 400)
    a, b = images + 0.01 + rng.normal(0, 0.02, 400), images + rng.normal(0, 0.02, 400)
    assert scipy.stats.ttest_ind(a, b).pvalue > 0.2
    (found,) = over_images(a - b)
    assert found.significant
    assert found.low < 0.01 < found.high


def test_the_same_scores_give_the_same_numbers_alone_and_among_others():
    scores = np.random.default_rng(8).normal(0.1, 1, (3, 50))
    together, alone = over_images(scores), over_images(scores[1])[0]
    assert [together[1].low, together[1].high, together[1].p] == pytest.approx([alone.low, alone.high, alone.p], rel=1e-12)


def test_one_image_has_no_interval():
    assert np.isnan(bootstrap_interval([[0.5]])).all()


def test_vectors_of_several_lengths_are_returned_under_their_names():
    vectors = {"a": np.ones(3), "b": np.arange(5.0), "c": np.zeros(3)}
    assert by_length(vectors, lambda rows: rows.sum(axis=1)) == {"a": 3, "b": 10, "c": 0}


def test_improvement_is_positive_where_a_is_better():
    assert relative_improvement(30, 40, falls=True) == pytest.approx(0.25)
    assert relative_improvement(0.9, 0.6, falls=False) == pytest.approx(0.5)
    assert relative_improvement(40, 30, falls=True) < 0


def test_improvement_over_a_distance_that_is_not_positive_is_undefined():
    assert np.isnan(relative_improvement(0.001, -0.0001, falls=True))
    assert np.isnan(mean_relative_improvement([(1, 2), (1, 0)], falls=True))
