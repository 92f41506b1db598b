"""A cell's logs as curves for the page: losses thinned out and averaged, metrics over epochs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from pydantic_core import from_json

from attnbench.cells.format_1 import metrics_from_format_1
from attnbench.console import warn
from attnbench.metrics.descriptor import Descriptor

CURVE_POINTS = 240  # of a curve
SAMPLED = 12  # most steps averaged in a point: a full training has 40,000 lines per cell, and a page may read 200 cells


@dataclass(frozen=True)
class LossCurves:
    """The losses of one cell: point k is at `steps[k]` and `losses[name][k]`, both means over a stretch of steps.

    A mean is None where a loss in its stretch was infinite or not a number.

    Attributes:
        damage: what is wrong with the file, if the curves end early because of it.
    """

    steps: list[float | None]
    losses: dict[str, list[float | None]]
    damage: str | None = None


@dataclass(frozen=True)
class EpochMetric:
    """A metric after an epoch.

    Attributes:
        metric: its key.
    """

    metric: str
    described: Descriptor
    epoch: int
    value: float


def loss_curves(folder: Path) -> LossCurves | None:
    """A cell's losses.jsonl as curves of at most CURVE_POINTS points, or None if it has no line. Warns of damage."""
    file = folder / "losses.jsonl"
    try:
        found = _thinned(file, *_version(file))
    except FileNotFoundError:
        return None
    except OSError as error:
        warn(f"{file} is left out: {error.strerror}")
        return None
    if found.damage:
        warn(f"{file} is damaged ({found.damage}): its curves end there")
    return found if found.steps else None


def epoch_metrics(folder: Path) -> list[EpochMetric]:
    """A cell's evaluations.jsonl; empty if it was measured only at the end. Warns of damage."""
    file = folder / "evaluations.jsonl"
    try:
        lines = _whole_lines(file.read_bytes())
    except FileNotFoundError:
        return []
    except OSError as error:
        warn(f"{file} is left out: {error.strerror}")
        return []
    found: list[EpochMetric] = []
    for number, line in enumerate(lines, 1):
        try:
            row = from_json(line)
            found += _metrics_of(int(row["epoch"]), row["metrics"])
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            warn(f"{file} is damaged (line {number}: {error!r}): its curves end there")
            break
    return found


def _metrics_of(epoch: int, metrics: Mapping[str, Mapping[str, Any]]) -> Iterator[EpochMetric]:
    """Lines of format 1 do not describe their metrics."""
    described = all("metric" in measured for measured in metrics.values())
    for key, measured in (metrics if described else metrics_from_format_1(metrics, {}, "")).items():
        if measured["value"] is not None and (value := rounded(measured["value"], 6)) is not None:
            yield EpochMetric(key, Descriptor.model_validate(measured["metric"]), epoch, value)


def rounded(value: float, digits: int = 4) -> float | None:
    """Rounded to significant digits, all that a page can show; None for infinities and NaN, which JSON does not have.

    >>> rounded(0.123456), rounded(123456.0), rounded(float("nan"))
    (0.1235, 123500.0, None)
    """
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


def _version(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=4096)
def _thinned(file: Path, modified: int, size: int) -> LossCurves:
    """`modified` and `size` are the file's, so that the cache notices a new version."""
    lines = _whole_lines(file.read_bytes())
    bounds = np.linspace(0, len(lines), min(len(lines), CURVE_POINTS) + 1).astype(int)
    names: list[str] | None = None
    rows: list[list[float]] = []
    starts: list[int] = []  # of the points' stretches in `rows`
    damage = None
    for start, end in pairwise(bounds.tolist()):
        starts.append(len(rows))
        for place in range(start, end, -(-(end - start) // SAMPLED)):
            try:
                row: dict[str, float] = from_json(lines[place])
                names = names or [name for name in row if name != "step"]
                rows.append([float(row[name]) for name in ("step", *names)])
            except (KeyError, OverflowError, TypeError, ValueError) as error:
                damage = f"line {place + 1}: {error!r}"
                break
        if damage:
            break
    if starts and starts[-1] == len(rows):
        starts.pop()
    if not starts:
        return LossCurves([], {}, damage)
    counts = np.diff([*starts, len(rows)])
    with np.errstate(invalid="ignore", over="ignore"):  # from a training that diverged
        means = np.add.reduceat(np.array(rows), starts) / counts[:, None]  # (points, 1 + losses)
    losses = {name: [rounded(value) for value in means[:, k].tolist()] for k, name in enumerate(names or [], 1)}
    return LossCurves([rounded(step, 9) for step in means[:, 0].round(1).tolist()], losses, damage)


def _whole_lines(data: bytes) -> list[bytes]:
    """The lines, without a last one that is still being written or was cut off when its process was killed."""
    return data[: data.rfind(b"\n") + 1].splitlines()
