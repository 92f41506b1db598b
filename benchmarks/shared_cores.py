"""What other busy processes cost a cell that trains on a CPU, with OpenMP's spinning limited and without.

    python benchmarks/shared_cores.py
    python benchmarks/shared_cores.py --busy 1 2 --rounds 3 --json results/bench

The cell is the demo's, with fewer steps: `attnbench cell` in a process of its own, alone and beside processes that never wait,
in turns. `cell s` is the whole process by the clock, start and evaluation included; `slowdown` is the time beside the busy
processes over the time alone, the median over the rounds. Needs a machine that is otherwise quiet.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import torch

from attnbench.cells.provenance import device_name, now, provenance
from attnbench.openmp import SPIN_COUNT

UNLIMITED = 300_000  # libgomp's default, where threads are not more than cores
CPU = torch.device("cpu")
ATTNBENCH = (sys.executable, "-m", "attnbench")


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def train_cell(module: str, steps: int, spin_count: int) -> dict[str, float]:
    """Seconds that a cell's process takes, and images a second of its training."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment["GOMP_SPINCOUNT"] = str(spin_count)
    with tempfile.TemporaryDirectory() as store:
        planned = [*ATTNBENCH, "run", "-m", module, "-d", "synthetic", "-r", "demo", "--set", f"train.steps={steps}"]
        planned += ["-o", store, "--executor", "commands"]
        listed = subprocess.run(planned, check=True, capture_output=True, text=True, env=environment).stdout
        folder = Path(listed.split()[2])  # attnbench cell FOLDER
        started = time.perf_counter()
        subprocess.run([*ATTNBENCH, "cell", str(folder), "--device", "cpu"], check=True, capture_output=True, env=environment)
        seconds = time.perf_counter() - started
        costs = json.loads((folder / "cell.json").read_text())["costs"]
    return {"cell_seconds": seconds, "images_per_second": costs["images_per_second"]}


def measure(module: str, steps: int, spin_counts: Sequence[int], busy: Sequence[int], rounds: int) -> list[dict[str, float]]:
    """A row for each spin count and number of busy processes: medians over the rounds, in each of which all have their turn."""
    cases = [(spin_count, count) for count in (0, *busy) for spin_count in spin_counts]
    found: dict[tuple[int, int], list[dict[str, float]]] = {case: [] for case in cases}
    for _ in range(rounds):
        for spin_count, count in cases:
            with busy_processes(count):
                found[spin_count, count].append(train_cell(module, steps, spin_count))
    return [
        {
            "spin_count": spin_count,
            "busy": count,
            **{figure: median(cell[figure] for cell in cells) for figure in cells[0]},
            "slowdown": median(b["cell_seconds"] / a["cell_seconds"] for a, b in zip(found[spin_count, 0], cells, strict=True)),
        }
        for (spin_count, count), cells in found.items()
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--module", default="sga")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--busy", type=int, nargs="+", default=[1], help="numbers of busy processes, above 0")
    parser.add_argument("--spin-counts", type=int, nargs="+", default=[SPIN_COUNT, UNLIMITED])
    parser.add_argument("--json", type=Path, help="a folder for shared-cores-<device>.json")
    asked = parser.parse_args(arguments)
    rows = measure(asked.module, asked.steps, asked.spin_counts, asked.busy, asked.rounds)
    sys.stdout.write("busy processes  spin count   cell s  images/s  slowdown\n")
    for row in rows:
        line = "{busy:14d} {spin_count:11,d} {cell_seconds:8.1f} {images_per_second:9.1f} {slowdown:9.2f}\n"
        sys.stdout.write(line.format(**row))
    if asked.json:
        name = re.sub(r"[^a-z0-9]+", "-", f"shared cores {device_name(CPU)}".lower()).strip("-")
        report = {"module": asked.module, "steps": asked.steps, "rounds": asked.rounds, "rows": rows}
        report |= {"provenance": provenance(CPU).model_dump(), "ended": now()}
        asked.json.mkdir(parents=True, exist_ok=True)
        (asked.json / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
