"""Colouring picture files, one or a folder of them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image

from attnbench.cells.sources import changed_sources
from attnbench.colorization.coloring import Colorized, Options, colorize_picture, dimensions, frame_for
from attnbench.colorization.line_art import Lines
from attnbench.colorization.picture_files import (
    LONGEST_SIDE,
    WRITTEN,
    pictures_in,
    read_picture,
    size_of,
    unwritable,
    write_picture,
)
from attnbench.config.recipe import Recipe
from attnbench.console import warn
from attnbench.errors import UserError
from attnbench.files import check_path, check_writable
from attnbench.store.generators import generator_folder, load, recorded_recipe

TILE = 512  # pixels, the longer side of the result in a side-by-side picture


@dataclass(frozen=True)
class PictureJob:
    """The files of one colouring: two inputs, the output, and optionally a sheet that shows all three."""

    sketch: Path
    reference: Path
    output: Path
    sheet: Path | None = None

    @property
    def written(self) -> tuple[Path, ...]:
        return (self.output, self.sheet) if self.sheet else (self.output,)


def colorize_files(
    model: str | Path,
    sketch: Path,
    reference: Path,
    output: Path,
    *,
    size: int | None = None,
    extract: bool = False,
    lines: Lines = "auto",
    side_by_side: bool = False,
    overwrite: bool = False,
    device: str = "cpu",
    on_written: Callable[[PictureJob], None] = lambda job: None,
) -> int:
    """`colorize` for files.

    Pictures of a folder that cannot be coloured are left out with a warning. Warns also if the code of the generator's module
    has changed since the generator was trained.

    Args:
        sketch: a picture, or a folder of pictures.
        reference: a picture, or a folder with one for each sketch: see `paired`.
        output: the picture to write, or a folder for `<name of the sketch>.png`. It is a folder if it exists as one, if the
            sketches come from a folder, or if its name has no suffix.
        side_by_side: also write `<name>.side-by-side.png`: the sketch as the network saw it, the reference, the result.
        overwrite: whether existing files may be overwritten; input files never are.
        on_written: called after each picture that is written.

    Returns:
        How many could not be coloured.

    Raises:
        UserError: as `colorize`, if `sketch` is one picture; no picture of a folder can be coloured; a file cannot be written.
    """
    options = Options(size, extract, lines)
    jobs = planned(sketch, reference, output, side_by_side=side_by_side, overwrite=overwrite)
    folder, record = generator_folder(model)
    good, refusals = _checked(jobs, recorded_recipe(folder, record), options)
    read_reference = lru_cache(maxsize=1)(read_picture)  # usually one for all sketches
    if not reference.is_dir():
        read_reference(reference)
    generator = load(folder, device)
    for refusal in refusals:
        warn(f"left out: {refusal}")
    failed = len(refusals)
    for job in good:
        try:
            names = (f"'{job.sketch}'", f"'{job.reference}'")
            drawing = read_picture(job.sketch, options.drawn_with)
            made = colorize_picture(generator, drawing, read_reference(job.reference), options, names)
        except UserError as error:
            if not sketch.is_dir():
                raise
            warn(f"left out: {error}")
            failed += 1
            continue
        write_picture(made.picture, job.output)
        if job.sheet:
            write_picture(_beside_each_other(made), job.sheet)
        on_written(job)
    if changed := changed_sources(record.module):
        warn(f"the code of {', '.join(changed)} has changed since the generator was trained: it may colour differently now")
    return failed


def planned(
    sketch: Path, reference: Path, output: Path, *, side_by_side: bool = False, overwrite: bool = False
) -> list[PictureJob]:
    """The jobs for these arguments of `colorize_files`: each sketch with its reference and output.

    Raises:
        UserError: a path does not exist or is of the wrong kind; a sketch has no reference; an output would overwrite an
            input, another output or an existing file; an output cannot be written.
    """
    for path in (sketch, reference, output):
        check_path(path)
    for path in (sketch, reference):
        if not path.exists():
            raise UserError(f"there is no picture or folder '{path}'")
    sketches = pictures_in(sketch) if sketch.is_dir() else [sketch]
    references = pictures_in(reference) if reference.is_dir() else [reference] * len(sketches)
    if sketch.is_dir() and output.exists() and not output.is_dir():
        raise UserError(f"-o {output} is a file: a folder of sketches needs a folder")
    if sketch.is_dir() and output.resolve() == sketch.resolve():
        raise UserError(f"-o {output} is the folder of the sketches: choose another")
    into_folder = sketch.is_dir() or output.is_dir() or not (output.suffix or output.exists())
    if not into_folder and output.suffix.lower() not in WRITTEN:
        raise UserError(f"-o {output}: expected a folder, or a file that ends in {', '.join(sorted(WRITTEN))}")
    pairs = paired(sketches, references) if reference.is_dir() else references
    jobs = [
        _job(path, other, output / f"{path.stem}.png" if into_folder else output, side_by_side)
        for path, other in zip(sketches, pairs, strict=True)
    ]
    _check_outputs(jobs, {*sketches, *references}, overwrite)
    return jobs


def _job(sketch: Path, reference: Path, output: Path, side_by_side: bool) -> PictureJob:
    return PictureJob(sketch, reference, output, output.with_name(f"{output.stem}.side-by-side.png") if side_by_side else None)


def _check_outputs(jobs: Sequence[PictureJob], inputs: set[Path], overwrite: bool) -> None:
    """Raises UserError as `planned` does, for the files that will be written."""
    read, made = {os.path.realpath(path) for path in inputs}, dict[Path, Path]()
    for job in jobs:
        for target in job.written:
            if os.path.realpath(target) in read:
                raise UserError(f"'{target}' is an input and would be overwritten: choose another place with -o")
            if twin := made.get(target):
                raise UserError(f"'{twin.name}' and '{job.sketch.name}' would both become '{target.name}': rename one")
            made[target] = job.sketch
    there = [target for target in made if os.path.lexists(target)]
    if folder := next((target for target in there if target.is_dir()), None):
        raise UserError(f"'{folder}' is a folder, but a picture would be written there: choose another place with -o")
    if there and not overwrite:
        more = f", and {len(there) - 1} more" if len(there) > 1 else ""
        raise UserError(f"'{there[0]}' exists already{more}: choose another place with -o, or pass --overwrite")
    for target in made:
        try:
            check_writable(target)
        except OSError as error:
            raise unwritable(target, error) from None


def paired(sketches: Sequence[Path], references: Sequence[Path]) -> list[Path]:
    """For each sketch the reference of the same name, whatever its suffix: `a.png` for `a.jpg`.

    Raises:
        UserError: a sketch has no reference, or two references have the same name.

    >>> [path.name for path in paired([Path("b.png"), Path("a.png")], [Path("a.jpg"), Path("b.jpg"), Path("c.jpg")])]
    ['b.jpg', 'a.jpg']
    """
    by_name: dict[str, Path] = {}
    for path in references:
        if (twin := by_name.setdefault(path.stem, path)) is not path:
            raise UserError(f"'{twin}' and '{path.name}' are references of the same name: remove or rename one")
    missing = [path.name for path in sketches if path.stem not in by_name]
    if missing:
        listed = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise UserError(
            f"no reference in '{references[0].parent}' for {listed}: give it the sketch's name, or name one picture for all "
            "sketches with --reference"
        )
    return [by_name[path.stem] for path in sketches]


def _checked(jobs: Sequence[PictureJob], recipe: Recipe, options: Options) -> tuple[list[PictureJob], list[UserError]]:
    """The jobs whose pictures have a size that can be coloured, and why the others cannot; pictures are not decoded.

    Raises:
        UserError: no picture can be coloured.
    """
    good, refusals = list[PictureJob](), list[UserError]()
    for job in jobs:
        try:
            sizes = size_of(job.sketch), size_of(job.reference)
            frame_for(*sizes, recipe, options, (f"'{job.sketch}'", f"'{job.reference}'"))
            most = LONGEST_SIDE.get(job.output.suffix.lower(), math.inf)
            if max(sizes[0]) > most:
                raise UserError(
                    f"'{job.output}': such files have at most {most:,} pixels a side, '{job.sketch}' has "
                    f"{dimensions(sizes[0])}: choose another format with -o"
                )
            good.append(job)
        except UserError as error:
            refusals.append(error)
    if not good:
        raise UserError(
            f"none of the {len(jobs)} sketches can be coloured: {refusals[0]}" if len(jobs) > 1 else str(refusals[0])
        )
    return good, refusals


def _beside_each_other(made: Colorized) -> Image.Image:
    """Sketch, reference and result side by side on white, at one height; the result's longer side is at most `TILE`."""
    scale = min(1.0, TILE / max(made.picture.size))
    height = max(1, round(made.picture.height * scale))
    tiles = [
        tile.convert("RGB").resize((max(1, round(tile.width * height / tile.height)), height), Image.Resampling.BICUBIC)
        for tile in (made.sketch, made.reference, made.picture)
    ]
    gap = 4
    sheet = Image.new("RGB", (sum(tile.width + gap for tile in tiles) - gap, height), "white")
    x = 0
    for tile in tiles:
        sheet.paste(tile, (x, 0))
        x += tile.width + gap
    return sheet
