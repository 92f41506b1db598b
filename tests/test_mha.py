"""MHA against a naive loop over its equations, by the fused kernels and without them."""

import math

import pytest
import torch
from modules import MHA_OPTIONS, build, cases, maps, naive_attention, tokens, weight_like

from attnbench.method.probe import Observations, listening
from attnbench_baselines import mha
from attnbench_baselines.mha import MHA


def naive_layer_norm(vector, norm):
    centred = vector - vector.mean()
    return centred / math.sqrt(float((centred**2).mean()) + 1e-5) * norm.weight + norm.bias


def naive_rms_norm(vector, norm):
    return vector / math.sqrt(float((vector**2).mean()) + 1e-6) * norm.weight


def naive_gelu(vector):
    return torch.tensor([x * (1 + math.erf(x / math.sqrt(2))) / 2 for x in vector.tolist()], dtype=vector.dtype)


def linear(vector, layer):
    return layer.weight @ vector + layer.bias


def naive_maps(block, xs, ys, *, heads, qk_norm):
    """Each head's map, (n, m), of lists of tokens."""
    queries = [linear(naive_layer_norm(x, block.norm), block.query).chunk(heads) for x in xs]
    keys = [linear(naive_layer_norm(y, block.norm_message), block.key).chunk(heads) for y in ys]
    if qk_norm:
        queries = [[naive_rms_norm(part, block.norm_query) for part in one] for one in queries]
        keys = [[naive_rms_norm(part, block.norm_key) for part in one] for one in keys]
    width = len(queries[0][0])
    return [naive_attention([q[h] for q in queries], [k[h] for k in keys], math.sqrt(width)) for h in range(heads)]


def naive_block(block, xs, ys, *, heads=8, qk_norm=True, ffn=4):
    """The block's result for one sample, token by token."""
    attention = naive_maps(block, xs, ys, heads=heads, qk_norm=qk_norm)
    values = [linear(naive_layer_norm(y, block.norm_message), block.value).chunk(heads) for y in ys]
    result = []
    for i, x in enumerate(xs):
        gathered = [sum(attention[h][i, j] * values[j][h] for j in range(len(ys))) for h in range(heads)]
        x = x + linear(torch.cat(gathered), block.project)
        if ffn:
            norm, widen, _, narrow = block.feed_forward
            x = x + linear(naive_gelu(linear(naive_layer_norm(x, norm), widen)), narrow)
        result.append(x)
    return result


def naive_mha(module, f_s, f_r, *, layers=1, stop_gradient=False, fused=True, **options):
    results = []
    for sketch, reference in zip(f_s, f_r, strict=True):
        xs, ys = tokens(sketch), tokens(reference)
        for layer in range(layers):
            xs = naive_block(module.cross_blocks[layer], xs, ys, **options)
            xs = naive_block(module.self_blocks[layer], xs, xs, **options)
        results.append(torch.stack(xs, 1).view(sketch.shape))
    return torch.stack(results)


def randomized(module):
    """Every gain and bias away from its initial value."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, dtype=parameter.dtype)
    return module


MORE = [{"heads": 1}, {"heads": 5, "ffn": 1}, {"heads": 3, "layers": 3}]


@cases([(MHA, options) for options in [*MHA_OPTIONS, *MORE]])
@torch.no_grad()
def test_mha_equals_a_naive_loop_over_its_equations(module, options):
    built = randomized(build(module, options))
    f_s, _ = maps()
    _, f_r = maps(height=2, width=5)
    assert torch.allclose(built(f_s, f_r), naive_mha(built, f_s, f_r, **options), atol=1e-9)


@pytest.mark.parametrize("options", [{"heads": 2}, {"heads": 5}, {"heads": 2, "stop_gradient": True}])
def test_without_the_fused_kernels_results_and_gradients_are_the_same(options):
    found = []
    for fused in (True, False):
        built, given = build(MHA, {**options, "fused": fused}), [m.requires_grad_() for m in maps()]
        result = built(*given)
        (result * weight_like(result)).sum().backward()
        found.append([result.detach(), *(x.grad for x in (*given, *built.parameters()) if x.grad is not None)])
    for fused, apart in zip(*found, strict=True):
        assert torch.allclose(fused, apart, atol=1e-10)


@pytest.mark.parametrize(("channels", "heads", "kernels"), [(256, 1, 2), (257, 1, 0), (992, 8, 2), (992, 3, 0)])
def test_heads_too_wide_for_the_fused_kernels_go_without(channels, heads, kernels, monkeypatch):
    calls = []
    fused = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(mha.F, "scaled_dot_product_attention", lambda *given: calls.append(given) or fused(*given))
    with torch.device("meta"):
        MHA(channels, heads=heads)(*(torch.zeros(1, channels, 2, 2) for _ in range(2)))
    assert len(calls) == kernels


@torch.no_grad()
def test_observers_see_the_mean_of_the_heads_maps():
    built = randomized(build(MHA, {"heads": 3}))
    f_s, f_r = maps()
    with listening(seen := Observations()):
        built(f_s, f_r)
    given = [(tokens(sketch), tokens(reference)) for sketch, reference in zip(f_s, f_r, strict=True)]
    wanted = [sum(naive_maps(built.cross_blocks[0], xs, ys, heads=3, qk_norm=True)) / 3 for xs, ys in given]
    assert torch.allclose(seen.values["attention"][0], torch.stack(wanted), atol=1e-9)


@torch.no_grad()
def test_with_normalised_queries_and_keys_logits_are_bounded_whatever_the_weights():
    """|RMS(q) . RMS(k)| / sqrt(D) <= sqrt(D), so that no weight is below exp(-2 sqrt(D)) of another."""
    largest = []
    for qk_norm in (True, False):
        built = build(MHA, {"heads": 2, "qk_norm": qk_norm})
        for block in (*built.cross_blocks, *built.self_blocks):
            block.query.weight *= 100
            block.key.weight *= 100
        with listening(seen := Observations()):
            built(*maps())
        largest.append(float(seen.values["attention"][0].amax()))
    bounded, free = largest
    assert bounded <= 1 / (1 + 11 * math.exp(-2 * math.sqrt(3)))  # 12 positions, D = 3
    assert free > 0.999


@pytest.mark.parametrize(
    ("options", "told"),
    [({"heads": 0}, "heads=0: expected 1"), ({"ffn": -1}, "ffn=-1: expected 0"), ({"layers": 0}, "layers=0: expected 1")],
)
def test_options_out_of_range_are_refused_by_name(options, told):
    with pytest.raises(ValueError, match=told):
        build(MHA, options)
