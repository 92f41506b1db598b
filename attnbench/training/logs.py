"""Logs of training, written line by line: losses every step, gradients and evaluations every epoch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attnbench.errors import Diverged, UserError, unknown
from attnbench.files import write_text
from attnbench.metrics.metric import Metric
from attnbench.training.gradient_cosines import GradientCosines, as_json
from attnbench.training.loop import Progressed

LOGGERS = ("tensorboard",)  # what `--log-to` takes


def check_logger(name: str | None) -> None:
    """Check that losses can be logged there too; None is nowhere.

    Raises:
        UserError: there is no such logger, or its package is not installed.
    """
    if name is None:
        return
    if name not in LOGGERS:
        raise unknown("logger", name, LOGGERS, where="--log-to")
    _tensorboard()


class LossLog:
    """losses.jsonl, one line per step. Losses are read from the device at each flush only.

    Args:
        keep_until: the step from which training goes on; what an earlier start has logged of later steps is dropped.
        log_to: one of LOGGERS, which gets losses and pictures too, in a folder of its name; by default none.

    Raises:
        UserError: as `check_logger`.
    """

    FLUSH = 10  # steps between reads from a GPU

    def __init__(self, path: Path, *, keep_until: int, log_to: str | None = None):
        check_logger(log_to)
        self.path = path
        self.last: dict[str, float] = {name: value for name, value in truncate(path, keep_until).items() if name != "step"}
        self._waiting: list[tuple[int, dict[str, Tensor]]] = []
        self._file = path.open("a")
        # TensorBoard drops the step that it is told to purge and those after it.
        self._board = _tensorboard()(str(path.parent / log_to), purge_step=keep_until + 1) if log_to else None

    def add(self, step: int, losses: dict[str, Tensor]) -> None:
        self._waiting.append((step, losses))

    def flush(self) -> None:
        """Write the waiting losses.

        Raises:
            Diverged: one of the losses is not finite; the steps before it are written.
        """
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        table = torch.stack([torch.stack([loss.float() for loss in losses.values()]) for _, losses in waiting]).tolist()
        for (step, losses), values in zip(waiting, table, strict=True):
            row = dict(zip(losses, values, strict=True))
            for name, value in row.items():
                if not math.isfinite(value):
                    self._file.flush()
                    raise Diverged(step, f"the {name} loss")
                if self._board:
                    self._board.add_scalar(f"loss/{name}", value, step)
            self._file.write(json.dumps({"step": step, **row}) + "\n")
            self.last = row
        self._file.flush()

    def picture(self, step: int, grid: Any) -> None:
        if self._board:
            import numpy as np

            self._board.add_image("samples", np.asarray(grid), step, dataformats="HWC")

    def shown(self) -> dict[str, float]:
        short = {"generator": "G", "discriminator": "D", "reconstruction": "rec"}
        return {short[name]: value for name, value in self.last.items() if name in short}

    def close(self) -> None:
        self._file.close()
        if self._board:
            self._board.close()


class GradientLog:
    """gradients.jsonl: one line per epoch, and one at the last step, with the counts of the steps since the previous line.

    {"epoch": 1, "step": 250, "steps": 250, "splits": [{"input": "sketch", "branches": [...]}, ...]}, see `Counts.as_json`.
    `steps` is the number of steps counted: fewer than in an epoch if the run was resumed, or recording began, within it.
    """

    def __init__(self, path: Path, module: nn.Module, channels: int):
        self.path, self.cosines, self.steps = path, GradientCosines(module, channels), 0

    def after_step(self, now: Progressed) -> None:
        self.steps += 1
        if not (now.epoch_ends or now.last):
            return
        row = {"epoch": now.epoch + 1, "step": now.step, "steps": self.steps, "splits": as_json(self.cosines.take())}
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        self.steps = 0

    def close(self) -> None:
        self.cosines.close()


class History:
    """evaluations.jsonl: metrics after each epoch, if the recipe asks for them."""

    def __init__(self, path: Path, *, keep_until: int):
        self.path = path
        self.step: int = truncate(path, keep_until).get("step", 0)

    def add(self, step: int, epoch: int, metrics: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, "epoch": epoch, "metrics": metrics}) + "\n")

    def best(self, metrics: Sequence[Metric]) -> tuple[str, dict[str, Any]] | None:
        """The best epoch by the first of the metrics that any epoch has: the metric's key, and the epoch's line."""
        if not self.path.is_file():
            return None
        rows = [json.loads(line) for line in self.path.read_text().splitlines()]
        for metric in metrics:
            values = {k: value for k, row in enumerate(rows) if (value := _value(row, metric.key)) is not None}
            if values:
                return metric.key, rows[metric.descriptor.best_of(values)]
        return None


def _value(row: Mapping[str, Any], key: str) -> float | None:
    value: float | None = row["metrics"].get(key, {}).get("value")
    return value


def truncate(path: Path, keep_until: int) -> dict[str, Any]:
    """Drop the lines after a step, which will be written again, and an incomplete last line; return the last one kept."""
    kept: list[str] = []
    last: dict[str, Any] = {}
    if not path.is_file():
        return last
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            break
        if row["step"] > keep_until:
            break
        kept.append(line + "\n")
        last = row
    write_text(path, "".join(kept))
    return last


def _tensorboard() -> Any:
    """The class of its writers; raises UserError if it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        remedy = 'pip install "attnbench[tensorboard]", or pass --log-to none'
        raise UserError(f"--log-to tensorboard needs TensorBoard: {remedy}") from None
    return SummaryWriter
