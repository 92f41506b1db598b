"""Pictures of a cell: grids of a few test pairs while it trains, and finally every pair, in `pictures.zip`."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from attnbench.errors import UserError

TITLES = ("sketch", "reference", "generated", "original")
PICTURES = "pictures.zip"
QUALITY = 90  # of 100
_TITLE_HEIGHT, _GAP, _SMALLEST = 16, 4, 128


def sample_grid(columns: Sequence[Tensor], titles: Sequence[str] = TITLES) -> Image.Image:
    """A grid with one row per pair and one titled column per kind of picture.

    Args:
        columns: each (N, 1 or 3, S, S) uint8, on the CPU. Images under 128 pixels are enlarged by a whole factor.
    """
    count, _, side, _ = columns[0].shape
    scale = max(1, _SMALLEST // side)
    cell = side * scale + _GAP
    grid = Image.new("RGB", (len(columns) * cell - _GAP, count * cell - _GAP + _TITLE_HEIGHT), "white")
    draw = ImageDraw.Draw(grid)
    for x, (column, title) in enumerate(zip(columns, titles, strict=True)):
        draw.text((x * cell + 2, 2), title, fill="black")
        for y, image in enumerate(column):
            array = image.expand(3, -1, -1).permute(1, 2, 0).numpy()
            tile = Image.fromarray(np.ascontiguousarray(array)).resize((side * scale,) * 2, Image.Resampling.NEAREST)
            grid.paste(tile, (x * cell, y * cell + _TITLE_HEIGHT))
    return grid


class PairPictures:
    """The content of a finished cell's `pictures.zip`: four WebP files per pair, in the order of pairs.csv.

    Args:
        folder: the cell's.

    Attributes:
        pairs: (sketch, reference), indices of test images.
        side: S, in pixels.

    Raises:
        FileNotFoundError: the cell has no pictures.
        UserError: the file is damaged.
    """

    def __init__(self, folder: Path):
        try:
            self._file = ZipFile(folder / PICTURES)
            index = json.loads(self._file.read("index.json"))
            self.pairs: list[tuple[int, int]] = [(sketch, reference) for sketch, reference in index["pairs"]]
            self.side: int = index["side"]
        except (BadZipFile, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"'{folder / PICTURES}' is damaged ({error}): delete it; the cell's numbers stand without it"
            ) from None

    def __len__(self) -> int:
        return len(self.pairs)

    def sketch(self, pair: int) -> bytes:
        return self._file.read(f"sketch/{self.pairs[pair][0]}.webp")

    def reference(self, pair: int) -> bytes:
        return self._file.read(f"original/{self.pairs[pair][1]}.webp")

    def generated(self, pair: int) -> bytes:
        return self._file.read(f"generated/{pair}.webp")

    def original(self, pair: int) -> bytes:
        """The colour image of the sketch."""
        return self._file.read(f"original/{self.pairs[pair][0]}.webp")


def write_pair_pictures(
    file: Path, pairs: Sequence[tuple[int, int]], sketches: Tensor, originals: Tensor, generated: Tensor
) -> None:
    """Write a `pictures.zip`. An original that is also a reference is stored once.

    Args:
        pairs: (sketch, reference), indices of `originals`.
        sketches: (N, 1, S, S) uint8, in the order of the N pairs.
        originals: (M, 3, S, S) uint8, all test images.
        generated: (N, 3, S, S) uint8, in the order of the pairs.
    """
    used = sorted({index for pair in pairs for index in pair})
    pictures: Iterator[tuple[str, Tensor]] = iter(
        [
            *((f"sketch/{index}.webp", image) for (index, _), image in zip(pairs, sketches, strict=True)),
            *((f"original/{index}.webp", originals[index]) for index in used),
            *((f"generated/{k}.webp", image) for k, image in enumerate(generated)),
        ]
    )
    with ZipFile(file, "w") as target, ThreadPoolExecutor(os.cpu_count()) as threads:
        target.writestr("index.json", json.dumps({"pairs": [list(pair) for pair in pairs], "side": generated.shape[-1]}))
        names, images = zip(*pictures, strict=True)
        for name, data in zip(names, threads.map(as_webp, images), strict=True):
            target.writestr(name, data)


def as_webp(image: Tensor) -> bytes:
    """(1 or 3, H, W) uint8 -> a WebP file, a tenth of the PNG's size."""
    array = image.squeeze(0).numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(buffer, "WEBP", quality=QUALITY, method=1)
    return buffer.getvalue()
