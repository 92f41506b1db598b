"""Pictures that no cell made: read from a folder where each has its pair's number, made by an installed method, or a dataset's
own right answers.

A method is a function of the entry-point group `attnbench.methods`: `(sketch, reference) -> picture`, all Pillow images; the
sketch is grey (`L`), the others `RGB`, the picture of the sketch's size. Its docstring says what it does.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from attnbench.console import progress
from attnbench.data.images import PreparedDataset, decode, resize
from attnbench.data.layouts import IMAGE_SUFFIXES, Dataset
from attnbench.errors import UserError
from attnbench.execute.pairs import MANIFEST, as_picture, picture_name
from attnbench.metrics.generate import PairSet, to_bytes
from attnbench.metrics.ground_truth import answers_of
from attnbench.metrics.protocol import Protocol
from attnbench.plugins import Plugin

_NAMED = 5  # pictures that a message names
Method = Callable[[Image.Image, Image.Image], Any]


def read_pictures(folder: Path, count: int, side: int, size: int) -> Tensor:
    """The pictures of all pairs, (N, 3, size, size) uint8, in the order of the pairs.

    Args:
        count: pairs.
        side: of the pictures in their files.
        size: to which they are brought.

    Raises:
        UserError: pictures are missing, are not of one of the pairs, cannot be decoded, or have another size.
    """
    files = _numbered(folder, count)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        found = list(threads.map(lambda file: _read(file, size), files))
    broken = [f"{file.name} ({one})" for file, one in zip(files, found, strict=True) if isinstance(one, str)]
    if broken:
        raise UserError(f"pictures in '{folder}' cannot be decoded: {_first(broken)}: make them again")
    read = [one for one in found if not isinstance(one, str)]
    others = [
        f"{file.name} is {width} x {height}"
        for file, ((width, height), _) in zip(files, read, strict=True)
        if (width, height) != (side, side)
    ]
    if others:
        raise UserError(
            f"pictures in '{folder}' are not {side} x {side}: {_first(others)}: make them at the size of their sketches, or "
            "pass --pairs with the folder that `attnbench pairs --size` wrote"
        )
    return torch.from_numpy(np.stack([array for _, array in read]).transpose(0, 3, 1, 2).copy())


def coloured_by(method: Plugin, pairs: PairSet) -> Tensor:
    """What an installed method makes of the pairs: (N, 3, S, S) uint8.

    Raises:
        UserError: it cannot be imported, raises an error, or returns something else than a picture of the sketch's size.
    """
    function = method.load()
    results: list[np.ndarray] = []
    with progress(f"{method.name}: colouring test pairs") as update:
        for batch in pairs.batches():
            for sketch, reference in zip(to_bytes(batch.sketch), to_bytes(batch.reference), strict=True):
                where = f"{len(results)} ({', '.join(pairs.names[len(results)])})"
                results.append(_coloured(function, as_picture(sketch), as_picture(reference), method, where))
                update(len(results), len(pairs))
    return torch.from_numpy(np.stack(results).transpose(0, 3, 1, 2).copy())


def check_answers(dataset: Dataset, protocol: Protocol) -> None:
    """Raises UserError: the dataset does not know the right answers, or not of references from elsewhere or with marks."""
    if protocol.references == "folder":
        raise UserError("--right-answers: no dataset knows them of references from elsewhere: leave --references out")
    if protocol.marked:
        raise UserError("--right-answers: nobody knows them of marked references: leave evaluation.references=marked out")
    if dataset.answer is None:
        raise UserError(
            f"--right-answers: dataset '{dataset.name}' has none: choose one that has them, or score pictures, or a --method"
        )


def right_answers(pairs: PairSet, dataset: PreparedDataset) -> Tensor:
    """What a dataset that `check_answers` passes says that each pair should look like: (N, 3, S, S) uint8.

    Raises:
        UserError: its function raises an error, or gives something else than pictures.
    """
    try:
        return answers_of(pairs, dataset, pairs.data.size)
    except Exception as error:  # a third party's dataset may raise anything
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"--right-answers: dataset '{dataset.name}' failed to make them: {text}") from error


def _coloured(function: Method, sketch: Image.Image, reference: Image.Image, method: Plugin, pair: str) -> np.ndarray:
    size, who = sketch.size, f"method '{method.name}' of package {method.package} {method.version}"
    try:
        picture = function(sketch, reference)
    except Exception as error:  # a third party's method may raise anything, and its author needs to see what
        raise UserError(f"{who} failed on pair {pair}: {' '.join(f'{type(error).__name__}: {error}'.split())}") from error
    if isinstance(picture, Image.Image) and picture.mode == "RGB" and picture.size == size:
        return np.asarray(picture)
    given = f"a {type(picture).__name__}"
    if isinstance(picture, Image.Image):
        given = f"a picture of mode {picture.mode}, {picture.width} x {picture.height}"
    raise UserError(f"{who} gave {given} for pair {pair}: it must be a Pillow image of mode RGB, {size[0]} x {size[1]}")


def _numbered(folder: Path, count: int) -> list[Path]:
    """The file of each pair, in their order."""
    if not folder.is_dir():
        raise UserError(f"there is no folder '{folder}' of pictures")
    inside = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    found: dict[int, list[Path]] = {}
    for file in inside:
        if re.fullmatch("[0-9]+", file.stem):
            found.setdefault(int(file.stem), []).append(file)
    if not found:
        others = f" (found: {_first([file.name for file in inside])})" if inside else ""
        raise UserError(
            f"no picture in '{folder}' is named by its pair's number{others}: name them {picture_name(0, count)}, "
            f"{picture_name(1, count)}, ..., as `output` in {MANIFEST} says"
        )
    _check_numbers(folder, found, count)
    return [found[pair][0] for pair in range(count)]


def _check_numbers(folder: Path, found: dict[int, list[Path]], count: int) -> None:
    """Raises UserError: pictures are missing or surplus."""
    if missing := [str(pair) for pair in range(count) if pair not in found]:
        raise UserError(
            f"'{folder}' lacks pictures of {len(missing)} of {count} pairs: {_first(missing)}: name each by its pair's number, "
            f"as {picture_name(int(missing[0]), count)}"
        )
    if twice := [" and ".join(file.name for file in files) for _, files in sorted(found.items()) if len(files) > 1]:
        raise UserError(f"'{folder}' has several pictures of one pair: {_first(twice)}: keep one of them")
    if surplus := [found[pair][0].name for pair in sorted(found) if pair >= count]:
        raise UserError(
            f"'{folder}' has pictures beyond the last pair, which is {count - 1}: {_first(surplus)}: remove them, or set what "
            "they were made for (--dataset, --recipe, --limit, --pairs)"
        )


def _read(file: Path, size: int) -> tuple[tuple[int, int], np.ndarray] | str:
    """(width, height) of a picture in its file, and its pixels at `size`; or why it cannot be decoded."""
    try:
        with Image.open(file) as opened:
            picture = decode(opened)
        return picture.size, np.asarray(resize(picture, size))
    except Exception as error:  # decoders raise many types
        return " ".join(str(error).replace(repr(str(file)), "it").split()) or type(error).__name__


def _first(texts: Sequence[str]) -> str:
    """`a, b, ... (17 in all)`."""
    return ", ".join(texts) if len(texts) <= _NAMED else f"{', '.join(texts[:_NAMED])}, ... ({len(texts)} in all)"
