"""What `pip install` of this project brings with it."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest
from runs import Python

ROOT = Path(__file__).resolve().parents[1]
PLACES = {"attnbench": "attnbench", "baselines": "attnbench_baselines", "configs": "attnbench_configs"}


def test_a_wheel_holds_every_file_of_the_packages(tmp_path: Path, python: Python) -> None:
    """An editable install, which developers and CI have, finds files that an ordinary one would lack."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout, whose list of files says what is to be carried")
    source = tmp_path / "source"
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = [name for name in files.split("\0") if (ROOT / name).is_file()]
    for name in names:
        if not name.startswith("results/") or name.count("/") == 1:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    python("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q", "-w", tmp_path, source)
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    wanted = {PLACES[top] + name.removeprefix(top) for name in names if (top := name.split("/")[0]) in PLACES and "/" in name}
    assert not wanted - held
