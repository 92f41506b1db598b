"""SPADE against a naive loop over its equations."""

import pytest
import torch
from modules import C, build, maps, naive_conv, naive_instance_norm, naive_modulation, naive_pono, with_variants

from attnbench_baselines.spade import SPADE


def naive_batch_norm(x, mean, variance):
    """(x - mean) / sqrt(variance + 1e-5), channel by channel; x (B, C, h, w)."""
    result = torch.zeros_like(x)
    for channel in range(C):
        result[:, channel] = (x[:, channel] - mean[channel]) / (variance[channel] + 1e-5) ** 0.5
    return result


def naive_norm(x, norm):
    if norm == "batch":
        return naive_batch_norm(x, [x[:, c].mean() for c in range(C)], [x[:, c].var(correction=0) for c in range(C)])
    return torch.stack([naive_pono(image) if norm == "pono" else naive_instance_norm(image) for image in x])


def nearest(x, height, width):
    rows = [y * x.shape[-2] // height for y in range(height)]
    columns = [column * x.shape[-1] // width for column in range(width)]
    return x[..., rows, :][..., columns]


def naive_layer(layer, normalized, condition):
    """N(x) (1 + gamma(m)) + beta(m), the condition taken at the nearest position."""
    condition = nearest(condition, *normalized.shape[-2:])
    hidden = [naive_conv(image, layer.hidden).clamp(min=0) for image in condition]
    return torch.stack([naive_modulation(layer.modulation, *both) for both in zip(normalized, hidden, strict=True)])


def naive_spade(module, f_s, f_r, *, condition="reference", variant="layer", norm="batch"):
    x, m = (f_s, f_r) if condition == "reference" else (f_r, f_s)
    if variant == "layer":
        return naive_layer(module.layers[0], naive_norm(x, norm), m)
    out = x
    for layer, conv in zip(module.layers, module.convs, strict=True):
        out = naive_layer(layer, naive_norm(out, norm), m)
        out = torch.where(out > 0, out, 0.2 * out)
        spectral = conv.parametrizations.weight
        weight, u, v = spectral.original, spectral[0]._u, spectral[0]._v
        out = torch.stack([naive_conv(image, conv, weight=weight / (u @ weight.flatten(1) @ v)) for image in out])
    return x + out


@with_variants(SPADE)
@torch.no_grad()
def test_spade_equals_a_naive_loop_over_its_equations(module, options):
    module = build(module, options)
    f_s, f_r = maps()
    got = module(f_s, f_r)  # first: spectral norm moves its vectors, then divides by what they give
    assert torch.allclose(got, naive_spade(module, f_s, f_r, **options), atol=1e-9)


@pytest.mark.parametrize("condition", ["reference", "sketch"])
@torch.no_grad()
def test_in_eval_mode_batch_norm_uses_the_running_statistics(condition):
    module = build(SPADE, {"condition": condition})
    first, second = maps(), maps(height=4, width=2)
    module(*first)
    got = module.eval()(*second)
    seen, x, m = (first[0], *second) if condition == "reference" else (first[1], *reversed(second))
    mean = [0.1 * seen[:, c].mean() for c in range(C)]  # a tenth of the way from 0, 1, with an unbiased variance
    variance = [0.9 + 0.1 * seen[:, c].var() for c in range(C)]
    assert torch.allclose(got, naive_layer(module.layers[0], naive_batch_norm(x, mean, variance), m), atol=1e-9)


@pytest.mark.parametrize("norm", ["batch", "instance", "pono"])
@torch.no_grad()
def test_without_gamma_and_beta_spade_is_its_normalisation(norm):
    module = build(SPADE, {"norm": norm})
    for parameter in module.layers[0].modulation.parameters():
        parameter.zero_()
    f_s, f_r = maps()
    assert torch.allclose(module(f_s, f_r), naive_norm(f_s, norm), atol=1e-9)


@pytest.mark.parametrize("variant", ["layer", "resblk"])
@pytest.mark.parametrize("condition", ["reference", "sketch"])
@pytest.mark.parametrize("size", [(2, 5), (7, 3)])
@torch.no_grad()
def test_a_reference_of_another_size_is_taken_at_the_nearest_positions(variant, condition, size):
    module = build(SPADE, {"variant": variant, "condition": condition}).eval()
    f_s, _ = maps()
    _, f_r = maps(*size)
    assert torch.equal(module(f_s, f_r), module(f_s, nearest(f_r, 3, 4)))


@torch.no_grad()
def test_a_position_of_the_reference_reaches_no_further_than_its_neighbourhood():
    """The reference is not matched with the sketch: two 3x3 convolutions see two positions far."""
    module = build(SPADE, {}).eval()
    f_s, f_r = maps(height=7, width=7)
    other = f_r.clone()
    other[..., 0, 0] += 1
    changed = (module(f_s, f_r) != module(f_s, other)).any(1).any(0)
    assert changed[:3, :3].all()
    assert changed.sum() == 9


@with_variants(SPADE)
def test_spades_gradients_are_those_of_finite_differences(module, options):
    module = build(module, options)
    if "variant" in options:
        module(*maps())
        module.eval()  # in train mode spectral norm moves at each call
    f_s, f_r = (m.requires_grad_() for m in maps(height=2, width=2, batch=1))
    assert torch.autograd.gradcheck(module, (f_s, f_r))


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"condition": "both"}, "reference or sketch"),
        ({"variant": "block"}, "layer or resblk"),
        ({"norm": "layer"}, "batch, instance or pono"),
    ],
)
def test_an_unknown_option_of_spade_names_the_known_ones(options, names):
    with pytest.raises(ValueError, match=names):
        SPADE(C, **options)
