"""The built-in dataset: heads are pure functions of their arguments, and the part map says where each colour is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import astuple, replace
from itertools import combinations, pairwise

import numpy as np
import pytest
from PIL import Image

from attnbench.data.synthetic import DIFFICULTIES, PARTS, VERSION, Palette, draw, palette, part_map
from attnbench.data.synthetic.dice import Dice
from attnbench.data.synthetic.head import Head, head_of
from attnbench.data.synthetic.pose import STYLES, pose_of, shown_of
from attnbench.data.synthetic.raster import Outlines
from attnbench.data.synthetic.rendering import rendered
from attnbench.data.synthetic.shapes import Points, reshaped

HEADS = range(50)
ALWAYS = ("background", "clothes", "trim", "skin", "hair", "eyes", "accessory")  # parts that all heads have up to difficulty 2
LARGE = ("background", "clothes", "skin", "hair")
LUMA = np.array([0.299, 0.587, 0.114])
GARISH = Palette(
    background=(120, 240, 240),
    clothes=(240, 200, 60),
    trim=(250, 250, 250),
    skin=(240, 200, 220),
    hair=(60, 220, 90),
    eyes=(200, 90, 250),
    accessory=(250, 120, 40),
    thing=(90, 120, 250),
)


def pixels(*arguments: int, difficulty: int = 1, colors: Palette | None = None) -> np.ndarray:
    return np.asarray(draw(*arguments, difficulty=difficulty, colors=colors), int)


# The same bytes


def digest_of_fifty() -> str:
    """SHA-256 of fifty heads and their part maps, of all difficulties and several sizes."""
    content = hashlib.sha256()
    for index in HEADS:
        size, difficulty = (32, 64, 80)[index % 3], 1 + index % 4
        content.update(draw(index % 2, index, size, difficulty=difficulty).tobytes())
        content.update(part_map(index % 2, index, size, difficulty=difficulty).tobytes())
    return content.hexdigest()


def test_fifty_drawings_have_the_bytes_of_their_version() -> None:
    """On every machine and Python. If you meant to change drawings, raise `VERSION`: numbers of other drawings are others."""
    drawn = {2: "cd812e03e708c5ee09571f81f4a8a1434ae256ec71a79d3066ba8ff46a10a5fa"}
    assert digest_of_fifty() == drawn[VERSION]


def test_the_last_bits_of_coordinates_decide_on_no_pixel() -> None:
    """Machines differ by a unit in the last place, in cosines or sums of products: here by a thousand units, at random."""
    rng = np.random.default_rng(0)

    def shaken(points: Points) -> Points:
        return points * (1 + 2e-13 * rng.uniform(-1, 1, points.shape))

    for index in range(12):
        head = head_of(0, index, 1 + index % 4)
        other = Head(tuple(reshaped(shape, shaken) for shape in head.shapes), head.style)
        assert np.array_equal(rendered(head, 64).shown, rendered(other, 64).shown)


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


# Pixels


def test_pixels_of_an_outline_are_those_whose_centres_are_inside() -> None:
    """Against the crossing rule, point by point."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        corners = int(rng.integers(4, 12))
        angle = 2 * np.pi * (np.arange(corners) + rng.uniform(0, 0.9, corners)) / corners  # round the middle, each seen from it
        outline = 12 + rng.uniform(2, 12, corners)[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])
        for one in (outline, outline[::-1]):
            outlines = Outlines([one])
            (runs,) = outlines.runs(outlines.points, 24)
            inside = [[crosses(outlines.points, x + 0.5, y + 0.5) for x in range(24)] for y in range(24)]
            assert np.array_equal(runs.filled().on(24), inside)


def crosses(outline: Points, x: float, y: float) -> bool:
    """Whether a ray from the point to the right crosses the outline an odd number of times."""
    count = 0
    for (xa, ya), (xb, yb) in zip(outline, np.roll(outline, -1, 0), strict=True):
        if (ya <= y) != (yb <= y):
            count += xa + (xb - xa) * (y - ya) / (yb - ya) <= x
    return count % 2 == 1


def test_neighbours_that_share_an_edge_share_no_pixel_and_leave_none_out() -> None:
    square = np.array([(2.5, 1.3), (17.2, 4.1), (14.6, 18.9), (3.3, 13.7)])
    halves = [square[[0, 1, 2]], square[[0, 2, 3]]]
    outlines = Outlines([square, *halves])
    whole, *parts = (runs.filled().on(20).astype(int) for runs in outlines.runs(outlines.points, 20))
    assert np.array_equal(whole, sum(parts))


def test_an_outline_grows_by_a_distance_and_shrinks_to_nothing() -> None:
    square = np.array([(4.0, 4.0), (12.0, 4.0), (12.0, 12.0), (4.0, 12.0)])
    for one in (square, square[::-1]):
        outlines = Outlines([one])
        for distance, side in ((2, 12), (0, 8), (-3, 2), (-5, 0)):
            (runs,) = outlines.runs(outlines.grown(np.array([float(distance)])), 16)
            assert runs.filled().mask.sum() == side**2


@pytest.mark.parametrize("size", [16, 33, 64, 130, 257])
def test_pictures_and_part_maps_have_the_size_asked_for(size: int) -> None:
    head, parts = draw(0, 0, size), part_map(0, 0, size)
    assert (head.mode, head.size) == ("RGB", (size, size))
    assert parts.dtype == np.uint8
    assert parts.shape == (size, size)


@pytest.mark.parametrize("sizes", [(64, 128), (96, 192), (128, 256)])
def test_a_head_is_the_same_at_any_size(sizes: tuple[int, int]) -> None:
    small, large = sizes
    shrunk = np.asarray(draw(0, 3, large).resize((small, small), Image.Resampling.BOX), int)
    assert np.abs(shrunk - pixels(0, 3, small)).mean() < 5
    assert (part_map(0, 3, large)[1::2, 1::2] == part_map(0, 3, small)).mean() > 0.97


def test_borders_are_blended() -> None:
    head = pixels(0, 0, 64)
    colours = len(np.unique(head.reshape(-1, 3), axis=0))
    assert colours > 200


# Parts and colours


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_up_to_difficulty_2_every_head_has_every_part_but_a_thing(difficulty: int) -> None:
    has = np.array(
        [np.bincount(part_map(0, index, 64, difficulty=difficulty).ravel(), minlength=len(PARTS)) for index in HEADS]
    )
    shares = has / 64**2
    assert shares[:, [PARTS.index(part) for part in LARGE]].min() > 0.008
    every = shares[:, [PARTS.index(part) for part in ALWAYS]]
    if difficulty <= 2:
        assert every.min() > 0.0015
        assert shares[:, PARTS.index("thing")].max() == 0
    else:
        for part in ("trim", "eyes", "accessory", "thing"):
            lacking = (shares[:, PARTS.index(part)] == 0).mean()
            assert 0.08 < lacking < 0.75, part


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
@pytest.mark.parametrize("colors", [None, GARISH])
def test_the_colours_of_the_palette_are_where_the_part_map_says(colors: Palette | None, difficulty: int) -> None:
    for index in range(12):
        head, parts = (
            pixels(0, index, 128, difficulty=difficulty, colors=colors),
            part_map(0, index, 128, difficulty=difficulty),
        )
        for part, color in enumerate(astuple(colors or palette(0, index))):
            there = np.abs(head - color).max(-1) <= 2
            if (parts == part).mean() > 0.003:
                assert there[parts == part].mean() > 0.1, (index, PARTS[part])
            assert there[parts != part].mean() < 0.02, (index, PARTS[part])


def test_recolouring_changes_each_part_alone() -> None:
    for part in ALWAYS:
        own = palette(0, 4)
        other = replace(own, **{part: tuple(255 - value for value in getattr(own, part))})
        changed = np.abs(pixels(0, 4, 64) - pixels(0, 4, 64, colors=other)).max(-1) > 60
        assert changed.any(), part
        inside = part_map(0, 4, 64) == PARTS.index(part)
        assert (changed & ~inside).sum() <= 0.1 * changed.sum(), part  # borders are blended


def test_recolouring_keeps_the_lines() -> None:
    lines = pixels(0, 2, 128) @ LUMA < 50
    assert lines.mean() > 0.01
    for colors in (palette(0, 3), palette(0, 7), GARISH):
        assert (pixels(0, 2, 128, colors=colors) @ LUMA)[lines].max() < 110


def test_colours_of_a_palette_can_be_told_apart_and_none_is_as_dark_as_ink() -> None:
    from skimage.color import deltaE_ciede2000, rgb2lab

    for index in range(200):
        colors = np.array(astuple(palette(0, index)), np.uint8)
        lab = rgb2lab(colors[None])[0]
        pairs = np.array(list(combinations(range(len(PARTS)), 2)))
        assert deltaE_ciede2000(lab[pairs[:, 0]], lab[pairs[:, 1]]).min() > 7, index
        assert (colors @ LUMA).min() > 0.2 * 255, index


def test_a_head_has_the_same_colours_at_every_difficulty() -> None:
    for difficulty in DIFFICULTIES:
        head = pixels(0, 9, 64, difficulty=difficulty)
        for part in ("background", "hair", "skin"):
            assert (np.abs(head - getattr(palette(0, 9), part)).max(-1) <= 2).any(), (difficulty, part)


# Difficulty


def poses(difficulty: int) -> Iterator[float]:
    return (abs(pose_of(Dice("pose", 0, index), difficulty).turn) for index in HEADS)


def test_difficulty_grades_poses_parts_and_styles() -> None:
    assert max(poses(1)) < 0.13
    assert min(poses(2)) > 0.09
    assert len({shown_of(Dice("shown", 0, index), 2) for index in HEADS}) == 1
    assert len({shown_of(Dice("shown", 0, index), 3) for index in HEADS}) > 8
    assert len({head_of(0, index, 3).style for index in HEADS}) == 1
    assert {head_of(0, index, 4).style for index in HEADS} == set(STYLES)


def test_a_reference_laid_over_the_sketch_has_its_colours_in_wrong_places() -> None:
    """Even at difficulty 1 copying by position does not pay: less than half of the pixels of small parts meet their like."""
    maps = [part_map(0, index, 64) for index in HEADS]
    for part, most in (("hair", 0.5), ("accessory", 0.2), ("eyes", 0.3), ("trim", 0.3)):
        number = PARTS.index(part)
        met = [(other == number)[one == number].mean() for one, other in pairwise(maps)]
        assert np.mean(met) < most, (part, np.mean(met))


def test_sizes_under_16_or_above_4096_negative_numbers_and_other_difficulties_are_refused() -> None:
    for make in (draw, part_map):
        with pytest.raises(ValueError, match="size"):
            make(0, 0, 15)
        with pytest.raises(ValueError, match="size"):
            make(0, 0, 4097)
        with pytest.raises(ValueError, match="negative"):
            make(0, -1, 16)
        with pytest.raises(ValueError, match="negative"):
            make(-1, 0, 16)
        with pytest.raises(ValueError, match="difficulty"):
            make(0, 0, 16, difficulty=5)
    with pytest.raises(ValueError, match="negative"):
        palette(0, -1)


def test_whole_numbers_of_any_type_draw_the_same_and_other_numbers_are_refused() -> None:
    for make in (draw, part_map):
        same = np.asarray(make(1, 1, 32))
        assert np.array_equal(np.asarray(make(True, np.int64(1), np.uint8(32), difficulty=np.int32(1))), same)
        for given in ((1.0, 1, 32), (1, 1.0, 32), (1, 1, 32.0), ("1", 1, 32)):
            with pytest.raises(TypeError, match="must be a whole number, got "):
                make(*given)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"difficulty must be a whole number, got 2\.5"):
            make(1, 1, 32, difficulty=2.5)  # type: ignore[arg-type]
    assert palette(True, np.int64(1)) == palette(1, 1)
    with pytest.raises(TypeError, match="index must be a whole number"):
        palette(0, 1.0)  # type: ignore[arg-type]
