"""`attnbench measure`: what the trained cells of a store lack, measured from their networks or from the pictures they kept."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
import torch

from attnbench import weights
from attnbench.cells.identity import was_trained_on
from attnbench.cells.record import FINISHED, Record
from attnbench.config.recipe import Evaluation, Recipe, limited, load_recipe
from attnbench.config.yaml_files import validated
from attnbench.console import log, messages_shown, warn
from attnbench.data.images import PreparedDataset
from attnbench.devices import pick_device
from attnbench.errors import DiskFull, Interrupted, UserError
from attnbench.execute.asked import Asked, can_be_measured
from attnbench.execute.cell_images import images_of
from attnbench.execute.measuring import Subject, measure_cell
from attnbench.execute.signals import stop_signals
from attnbench.files import disk_full_raised
from attnbench.metrics.measure import check_uses
from attnbench.store.folder import CellFolder
from attnbench.store.frame import results
from attnbench.store.generators import recorded_data
from attnbench.store.job import RunOptions, run_options
from attnbench.store.reading import Stored, records

_OF_PROTOCOLS = ("references", "pairing", "pair_seed", "limit", "format")  # keys of `evaluation`


@dataclass(frozen=True)
class MeasureRequest:
    """What one command asks for.

    Attributes:
        store: the results folder.
        metrics: as on the command line; by default those of the recipe.
        recipe, overrides: whose `evaluation` it is; only keys of it may be changed.
        options: how it is measured; their `evaluation` is the recipe's.
        data_root: searched for images before the data root of a cell's run.
        device: by default the first GPU, or the CPU.
    """

    store: Path
    metrics: Sequence[str] = ()
    recipe: str | Path = "official"
    overrides: Sequence[str] = ()
    options: RunOptions = field(default_factory=RunOptions)
    data_root: Path | None = None
    torch_home: Path | None = None
    device: str | None = None


@dataclass
class MeasureOutcome:
    """Labels of cells: measured now, already measured; and why others are left out."""

    measured: list[str] = field(default_factory=list)
    there: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"measured {len(self.measured)}, already measured {len(self.there)}, left out {len(self.left_out)}"


def measure(
    store: str | Path = "results",
    metrics: Sequence[str] | str = (),
    *,
    overrides: Sequence[str] | str = (),
    recipe: str | Path = "official",
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
        metrics: such as `["my_metric", "other:size=5"]`; by default those of the recipe.
        overrides: keys of `evaluation`, such as `["evaluation.references=same"]`. Without any, and without a recipe of its own,
            cells are measured under the protocols that they have.
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
        overrides=[*([overrides] if isinstance(overrides, str) else overrides), *limited(limit)],
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
    evaluation = _evaluation(request)
    options = request.options.model_copy(update={"evaluation": evaluation})
    device = pick_device(request.device)
    trained = [one for one in records(request.store) if one.record.status == FINISHED]
    if not trained:
        raise UserError(f"no cell in '{request.store}' is trained yet: `attnbench run -o {request.store} ...` trains them")
    outcome, subjects = MeasureOutcome(), []
    for stored in trained:
        try:
            subjects.append(_subject(stored, request))
        except UserError as error:
            _leave_out(outcome, stored.record, str(error))
    _check_metrics(options, [one.dataset for one in subjects if one.dataset])
    _measure_all(subjects, _keeps_protocols(request), options, device, outcome)
    return outcome


def _evaluation(request: MeasureRequest) -> Evaluation:
    for override in request.overrides:
        if not override.strip().startswith("evaluation."):
            raise UserError(f"--set {override}: a measurement trains nothing, so only keys of `evaluation` can be set")
    evaluation = load_recipe(request.recipe, request.overrides).evaluation
    if not request.metrics:
        return evaluation
    return validated(Evaluation, evaluation.model_dump() | {"metrics": tuple(request.metrics)}, "--metrics")


def _keeps_protocols(request: MeasureRequest) -> bool:
    """Whether cells are measured under the protocols that they have: none was asked for."""
    keys = (override.strip().removeprefix("evaluation.").partition("=")[0] for override in request.overrides)
    named = any(key.strip() in _OF_PROTOCOLS for key in keys)
    return not named and request.recipe == "official" and request.options.references is None


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


def _check_metrics(options: RunOptions, datasets: Sequence[PreparedDataset]) -> None:
    """Refuse metrics, references and settings that cannot be used, before any work starts."""
    asked = Asked.of_test(options, Recipe().data, None)
    for metric in asked.metrics if datasets else ():
        check_uses(metric, datasets)


def _asked(subject: Subject, options: RunOptions, keeps_protocols: bool) -> Asked:
    test = subject.dataset.fingerprints["test"] if subject.dataset else None
    asked = Asked.of_test(options, subject.data, test)
    known = {str(one.protocol.values): one.protocol for one in subject.record.measurements}
    own = [protocol for protocol in known.values() if protocol.references != "folder"]
    return replace(asked, protocols=own) if keeps_protocols and own else asked


def _measure_all(
    subjects: Iterable[Subject], keeps_protocols: bool, options: RunOptions, device: torch.device, outcome: MeasureOutcome
) -> None:
    waiting: list[Subject] = []
    with stop_signals() as stop:
        for wait, queue in ((False, list(subjects)), (True, waiting)):
            for subject in queue:
                asked = _asked(subject, options, keeps_protocols)
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
                        waiting.append(subject)
                        continue
                    _measure_one(subject, asked, options, device, outcome, stop)
                if stop.is_set():
                    raise KeyboardInterrupt


def _count_there(subject: Subject, asked: Asked, outcome: MeasureOutcome) -> None:
    """Nothing is open: it is measured, or its images are not at hand and it has no measurement that could be added to."""
    if asked.test is None and not subject.record.measurements:
        _leave_out(outcome, subject.record, "its images are not at hand: pass --data-root")
    elif asked.test is None and not any(
        one.protocol.values == protocol.values for one in subject.record.measurements for protocol in asked.protocols
    ):
        _leave_out(outcome, subject.record, "its images are not at hand, and it kept no pictures of this protocol")
    else:
        outcome.there.append(subject.label)


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
        _leave_out(outcome, subject.record, "it was replaced meanwhile")
        return
    subject = replace(subject, record=record)
    todo = asked.open(record)
    if not todo:
        outcome.there.append(subject.label)
        return
    if (why := can_be_measured(subject.folder.path, record, todo)) is not None:
        _leave_out(outcome, record, why)
        return
    log.info(f"{subject.label}: measures {'; '.join(map(str, todo))}")
    try:
        with disk_full_raised(subject.folder.path.parent):
            measure_cell(subject, asked, options, device, stop=stop)
        outcome.measured.append(subject.label)
    except Interrupted:
        raise KeyboardInterrupt from None
    except DiskFull:
        raise
    except UserError as error:
        _leave_out(outcome, record, str(error).removeprefix(f"{subject.label}: "))
    except Exception as error:  # of a module or a file: it affects only its cell
        _leave_out(outcome, record, " ".join(f"{type(error).__name__}: {error}".split()))


def _leave_out(outcome: MeasureOutcome, record: Record, why: str) -> None:
    outcome.left_out[record.label] = why
    warn(f"{record.label}: keeps the measurements that it has: {why}")
