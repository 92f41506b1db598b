"""`attnbench score`: pictures of a protocol's pairs, made by any method, measured as those of trained cells are.

A dataset's own right answers are measured likewise: what a method that makes no mistake scores.

They become a row of the store: a folder with a cell.json, whose identity is that of the pictures. It is written together with
the first numbers, so a process that is killed before leaves no row, and the same command goes on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attnbench import plugins, weights
from attnbench.cells.identity import IDENTITY_VERSION, identity_of_pictures
from attnbench.cells.provenance import now, provenance
from attnbench.cells.record import (
    FINISHED,
    FORMAT,
    DatasetRecord,
    ModuleRecord,
    PicturesKind,
    PicturesRecord,
    RecipeRecord,
    Record,
)
from attnbench.config.recipe import Data, Evaluation, Recipe, is_set
from attnbench.config.yaml_files import validated
from attnbench.console import log, warn
from attnbench.data.images import PreparedDataset
from attnbench.data.layouts import Dataset
from attnbench.data.origin import Origin
from attnbench.devices import pick_device
from attnbench.errors import UserError
from attnbench.execute.asked import Asked
from attnbench.execute.given_pictures import check_answers, coloured_by, read_pictures, right_answers
from attnbench.execute.measuring import Subject, measure_cell
from attnbench.execute.pairs import PairsFile, asked_of, find_dataset, read_pairs, recipe_with
from attnbench.execute.planned_cell import job_of
from attnbench.files import disk_full_raised, set_aside
from attnbench.metrics.generate import PairSet, through_jpeg
from attnbench.metrics.lacks import NO_NETWORK
from attnbench.metrics.measure import check_metrics
from attnbench.metrics.protocol import protocols_of
from attnbench.store.folder import CellFolder, check_store, open_store
from attnbench.store.job import RunOptions, write_job
from attnbench.store.pictures import pixels_digest

RIGHT_ANSWER = "right answer"  # what the row of a dataset's own is called
_SAID_OF_ANSWERS = "The dataset's own, each sketch in its reference's colours: what a method that makes no mistake scores"
_LONGEST = 60  # characters of a row's name
_OF_PROTOCOL = ("references", "pairing", "pair_seed", "limit", "format")  # keys of `evaluation`


@dataclass(frozen=True)
class ScoreRequest:
    """What one command asks for.

    Attributes:
        dataset: as on the command line.
        pictures: a folder with a picture for each pair; or
        method: an installed method that makes them; or
        right_answers: the dataset's own.
        label: what the row is called; by default the method's name, or `RIGHT_ANSWER`.
        note: what else is to be said of the pictures; by default the first line of the method's docstring.
        pairs: a folder that `attnbench pairs` wrote, whose protocol, data and size the pictures have.
        recipe, overrides: whose `data` and `evaluation` it is; by default `official`.
        metrics: by default those of the recipe.
        references: a folder of references from elsewhere.
        kept: how the pictures are kept.
        device: by default the first GPU, or the CPU.
    """

    dataset: str
    pictures: Path | None = None
    method: str | None = None
    right_answers: bool = False
    label: str | None = None
    note: str | None = None
    store: Path = Path("results")
    pairs: Path | None = None
    recipe: str | Path | None = None
    overrides: Sequence[str] = ()
    metrics: Sequence[str] = ()
    references: Path | None = None
    data_root: Path | None = None
    torch_home: Path | None = None
    skip_corrupt: bool = False
    kept: PicturesKind = "lossless"
    device: str | None = None


@dataclass(frozen=True)
class Scored:
    """A row: its folder in the store, its dataset, and the metrics that were measured now."""

    folder: str
    dataset: str
    measured: Sequence[str]


@dataclass(frozen=True)
class _Plan:
    """What the pictures are held to.

    Attributes:
        side: of the pictures in their files.
    """

    recipe: Recipe
    asked: Asked
    side: int

    @property
    def data(self) -> Data:
        return self.recipe.data


def score(request: ScoreRequest) -> Scored:
    """Measure what is not measured yet of the pictures, and add them to the store.

    Raises:
        UserError: bad input, before any file is written.
        DiskFull: what was measured before is kept.
    """
    started = now()
    method, label = _method(request), _label(request)
    weights.use_torch_home(request.torch_home)
    device = pick_device(request.device)
    written = read_pairs(request.pairs) if request.pairs else None
    plan = _plan(request, written)
    check = partial(_check_dataset, plan, request)
    origin, dataset = find_dataset(request.dataset, plan.data, request.data_root, request.skip_corrupt, check=check)
    _check_pairs(dataset, request, written)
    check_store(request.store)
    asked = plan.asked.on(dataset)
    pairs = PairSet.of(dataset.test, asked.protocols[0], plan.data, asked.references)
    given = _pictures(request, method, pairs, dataset, plan)
    note = request.note or (_SAID_OF_ANSWERS if request.right_answers else _said_by(method))
    record = _record(label, note, given, dataset, plan, method)
    record = record.model_copy(update={"provenance": provenance(device), "started": started, "ended": now()})
    options = RunOptions(evaluation=plan.recipe.evaluation, pictures=request.kept)
    folder = _folder(open_store(request.store), record)
    with disk_full_raised(request.store):
        subject = Subject(folder, record, plan.data, dataset, given=_as_measured(given, pairs))
        return _measured(subject, asked, options, origin, device, bool(request.note))


def _method(request: ScoreRequest) -> plugins.Plugin | None:
    if [request.pictures is not None, request.method is not None, request.right_answers].count(True) != 1:
        raise UserError("name a folder of pictures, a method with --method, or --right-answers: one of the three, and only one")
    if request.pairs is not None and request.pictures is None:
        what = "a method colours" if request.method else "right answers are of"
        raise UserError(f"--pairs is for pictures in a folder: {what} the pairs of --dataset and --recipe")
    if request.method is None:
        return None
    method = plugins.find(plugins.METHODS, request.method)
    method.load()
    return method


def _label(request: ScoreRequest) -> str:
    """What the row is called."""
    usual = RIGHT_ANSWER if request.right_answers else request.method
    label = usual if request.label is None else request.label
    if label is None:
        raise UserError("--as is missing: what the row is called, for example --as MangaNinja")
    label = label.strip()
    if not label or label.startswith(".") or not label.isprintable() or any(sign in label for sign in "/:,"):
        raise UserError(f"--as {label!r}: expected a name without / : or , on one line, that does not start with a dot")
    if len(label) > _LONGEST:
        raise UserError(f"--as {label[:20]}...: a row's name has at most {_LONGEST} characters: shorten it")
    if label.lower() in {plugin.name.lower() for plugin in plugins.installed(plugins.MODULES)}:
        raise UserError(f"--as {label}: a module has this name, and its rows are trained here: choose another")
    if label != request.method and label in {plugin.name for plugin in plugins.installed(plugins.METHODS)}:
        raise UserError(f"--as {label}: an installed method has this name (--method {label}): choose another")
    if label.lower() == RIGHT_ANSWER and not request.right_answers:
        raise UserError(f"--as {label}: the dataset's own have this name (--right-answers): choose another")
    return label


def _said_by(method: plugins.Plugin | None) -> str:
    """What a method says of itself: the first line of its docstring."""
    return (method.load().__doc__ or "").strip().split("\n")[0].rstrip(".") if method else ""


def _plan(request: ScoreRequest, written: PairsFile | None) -> _Plan:
    """What is to be measured: of the recipe; or by the protocol and data of pairs that were written."""
    name = request.recipe or "official"
    recipe = recipe_with(name, request.overrides)
    if request.metrics:
        values = recipe.evaluation.model_dump() | {"metrics": tuple(request.metrics)}
        recipe = recipe.model_copy(update={"evaluation": validated(Evaluation, values, "--metrics")})
    if written is None:
        return _Plan(recipe, asked_of(recipe, request.references, str(name)), recipe.data.size)
    _check_agrees(request, recipe, written)
    one = recipe.evaluation.model_copy(update={"references": recipe.evaluation.references[:1]})
    recipe = recipe.model_copy(update={"data": written.data, "evaluation": one})
    references = request.references or (Path(written.references) if written.references else None)
    asked = asked_of(recipe, references, str(name))
    if asked.protocols[0].folder_digest != written.protocol.folder_digest:
        raise UserError(
            f"the references in '{references}' are not those of the pairs in '{request.pairs}': pass their folder, --references"
        )
    return _Plan(recipe, replace(asked, protocols=[written.protocol]), written.size)


def _check_agrees(request: ScoreRequest, recipe: Recipe, written: PairsFile) -> None:
    """Refuse keys that were set to something else than the pairs that were written have; a recipe's own keys give way."""
    ours, theirs = _keys(recipe), _keys_of(written)
    for key, value in ours.items():
        if is_set(request.overrides, key) and key in theirs and theirs[key] != value:
            raise UserError(
                f"{key} = {value} contradicts the pairs in '{request.pairs}', which have {theirs[key]}: leave it out, or write "
                "the pairs again with `attnbench pairs`"
            )


def _keys(recipe: Recipe) -> dict[str, Any]:
    """What a recipe says of pairs, as `section.key` -> value."""
    protocol = protocols_of(recipe.evaluation)[0].model_dump(mode="json")
    keys = _flat({"data": recipe.data.model_dump(mode="json"), "evaluation": {key: protocol[key] for key in _OF_PROTOCOL}})
    return keys | {"evaluation.references": ", ".join(recipe.evaluation.references)}


def _keys_of(written: PairsFile) -> dict[str, Any]:
    """The same of pairs that were written; of references from elsewhere, a recipe says nothing."""
    protocol = written.protocol.model_dump(mode="json")
    kept = [key for key in _OF_PROTOCOL if written.protocol.folder is None or key not in ("references", "pairing")]
    return _flat({"data": written.data.model_dump(mode="json"), "evaluation": {key: protocol[key] for key in kept}})


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def _check_dataset(plan: _Plan, request: ScoreRequest, dataset: Dataset) -> None:
    """Refuse a dataset that lacks what was asked for by name."""
    if request.right_answers:
        check_answers(dataset, plan.asked.protocols[0])
    named = bool(request.metrics) or is_set(request.overrides, "evaluation.metrics")
    if named and (looking := next((metric.key for metric in plan.asked.metrics if "maps" in metric.uses), None)):
        raise UserError(f"metric '{looking}' cannot be measured here: {NO_NETWORK}: leave it out")
    check_metrics(plan.asked.metrics, [dataset], plan.asked.protocols, named=named)


def _check_pairs(dataset: PreparedDataset, request: ScoreRequest, written: PairsFile | None) -> None:
    if written is not None and written.test != dataset.fingerprints["test"]:
        raise UserError(
            f"the pairs in '{request.pairs}' are of other images (dataset '{written.dataset}') than the test images of "
            f"'{request.dataset}' here: pass the --dataset and --data-root that they were written from"
        )


def _pictures(
    request: ScoreRequest, method: plugins.Plugin | None, pairs: PairSet, dataset: PreparedDataset, plan: _Plan
) -> Tensor:
    """(N, 3, S, S) uint8, at the recipe's size."""
    if request.right_answers:
        return right_answers(pairs, dataset)
    if method is not None:
        return coloured_by(method, pairs)
    assert request.pictures is not None  # or there would be a method
    return read_pictures(request.pictures.expanduser(), len(pairs), plan.side, plan.data.size)


def _as_measured(given: Tensor, pairs: PairSet) -> Tensor:
    """As read from files of the protocol's format."""
    return through_jpeg(given, 75) if pairs.protocol.format == "jpeg75" else given


def _record(
    label: str, note: str, given: Tensor, dataset: PreparedDataset, plan: _Plan, method: plugins.Plugin | None
) -> Record:
    digest = pixels_digest(given)
    return Record(
        format=FORMAT,
        identity=identity_of_pictures(digest, label, dataset.name),
        identity_version=IDENTITY_VERSION,
        status=FINISHED,
        module=ModuleRecord(
            name=label,
            label=label,
            given={},
            options={},
            package=method.package if method else "",
            version=method.version if method else "",
        ),
        dataset=DatasetRecord(name=dataset.name, fingerprint=dataset.fingerprints["train"], train=0, skipped=dataset.skipped),
        seed=0,
        recipe=RecipeRecord(name="", digest="", values={"data": plan.data.model_dump(mode="json")}),
        weights={},
        pictures=PicturesRecord(digest=digest, note=" ".join(note.split()), side=plan.side, size=plan.data.size),
    )


def _folder(store: Path, record: Record) -> CellFolder:
    slug = re.sub(r"[^a-z0-9]+", "-", record.module.label.lower()).strip("-")[:40].strip("-") or "pictures"
    return CellFolder(store / f"{slug}-{record.dataset.name}-{record.identity[:10]}")


def _measured(subject: Subject, asked: Asked, options: RunOptions, origin: Origin, device: torch.device, noted: bool) -> Scored:
    """Measure what is open, holding the row's lock; `noted` if the note is to be kept instead of an earlier one."""
    folder, label = subject.folder, subject.label
    folder.path.mkdir(exist_ok=True)
    if folder.is_held():
        log.info(f"{label}: waiting for the process that holds it")
    with folder.locked(wait=True):
        record = _continued(folder, subject.record, noted)
        todo = asked.open(record)
        log.info(f"{label}: measures {'; '.join(map(str, todo))}" if todo else f"{label}: measured already")
        if any(one.lossless for one in record.measurements):  # of these very pictures
            options = options.model_copy(update={"pictures": "lossless"})
        if todo:
            write_job(folder.path, job_of(origin, options))  # `measure` finds the images by it
            measure_cell(replace(subject, record=record), asked, options, device)
    return Scored(folder.path.name, record.dataset.name, [metric.key for one in todo for metric in one.metrics])


def _continued(folder: CellFolder, new: Record, noted: bool) -> Record:
    """The record of these pictures in the store; a new one if there is none."""
    record = folder.record()
    if record is None:
        if folder.record_file.is_file():
            warn(f"'{folder.record_file}' is damaged: set aside as {set_aside(folder.record_file).name}; measured again")
        return new
    if record.recipe.values != new.recipe.values or record.pictures is None or new.pictures is None:
        raise UserError(
            f"these pictures were scored before, with other values of `data` in the recipe ('{folder.path}'): choose another "
            "results folder with -o, or another name with --as"
        )
    if noted and new.pictures.note != record.pictures.note:
        record = record.model_copy(update={"pictures": record.pictures.model_copy(update={"note": new.pictures.note})})
        folder.write_record(record)
    return record
