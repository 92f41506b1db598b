"""CoCosNet against a naive loop over its equations, and the limits of its matching."""

import pytest
import torch
from modules import (
    COCOSNET_OPTIONS,
    C,
    build,
    cases,
    maps,
    naive_attention,
    naive_conv,
    naive_instance_norm,
    naive_modulation,
    naive_pono,
    naive_vectors,
    naive_warp,
    with_variants,
)

from attnbench.method.probe import Observations, listening
from attnbench_baselines.cocosnet import CoCosNet


def prelu(x, layer):
    return torch.where(x > 0, x, layer.weight * x)


def naive_block(block, x):
    conv_a, _, inner, conv_b, _ = block.body
    y = prelu(naive_instance_norm(naive_conv(x, conv_a, reflect=True)), inner)
    return prelu(x + naive_instance_norm(naive_conv(y, conv_b, reflect=True)), block.activation)


def naive_projected(image, module, adapt, project, pre_blocks):
    if pre_blocks:
        image = naive_conv(image, adapt.conv)
        image = image / image.square().sum(0, keepdim=True).sqrt()
    for block in module.pre_blocks:  # the same ones for both inputs
        image = naive_block(block, image)
    return naive_conv(image, project)


def naive_sample(module, sketch, reference, *, match_kernel=3, tau=0.01, pre_blocks=0, inject="spade", stop_gradient=False):
    """A (n, m) and the result, of one sample; a stop changes nothing in it."""
    query = naive_projected(sketch, module, module.adapt_sketch, module.theta, pre_blocks)
    key = naive_projected(reference, module, module.adapt_reference, module.phi, pre_blocks)
    attention = naive_attention(naive_vectors(query, match_kernel), naive_vectors(key, match_kernel), tau)
    warped = naive_warp(attention, reference, sketch.shape[1:])
    if inject == "residual":
        return attention, sketch + warped
    hidden = naive_conv(warped, module.inject.hidden).clamp(min=0)
    return attention, naive_modulation(module.inject.modulation, naive_pono(sketch), hidden)


@cases([*((CoCosNet, options) for options in COCOSNET_OPTIONS), (CoCosNet, {"pre_blocks": 2, "match_kernel": 1})])
@pytest.mark.parametrize("size", [(3, 4), (2, 5)], ids=["same size", "another size"])
@torch.no_grad()
def test_cocosnet_equals_a_naive_loop_over_its_equations(module, options, size):
    module = build(module, options)
    f_s, _ = maps()
    _, f_r = maps(*size)
    with listening(seen := Observations()):
        got = module(f_s, f_r)
    (attention,) = seen.values["attention"]
    for b in range(len(f_s)):
        expected_attention, expected = naive_sample(module, f_s[b], f_r[b], **options)
        assert torch.allclose(attention[b], expected_attention, atol=1e-9)
        assert torch.allclose(got[b], expected, atol=1e-9)


@pytest.mark.parametrize("match_kernel", [1, 3])
@torch.no_grad()
def test_at_vanishing_temperature_each_position_takes_the_most_alike_one(match_kernel):
    module = build(CoCosNet, {"match_kernel": match_kernel, "tau": 1e-7, "inject": "residual"})
    f_s, f_r = maps()
    warped = module(f_s, f_r) - f_s
    for b in range(len(f_s)):
        queries = naive_vectors(naive_conv(f_s[b], module.theta), match_kernel)
        keys = naive_vectors(naive_conv(f_r[b], module.phi), match_kernel)
        best = [max(range(len(keys)), key=lambda j: float(query @ keys[j])) for query in queries]
        assert len(set(best)) > 1
        assert torch.allclose(warped[b].flatten(1), f_r[b].flatten(1)[:, best], atol=1e-9)


@with_variants(CoCosNet)
def test_every_position_of_the_sketch_takes_one_reference_in_all(module, options):
    module = build(module, options)
    with listening(seen := Observations()):
        module(*maps())
    (attention,) = seen.values["attention"]
    assert attention.min() >= 0
    assert torch.allclose(attention.sum(-1), torch.ones(2, 12, dtype=torch.float64))


def test_the_blocks_before_matching_are_shared_by_both_inputs():
    """Two equal inputs through two equal adaptors and projections match each position with itself."""
    module = build(CoCosNet, {"pre_blocks": 1, "tau": 1e-7})
    module.adapt_reference, module.phi = module.adapt_sketch, module.theta
    f_s, _ = maps()
    with listening(seen := Observations()):
        module(f_s, f_s)
    assert torch.allclose(seen.values["attention"][0], torch.eye(12, dtype=torch.float64).expand(2, -1, -1))
    blocks = [build(CoCosNet, {"pre_blocks": count}).pre_blocks for count in range(5)]
    sizes = [sum(p.numel() for p in several.parameters()) for several in blocks]
    assert sizes == [count * (2 * (256 * 256 * 9 + 256) + 2) for count in range(5)]


@torch.no_grad()
def test_gains_of_the_features_do_not_change_the_match():
    """Unlike dot products: cosines of centred vectors ignore their scale and what is added to all channels."""
    module = build(CoCosNet, {"match_kernel": 1})
    query, key = (torch.cat([m, m.flip(1)], 1) for m in maps())
    expected = module.attention(query, key).map()
    assert torch.allclose(module.attention(3 * query + 5, 0.1 * key - 2).map(), expected, atol=1e-9)


@cases([(CoCosNet, options) for options in COCOSNET_OPTIONS if "stop_gradient" not in options])
def test_cocosnets_gradients_are_those_of_finite_differences(module, options):
    module = build(module, options)
    f_s, f_r = (m.requires_grad_() for m in maps(height=2, width=2, batch=1))
    assert torch.autograd.gradcheck(module, (f_s, f_r), fast_mode=True)  # along random directions


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"match_kernel": 5}, "1 or 3"),
        ({"tau": 0.0}, "above 0"),
        ({"pre_blocks": 5}, "0 to 4"),
        ({"inject": "add"}, "spade or residual"),
    ],
)
def test_an_impossible_option_of_cocosnet_names_what_is_possible(options, expected):
    with pytest.raises(ValueError, match=expected):
        CoCosNet(C, **options)
