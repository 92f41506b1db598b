"""The pictures that a cell keeps of its test pairs."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from attnbench.errors import UserError
from attnbench.store.pictures import PICTURES, PairPictures, as_webp, write_pair_pictures


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
    write_pair_pictures(tmp_path / PICTURES, pairs, sketches, originals, generated)
    kept = PairPictures(tmp_path)
    assert (len(kept), kept.side, kept.pairs) == (2, 16, pairs)
    assert near(opened(kept.sketch(0)), 10, 10, 10)
    assert near(opened(kept.reference(0)), 30, 30, 200)
    assert near(opened(kept.original(0)), 30, 200, 30)
    assert near(opened(kept.generated(0)), 90, 90, 0)
    assert near(opened(kept.sketch(1)), 240, 240, 240)
    assert near(opened(kept.reference(1)), 30, 200, 30)
    assert near(opened(kept.generated(1)), 0, 90, 90)


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
