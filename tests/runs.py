"""Small runs for tests: the command line in this process, plug-ins that misbehave or wait on cue, and waiting for them."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from attnbench import cli
from attnbench.cells import sources
from attnbench.cells.cell import Cell
from attnbench.cells.grid import check_grid
from attnbench.execute.run import cells_of

torch.set_num_threads(1)  # tensors this small gain nothing from more, and equal thread counts make processes comparable

Python = Callable[..., subprocess.CompletedProcess[str]]  # the fixture `python`
Process = Callable[..., subprocess.Popen[str]]  # the fixture `process`

HEADS = "synthetic:train=4:test=2:size=16"
TINY = {
    "data.size": 16,
    "backbone.width": 4,
    "backbone.levels": 3,
    "backbone.residual_blocks": 1,
    "backbone.discriminator_width": 4,
    "backbone.discriminator_layers": 2,
    "train.batch_size": 2,
    "train.steps": 4,
}


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit code and what it wrote."""

    code: int
    out: str
    err: str


def overrides(**changes: Any) -> list[str]:
    """TINY with changes, as `section.key=value`; `train__steps=8` sets train.steps."""
    values = {**TINY, **{key.replace("__", "."): value for key, value in changes.items()}}
    return [f"{key}={value}" for key, value in values.items()]


def tiny(store: Path | str, modules: str = "sga", datasets: str = HEADS, executor: str = "inline", **changes: Any) -> list[str]:
    """Arguments of a run of the tiny recipe; `inline` spares the start of a process for each cell."""
    sets = [part for override in overrides(**changes) for part in ("--set", override)]
    where = [] if executor == "slurm" else ["--devices", "cpu"]
    fixed = ["run", "--recipe", "demo", "-m", modules, "-d", datasets, "-o", str(store)]
    return [*fixed, "--executor", executor, *where, *sets]


def attnbench(*arguments: str | Path) -> Outcome:
    """The command in this process, by the way that the console script goes."""
    out, err = io.StringIO(), io.StringIO()
    argv = ["attnbench", *map(str, arguments)]
    with patch.object(sys, "argv", argv), patch.dict(os.environ), redirect_stdout(out), redirect_stderr(err):
        try:
            cli.main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
    return Outcome(code, out.getvalue(), err.getvalue())


def cells(modules: str = "sga", datasets: str = HEADS, seeds: tuple[int, ...] = (0,), **changes: Any) -> list[Cell]:
    """The cells that `tiny` would run."""
    grid = check_grid(modules.split(","), datasets.split(","), "demo", overrides=overrides(**changes), seeds=seeds)
    return cells_of(grid)


def only_cell(store: Path, module: str = "") -> Path:
    """The folder of the one cell in a store, or of the one with that module."""
    (folder,) = [path for path in store.iterdir() if path.name.startswith(module)]
    return folder


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "cell.json").read_text())  # type: ignore[no-any-return]


def edit(folder: Path, **changes: Any) -> None:
    """Change parts of a cell's record, in the file."""
    (folder / "cell.json").write_text(json.dumps(record(folder) | changes))


def steps_in(log: Path) -> list[int]:
    """The steps that losses.jsonl, or evaluations.jsonl, has lines for."""
    return [json.loads(line)["step"] for line in log.read_text().splitlines()]


def tree(folder: Path) -> Mapping[str, tuple[int, bytes]]:
    """Every file below a folder: when it was written and what is in it. Locks, which some versions touch, are not counted."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def same_result(a: Path, b: Path) -> bool:
    """Whether two finished cells have equal weights and equal losses at every step, bit for bit."""
    return all((a / name).read_bytes() == (b / name).read_bytes() for name in ("generator.safetensors", "losses.jsonl"))


def until(condition: Callable[[], object], seconds: float = 300) -> None:
    """Wait for a condition that comes true sooner or later, however slow the machine."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def install(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    package: str,
    entry_points: str,
    code: str | None,
    version: str = "1.2",
    group: str = "attnbench.modules",
) -> None:
    """Put a distribution on the path, as pip would: its metadata, and `package.py` with `code` if there is any."""
    information = folder / f"{package}-{version}.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    (information / "entry_points.txt").write_text(f"[{group}]\n{entry_points}\n")
    if code is not None:
        (folder / f"{package}.py").write_text(code)
    monkeypatch.delitem(sys.modules, package, raising=False)  # another test's of that name
    sources.forget()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)  # for processes of their own


def install_module(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, act: str) -> None:
    """Install a module that runs `act` after each of its forwards; `self.step` counts training ones, `mixed` is its output."""
    code = f'''
import errno, os, signal
import torch
from torch import nn


class Mix(nn.Module):
    """One convolution over both features."""

    def __init__(self, channels):
        super().__init__()
        self.mix = nn.Conv2d(2 * channels, channels, 1)
        self.step = 0

    def forward(self, sketch, reference):
        mixed = self.mix(torch.cat([sketch, reference], 1))
        if not sketch.is_meta:
            self.step += self.training
{textwrap.indent(act, " " * 12)}
        return mixed
'''
    install(folder, monkeypatch, f"{name}_package", f"{name} = {name}_package:Mix", code)


def install_waiting(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, step: int = 3) -> Path:
    """Install a module that waits in a training step, counted from its process's start, until its cell is told to stop: until
    the event is set that `attnbench.execute.inline.stop_signals` binds to SIGTERM.

    Returns a file that is made when the wait begins. Without that file it goes on; where that file is already, it never waits.
    """
    waits = folder / "waits"
    act = f"""
if self.training and self.step == {step} and not os.path.exists({str(waits)!r}):
    import inspect, time
    stop = inspect.getclosurevars(signal.getsignal(signal.SIGTERM)).nonlocals["stop"]
    open({str(waits)!r}, "w").close()
    while os.path.exists({str(waits)!r}) and not stop.is_set():
        time.sleep(0.01)"""
    install_module(folder, monkeypatch, name, act)
    return waits
