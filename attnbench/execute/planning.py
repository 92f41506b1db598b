"""Before anything runs: decode the images, list the cells, see what each would do and whether there is room for them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from attnbench import store as stores
from attnbench import weights
from attnbench.backbone import Discriminator, count_parameters
from attnbench.console import Reporter
from attnbench.costs import on_meta
from attnbench.data.images import prepare
from attnbench.errors import UserError
from attnbench.grid import Cell, Grid
from attnbench.sources import changed_sources
from attnbench.store import CellFolder
from attnbench.train import build_generator


@dataclass(frozen=True)
class State:
    """What a run finds of a cell.

    Attributes:
        status: `new`, or one of the store's.
        step: of its checkpoint.
        failure: why it failed or diverged.
        arrived: networks that its metrics lacked and that are here now.
        changed: source files of its module whose code is not what it was.
        ended: when, in UTC, as in the record.
    """

    status: str
    step: int = 0
    ended: str = ""
    failure: str = ""
    arrived: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    @property
    def finished(self) -> bool:
        return self.status == stores.FINISHED

    @property
    def failed(self) -> bool:
        return self.status in (stores.FAILED, stores.DIVERGED)

    @property
    def restarts(self) -> bool:
        """Whether going on would mix two versions of a module."""
        return bool(self.changed) and not self.finished and self.step > 0

    def to_do(self, retry_failed: bool, rerun_stale: bool) -> bool:
        """Whether a run with these options works on the cell."""
        if self.finished:
            return rerun_stale if self.changed else bool(self.arrived)
        return retry_failed or not self.failed

    @property
    def hint(self) -> str:
        """How to have it run, where it does not."""
        option = "--retry-failed" if self.failed else "--rerun-stale" if self.finished and self.changed else ""
        return f"; {option} runs it again" if option else ""

    def __str__(self) -> str:
        """In words."""
        changed = f"the code of {', '.join(self.changed)} has changed since"
        if self.finished and self.changed:
            return f"finished; stale: {changed}"
        if self.finished and self.arrived:
            return f"finished; measured again: the weights of {', '.join(self.arrived)} are here now"
        if self.failed:
            return f"{self.status}: {self.failure}"
        if self.restarts:
            return f"starts again: {changed} its checkpoint at step {self.step}"
        if self.status in (stores.RUNNING, stores.INTERRUPTED):
            return f"continues at step {self.step}" if self.step else "continues"
        return "new" if self.status == stores.WAITING else self.status


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


def pick_devices(names: Sequence[str] = ()) -> list[str]:
    """The devices of those names (`cuda:0`, or `0` for short), or all GPUs, or the CPU. None is put to use.

    Raises:
        UserError: there is no such device here.
    """
    count = torch.cuda.device_count()
    if not names:
        return [f"cuda:{index}" for index in range(count)] or ["cpu"]
    devices = [f"cuda:{name}" if name.isdecimal() else name for name in names]
    for name in devices:
        kind, _, index = name.partition(":")
        if kind != "cuda" or not (index or "0").isdecimal():
            pick_device(name)
        elif int(index or 0) >= count:
            there = f"GPUs here: {count}" if count else "no GPU is here"
            raise UserError(f"device '{name}' cannot be used here: {there}; --devices cpu runs on the processor")
    return devices


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
    return grid.cells(prepared, skip_corrupt=skip_corrupt)


def state_of(folder: CellFolder, say: stores.Say | None = None) -> State:
    """What a run would find. A damaged record is set aside if there is a `say` to tell."""
    if not folder.path.is_dir():
        return State("new")
    record = folder.record(say)
    if record is None:
        return State(stores.INTERRUPTED if (folder.path / "checkpoint.pt").is_file() else "new")
    return State(
        status=record["status"],
        step=record.get("step", 0),
        ended=record.get("ended", ""),
        failure=(record.get("failure") or {}).get("message", ""),
        arrived=_arrived(record),
        changed=tuple(changed_sources(record["module"]) or ()),
    )


def _arrived(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Networks that the metrics of a finished cell lack, if all of them are here now."""
    missing = sorted({metric["missing"] for metric in record.get("metrics", {}).values() if metric.get("missing")})
    return tuple(missing) if all(weights.find(name) for name in missing) else ()


def disk_bytes(cells: Sequence[Cell]) -> list[tuple[int, int]]:
    """Of each cell: (kept, while it runs)."""
    of_variant = {id(cell.variant): _disk_bytes(cell) for cell in {id(cell.variant): cell for cell in cells}.values()}
    return [of_variant[id(cell.variant)] for cell in cells]


def _disk_bytes(cell: Cell) -> tuple[int, int]:
    """float32 weights and Adam's two moments, in one checkpoint, or up to three at once while it runs."""
    shape = cell.recipe.backbone
    with torch.device("meta"):
        generator = count_parameters(build_generator(on_meta(cell.variant.factory), cell.recipe, cell.seed))
        discriminator = count_parameters(Discriminator(shape.discriminator_width, shape.discriminator_layers))
    checkpoint, weights_ = 4 * 3 * (generator + discriminator), 4 * generator
    return checkpoint + weights_, 3 * checkpoint + weights_


def check_space(cells: Sequence[Cell], store: Path, at_once: int = 1) -> None:
    """Raises UserError if the store's disk cannot hold what the new cells will keep, `at_once` of them running."""
    new = [cell for cell in cells if _takes_space(CellFolder(store / cell.folder_name))]
    if not new:
        return
    sizes = disk_bytes(new)
    needed = sum(kept for kept, _ in sizes) + min(at_once, len(new)) * max(peak - kept for kept, peak in sizes)
    free = shutil.disk_usage(store).free
    if free < needed:
        raise UserError(
            f"the disk of '{store}' has {free / 1e6:,.0f} MB free, {len(new)} new cells need {needed / 1e6:,.0f} MB"
            ": free some space or choose another folder with -o"
        )


def _takes_space(folder: CellFolder) -> bool:
    """Whether a cell has neither a checkpoint yet, nor is finished, as one that was merged is without."""
    if (folder.path / "checkpoint.pt").is_file():
        return False
    return (folder.record() or {}).get("status") != stores.FINISHED
