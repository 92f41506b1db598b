"""Where cells run: plan a grid, run its cells one after the other in this process, keep each in the store."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from attnbench import store as stores
from attnbench import weights
from attnbench.backbone import Discriminator, count_parameters
from attnbench.cell import CellRun, Settings, new_record
from attnbench.console import Reporter
from attnbench.costs import on_meta
from attnbench.data.images import prepare
from attnbench.errors import Diverged, Interrupted, UserError
from attnbench.grid import Cell, Grid, check_grid
from attnbench.store import CellFolder
from attnbench.train import build_generator


@dataclass
class Tally:
    """What came of a grid."""

    finished: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def run(
    modules: Sequence[str] = (),
    datasets: Sequence[str] = (),
    recipe: str | Path = "official",
    *,
    grid: str | Path | None = None,
    overrides: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    store: str | Path = "results",
    data_root: str | Path | None = None,
    device: str | None = None,
) -> pd.DataFrame:
    """Train and evaluate every module on every data set; cells that are finished are not run again.

    Args:
        modules: as on the command line, for example `["sga", "scft:stop_gradient=true"]`.
        datasets: `["cat", "synthetic", "mine=path/to/folder"]`.
        grid: a built-in grid or a YAML file: its variants come before `modules`, its data sets where `datasets` is empty.
        recipe: a built-in name or a YAML file; overrides: `["train.epochs=1"]`.

    Returns:
        The store as a frame, see `attnbench.results`.

    Raises:
        UserError: bad input, before any work starts.
    """
    root = Path(data_root) if data_root is not None else default_data_root()
    checked = check_grid(modules, datasets, recipe, grid=grid, overrides=overrides, seeds=seeds, data_root=root)
    settings, reporter = Settings(stores.open_store(Path(store)), pick_device(device)), Reporter()
    execute(plan(checked, reporter), settings, reporter)
    return stores.results(store)


def default_data_root() -> Path | None:
    """`$ATTNBENCH_DATA`."""
    root = os.environ.get("ATTNBENCH_DATA")
    return Path(root).expanduser() if root else None


def pick_device(name: str | None) -> torch.device:
    """The device of that name, or the first GPU, or the CPU.

    Raises:
        UserError: there is no such device here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device '{name}' cannot be used here: {str(error).splitlines()[0]}") from None
    return device


def plan(grid: Grid, reporter: Reporter, *, skip_corrupt: bool = False) -> list[Cell]:
    """Decode the images, and list the cells.

    Raises:
        UserError: images that cannot be decoded (`skip_corrupt` leaves them out); weights that training needs are missing.
    """
    if grid.recipe.needs_perceptual_network:
        try:
            weights.find_or_download("vgg19")
        except weights.MissingWeights as missing:
            raise UserError(f"the perceptual and style losses need a network: {missing}") from None
    prepared = []
    for dataset in grid.datasets:
        prepared.append(prepare(dataset, grid.recipe.data, skip_corrupt=skip_corrupt, progress=reporter.progress))
        for name in prepared[-1].skipped:
            reporter.say(f"left out, cannot be decoded: {dataset.name}/{name}")
    return grid.cells(prepared)


def state_of(cell: Cell, settings: Settings, say: stores.Say | None = None) -> str:
    """What a run would find: new, finished, failed, diverged, `continues at step N`, or `finished; measured again: ...`.

    A damaged record is set aside if there is a `say` to tell.
    """
    folder = CellFolder(settings.store / cell.folder_name)
    if not folder.path.is_dir():
        return "new"
    record = folder.record(say)
    if record is None:
        return "continues" if (folder.path / "checkpoint.pt").is_file() else "new"
    if record["status"] == stores.FINISHED:
        missing = {metric["missing"] for metric in record["metrics"].values() if metric.get("missing")}
        if missing and all(weights.find(name) for name in missing):
            return f"finished; measured again: the weights of {', '.join(sorted(missing))} are here now"
        return "finished"
    if record["status"] in (stores.RUNNING, stores.INTERRUPTED):
        return f"continues at step {record['step']}" if record.get("step") else "continues"
    return f"{record['status']}: {record['failure']['message']}"


def execute(cells: Sequence[Cell], settings: Settings, reporter: Reporter) -> Tally:
    """Run what is not finished. A failed cell is recorded and the rest goes on.

    Raises:
        Interrupted: SIGINT or SIGTERM; the cell in work is saved.
        UserError: the disk is full; nothing is lost.
    """
    _check_space(cells, settings)
    tally = Tally()
    with _full_disk_in_words(settings), _stop_signals() as stop:
        waiting: list[Cell] = []
        for wait, queue in ((False, cells), (True, waiting)):
            for cell in queue:
                folder = CellFolder(settings.store / cell.folder_name)
                folder.path.mkdir(parents=True, exist_ok=True)
                if wait:
                    reporter.say(f"{cell.label}: waiting for the other process that runs it")
                with folder.locked(wait=wait, stop=stop.is_set) as ours:
                    if not ours and wait:
                        raise KeyboardInterrupt
                    if not ours:
                        reporter.say(f"{cell.label}: another process runs it; going on with the rest")
                        waiting.append(cell)
                        continue
                    _run_unless_done(cell, folder, settings, reporter, stop, tally)
    return tally


def _run_unless_done(
    cell: Cell, folder: CellFolder, settings: Settings, reporter: Reporter, stop: threading.Event, tally: Tally
) -> None:
    state = state_of(cell, settings, reporter.say)
    failed_before = state.startswith((stores.FAILED, stores.DIVERGED))
    if state == "finished" or (failed_before and not settings.retry_failed):
        hint = "; --retry-failed runs it again" if failed_before else ""
        reporter.say(f"{cell.label}: {state}{hint}")
        (tally.failed if failed_before else tally.finished).append(cell.label)
        return
    reporter.say(f"{cell.label}: {state}")
    record = new_record(cell, settings)
    work = CellRun(cell, folder, settings, reporter, stop, record)
    try:
        if state.startswith("finished"):
            work.measure_again()
        else:
            work.run()
        tally.finished.append(cell.label)
    except Interrupted as interrupted:
        if not state.startswith(stores.FINISHED):  # else its record still holds
            work.close(stores.INTERRUPTED, f"stopped after step {interrupted.step}")
        raise
    except Diverged as diverged:
        work.close(stores.DIVERGED, str(diverged))
        reporter.say(f"{cell.label}: {diverged}; the checkpoint before it is kept")
        tally.failed.append(cell.label)
    except Exception as error:  # whatever a module raises is its cell's affair, not the grid's
        if _disk_is_full(error):
            raise
        if state.startswith(stores.FINISHED):  # it could not be measured again: its record still holds
            reporter.say(f"{cell.label}: not measured again: {type(error).__name__}: {error}")
            tally.failed.append(cell.label)
        else:
            _record_failure(work, error, tally)


def _record_failure(work: CellRun, error: Exception, tally: Tally) -> None:
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    work.close(stores.FAILED, reason, traceback.format_exc())
    work.reporter.say(f"{work.cell.label}: failed: {reason} (traceback in {work.folder.record_file})")
    tally.failed.append(work.cell.label)


@contextmanager
def _full_disk_in_words(settings: Settings) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not _disk_is_full(error):
            raise
        raise UserError(
            f"the disk of '{settings.store}' is full: what was saved is kept, cells as of their last checkpoints; free some "
            "space and run the same command again"
        ) from error


def _disk_is_full(error: BaseException | None) -> bool:
    """Whether that is what is behind an error; torch wraps the system's in its own."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """SIGINT and SIGTERM set the event, once; a second one ends the process as usual."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: Any) -> None:
        stop.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def disk_bytes(cell: Cell) -> tuple[int, int]:
    """(kept, while it runs): float32 weights and Adam's two moments, in one checkpoint, or up to three at once."""
    shape = cell.recipe.backbone
    with torch.device("meta"):
        generator = count_parameters(build_generator(on_meta(cell.variant.factory), cell.recipe, cell.seed))
        discriminator = count_parameters(Discriminator(shape.discriminator_width, shape.discriminator_layers))
    checkpoint, weights_ = 4 * 3 * (generator + discriminator), 4 * generator
    return checkpoint + weights_, 3 * checkpoint + weights_


def _check_space(cells: Sequence[Cell], settings: Settings) -> None:
    """Raises UserError if the store's disk cannot hold what the new cells will keep."""
    new = [cell for cell in cells if not (settings.store / cell.folder_name / "checkpoint.pt").is_file()]
    if not new:
        return
    sizes = [disk_bytes(cell) for cell in new]
    needed = sum(kept for kept, _ in sizes) + max(peak - kept for kept, peak in sizes)
    free = shutil.disk_usage(settings.store).free
    if free < needed:
        raise UserError(
            f"the disk of '{settings.store}' has {free / 1e6:,.0f} MB free, {len(new)} new cells need {needed / 1e6:,.0f} MB"
            ": free some space or choose another folder with -o"
        )
