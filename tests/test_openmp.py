"""Idle threads sleep early, so that training goes on beside other processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from runs import Python

from attnbench.openmp import SPIN_COUNT

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
TWO_CORES = "import os; os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])\n"
STEPS_A_SECOND = f"""
{TWO_CORES}
import sys, time
if sys.argv[1] == "limited":
    from attnbench.openmp import limit_spinning
    limit_spinning()
import torch
from attnbench.data.batches import training_batch
from attnbench.data.images import ImageSet
from attnbench.config.recipe import load_recipe
from attnbench.training.loop import train_step
from attnbench.training.state import assemble
from attnbench_baselines.sga import SGA

recipe, cpu = load_recipe("demo"), torch.device("cpu")
count, size = recipe.train.batch_size, recipe.data.size
training = assemble(SGA, recipe, 0, cpu, None)
pictures = torch.randint(256, (count, 3, size, size), dtype=torch.uint8)
images = ImageSet([str(i) for i in range(count)], pictures, None, torch.full((count,), 0.3))
def step():
    train_step(training, training_batch(images, range(count), seed=0, epoch=0, data=recipe.data, device=cpu), recipe)
step()
started, steps = time.perf_counter(), 0
while time.perf_counter() - started < 6:
    step()
    steps += 1
print(steps / (time.perf_counter() - started))
"""


def without_choice(**choice: str) -> dict[str, str]:
    """This environment, with the user's word on waiting replaced."""
    return {**{name: value for name, value in os.environ.items() if name not in WAITING}, **choice}


@pytest.mark.parametrize(
    ("choice", "spins"),
    [({}, str(SPIN_COUNT)), ({"GOMP_SPINCOUNT": "77"}, "77"), ({"OMP_WAIT_POLICY": "active"}, "30000000000")],
    ids=str,
)
def test_the_command_limits_spinning_before_torch_is_imported_unless_the_user_has_chosen(
    choice: dict[str, str], spins: str, python: Python
) -> None:
    """By what GNU's OpenMP says of itself when it is loaded; more threads than cores would make it choose otherwise."""
    environment = without_choice(OMP_DISPLAY_ENV="VERBOSE", OMP_NUM_THREADS="1", **choice)
    said = python("-m", "attnbench", "list", env=environment).stderr
    if "GOMP_SPINCOUNT" not in said:
        pytest.skip("this torch is not built on GNU's OpenMP")
    assert f"GOMP_SPINCOUNT = '{spins}'" in said


@pytest.fixture
def busy_processes() -> Iterator[None]:
    """Three processes that never wait, on the same two cores."""
    processes = [subprocess.Popen([sys.executable, "-c", f"{TWO_CORES}while True: pass"]) for _ in range(3)]
    yield
    for process in processes:
        process.kill()
        process.wait()


def test_beside_busy_processes_training_is_faster_with_limited_spinning(busy_processes: None, python: Python) -> None:
    """Twice as fast, in many runs; benchmarks/shared_cores.py measures whole cells."""
    if not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two cores that a process can be bound to")
    environment = without_choice(OMP_NUM_THREADS="2")
    limited, unlimited = (
        max(float(python("-c", STEPS_A_SECOND, how, env=environment).stdout) for _ in range(2))
        for how in ("limited", "unlimited")
    )
    assert limited > 1.3 * unlimited
