"""Decoding of odd pictures, refusal of broken ones, and a cache that notices what changed."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from attnbench.config.recipe import Data, Sketch
from attnbench.data import images as images_file
from attnbench.data import synthetic as cartoon_file
from attnbench.data import xdog as xdog_file
from attnbench.data.images import ImageSet, PreparedDataset, cache_folder, decode, prepare, resident, resize, sigma_index
from attnbench.data.layouts import Dataset, ImageFile, folder, synthetic
from attnbench.data.synthetic import draw
from attnbench.data.xdog import xdog
from attnbench.errors import UserError
from attnbench.source_code import digest_of_file

Heads = Callable[..., Path]
HEAD = draw(0, 0, 32)
SMALL = Data(size=32)


def rgb(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)


def through_file(picture: Image.Image, path: Path, **options: object) -> Image.Image:
    """Decoded from a file, as the benchmark decodes it."""
    picture.save(path, **options)  # type: ignore[arg-type]
    with ImageFile(path.name, path).open() as opened:
        return decode(opened)


def prepared(path: Path, data: Data = SMALL, **options: object) -> PreparedDataset:
    return prepare(folder("mine", path), data, **options)  # type: ignore[arg-type]


def same(a: ImageSet, b: ImageSet) -> bool:
    sketches = a.sketches is b.sketches or (
        a.sketches is not None and b.sketches is not None and torch.equal(a.sketches, b.sketches)
    )
    return a.names == b.names and torch.equal(a.images, b.images) and sketches and torch.equal(a.sigma, b.sigma)


def changed_splits(before: PreparedDataset, after: PreparedDataset) -> list[str]:
    """The splits whose fingerprints differ."""
    return [split for split, print_ in before.fingerprints.items() if after.fingerprints[split] != print_]


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


# Decoding


def test_an_rgb_file_is_decoded_as_it_is(tmp_path: Path) -> None:
    assert np.array_equal(rgb(through_file(HEAD, tmp_path / "a.png")), rgb(HEAD))


def test_grey_becomes_three_equal_channels(tmp_path: Path) -> None:
    grey = HEAD.convert("L")
    assert np.array_equal(rgb(through_file(grey, tmp_path / "a.png")), rgb(grey)[..., None].repeat(3, -1))


def test_black_and_white_becomes_0_and_255(tmp_path: Path) -> None:
    decoded = rgb(through_file(HEAD.convert("1"), tmp_path / "a.png"))
    assert set(np.unique(decoded)) == {0, 255}


def test_transparent_parts_become_white_and_half_transparent_ones_are_blended(tmp_path: Path) -> None:
    picture = HEAD.convert("RGBA")
    alpha = np.zeros((32, 32), np.uint8)
    alpha[:, 10:20], alpha[:, 20:] = 128, 255
    picture.putalpha(Image.fromarray(alpha))
    decoded = rgb(through_file(picture, tmp_path / "a.png"))
    assert (decoded[:, :10] == 255).all()
    assert np.abs(decoded[:, 10:20] - (rgb(HEAD)[:, 10:20] * 128 + 255 * 127) / 255).max() <= 1
    assert np.array_equal(decoded[:, 20:], rgb(HEAD)[:, 20:])


def test_grey_with_transparency_is_put_on_white_too(tmp_path: Path) -> None:
    decoded = rgb(through_file(Image.new("LA", (4, 4), (0, 0)), tmp_path / "a.png"))
    assert (decoded == 255).all()


def test_a_palette_gives_its_colours(tmp_path: Path) -> None:
    paletted = HEAD.quantize(16)
    assert np.array_equal(rgb(through_file(paletted, tmp_path / "a.png")), rgb(paletted.convert("RGB")))


@pytest.mark.parametrize("transparency", [3, bytes([255, 255, 255, 0])])
def test_a_transparent_colour_of_a_palette_becomes_white(tmp_path: Path, transparency: int | bytes) -> None:
    paletted = HEAD.quantize(8)
    decoded = rgb(through_file(paletted, tmp_path / "a.png", transparency=transparency))
    transparent = np.asarray(paletted) == 3
    assert transparent.any()
    assert (decoded[transparent] == 255).all()
    assert np.array_equal(decoded[~transparent], rgb(paletted.convert("RGB"))[~transparent])


def test_the_one_transparent_colour_of_an_rgb_file_becomes_white(tmp_path: Path) -> None:
    picture = Image.new("RGB", (4, 4), (10, 20, 30))
    assert (rgb(through_file(picture, tmp_path / "a.png", transparency=(10, 20, 30))) == 255).all()


def test_cmyk_becomes_the_colours_that_it_prints(tmp_path: Path) -> None:
    picture = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # magenta and yellow: red
    decoded = rgb(through_file(picture, tmp_path / "a.jpg", quality=100))
    assert np.abs(decoded - [255, 0, 0]).max() <= 4


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_keeps_its_high_byte_instead_of_turning_white(tmp_path: Path, suffix: str) -> None:
    wide = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    decoded = rgb(through_file(Image.fromarray(wide), tmp_path / f"a.{suffix}"))
    assert np.array_equal(decoded[..., 0].ravel(), np.arange(256))
    assert np.array_equal(decoded[..., 0], decoded[..., 2])


@pytest.mark.parametrize(
    "wide",
    [
        np.arange(4096, dtype=np.uint16).reshape(64, 64),  # 12 bits
        (np.arange(4096, dtype=np.int64) * ((2**31 - 1) // 4095)).astype(np.int32).reshape(64, 64),
        np.linspace(0, 1, 4096, dtype=np.float32).reshape(64, 64),
        np.linspace(0, 255, 4096, dtype=np.float32).reshape(64, 64),
        np.linspace(-0.001, 1, 4096, dtype=np.float32).reshape(64, 64),
    ],
    ids=["12 bits", "32 bits", "float to 1", "float to 255", "a little below 0"],
)
def test_wide_grey_keeps_its_tones_instead_of_turning_black(tmp_path: Path, wide: np.ndarray) -> None:
    decoded = rgb(through_file(Image.fromarray(wide), tmp_path / "a.tif"))
    assert np.abs(decoded[..., 0].ravel() - np.linspace(0, 255, 4096)).max() < 1.3


def test_floats_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="pixels that are not finite"):
        decode(Image.fromarray(np.full((4, 4), np.nan, np.float32)))


def test_decoding_leaves_a_picture_open_and_as_it_is(tmp_path: Path) -> None:
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    red.save(tmp_path / "a.gif", save_all=True, append_images=[blue])
    with Image.open(tmp_path / "a.gif") as film:
        decode(film)
        film.seek(1)
        assert (rgb(decode(film)) == [0, 0, 255]).all()


def test_transparency_lies_on_the_backdrop_that_is_asked_for() -> None:
    picture = Image.new("RGBA", (4, 4), (255, 255, 255, 0))
    assert (rgb(decode(picture, "black")) == 0).all()


@pytest.mark.parametrize(("orientation", "turned"), [(3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_270)])
def test_a_photo_that_was_taken_sideways_is_turned_upright(tmp_path: Path, orientation: int, turned: Image.Transpose) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = draw(0, 0, 32).crop((0, 0, 32, 20))
    assert np.array_equal(rgb(through_file(picture, tmp_path / "a.png", exif=exif)), rgb(picture.transpose(turned)))


def test_of_an_animation_the_first_frame_is_taken(tmp_path: Path) -> None:
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    decoded = rgb(through_file(red, tmp_path / "a.gif", save_all=True, append_images=[blue]))
    assert (decoded == [255, 0, 0]).all()


def test_one_pixel_is_a_picture(tmp_path: Path) -> None:
    for split, count in (("train", 2), ("test", 2)):
        (tmp_path / split).mkdir()
        for index in range(count):
            Image.new("RGB", (1, 1), (200, 100, 50 + index)).save(tmp_path / split / f"{index}.png")
    images = prepared(tmp_path).train
    assert (images.images[0] == torch.tensor([200, 100, 50])[:, None, None]).all()
    assert images.sketches is not None
    assert (images.sketches == 255).all()


def test_resizing_antialiases_and_does_not_keep_the_aspect() -> None:
    stripes = Image.fromarray(np.tile(np.uint8([0, 255]), (40, 64)))
    small = np.asarray(resize(stripes, 16))
    assert small.shape == (16, 16)
    assert np.abs(small[:, 1:-1].astype(int) - 127).max() <= 4


def test_a_picture_of_the_right_size_is_not_touched() -> None:
    assert resize(HEAD, 32) is HEAD


# A dataset


def test_a_split_holds_its_pictures_in_the_order_of_their_names(folder_of_heads: Heads) -> None:
    data_set = prepared(folder_of_heads())
    assert data_set.train.names == [f"{i:03d}.png" for i in range(4, 12)]
    assert (data_set.train.images.shape, data_set.train.images.dtype) == ((8, 3, 32, 32), torch.uint8)
    for row, index in enumerate(range(4, 12)):
        assert np.array_equal(data_set.train.images[row].permute(1, 2, 0), np.asarray(draw(0, index, 32)))
    assert len(data_set.test) == 4


def test_pictures_of_many_sizes_fill_one_set(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        for index, size in enumerate([(20, 50), (64, 64), (64, 64), (33, 16), (64, 64)]):
            draw(0, index, 64).resize(size).save(tmp_path / split / f"{index}.png")
    data_set = prepared(tmp_path)
    for row in range(5):
        with Image.open(tmp_path / "train" / f"{row}.png") as picture:
            wanted = picture.resize((32, 32), Image.Resampling.BILINEAR)
        assert np.array_equal(data_set.train.images[row].permute(1, 2, 0), np.asarray(wanted))


def test_the_side_is_the_median_of_the_shorter_sides_of_good_training_images(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        for index, size in enumerate([(20, 50), (64, 64), (90, 70), (33, 16), (40, 400)]):
            Image.new("RGB", size).save(tmp_path / split / f"{index}.png")
    Image.new("RGB", (999, 999)).save(tmp_path / "test" / "9.png")
    (tmp_path / "train" / "bad.png").write_text("no picture")
    for _ in ("decoded", "from the cache"):
        assert prepared(tmp_path, skip_corrupt=True).side == 40


def test_sketches_are_drawn_at_the_native_size_with_the_name_s_sigma_and_then_resized(folder_of_heads: Heads) -> None:
    images = prepared(folder_of_heads(train=6, size=64)).train
    assert images.sketches is not None
    assert images.sketches.shape == (6, 1, 32, 32)
    assert len(set(images.sigma.tolist())) > 1
    for row, name in enumerate(images.names):
        assert images.sigma[row] == torch.tensor((0.3, 0.4, 0.5)[sigma_index(name, 3)])
        head = torch.from_numpy(np.array(draw(0, int(name[:3]), 64))).permute(2, 0, 1)[None].float() / 255
        line_art = Image.fromarray((xdog(head, images.sigma[row : row + 1])[0, 0] * 255).byte().numpy())
        assert np.array_equal(images.sketches[row, 0], np.asarray(line_art.resize((32, 32), Image.Resampling.BILINEAR)))


def test_for_sigmas_drawn_every_epoch_a_sketch_of_each_is_kept(folder_of_heads: Heads) -> None:
    path = folder_of_heads(train=6, size=64)
    per_image, per_epoch = (prepared(path, Data(size=32, sketch=Sketch(sigma_per=per))).train for per in ("image", "epoch"))
    assert per_image.sketches is not None
    assert per_epoch.sketches is not None
    assert per_epoch.sketches.shape == (6, 3, 32, 32)
    for row, name in enumerate(per_image.names):
        assert torch.equal(per_epoch.sketches[row, sigma_index(name, 3)], per_image.sketches[row, 0])


def test_sketches_at_the_target_size_are_left_to_the_batch(folder_of_heads: Heads) -> None:
    assert prepared(folder_of_heads(), Data(size=32, sketch=Sketch(at="target"))).train.sketches is None


def test_the_data_set_s_own_line_art_is_read_and_resized(folder_of_heads: Heads) -> None:
    path = folder_of_heads(size=64)
    for split in ("train", "test"):
        shutil.copytree(path / split, path / f"{split}_sketch")
    data_set = prepared(path, Data(size=32, sketch=Sketch(source="dataset")))
    assert data_set.test.sketches is not None
    wanted = draw(0, 2, 64).convert("L").resize((32, 32), Image.Resampling.BILINEAR)
    assert np.array_equal(data_set.test.sketches[2, 0], np.asarray(wanted))


def test_line_art_that_is_asked_for_but_not_there_is_refused_by_name(folder_of_heads: Heads) -> None:
    with pytest.raises(UserError, match=r"8 of 8 images .*004\.png \(the dataset has no line art for it"):
        prepared(folder_of_heads(), Data(size=32, sketch=Sketch(source="dataset")))


def test_which_sigma_a_name_gets_is_fixed_for_ever_and_even_over_many_names() -> None:
    assert [sigma_index(name, 3) for name in ("a.png", "b.png", "e.png", "7.png")] == [2, 0, 0, 1]
    counts = np.bincount([sigma_index(f"{i:05d}.jpg", 3) for i in range(3000)])
    assert np.abs(counts - 1000).max() < 120


# Files that are no good


def test_truncated_and_other_broken_files_are_refused_and_named(folder_of_heads: Heads) -> None:
    path = folder_of_heads()
    cut_in_half(path / "train" / "005.png")
    (path / "train" / "007.png").write_text("not an image")
    with pytest.raises(
        UserError, match=r"'mine', train: 2 of 8 .*005\.png \(.+\); 007\.png \(.+\): .*--skip-corrupt"
    ) as refused:
        prepared(path)
    assert "\n" not in str(refused.value)


def test_of_many_broken_files_five_are_named_and_the_others_counted(folder_of_heads: Heads) -> None:
    path = folder_of_heads()
    for file in sorted((path / "train").iterdir())[:7]:
        file.write_bytes(b"")
    with pytest.raises(UserError, match=r"7 of 8 images .*004\.png.*008\.png \([^)]*\); and 2 more"):
        prepared(path)


def test_a_truncated_jpeg_is_not_taken_for_a_picture_with_a_grey_half(folder_of_heads: Heads) -> None:
    path = folder_of_heads(size=64)
    draw(0, 0, 64).save(path / "train" / "cut.jpg", quality=95)
    cut_in_half(path / "train" / "cut.jpg")
    with pytest.raises(UserError, match=r"cut\.jpg \(image file is truncated"):
        prepared(path)


def test_with_skip_corrupt_broken_files_are_left_out_and_listed(folder_of_heads: Heads) -> None:
    path = folder_of_heads()
    whole = prepared(path)
    cut_in_half(path / "train" / "005.png")
    (path / "test" / "001.png").write_text("not an image")
    data_set = prepared(path, skip_corrupt=True)
    assert data_set.skipped == ["train/005.png", "test/001.png"]
    assert [picture.name for picture in data_set.train_pictures] == data_set.train.names
    keep = [i for i, name in enumerate(whole.train.names) if name != "005.png"]
    assert data_set.train.names == [whole.train.names[i] for i in keep]
    assert torch.equal(data_set.train.images, whole.train.images[keep])
    assert torch.equal(data_set.train.sigma, whole.train.sigma[keep])
    assert whole.train.sketches is not None
    assert data_set.train.sketches is not None
    assert torch.equal(data_set.train.sketches, whole.train.sketches[keep])


def test_a_data_set_without_its_broken_files_has_the_fingerprint_of_one_that_never_had_them(folder_of_heads: Heads) -> None:
    path = folder_of_heads()
    before = prepared(path)
    (path / "train" / "zzz.png").write_bytes(b"broken")
    assert prepared(path, skip_corrupt=True).fingerprints == before.fingerprints


def test_fewer_than_two_test_images_are_refused_since_they_make_no_pair(folder_of_heads: Heads) -> None:
    with pytest.raises(UserError, match="1 test image: pairs need at least 2"):
        prepared(folder_of_heads(test=1))


def test_a_repaired_file_is_noticed(folder_of_heads: Heads) -> None:
    path = folder_of_heads()
    good = (path / "train" / "005.png").read_bytes()
    cut_in_half(path / "train" / "005.png")
    with pytest.raises(UserError, match=r"005\.png"):
        prepared(path)
    (path / "train" / "005.png").write_bytes(good)
    assert len(prepared(path).train) == 8


# The cache


class Counted:
    """A picture that counts how often it is decoded and hashed."""

    def __init__(self, file: ImageFile):
        self.file, self.opened, self.hashed = file, 0, 0
        self.name = file.name

    @property
    def stamp(self) -> str:
        return self.file.stamp

    def content_digest(self) -> str:
        self.hashed += 1
        return self.file.content_digest()

    def open(self) -> Image.Image:
        self.opened += 1
        return self.file.open()

    def open_sketch(self) -> Image.Image | None:
        return self.file.open_sketch()


def counted(path: Path) -> Dataset:
    found = folder("mine", path)
    return replace(found, train=[Counted(p) for p in found.train], test=[Counted(p) for p in found.test])  # type: ignore[arg-type]


def total(data_set: Dataset) -> tuple[int, int]:
    """How often its pictures were decoded, and hashed."""
    pictures = [*data_set.train, *data_set.test]
    return sum(p.opened for p in pictures), sum(p.hashed for p in pictures)  # type: ignore[attr-defined]


def test_the_second_time_nothing_is_read_or_decoded_and_the_result_is_the_same(tmp_path: Path, folder_of_heads: Heads) -> None:
    path = folder_of_heads()
    first, second = counted(path), counted(path)
    one, two = prepare(first, SMALL, cache=tmp_path), prepare(second, SMALL, cache=tmp_path)
    assert (total(first), total(second)) == ((12, 12), (0, 0))
    assert same(one.train, two.train)
    assert same(one.test, two.test)
    assert one.fingerprints == two.fingerprints


def test_a_file_that_changed_is_noticed_and_only_its_split_is_decoded_again(folder_of_heads: Heads) -> None:
    path = folder_of_heads()
    before = prepared(path)
    draw(1, 99, 32).save(path / "train" / "006.png")
    again = counted(path)
    after = prepare(again, SMALL)
    assert total(again) == (8, 8)
    changed = [i for i, name in enumerate(after.train.names) if name == "006.png"]
    assert (after.train.images != before.train.images).flatten(1).any(1).nonzero().flatten().tolist() == changed
    assert np.array_equal(after.train.images[changed[0]].permute(1, 2, 0), np.asarray(draw(1, 99, 32)))
    assert changed_splits(before, after) == ["train"]


def test_a_change_that_keeps_a_file_s_size_is_noticed_by_its_time(tmp_path: Path, folder_of_heads: Heads) -> None:
    path = folder_of_heads()
    for index in range(4):
        draw(0, index, 32).save(path / "test" / f"{index:03d}.png")
    Image.new("RGB", (32, 32), (10, 10, 10)).save(path / "test" / "000.bmp")
    before = prepared(path)
    Image.new("RGB", (32, 32), (20, 20, 20)).save(path / "test" / "000.bmp")
    os.utime(path / "test" / "000.bmp", ns=(1, 1))
    after = prepared(path)
    assert (before.test.images[0] == 10).all()
    assert (after.test.images[0] == 20).all()
    assert changed_splits(before, after) == ["test"]


def test_line_art_that_changed_is_noticed_too(folder_of_heads: Heads) -> None:
    path = folder_of_heads()
    for split in ("train", "test"):
        shutil.copytree(path / split, path / f"{split}_sketch")
    data = Data(size=32, sketch=Sketch(source="dataset"))
    prepared(path, data)
    Image.new("L", (32, 32), 77).save(path / "train_sketch" / "004.png")
    sketches = prepared(path, data).train.sketches
    assert sketches is not None
    assert (sketches[0] == 77).all()


def test_files_that_were_only_touched_are_hashed_but_not_decoded_again(folder_of_heads: Heads) -> None:
    path = folder_of_heads()
    prepared(path)
    for file in path.rglob("*.png"):
        os.utime(file, ns=(1, 1))
    touched = counted(path)
    prepare(touched, SMALL)
    assert total(touched) == (0, 12)


def test_another_size_and_other_line_art_are_other_cache_entries(folder_of_heads: Heads) -> None:
    path = folder_of_heads(size=64)
    first = prepared(path)
    assert prepared(path, Data(size=16)).train.images.shape[-1] == 16
    wider = prepared(path, Data(size=32, sketch=Sketch(k=2.0))).train.sketches
    assert wider is not None
    assert first.train.sketches is not None
    assert not torch.equal(wider, first.train.sketches)
    assert same(prepared(path).train, first.train)


def test_a_renamed_file_gets_the_line_width_of_its_new_name(folder_of_heads: Heads) -> None:
    path = folder_of_heads(train=1, size=64)
    before = prepared(path).train
    new = next(f"{i}.png" for i in range(9) if sigma_index(f"{i}.png", 3) != sigma_index("004.png", 3))
    (path / "train" / "004.png").rename(path / "train" / new)
    after = prepared(path).train
    assert torch.equal(after.images, before.images)
    assert after.sigma[0] != before.sigma[0]
    assert before.sketches is not None
    assert after.sketches is not None
    assert not torch.equal(after.sketches, before.sketches)


def test_writing_to_a_loaded_set_does_not_reach_the_cache(folder_of_heads: Heads) -> None:
    path = folder_of_heads()
    first = prepared(path)
    first.train.images.fill_(0)
    assert prepared(path).train.images.any()


def test_the_cache_is_where_the_environment_says_and_leaves_no_drafts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder_of_heads: Heads
) -> None:
    monkeypatch.setenv("ATTNBENCH_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    prepared(folder_of_heads())
    folders = sorted((tmp_path / "mine" / "images").iterdir())
    assert [sorted(file.name for file in entry.iterdir()) for entry in folders] == [
        ["corrupt.json", "images.npy", "sides.json", "sketches.npy"]
    ] * 2
    assert len(list((tmp_path / "mine" / "digests").iterdir())) == 2


# The fingerprints


def test_the_fingerprint_does_not_depend_on_where_the_files_are_or_when_they_were_written(
    tmp_path: Path, folder_of_heads: Heads
) -> None:
    path = folder_of_heads()
    first = prepared(path)
    shutil.copytree(path, tmp_path / "elsewhere")
    for file in (tmp_path / "elsewhere").rglob("*.png"):
        os.utime(file, ns=(10**18, 10**18))
    assert prepared(tmp_path / "elsewhere").fingerprints == first.fingerprints


def test_the_fingerprint_is_the_data_set_s_whatever_the_recipe_does_with_it(folder_of_heads: Heads) -> None:
    path = folder_of_heads()
    assert prepared(path).fingerprints == prepared(path, Data(size=16, sketch=Sketch(at="target"))).fingerprints


def test_each_split_has_a_fingerprint_of_its_own(folder_of_heads: Heads) -> None:
    path = folder_of_heads()
    prints = prepared(path).fingerprints
    assert list(prints) == ["train", "test"]
    assert prints["train"] != prints["test"]
    shutil.rmtree(path / "test")
    shutil.copytree(path / "train", path / "test")
    prints = prepared(path).fingerprints
    assert prints["train"] == prints["test"]


def test_a_renamed_file_changes_its_split_s_fingerprint(folder_of_heads: Heads) -> None:
    path = folder_of_heads()
    first = prepared(path)
    (path / "train" / "011.png").rename(path / "train" / "012.png")
    assert changed_splits(first, prepared(path)) == ["train"]


@pytest.mark.parametrize(("split", "name"), [("test", "003.png"), ("train", "011.png")])
def test_changed_content_changes_its_split_s_fingerprint(split: str, name: str, folder_of_heads: Heads) -> None:
    path = folder_of_heads()
    first = prepared(path)
    draw(1, 50, 32).save(path / split / name)
    assert changed_splits(first, prepared(path)) == [split]


def test_an_image_moved_from_test_to_train_changes_both_fingerprints(folder_of_heads: Heads) -> None:
    path = folder_of_heads()
    first = prepared(path)
    (path / "test" / "003.png").rename(path / "train" / "003.png")
    assert changed_splits(first, prepared(path)) == ["train", "test"]


def test_synthetic_heads_are_prepared_like_files() -> None:
    data_set = prepare(synthetic(train=3, test=2, size=32), SMALL)
    assert np.array_equal(data_set.test.images[1].permute(1, 2, 0), np.asarray(draw(0, 1, 32)))
    other = prepare(synthetic(train=3, test=2, size=32, seed=1), SMALL)
    assert changed_splits(data_set, other) == ["train", "test"]
    more = prepare(synthetic(train=4, test=2, size=32), SMALL)
    assert changed_splits(data_set, more) == ["train"]
    harder = prepare(synthetic(train=3, test=2, size=32, difficulty=3), SMALL)
    assert changed_splits(data_set, harder) == ["train", "test"]
    assert (data_set.name, harder.name) == ("synthetic", "synthetic-3")


# The code that decodes, and the version of the drawings


@pytest.fixture
def changed_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[ModuleType, str, str], None]:
    """changed_code(module, old, new): the module's file seems to hold another text. What is imported stays as it is."""

    def change(module: ModuleType, old: str, new: str) -> None:
        assert module.__file__
        text = Path(module.__file__).read_text(encoding="utf-8")
        assert old in text
        copy = tmp_path / Path(module.__file__).name
        copy.write_text(text.replace(old, new, 1), encoding="utf-8")
        monkeypatch.setattr(module, "__file__", str(copy))
        digest_of_file.cache_clear()

    return change


def decoded_folders(cache: Path) -> set[str]:
    return {entry.name for entry in (cache / "images").iterdir()}


@pytest.mark.parametrize("module", [images_file, xdog_file])
def test_a_comment_in_the_code_that_decodes_changes_no_digest_and_decodes_nothing_anew(
    module: ModuleType, tmp_path: Path, changed_code: Callable[[ModuleType, str, str], None]
) -> None:
    cartoons, cache = synthetic(train=3, test=2, size=32), tmp_path / "cache"
    first = prepare(cartoons, SMALL, cache=cache)
    before = decoded_folders(cache)
    changed_code(module, "\n\n\ndef ", "\n\n\n# A remark.\ndef ")
    again = prepare(cartoons, SMALL, cache=cache)
    assert changed_splits(first, again) == []
    assert decoded_folders(cache) == before


def test_another_version_of_the_drawings_makes_other_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cartoons, cache = synthetic(train=3, test=2, size=32), tmp_path / "cache"
    first = prepare(cartoons, SMALL, cache=cache)
    before = decoded_folders(cache)
    monkeypatch.setattr(cartoon_file, "VERSION", cartoon_file.VERSION + 1)
    assert changed_splits(first, prepare(cartoons, SMALL, cache=cache)) == ["train", "test"]
    assert len(decoded_folders(cache) - before) == 2


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        (images_file, "Image.Resampling.BILINEAR", "Image.Resampling.BICUBIC"),
        (xdog_file, "import torch\n", "import torch\n\nTHEIRS = 1\n"),
    ],
)
def test_other_code_that_decodes_decodes_anew_and_the_images_count_as_the_same(
    module: ModuleType, old: str, new: str, tmp_path: Path, changed_code: Callable[[ModuleType, str, str], None]
) -> None:
    cartoons, cache = synthetic(train=3, test=2, size=32), tmp_path / "cache"
    first = prepare(cartoons, SMALL, cache=cache)
    before = decoded_folders(cache)
    changed_code(module, old, new)
    assert changed_splits(first, prepare(cartoons, SMALL, cache=cache)) == []
    assert len(decoded_folders(cache) - before) == 2


def test_progress_is_reported_up_to_the_last_image(
    tmp_path: Path, folder_of_heads: Heads, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, int, int]] = []

    def bar(label: str) -> AbstractContextManager[Callable[[int, int], None]]:
        return nullcontext(lambda done, of: seen.append((label, done, of)))

    monkeypatch.setattr("attnbench.data.images.progress", bar)
    prepared(folder_of_heads(), cache=tmp_path)
    assert seen == [("decoding mine/train", 8, 8), ("decoding mine/test", 4, 4)]


def test_a_file_that_the_system_cannot_read_is_no_corrupt_image_and_is_not_remembered(
    tmp_path: Path, folder_of_heads: Heads, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, cache = folder_of_heads(train=2, test=2), tmp_path / "cache"  # other tests have decoded the same heads
    whole = ImageFile.open

    def too_many_open_files(self: ImageFile) -> Image.Image:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(ImageFile, "open", too_many_open_files)
    with pytest.raises(UserError, match="cannot be read: Too many open files"):
        prepared(path, cache=cache)
    monkeypatch.setattr(ImageFile, "open", whole)
    assert len(prepared(path, cache=cache).train) == 2


def test_a_picture_that_memory_does_not_suffice_for_is_no_corrupt_image_and_is_not_remembered(
    tmp_path: Path, folder_of_heads: Heads, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, cache = folder_of_heads(train=2, test=2), tmp_path / "cache"

    def too_large(*_: object) -> Image.Image:
        raise MemoryError

    with monkeypatch.context() as short:
        short.setattr("attnbench.data.images.decode", too_large)
        with pytest.raises(UserError, match=r"^'.*\.png': the machine's memory does not suffice to decode it: free some"):
            prepared(path, cache=cache, skip_corrupt=True)
    assert prepared(path, cache=cache, skip_corrupt=True).skipped == []


def test_images_move_to_a_gpu_if_they_take_a_quarter_of_its_free_memory_at_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    images = ImageSet(["a"], pixels, pixels[:, :1], torch.ones(1))
    gpu, free = torch.device("cuda"), 0
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, free))
    monkeypatch.setattr(ImageSet, "to", lambda self, device: (self, device))
    assert resident(images, torch.device("cpu")) is images
    free = 4 * (3 + 1) * 64 - 1
    assert resident(images, gpu) is images
    free += 1
    assert resident(images, gpu) == (images, gpu)


def test_moved_images_stay_with_their_names() -> None:
    images = ImageSet(["a"], torch.full((1, 3, 8, 8), 7, dtype=torch.uint8), None, torch.ones(1))
    moved = images.to(torch.device("meta"))
    assert moved.images.is_meta
    assert (moved.names, moved.sketches, moved.sigma) == (images.names, None, images.sigma)
