"""Datasets: their folders and file names on disk, and where to download them.

A dataset is a callable in the entry-point group `attnbench.datasets`. It takes the data root (None if the user gave none) and
its options, and returns a `Dataset`: two lists of pictures. Nothing is decoded here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from attnbench.data import synthetic as cartoon
from attnbench.errors import UserError

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
_TEST = ("test", "val", "valid", "validation")  # names of a test split's folder


class Picture(Protocol):
    """One image of a split. `name` is unique within the split and sets the image's place and its sketch's line width."""

    @property
    def name(self) -> str: ...

    @property
    def stamp(self) -> str:
        """Cheap to read; an equal stamp means equal content."""

    def content_digest(self) -> str:
        """Hash of the content alone."""

    def open(self) -> Image.Image:
        """Decode."""

    def open_sketch(self) -> Image.Image | None:
        """Decode the line art shipped with the dataset; None if there is none."""


@dataclass(frozen=True)
class ImageFile:
    """A picture in a file, with its line art if the dataset ships any."""

    name: str
    path: Path
    sketch: Path | None = None

    @property
    def stamp(self) -> str:
        return "|".join(f"{path}:{(stat := path.stat()).st_size}:{stat.st_mtime_ns}" for path in self._paths)

    def content_digest(self) -> str:
        content = hashlib.sha256()
        for path in self._paths:
            content.update(path.read_bytes())
        return content.hexdigest()

    def open(self) -> Image.Image:
        return Image.open(self.path)

    def open_sketch(self) -> Image.Image | None:
        return Image.open(self.sketch) if self.sketch else None

    @property
    def _paths(self) -> list[Path]:
        return [self.path] + ([self.sketch] if self.sketch else [])


@dataclass(frozen=True)
class Drawing:
    """A picture of the built-in dataset `synthetic`, drawn by attnbench."""

    seed: int
    index: int
    size: int
    difficulty: int

    @property
    def name(self) -> str:
        return f"{self.index:06d}"

    @property
    def stamp(self) -> str:
        return f"version {cartoon.VERSION}: {self}"  # which draws the same pixels on every machine

    def content_digest(self) -> str:
        return hashlib.sha256(self.stamp.encode()).hexdigest()

    def open(self) -> Image.Image:
        return cartoon.draw(self.seed, self.index, self.size, difficulty=self.difficulty)

    def answer(self, reference: Drawing) -> Image.Image:
        """This head in the colours of another."""
        colors = cartoon.palette(reference.seed, reference.index)
        return cartoon.draw(self.seed, self.index, self.size, difficulty=self.difficulty, colors=colors)

    def parts(self) -> np.ndarray:
        return cartoon.part_map(self.seed, self.index, self.size, difficulty=self.difficulty)

    def open_sketch(self) -> Image.Image | None:
        return None


@dataclass(frozen=True)
class Dataset:
    """A named train and test set.

    Attributes:
        source: where it was found.
        answer: where right answers are known: (sketch, reference) -> the sketch's picture in the reference's colours.
        parts: where they are known: picture -> (H, W) uint8, the part that each pixel shows, an index into `part_names`.
    """

    name: str
    train: Sequence[Picture]
    test: Sequence[Picture]
    source: str
    answer: Callable[[Any, Any], Image.Image] | None = None
    parts: Callable[[Any], np.ndarray] | None = None
    part_names: tuple[str, ...] = ()

    @cached_property
    def splits(self) -> dict[str, Sequence[Picture]]:
        return {"train": self.train, "test": self.test}


_ANIME_HELP = (
    "its images are those of 'Modeling Artistic Workflows' (github.com/hytseng0509/ArtEditing): "
    "put its folders train0, train2, test0, test2 into <data root>/anime"
)
_AFHQ_HELP = (
    "AFHQ comes with StarGAN v2 (github.com/clovaai/stargan-v2): run `bash download.sh afhq-dataset` there "
    "and put the folder afhq into the data root"
)


def anime(root: Path | None = None) -> Dataset:
    """Anime portraits of "Modeling Artistic Workflows".

    In `anime/train2` and `anime/test2` with line art in `train0` and `test0`, or in plain `anime/train` and `anime/test`.
    """
    data = _data_root("anime", root)
    base = data / "anime"
    for folder in (base, data):
        if (folder / "train2").is_dir() and (folder / "test2").is_dir():
            train = files_in(folder / "train2", sketches=folder / "train0")
            return Dataset("anime", train, files_in(folder / "test2", sketches=folder / "test0"), str(folder))
    return _plain("anime", base) or _missing("anime", [base / "train2", base / "train"], _ANIME_HELP)


def cat(root: Path | None = None) -> Dataset:
    """AFHQ cats.

    In `afhq/train/cat` and `afhq/val/cat` (or `afhq/test/cat`), or in plain `cat/train` and `cat/test`.
    """
    return _afhq("cat", root)


def dog(root: Path | None = None) -> Dataset:
    """AFHQ dogs; same layout as `cat`."""
    return _afhq("dog", root)


def wild(root: Path | None = None) -> Dataset:
    """AFHQ wild animals; same layout as `cat`."""
    return _afhq("wild", root)


def synthetic(
    root: Path | None = None, *, train: int = 800, test: int = 100, size: int = 128, seed: int = 0, difficulty: int = 1
) -> Dataset:
    """Cartoon heads, drawn here; no download. The right colouring of each by each other is known.

    Args:
        train, test: numbers of images.
        size: side in pixels.
        seed: different heads for each seed.
        difficulty: 1: all look ahead and have the same parts; 2: other poses; 3: also parts that one has and another has not;
            4: also other styles of drawing.
    """
    if train < 1 or test < 1:
        raise UserError(f"dataset 'synthetic': train={train}, test={test}: expected at least 1 of each")
    if not cartoon.MIN_SIZE <= size <= cartoon.MAX_SIZE:
        raise UserError(f"dataset 'synthetic': size={size}: expected {cartoon.MIN_SIZE} to {cartoon.MAX_SIZE}")
    if seed < 0:
        raise UserError(f"dataset 'synthetic': seed={seed}: must not be negative")
    if difficulty not in cartoon.DIFFICULTIES:
        raise UserError(f"dataset 'synthetic': difficulty={difficulty}: expected 1, 2, 3 or 4")
    heads = [Drawing(seed, index, size, difficulty) for index in range(train + test)]
    return Dataset(
        "synthetic" if difficulty == 1 else f"synthetic-{difficulty}",
        heads[test:],
        heads[:test],
        f"drawn here (version {cartoon.VERSION}, difficulty {difficulty}, seed {seed}, {size} px)",
        answer=Drawing.answer,
        parts=Drawing.parts,
        part_names=cartoon.PARTS,
    )


def folder(name: str, path: Path) -> Dataset:
    """Any folder of images: with `train/` and `test/` (or `val/`) inside, or without.

    Without them, a tenth of the images, chosen by a hash of their names, is the test set.

    Raises:
        UserError: the folder does not exist or has no images.
    """
    if not path.is_dir():
        raise UserError(f"dataset '{name}': there is no folder '{path}'")
    if plain := _plain(name, path):
        return plain
    files = sorted(files_in(path), key=lambda file: hashlib.sha256(file.name.encode()).digest())
    tests = {file.name for file in files[: max(2, round(len(files) / 10))]}
    train, test = ([file for file in files_in(path) if (file.name in tests) == wanted] for wanted in (False, True))
    return Dataset(name, train, test, f"{path} (every tenth image, by a hash of its name, is a test image)")


def _afhq(name: str, root: Path | None) -> Dataset:
    data = _data_root(name, root)
    if plain := _plain(name, data / name):
        return plain
    for base in (data / "afhq", data):
        for test in _TEST:
            if (base / "train" / name).is_dir() and (base / test / name).is_dir():
                train, held_out = (
                    files_in(base / split / name, sketches=base / split / f"{name}_sketch") for split in ("train", test)
                )
                return Dataset(name, train, held_out, str(base))
    return _missing(name, [data / "afhq" / "train" / name, data / name / "train"], _AFHQ_HELP)


def _plain(name: str, base: Path) -> Dataset | None:
    """`train/` and `test/` inside `base`, with line art in `train_sketch/` and `test_sketch/` if they exist."""
    train = base / "train"
    test = next((base / split for split in _TEST if (base / split).is_dir()), None)
    if not train.is_dir() or not test:
        return None
    images = [files_in(split, sketches=split.with_name(f"{split.name}_sketch")) for split in (train, test)]
    return Dataset(name, images[0], images[1], str(base))


def files_in(base: Path, sketches: Path | None = None) -> list[ImageFile]:
    """Every image below `base`, sorted by relative path."""
    paths = [
        path
        for path in base.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]
    files = sorted((ImageFile(path.relative_to(base).as_posix(), path) for path in paths), key=lambda file: file.name)
    if not files:
        raise UserError(f"no images in '{base}' (looked for {', '.join(sorted(IMAGE_SUFFIXES))})")
    if sketches is None or not sketches.is_dir():
        return files
    return [replace(file, sketch=sketch) if (sketch := sketches / file.name).is_file() else file for file in files]


def _data_root(name: str, root: Path | None) -> Path:
    if root is None:
        raise UserError(f"dataset '{name}' needs a data root: pass --data-root PATH or set ATTNBENCH_DATA")
    if not root.is_dir():
        raise UserError(f"dataset '{name}': the data root '{root}' is not a folder")
    return root


def _missing(name: str, looked_for: Sequence[Path], help_: str) -> Dataset:
    places = " and ".join(f"'{path}'" for path in looked_for)
    raise UserError(f"dataset '{name}' was not found (looked for {places}): {help_}; or pass {name}=FOLDER")
