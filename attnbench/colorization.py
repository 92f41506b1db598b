"""Pictures of any size and kind, coloured with a trained generator.

    drawing   (any size) -> grey, white paper, dark lines    \\
    picture   (any size) -> its XDoG line art, if `extract`   > sketch    (1, 1, h, w)  \\
                                                                                         > generator -> cropped, resized back
    reference (any size) -> resized and cropped to cover      > reference (1, 3, h, w)  /

The network works at the scale that it was trained at: the sketch's shorter side becomes the recipe's `data.size`, its aspect
stays. White is added on the right and at the bottom until both sides are multiples of the backbone's stride.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from attnbench.backbone import Colorizer
from attnbench.data.images import decode, draw_sketches
from attnbench.data.layouts import IMAGE_SUFFIXES
from attnbench.errors import UserError, unknown
from attnbench.evaluate import to_bytes
from attnbench.precision import tf32
from attnbench.recipe import Recipe, Sketch
from attnbench.sources import changed_sources
from attnbench.store import (
    check_path,
    check_writable,
    generator_folder,
    load,
    recipe_of,
    recorded_recipe,
    replacing,
    side_of,
)

Lines = Literal["auto", "dark", "light", "keep"]

SMALLEST = 16  # pixels a side of pictures, as of a recipe's images
NATIVE = 512  # pixels of the shorter side of AFHQ's photographs: taken for the training's where its record does not say
MOST_PIXELS, MOST_POSITIONS = 2048**2, 128**2  # of a frame, and of its features: a full attention map of these takes 1 GB
MOSTLY_DARK = 2 / 3  # a drawing with more dark than this has light lines. XDoG's of dark photographs reach 0.54
CONTRAST = 16  # grey levels between paper and ink below which a drawing is blank
FEW_DARK = 0.01  # a drawing on nothing has light lines if less than this of what is opaque is dark
LINE = 80  # ink, of 255: about the median where XDoG's line art has any, reduced by 2 to 5 (61 to 102 over data sets)
TILE = 512  # pixels, the longer side of a picture beside others
_WRITTEN = IMAGE_SUFFIXES - {".gif"}  # whose 256 colours are too few
_LONGEST = {".webp": 16_383, ".jpg": 65_500, ".jpeg": 65_500}  # pixels of a side that a format has room for


@dataclass(frozen=True)
class Frame:
    """The size at which the network sees a drawing: (width, height) in pixels, before and after padding."""

    size: tuple[int, int]
    padded: tuple[int, int]


@dataclass(frozen=True)
class Colorized:
    """What came of it: RGB, at the drawing's own size; and what the network saw, at the frame's."""

    picture: Image.Image
    sketch: Image.Image
    reference: Image.Image


@dataclass(frozen=True)
class Job:
    """Files: one to be written from two, and perhaps a sheet with all three."""

    sketch: Path
    reference: Path
    output: Path
    sheet: Path | None = None

    @property
    def written(self) -> tuple[Path, ...]:
        return (self.output, self.sheet) if self.sheet else (self.output,)


def colorize(
    model: Colorizer | str | Path,
    sketch: Image.Image | str | Path,
    reference: Image.Image | str | Path,
    *,
    size: int | None = None,
    extract: bool = False,
    lines: Lines = "auto",
) -> Image.Image:
    """Colour a drawing with the colours of a reference.

    Args:
        model: what `attnbench.load` gave, or the folder of a finished or an exported cell.
        sketch: a drawing, of any size and mode, or its file; or, with `extract`, a photograph or coloured picture.
        reference: a coloured picture of any size, or its file; its middle is used, in the sketch's aspect.
        size: shorter side, in pixels, at which the network works; by default the one that it was trained at, 0 for the
            sketch's own.
        extract: draw the sketch's line art first: XDoG with the recipe's parameters (the middle one of its sigmas), as for
            training. Pictures larger than the training's, whose lines would be too thin, are reduced to their size before (to
            512 pixels where the cell's record does not say it).
        lines: `dark` or `light`, against the paper; `auto` finds out. Paper becomes white, the darkest ink black. `keep` leaves
            tones as they are.

    Returns:
        RGB, of the sketch's size.

    Raises:
        UserError: a picture under 16 pixels or that cannot be read, a blank drawing, a size that is too large, a folder that
            `load` refuses.
        TypeError: neither a Pillow image nor a path.
    """
    generator = model if isinstance(model, Colorizer) else load(model)
    options = _Options(size, extract, lines)
    names = (_name_of(sketch, "sketch"), _name_of(reference, "reference"))
    return _colorize(generator, _decoded(sketch, options.drawn_with), _decoded(reference), options, names).picture


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
    say: Callable[[str], None] = lambda line: None,
    warn: Callable[[str], None] = lambda line: None,
) -> int:
    """As `colorize`, from files to files.

    Args:
        sketch: a picture, or a folder of pictures.
        reference: a picture, or a folder with one for each sketch: see `paired`.
        output: the picture to write; or a folder, for `<name of the sketch>.png`: where there is one, for a folder of sketches,
            and by a name without an ending.
        side_by_side: also write `<name>.side-by-side.png`: the sketch as the network saw it, the reference, the result.
        overwrite: whether files that are there already may be written anew; those that are read never are.
        say: hears of every picture that is written.
        warn: hears of every picture of a folder that could not be coloured, while the others are; and if the code of the
            generator's module has changed since it was trained.

    Returns:
        How many could not be coloured.

    Raises:
        UserError: as `colorize`, if `sketch` is one picture; if none of a folder can be coloured, or no more can be written.
    """
    options = _Options(size, extract, lines)
    jobs = planned(sketch, reference, output, side_by_side=side_by_side, overwrite=overwrite)
    folder, record = generator_folder(model)
    good, refusals = _checked(jobs, recorded_recipe(folder, record), options)
    read_reference = lru_cache(maxsize=1)(read_picture)  # most often it is one for all
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
            made = _colorize(generator, drawing, read_reference(job.reference), options, names)
        except UserError as error:
            if not sketch.is_dir():
                raise
            warn(f"left out: {error}")
            failed += 1
            continue
        write_picture(made.picture, job.output)
        if job.sheet:
            write_picture(_beside_each_other(made), job.sheet)
        say(f"{job.output}: {job.sketch.name} with the colours of {job.reference.name}")
    if changed := changed_sources(record["module"]):
        warn(f"the code of {', '.join(changed)} has changed since the generator was trained: colours may not be what it learnt")
    return failed


def checked_lines(text: str) -> Lines:
    """Raises UserError for what are no `Lines`."""
    if text not in get_args(Lines):
        raise unknown("kind of lines", text, get_args(Lines))
    return cast(Lines, text)


def planned(sketch: Path, reference: Path, output: Path, *, side_by_side: bool = False, overwrite: bool = False) -> list[Job]:
    """What is to be coloured with what, and where it goes; for arguments of `colorize_files`.

    Raises:
        UserError: a path that is not there or of the wrong kind; a sketch without a reference; a file that would take the place
            of an input, of another or of one that is there already; a place that cannot be written to.
    """
    for path in (sketch, reference, output):
        check_path(path)
    for path in (sketch, reference):
        if not path.exists():
            raise UserError(f"there is no picture or folder '{path}'")
    sketches = _pictures_in(sketch) if sketch.is_dir() else [sketch]
    references = _pictures_in(reference) if reference.is_dir() else [reference] * len(sketches)
    if sketch.is_dir() and output.exists() and not output.is_dir():
        raise UserError(f"-o {output} is a file: for a folder of sketches it names a folder")
    if sketch.is_dir() and output.resolve() == sketch.resolve():
        raise UserError(f"-o {output} is the folder of the sketches: choose another")
    into_folder = sketch.is_dir() or output.is_dir() or not (output.suffix or output.exists())
    if not into_folder and output.suffix.lower() not in _WRITTEN:
        raise UserError(f"-o {output}: expected a folder, or a file that ends in {', '.join(sorted(_WRITTEN))}")
    pairs = paired(sketches, references) if reference.is_dir() else references
    jobs = [
        _job(path, other, output / f"{path.stem}.png" if into_folder else output, side_by_side)
        for path, other in zip(sketches, pairs, strict=True)
    ]
    _check_outputs(jobs, {*sketches, *references}, overwrite)
    return jobs


def _job(sketch: Path, reference: Path, output: Path, side_by_side: bool) -> Job:
    return Job(sketch, reference, output, output.with_name(f"{output.stem}.side-by-side.png") if side_by_side else None)


def _check_outputs(jobs: Sequence[Job], inputs: set[Path], overwrite: bool) -> None:
    """Raises UserError as `planned` does, of the files that will be written."""
    read, made = {os.path.realpath(path) for path in inputs}, dict[Path, Path]()
    for job in jobs:
        for target in job.written:
            if os.path.realpath(target) in read:
                raise UserError(f"'{target}' would be overwritten, which is an input: choose another place with -o")
            if twin := made.get(target):
                raise UserError(f"'{twin.name}' and '{job.sketch.name}' would both become '{target.name}': rename one")
            made[target] = job.sketch
    there = [target for target in made if os.path.lexists(target)]
    if folder := next((target for target in there if target.is_dir()), None):
        raise UserError(f"'{folder}' is a folder, where a picture would be written: choose another place with -o")
    if there and not overwrite:
        more = f", and {len(there) - 1} more" if len(there) > 1 else ""
        raise UserError(f"'{there[0]}' exists already{more}: choose another place with -o, or pass --overwrite")
    for target in made:
        try:
            check_writable(target)
        except OSError as error:
            raise _unwritable(target, error) from None


def paired(sketches: Sequence[Path], references: Sequence[Path]) -> list[Path]:
    """For each sketch the reference of the same name, whatever its ending: `a.png` for `a.jpg`.

    Raises:
        UserError: there is none for a sketch, or two.

    >>> [path.name for path in paired([Path("b.png"), Path("a.png")], [Path("a.jpg"), Path("b.jpg"), Path("c.jpg")])]
    ['b.jpg', 'a.jpg']
    """
    by_name: dict[str, Path] = {}
    for path in references:
        if (twin := by_name.setdefault(path.stem, path)) is not path:
            raise UserError(f"'{twin}' and '{path.name}' are references of one name: remove or rename one")
    missing = [path.name for path in sketches if path.stem not in by_name]
    if missing:
        listed = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise UserError(
            f"no reference in '{references[0].parent}' for {listed}: give it the sketch's name, or name one picture for all "
            "sketches with --reference"
        )
    return [by_name[path.stem] for path in sketches]


def _checked(jobs: Sequence[Job], recipe: Recipe, options: _Options) -> tuple[list[Job], list[UserError]]:
    """The jobs whose pictures can be coloured as far as their sizes go, and why the others cannot; pictures are not decoded.

    Raises:
        UserError: none of them can be.
    """
    good, refusals = list[Job](), list[UserError]()
    for job in jobs:
        try:
            sizes = _size_of(job.sketch), _size_of(job.reference)
            _frame(*sizes, recipe, options, (f"'{job.sketch}'", f"'{job.reference}'"))
            most = _LONGEST.get(job.output.suffix.lower(), math.inf)
            if max(sizes[0]) > most:
                raise UserError(
                    f"'{job.output}': such files have {most:,} pixels a side at most, '{job.sketch}' has {_by(sizes[0])}: "
                    "choose another format with -o"
                )
            good.append(job)
        except UserError as error:
            refusals.append(error)
    if not good:
        raise UserError(
            f"none of the {len(jobs)} sketches can be coloured: {refusals[0]}" if len(jobs) > 1 else str(refusals[0])
        )
    return good, refusals


def read_picture(path: Path, lines: Lines = "dark") -> Image.Image:
    """A picture file as upright 8-bit RGB, see `data.images.decode`; `lines` as for `backdrop`.

    Raises:
        UserError: it cannot be read, or has more pixels than Pillow deems safe to decode (89 million).
    """
    with _opened(path) as picture:
        return decode(picture, backdrop(picture, lines))


def _size_of(path: Path) -> tuple[int, int]:
    """Of a picture file, by its header; as it lies in the file, which may not be upright. Raises as `read_picture` does."""
    with _opened(path) as picture:
        return picture.size


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Raises UserError as `read_picture` does, of what the block does with it as well."""
    formats = sorted({Image.registered_extensions()[suffix] for suffix in IMAGE_SUFFIXES})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=formats) as picture:
                yield picture
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        millions = (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise UserError(f"'{path}' has more than {millions} million pixels: save it smaller first") from None
    except Exception as error:  # decoders raise many types, and any of them means that this file is no good
        why = (isinstance(error, OSError) and error.strerror) or " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            why = f"it is damaged, or no picture ({', '.join(formats)})"
        raise UserError(f"'{path}' cannot be read: {why}") from None


def backdrop(picture: Image.Image, lines: Lines) -> str:
    """What a transparent drawing is to lie on: `black` where its lines are light, or hardly anything opaque in it is dark."""
    if not picture.has_transparency_data or picture.mode.startswith("I") or lines in ("dark", "keep"):
        return "white"
    if lines == "light":
        return "black"
    picture = picture.convert("RGBA")
    counts = picture.convert("L").histogram(picture.getchannel("A").point([0] * 128 + [255] * 128))
    return "black" if sum(counts[:128]) < FEW_DARK * sum(counts) else "white"


def _decoded(picture: Image.Image | str | Path, lines: Lines = "dark") -> Image.Image:
    return decode(picture, backdrop(picture, lines)) if isinstance(picture, Image.Image) else read_picture(Path(picture), lines)


def _name_of(picture: Image.Image | str | Path, what: str) -> str:
    """What errors call it.

    Raises:
        TypeError: it is of another type.
    """
    if isinstance(picture, (str, Path)):
        return f"'{picture}'"
    if not isinstance(picture, Image.Image):
        raise TypeError(
            f"{what}: expected a Pillow image or a path, not {type(picture).__name__} (Image.fromarray takes arrays)"
        )
    return f"the {what}"


def write_picture(picture: Image.Image, path: Path) -> None:
    """Write a file in the format of its name's ending; folders that are missing are made.

    Raises:
        UserError: it cannot be written, or the format has no pictures of this size.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as draft:
            picture.save(draft, Image.registered_extensions()[path.suffix.lower()])
    except (OSError, ValueError) as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError | ValueError) -> UserError:
    why = getattr(error, "strerror", None) or error
    return UserError(f"'{path}' cannot be written ({why}): choose another place or format with -o")


@dataclass(frozen=True)
class _Options:
    """As the parameters of `colorize`.

    Raises:
        UserError: a value that none of them has.
    """

    size: int | None
    extract: bool
    lines: Lines

    def __post_init__(self) -> None:
        checked_lines(self.lines)
        if self.size is not None and self.size != 0 and self.size < SMALLEST:
            raise UserError(f"size {self.size}: expected {SMALLEST} pixels or more, or 0 for the drawing's own size")

    @property
    def drawn_with(self) -> Lines:
        """What a sketch's `backdrop` goes by: photographs lie on white."""
        return "dark" if self.extract else self.lines


@torch.no_grad()
@tf32(False)  # as in an evaluation
def _colorize(
    generator: Colorizer, sketch: Image.Image, reference: Image.Image, options: _Options, names: tuple[str, str]
) -> Colorized:
    """Of RGB pictures; `names` are what errors call them."""
    recipe = recipe_of(generator)
    frame = _frame(sketch.size, reference.size, recipe, options, names)
    if options.extract:
        drawn = extracted(sketch, frame.size, recipe.data.sketch, side_of(generator) or NATIVE)
    else:
        drawn = redrawn(sketch.convert("L"), frame.size, recipe.data.sketch, options.lines, names[0])
    drawing = Image.new("L", frame.padded, "white")
    drawing.paste(drawn)
    fitted = ImageOps.fit(reference, frame.padded, Image.Resampling.BILINEAR)
    device = next(generator.parameters()).device
    try:
        made = generator(_signed(drawing).to(device), _signed(fitted).to(device))
    except torch.OutOfMemoryError:
        raise UserError(
            f"{device} has too little memory for {names[0]} at {_by(frame.size)} pixels: choose a smaller --size"
        ) from None
    width, height = frame.size
    picture = Image.fromarray(to_bytes(made)[0, :, :height, :width].permute(1, 2, 0).contiguous().cpu().numpy())
    if picture.size != sketch.size:
        picture = picture.resize(sketch.size, Image.Resampling.BICUBIC)
    return Colorized(picture, drawn, fitted)


def _frame(
    sketch: tuple[int, int], reference: tuple[int, int], recipe: Recipe, options: _Options, names: tuple[str, str]
) -> Frame:
    """The frame for pictures of these sizes.

    Raises:
        UserError: one of them is too small, or the network cannot take that many pixels.
    """
    for size, name in zip((sketch, reference), names, strict=True):
        if min(size) < SMALLEST:
            raise UserError(f"{name} has {_by(size)} pixels: at least {SMALLEST} x {SMALLEST} are needed")
    return frame_of(sketch, recipe.data.size if options.size is None else options.size, recipe.backbone.levels, names[0])


def frame_of(size: tuple[int, int], shorter: int, levels: int, name: str = "the sketch") -> Frame:
    """The frame for a drawing.

    Args:
        size: of the drawing, (width, height) in pixels.
        shorter: what the shorter side becomes; 0 for no change.
        levels: of the backbone, whose stride is 2^(levels - 1); at least two strides fit into a side.
        name: of the drawing, for errors.

    Raises:
        UserError: the network cannot take that many pixels.

    >>> frame_of((300, 180), 64, 4)
    Frame(size=(107, 64), padded=(112, 64))
    """
    scale = shorter / min(size) if shorter else 1.0
    width, height = (max(1, round(side * scale)) for side in size)
    stride = 2 ** (levels - 1)
    padded = (max(2, math.ceil(width / stride)) * stride, max(2, math.ceil(height / stride)) * stride)
    most = min(MOST_PIXELS, MOST_POSITIONS * stride**2)
    if math.prod(padded) > most:
        fits = int(min(width, height) * math.sqrt(most / math.prod(padded)) / stride) * stride
        remedy = f"--size {fits} or less fits" if fits >= SMALLEST else "cut it into parts, its sides differ too much"
        size_ = _by((width, height))
        raise UserError(
            f"{name} would be coloured at {size_} pixels, this network takes {most / 1e6:.2g} million at most: {remedy}"
        )
    return Frame((width, height), padded)


def extracted(picture: Image.Image, size: tuple[int, int], sketch: Sketch, native: int = NATIVE) -> Image.Image:
    """Line art of an RGB picture, in grey, at another size: drawn before or after the change, as the recipe has it.

    Pictures whose shorter side has more than `native` pixels, as those of the training had, are reduced to that before.
    """
    native = max(native, min(size))
    if sketch.at == "target":
        picture = _resized(picture, size)
    elif min(picture.size) > native:
        scale = native / min(picture.size)
        picture = _resized(picture, (round(picture.width * scale), round(picture.height * scale)))
    rgb = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255
    middle = sorted(sketch.sigma)[len(sketch.sigma) // 2]
    drawn = draw_sketches(rgb, torch.tensor([middle]), sketch)[0, 0]
    return _resized(Image.fromarray((drawn * 255).round().byte().numpy()), size)


def redrawn(
    drawing: Image.Image,
    size: tuple[int, int],
    sketch: Sketch,
    lines: Lines = "auto",
    name: str = "the sketch",
) -> Image.Image:
    """A grey drawing (mode L) as the network knows them, at another size.

    Thin lines fade where a drawing is reduced. One factor brings what has ink to the darkness that the training's line art has
    behind its own reduction: `LINE`. Drawings that are darker stay as they are. Where the recipe draws at the
    network's own size, at which its lines are black, these are made black as well.
    """
    if lines == "keep":
        return _resized(drawing, size)
    ink = ImageOps.invert(cleaned(drawing, lines, name))
    small = _small(ink, size)
    strong = _small(ink.point([0] * 128 + [*range(128, 256)]), size)  # without the paper's grain
    darker = max(LINE / _middle(strong[strong > 0]), 1)
    levels = np.clip(255 - darker * small, 0, 255).round().astype(np.uint8)
    drawn = Image.fromarray(levels)
    if sketch.at == "native" or sketch.source == "dataset":
        return drawn
    threshold = _otsu(np.array(drawn.histogram(), dtype=np.float64))
    return drawn.point([0 if level <= threshold else 255 for level in range(256)])


def _small(ink: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """Mode L at another size, in floats: a thin line's share in a pixel may be less than a grey level."""
    return np.asarray(_resized(ink.convert("F"), size))


def _middle(values: np.ndarray) -> float:
    """The mean of the middle half: steadier than the median, and as blind to black areas of up to a quarter."""
    cut = values.size // 4
    return float(np.sort(values)[cut : values.size - cut].mean())


def cleaned(drawing: Image.Image, lines: Lines = "auto", name: str = "the sketch") -> Image.Image:
    """A grey drawing as the network knows them: white paper, and lines whose darkest are black.

    Otsu's threshold (IEEE Transactions on Systems, Man, and Cybernetics 9(1), 1979) parts ink from paper. The paper's median,
    less its usual variation, becomes white; the darkest twentieth of the ink becomes black.

    Args:
        drawing: mode L.
        lines: as for `colorize`; `auto` takes them for light where more than two thirds of the drawing are dark.
        name: of the drawing, for errors.

    Raises:
        UserError: it is blank.
    """
    if lines == "keep":
        return drawing
    counts = np.array(drawing.histogram(), dtype=np.float64)
    threshold = _otsu(counts)
    dark = counts[: threshold + 1].sum() / counts.sum()
    if lines == "light" or (lines == "auto" and dark > MOSTLY_DARK):
        drawing, counts = ImageOps.invert(drawing), counts[::-1]
        threshold = _otsu(counts)
    levels = np.arange(256)
    ink, paper = np.where(levels <= threshold, counts, 0), np.where(levels > threshold, counts, 0)
    if not ink.any() or not paper.any():
        raise _blank(name)
    middle = _quantile(levels, paper, 0.5)
    deviation = 1.4826 * _quantile(abs(levels - middle), paper, 0.5)  # a normal distribution's, by its median
    white, black = middle - 2 * deviation, _quantile(levels, ink, 0.05)
    if white - black < CONTRAST:
        raise _blank(name)
    return drawing.point([round(min(max((level - black) / (white - black), 0), 1) * 255) for level in range(256)])


def _otsu(counts: np.ndarray) -> int:
    """The last grey level of the darker of two classes, whose variance between them is the largest; (256,) counts."""
    levels = np.arange(256)
    below, mass = counts.cumsum(), (counts * levels).cumsum()
    above = below[-1] - below
    both = (below > 0) & (above > 0)
    between = np.zeros(256)
    between[both] = (mass[-1] * below[both] - mass[both] * below[-1]) ** 2 / (below[both] * above[both])
    best = np.flatnonzero(between >= between.max() * (1 - 1e-12))  # empty levels between the classes all do as well
    return int(best[len(best) // 2])


def _quantile(values: np.ndarray, counts: np.ndarray, share: float) -> int:
    """The least of the values, each of which occurs `counts` times, that at least that share does not exceed."""
    order = values.argsort(kind="stable")
    reached = counts[order].cumsum() >= share * counts.sum()
    return int(values[order][reached.argmax()])


def _blank(name: str) -> UserError:
    return UserError(f"{name} is blank: its tones hardly differ (--lines keep colours it all the same)")


def _pictures_in(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    pictures = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    if not pictures:
        raise UserError(f"no pictures in '{folder}' (looked for {', '.join(sorted(IMAGE_SUFFIXES))})")
    return pictures


def _beside_each_other(made: Colorized) -> Image.Image:
    """Sketch, reference and result, on white; the longer side of each is at most 512 pixels, or the result's."""
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


def _resized(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Bilinear with antialiasing, as training's images."""
    return picture if picture.size == size else picture.resize(size, Image.Resampling.BILINEAR)


def _signed(picture: Image.Image) -> Tensor:
    """Mode L or RGB -> (1, 1 or 3, H, W) in [-1, 1], as `data.batches` makes them."""
    array = np.atleast_3d(np.array(picture))
    return (torch.from_numpy(array).permute(2, 0, 1)[None].float() / 255) * 2 - 1


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]:,} x {size[1]:,}"
