"""Cells planned for another scheduler: one command line per cell."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import ClassVar

from attnbench.cells.cell import Cell
from attnbench.devices import pick_devices
from attnbench.execute.asked import Asked
from attnbench.execute.executor import DeviceExecutor, Outcome
from attnbench.execute.planned_cell import plan_cell
from attnbench.execute.state import state_of
from attnbench.store.folder import CellFolder
from attnbench.store.job import RunOptions


@dataclass(frozen=True)
class Commands(DeviceExecutor):
    """Only plans the cells.

    Attributes:
        devices: named by the commands in turn; by default none, and each command takes the first that it sees.
    """

    name = "commands"
    refusals: ClassVar = dict.fromkeys(("--jobs", "--time-limit"), "it only plans the cells")

    @property
    def leaves_cells(self) -> bool:
        return True

    def run(self, cells: Sequence[Cell], store: Path, options: RunOptions) -> Outcome:
        outcome, devices = Outcome(), cycle(pick_devices(self.devices) if self.devices else [None])
        for cell in cells:
            folder = CellFolder(store / cell.folder_name)
            plan_cell(cell, folder, options)
            state = state_of(folder, Asked.of(cell, options))
            if state.has_work(options):
                device = next(devices)
                flags = ["--device", device] if device else []
                flags += ["--retry-failed"] if options.retry_failed else []
                flags += ["--rerun-stale"] if options.rerun_stale else []
                outcome.commands.append(shlex.join(["attnbench", "cell", str(folder.path), *flags]))
            else:
                (outcome.failed if state.failed else outcome.finished).append(cell.label)
        return outcome
