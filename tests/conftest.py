"""What tests share: a cache of their own, small data sets, and real weights and images where the machine has them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "1")  # on tensors this small, threads only get in the way

import pytest
import torch

from attnbench.data.synthetic import draw

BESIDE = Path(__file__).resolve().parents[1].parent / "shared"  # weights and images that the project does not ship
# Only tests that take `data_root` or `torch_home` see these: no other depends on what a machine has.
DATA = os.environ.pop("ATTNBENCH_DATA", "")
TORCH_HOME = os.environ.pop("TORCH_HOME", "")


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _cache(session_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's caches."""
    monkeypatch.setenv("ATTNBENCH_CACHE", str(session_cache))
    monkeypatch.setenv("TORCH_HOME", str(session_cache))


@pytest.fixture
def torch_home(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder with real weights, in torch hub's layout, which torch hub uses during the test."""
    home = _given("TORCH_HOME", TORCH_HOME, BESIDE / "torch", "real weights")
    monkeypatch.setenv("TORCH_HOME", str(home))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)  # else an earlier set_dir wins
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


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real disk of 8 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def _given(variable: str, value: str, beside: Path, what: str) -> Path:
    folder = Path(value or beside)
    if not folder.is_dir():
        pytest.skip(f"needs {what}: set {variable}")
    return folder.resolve()
