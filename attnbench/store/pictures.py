"""Pictures of a cell: grids of a few test pairs while it trains, and every pair of a measurement, in `pictures.zip`.

They are kept losslessly by default, since metrics that come later stand on them; small copies are a tenth of the size.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile, ZipFile

import numpy as np
from PIL import Image, ImageDraw

from attnbench.cells.record import PicturesKind
from attnbench.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

TITLES = ("sketch", "reference", "generated", "original", "right answer")
PICTURES = "pictures.zip"
QUALITY = 90  # of small copies, of 100
_TITLE_HEIGHT, _GAP, _SMALLEST = 16, 4, 128


def sample_grid(columns: Sequence[Tensor]) -> Image.Image:
    """A grid with one row per pair and one titled column per kind of picture.

    Args:
        columns: of the first of `TITLES`, each (N, 1 or 3, S, S) uint8, on the CPU. Images under 128 pixels are enlarged by a
            whole factor.
    """
    count, _, side, _ = columns[0].shape
    scale = max(1, _SMALLEST // side)
    cell = side * scale + _GAP
    grid = Image.new("RGB", (len(columns) * cell - _GAP, count * cell - _GAP + _TITLE_HEIGHT), "white")
    draw = ImageDraw.Draw(grid)
    for x, (column, title) in enumerate(zip(columns, TITLES, strict=False)):  # not all datasets know the last
        draw.text((x * cell + 2, 2), title.replace(" ", "  "), fill="black")  # one is hardly seen
        for y, image in enumerate(column):
            array = image.expand(3, -1, -1).permute(1, 2, 0).numpy()
            tile = Image.fromarray(np.ascontiguousarray(array)).resize((side * scale,) * 2, Image.Resampling.NEAREST)
            grid.paste(tile, (x * cell, y * cell + _TITLE_HEIGHT))
    return grid


class PairPictures:
    """The pictures of a measurement: up to four WebP files per pair, in the order of pairs.csv.

    Args:
        folder: the measurement's.

    Attributes:
        pairs: (sketch, reference), indices of images.
        side: S, in pixels.
        lossless: whether they are the very pictures that were measured.

    Raises:
        FileNotFoundError: there are no pictures.
        UserError: the file is damaged.
    """

    def __init__(self, folder: Path):
        self.path = folder / PICTURES
        try:
            self._file = ZipFile(self.path)
            index = json.loads(self._file.read("index.json"))
            self.pairs: list[tuple[int, int]] = [(sketch, reference) for sketch, reference in index["pairs"]]
            self.side: int = index["side"]
            self.lossless: bool = index.get("kind") == "lossless"  # format 1 has only small ones
            self._own_references: bool = index.get("own_references", False)
        except (BadZipFile, KeyError, TypeError, ValueError) as error:
            raise UserError(f"'{self.path}' is damaged ({error}): delete it; the cell's numbers stand without it") from None

    def __len__(self) -> int:
        return len(self.pairs)

    def sketch(self, pair: int) -> bytes:
        return self._file.read(f"sketch/{self.pairs[pair][0]}.webp")

    def reference(self, pair: int) -> bytes:
        return self._file.read(f"reference/{pair}.webp" if self._own_references else f"original/{self.pairs[pair][1]}.webp")

    def generated(self, pair: int) -> bytes:
        return self._file.read(f"generated/{pair}.webp")

    def original(self, pair: int) -> bytes:
        """The colour image of the sketch."""
        return self._file.read(f"original/{self.pairs[pair][0]}.webp")

    def all_of(self, read: Callable[[int], bytes], channels: int = 3) -> Tensor:
        """Every pair's picture, decoded: (N, channels, S, S) uint8; `read` is one of the methods above.

        Raises:
            UserError: a picture is missing or damaged.
        """
        import torch

        mode = "L" if channels == 1 else "RGB"

        def decoded(data: bytes) -> np.ndarray:
            with Image.open(io.BytesIO(data)) as picture:
                return np.asarray(picture.convert(mode))

        try:
            with ThreadPoolExecutor(os.cpu_count()) as threads:
                arrays = np.stack(list(threads.map(decoded, [read(pair) for pair in range(len(self))])))
        except (BadZipFile, EOFError, KeyError, OSError, ValueError) as error:
            raise UserError(f"'{self.path}' is damaged ({error}): delete it; the cell's numbers stand without it") from None
        return torch.from_numpy(arrays[:, None] if channels == 1 else arrays.transpose(0, 3, 1, 2).copy())


def write_pair_pictures(
    file: Path,
    pairs: Sequence[tuple[int, int]],
    sketches: Tensor,
    originals: Tensor,
    generated: Tensor,
    references: Tensor | None = None,
    *,
    kind: PicturesKind = "lossless",
) -> None:
    """Write a `pictures.zip`. An original that is also a reference is stored once.

    Args:
        pairs: (sketch, reference), indices of images.
        sketches: (N, 1, S, S) uint8, in the order of the N pairs.
        originals: (M, 3, S, S) uint8, all test images.
        generated: (N, 3, S, S) uint8, in the order of the pairs.
        references: (N, 3, S, S) uint8 where they are not `originals` as they are.
    """
    taken = [sketch for sketch, _ in pairs] + ([reference for _, reference in pairs] if references is None else [])
    pictures: list[tuple[str, Tensor]] = [
        *{f"sketch/{index}.webp": image for (index, _), image in zip(pairs, sketches, strict=True)}.items(),
        *((f"original/{index}.webp", originals[index]) for index in sorted(set(taken))),
        *((f"generated/{k}.webp", image) for k, image in enumerate(generated)),
        *((f"reference/{k}.webp", image) for k, image in enumerate(references if references is not None else ())),
    ]
    index = {
        "pairs": [list(pair) for pair in pairs],
        "side": generated.shape[-1],
        "kind": kind,
        "own_references": references is not None,
    }
    encode = partial(as_webp, lossless=kind == "lossless")
    with ZipFile(file, "w") as target, ThreadPoolExecutor(os.cpu_count()) as threads:
        target.writestr("index.json", json.dumps(index))
        names, images = zip(*pictures, strict=True)
        for name, data in zip(names, threads.map(encode, images), strict=True):
            target.writestr(name, data)


def as_webp(image: Tensor, *, lossless: bool = False) -> bytes:
    """(1 or 3, H, W) uint8 -> a WebP file; lossless two thirds of the PNG's size, else a tenth."""
    array = image.squeeze(0).numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    options = {"lossless": True, "quality": 20} if lossless else {"quality": QUALITY}
    Image.fromarray(np.ascontiguousarray(array)).save(buffer, "WEBP", method=1, **options)
    return buffer.getvalue()


def pictures_bytes(pairs: int, sketches: Tensor, originals: Tensor, kind: PicturesKind) -> int:
    """About how many bytes the pictures of so many pairs take, by a few encoded ones.

    Args:
        sketches, originals: (N, 1, S, S) and (N, 3, S, S) uint8, a few examples; generated pictures are taken to be like these.
    """
    if kind == "none" or not pairs:
        return 0
    per_pair = 0.0
    for images, times in ((sketches, 1), (originals, 2)):
        encoded = [len(as_webp(image, lossless=kind == "lossless")) for image in images]
        per_pair += times * sum(encoded) / len(encoded)
    return round(pairs * per_pair)


def pixels_digest(images: Tensor) -> str:
    """SHA-256 of shape and pixels, in hex."""
    array = np.ascontiguousarray(images.numpy())
    return hashlib.sha256(f"{array.shape}{array.dtype}".encode() + array.tobytes()).hexdigest()
