"""CMFT against a naive loop over its equations, at one level of the encoders and at several."""

import pytest
import torch
import torch.nn.functional as F
from modules import C, build, maps, naive_attention, naive_conv, naive_vectors, naive_warp, run, tokens

from attnbench.config.recipe import load_recipe
from attnbench.method.backbone import Colorizer, Context, Encoded, feature_channels
from attnbench.training.state import build_generator
from attnbench_baselines.cmft import CMFT


def naive_transfer(query, key, value, *, normalize="none", tau=0.01):
    """sum_j A_ij V_j of one sample, A from query and key; images (D, h, w), (D, h', w'), (C, h', w')."""
    if normalize == "center_l2":
        attention = naive_attention(naive_vectors(query, 1), naive_vectors(key, 1), tau)
    else:
        attention = naive_attention(tokens(query), tokens(key))
    return naive_warp(attention, value, query.shape[1:])


def naive_cmft(module, f_s, f_r, context=None, *, key_source="reference", fuse="add", levels=1, **matching):
    """The result for a batch. `context` is needed for other keys and more levels."""
    drawing = context.draw_reference() if key_source == "reference_sketch" else None
    keys = drawing.feature if drawing else f_r
    result = []
    for b in range(len(f_s)):
        warped = naive_transfer(f_s[b], keys[b], f_r[b], **matching)
        for level in range(1, levels):
            last = len(context.sketch.layers) - 2 * level  # counting from one: e(last - 1) and e(last) are this level's
            query, value, key = (
                torch.cat([side.layers[last - 2][b], side.layers[last - 1][b]])
                for side in (context.sketch, context.reference, drawing or context.reference)
            )
            moved = naive_transfer(query, key, value, **matching)
            side = 2**level
            start = sum(layer.shape[1] for layer in context.sketch.layers[: last - 2])
            for y in range(warped.shape[1]):
                for x in range(warped.shape[2]):
                    block = moved[:, side * y : side * (y + 1), side * x : side * (x + 1)]
                    warped[start : start + len(moved), y, x] = block.mean((1, 2))
        result.append(f_s[b] + warped if fuse == "add" else naive_conv(torch.cat([f_s[b], warped]), module.mix))
    return torch.stack(result)


def random_encoding(widths, height, width, seed, batch=2):
    """Layers of random numbers, two a level, and the feature that they make."""
    source = torch.Generator().manual_seed(seed)
    layers = []
    for level, channels in enumerate(widths):
        factor = 2 ** (len(widths) - 1 - level)
        size = (batch, channels, factor * height, factor * width)
        layers += [torch.randn(size, generator=source, dtype=torch.float64) for _ in range(2)]
    feature = torch.cat([F.adaptive_avg_pool2d(layer, (height, width)) for layer in layers], 1)
    return Encoded(torch.randn(batch, 3, 8, 8, generator=source), feature, layers)


SINGLE = [
    {},
    {"normalize": "center_l2"},
    {"normalize": "center_l2", "tau": 0.2},
    {"fuse": "concat1x1"},
    {"normalize": "center_l2", "fuse": "concat1x1"},
]


@pytest.mark.parametrize("options", SINGLE)
@torch.no_grad()
def test_cmft_equals_a_naive_loop_over_its_equations(options):
    module = build(CMFT, options)
    f_s, f_r = maps()
    assert torch.allclose(module(f_s, f_r), naive_cmft(module, f_s, f_r, **options), atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"normalize": "center_l2", "tau": 0.2, "fuse": "concat1x1"}])
@pytest.mark.parametrize("key_source", ["reference", "reference_sketch"])
@pytest.mark.parametrize("levels", [1, 2, 3])
@torch.no_grad()
def test_cmft_with_a_context_equals_a_naive_loop_over_its_layers(options, key_source, levels):
    options = {**options, "key_source": key_source, "levels": levels}
    widths = [1, 2, 3]
    torch.manual_seed(0)
    module = CMFT(2 * sum(widths), **options).double()
    sketch, reference, drawing = (random_encoding(widths, 2, 1, seed) for seed in range(3))
    drawn = []

    def encode_drawing(image):
        drawn.append(image)
        return drawing

    context = Context(sketch, reference, encode_drawing)
    got = module(sketch.feature, reference.feature, context=context)
    assert all(image is reference.image for image in drawn)
    assert len(drawn) == (key_source == "reference_sketch")
    assert torch.allclose(got, naive_cmft(module, sketch.feature, reference.feature, context, **options), atol=1e-9)


@pytest.mark.parametrize("options", [{"key_source": "reference_sketch"}, {"key_source": "reference_sketch", "levels": 3}])
@torch.no_grad()
def test_inside_the_generator_keys_are_the_sketch_encoders_of_the_references_line_art(options):
    def draw(images):
        return (images.mean(1, keepdim=True) > 0).to(images.dtype) * 2 - 1

    torch.manual_seed(0)
    module = CMFT(feature_channels(2, 3), **options)
    generator = Colorizer(module, width=2, levels=3, residual_blocks=1, draw=draw).double().eval()
    results = []
    module.register_forward_hook(lambda _module, _inputs, output: results.append(output))
    sketch, reference = torch.randn(2, 1, 8, 8).double(), torch.randn(2, 3, 8, 8).double()
    generator(sketch, reference)
    encoded, other = generator.sketch_encoder(sketch), generator.reference_encoder(reference)
    context = Context(encoded, other, lambda image: generator.sketch_encoder(draw(image)))
    assert torch.allclose(results[0], naive_cmft(module, encoded.feature, other.feature, context, **options), atol=1e-9)


@torch.no_grad()
def test_the_line_art_of_references_has_the_recipes_constants():
    recipe = load_recipe("demo")
    generator = build_generator(lambda channels: CMFT(channels, key_source="reference_sketch"), recipe, seed=0).eval()
    encoded = []
    generator.sketch_encoder.register_forward_hook(lambda _module, inputs, _output: encoded.append(inputs[0]))
    reference = torch.full((1, 3, 32, 32), 0.5)
    reference[..., 8:24, 8:24] = -1.0  # a dark square
    generator(torch.ones(1, 1, 32, 32), reference)
    _, drawing = encoded
    assert set(drawing.unique().tolist()) == {-1.0, 1.0}
    assert drawing.shape == (1, 1, 32, 32)
    assert drawing[..., 0, 0] == 1.0  # paper


@pytest.mark.parametrize("options", [{"levels": 2}, {"key_source": "reference_sketch"}])
def test_without_the_context_that_it_needs_cmft_says_so(options):
    with pytest.raises(ValueError, match="need the context that the backbone gives"):
        build(CMFT, options)(*maps())


def test_more_levels_than_the_encoders_have_are_refused_by_number():
    with pytest.raises(ValueError, match="levels=3: the encoders have 2"):
        run(build(CMFT, {"levels": 3}), *maps())


@pytest.mark.parametrize("normalize", ["none", "center_l2"])
@pytest.mark.parametrize("scale", [1e2, 1e10])
def test_huge_logits_give_a_finite_result_and_gradient(normalize, scale):
    f_s, f_r = (scale * m.float() for m in maps())
    module = build(CMFT, {"normalize": normalize}, torch.float32)
    f_s.requires_grad_()
    result = module(f_s, f_r)
    result.sum().backward()
    assert result.isfinite().all()
    assert f_s.grad.isfinite().all()


@torch.no_grad()
def test_huge_logits_pick_the_largest_product():
    f_s, f_r = maps()
    moved = build(CMFT, {})(1e6 * f_s, f_r) - 1e6 * f_s
    for b in range(2):
        best = (f_s[b].flatten(1).mT @ f_r[b].flatten(1)).argmax(1)
        assert torch.allclose(moved[b].flatten(1), f_r[b].flatten(1)[:, best], atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        *SINGLE,
        {"key_source": "reference_sketch"},
        {"levels": 2},
        {"levels": 2, "key_source": "reference_sketch", "normalize": "center_l2", "fuse": "concat1x1"},
    ],
)
def test_cmfts_gradients_are_those_of_finite_differences(options):
    """At f_s, f_r, the finer layers of both and the drawing's feature and finer layers."""
    module = build(CMFT, options)
    sides = [random_encoding([1, 2], 1, 2, seed, batch=1) for seed in range(3)]
    inputs = [tensor.requires_grad_() for side in sides for tensor in (side.feature, *side.layers[:2])]

    def result(*tensors):
        sketch, reference, drawing = (
            Encoded(side.image, feature, [*fine, *side.layers[2:]])
            for side, feature, *fine in zip(sides, tensors[0::3], tensors[1::3], tensors[2::3], strict=True)
        )
        return module(sketch.feature, reference.feature, context=Context(sketch, reference, lambda image: drawing))

    assert torch.autograd.gradcheck(result, inputs)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"key_source": "sketch"}, "reference or reference_sketch"),
        ({"normalize": "l2"}, "none or center_l2"),
        ({"normalize": "center_l2", "tau": -1.0}, "above 0"),
        ({"tau": 0.5}, "needs normalize=center_l2"),
        ({"fuse": "concat"}, "add or concat1x1"),
        ({"levels": 0}, "1 or more"),
    ],
)
def test_an_impossible_option_of_cmft_names_what_is_possible(options, expected):
    with pytest.raises(ValueError, match=expected):
        CMFT(C, **options)
