"""The backbone against the figures of the released code: shapes, parameter counts, receptive field."""

import pytest
import torch
from torch import nn

from attnbench.method.backbone import (
    Colorizer,
    Decoder,
    Discriminator,
    Encoder,
    count_parameters,
    feature_channels,
    merge_two_batch_norm_updates,
)
from attnbench_baselines.scft import SCFT
from attnbench_baselines.sga import SGA


class SketchOnly(nn.Module):
    """A module without parameters: f_gen = f_s."""

    def forward(self, sketch, reference):
        return sketch


def test_the_feature_has_992_channels_by_default():
    assert feature_channels() == 992


@pytest.mark.parametrize(
    ("factory", "parameters"),
    [
        (lambda channels: SketchOnly(), 79_971_027),
        (SGA, 83_915_219),
        (lambda channels: SGA(channels, self_attention=False), 81_943_123),
        (SCFT, 82_926_195),
        (lambda channels: SCFT(channels, projections=False), 80_956_083),
    ],
)
def test_generators_have_the_released_codes_parameter_counts(factory, parameters):
    with torch.device("meta"):
        assert count_parameters(Colorizer(factory(feature_channels()))) == parameters


def test_parts_have_the_released_codes_parameter_counts():
    with torch.device("meta"):
        generator = Colorizer(SketchOnly())
        assert count_parameters(Encoder(1)) == 1_180_464
        assert count_parameters(Encoder(3)) == 1_180_752
        assert count_parameters(generator.residual) == 70_876_416
        assert count_parameters(Decoder(1984)) == 6_733_395
        assert count_parameters(Discriminator()) == 99_217


def test_full_size_shapes_are_the_papers():
    with torch.device("meta"):
        encoded = Encoder(1)(torch.zeros(2, 1, 256, 256))
        assert encoded.feature.shape == (2, 992, 16, 16)
        assert [tuple(layer.shape[1:]) for layer in encoded.layers] == [
            (16, 256, 256), (16, 256, 256), (32, 128, 128), (32, 128, 128), (64, 64, 64),
            (64, 64, 64), (128, 32, 32), (128, 32, 32), (256, 16, 16), (256, 16, 16),
        ]  # fmt: skip
        scores = Discriminator()(torch.zeros(2, 3, 256, 256), torch.zeros(2, 1, 256, 256))
        assert scores.shape == (2, 1, 16, 16)


def test_the_feature_is_every_layer_averaged_to_the_last_ones_size():
    encoder = Encoder(3, width=2, levels=3).eval()
    encoded = encoder(torch.randn(1, 3, 32, 32))
    first = encoded.layers[0].unfold(2, 4, 4).unfold(3, 4, 4).mean((-1, -2))
    assert torch.allclose(encoded.feature[:, :2], first, atol=1e-6)
    assert torch.equal(encoded.feature[:, -8:], encoded.layers[-1])


@pytest.mark.parametrize(("height", "width"), [(32, 32), (16, 48), (33, 47), (50, 31)])
def test_any_height_and_width_come_out_as_they_went_in(height, width):
    generator = Colorizer(SGA(feature_channels(2, 3)), width=2, levels=3, residual_blocks=1)
    image = generator(torch.randn(2, 1, height, width), torch.randn(2, 3, height, width))
    assert image.shape == (2, 3, height, width)
    assert image.abs().max() <= 1


@pytest.mark.parametrize(("width", "levels", "residual_blocks"), [(1, 2, 0), (4, 3, 1), (3, 4, 2)])
def test_width_depth_and_residual_blocks_are_free(width, levels, residual_blocks):
    generator = Colorizer(SketchOnly(), width=width, levels=levels, residual_blocks=residual_blocks)
    assert generator(torch.randn(2, 1, 32, 32), torch.randn(2, 3, 32, 32)).shape == (2, 3, 32, 32)
    assert len(generator.residual) == residual_blocks


def test_a_patch_of_the_discriminator_sees_63_pixels():
    discriminator = Discriminator(width=2).eval()
    image = torch.randn(1, 3, 160, 160, requires_grad=True)
    discriminator(image, torch.randn(1, 1, 160, 160))[0, 0, 5, 5].backward()
    touched = image.grad.abs().sum((0, 1)).nonzero()
    assert (touched.max(0).values - touched.min(0).values + 1).tolist() == [63, 63]


def test_the_decoder_takes_no_skip_from_the_deepest_layer():
    decoder = Decoder(12, width=1, levels=2).eval()
    skips = [torch.randn(1, 1, 8, 8), torch.randn(1, 1, 8, 8), torch.randn(1, 2, 4, 4), torch.randn(1, 2, 4, 4)]
    x = torch.randn(1, 12, 4, 4)
    before = decoder(x, skips)
    skips[3] = torch.randn(1, 2, 4, 4)
    assert torch.equal(decoder(x, skips), before)
    skips[1] = torch.randn(1, 1, 8, 8)
    assert not torch.equal(decoder(x, skips), before)


def test_residual_stage_adds_the_modules_output_once_more():
    generator = Colorizer(SketchOnly(), width=2, levels=2, residual_blocks=0).eval()
    seen = []
    generator.decoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    sketch, reference = torch.randn(1, 1, 16, 16), torch.randn(1, 3, 16, 16)
    generator(sketch, reference)
    f_s = generator.sketch_encoder(sketch).feature
    assert torch.allclose(seen[0], torch.cat([2 * f_s, f_s], 1))  # no residual blocks: r = f_gen + f_gen


def test_one_merged_batch_norm_update_equals_two():
    twice, once = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    merge_two_batch_norm_updates(once)
    x = torch.randn(4, 3, 5, 5)
    twice(x), twice(x), once(x)
    assert once.momentum == pytest.approx(0.19)
    assert torch.allclose(once.running_mean, twice.running_mean, atol=1e-7)
    assert torch.allclose(once.running_var, twice.running_var, atol=1e-6)


@torch.no_grad()
def test_spectral_norm_bounds_the_discriminators_convolutions():
    discriminator = Discriminator(width=4, layers=3)
    image, sketch = torch.randn(2, 3, 32, 32), torch.randn(2, 1, 32, 32)
    for _ in range(20):
        discriminator(image, sketch)
    for block in list(discriminator.blocks)[:-1]:
        largest = torch.linalg.svdvals(block[0].weight.flatten(1))[0]
        assert largest == pytest.approx(1, abs=0.05)
