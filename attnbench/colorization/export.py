"""A trained generator as a folder that stands alone.

sga-anime/
    generator.safetensors   the weights
    cell.json               the record: what `attnbench.load` builds the network from; nothing of the machine's paths in it
    recipe.yaml             the resolved recipe: `--recipe` takes it
    README.md               the model card, with the front matter that Hugging Face's hub reads
    pictures/               test pairs: sketch, reference, generated, original
    generator.pt2           on request, a `torch.export` program of the generator
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from attnbench.cells.record import FINISHED
from attnbench.cells.sources import changed_sources
from attnbench.colorization.model_card import SHEET, UNMEASURED, model_card
from attnbench.colorization.program import write_program
from attnbench.errors import UserError
from attnbench.files import check_path, check_writable, write_text
from attnbench.store.generators import generator_folder, load, recipe_of
from attnbench.store.pictures import PICTURES, PairPictures, sample_grid

_RECORD = (
    "format", "identity", "status", "module", "dataset", "seed", "recipe", "weights", "step", "provenance", "started",
    "metrics", "losses", "best", "costs", "ended",
)  # fmt: skip


_OF_A_RUN = "losses.jsonl"  # a file that cells have where they were trained, and exported ones have not


def export(
    cell: str | Path,
    output: Path | None = None,
    *,
    program: bool = False,
    pictures: int = 8,
    warn: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write the folder, whole or not at all.

    Args:
        cell: a finished cell's folder, or an exported one.
        output: the new folder; by default `<name of the cell's folder>-export`, where the process runs.
        program: also write `generator.pt2`.
        pictures: how many test pairs are shown; 0 for none.
        warn: hears if the code of the module has changed since it was trained.

    Returns:
        The new folder.

    Raises:
        UserError: a cell that is not finished or without its generator, a damaged file, a folder that is in the way or cannot
            be written to, a module of which no program can be made.
    """
    source, record = generator_folder(cell)
    if record["status"] != FINISHED:
        raise UserError(f"'{source}' is not finished ({record['status']}): finish it with `attnbench run` first")
    target = output or Path(f"{source.resolve().name}-export")
    _check_target(target, source)
    generator = load(source)
    recipe = recipe_of(generator)
    sheet = pair_sheet(source, pictures)
    try:
        exported = public_record(record)
        card = partial(model_card, exported, target.name, sheet[1] if sheet else "")
        card(None)  # what the record lacks is said before the program's work
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"'{source / 'cell.json'}' is not a cell's record ({error!r}): copy the cell's folder again") from None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as draft:
            folder = Path(draft, target.name)  # one level down: the temporary folder itself is closed to other people
            folder.mkdir()
            shutil.copyfile(source / "generator.safetensors", folder / "generator.safetensors")
            made = write_program(generator, folder / "generator.pt2", record["module"]["name"]) if program else None
            write_text(folder / "cell.json", json.dumps(exported, indent=1, allow_nan=False) + "\n")
            write_text(folder / "recipe.yaml", recipe.to_yaml())
            if sheet:
                (folder / SHEET).parent.mkdir()
                sheet[0].save(folder / SHEET)
            write_text(folder / "README.md", card(made))
            folder.rename(target)
    except OSError as error:
        raise _unwritable(target, error) from None
    if changed := changed_sources(record["module"]):
        warn(f"the code of {', '.join(changed)} has changed since the generator was trained: its numbers are the old code's")
    return target


def _check_target(target: Path, source: Path) -> None:
    """See that there is a place for a new folder, made of the cell `source`.

    Raises:
        UserError: something is there already, it cannot be written to, or it would be a second cell in the results folder.
    """
    check_path(target)
    if target.is_symlink() or (target.exists() and not (target.is_dir() and not any(target.iterdir()))):
        raise UserError(f"'{target}' exists already: choose another folder with -o")
    store = source.resolve().parent
    if (source / _OF_A_RUN).is_file() and target.resolve().is_relative_to(store):
        raise UserError(f"'{target}' lies in '{store}', where it would count as the same cell again: choose another with -o")
    try:
        check_writable(target)
    except OSError as error:
        raise _unwritable(target, error) from None


def _unwritable(target: Path, error: OSError) -> UserError:
    return UserError(f"'{target}' cannot be written: {error.strerror or error}: choose another folder with -o")


def public_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record without what is of one machine: reasons and failures quote its paths."""
    public = {key: record[key] for key in _RECORD if key in record}
    public["metrics"] = _without_reasons(record.get("metrics") or {})
    if best := record.get("best"):
        public["best"] = {**best, "metrics": _without_reasons(best["metrics"])}
    return public


def _without_reasons(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        name: {part: UNMEASURED if part == "reason" else value for part, value in metric.items()}
        for name, metric in metrics.items()
    }


def pair_sheet(cell: Path, count: int) -> tuple[Image.Image, str] | None:
    """Test pairs of a cell, a row each, evenly from all of them, and how many they are, in words; None if it kept none.

    Cells from before `pictures.zip` have the grid that they drew at the end of their training, exported ones their sheet.

    Raises:
        UserError: the file with the pictures is damaged.
    """
    if not count:
        return None
    try:
        kept = PairPictures(cell)
    except FileNotFoundError:
        sheets = [sheet for sheet in (cell / "samples.png", cell / SHEET) if sheet.is_file()]
        return (_opened(sheets[0]), "Some") if sheets else None
    chosen = [len(kept) * k // min(count, len(kept)) for k in range(min(count, len(kept)))]
    sources = (kept.sketch, kept.reference, kept.generated, kept.original)
    try:
        sheet = sample_grid([torch.stack([_decoded(picture(pair)) for pair in chosen]) for picture in sources])
    except (BadZipFile, KeyError, OSError) as error:
        raise UserError(f"'{cell / PICTURES}' is damaged ({error}): delete it; the cell's numbers stand without it") from None
    return sheet, f"{len(chosen)} of the {len(kept)}"


def _opened(sheet: Path) -> Image.Image:
    try:
        with Image.open(sheet) as picture:
            return picture.convert("RGB")
    except Exception as error:  # decoders raise many types, and any of them means that this file is no good
        why = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"'{sheet}' is damaged ({why}): delete it, or pass --pictures 0") from None


def _decoded(data: bytes) -> Tensor:
    """A picture file -> (3, S, S) uint8."""
    return torch.from_numpy(np.array(Image.open(io.BytesIO(data)).convert("RGB"))).permute(2, 0, 1)
