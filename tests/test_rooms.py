"""The rooms of attnbench import one way: what pyproject.toml's contracts let pass, and what they stop."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from attnbench import plugins
from attnbench.metrics.metric import parse_metric

ROOT = Path(__file__).resolve().parents[1]

WORDS = {"match", "bleed", "recall", "outline"}  # metrics whose names are words: they count where they are quoted
# Those whose names other things have, too, and so do not count: an arithmetic, a loss, a head's colours, milliseconds.
OF_OTHERS = {"precision", "style", "palette", "MS"}

TURNED = {  # a file that is made or added to, a line, what the linter says
    "upwards": ("attnbench/data/warp.py", "import attnbench.store.folder", "attnbench.data is not allowed to import"),
    "circle": ("attnbench/bench/output.py", "import attnbench.bench.measure", "without circles BROKEN"),
    "new-room": ("attnbench/extra/__init__.py", "", "not listed as layers"),
    "baseline": ("attnbench/training/loop.py", "import attnbench_baselines.sga", "import the baselines BROKEN"),
    "not-public": ("baselines/sga.py", "import attnbench.method.attention", "as a third party does BROKEN"),
}


@pytest.fixture
def layers(process: object, tmp_path: Path) -> Callable[[], subprocess.CompletedProcess[str]]:
    """layers(): import-linter's verdict on a copy of the packages in tmp_path, which a test may change."""
    linter = Path(sys.executable).with_name("lint-imports")
    if not linter.is_file():
        pytest.skip("needs import-linter: pip install -e '.[dev]'")
    for package in ("attnbench", "baselines"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "attnbench_baselines").symlink_to(tmp_path / "baselines")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    command = [sys.executable, str(linter), "--no-cache"]
    environment = {"PYTHONPATH": str(tmp_path), "PATH": "", "COLUMNS": "200"}
    return lambda: subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)


def test_the_contracts_hold(layers: Callable[[], subprocess.CompletedProcess[str]]) -> None:
    verdict = layers()
    assert verdict.returncode == 0, verdict.stdout


@pytest.mark.parametrize("arrow", TURNED)
def test_an_arrow_that_is_turned_breaks_its_contract(
    arrow: str, layers: Callable[[], subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    file, line, told = TURNED[arrow]
    (tmp_path / file).parent.mkdir(exist_ok=True)
    with (tmp_path / file).open("a") as changed:
        changed.write(f"\n{line}\n")
    verdict = layers()
    assert verdict.returncode == 1
    assert told in verdict.stdout


def test_no_metrics_name_stands_outside_the_metrics_own_files() -> None:
    """Code, pages, templates and help follow from what a metric says of itself."""
    names = [plugin.name for plugin in plugins.installed(plugins.METRICS) if plugin.package == "attnbench"]
    titles = [parse_metric(name).descriptor.title.partition(" ")[0].partition("-")[0] for name in names]
    plain = WORDS.intersection(names)
    named = "|".join({*names, *titles} - plain - OF_OTHERS)
    word = re.compile(rf"\b({named})\b|[\"'`]({'|'.join(plain)})\b", re.IGNORECASE)
    files = [
        file
        for file in (ROOT / "attnbench").rglob("*")
        if file.suffix in (".py", ".js", ".j2", ".css", ".txt") and file.parent.name != "metrics"
    ]
    assert len(files) > 100
    found = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in files
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if word.search(line)
    ]
    assert found == []
