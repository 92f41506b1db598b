"""What `pip install` of this project brings with it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLACES = {"attnbench": "attnbench", "baselines": "attnbench_baselines", "configs": "attnbench_configs"}


def test_a_wheel_holds_every_file_of_the_packages(tmp_path: Path) -> None:
    """An editable install, which developers and CI have, finds files that an ordinary one would lack."""
    source = tmp_path / "source"
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = [name for name in files.split("\0") if (ROOT / name).is_file()]
    for name in names:
        if not name.startswith("results/") or name.count("/") == 1:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(tmp_path), str(source)]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    wanted = {PLACES[top] + name.removeprefix(top) for name in names if (top := name.split("/")[0]) in PLACES and "/" in name}
    assert not wanted - held
