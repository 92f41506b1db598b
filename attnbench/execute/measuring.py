"""Measuring a trained cell: its pictures under a protocol, from its generator or as it kept them, and their numbers.

Of each protocol, the files are written before the record that names them; a process that is killed in between leaves a cell
that is measured again. The process holds the cell's lock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from attnbench.cells.provenance import now, provenance
from attnbench.cells.record import MeasurementRecord, MetricRecord, Record, Source, TestRecord
from attnbench.config.recipe import Data
from attnbench.console import progress, warn, warnings_noted
from attnbench.data.images import ImageSet, PreparedDataset
from attnbench.errors import Interrupted, UserError
from attnbench.execute.asked import GENERATOR, Asked, ToMeasure, can_be_measured
from attnbench.files import replacing
from attnbench.method.backbone import Colorizer
from attnbench.metrics.generate import KnownPairs, PairSet, generate
from attnbench.metrics.lacks import IMAGES_AWAY, NETWORK_AWAY, NO_NETWORK
from attnbench.metrics.line_art import drawn_by
from attnbench.metrics.measure import Number, lacking_of, measure, pictures_of
from attnbench.metrics.pictures import USABLE, Pictures
from attnbench.metrics.protocol import number_identity
from attnbench.store.folder import MEASURED, CellFolder
from attnbench.store.generators import load
from attnbench.store.job import RunOptions
from attnbench.store.pictures import PICTURES, PairPictures, pixels_digest, write_pair_pictures
from attnbench.store.scores import add_scores, read_scores

Progressed = Callable[[int, int], None]  # pairs coloured, and in total


@dataclass(frozen=True)
class Subject:
    """A trained cell that is measured.

    Attributes:
        data: of its recipe.
        dataset: None where its images are not at hand: then only pictures that it kept are measured.
        has_train: whether the training images at hand are the cell's.
        generator: its network, if it is in memory; else it is loaded where it is needed.
        given: (N, 3, S, S) uint8 in the order of the protocol's pairs: pictures that were made elsewhere.
    """

    folder: CellFolder
    record: Record
    data: Data
    dataset: PreparedDataset | None
    has_train: bool = True
    generator: Colorizer | None = None
    given: Tensor | None = None

    @property
    def label(self) -> str:
        return self.record.label


@dataclass(frozen=True)
class _Made:
    """The pictures of a protocol, before they are measured."""

    generated: Tensor
    source: Source
    pictures: Pictures
    said: Sequence[str] = ()  # by the module, while it coloured them


def measure_cell(
    subject: Subject,
    asked: Asked,
    options: RunOptions,
    device: torch.device,
    *,
    stop: threading.Event | None = None,
    coloured: Progressed | None = None,
) -> Record:
    """Measure what is open of a trained cell, or of pictures from elsewhere; write files and record, and return the record.

    Raises:
        UserError: there are neither generator nor pictures to measure, or they are damaged.
        Interrupted: `stop` was set; protocols that were measured before are kept.
    """
    record = subject.record
    for todo in asked.open(record):
        if subject.given is None and (why := can_be_measured(subject.folder.path, record, [todo])) is not None:
            raise UserError(f"{subject.label}: {why}")
        made = _pictures(subject, todo, asked.references, options, device, stop, coloured)
        numbers = measure(made.pictures, todo.metrics)
        for key, number in numbers.items():
            if number.failed:
                warn(f"{subject.label}: {key}: {number.reason}")
        measurement = _written(subject, todo, made, numbers, options, device, asked.references)
        record = (subject.folder.record() or record).with_measurement(measurement)
        subject.folder.write_record(record)
    return record


def measured_in_training(
    generator: Colorizer,
    dataset: PreparedDataset,
    data: Data,
    asked: Asked,
    device: torch.device,
    batch: int,
    coloured: Progressed,
) -> dict[str, MetricRecord]:
    """The numbers of a network in training, under the first protocol; no file is written."""
    pairs = PairSet.of(dataset.test, asked.protocols[0], data, asked.references)
    generated = generate(generator, pairs, device, batch=batch, progress=coloured)
    numbers = measure(pictures_of(generated, pairs, dataset, device, generator=lambda: generator), asked.metrics)
    return {key: _as_record(number, "generator") for key, number in numbers.items()}


def _pictures(
    subject: Subject,
    todo: ToMeasure,
    references: ImageSet | None,
    options: RunOptions,
    device: torch.device,
    stop: threading.Event | None,
    coloured: Progressed | None,
) -> _Made:
    """The kept pictures where they are the very ones; else new ones; else small copies, or those of a cell without images."""
    dataset = subject.dataset
    kept = _kept(subject, todo)
    if dataset is None:
        if kept is None:
            raise UserError(
                f"{subject.label}: its images are not at hand, and it kept no pictures of this protocol: pass --data-root"
            )
        return _from_pictures_alone(kept, todo, subject, device)
    pairs = PairSet.of(dataset.test, todo.protocol, subject.data, references)
    if subject.given is not None:
        return _Made(subject.given, "given pictures", pictures_of(subject.given, pairs, dataset, device))
    has_generator = subject.generator is not None or (subject.folder.path / GENERATOR).is_file()
    if kept is not None and kept.pairs == pairs.pairs and (kept.lossless or not has_generator):
        found = _as_measured(kept, todo, or_raise=not has_generator)
        if found is not None:
            generator = partial(_generator, subject, device) if has_generator else None
            no_network = NO_NETWORK if subject.record.pictures else NETWORK_AWAY
            pictures = pictures_of(
                found, pairs, dataset, device, has_train=subject.has_train, generator=generator, no_network=no_network
            )
            return _Made(found, _source(kept), pictures)

    def after(done: int, total: int) -> None:
        if stop is not None and stop.is_set():
            raise Interrupted(subject.record.step)
        if coloured:
            coloured(done, total)
        update(done, total)

    network = _generator(subject, device)
    with progress(f"{subject.label}: colouring test pairs") as update, warnings_noted() as said:
        generated = generate(network, pairs, device, batch=options.evaluation_batch, progress=after)
    pictures = pictures_of(generated, pairs, dataset, device, has_train=subject.has_train, generator=lambda: network)
    return _Made(generated, "generator", pictures, said)


def _generator(subject: Subject, device: torch.device) -> Colorizer:
    return subject.generator or load(subject.folder.path, str(device))


def _kept(subject: Subject, todo: ToMeasure) -> PairPictures | None:
    """The pictures of an earlier measurement under the protocol; None if there are none, with a warning if they are damaged."""
    if todo.earlier is None:
        return None
    try:
        return PairPictures(subject.folder.path / todo.earlier.folder)
    except FileNotFoundError:
        return None
    except UserError as damaged:
        warn(str(damaged))
        return None


def _as_measured(kept: PairPictures, todo: ToMeasure, *, or_raise: bool) -> Tensor | None:
    """The kept pictures, (N, 3, S, S) uint8; None, with a warning, if they are damaged or not those that were measured.

    Raises:
        UserError: the same, with `or_raise`: there is no network that could colour them again.
    """
    wanted = todo.earlier.generated if todo.earlier else None
    problem = UserError(f"'{kept.path}' does not hold the pictures that were measured")
    try:
        generated = kept.all_of(kept.generated)
        if not kept.lossless or wanted is None or pixels_digest(generated) == wanted:
            return generated
    except UserError as damaged:
        problem = damaged
    if or_raise:
        raise problem
    warn(f"{problem}: they are coloured again")
    return None


def _source(kept: PairPictures) -> Source:
    return "lossless pictures" if kept.lossless else "small pictures"


def _from_pictures_alone(kept: PairPictures, todo: ToMeasure, subject: Subject, device: torch.device) -> _Made:
    """Of a cell whose images are not at hand."""
    away = IMAGES_AWAY.format(subject.record.dataset.name)
    names = _names_of(kept)
    sketches = [sketch for sketch, _ in names or ()]
    pairs = KnownPairs(kept.pairs, todo.protocol, subject.data)
    available: dict[str, Callable[[], Any]] = {
        "wanted": lambda: kept.all_of(kept.original),
        "sketch": lambda: kept.all_of(kept.sketch, channels=1),
        "reference": lambda: kept.all_of(kept.reference),
        "draw": lambda: drawn_by(subject.data.sketch, sketches),
        "shows": lambda: pairs.shows,
        "marks": pairs.marks,
    }
    lacking = lacking_of(todo.protocol.references)
    if names is None:
        lacking.setdefault("draw", "the names of its test images, which set the width of lines, are lost with pairs.csv")
    lacking = dict.fromkeys((what for what in USABLE if what not in available), away) | lacking
    there = {what: make for what, make in available.items() if what not in lacking}
    generated = kept.all_of(kept.generated)
    numbered = [(str(sketch), str(reference)) for sketch, reference in kept.pairs]
    return _Made(generated, _source(kept), Pictures(generated, names or numbered, device, there, lacking))


def _names_of(kept: PairPictures) -> list[tuple[str, str]] | None:
    """(sketch, reference) of each pair, names of images; None where they are not known any more."""
    scores = read_scores(kept.path.parent)
    if scores is None or len(scores) != len(kept):
        return None
    return list(zip(scores["sketch"], scores["reference"], strict=True))


def _written(
    subject: Subject,
    todo: ToMeasure,
    made: _Made,
    numbers: Mapping[str, Number],
    options: RunOptions,
    device: torch.device,
    references: ImageSet | None,
) -> MeasurementRecord:
    """Write pairs.csv and the pictures of a measurement, and return its record."""
    earlier, dataset = todo.earlier, subject.dataset
    inner = earlier.folder if earlier else f"{MEASURED}/{todo.protocol.slug}-{todo.identity[:6]}"
    folder = subject.folder.path / inner
    folder.mkdir(parents=True, exist_ok=True)
    add_scores(folder, _scores(made.pictures.names, numbers))
    kind, generated = (earlier.pictures, earlier.generated) if earlier else ("none", None)
    is_new = made.source in ("generator", "given pictures")
    if is_new and dataset is not None and (options.pictures != "none" or kind == "none"):  # none is no reason to lose some
        kind, generated = options.pictures, pixels_digest(made.generated)
        if kind != "none":
            pairs = PairSet.of(dataset.test, todo.protocol, subject.data, references)
            others = None if todo.protocol.references == "cross" else pairs.reference_images()
            with replacing(folder / PICTURES) as draft:
                write_pair_pictures(
                    draft, pairs.pairs, pairs.sketches(), dataset.test.images, made.generated, others, kind=kind
                )
    weighed = {
        key: _as_record(number, made.source, todo.identity).model_copy(
            update={"measured": now(), "provenance": provenance(device, metric.packages)}
        )
        for metric, (key, number) in zip(todo.metrics, numbers.items(), strict=True)
    }
    said = list(made.said) if made.source == "generator" else earlier.said if earlier else []
    if earlier:
        metrics = {**earlier.metrics, **weighed}
        return earlier.model_copy(update={"metrics": metrics, "pictures": kind, "generated": generated, "said": said})
    assert dataset is not None  # else there would be an earlier measurement
    test = TestRecord(fingerprint=dataset.fingerprints["test"], images=len(dataset.test))
    return MeasurementRecord(
        identity=todo.identity,
        protocol=todo.protocol,
        test=test,
        folder=inner,
        pictures=kind,
        generated=generated,
        said=said,
        metrics=weighed,
    )


def _scores(names: Sequence[tuple[str, str]], numbers: Mapping[str, Number]) -> pd.DataFrame:
    """The pairs with the scores of metrics that score each picture."""
    scores = {key: number.scores for key, number in numbers.items() if number.scores is not None}
    return pd.DataFrame(names, columns=["sketch", "reference"]).assign(**scores)


def _as_record(number: Number, source: Source, measurement: str | None = None) -> MetricRecord:
    descriptor = number.descriptor
    given: dict[str, Any] = {"value": number.value, "metric": descriptor, "source": source}
    for name in ("reason", "missing", "failed", "weights"):
        if value := getattr(number, name):
            given[name] = dict(value) if name == "weights" else value
    if measurement:
        given["identity"] = number_identity(measurement, descriptor.name, descriptor.options, number.weights)
    return MetricRecord(**given, **number.details)
