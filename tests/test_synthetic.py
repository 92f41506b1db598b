"""The built-in dataset: heads are pure functions of their arguments, and the part map says where each colour is."""

from dataclasses import astuple

import numpy as np
import pytest

from attnbench.data.synthetic import PARTS, Palette, draw, palette, part_map

HEADS = range(50)
LUMA = np.array([0.299, 0.587, 0.114])
GARISH = Palette(
    background=(120, 240, 240), clothes=(240, 200, 60), skin=(240, 200, 220), hair=(60, 220, 90), eyes=(200, 90, 250)
)


def pixels(*arguments: int, colors: Palette | None = None) -> np.ndarray:
    return np.asarray(draw(*arguments, colors=colors), int)


def test_the_same_arguments_give_the_same_head() -> None:
    assert draw(3, 7, 32).tobytes() == draw(3, 7, 32).tobytes()
    assert np.array_equal(part_map(3, 7, 32), part_map(3, 7, 32))
    assert palette(3, 7) == palette(3, 7)


def test_a_head_does_not_depend_on_those_drawn_before_it() -> None:
    alone = draw(0, 5, 32).tobytes()
    for index in HEADS:
        draw(0, index, 16)
    assert draw(0, 5, 32).tobytes() == alone


def test_every_index_and_every_seed_gives_another_head() -> None:
    heads = [(0, index) for index in range(20)] + [(1, index) for index in range(20)]
    assert len({part_map(*head, 32).tobytes() for head in heads}) == len(heads)
    assert len({palette(*head) for head in heads}) == len(heads)


@pytest.mark.parametrize("size", [16, 33, 64])
def test_pictures_and_part_maps_have_the_size_asked_for(size: int) -> None:
    head, parts = draw(0, 0, size), part_map(0, 0, size)
    assert (head.mode, head.size) == ("RGB", (size, size))
    assert parts.dtype == np.uint8
    assert parts.shape == (size, size)


def test_every_part_covers_at_least_one_percent_of_every_head() -> None:
    for index in HEADS:
        shares = np.bincount(part_map(0, index, 64).ravel(), minlength=len(PARTS)) / 64**2
        assert len(shares) == len(PARTS)
        assert shares.min() >= 0.01, (index, dict(zip(PARTS, shares, strict=True)))


@pytest.mark.parametrize("colors", [None, GARISH])
def test_the_colours_of_the_palette_are_where_the_part_map_says(colors: Palette | None) -> None:
    for index in range(12):
        head, parts = pixels(0, index, 128, colors=colors), part_map(0, index, 128)
        for part, color in enumerate(astuple(colors or palette(0, index))):
            there = np.abs(head - color).max(-1) <= 2
            assert there[parts == part].mean() > 0.2, (index, PARTS[part])
            assert there[parts != part].mean() < 0.02, (index, PARTS[part])


@pytest.mark.parametrize("part", ["background", "clothes", "skin", "hair"])
def test_most_of_a_large_part_is_near_its_colour(part: str) -> None:
    for index in range(12):
        inside = pixels(0, index, 128)[part_map(0, index, 128) == PARTS.index(part)]
        plain = np.array(getattr(palette(0, index), part))
        pale = plain + 0.4 * (255 - plain)  # the motif of a background, a stripe of clothes
        distance = np.minimum(np.abs(inside - plain).max(1), np.abs(inside - pale).max(1))
        assert np.median(distance) <= 10, index


def test_recolouring_changes_each_part_alone() -> None:
    for part in PARTS:
        own = palette(0, 4)
        other = Palette(**{name: getattr(GARISH if name == part else own, name) for name in PARTS})
        changed = np.abs(pixels(0, 4, 64) - pixels(0, 4, 64, colors=other)).max(-1) > 40
        assert changed.any()
        inside = part_map(0, 4, 64) == PARTS.index(part)
        assert (changed & ~inside).sum() <= 0.1 * changed.sum(), part  # borders are blended


def test_recolouring_keeps_the_lines() -> None:
    lines = pixels(0, 2, 128) @ LUMA < 50
    assert lines.mean() > 0.01
    for colors in (palette(0, 3), palette(0, 7), GARISH):
        assert (pixels(0, 2, 128, colors=colors) @ LUMA)[lines].max() < 110


def test_a_palette_has_colours_that_can_be_told_apart_and_none_is_dark() -> None:
    for index in HEADS:
        colors = np.array(astuple(palette(0, index)), float)
        distances = np.abs(colors[:, None] - colors).max(-1) + 255 * np.eye(len(PARTS))
        assert distances.min() > 25, index
        assert (colors @ LUMA).min() > 0.3 * 255, index


@pytest.mark.parametrize("part", ["background", "clothes", "skin", "hair"])
def test_little_but_the_lines_is_dark(part: str) -> None:
    for index in range(12):
        inside = pixels(0, index, 256)[part_map(0, index, 256) == PARTS.index(part)]
        assert (inside @ LUMA < 0.25 * 255).mean() < 0.16, index


def test_sizes_under_16_and_negative_numbers_are_refused() -> None:
    for make in (draw, part_map):
        with pytest.raises(ValueError, match="size"):
            make(0, 0, 15)
        with pytest.raises(ValueError, match="negative"):
            make(0, -1, 16)
        with pytest.raises(ValueError, match="negative"):
            make(-1, 0, 16)
    with pytest.raises(ValueError, match="negative"):
        palette(0, -1)
