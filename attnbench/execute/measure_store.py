"""`attnbench measure`: what the trained cells of a store lack, measured from their networks or from the pictures they kept."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
import torch

from attnbench import weights
from attnbench.cells.identity import was_trained_on
from attnbench.cells.record import FINISHED, Record
from attnbench.config.recipe import Evaluation, Recipe, changed_evaluation, is_set, limited, load_recipe
from attnbench.console import log, messages_shown, warn
from attnbench.devices import pick_device
from attnbench.errors import DiskFull, Interrupted, UserError
from attnbench.execute.asked import Asked, ToMeasure, can_be_measured
from attnbench.execute.cell_images import images_of
from attnbench.execute.measuring import Subject, measure_cell
from attnbench.execute.signals import stop_signals
from attnbench.files import disk_full_raised
from attnbench.metrics.measure import check_uses
from attnbench.store.folder import CellFolder, check_store
from attnbench.store.frame import results
from attnbench.store.generators import recorded_data
from attnbench.store.job import RunOptions, read_job, run_options
from attnbench.store.reading import Stored, records

Planned = tuple[Subject, tuple[Asked, RunOptions]]  # a cell, and what is asked of it
_OF_PROTOCOLS = ("references", "pairing", "pair_seed", "limit", "format")  # keys of `evaluation`


@dataclass(frozen=True)
class MeasureRequest:
    """What one command asks for.

    Attributes:
        store: the results folder.
        metrics: as on the command line; by default those of the evaluation.
        recipe: whose `evaluation` it is; by default, that of the run that planned a cell, or of `official`.
        overrides: changes of it; only keys of `evaluation` may be changed.
        options: how it is measured; their `evaluation` is not used.
        data_root: searched for images before the data root of a cell's run.
        device: by default the first GPU, or the CPU.
    """

    store: Path
    metrics: Sequence[str] = ()
    recipe: str | Path | None = None
    overrides: Sequence[str] = ()
    options: RunOptions = field(default_factory=RunOptions)
    data_root: Path | None = None
    torch_home: Path | None = None
    device: str | None = None


@dataclass
class MeasureOutcome:
    """The outcome of a measurement.

    Attributes:
        measured, there: folders of the cells that were measured now, and of those that were already.
        left_out: folder -> why it could not be measured.
        empty: of the cells that were measured now, the numbers that have no value although they were asked for: because the
            metric failed, or its weights are missing.
    """

    measured: list[str] = field(default_factory=list)
    there: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    empty: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return not self.left_out and not self.empty

    def __str__(self) -> str:
        counts = f"measured {len(self.measured)}, already measured {len(self.there)}, left out {len(self.left_out)}"
        return f"{counts}; numbers without a value: {len(self.empty)}" if self.empty else counts


def measure(
    store: str | Path = "results",
    metrics: Sequence[str] | str = (),
    *,
    overrides: Sequence[str] | str = (),
    recipe: str | Path | None = None,
    limit: int | None = None,
    references: str | Path | None = None,
    again: bool = False,
    pictures: str = "lossless",
    evaluation_batch: int = 16,
    data_root: str | Path | None = None,
    torch_home: str | Path | None = None,
    device: str | None = None,
) -> pd.DataFrame:
    """Measure trained cells by metrics or protocols that they lack; nothing is trained. As `attnbench measure`.

    Args:
        store: the results folder.
        metrics: such as `["my_metric", "other:size=5"]`; by default those that a cell's run asked for.
        overrides: keys of `evaluation`, such as `["evaluation.references=same"]`. Without one of a protocol, and without a
            recipe, cells are measured under the protocols that they have.
        recipe: whose `evaluation` is asked for, instead of that of a cell's run.
        limit, references, pictures, evaluation_batch: as for `attnbench.run`.
        again: also what is measured already.
        data_root: searched for images before the data root of a cell's run.
        torch_home: the folder with pretrained weights; by default `$TORCH_HOME`.
        device: by default the first GPU, or the CPU.

    Returns:
        The store as a frame, see `attnbench.results`. `frame.attrs["left_out"]` says why cells could not be measured.

    Raises:
        UserError: bad input, before any work starts.
    """
    request = MeasureRequest(
        store=Path(store),
        metrics=[metrics] if isinstance(metrics, str) else metrics,
        recipe=recipe,
        overrides=limited([overrides] if isinstance(overrides, str) else overrides, limit, references),
        options=run_options(references=references, again=again, pictures=pictures, evaluation_batch=evaluation_batch),
        data_root=Path(data_root) if data_root is not None else None,
        torch_home=Path(torch_home) if torch_home is not None else None,
        device=device,
    )
    with messages_shown(unless_handled=True):
        outcome = measure_store(request)
        frame = results(store)
    frame.attrs["left_out"] = outcome.left_out
    return frame


def measure_store(request: MeasureRequest) -> MeasureOutcome:
    """Measure what is asked for of every trained cell that lacks it. A cell that another process holds comes last.

    Raises:
        UserError: bad input, before any work starts.
        KeyboardInterrupt: SIGINT or SIGTERM; what was measured before is kept.
        DiskFull: likewise.
    """
    weights.use_torch_home(request.torch_home)
    base = _base(request)
    device = pick_device(request.device)
    trained = [one for one in records(request.store) if one.record.status == FINISHED]
    if not trained:
        raise UserError(f"no cell in '{request.store}' is trained yet: `attnbench run -o {request.store} ...` trains them")
    check_store(request.store)
    outcome, subjects = MeasureOutcome(), []
    for stored in trained:
        try:
            subjects.append(_subject(stored, request))
        except UserError as error:
            _leave_out(outcome, CellFolder(request.store / stored.folder), stored.record, str(error))
    plans = [(subject, _planned(subject, request, base)) for subject in subjects]
    if request.metrics or is_set(request.overrides, "evaluation.metrics"):
        _check_metrics(plans)
    _measure_all(plans, device, outcome)
    return outcome


def _base(request: MeasureRequest) -> Evaluation:
    """The evaluation of the recipe, checked with all that was asked for, before any cell is looked at."""
    for override in request.overrides:
        if not override.strip().startswith("evaluation."):
            raise UserError(f"--set {override}: a measurement trains nothing, so only keys of `evaluation` can be set")
    base = load_recipe(request.recipe or "official").evaluation
    changed = changed_evaluation(base, request.overrides, request.metrics)
    Asked.of_options(request.options.model_copy(update={"evaluation": changed}), Recipe().data)
    return base


def _planned(subject: Subject, request: MeasureRequest, base: Evaluation) -> tuple[Asked, RunOptions]:
    """What is asked of a cell: without a recipe what its run asked for, under the protocols that it has if none is named."""
    own_evaluation = _evaluation_of_run(subject.folder.path) if request.recipe is None else None
    evaluation = changed_evaluation(own_evaluation or base, request.overrides, request.metrics)
    options = request.options.model_copy(update={"evaluation": evaluation})
    asked = Asked.of_options(options, subject.data)
    known = {str(one.protocol.values): one.protocol for one in subject.record.measurements}
    own = [protocol for protocol in known.values() if protocol.references != "folder"]
    if own and not _names_protocol(request):
        asked = replace(asked, protocols=own)
    return (asked.on(subject.dataset) if subject.dataset else asked), options


def _evaluation_of_run(cell: Path) -> Evaluation | None:
    """What the run that planned a cell asked for; None if that is not known."""
    try:
        job = read_job(cell)
    except UserError:  # damaged: the next run writes it anew
        return None
    return job.options.evaluation if job else None


def _names_protocol(request: MeasureRequest) -> bool:
    keys = (override.strip().removeprefix("evaluation.").partition("=")[0].strip() for override in request.overrides)
    return request.recipe is not None or request.options.references is not None or any(key in _OF_PROTOCOLS for key in keys)


def _subject(stored: Stored, request: MeasureRequest) -> Subject:
    """Raises UserError: the cell cannot be measured at all."""
    path, record = request.store / stored.folder, stored.record
    if record.identity_version == 1:
        raise UserError(f"it is of an older attnbench: `attnbench migrate {request.store}` takes it over first")
    data = recorded_data(path, record)
    try:
        dataset = images_of(path, record, data, request.data_root)
    except UserError as missing:
        log.info(f"{record.label}: measured from its own pictures alone: {missing}")
        return Subject(CellFolder(path), record, data, None)
    has_train = bool(record.pictures) or was_trained_on(record, dataset)
    known = {one.test.fingerprint for one in record.measurements}
    if dataset.fingerprints["test"] in known or not known:
        return Subject(CellFolder(path), record, data, dataset, has_train)
    if has_train:
        warn(f"{record.label}: its test images have changed since it was measured: its new numbers stand apart from the old")
        return Subject(CellFolder(path), record, data, dataset)
    log.info(
        f"{record.label}: measured from its own pictures alone: the images of '{dataset.name}' in {dataset.source} are others "
        "than those that it was trained and measured on (--data-root)"
    )
    return Subject(CellFolder(path), record, data, None)


def _check_metrics(plans: Sequence[Planned]) -> None:
    """Refuse metrics that can measure none of the datasets, before any work starts."""
    datasets = [subject.dataset for subject, _ in plans if subject.dataset]
    protocols = [protocol for _, (asked, _) in plans for protocol in asked.protocols]
    for _, (asked, _) in plans if datasets else ():
        for metric in asked.metrics:
            check_uses(metric, datasets, protocols)


def _measure_all(plans: Sequence[Planned], device: torch.device, outcome: MeasureOutcome) -> None:
    waiting: list[Planned] = []
    with stop_signals() as stop:
        for wait, queue in ((False, plans), (True, waiting)):
            for subject, (asked, options) in queue:
                if not asked.open(subject.record):
                    _count_there(subject, asked, outcome)
                    continue
                if wait:
                    log.info(f"{subject.label}: waiting for the process that holds it")
                with subject.folder.locked(wait=wait, stop=stop.is_set) as ours:
                    if not ours and wait:
                        raise KeyboardInterrupt
                    if not ours:
                        log.info(f"{subject.label}: another process holds it; continuing with the rest")
                        waiting.append((subject, (asked, options)))
                        continue
                    _measure_one(subject, asked, options, device, outcome, stop)
                if stop.is_set():
                    raise KeyboardInterrupt


def _count_there(subject: Subject, asked: Asked, outcome: MeasureOutcome) -> None:
    """Nothing is open: it is measured, or its images are not at hand and it has no measurement that could be added to."""
    if asked.test is None and not subject.record.measurements:
        _leave_out(outcome, subject.folder, subject.record, "its images are not at hand: pass --data-root")
    elif asked.test is None and not any(
        one.protocol.values == protocol.values for one in subject.record.measurements for protocol in asked.protocols
    ):
        _leave_out(
            outcome, subject.folder, subject.record, "its images are not at hand, and it kept no pictures of this protocol"
        )
    else:
        outcome.there.append(subject.folder.path.name)


def _measure_one(
    subject: Subject,
    asked: Asked,
    options: RunOptions,
    device: torch.device,
    outcome: MeasureOutcome,
    stop: threading.Event,
) -> None:
    record = subject.folder.record()  # another process may have measured it meanwhile
    if record is None or record.identity != subject.record.identity:
        _leave_out(outcome, subject.folder, subject.record, "it was replaced meanwhile")
        return
    subject = replace(subject, record=record)
    todo = asked.open(record)
    if not todo:
        outcome.there.append(subject.folder.path.name)
        return
    if (why := can_be_measured(subject.folder.path, record, todo)) is not None:
        _leave_out(outcome, subject.folder, record, why)
        return
    log.info(f"{subject.label}: measures {'; '.join(map(str, todo))}")
    try:
        with disk_full_raised(subject.folder.path.parent):
            measured = measure_cell(subject, asked, options, device, stop=stop)
        outcome.measured.append(subject.folder.path.name)
        outcome.empty += _empty(measured, todo)
    except Interrupted:
        raise KeyboardInterrupt from None
    except DiskFull:
        raise
    except UserError as error:
        _leave_out(outcome, subject.folder, record, str(error).removeprefix(f"{subject.label}: "))
    except Exception as error:  # of a module or a file: it affects only its cell
        _leave_out(outcome, subject.folder, record, " ".join(f"{type(error).__name__}: {error}".split()))


def _empty(record: Record, todo: Sequence[ToMeasure]) -> list[str]:
    """The numbers that have no value because the metric failed or its weights are missing, each with the reason."""
    found = []
    for one in todo:
        measurement = record.measurement(one.identity)
        for metric in one.metrics if measurement else ():
            number = measurement.metrics[metric.key] if measurement else None
            if number and (number.failed or number.missing):
                found.append(f"{record.label}: {metric.key}: {number.reason}")
                if number.missing:  # a failure has been told
                    warn(found[-1])
    return found


def _leave_out(outcome: MeasureOutcome, folder: CellFolder, record: Record, why: str) -> None:
    outcome.left_out[folder.path.name] = why
    warn(f"{record.label}: keeps the measurements that it has: {why}")
