"""What tests share: kinds, a cache of their own, small datasets, real weights and images where the machine has them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "1")  # on tensors this small, threads only get in the way

import pytest
import torch

from attnbench import Pictures
from attnbench.config.recipe import Data
from attnbench.data.images import PreparedDataset, prepare
from attnbench.data.layouts import synthetic
from attnbench.data.synthetic import draw
from attnbench.metrics.generate import PairSet
from attnbench.metrics.measure import pictures_of
from attnbench.metrics.protocol import Protocol

BESIDE = Path(__file__).resolve().parents[1].parent / "shared"  # weights and images that the project does not ship


def _hidden(variable: str) -> str:
    """The variable's value, which code under test no longer sees. pytest-xdist's workers find it under another name."""
    kept = f"{variable}_OF_TESTS"
    os.environ[kept] = os.environ.pop(variable, os.environ.get(kept, ""))
    return os.environ[kept]


# Only tests that take `data_root` or `torch_home` see these: no other depends on what a machine has.
DATA, TORCH_HOME = _hidden("ATTNBENCH_DATA"), _hidden("TORCH_HOME")

# A test is of a kind because of the fixtures it uses, however indirectly. CONTRIBUTING.md says which kinds run when.
KINDS = {
    "browser": ("browser",),
    "cluster": ("cluster",),
    "gpu": ("gpu",),
    "perf": ("busy_processes", "seconds"),
    "process": ("process", "python", "venv", "workers"),
    "slow": ("compiler", "large_sheet", "measured", "released"),
}
# Fixtures whose tests may start Python interpreters. The compiler has workers of its own.
STARTERS = {*KINDS["browser"], *KINDS["cluster"], *KINDS["process"], "compiler"}
PATIENCE = 1200  # seconds until a test of a kind counts as hanging; others have what pyproject.toml says
# torch's compiler warns of its own doings, differently with every version.
OF_THE_COMPILER = ("ignore::Warning:torch", "ignore::Warning:triton", "ignore:The .grad attribute")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: {"gpu", "released"} <= set(getattr(item, "fixturenames", ())))  # takes minutes
    for item in items:
        used = set(getattr(item, "fixturenames", ()))
        for kind, fixtures in KINDS.items():
            if used.intersection(fixtures):
                item.add_marker(kind)
                item.add_marker(pytest.mark.timeout(PATIENCE))
        if "compiler" in used:
            for warning in OF_THE_COMPILER:
                item.add_marker(pytest.mark.filterwarnings(warning))


_current: list[pytest.Item] = []  # the test that runs


def pytest_runtest_setup(item: pytest.Item) -> None:
    _current[:] = [item]


def _interpreters_start_only_where_a_fixture_says_so(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "subprocess.Popen" or not _current or STARTERS.intersection(getattr(_current[0], "fixturenames", ())):
        return
    program = Path(os.fspath(arguments[0] or arguments[1][0])).name
    if program.startswith(("python", "attnbench")):
        pytest.fail("this test starts an interpreter: let it take the fixture `python`, `process` or `workers`")


sys.addaudithook(_interpreters_start_only_where_a_fixture_says_so)


@pytest.fixture
def python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """python("-c", code): an interpreter of its own, run to its end. Options are subprocess.run's; it has to end well."""

    def run(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False, **options)
        assert done.returncode == 0, done.stderr
        return done

    return run


@pytest.fixture
def process() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """process("run", ...): the command in a process of its own, started. It is killed if it outlives the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str | Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", "from attnbench.cli import main; main()", *map(str, arguments)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment))
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.communicate()


@pytest.fixture
def workers() -> None:
    """Cells may run in processes of their own: `executor="local"`, `Worker`."""


@pytest.fixture
def seconds() -> Callable[..., float]:
    """seconds(work, rounds=3): of the processor, the best of some rounds. For ratios within one test, not for limits."""

    def measure(work: Callable[[], object], rounds: int = 3) -> float:
        taken = []
        for _ in range(rounds):
            started = time.process_time()
            work()
            taken.append(time.process_time() - started)
        return min(taken)

    return measure


@pytest.fixture
def compiler() -> Iterator[None]:
    """torch's compiler, as a fresh process has it."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture
def gpu() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    return torch.device("cuda")


@pytest.fixture(scope="session", autouse=True)
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test, and no fixture of a wider scope, reads or writes the user's caches."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTNBENCH_CACHE", str(cache))
        patch.setenv("TORCH_HOME", str(cache))
        yield cache


@pytest.fixture(autouse=True)
def _alike_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test before this one, or the terminal, may have left changes nothing."""
    torch.manual_seed(0)
    monkeypatch.setattr(torch.hub, "_hub_dir", None)  # else an earlier set_dir wins over TORCH_HOME
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("FORCE_COLOR", raising=False)


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """warned(): what attnbench has warned of during the test."""
    return lambda: [line.getMessage() for line in caplog.records if line.name == "attnbench" and line.levelname == "WARNING"]


@pytest.fixture
def ctrl_c_is_heard() -> Iterator[None]:
    """A shell's background jobs, CI among them, ignore SIGINT, and so would the processes that they start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def torch_home(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder with real weights, in torch hub's layout, which torch hub uses during the test."""
    home = _given("TORCH_HOME", TORCH_HOME, BESIDE / "torch", "real weights")
    monkeypatch.setenv("TORCH_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with real images: `anime`, `cat`, ... with `train` and `test` inside."""
    return _given("ATTNBENCH_DATA", DATA, BESIDE / "data", "real images")


@pytest.fixture
def folder_of_heads(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """folder_of_heads(train=8, test=4, size=32): a new folder with `train/` and `test/`, PNGs of different synthetic heads."""

    def write(train: int = 8, test: int = 4, size: int = 32) -> Path:
        base = tmp_path_factory.mktemp("heads")
        for split, indices in {"test": range(test), "train": range(test, test + train)}.items():
            (base / split).mkdir()
            for index in indices:
                draw(0, index, size).save(base / split / f"{index:03d}.png")
        return base

    return write


@pytest.fixture(scope="module")
def dataset() -> PreparedDataset:
    """Six small heads to test on, which know their right answers."""
    return prepare(synthetic(train=2, test=6, size=64), Data(size=64))


@pytest.fixture(scope="module")
def drawings(dataset: PreparedDataset) -> Pictures:
    """These heads with their references, coloured right."""
    pairs = PairSet.of(dataset.test, Protocol(), Data(size=64))
    pictures = pictures_of(pairs.wanted(), pairs, dataset, torch.device("cpu"))
    return replace(pictures, generated=pictures.answers)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real disk of 8 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)  # a process that ends may still have it open


def _given(variable: str, value: str, beside: Path, what: str) -> Path:
    folder = Path(value or beside)
    if not folder.is_dir():
        pytest.skip(f"needs {what}: set {variable}")
    return folder.resolve()
