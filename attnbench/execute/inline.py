"""Cells in this process, one after the other: for debugging."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from attnbench.cells.cell import Cell
from attnbench.console import log
from attnbench.devices import pick_device, pick_devices
from attnbench.execute.asked import Asked
from attnbench.execute.executor import DeviceExecutor, Outcome
from attnbench.execute.one_cell import run_cell
from attnbench.execute.planned_cell import plan_cell
from attnbench.execute.signals import stop_signals
from attnbench.execute.state import state_of
from attnbench.store.folder import CellFolder
from attnbench.store.job import RunOptions


@dataclass(frozen=True)
class Inline(DeviceExecutor):
    """This process.

    Attributes:
        devices: only the first is used; by default the first GPU, or the CPU.
    """

    name = "inline"
    refusals: ClassVar = dict.fromkeys(("--jobs", "--time-limit"), "its cells run in this process, one at a time")

    def check(self, options: RunOptions) -> None:
        super().check(options)
        pick_device(self.device)

    @property
    def device(self) -> str:
        return pick_devices(self.devices)[0]

    @property
    def place(self) -> str:
        return f"one at a time on {self.device}"

    def at_once(self, cells: Sequence[Cell]) -> int:
        return 1

    def run(self, cells: Sequence[Cell], store: Path, options: RunOptions) -> Outcome:
        outcome, device = Outcome(), pick_device(self.device)
        with stop_signals() as stop:
            waiting: list[Cell] = []
            for wait, queue in ((False, cells), (True, waiting)):
                for cell in queue:
                    folder = CellFolder(store / cell.folder_name)
                    if state_of(folder, Asked.of(cell, options)).has_work(options):
                        plan_cell(cell, folder, options)  # `cell`, `measure` and `analyze` find its images by it
                    if wait:
                        log.info(f"{cell.label}: waiting for the process that is running it")
                    with folder.locked(wait=wait, stop=stop.is_set) as ours:
                        if not ours and wait:
                            raise KeyboardInterrupt
                        if not ours:
                            log.info(f"{cell.label}: another process is running it; continuing with the rest")
                            waiting.append(cell)
                            continue
                        finished = run_cell(cell, folder, options, device, stop)
                        (outcome.finished if finished else outcome.failed).append(cell.label)
        return outcome
