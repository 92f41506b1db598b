"""Running one cell: training with its log, checkpoints and pictures, then measuring what is asked for."""

from __future__ import annotations

import math
import threading
import time
from functools import cached_property
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from attnbench.cells.cell import Cell
from attnbench.cells.provenance import now, provenance
from attnbench.cells.record import FINISHED, RUNNING, BestEpoch, Failure, Provenance, Status
from attnbench.console import log, progress, warn
from attnbench.data.images import resident
from attnbench.errors import Interrupted
from attnbench.execute.asked import Asked
from attnbench.execute.measuring import Subject, measure_cell, measured_in_training
from attnbench.files import replacing, write_text
from attnbench.method.backbone import Colorizer, feature_channels
from attnbench.metrics.generate import PairSet, generate, to_bytes
from attnbench.metrics.ground_truth import answers_of
from attnbench.metrics.protocol import measurement_identity
from attnbench.store.folder import CellFolder
from attnbench.store.job import RunOptions
from attnbench.store.pictures import sample_grid
from attnbench.store.progress import Phase, Progress, ProgressFile
from attnbench.training.costs import count_costs, peak_memory, reset_peak_memory
from attnbench.training.gradient_cosines import GRADIENTS
from attnbench.training.logs import GradientLog, History, LossLog, truncate
from attnbench.training.loop import Progressed, steps_per_epoch, total_steps, train
from attnbench.training.state import Training, build, check_weights_are_finite, uses_cuda_graph

SAMPLE_PAIRS, SAMPLE_GRIDS = 8, 10  # rows of a grid; grids over a run
SPEED_WINDOW = 20  # steps over which images per second are measured


class CellRun:
    """One cell being run: the callbacks that training calls, and the files they keep."""

    def __init__(
        self,
        cell: Cell,
        folder: CellFolder,
        asked: Asked,
        options: RunOptions,
        device: torch.device,
        stop: threading.Event,
    ):
        self.cell, self.folder, self.asked, self.options = cell, folder, asked, options
        self.device, self.stop = device, stop
        self.record = cell.new_record()
        self.generator: Colorizer | None = None  # once it is trained
        self.recipe, self.dataset = cell.recipe, cell.dataset
        self.saved_at = time.monotonic()
        self.total = total_steps(self.dataset.train, self.recipe)
        self.progress = ProgressFile(folder.path)

    @property
    def trained(self) -> bool:
        return self.record.status == FINISHED

    def train(self) -> None:
        """Train, or resume training, and record what was trained."""
        cell, recipe, device = self.cell, self.recipe, self.device
        reset_peak_memory(device)
        self._update(status=RUNNING, provenance=self._provenance(), started=now())
        if recipe.train.cuda_graph and not uses_cuda_graph(recipe, device):
            log.info(f"{cell.label}: train.cuda_graph has no effect on {device}")
        if recipe.train.compile:
            torch.compiler.reset()  # after a few networks in one process, as inline, the compiler would run others uncompiled
        training = build(cell.variant.factory, recipe, cell.seed, device)
        if state := self.folder.read_checkpoint():
            training.load_state_dict(state)
        write_text(self.folder.path / "recipe.yaml", recipe.to_yaml())
        self._update(step=training.step)
        self.folder.write_record(self.record)
        self._show("starting", training.step, always=True)

        history = History(self.folder.path / "evaluations.jsonl", keep_until=training.step)
        self.log = LossLog(self.folder.path / "losses.jsonl", keep_until=training.step, log_to=self.options.log_to)
        gradients = self._gradient_log(training)
        try:
            per_epoch = steps_per_epoch(self.dataset.train, recipe)
            if self._measures_epochs and training.step % per_epoch == 0 and history.step < training.step:
                # The cell was stopped while this epoch was being measured.
                history.add(training.step, training.step // per_epoch, self._numbers(training.generator))
            with progress(cell.label, start=training.step) as update:
                speed = _Speed(training)

                def after_step(now: Progressed) -> None:
                    if gradients:  # before a checkpoint records the step as done
                        gradients.after_step(now)
                    self._after_step(training, now, history)
                    images_per_second = speed(recipe.train.batch_size)
                    left = (self.total - now.step) * recipe.train.batch_size / images_per_second
                    losses = self.log.shown()
                    self._show("training", now.step, losses=losses, images_per_second=images_per_second, seconds_left=left)
                    update(now.step, self.total, **losses, **{"images/s": images_per_second})

                train(
                    training,
                    resident(self.dataset.train, device),
                    recipe,
                    seed=cell.seed,
                    device=device,
                    log=self._log,
                    after_step=after_step,
                    should_stop=self.stop.is_set,
                    listener=gradients.cosines if gradients else None,
                )
        except Interrupted:
            if self.record.step != training.step:  # else it is saved, and saving again would drop the previous checkpoint
                self._save(training)
            raise
        finally:
            self.log.close()
            if gradients:
                gradients.close()
        self._finish(training, history)

    @property
    def _measures_epochs(self) -> bool:
        return self.recipe.evaluation.when == "each_epoch"

    def measure(self) -> None:
        """Measure what is asked for and not measured yet."""
        self.record = self.folder.record() or self.record
        subject = Subject(self.folder, self.record, self.recipe.data, self.dataset, generator=self.generator)
        self.record = measure_cell(subject, self.asked, self.options, self.device, stop=self.stop, coloured=self._show_coloured)

    def close(self, status: Status, message: str, trace: str | None = None) -> None:
        """Record that the cell ended without finishing."""
        self._update(status=status, failure=Failure(message=message, traceback=trace), ended=now())
        self.folder.write_record(self.record)

    def _provenance(self) -> Provenance:
        """Of what trains here now; a cell that shared its device in an earlier start is still one that did."""
        made, earlier = provenance(self.device), self.folder.record()
        shared = [one.cells_on_device for one in (made, earlier.provenance if earlier else made) if one.cells_on_device]
        return made.model_copy(update={"cells_on_device": max(shared)}) if shared else made

    def _update(self, **changes: Any) -> None:
        self.record = self.record.model_copy(update=changes)

    def _gradient_log(self, training: Training) -> GradientLog | None:
        """None if gradients are not recorded. Lines of an earlier start, of steps that are now repeated, are dropped."""
        path = self.folder.path / GRADIENTS
        truncate(path, training.step)
        shape = self.recipe.backbone
        channels = feature_channels(shape.width, shape.levels)
        return GradientLog(path, training.generator.module, channels) if self.options.record_gradients else None

    def _show(self, phase: Phase, step: int, *, always: bool = False, **more: Any) -> None:
        self.progress.write(Progress(phase, step, self.total, str(self.device), **more), always=always)

    def _log(self, step: int, losses: dict[str, Tensor]) -> None:
        self.log.add(step, losses)
        if self.device.type == "cpu" or step % LossLog.FLUSH == 0:
            self.log.flush()

    def _after_step(self, training: Training, now: Progressed, history: History) -> None:
        draws = now.step % math.ceil(self.total / SAMPLE_GRIDS) == 0 or now.last
        measures = now.epoch_ends and self._measures_epochs
        saves = now.last or time.monotonic() - self.saved_at > 60 * self.options.checkpoint_minutes
        if not (draws or measures or saves):
            return
        with training.stopwatch.paused():
            if draws:
                self._draw_samples(training.generator, now.step)
            if measures:
                history.add(now.step, now.epoch + 1, self._numbers(training.generator))
            if saves:
                self._save(training)

    def _save(self, training: Training) -> None:
        self.log.flush()
        check_weights_are_finite(training)
        self.folder.write_checkpoint(training.state_dict())
        self._update(step=training.step)
        self.folder.write_record(self.record)
        self.saved_at = time.monotonic()

    def _finish(self, training: Training, history: History) -> None:
        generator, batch = training.generator, self.recipe.train.batch_size
        weights_of = {name: value.detach().cpu().contiguous() for name, value in generator.state_dict().items()}
        with replacing(self.folder.path / "generator.safetensors") as draft:
            draft.write_bytes(save(weights_of, metadata={"format": "pt"}))
        costs = {
            **self._count_costs(),
            "train_seconds": training.stopwatch.seconds,
            "images_per_second": training.step * batch / training.stopwatch.seconds,
            "peak_memory_bytes": peak_memory(self.device),
        }
        best = history.best(self.asked.metrics)
        self._update(
            status=FINISHED,
            step=training.step,
            losses=self.log.last,
            best=self._best_epoch(*best) if best else None,
            costs=costs,
            ended=now(),
        )
        self.folder.drop_previous_checkpoint()
        self.folder.write_record(self.record)
        self.generator = generator

    def _best_epoch(self, by: str, row: dict[str, Any]) -> BestEpoch:
        identity = measurement_identity(self.record.identity, self.dataset.fingerprints["test"], self.asked.protocols[0])
        return BestEpoch.model_validate({**row, "by": by, "measurement": identity})

    def _count_costs(self) -> dict[str, float]:
        try:
            return count_costs(self.cell.variant.factory, self.recipe)
        except Exception as error:  # a forward that looks at values cannot be counted; the cell's numbers stand without it
            warn(f"{self.cell.label}: operations could not be counted: {type(error).__name__}: {error}")
            return {}

    def _numbers(self, generator: Colorizer) -> dict[str, Any]:
        """The numbers of a network in training, as plain values."""
        with progress(f"{self.cell.label}: colouring test pairs") as update:

            def coloured(done: int, total: int) -> None:
                if self.stop.is_set():
                    raise Interrupted(self.record.step)
                self._show_coloured(done, total)
                update(done, total)

            numbers = measured_in_training(
                generator,
                self.dataset,
                self.recipe.data,
                self.asked,
                self.device,
                self.options.evaluation_batch,
                coloured,
            )
        return {key: number.model_dump(mode="json", exclude_unset=True) for key, number in numbers.items()}

    def _show_coloured(self, done: int, total: int) -> None:
        self._show("measuring", self.record.step, done=done, of=total, always=done == total)

    @property
    def _sample_pairs(self) -> PairSet:
        asked = self.asked
        return PairSet.of(self.dataset.test, asked.protocols[0], self.recipe.data, asked.references).first(SAMPLE_PAIRS)

    def _draw_samples(self, generator: Colorizer, step: int) -> None:
        pairs = self._sample_pairs
        generated = generate(generator, pairs, self.device, batch=self.options.evaluation_batch)
        batch = pairs.batch(0, SAMPLE_PAIRS, torch.device("cpu"))
        given = to_bytes(batch.sketch), to_bytes(batch.reference)
        grid = sample_grid([*given, generated, to_bytes(batch.target), *self._sample_answers])
        folder = self.folder.path / "samples"
        folder.mkdir(exist_ok=True)
        for path in (folder / f"step{step:07d}.png", self.folder.path / "samples.png"):
            with replacing(path) as draft:
                grid.save(draft, "PNG")
        self.log.picture(step, grid)

    @cached_property
    def _sample_answers(self) -> list[Tensor]:
        """The right answers of the sampled pairs, (N, 3, S, S), where the dataset knows them."""
        pairs = self._sample_pairs
        if self.dataset.answer is None or pairs.references is not None:
            return []
        try:
            return [answers_of(pairs, self.dataset, self.recipe.data.size)]
        except Exception as error:  # a third party's may raise anything; training goes on without these pictures
            warn(f"{self.cell.label}: right answers could not be made: {type(error).__name__}: {error}")
            return []


class _Speed:
    """Images per second over the latest steps."""

    def __init__(self, training: Training):
        self.training = training
        self.marks = [(training.step, training.stopwatch.seconds)]

    def __call__(self, batch_size: int) -> float:
        self.marks = [*self.marks[-SPEED_WINDOW:], (self.training.step, self.training.stopwatch.seconds)]
        (step, seconds), (latest_step, latest_seconds) = self.marks[0], self.marks[-1]
        return (latest_step - step) * batch_size / max(latest_seconds - seconds, 1e-9)
