"""A trained generator as a self-contained folder.

sga-anime/
    generator.safetensors   the weights
    cell.json               the record, from which `attnbench.load` builds the network; without the machine's paths
    recipe.yaml             the resolved recipe, for `--recipe`
    README.md               the model card, with the front matter that Hugging Face's hub reads
    pictures/               test pairs: sketch, reference, generated, original
    generator.pt2           on request, a `torch.export` program of the generator
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import BadZipFile

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from attnbench.cells.record import FINISHED, MetricRecord, Record, record_text
from attnbench.cells.sources import changed_sources
from attnbench.colorization.model_card import FAILED, SHEET, UNMEASURED, model_card
from attnbench.colorization.program import write_program
from attnbench.console import warn
from attnbench.errors import UserError
from attnbench.files import check_path, check_writable, write_text
from attnbench.metrics.lacks import is_lack
from attnbench.store.generators import generator_folder, load, recipe_of
from attnbench.store.pictures import PairPictures, sample_grid

_OF_A_RUN = "losses.jsonl"  # a file that a cell has where it was trained, and an exported one does not have


def export(
    cell: str | Path,
    output: Path | None = None,
    *,
    program: bool = False,
    pictures: int = 8,
) -> Path:
    """Write the folder, whole or not at all.

    Warns if the module's code has changed since the generator was trained.

    Args:
        cell: a finished cell's folder, or an exported one.
        output: the new folder; by default `<name of the cell's folder>-export` in the working directory.
        program: also write `generator.pt2`.
        pictures: how many test pairs are shown; 0 for none.

    Returns:
        The new folder.

    Raises:
        UserError: the cell is not finished or has no generator, a file is damaged, the folder exists or cannot be written, or
            the module cannot be made into a program.
    """
    source, record = generator_folder(cell)
    if record.status != FINISHED:
        raise UserError(f"'{source}' is not finished ({record.status}): finish it with `attnbench run` first")
    if not record.dataset.train:
        raise UserError(f"'{source / 'cell.json'}' is not a cell's record (dataset.train is 0)")
    target = output or Path(f"{source.resolve().name}-export")
    _check_target(target, source)
    generator = load(source)
    recipe = recipe_of(generator)
    sheet = pair_sheet(source, record, pictures)
    exported = public_record(record)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as draft:
            folder = Path(draft, target.name)  # one level down: only its owner can read the temporary folder itself
            folder.mkdir()
            shutil.copyfile(source / "generator.safetensors", folder / "generator.safetensors")
            made = write_program(generator, folder / "generator.pt2", record.module.name) if program else None
            write_text(folder / "cell.json", record_text(exported))
            write_text(folder / "recipe.yaml", recipe.to_yaml())
            if sheet:
                (folder / SHEET).parent.mkdir()
                sheet[0].save(folder / SHEET)
            write_text(folder / "README.md", model_card(exported, target.name, sheet[1] if sheet else "", made))
            folder.rename(target)
    except OSError as error:
        raise _unwritable(target, error) from None
    if changed := changed_sources(record.module):
        warn(f"the code of {', '.join(changed)} has changed since the generator was trained: its metrics are the old code's")
    return target


def _check_target(target: Path, source: Path) -> None:
    """Check that the cell `source` can be exported to a new folder `target`.

    Raises:
        UserError: the target exists, cannot be written, or would count as a second cell in the results folder.
    """
    check_path(target)
    if target.is_symlink() or (target.exists() and not (target.is_dir() and not any(target.iterdir()))):
        raise UserError(f"'{target}' exists already: choose another folder with -o")
    store = source.resolve().parent
    if (source / _OF_A_RUN).is_file() and target.resolve().is_relative_to(store):
        raise UserError(f"'{target}' is in '{store}', where it would count as the same cell again: choose another with -o")
    try:
        check_writable(target)
    except OSError as error:
        raise _unwritable(target, error) from None


def _unwritable(target: Path, error: OSError) -> UserError:
    return UserError(f"'{target}' cannot be written: {error.strerror or error}: choose another folder with -o")


def public_record(record: Record) -> Record:
    """A record without machine-specific texts, which reasons and failures quote; without kept pictures."""
    dataset = record.dataset.name
    public = {
        name: getattr(record, name) for name in Record.model_fields if name in record.model_fields_set and name != "failure"
    }
    if record.measurements:
        public["measurements"] = [
            one.model_copy(update={"metrics": _without_reasons(one.metrics, dataset), "pictures": "none"})
            for one in record.measurements
        ]
    if record.best:
        public["best"] = record.best.model_copy(update={"metrics": _without_reasons(record.best.metrics, dataset)})
    return Record(**public)


def _without_reasons(metrics: Mapping[str, MetricRecord], dataset: str) -> dict[str, MetricRecord]:
    """The numbers, with those reasons alone that name nothing of a machine."""
    public = {}
    for key, number in metrics.items():
        private = number.reason is not None and not is_lack(number.reason, dataset)
        reason = UNMEASURED if number.missing else FAILED
        public[key] = number.model_copy(update={"reason": reason}) if private else number
    return public


def pair_sheet(cell: Path, record: Record, count: int) -> tuple[Image.Image, str] | None:
    """Evenly spaced test pairs of a cell, one per row, and their number as text; None if the cell kept no pictures.

    They are those of the usual protocol, if they were kept. Cells that kept none give the grid drawn at the end of their
    training, exported ones their sheet.

    Raises:
        UserError: the file with the pictures is damaged.
    """
    if not count:
        return None
    kept = _kept_pictures(cell, record)
    if kept is None:
        sheets = [sheet for sheet in (cell / "samples.png", cell / SHEET) if sheet.is_file()]
        return (_opened(sheets[0]), "Some") if sheets else None
    chosen = [len(kept) * k // min(count, len(kept)) for k in range(min(count, len(kept)))]
    sources = (kept.sketch, kept.reference, kept.generated, kept.original)
    try:
        sheet = sample_grid([torch.stack([_decoded(picture(pair)) for pair in chosen]) for picture in sources])
    except (BadZipFile, KeyError, OSError) as error:
        raise UserError(f"'{kept.path}' is damaged ({error}): delete it, the cell's numbers do not need it") from None
    return sheet, f"{len(chosen)} of the {len(kept)}"


def _kept_pictures(cell: Path, record: Record) -> PairPictures | None:
    """The pictures of a cell's measurements, those of the usual protocol if they were kept."""
    for measurement in sorted(record.measurements, key=lambda one: bool(one.protocol.label)):
        with suppress(FileNotFoundError):
            return PairPictures(cell / measurement.folder)
    return None


def _opened(sheet: Path) -> Image.Image:
    try:
        with Image.open(sheet) as picture:
            return picture.convert("RGB")
    except Exception as error:  # decoders raise many types, and any of them means that the file is unusable
        why = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"'{sheet}' is damaged ({why}): delete it, or pass --pictures 0") from None


def _decoded(data: bytes) -> Tensor:
    """A picture file -> (3, S, S) uint8."""
    return torch.from_numpy(np.array(Image.open(io.BytesIO(data)).convert("RGB"))).permute(2, 0, 1)
