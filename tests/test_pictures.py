"""The pictures that a cell keeps of its test pairs."""

from __future__ import annotations

import io
import json
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from attnbench.cells.record import PicturesKind
from attnbench.data.synthetic import draw
from attnbench.errors import UserError
from attnbench.store.pictures import (
    PICTURES,
    TITLES,
    PairPictures,
    as_webp,
    pictures_bytes,
    pixels_digest,
    sample_grid,
    write_pair_pictures,
)


def opened(data: bytes) -> Tensor:
    array = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
    return torch.from_numpy(array).permute(2, 0, 1)


def flat(*colour: int) -> Tensor:
    return torch.tensor(colour, dtype=torch.uint8).view(-1, 1, 1).expand(-1, 16, 16)


def near(image: Tensor, *colour: int) -> bool:
    return bool(((image.float() - flat(*colour).float()).abs() < 6).all())


def test_every_pair_gets_its_own_pictures_back(tmp_path: Path) -> None:
    originals = torch.stack([flat(200, 30, 30), flat(30, 200, 30), flat(30, 30, 200)])
    pairs = [(1, 2), (0, 1)]
    sketches = torch.stack([flat(10), flat(240)])
    generated = torch.stack([flat(90, 90, 0), flat(0, 90, 90)])
    write_pair_pictures(tmp_path / PICTURES, pairs, sketches, originals, generated, kind="small")
    kept = PairPictures(tmp_path)
    assert (len(kept), kept.side, kept.pairs, kept.lossless) == (2, 16, pairs, False)
    assert near(opened(kept.sketch(0)), 10, 10, 10)
    assert near(opened(kept.reference(0)), 30, 30, 200)
    assert near(opened(kept.original(0)), 30, 200, 30)
    assert near(opened(kept.generated(0)), 90, 90, 0)
    assert near(opened(kept.sketch(1)), 240, 240, 240)
    assert near(opened(kept.reference(1)), 30, 200, 30)
    assert near(opened(kept.generated(1)), 0, 90, 90)


def cartoons(count: int = 4, size: int = 48) -> Tensor:
    return torch.stack([torch.from_numpy(np.array(draw(0, index, size))).permute(2, 0, 1) for index in range(count)])


def line_art(images: Tensor) -> Tensor:
    """(N, 1, S, S): something grey for each image."""
    return images.float().mean(1, keepdim=True).round().to(torch.uint8)


def kept_pictures(folder: Path, kind: PicturesKind = "lossless", references: Tensor | None = None) -> PairPictures:
    """Four cartoons, each coloured by the next one's picture; the generated ones are noisy."""
    folder.mkdir(exist_ok=True)
    originals = cartoons()
    write_pair_pictures(folder / PICTURES, PAIRS, line_art(originals), originals, noisy(originals), references, kind=kind)
    return PairPictures(folder)


PAIRS = [(0, 1), (1, 2), (2, 3), (3, 0)]


def noisy(images: Tensor) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images + 3 * noise).round().clamp(0, 255).to(torch.uint8)


def test_lossless_pictures_are_the_very_ones_bit_for_bit(tmp_path: Path) -> None:
    kept, originals = kept_pictures(tmp_path), cartoons()
    assert kept.lossless
    assert torch.equal(kept.all_of(kept.generated), noisy(originals))
    assert torch.equal(kept.all_of(kept.original), originals)
    assert torch.equal(kept.all_of(kept.reference), originals[[1, 2, 3, 0]])
    assert torch.equal(kept.all_of(kept.sketch, channels=1), line_art(originals))
    assert pixels_digest(kept.all_of(kept.generated)) == pixels_digest(noisy(originals))


def test_every_level_of_grey_and_noise_survive_without_loss() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    noise = torch.randint(0, 256, (3, 40, 40), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    for image in (levels, noise, torch.full((3, 16, 16), 255, dtype=torch.uint8)):
        assert torch.equal(opened(as_webp(image, lossless=True)), image.expand(3, -1, -1))


def test_small_pictures_are_nearly_the_same_and_take_less_space(tmp_path: Path) -> None:
    lossless, small = kept_pictures(tmp_path / "lossless"), kept_pictures(tmp_path / "small", "small")
    assert not small.lossless
    assert small.path.stat().st_size < lossless.path.stat().st_size / 2
    generated = small.all_of(small.generated)
    assert not torch.equal(generated, noisy(cartoons()))
    assert (generated.float() - noisy(cartoons()).float()).abs().mean() < 8
    assert pixels_digest(generated) != pixels_digest(noisy(cartoons()))


def test_an_index_that_does_not_say_how_pictures_are_kept_is_of_small_ones(tmp_path: Path) -> None:
    """As attnbench wrote it while it kept only these."""
    kept_pictures(tmp_path, "small")
    with ZipFile(tmp_path / PICTURES) as file:
        contents = {name: file.read(name) for name in file.namelist()}
    index = json.loads(contents["index.json"])
    contents["index.json"] = json.dumps({"pairs": index["pairs"], "side": index["side"]}).encode()
    with ZipFile(tmp_path / PICTURES, "w") as file:
        for name, data in contents.items():
            file.writestr(name, data)
    old = PairPictures(tmp_path)
    assert (old.lossless, old.pairs, old.side) == (False, PAIRS, 48)
    assert old.reference(0) == old.original(1)


def test_references_that_are_no_originals_are_kept_as_they_are(tmp_path: Path) -> None:
    own = cartoons().flip(-1)
    kept = kept_pictures(tmp_path, references=own)
    assert torch.equal(kept.all_of(kept.reference), own)
    assert torch.equal(kept.all_of(kept.original), cartoons())
    assert torch.equal(kept.all_of(kept.generated), noisy(cartoons()))


def test_an_original_that_is_also_a_reference_is_kept_once_and_one_that_is_neither_not_at_all(tmp_path: Path) -> None:
    originals = cartoons()
    write_pair_pictures(tmp_path / PICTURES, [(0, 1), (1, 0)], line_art(originals[:2]), originals, originals[:2])
    with ZipFile(tmp_path / PICTURES) as file:
        names = set(file.namelist())
    pictures = {f"{kind}/{index}.webp" for kind in ("original", "sketch", "generated") for index in (0, 1)}
    assert names == {"index.json", *pictures}


def test_the_space_that_pictures_will_take_is_foreseen_by_a_few(tmp_path: Path) -> None:
    originals = cartoons()
    kinds: tuple[PicturesKind, ...] = ("lossless", "small")
    for kind in kinds:
        folder = tmp_path / kind
        folder.mkdir()
        write_pair_pictures(folder / PICTURES, PAIRS, line_art(originals), originals, originals, kind=kind)
        foreseen = pictures_bytes(len(PAIRS), line_art(originals), originals, kind)
        with ZipFile(folder / PICTURES) as file:
            taken = sum(one.file_size for one in file.infolist() if one.filename != "index.json")
        assert foreseen == pytest.approx(taken, rel=0.05)
    assert pictures_bytes(1000, line_art(originals), originals, "none") == 0
    assert pictures_bytes(0, line_art(originals), originals, "lossless") == 0


def test_a_digest_of_pixels_is_of_their_values_their_shape_and_their_order() -> None:
    images = cartoons()
    assert pixels_digest(images) == pixels_digest(images.clone())
    assert pixels_digest(images) == pixels_digest(images.to(memory_format=torch.channels_last))
    changed = images.clone()
    changed[0, 0, 0, 0] ^= 1
    others = [changed, images.flip(0), images[:3], images.view(4, 3, 24, 96)]
    assert len({pixels_digest(one) for one in (images, *others)}) == 5


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_picture_that_is_missing_or_damaged_names_the_file(damage: str, tmp_path: Path) -> None:
    kept_pictures(tmp_path)
    with ZipFile(tmp_path / PICTURES) as file:
        contents = {name: file.read(name) for name in file.namelist()}
    if damage == "missing":
        del contents["generated/2.webp"]
    else:
        contents["generated/2.webp"] = contents["generated/2.webp"][:40]
    with ZipFile(tmp_path / PICTURES, "w") as file:
        for name, data in contents.items():
            file.writestr(name, data)
    kept = PairPictures(tmp_path)
    assert torch.equal(kept.all_of(kept.original), cartoons())
    with pytest.raises(UserError, match=r"pictures\.zip' is damaged .*: delete it; the cell's numbers stand without it"):
        kept.all_of(kept.generated)


def test_a_picture_is_kept_nearly_as_it_is_in_much_less_space() -> None:
    rows = torch.linspace(0, 255, 64)
    image = torch.stack([rows.expand(64, 64), rows.expand(64, 64).mT, torch.full((64, 64), 128.0)]).to(torch.uint8)
    data = as_webp(image)
    assert (opened(data).float() - image.float()).abs().mean() < 3
    assert len(data) < image.numel() / 10


@pytest.mark.parametrize("content", [b"", b"PK but no more"])
def test_a_damaged_file_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / PICTURES).write_bytes(content)
    with pytest.raises(UserError, match=r"pictures\.zip' is damaged .*: delete it"):
        PairPictures(tmp_path)


def test_a_cell_without_pictures_is_not_a_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        PairPictures(tmp_path)


def test_the_words_of_a_samples_title_stand_apart() -> None:
    grid = np.asarray(sample_grid([torch.full((1, 3, 16, 16), 200, dtype=torch.uint8)] * len(TITLES)).convert("L"))
    ink = np.flatnonzero((grid[:16, -128:] < 128).any(0))  # columns of the last title, "right answer"
    assert np.diff(ink).max() > 4
