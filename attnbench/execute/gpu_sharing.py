"""How many cells share a GPU unless the user says so: judged by the operations of a step, by memory and by CPU cores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from attnbench.cells.cell import Cell
from attnbench.console import log
from attnbench.training.costs import count_costs, step_memory

# A rule of thumb from counts, not measured on a GPU yet: the paper's step, 16 images of 256 px, fills a GPU. A smaller step
# takes less of it, but not in proportion to its operations, because small kernels leave a GPU partly idle: one at 64 px has a
# sixteenth of the operations, and is taken to need a fifth of a GPU.
FULL_STEP_GFLOP = 3600.0
SHARE_EXPONENT = 0.58  # (1/16) ** 0.58 = 1/5
FEWEST, MOST = 2, 5  # by size: two, even of full cells, so that one decodes and measures while the other trains

CORES_PER_CELL = 2  # one feeds the GPU, another decodes, measures and saves
PROCESS_BYTES = 1_000_000_000  # about: CUDA's context, and the workspaces of its libraries, which no count of tensors sees
ASK_SECONDS = 60.0  # until a GPU that does not answer is given up

_ASK = "import json, sys, torch; print(json.dumps([torch.cuda.mem_get_info(name)[0] for name in sys.argv[1:]]))"


@dataclass(frozen=True)
class Demand:
    """What the most demanding of some cells needs.

    Attributes:
        gflop: of a training step.
        step_bytes: memory for training, without the images.
        image_bytes: of each training set, which a cell keeps on the GPU if it takes at most a quarter of what is free there.
    """

    gflop: float
    step_bytes: int
    image_bytes: Sequence[int] = ()

    @property
    def fit_by_size(self) -> int:
        share = (self.gflop / FULL_STEP_GFLOP) ** SHARE_EXPONENT
        return min(MOST, max(FEWEST, round(1 / share)))

    def fit_in(self, free: int) -> int:
        """How many fit into the free bytes of a GPU."""
        images = max((size for size in self.image_bytes if size <= free / 4), default=0)  # as `data.images.resident`
        return free // (self.step_bytes + images + PROCESS_BYTES)


def usual_slots(devices: Sequence[str], cells: Sequence[Cell]) -> list[str]:
    """The devices of the cells that run at a time: each once, and GPUs as often as cells share them, in turns.

    A device that is named twice is shared by as many, whatever fits.
    """
    are_gpus = all(name.startswith("cuda") for name in devices)
    if not are_gpus or len(set(devices)) < len(devices) or len(cells) <= len(devices):
        return list(devices)
    fit = _cells_per_gpu(devices, cells)
    turns = [gpu for turn in range(MOST) for gpu in devices if turn < fit[gpu]]
    return turns[: len(cells)]


def _cells_per_gpu(gpus: Sequence[str], cells: Sequence[Cell]) -> Mapping[str, int]:
    """GPU -> how many of the cells share it; one, with the reason logged, where more do not fit or it cannot be told."""
    one = dict.fromkeys(gpus, 1)
    by_cores = _cores() // CORES_PER_CELL // len(gpus)
    if by_cores < 2:
        log.info(f"one cell at a time on each GPU: CPU cores, {_cores()}, are too few for more")
        return one
    try:
        demand = demand_of(cells)
    except Exception as error:  # whatever a module raises: one that looks at values cannot be counted
        log.info(f"one cell at a time on each GPU: what cells need cannot be counted: {type(error).__name__}: {error}")
        return one
    try:
        free = free_memory(gpus)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        log.info(f"one cell at a time on each GPU: their free memory is not known: {error}")
        return one
    return {gpu: max(1, min(demand.fit_by_size, demand.fit_in(free[gpu]), by_cores)) for gpu in gpus}


def demand_of(cells: Sequence[Cell]) -> Demand:
    """What the most demanding of the cells needs, counted without a GPU.

    Raises whatever a module does that cannot be built or run without values.
    """
    gflop, step_bytes = 0.0, 0
    for cell in {(id(cell.variant), id(cell.recipe)): cell for cell in cells}.values():
        factory, recipe = cell.variant.factory, cell.recipe
        gflop = max(gflop, count_costs(factory, recipe)["step_gflop"] * recipe.train.batch_size)
        step_bytes = max(step_bytes, step_memory(factory, recipe))
    return Demand(gflop, step_bytes, sorted({cell.dataset.train.nbytes for cell in cells}))


def free_memory(gpus: Sequence[str]) -> dict[str, int]:
    """Free bytes of each GPU. Another process asks: one that has used a GPU holds memory there until it ends.

    Raises:
        OSError, subprocess.SubprocessError, ValueError: there is no answer.
    """
    answer = subprocess.run(
        [sys.executable, "-P", "-c", _ASK, *gpus], capture_output=True, text=True, timeout=ASK_SECONDS, check=False
    )
    if answer.returncode:
        raise ValueError((answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"])[-1])
    return dict(zip(gpus, json.loads(answer.stdout), strict=True))


def _cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
