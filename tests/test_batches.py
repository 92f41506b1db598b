"""Training samples: what they are made of, and that they depend on (seed, epoch, index) alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attnbench.config.recipe import Data, Sketch, Warp
from attnbench.data.batches import Batch, epoch_order, own_reference_shows, pair_batch, training_batch
from attnbench.data.images import ImageSet, draw_sketches, prepare
from attnbench.data.layouts import synthetic
from attnbench.data.warp import warp

CPU = torch.device("cpu")
NATIVE = Data(size=32)
TARGET = Data(size=32, sketch=Sketch(at="target"))
AT: tuple[Literal["native", "target"], ...] = ("native", "target")
PER: tuple[Literal["image", "epoch"], ...] = ("image", "epoch")
RECIPES = {
    "official": NATIVE,
    "sketch at target size": TARGET,
    "sigma per epoch": Data(size=32, sketch=Sketch(sigma_per="epoch")),
    "sigma per epoch at target size": Data(size=32, sketch=Sketch(at="target", sigma_per="epoch")),
    "channel shift, grid warp": Data(size=32, jitter="channel_shift", warp=Warp(kind="grid", border="reflect")),
    "colour jitter, no warp": Data(size=32, jitter="color_jitter", warp=Warp(kind="none")),
}


def heads(data: Data = NATIVE) -> ImageSet:
    """Twelve training heads of 64 pixels, at the recipe's 32."""
    return prepare(synthetic(train=12, test=2, size=64), data).train


def sample(index: int, data: Data = NATIVE, *, seed: int = 0, epoch: int = 0) -> Batch:
    return training_batch(heads(data), [index], seed=seed, epoch=epoch, data=data, device=CPU)


def assert_equal(a: Batch, b: Batch, row: int = 0) -> None:
    """The only sample of `a` is sample `row` of `b`."""
    for part in ("target", "sketch"):
        assert torch.equal(getattr(a, part)[0], getattr(b, part)[row]), part
    assert torch.allclose(a.reference[0], b.reference[row], atol=1e-5)


def levels(images: Tensor) -> Tensor:
    """[-1, 1] -> 0..255."""
    return (images + 1) * 127.5


@pytest.mark.parametrize("data", RECIPES.values(), ids=RECIPES)
def test_a_sample_does_not_depend_on_the_batch_it_is_in_nor_on_its_place_there(data: Data) -> None:
    images = heads(data)
    indices = [7, 0, 11, 3]
    batch = training_batch(images, indices, seed=4, epoch=2, data=data, device=CPU)
    turned = training_batch(images, indices[::-1], seed=4, epoch=2, data=data, device=CPU)
    for row, index in enumerate(indices):
        alone = sample(index, data, seed=4, epoch=2)
        assert_equal(alone, batch, row)
        assert_equal(alone, turned, 3 - row)


@pytest.mark.parametrize("data", RECIPES.values(), ids=RECIPES)
def test_the_same_seed_epoch_and_index_give_the_same_sample_again(data: Data) -> None:
    assert_equal(sample(5, data, seed=1, epoch=3), sample(5, data, seed=1, epoch=3))


def test_global_random_state_has_no_part_in_a_sample() -> None:
    torch.manual_seed(0)
    before = sample(5)
    torch.manual_seed(1)
    np.random.seed(1)
    assert_equal(before, sample(5))


@pytest.mark.parametrize("other", [{"seed": 1}, {"epoch": 1}])
def test_another_seed_or_epoch_jitters_and_warps_anew_but_draws_the_same_lines(other: dict[str, int]) -> None:
    first, second = sample(2), sample(2, **other)
    assert not torch.equal(first.target, second.target)
    assert (first.reference - second.reference).abs().mean() > 0.02
    assert torch.equal(first.sketch, second.sketch)


def test_one_image_seen_twice_in_a_batch_is_one_sample_and_two_images_are_warped_apart() -> None:
    images = heads()
    twin = ImageSet(images.names, images.images[[0, 0, 1]], images.sketches, images.sigma)
    batch = training_batch(twin, [0, 1, 0], seed=0, epoch=0, data=NATIVE, device=CPU)
    assert torch.equal(batch.reference[0], batch.reference[2])
    assert (batch.reference[0] - batch.reference[1]).abs().mean() > 0.02


@pytest.mark.parametrize("data", RECIPES.values(), ids=RECIPES)
def test_everything_is_within_minus_one_and_one_and_has_its_shape(data: Data) -> None:
    batch = training_batch(heads(data), range(6), seed=0, epoch=0, data=data, device=CPU)
    assert (batch.target.shape, batch.sketch.shape, batch.reference.shape) == ((6, 3, 32, 32), (6, 1, 32, 32), (6, 3, 32, 32))
    for part in (batch.target, batch.sketch, batch.reference):
        assert part.dtype == torch.float32
        assert -1 <= part.min() < -0.5
        assert 0.5 < part.max() <= 1


def test_with_official_jitter_the_target_is_the_image_but_for_one_grey_level() -> None:
    target = levels(sample(3).target)
    loss = heads().images[3] - target[0]
    assert loss.min() == pytest.approx(0, abs=1e-3)
    assert loss.max() == pytest.approx(1, abs=1e-3)
    assert loss.mean() == pytest.approx(0.5, abs=0.05)


def test_without_jitter_and_warp_target_and_reference_are_the_image() -> None:
    plain = sample(3, Data(size=32, jitter="none", warp=Warp(kind="none")))
    assert torch.allclose(levels(plain.target)[0], heads().images[3].float(), atol=1e-4)
    assert torch.equal(plain.target, plain.reference)


def test_the_reference_is_the_jittered_target_warped() -> None:
    data = Data(size=32, jitter="channel_shift", warp=Warp(kind="grid", magnitude=0, border="replicate"))
    batch = sample(3, data)
    assert (levels(batch.target)[0] - heads().images[3]).abs().mean() > 5
    unmoved = warp((batch.target + 1) / 2, torch.zeros(1, 32, 32, 2), border="replicate")
    assert torch.allclose(batch.reference, unmoved * 2 - 1, atol=1e-4)


@pytest.mark.parametrize(
    "kind", [Warp(), Warp(kind="grid", magnitude=0.15, border="replicate"), Warp(kind="none")], ids=["official", "grid", "none"]
)
def test_every_pixel_of_the_reference_shows_the_place_that_the_batch_says(kind: Warp) -> None:
    """The target, read at these places by torch's own sampling, is the reference."""
    images = heads()
    data = Data(size=32, jitter="color_jitter", warp=kind)
    batch = training_batch(images, [3, 7], seed=1, epoch=2, data=data, device=CPU)
    assert batch.shows is not None
    assert (batch.shows.shape, batch.shows.dtype) == ((2, 32, 32, 2), torch.float32)
    read = F.grid_sample(
        (batch.target + 1) / 2, 2 * batch.shows - 1, mode="bicubic", padding_mode="border", align_corners=False
    )
    inside = ((batch.shows > 0.05) & (batch.shows < 0.95)).all(-1)[:, None].expand_as(read)
    assert inside.float().mean() > 0.5
    assert torch.allclose(read.clamp(0, 1)[inside], ((batch.reference + 1) / 2)[inside], atol=1e-3)


def test_what_is_shown_depends_on_the_warps_of_each_pair_alone() -> None:
    images = heads()
    together = pair_batch(images, [(1, 1), (4, 4), (2, 2)], data=NATIVE, device=CPU, warp_seed=5)
    assert together.shows is not None
    for place, index in enumerate((1, 4, 2)):
        wanted = torch.from_numpy(own_reference_shows(index, NATIVE, 5)).float()
        assert torch.equal(together.shows[place], wanted)


def test_of_another_images_reference_it_is_not_known_what_it_shows() -> None:
    batch = pair_batch(heads(), [(1, 4), (2, 2)], data=NATIVE, device=CPU)
    assert batch.shows is None
    assert batch.given == (batch.sketch, batch.reference)
    assert list(batch.tensors()) == ["target", "sketch", "reference"]


def test_the_sketch_is_the_line_art_of_the_image_before_jitter() -> None:
    plain, jittered = (TARGET.model_copy(update={"jitter": kind}) for kind in ("none", "color_jitter"))
    assert torch.equal(sample(3, plain).sketch, sample(3, jittered).sketch)
    assert not torch.equal(sample(3, plain).target, sample(3, jittered).target)


def test_paper_is_white_and_lines_are_dark() -> None:
    for data in (NATIVE, TARGET):
        sketch = sample(0, data).sketch
        assert (sketch == 1).float().mean() > 0.4
        assert sketch.min() < -0.5


def test_line_art_drawn_at_the_target_size_stays_black_and_white_and_that_of_the_native_size_gets_greys() -> None:
    assert set(sample(0, TARGET).sketch.unique().tolist()) == {-1.0, 1.0}
    grey = sample(0, NATIVE).sketch
    assert ((grey > -0.9) & (grey < 0.9)).float().mean() > 0.02


def test_native_line_art_is_what_the_data_set_keeps() -> None:
    images = heads()
    assert images.sketches is not None
    batch = training_batch(images, [4, 9], seed=0, epoch=0, data=NATIVE, device=CPU)
    assert torch.allclose(levels(batch.sketch), images.sketches[[4, 9]].float(), atol=1e-4)


def test_line_art_at_the_target_size_is_xdog_with_the_sigma_of_the_image_s_name() -> None:
    images = heads(TARGET)
    rows = [int((images.sigma == sigma).nonzero()[0]) for sigma in torch.tensor([0.3, 0.4, 0.5])]
    batch = training_batch(images, rows, seed=0, epoch=0, data=TARGET, device=CPU)
    wanted = draw_sketches(images.images[rows].float() / 255, torch.tensor([0.3, 0.4, 0.5]), TARGET.sketch)
    assert torch.equal((batch.sketch + 1) / 2, wanted)


@pytest.mark.parametrize("at", AT)
def test_sigma_per_epoch_draws_line_widths_anew_every_epoch_and_evenly(at: Literal["native", "target"]) -> None:
    data = Data(size=32, jitter="none", sketch=Sketch(at=at, sigma_per="epoch"), warp=Warp(kind="none"))
    widths = [Data(size=32, sketch=Sketch(at=at, sigma=(sigma,))) for sigma in data.sketch.sigma]
    drawings = [sample(1, width).sketch for width in widths]
    images, counts = heads(data), [0, 0, 0]
    for epoch in range(45):
        drawn = training_batch(images, [1], seed=0, epoch=epoch, data=data, device=CPU).sketch
        counts[[torch.equal(drawn, drawing) for drawing in drawings].index(True)] += 1
    assert min(counts) > 6


def test_test_sketches_keep_the_sigma_of_their_name_even_where_training_draws_it_anew() -> None:
    for at in AT:
        per_image, per_epoch = (Data(size=32, sketch=Sketch(at=at, sigma_per=per)) for per in PER)
        pairs = [(i, (i + 1) % 12) for i in range(12)]
        fixed, redrawn = (pair_batch(heads(data), pairs, data=data, device=CPU) for data in (per_image, per_epoch))
        assert torch.equal(fixed.sketch, redrawn.sketch)


def test_the_data_set_s_own_line_art_is_used_whatever_sigma_says() -> None:
    images = heads()
    own = torch.arange(12, dtype=torch.uint8).view(12, 1, 1, 1).mul(20).expand(12, 1, 32, 32)
    shipped = replace(images, sketches=own)
    for per in PER:
        data = Data(size=32, sketch=Sketch(source="dataset", sigma_per=per))
        batch = training_batch(shipped, [2, 10], seed=0, epoch=0, data=data, device=CPU)
        assert torch.allclose(levels(batch.sketch)[:, 0, 0, 0], torch.tensor([40.0, 200.0]), atol=1e-4)


def test_a_pair_is_the_first_one_s_lines_and_colours_and_the_second_one_s_picture_unchanged() -> None:
    images = heads()
    assert images.sketches is not None
    batch = pair_batch(images, [(3, 8), (5, 0)], data=NATIVE, device=CPU)
    assert torch.allclose(levels(batch.target), images.images[[3, 5]].float(), atol=1e-4)
    assert torch.allclose(levels(batch.reference), images.images[[8, 0]].float(), atol=1e-4)
    assert torch.allclose(levels(batch.sketch), images.sketches[[3, 5]].float(), atol=1e-4)


def test_an_epoch_visits_every_image_once_in_an_order_of_its_own() -> None:
    orders = [epoch_order(seed, epoch, 40).tolist() for seed in range(3) for epoch in range(3)]
    assert all(sorted(order) == list(range(40)) for order in orders)
    assert len({tuple(order) for order in orders}) == 9
    assert orders[0] == epoch_order(0, 0, 40).tolist()
