"""Pictures -> uint8 tensors at the recipe's size, decoded once and cached on disk by their content."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np
import platformdirs
import torch
from PIL import Image, ImageOps
from torch import Tensor

from attnbench.config.recipe import Data, Sketch, digest
from attnbench.console import progress
from attnbench.data import xdog as xdog_file
from attnbench.data.layouts import Dataset, Picture, files_in
from attnbench.data.xdog import xdog
from attnbench.errors import UserError
from attnbench.files import write_text
from attnbench.source_code import digest_of_file


@dataclass(frozen=True)
class ImageSet:
    """A split, as memory-mapped tensors that are read page by page.

    Attributes:
        names: of the N images.
        images: (N, 3, S, S) uint8.
        sketches: (N, K, S, S) uint8, white paper; K is 1, or the number of sigmas if one is drawn per epoch. None
            if sketches are made from `images` batch by batch.
        sigma: (N,) the XDoG sigma set by each image's name.
    """

    names: list[str]
    images: Tensor
    sketches: Tensor | None
    sigma: Tensor

    def __len__(self) -> int:
        return len(self.names)

    @property
    def nbytes(self) -> int:
        return self.images.nbytes + (self.sketches.nbytes if self.sketches is not None else 0)

    def to(self, device: torch.device) -> ImageSet:
        """The same split with `images` and `sketches` in the device's memory."""
        return replace(
            self, images=self.images.to(device), sketches=None if self.sketches is None else self.sketches.to(device)
        )


def resident(images: ImageSet, device: torch.device) -> ImageSet:
    """The images in GPU memory if they take at most a quarter of what is free there; otherwise unchanged.

    Batches are then selected and augmented on the GPU: indices, noise and control points cross the bus, images do not.
    """
    if device.type != "cuda" or images.nbytes > torch.cuda.mem_get_info(device)[0] / 4:
        return images
    return images.to(device)


@dataclass(frozen=True)
class PreparedDataset:
    """A decoded dataset, ready to train on.

    Attributes:
        fingerprints: `train` and `test`, each a hash of names and content.
        skipped: names of corrupt images, which are left out.
        side: median of the shorter sides of the training files, in pixels.
        answer, parts, part_names: as of `Dataset`.
    """

    name: str
    source: str
    train: ImageSet
    test: ImageSet
    train_pictures: Sequence[Picture]
    test_pictures: Sequence[Picture]
    fingerprints: Mapping[str, str]
    skipped: list[str]
    side: int
    answer: Callable[[Picture, Picture], Image.Image] | None = None
    parts: Callable[[Picture], np.ndarray] | None = None
    part_names: tuple[str, ...] = ()


def cache_folder() -> Path:
    """Where decoded images and features are kept: `$ATTNBENCH_CACHE`, or the user's cache folder. Safe to delete."""
    return Path(os.environ.get("ATTNBENCH_CACHE") or platformdirs.user_cache_dir("attnbench"))


def prepare(
    dataset: Dataset,
    data: Data,
    *,
    cache: Path | None = None,
    skip_corrupt: bool = False,
) -> PreparedDataset:
    """Decode a dataset, or load it from the cache.

    Raises:
        UserError: images that cannot be decoded (all are named), unless `skip_corrupt` leaves them out; fewer than
            two test images.
    """
    cache = cache or cache_folder()
    sets, kept, skipped, prints, sides = {}, {}, [], {}, {}
    for split, pictures in dataset.splits.items():
        contents = content_digests(pictures, cache)
        folder, corrupt = _decoded(pictures, contents, data, cache, f"{dataset.name}/{split}")
        if corrupt and not skip_corrupt:
            listed = "; ".join(f"{name} ({why})" for name, why in list(corrupt.items())[:5])
            more = f"; and {len(corrupt) - 5} more" if len(corrupt) > 5 else ""
            raise UserError(
                f"dataset '{dataset.name}', {split}: {len(corrupt)} of {len(pictures)} images cannot be decoded: {listed}{more}"
                ": repair or remove them, or pass --skip-corrupt to leave them out"
            )
        skipped += [f"{split}/{name}" for name in corrupt]
        kept[split] = [picture for picture in pictures if picture.name not in corrupt]
        prints[split] = [(p.name, d) for p, d in zip(pictures, contents, strict=True) if p.name not in corrupt]
        sets[split] = _load(folder, [picture.name for picture in pictures], corrupt, data.sketch)
        sides[split] = json.loads((folder / "sides.json").read_text())
    if len(sets["test"]) < 2:
        raise UserError(f"dataset '{dataset.name}': {len(sets['test'])} test image: pairs need at least 2")
    return PreparedDataset(
        dataset.name,
        dataset.source,
        sets["train"],
        sets["test"],
        kept["train"],
        kept["test"],
        {split: digest(print_) for split, print_ in prints.items()},
        skipped,
        int(np.median(sides["train"] or [0])),
        dataset.answer,
        dataset.parts,
        dataset.part_names,
    )


def prepare_folder(folder: Path, data: Data, *, cache: Path | None = None) -> tuple[ImageSet, str]:
    """All pictures of a folder, decoded, by name; and the hash of their names and content. For references from elsewhere.

    Raises:
        UserError: there is no such folder, or no picture in it; or pictures that cannot be decoded.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder '{folder}' of references")
    cache, pictures = cache or cache_folder(), files_in(folder)
    contents = content_digests(pictures, cache)
    drawn = data.model_copy(update={"sketch": Sketch(at="target")})  # of a reference, no line art is needed
    decoded, corrupt = _decoded(pictures, contents, drawn, cache, folder.name)
    if corrupt:
        name, why = next(iter(corrupt.items()))
        raise UserError(f"'{folder / name}' cannot be decoded ({why}): repair or remove it")
    names = [picture.name for picture in pictures]
    return _load(decoded, names, (), drawn.sketch), digest([[p.name, d] for p, d in zip(pictures, contents, strict=True)])


def decode(picture: Image.Image, backdrop: str = "white") -> Image.Image:
    """Any picture as upright 8-bit RGB: palettes, CMYK, grey and wide grey converted.

    Grey of more than 8 bits is scaled by its range: integers by the smallest of 8, 12, 16 and 31 bits that holds them, floats
    by 1, or by their maximum if that is larger.

    Args:
        picture: stays open.
        backdrop: the colour behind transparent pixels.

    Raises:
        ValueError: pixels that are not finite. Also whatever Pillow raises for files that it cannot read.
    """
    picture = ImageOps.exif_transpose(picture)
    if picture.mode == "F" or picture.mode.startswith("I"):
        picture = _in_8_bits(picture)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, backdrop), picture)
    return picture.convert("RGB")


def _in_8_bits(picture: Image.Image) -> Image.Image:
    values = np.asarray(picture).astype(np.float64)
    highest = values.max()
    if not np.isfinite(values).all():
        raise ValueError("it has pixels that are not finite")
    white = max(highest, 1.0) if picture.mode == "F" else next(2**bits - 1 for bits in (8, 12, 16, 31) if highest < 2**bits)
    return Image.fromarray((values * 255 // white).clip(0, 255).astype(np.uint8))


def resize(picture: Image.Image, size: int) -> Image.Image:
    """To size x size, bilinear with antialiasing; the aspect ratio is not kept, as in the released code."""
    return picture if picture.size == (size, size) else picture.resize((size, size), Image.Resampling.BILINEAR)


def sigma_index(name: str, count: int) -> int:
    """The index of the line width, out of `count`, that a file name sets: the same on every machine, in every run."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) % count


def content_digests(pictures: Sequence[Picture], cache: Path) -> list[str]:
    """Hash of each picture's content; cached until a file's size or modification time changes."""
    known = cache / "digests" / f"{digest([picture.stamp for picture in pictures])}.json"
    if known.is_file():
        return json.loads(known.read_text())
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(lambda picture: picture.content_digest(), pictures))
    known.parent.mkdir(parents=True, exist_ok=True)
    write_text(known, json.dumps(digests), sync=False)
    return digests


def _decoded(
    pictures: Sequence[Picture], contents: Sequence[str], data: Data, cache: Path, name: str
) -> tuple[Path, dict[str, str]]:
    """The cache folder with a split's arrays, made if missing; and name -> reason for each picture that cannot be decoded."""
    sketch = data.sketch
    stored = sketch.model_dump(mode="json") if sketch.source == "dataset" or sketch.at == "native" else None
    code = [digest_of_file(file) for file in (__file__, xdog_file.__file__)]  # a comment decodes nothing anew
    names = [picture.name for picture in pictures]
    folder = cache / "images" / digest([names, list(contents), data.size, stored, code])
    if not (folder / "corrupt.json").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=folder.parent, prefix="draft-"))
        try:
            with progress(f"decoding {name}") as update:
                _decode_all(pictures, data, draft, update)
            draft.rename(folder)
        except OSError:
            if not (folder / "corrupt.json").is_file():  # otherwise another process was faster, with the same result
                raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return folder, json.loads((folder / "corrupt.json").read_text())


def _decode_all(pictures: Sequence[Picture], data: Data, folder: Path, update: Callable[[int, int], None]) -> None:
    """Write the arrays, and corrupt.json last.

    images.npy, and sketches.npy if sketches are stored, have one row per picture, blank for a corrupt one; sides.json has
    the shorter sides of the others.
    """
    corrupt: dict[str, str] = {}
    sides: list[int] = []
    count, side = len(pictures), data.size
    images = _new_array(folder / "images.npy", (count, 3, side, side))
    columns = _stored_sketches_per_image(data)
    sketches = _new_array(folder / "sketches.npy", (count, columns, side, side)) if columns else None
    with ThreadPoolExecutor() as pool:
        for start in range(0, count, 64):
            chunk = pictures[start : start + 64]
            rows, good = [], []
            for row, result in enumerate(pool.map(lambda picture: _decode_one(picture, data), chunk), start):
                if isinstance(result, str):
                    corrupt[pictures[row].name] = result
                else:
                    rows.append(row)
                    good.append((pictures[row].name, result))
                    sides.append(min(result.native.shape[1:]))
            for row, (_, result) in zip(rows, good, strict=True):
                images[row] = result.image
            if sketches is not None:
                for row, sketch in zip(rows, _stored_sketches(good, data), strict=True):
                    sketches[row] = sketch
            update(start + len(chunk), count)
    for array in (images, sketches):
        if array is not None:
            array.flush()
    (folder / "sides.json").write_text(json.dumps(sides))
    (folder / "corrupt.json").write_text(json.dumps(corrupt))


def _new_array(path: Path, shape: tuple[int, ...]) -> np.memmap:
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)


def _stored_sketches_per_image(data: Data) -> int:
    """K of `ImageSet.sketches`; 0 if sketches are made later, from the resized images."""
    if data.sketch.source == "dataset":
        return 1
    if data.sketch.at == "target":
        return 0
    return 1 if data.sketch.sigma_per == "image" else len(data.sketch.sigma)


@dataclass(frozen=True)
class _Decoded:
    image: np.ndarray  # (3, S, S)
    native: np.ndarray  # (3, H, W), for XDoG at the native size
    sketch: np.ndarray  # (S, S), shipped with the dataset; empty if it is to be drawn


def _decode_one(picture: Picture, data: Data) -> _Decoded | str:
    """The decoded picture, or the reason why it cannot be decoded.

    Raises:
        UserError: the file cannot be read, or memory does not suffice: not a fault of its content, so it must not be cached.
    """
    try:
        with picture.open() as opened:  # otherwise Pillow keeps files of truncated and animated pictures open
            native = decode(opened)
        sketch = np.empty((0, 0), np.uint8)
        if data.sketch.source == "dataset":
            drawn = picture.open_sketch()
            if drawn is None:
                return "the dataset has no line art for it, which data.sketch.source = dataset needs"
            with drawn:
                sketch = np.asarray(resize(decode(drawn).convert("L"), data.size))
        image = np.asarray(resize(native, data.size)).transpose(2, 0, 1)
        return _Decoded(image, np.asarray(native).transpose(2, 0, 1), sketch)
    except OSError as error:
        if error.errno is not None:  # from the system, not from a decoder
            raise UserError(f"'{picture.name}' cannot be read: {error.strerror}") from error
        return _as_text(error)
    except MemoryError as error:
        raise UserError(
            f"'{picture.name}': the machine's memory does not suffice to decode it: free some, or make the picture "
            "smaller, and run the same command again"
        ) from error
    except Exception as error:  # decoders raise many types; any of them means a corrupt file
        return _as_text(error)


def _as_text(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _stored_sketches(decoded: Sequence[tuple[str, _Decoded]], data: Data) -> Iterator[np.ndarray]:
    """(K, S, S) for each picture, in order."""
    if data.sketch.source == "dataset":
        yield from (result.sketch[None] for _, result in decoded)
    else:
        for _, group in groupby(decoded, key=lambda item: item[1].native.shape):  # one batch per run of equal sizes
            names, results = zip(*group, strict=True)
            yield from _native_sketches(names, np.stack([result.native for result in results]), data)


def _native_sketches(names: Sequence[str], images: np.ndarray, data: Data) -> np.ndarray:
    """XDoG at the images' own size, then resized; (B, 3, H, W) uint8 -> (B, K, S, S) uint8."""
    rgb = torch.from_numpy(images).float() / 255
    if data.sketch.sigma_per == "image":
        columns = [torch.tensor([data.sketch.sigma[sigma_index(name, len(data.sketch.sigma))] for name in names])]
    else:
        columns = [torch.full((len(names),), sigma) for sigma in data.sketch.sigma]
    sketches = [draw_sketches(rgb, sigma, data.sketch) for sigma in columns]
    small = [
        [np.asarray(resize(Image.fromarray((s[0] * 255).round().byte().numpy()), data.size)) for s in column]
        for column in sketches
    ]
    return np.stack(small, axis=1)


def draw_sketches(rgb: Tensor, sigma: Tensor | float, sketch: Sketch) -> Tensor:
    """XDoG with a recipe's constants; (B, 3, H, W) in [0, 1], (B,) on the CPU -> (B, 1, H, W) in [0, 1]."""
    return xdog(rgb, sigma, p=sketch.p, k=sketch.k, epsilon=sketch.epsilon, phi=sketch.phi)


def _load(folder: Path, names: list[str], corrupt: Collection[str], sketch: Sketch) -> ImageSet:
    rows = [row for row, name in enumerate(names) if name not in corrupt]

    def read(path: Path) -> Tensor:
        array = np.load(path, mmap_mode="c")  # copy on write: torch wants a writable array, the file is not modified
        return torch.from_numpy(array if len(rows) == len(names) else array[rows])

    good = [names[row] for row in rows]
    stored = folder / "sketches.npy"
    sigma = torch.tensor([sketch.sigma[sigma_index(name, len(sketch.sigma))] for name in good])
    return ImageSet(good, read(folder / "images.npy"), read(stored) if stored.is_file() else None, sigma)
