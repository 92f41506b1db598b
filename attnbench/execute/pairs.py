"""`attnbench pairs`: the pairs of a protocol as files, for programs that know nothing of attnbench.

pairs/sketches/0000.png      line art, by the recipe's rules
pairs/references/0000.png    the picture whose colours are to be taken; under `same`, the warped original
pairs/manifest.csv           a line for each pair: its number, its files, the dataset's names, and the name `score` expects
pairs/pairs.json             what `attnbench score --pairs` holds the pictures to
"""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from attnbench.config.recipe import Data, Recipe, load_recipe
from attnbench.console import progress, warn
from attnbench.data.images import PreparedDataset, prepare
from attnbench.data.layouts import Dataset
from attnbench.data.origin import Origin, default_data_root
from attnbench.errors import UserError
from attnbench.execute.asked import Asked
from attnbench.files import check_path, check_writable, draft_of
from attnbench.metrics.generate import PairSet, to_bytes
from attnbench.metrics.protocol import Protocol
from attnbench.store.job import RunOptions

PAIRS_FILE, MANIFEST = "pairs.json", "manifest.csv"
COLUMNS = ("pair", "sketch", "reference", "sketch_name", "reference_name", "output")
_SECTIONS = ("data", "evaluation")  # of a recipe: what pairs depend on


class PairsFile(BaseModel):
    """The content of pairs.json.

    Attributes:
        dataset: its name.
        test: fingerprint of the test images.
        data: of the recipe; its size is that at which pictures are measured.
        size: side of the written pictures.
        pairs: how many there are.
        references: the folder of references from elsewhere, of a protocol with `folder`.
        attnbench: the version that wrote it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    dataset: str
    test: str
    protocol: Protocol
    data: Data
    size: int = Field(ge=1)
    pairs: int = Field(ge=1)
    references: str | None = None
    attnbench: str


@dataclass(frozen=True)
class PairsRequest:
    """What one command asks for.

    Attributes:
        dataset: as on the command line.
        folder: where the files go: a new folder, or an empty one.
        size: side of the pictures; by default the recipe's `data.size`.
        recipe, overrides: whose `data` and `evaluation` it is.
        references: a folder of references from elsewhere.
    """

    dataset: str
    folder: Path
    size: int | None = None
    recipe: str | Path = "official"
    overrides: Sequence[str] = ()
    references: Path | None = None
    data_root: Path | None = None
    skip_corrupt: bool = False


def write_pairs(request: PairsRequest) -> PairsFile:
    """Write the pairs, as a whole or not at all.

    Raises:
        UserError: bad input, before any file is written; or the disk cannot take them.
    """
    recipe = recipe_with(request.recipe, request.overrides)
    data = recipe.data.model_copy(update={"size": request.size or recipe.data.size})
    asked = asked_of(recipe.model_copy(update={"data": data}), request.references, str(request.recipe))
    folder = _free(request.folder)
    _, dataset = find_dataset(request.dataset, data, request.data_root, request.skip_corrupt, train=False)
    pairs = PairSet.of(dataset.test, asked.protocols[0], data, asked.references)
    about = PairsFile(
        dataset=dataset.name,
        test=dataset.fingerprints["test"],
        protocol=asked.protocols[0],
        data=recipe.data,
        size=data.size,
        pairs=len(pairs),
        references=str(request.references.expanduser().absolute()) if request.references else None,
        attnbench=version("attnbench"),
    )
    try:
        with _whole(folder) as draft:
            _write(draft, pairs, f"pairs of {dataset.name}")
            (draft / PAIRS_FILE).write_text(about.model_dump_json(indent=1, exclude_none=True) + "\n")
    except OSError as error:
        raise UserError(f"'{request.folder}' cannot be written: {error.strerror}: choose another folder with -o") from error
    return about


def read_pairs(path: Path) -> PairsFile:
    """What `attnbench pairs` wrote about the pairs.

    Args:
        path: the folder, or the pairs.json in it.

    Raises:
        UserError: it is missing or damaged.
    """
    file = path if path.is_file() else path / PAIRS_FILE
    try:
        return PairsFile.model_validate_json(file.read_bytes())
    except OSError:
        raise UserError(f"'{path}' holds no {PAIRS_FILE}: name a folder that `attnbench pairs` wrote") from None
    except ValidationError as errors:
        first = errors.errors()[0]
        why = ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))
        raise UserError(f"'{file}' is damaged ({why}): write the pairs again with `attnbench pairs`") from None


def recipe_with(recipe: str | Path, overrides: Sequence[str]) -> Recipe:
    """A recipe of which only what pairs and measurements depend on is changed.

    Raises:
        UserError: as `load_recipe`; or another key is set.
    """
    for override in overrides:
        if override.strip().partition(".")[0] not in _SECTIONS:
            raise UserError(f"--set {override}: nothing is trained here, so only keys of `evaluation` and `data` can be set")
    return load_recipe(recipe, overrides)


def asked_of(recipe: Recipe, references: Path | None, name: str) -> Asked:
    """What a recipe wants measured, with its one protocol. The test images are not among it.

    Args:
        references: a folder of references from elsewhere, instead of the recipe's.
        name: of the recipe, for messages.

    Raises:
        UserError: it has several protocols; or references or metrics that cannot be used.
    """
    options = RunOptions(evaluation=recipe.evaluation, references=str(references.expanduser()) if references else None)
    asked = Asked.of_options(options, recipe.data)
    if len(asked.protocols) > 1:
        kinds = ", ".join(recipe.evaluation.references)
        raise UserError(
            f"recipe '{name}' has several kinds of references ({kinds}), and pictures are of one: choose it with "
            f"--set evaluation.references={recipe.evaluation.references[-1]}"
        )
    return asked


def find_dataset(
    text: str,
    data: Data,
    data_root: Path | None,
    skip_corrupt: bool,
    *,
    train: bool = True,
    check: Callable[[Dataset], None] = lambda dataset: None,
) -> tuple[Origin, PreparedDataset]:
    """A dataset as on the command line, decoded; without its training images, unless `train`.

    Images that are left out are named in a warning.

    Args:
        check: raises an error if the dataset will not do, before it is decoded.
    """
    origin = replace(Origin.of(text, data_root or default_data_root()), skip_corrupt=skip_corrupt)
    found = origin.find()
    check(found)
    dataset = prepare(found if train else replace(found, train=()), data, skip_corrupt=skip_corrupt)
    for name in dataset.skipped:
        warn(f"left out, cannot be decoded: {dataset.name}/{name}")
    return origin, dataset


def picture_name(pair: int, count: int) -> str:
    """`0017.png`: the file of a pair, with as many digits as the last one needs, but four at least."""
    return f"{pair:0{max(4, len(str(count - 1)))}}.png"


def _free(folder: Path) -> Path:
    """The folder's own path, if it is new or empty, and can be made."""
    check_path(folder.expanduser())
    place = folder.expanduser().resolve()
    if place.exists() and not place.is_dir():
        raise UserError(f"'{folder}' is a file: choose a new folder with -o")
    if place.is_dir() and any(place.iterdir()):
        raise UserError(f"'{folder}' is not empty: choose a new folder with -o, or empty it")
    try:
        check_writable(place)
    except OSError as error:
        raise UserError(f"'{folder}' cannot be written: {error.strerror}: choose another folder with -o") from None
    return place


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A draft folder that becomes `folder` if the block succeeds, and is removed if it does not."""
    draft = draft_of(folder)
    draft.mkdir(parents=True)
    try:
        yield draft
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _write(folder: Path, pairs: PairSet, label: str) -> None:
    """The pictures, a few pairs at a time, and the manifest."""
    count = len(pairs)
    names = [picture_name(pair, count) for pair in range(count)]
    for kind in ("sketches", "references"):
        (folder / kind).mkdir()
    with ThreadPoolExecutor(os.cpu_count()) as threads, progress(label) as update:
        done = 0
        for batch in pairs.batches():
            mine = names[done : done + len(batch.sketch)]
            for kind, images in (("sketches", to_bytes(batch.sketch)), ("references", to_bytes(batch.reference))):
                files = [folder / kind / name for name in mine]
                list(threads.map(lambda file, image: as_picture(image).save(file), files, images))
            done += len(mine)
            update(done, count)
    with (folder / MANIFEST).open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(COLUMNS)
        for pair, (name, (sketch, reference)) in enumerate(zip(names, pairs.names, strict=True)):
            rows.writerow([pair, f"sketches/{name}", f"references/{name}", sketch, reference, name])


def as_picture(image: Tensor) -> Image.Image:
    """(1 or 3, S, S) uint8 as a grey or an RGB picture."""
    array = image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy()
    return Image.fromarray(np.ascontiguousarray(array))
