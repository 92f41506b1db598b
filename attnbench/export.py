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

import copy
import io
import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image
from torch import Tensor, fx

from attnbench.backbone import Colorizer
from attnbench.data.synthetic import draw
from attnbench.errors import UserError
from attnbench.pictures import PICTURES, PairPictures, sample_grid
from attnbench.precision import tf32
from attnbench.recipe import Data, Recipe
from attnbench.sources import changed_sources
from attnbench.store import FINISHED, check_path, check_writable, generator_folder, load, recipe_of, write_text
from attnbench.tables import LOWER_IS_BETTER, METRIC_NAMES
from attnbench.winograd import Conv3x3

TOLERANCE = 1e-4  # by which a program may differ from its generator, of pixels in [-1, 1]
_BATCHES = (2, 1, 5)  # with which a program is made, and those with which it is tried besides; large ones take other algorithms
_RECORD = (
    "format", "identity", "status", "module", "dataset", "seed", "recipe", "weights", "step", "provenance", "started",
    "metrics", "losses", "best", "costs", "ended",
)  # fmt: skip
_OF_A_RUN = "losses.jsonl"  # a file that cells have where they were trained, and exported ones have not
_SHEET = "pictures/pairs.png"
_UNMEASURED = "its network was not on the machine"
_EXPLAINED = {"ssim_global": "one window, the whole grey image", "ssim": "11 x 11 Gaussian window"}
_COSTS: Sequence[tuple[str, str, Callable[[float], str]]] = (
    ("generator_parameters", "parameters", lambda value: f"{value:,}"),
    ("module_parameters", "of which the module's", lambda value: f"{value:,}"),
    ("generator_gflop", "GFLOP for a picture", lambda value: f"{value:.3g}"),
    ("train_seconds", "training took", lambda value: f"{value / 60:,.1f} minutes"),
    ("images_per_second", "images a second in training", lambda value: f"{value:.3g}"),
)


@dataclass(frozen=True)
class Program:
    """What is to be said of a `torch.export` program.

    Attributes:
        size: side of the images that it takes, in pixels.
        any_batch: whether it takes batches of any size, or of one.
        checked: on how many pairs it was compared with the generator.
        difference: the largest there, of pixels in [-1, 1].
    """

    size: int
    any_batch: bool
    checked: int
    difference: float


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
                (folder / _SHEET).parent.mkdir()
                sheet[0].save(folder / _SHEET)
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
        name: {part: _UNMEASURED if part == "reason" else value for part, value in metric.items()}
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
        sheets = [sheet for sheet in (cell / "samples.png", cell / _SHEET) if sheet.is_file()]
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


def write_program(generator: Colorizer, file: Path, module: str) -> Program:
    """Write the generator as a `torch.export` program of the recipe's size, read it back, and compare the two.

    Args:
        module: its module's name, for errors.

    Raises:
        UserError: no program can be made of the module, or it does not agree with the generator.
    """
    size = recipe_of(generator).data.size
    traced = copy.deepcopy(generator)
    for layer in traced.modules():
        if isinstance(layer, Conv3x3):
            layer.plain = True  # which algorithm is faster depends on the batch, and programs do not ask
    any_batch = True
    try:
        try:
            program = _traced(traced, _inputs(generator, _BATCHES[0]), torch.export.Dim.DYNAMIC)
        except Exception:  # a forward that counts its batch in Python
            any_batch = False
            program = _traced(traced, _inputs(generator, 1), None)
    except Exception as error:  # torch.export raises many types
        why = " ".join(str(error).split("\n")[0].split())[:200]
        raise UserError(f"module '{module}' cannot be made into a program ({why}): export it without --program") from None
    _forget_paths(program.graph_module)
    with _quiet():
        torch.export.save(program, file)
        read = torch.export.load(file).module()
    differences = []
    for batch in _BATCHES if any_batch else (1,):
        pair = _inputs(generator, batch)
        with torch.no_grad(), tf32(False):
            differences.append(float((read(*pair) - generator(*pair)).abs().max()))
    difference = max(differences)
    if not difference <= TOLERANCE:  # nor is NaN
        raise UserError(
            f"the program of module '{module}' differs from its generator by {difference:.1e} (at most {TOLERANCE:.0e}): "
            "export it without --program"
        )
    return Program(size, any_batch, sum(_BATCHES) if any_batch else 1, difference)


def _traced(generator: Colorizer, pair: tuple[Tensor, Tensor], batch: Any) -> torch.export.ExportedProgram:
    """`batch` says what becomes of the first dimension: None fixes it."""
    shapes = ({0: batch}, {0: batch}) if batch else None
    with torch.no_grad(), _quiet():
        return torch.export.export(generator, pair, dynamic_shapes=shapes)


def _inputs(generator: Colorizer, count: int) -> tuple[Tensor, Tensor]:
    """Line art of heads that attnbench draws (B, 1, S, S), and other heads (B, 3, S, S), in [-1, 1]."""
    assert generator.draw is not None
    size = recipe_of(generator).data.size
    heads = torch.stack(
        [torch.from_numpy(np.array(draw(0, index, size))).permute(2, 0, 1).float() / 127.5 - 1 for index in range(2 * count)]
    )
    return generator.draw(heads[:count]), heads[count:]


def _forget_paths(program: fx.GraphModule) -> None:
    """Take out of the traces where on this machine the code lies."""
    for part in program.modules():
        if isinstance(part, fx.GraphModule):
            for node in part.graph.nodes:
                node.meta.pop("stack_trace", None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the pages that torch.export prints where it fails, and without the warnings of some of its versions."""
    with redirect_stderr(io.StringIO()), warnings.catch_warnings(action="ignore"):
        yield


def model_card(record: Mapping[str, Any], folder: str, shown: str, program: Program | None) -> str:
    """README.md: what the generator is, how to use it, how good it is, how it was made, and what it is not for.

    Args:
        record: see `public_record`.
        folder: its name.
        shown: how many test pairs pictures/pairs.png shows, in words; empty if there is none.
    """
    module, costs, provenance = record["module"], record["costs"], record["provenance"]
    recipe, versions = Recipe.model_validate(record["recipe"]["values"]), provenance["versions"]
    environment = Environment(
        loader=PackageLoader("attnbench", ""), undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    return environment.get_template("model_card.md.j2").render(
        front_matter=_front_matter(module["name"]),
        record=record,
        label=module["label"],
        options=", ".join(f"`{name}={_as_option(value)}`" for name, value in module["given"].items()),
        folder=folder,
        version=versions.get("attnbench") or "",
        needs="" if module["package"] == "attnbench" else f" and {module['package']} {module['version']}, which has the module",
        pictures=_SHEET if shown else "",
        shown=shown,
        program=program,
        metrics=[_metric_row(name, metric) for name, metric in record["metrics"].items()],
        evaluation=recipe.evaluation,
        data=recipe.data,
        train=recipe.train,
        sketches=_sketches_in_words(recipe.data),
        passes=record["step"] * recipe.train.batch_size / record["dataset"]["train"],
        costs=[(name, how(costs[key])) for key, name, how in _COSTS if costs.get(key) is not None],
        provenance=[
            ("device", provenance.get("device", "not known")),
            ("software", ", ".join(f"{name} {version}" for name, version in versions.items() if version) or "not known"),
            ("attnbench's commit", provenance.get("commit") or "not known"),
            ("date", str(record.get("ended", "not known"))[:10]),
        ],
    )


def _as_option(value: Any) -> str:
    """As on the command line: `false`, not `False`."""
    return json.dumps(value).strip('"')


def _front_matter(module: str) -> str:
    tags = ["attnbench", "image-to-image", "line-art-colorization", "reference-based", module]
    return yaml.safe_dump(
        {"library_name": "attnbench", "pipeline_tag": "image-to-image", "tags": tags}, sort_keys=False
    ).rstrip()


def _metric_row(name: str, metric: Mapping[str, Any]) -> dict[str, str]:
    """A metric for the card's table."""
    value = metric["value"]
    parts = [f"Inception features of width {metric['dims']}"] if "dims" in metric else []
    parts += [f"network {metric['network']}"] if "network" in metric else []
    if "n_real" in metric:
        parts.append(f"{metric['n']} generated against {metric['n_real']} real test images ({metric['real_size']} size)")
        parts.append(f"{metric['n_floor']} real training images against the same: {metric['floor']:.4g}")
    elif "n" in metric:
        parts.append(f"mean of {metric['n']} pairs")
    if name in _EXPLAINED:
        parts.append(_EXPLAINED[name])
    return {
        "name": METRIC_NAMES.get(name, name),
        "arrow": "↓" if name in LOWER_IS_BETTER else "↑",
        "value": "not measured" if value is None else f"{value:.4g}",
        "how": "; ".join(parts) if value is not None else metric.get("reason", _UNMEASURED),
    }


def _sketches_in_words(data: Data) -> str:
    if data.sketch.source == "dataset":
        return "the line art that comes with the data set"
    where = "at the images' own size" if data.sketch.at == "native" else "at this size"
    sigmas = ", ".join(f"{sigma:g}" for sigma in data.sketch.sigma)
    return f"XDoG line art drawn {where} (sigma {sigmas})"
