"""What a dataset knows of its test pictures, at the size at which they are measured: right answers and maps of parts.

A third party's dataset may give anything. What cannot be right is refused with the name of the dataset and of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from attnbench.data.images import PreparedDataset, decode, resize
from attnbench.data.layouts import Picture
from attnbench.metrics.generate import PairSet

_MOST = 256  # parts that a map in bytes can tell apart


def answers_of(pairs: PairSet, dataset: PreparedDataset, size: int) -> Tensor:
    """The right answers of a dataset that knows them, resized: (N, 3, S, S) uint8.

    Raises:
        ValueError: the dataset gives something that cannot be one.
    """
    pictures = dataset.test_pictures
    made = [_answer(dataset, pictures[sketch], pictures[reference]) for sketch, reference in pairs.pairs]
    arrays = [np.asarray(resize(picture, size)).transpose(2, 0, 1) for picture in made]
    return torch.from_numpy(np.stack(arrays))


def parts_of(rows: Sequence[int], dataset: PreparedDataset, size: int) -> Tensor:
    """The part maps of these test pictures, (N, S, S) uint8, by the nearest pixel.

    Raises:
        ValueError: the dataset gives something that cannot be one, or two parts have one name.
    """
    _check_names(dataset)
    maps = [_part_map(dataset, dataset.test_pictures[row]) for row in rows]
    middles = [[((np.arange(size) + 0.5) * side / size).astype(int) for side in one.shape] for one in maps]
    return torch.from_numpy(np.stack([one[y][:, x] for one, (y, x) in zip(maps, middles, strict=True)]))


def _answer(dataset: PreparedDataset, sketch: Picture, reference: Picture) -> Image.Image:
    assert dataset.answer is not None
    given = dataset.answer(sketch, reference)
    what = f"dataset '{dataset.name}': the right answer to '{sketch.name}' with '{reference.name}'"
    if not isinstance(given, Image.Image):
        raise ValueError(f"{what} is a {type(given).__name__}: expected a Pillow image")
    _check_shape(what, given.size, sketch)
    return decode(given)


def _part_map(dataset: PreparedDataset, picture: Picture) -> np.ndarray:
    """(H, W) uint8."""
    assert dataset.parts is not None
    given = np.asarray(dataset.parts(picture))
    what, last = f"dataset '{dataset.name}': the part map of '{picture.name}'", len(dataset.part_names) - 1
    if given.ndim != 2 or given.dtype.kind not in "biu" or not given.size:
        raise ValueError(f"{what} has shape {given.shape} and type {given.dtype}: expected (H, W) whole numbers")
    low, high = int(given.min()), int(given.max())
    if low < 0 or high > last:
        names = f"the indices of its `part_names`, 0 to {last}" if last >= 0 else "`part_names`, of which the dataset has none"
        raise ValueError(f"{what} has the numbers {low} to {high}: expected {names}")
    _check_shape(what, given.shape[::-1], picture)
    return given.astype(np.uint8)


def _check_names(dataset: PreparedDataset) -> None:
    names = dataset.part_names
    if twice := [name for place, name in enumerate(names) if name in names[:place]]:
        raise ValueError(f"dataset '{dataset.name}': `part_names` has '{twice[0]}' twice: expected another name for each part")
    if len(names) > _MOST:
        raise ValueError(f"dataset '{dataset.name}': `part_names` has {len(names)} names: expected {_MOST} at most")


def _check_shape(what: str, size: tuple[int, ...], picture: Picture) -> None:
    """Refuse a (width, height) that has neither the picture's shape nor that at which it is measured, which is square."""
    width, height = size
    if width == height:
        return
    with picture.open() as opened:
        own = decode(opened).size
    if abs(width * own[1] - height * own[0]) > max(own):  # a pixel more or less is rounding
        raise ValueError(f"{what} is {width} x {height}: expected the picture's shape, {own[0]} x {own[1]}, or a square")
