"""Linear attention against naive loops over its equations, with the map that it never makes."""

import math

import torch
from modules import LINEAR_OPTIONS, C, build, cases, maps, naive_warp, tokens

from attnbench.method.probe import Observations, listening
from attnbench_baselines.linear import LinearAttention


def naive_phi(vector):
    return [x + 1 if x > 0 else math.exp(x) for x in vector.tolist()]


def naive_map(module, sketch, reference):
    """A of one sample, weight by weight, (n, m)."""
    queries = [naive_phi(module.query(token)) for token in tokens(sketch)]
    keys = [naive_phi(module.key(token)) for token in tokens(reference)]
    products = [[sum(a * b for a, b in zip(query, key, strict=True)) for key in keys] for query in queries]
    return torch.tensor([[product / sum(row) for product in row] for row in products], dtype=torch.float64)


@cases([(LinearAttention, options) for options in LINEAR_OPTIONS])
@torch.no_grad()
def test_linear_attention_equals_a_naive_loop_over_the_map_that_it_amounts_to(module, options):
    built = build(module, options)
    f_s, _ = maps()
    _, f_r = maps(height=2, width=5)
    with listening(seen := Observations()):
        got = built(f_s, f_r)
    for b, (sketch, reference) in enumerate(zip(f_s, f_r, strict=True)):
        attention = naive_map(built, sketch, reference)
        value = torch.stack([built.value(token) for token in tokens(reference)], 1).view(C, 2, 5)
        assert torch.allclose(got[b], sketch + naive_warp(attention, value, (3, 4)), atol=1e-9)
        assert torch.allclose(seen.values["attention"][0][b], attention, atol=1e-9)


@torch.no_grad()
def test_weights_are_positive_and_rows_sum_to_one():
    with listening(seen := Observations()):
        build(LinearAttention, {})(*maps())
    (attention,) = seen.values["attention"]
    assert (attention > 0).all()
    assert torch.allclose(attention.sum(-1), torch.ones_like(attention[..., 0]))


@torch.no_grad()
def test_the_map_is_not_made_while_nobody_listens(monkeypatch):
    from attnbench_baselines import linear

    monkeypatch.setattr(linear, "attention_map", None)
    build(LinearAttention, {})(*maps())


@torch.no_grad()
def test_keys_that_vanish_give_a_finite_result():
    """elu(x) + 1 is 0 in float32 for x below -104: the floor keeps 0 / 0 away."""
    built = build(LinearAttention, {}, torch.float32)
    built.key.bias.fill_(-1e4)
    assert built(*maps(dtype=torch.float32)).isfinite().all()
