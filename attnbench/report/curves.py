"""What a cell's logs become on the page: losses thinned out and averaged, metrics over epochs."""

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

from attnbench.console import Say
from attnbench.metrics.known import METRIC_NAMES, SET_METRICS

POINTS = 240  # of a curve
SAMPLED = 12  # steps that a point averages at most: a full training has 40,000 lines a cell, of which 200 are read here


@dataclass(frozen=True)
class LossCurves:
    """The losses of one cell: point k is at `steps[k]` and `losses[name][k]`, both means over a stretch of steps.

    A mean is None where a loss in its stretch was infinite or no number.

    Attributes:
        damage: what is wrong with the file, if it ends early because of that.
    """

    steps: list[float | None]
    losses: dict[str, list[float | None]]
    damage: str | None = None


@dataclass(frozen=True)
class EpochMetric:
    """A metric after an epoch; `title` tells protocols apart: `FID`, `FID-192`."""

    metric: str
    title: str
    epoch: int
    value: float


def loss_curves(folder: Path, say: Say) -> LossCurves | None:
    """A cell's losses.jsonl as curves of at most POINTS points, or None where it has no line. `say` hears of damage."""
    file = folder / "losses.jsonl"
    try:
        found = _thinned(file, *_version(file))
    except FileNotFoundError:
        return None
    except OSError as error:
        say(f"{file} is left out: {error.strerror}")
        return None
    if found.damage:
        say(f"{file} is damaged ({found.damage}): its curves end there")
    return found if found.steps else None


def epoch_metrics(folder: Path, say: Say) -> list[EpochMetric]:
    """A cell's evaluations.jsonl; empty where it was measured only in the end. `say` hears of damage."""
    file = folder / "evaluations.jsonl"
    try:
        lines = _whole_lines(file.read_bytes())
    except FileNotFoundError:
        return []
    except OSError as error:
        say(f"{file} is left out: {error.strerror}")
        return []
    found: list[EpochMetric] = []
    for number, line in enumerate(lines, 1):
        try:
            row = from_json(line)
            found += _metrics_of(int(row["epoch"]), row["metrics"])
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            say(f"{file} is damaged (line {number}: {error!r}): its curves end there")
            break
    return found


def _metrics_of(epoch: int, metrics: Mapping[str, Mapping[str, Any]]) -> Iterator[EpochMetric]:
    for name, measured in metrics.items():
        if name not in METRIC_NAMES or measured.get("value") is None:
            continue
        if (value := rounded(measured["value"], 6)) is not None:
            yield EpochMetric(name, titled(name, measured), epoch, value)


def titled(metric: str, measured: Mapping[str, Any]) -> str:
    """A metric's name with what in its protocol changes its scale.

    >>> titled("fid", {"value": 1.5, "dims": 192}), titled("fid", {"dims": 2048}), titled("lpips", {"network": "alex"})
    ('FID-192', 'FID', 'LPIPS-alex')
    """
    dims, network = measured.get("dims", 2048), measured.get("network")
    suffix = f"-{dims}" if metric in SET_METRICS and dims != 2048 else f"-{network}" if network else ""
    return METRIC_NAMES.get(metric, metric) + suffix


def rounded(value: float, digits: int = 4) -> float | None:
    """To significant digits, which is what a page can show; None for what is infinite or no number: JSON has no word for it.

    >>> rounded(0.123456), rounded(123456.0), rounded(float("nan"))
    (0.1235, 123500.0, None)
    """
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


def _version(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=4096)
def _thinned(file: Path, modified: int, size: int) -> LossCurves:
    """`modified` and `size` are the file's: read again, it is the same."""
    lines = _whole_lines(file.read_bytes())
    bounds = np.linspace(0, len(lines), min(len(lines), POINTS) + 1).astype(int)
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
    with np.errstate(invalid="ignore", over="ignore"):  # of a training that diverged
        means = np.add.reduceat(np.array(rows), starts) / counts[:, None]  # (points, 1 + losses)
    losses = {name: [rounded(value) for value in means[:, k].tolist()] for k, name in enumerate(names or [], 1)}
    return LossCurves([rounded(step, 9) for step in means[:, 0].round(1).tolist()], losses, damage)


def _whole_lines(data: bytes) -> list[bytes]:
    """Without a last line that is still being written, or was when its process was killed."""
    return data[: data.rfind(b"\n") + 1].splitlines()
