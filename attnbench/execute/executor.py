"""Executors: where cells run. Each declares the options that it takes, and checks them itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Self

from attnbench.cells.cell import Cell
from attnbench.devices import pick_devices
from attnbench.errors import UserError
from attnbench.store.job import RunOptions


@dataclass
class Outcome:
    """The outcome of a grid.

    Attributes:
        finished, failed: labels of cells.
        commands: command lines that run the cells, if they are left to another scheduler.
    """

    finished: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Executor(ABC):
    """Where cells run; its fields are its options.

    Attributes:
        name: on the command line.
        flags: command-line flag -> field.
        refusals: command-line flag that it does not take -> why.
    """

    name: ClassVar[str]
    flags: ClassVar[Mapping[str, str]]
    refusals: ClassVar[Mapping[str, str]] = {}

    def check(self, options: RunOptions) -> None:
        """Check that cells can run here, with these options.

        Raises:
            UserError: a device, program or option that is missing or does not fit.
        """
        if options.time_limit_minutes is not None and "--time-limit" in self.refusals:
            raise UserError(f"--time-limit does not apply to --executor {self.name}: {self.refusals['--time-limit']}")

    @property
    def leaves_cells(self) -> bool:
        """Whether `run` returns before the cells have run."""
        return False

    def fitted(self, cells: Sequence[Cell]) -> Self:
        """The executor with all decided that depends on the cells: how many run at a time, and where."""
        return self

    @property
    @abstractmethod
    def place(self) -> str:
        """Where cells will run, and once it is fitted how many at a time, for messages: `2 at a time on cuda:0`."""

    @abstractmethod
    def at_once(self, cells: Sequence[Cell]) -> int:
        """How many of the cells run at the same time, at most."""

    @abstractmethod
    def run(self, cells: Sequence[Cell], store: Path, options: RunOptions) -> Outcome:
        """Run the cells that are not finished. A failed cell is recorded, and the others still run.

        Raises:
            KeyboardInterrupt, Interrupted: SIGINT or SIGTERM; the running cells are saved.
            DiskFull: cells are kept as of their last checkpoints.
        """


@dataclass(frozen=True)
class DeviceExecutor(Executor):
    """An executor that gives cells devices of this machine.

    Attributes:
        devices: their names; by default all GPUs, or the CPU.
    """

    flags: ClassVar[Mapping[str, str]] = {"--devices": "devices"}

    devices: Sequence[str] = ()

    def check(self, options: RunOptions) -> None:
        super().check(options)
        pick_devices(self.devices)

    @property
    def place(self) -> str:
        return f"on {', '.join(dict.fromkeys(pick_devices(self.devices)))}"

    def at_once(self, cells: Sequence[Cell]) -> int:
        return len(pick_devices(self.devices))


def check_jobs(jobs: int | None) -> None:
    """Raises UserError for a number of cells at a time that is not positive."""
    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs {jobs}: expected a number of cells, 1 or more")
