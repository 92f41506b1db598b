"""Colour jitter: what each kind does to values, and that every image draws from its own stream."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from attnbench.data.jitter import jitter
from attnbench.data.synthetic import draw

KINDS = ["official", "channel_shift", "color_jitter"]


def rngs(*seeds: int) -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in seeds]


def heads(count: int = 3, size: int = 33) -> Tensor:
    return torch.stack([torch.from_numpy(np.array(draw(0, i, size))).permute(2, 0, 1) for i in range(count)])


def ramp() -> Tensor:
    """All 256 values, 48 times each."""
    return torch.arange(256, dtype=torch.uint8).repeat(48).view(1, 3, 64, 64)


def test_official_jitter_takes_off_one_or_nothing_and_never_wraps_around() -> None:
    before = ramp()
    loss = before.int() - jitter(before, "official", rngs(0)).int()
    assert set(loss.unique().tolist()) == {0, 1}
    assert (loss[before == 0] == 0).all()
    assert {value for value in range(1, 256) if set(loss[before == value].tolist()) == {0, 1}} == set(range(1, 256))


def test_official_jitter_tosses_a_fair_coin_for_each_pixel_and_channel() -> None:
    white = torch.full((1, 3, 64, 64), 255, dtype=torch.uint8)
    coins = (jitter(white, "official", rngs(1))[0] == 254).float()
    assert coins.mean() == pytest.approx(0.5, abs=0.02)  # 4 standard deviations
    channels = coins.flatten(1)
    assert torch.corrcoef(channels).fill_diagonal_(0).abs().max() < 0.07
    assert coins[:, :, 1:].sub(coins[:, :, :-1]).abs().mean() == pytest.approx(0.5, abs=0.03)


def test_official_jitter_changes_no_colour() -> None:
    assert (jitter(heads(), "official", rngs(0, 1, 2)).float() - heads().float()).abs().max() <= 1


def test_channel_shift_adds_one_number_to_each_channel() -> None:
    middle = torch.randint(60, 196, (6, 3, 9, 11), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    shift = jitter(middle, "channel_shift", rngs(*range(6))).int() - middle.int()
    assert torch.equal(shift, shift[..., :1, :1].expand_as(shift))
    drawn = shift[..., 0, 0]
    assert len(set(drawn.flatten().tolist())) > 12
    assert 30 < drawn.abs().max() <= 50


def test_channel_shifts_lie_evenly_between_minus_and_plus_fifty() -> None:
    middle = torch.full((300, 3, 1, 1), 128, dtype=torch.uint8)
    shift = jitter(middle, "channel_shift", rngs(*range(300))).double() - 128
    assert (shift.min(), shift.max()) == (pytest.approx(-50, abs=2), pytest.approx(50, abs=2))
    assert shift.mean() == pytest.approx(0, abs=4)
    assert shift.std() == pytest.approx(100 / 12**0.5, abs=2)


def test_channel_shift_stops_at_black_and_white() -> None:
    extremes = torch.tensor([0, 255], dtype=torch.uint8).expand(20, 3, 1, 2)
    shifted = jitter(extremes, "channel_shift", rngs(*range(20)))
    dark, light = shifted[..., 0], shifted[..., 1]
    assert dark.max() <= 50
    assert light.min() >= 205


def test_color_jitter_is_brightness_contrast_saturation_and_hue_in_this_order() -> None:
    for seed, image in enumerate(heads(6)):
        brightness, contrast, saturation, hue = np.random.default_rng(seed).uniform(-1, 1, size=4) * (0.05, 0.2, 0.4, 0.4)
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        picture = ImageEnhance.Brightness(picture).enhance(1 + brightness)
        picture = ImageEnhance.Contrast(picture).enhance(1 + contrast)
        pixels = np.asarray(ImageEnhance.Color(picture).enhance(1 + saturation)) / 255
        hsv = np.array([colorsys.rgb_to_hsv(*pixel) for pixel in pixels.reshape(-1, 3)])
        turned = [colorsys.hsv_to_rgb((h + hue) % 1, s, v) for h, s, v in hsv]
        wanted = np.array(turned).reshape(pixels.shape) * 255
        ours = jitter(image[None], "color_jitter", rngs(seed))[0].permute(1, 2, 0).numpy()
        assert np.abs(ours - wanted).mean() < 2, seed
        assert np.abs(ours - image.permute(1, 2, 0).numpy().astype(int)).mean() > 3, seed


def test_color_jitter_leaves_grey_pictures_grey() -> None:
    grey = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    jittered = jitter(grey, "color_jitter", rngs(3)).int()
    assert (jittered.amax(1) - jittered.amin(1)).max() <= 1


def test_no_jitter_is_the_image_itself() -> None:
    assert torch.equal(jitter(heads(), "none", rngs(0, 1, 2)), heads())


@pytest.mark.parametrize("kind", KINDS)
def test_jitter_keeps_shape_and_type_and_leaves_its_input_as_it_is(kind: str) -> None:
    images = heads()
    jittered = jitter(images, kind, rngs(0, 1, 2))
    assert (jittered.shape, jittered.dtype) == (images.shape, torch.uint8)
    assert torch.equal(images, heads())
    assert not torch.equal(jittered, images)


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_is_jittered_by_its_own_generator_whatever_batch_it_is_in(kind: str) -> None:
    images = heads()
    together = jitter(images, kind, rngs(7, 8, 9))
    for row, seed in enumerate((7, 8, 9)):
        assert torch.equal(together[row], jitter(images[row : row + 1], kind, rngs(seed))[0])
    same = jitter(images[[0, 0]], kind, rngs(7, 8))
    assert not torch.equal(same[0], same[1])
