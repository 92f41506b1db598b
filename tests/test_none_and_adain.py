"""The floors: no reference at all, and the reference's statistics alone."""

import math

import pytest
import torch
from modules import C, build, maps, positions

from attnbench_baselines.adain import AdaIN
from attnbench_baselines.none import NoReference


def naive_statistics(channel):
    """Mean and deviation of one channel, (h, w), value by value."""
    values = [float(channel[at]) for at in positions(*channel.shape)]
    mean = sum(values) / len(values)
    return mean, math.sqrt(sum((value - mean) ** 2 for value in values) / len(values) + 1e-5)


@torch.no_grad()
def test_none_is_the_sketchs_features_whatever_the_reference():
    f_s, f_r = maps()
    module = build(NoReference, {})
    assert torch.equal(module(f_s, f_r), f_s)
    assert torch.equal(module(f_s, -7 * f_r), f_s)


@torch.no_grad()
def test_adain_equals_a_naive_loop_over_its_equation():
    f_s, _ = maps()
    _, f_r = maps(height=2, width=5)
    got = build(AdaIN, {})(f_s, f_r)
    for b in range(len(f_s)):
        for c in range(C):
            (mean, deviation), (new_mean, new_deviation) = naive_statistics(f_s[b, c]), naive_statistics(f_r[b, c])
            for at in positions(3, 4):
                wanted = new_deviation * (f_s[b, c, *at] - mean) / deviation + new_mean
                assert got[b, c, *at] == pytest.approx(float(wanted), abs=1e-9)


@torch.no_grad()
def test_adain_gives_the_references_statistics_of_each_sample():
    f_s, f_r = maps()
    got = build(AdaIN, {})(f_s, 5 * f_r + 3)
    assert torch.allclose(got.mean((2, 3)), (5 * f_r + 3).mean((2, 3)))
    assert torch.allclose(got.std((2, 3)), (5 * f_r).std((2, 3)), rtol=1e-4)


@torch.no_grad()
def test_a_single_position_gets_the_references_mean():
    f_s, f_r = maps(1, 1)
    assert torch.equal(build(AdaIN, {})(f_s, f_r), f_r)
