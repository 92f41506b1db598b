"""How a store of thousands of cells is read, and a grid of as many is planned: time and memory, against a bare json.load; and
what the runner adds to a cell.

    python benchmarks/scale.py                            # 2,500, 5,000 and 10,000 cells, in a temporary folder
    python benchmarks/scale.py --cells 500 --rounds 3 --json results/bench/scale.json

The cells are made up after those of results/variants: 10 variants x 4 datasets x as many seeds as it takes. Both readers are
processes of their own, with files in the page cache, and take turns; seconds are the processor's, which a busy machine changes
less than the clock's. `ratio` is that of the medians. A cell's overhead is all that its
process does but training, by the clock.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from attnbench.cells.sources import sources_of

PATTERNS = Path(__file__).resolve().parents[1] / "results" / "variants"
VARIANTS, DATASETS = 10, ("anime", "cat", "dog", "wild")

TABLE = "from attnbench.cli import main; main()"
BARE = """
import json, sys
from pathlib import Path
for file in Path(sys.argv[1]).glob("*/cell.json"):
    with file.open() as opened:
        json.load(opened)
"""
PLAN = """
import sys, time
from pathlib import Path
from attnbench.cells.grid import check_grid
from attnbench.execute.planned_cell import plan_new_cells
from attnbench.execute.run import cells_of
from attnbench.execute.state import state_of
from attnbench.store.folder import CellFolder
from attnbench.store.job import RunOptions
store, seeds, modules = Path(sys.argv[1]), range(int(sys.argv[2])), sys.argv[3].split(",")
started = time.process_time()
checked = check_grid(modules, ["synthetic:train=4:test=2:size=16"], "demo", overrides=sys.argv[4:], seeds=seeds)
cells = cells_of(checked)
states = {str(state_of(CellFolder(store / cell.folder_name))) for cell in cells}
assert states == {"new"}, states
checked = time.process_time()
plan_new_cells(cells, store, RunOptions())
print(len(cells), checked - started, time.process_time() - checked)
"""
SMALL = ("data.size=16", "backbone.width=4", "backbone.levels=3", "backbone.residual_blocks=1", "train.batch_size=2")
SMALL += ("backbone.discriminator_width=4", "backbone.discriminator_layers=2")
MODULES = ("spade", "cocosnet", "scft", "unite", "cmft", "sga", "scft:stop_gradient=true", "sga:stop_gradient=false")
MODULES += ("sga:double_norm=false", "sga:self_attention=false")


def make_store(store: Path, cells: int) -> None:
    """A folder with made-up finished cells; `cells` is a multiple of 40."""
    patterns = [json.loads(file.read_text()) for file in sorted(PATTERNS.glob("*-cat-*/cell.json"))[:VARIANTS]]
    drawn = random.Random(0)
    for seed in range(cells // (VARIANTS * len(DATASETS))):
        for dataset in DATASETS:
            for pattern in patterns:
                record = made_up(pattern, dataset, seed, drawn)
                folder = store / f"{record['module']['name']}-{dataset}-seed{seed}-{record['identity'][:10]}"
                folder.mkdir(parents=True)
                (folder / "cell.json").write_text(json.dumps(record, indent=1) + "\n")


def made_up(pattern: dict[str, Any], dataset: str, seed: int, drawn: random.Random) -> dict[str, Any]:
    """The pattern's cell on another dataset, with another seed and other numbers."""
    record = copy.deepcopy(pattern)
    module = record["module"]
    module.pop("source_sha256", None)
    module["sources"] = sources_of(module["target"])
    said = json.dumps([module["name"], module["options"], dataset, seed])
    record |= {"seed": seed, "identity": hashlib.sha256(said.encode()).hexdigest()}
    record["dataset"] |= {"name": dataset, "fingerprint": hashlib.sha256(dataset.encode()).hexdigest()}
    for measurement in record["measurements"]:
        measurement["identity"] = hashlib.sha256(f"{said} {measurement['identity']}".encode()).hexdigest()
        for metric in measurement["metrics"].values():
            metric["value"] *= drawn.uniform(0.9, 1.1)
    return record


def usage(code: str, *arguments: str | Path) -> tuple[float, float]:
    """Processor seconds, and the most memory in MB, of a Python process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.DEVNULL, env=environment)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode} from {code}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)


def measure_table(store: Path, one: Path, rounds: int) -> dict[str, float]:
    """`attnbench table` beside a bare json.load, alternately; of each, what a store with `one` cell takes is its start."""
    readers: dict[str, Callable[[], tuple[float, float]]] = {
        "bare": lambda: usage(BARE, store),
        "table": lambda: usage(TABLE, "table", store),
        "bare start": lambda: usage(BARE, one),
        "table start": lambda: usage(TABLE, "table", one),
    }
    for reader in readers.values():  # into the page cache
        reader()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in readers}
    for _ in range(rounds):
        for name, reader in readers.items():
            found[name].append(reader())
    bare, table, bare_start, start = (median(seconds for seconds, _ in found[name]) for name in readers)
    memory = median(megabytes for _, megabytes in found["table"])
    ratio = (table - start) / (bare - bare_start)
    return {"bare_seconds": bare, "table_seconds": table, "start_seconds": start, "ratio": ratio, "table_mb": memory}


def measure_plan(cells: int, rounds: int) -> dict[str, float]:
    """Processor seconds to check a grid, expand it and look every cell up in a store; and to make the cells' folders. Without
    imports.
    """
    taken = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as store:
            command = [sys.executable, "-c", PLAN, store, str(cells // len(MODULES)), ",".join(MODULES), *SMALL]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            shown = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
            taken.append([float(figure) for figure in shown.stdout.split()[1:]])
    plan, folders = (median(figures) for figures in zip(*taken, strict=True))
    return {"plan_seconds": plan, "folders_seconds": folders}


def measure_overhead(rounds: int) -> dict[str, float]:
    """Seconds by the clock that a cell takes in a process of its own, training excepted: start, imports, networks,
    two test pairs, files; and of it, imports alone.
    """
    small = [part for key in SMALL for part in ("--set", key)]
    seeds = ",".join(map(str, range(rounds)))
    attnbench = [sys.executable, "-m", "attnbench"]
    asked = ["run", "-m", "sga", "-d", "synthetic:train=4:test=2:size=16", "-r", "demo", *small, "--set", "train.steps=4"]
    taken, imports = [], []
    with tempfile.TemporaryDirectory() as store:
        asked += ["--seeds", seeds, "-o", store, "--executor", "commands"]
        planned = subprocess.run([*attnbench, *asked], check=True, capture_output=True, text=True)
        for line in planned.stdout.splitlines():
            folder = Path(line.split()[2])
            taken.append(clock([*attnbench, "cell", str(folder), "--device", "cpu"]))
            taken[-1] -= json.loads((folder / "cell.json").read_text())["costs"]["train_seconds"]
            imports.append(clock([sys.executable, "-c", "import attnbench.execute.one_cell"]))
    return {"cell_overhead_seconds": median(taken), "of_it_imports_seconds": median(imports)}


def clock(command: Sequence[str]) -> float:
    """Seconds that a process takes."""
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return time.perf_counter() - started


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cells", type=int, nargs="+", default=[2500, 5000, 10000], help="sizes of stores, multiples of 40")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    asked = parser.parse_args(arguments)
    rows = []
    sys.stdout.write("  cells  json.load s  table s  ratio  table MB  plan s  folders s\n")
    for cells in asked.cells:
        with tempfile.TemporaryDirectory() as folder:
            store, one = Path(folder, "all"), Path(folder, "one")
            make_store(store, cells // 40 * 40)
            cell = next(store.iterdir())
            shutil.copytree(cell, one / cell.name)
            row = {"cells": cells // 40 * 40, **measure_table(store, one, asked.rounds)}
        row |= measure_plan(cells, min(asked.rounds, 3))
        rows.append(row)
        line = "{cells:7d}  {bare_seconds:11.2f}  {table_seconds:7.2f}  {ratio:5.2f}  {table_mb:8.0f}  {plan_seconds:6.2f}"
        line += "  {folders_seconds:9.2f}\n"
        sys.stdout.write(line.format(**row))
        sys.stdout.flush()
    help_command = [sys.executable, "-m", "attnbench", "--help"]
    overhead = {**measure_overhead(asked.rounds), "help_seconds": median(clock(help_command) for _ in range(2 * asked.rounds))}
    said = "a cell's overhead: {cell_overhead_seconds:.1f} s, of it imports {of_it_imports_seconds:.1f} s\n"
    said += "attnbench --help: {help_seconds:.2f} s\n"
    sys.stdout.write(said.format(**overhead))
    if asked.json:
        report = {
            "python": sys.version.split()[0],
            "cores": os.cpu_count(),
            "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        asked.json.write_text(json.dumps({**report, **overhead, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
