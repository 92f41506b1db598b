"""A custom module: the package that `new-module` writes, and packages that pip installs and uninstalls."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from runs import attnbench, install, only_cell, record, tiny, tree

from attnbench.contract import new_package
from attnbench.contract.new_metric import METRIC
from attnbench.contract.new_module import MODULE, new_module
from attnbench.contract.new_package import files

SEVENTH = Path(__file__).parent / "seventh_module"


class Venv:
    """A fresh environment that sees this one's packages, so that PyTorch is not installed again."""

    def __init__(self, folder: Path):
        # Without its own pip: pip and setuptools of this environment are visible in it, and are newer.
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        self.bin = folder / ("Scripts" if os.name == "nt" else "bin")
        mine = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
        seen = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"  # runs the .pth files there as well
        Path(mine, "outer.pth").write_text(seen)

    def run(self, *arguments: str | Path, folder: Path | None = None, code: int = 0) -> str:
        """Output of `python arguments...`, which must exit with `code`."""
        command = [str(self.bin / "python"), *map(str, arguments)]
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == code, done.stdout
        return done.stdout

    def attnbench(self, *arguments: str | Path) -> str:
        return self.run("-c", "from attnbench.cli import main; main()", *arguments)

    def install(self, package: Path) -> None:
        self.run("-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", package)

    def uninstall(self, name: str) -> None:
        self.run("-m", "pip", "uninstall", "--quiet", "--yes", name)


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Venv:
    return Venv(tmp_path_factory.mktemp("fresh") / "venv")


@pytest.fixture
def seventh(venv: Venv, tmp_path: Path) -> Iterator[Venv]:
    """The environment with tests/seventh_module in it, installed from a copy: building leaves folders behind."""
    package = shutil.copytree(SEVENTH, tmp_path / "seventh_module", ignore=shutil.ignore_patterns("*.egg-info", "build"))
    venv.install(package)
    yield venv
    venv.uninstall("attnbench-seventh")


def row(text: str, start: str) -> str:
    """The one line of a table whose first column is `start`."""
    (line,) = [line.strip() for line in text.splitlines() if line.strip().startswith(f"{start}  ")]
    return line


def refused(*arguments: str | Path) -> str:
    """The one line that a command prints for bad input."""
    outcome = attnbench(*arguments)
    assert outcome.code == 2, outcome
    (line,) = outcome.err.splitlines()
    assert line.startswith("error: ")
    assert outcome.out == ""
    return line


def test_a_strangers_package_is_installed_trained_and_shown_and_its_rows_outlive_it(seventh: Venv, tmp_path: Path) -> None:
    assert row(seventh.attnbench("list"), "mixed_adain").split()[1:3] == ["attnbench-seventh", "0.3.1"]
    store = tmp_path / "results"
    seventh.attnbench(*tiny(store, "mixed_adain,sga", train__steps=2))
    shown = seventh.attnbench("table", store)
    for label in ("MixedAdaIN", "SGA"):
        assert row(shown, label)[-1] in "0123456789]", shown
    module = record(only_cell(store, "mixed_adain-"))["module"]
    assert (module["package"], module["version"]) == ("attnbench-seventh", "0.3.1")

    seventh.uninstall("attnbench-seventh")
    assert "mixed_adain" not in seventh.attnbench("list").lower()
    assert seventh.attnbench("table", store) == shown
    assert "attnbench-seventh 0.3.1" in shown


def test_adain_keeps_the_contract_and_transfers_mean_and_deviation(compiler: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from attnbench.contract import check

    monkeypatch.syspath_prepend(str(SEVENTH))
    from attnbench_seventh import MixedAdaIN

    check(MixedAdaIN, channels=12, size=4, device="cpu", costs=False).raise_if_failed()
    torch.manual_seed(0)
    sketch, reference = torch.randn(2, 2, 8, 16, 16, dtype=torch.float64)
    restyled = MixedAdaIN(8, eps=0.0).double()(sketch, 3 * reference + 1)
    for got, wanted in zip(*(torch.var_mean(x, dim=(2, 3)) for x in (restyled, 3 * reference + 1)), strict=True):
        torch.testing.assert_close(got, wanted)


def test_a_new_module_is_installed_tested_by_its_own_suite_and_trained(venv: Venv, tmp_path: Path) -> None:
    assert attnbench("new-module", "my-attention", "--folder", tmp_path).code == 0
    package = tmp_path / "my-attention"
    venv.install(package)
    try:
        assert row(venv.attnbench("list"), "my_attention").split()[1:3] == ["my-attention", "0.1.0"]
        suite = venv.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", folder=package)
        assert " passed" in suite
        assert "skipped" not in suite
        venv.attnbench(*tiny(tmp_path / "results", "my_attention,my_attention:heads=1", train__steps=2))
        shown = venv.attnbench("table", tmp_path / "results")
        assert row(shown, "MyAttention")[-1] in "0123456789]"
        assert row(shown, "MyAttention (heads=1)")[-1] in "0123456789]"
    finally:
        venv.uninstall("my-attention")


def test_new_module_prints_the_next_commands(tmp_path: Path) -> None:
    outcome = attnbench("new-module", "my-attention", "--folder", tmp_path)
    assert outcome.code == 0, outcome
    commands = [line.strip() for line in outcome.out.splitlines() if line.startswith("  ")]
    assert commands == [
        f"pip install -e {tmp_path / 'my-attention'}",
        "attnbench check my_attention",
        "attnbench run --recipe demo --modules my_attention,sga --datasets synthetic",
    ]


def test_new_module_writes_its_files_and_nothing_beside_them(tmp_path: Path) -> None:
    (tmp_path / "my-attention").mkdir()  # empty, so not in the way
    assert new_module("my-attention", tmp_path) == tmp_path / "my-attention"
    written = {path: content.decode() for path, (_, content) in tree(tmp_path).items()}
    assert written == {f"my-attention/{path}": text for path, text in files("my-attention", MODULE).items()}
    assert 'my_attention = "my_attention:MyAttention"' in written["my-attention/pyproject.toml"]
    assert not any("$" in text for text in written.values())


def test_new_modules_are_open_to_the_people_whom_the_umask_admits(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        assert new_module("my-attention", tmp_path).stat().st_mode & 0o777 == 0o755
    finally:
        os.umask(before)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("2nd", ["name '2nd'", "a letter first"]),
        ("-x", ["No such option"]),
        ("my.attention", ["name 'my.attention'", "as in my-attention"]),
        ("my attention", ["name 'my attention'"]),
        ("attention-", ["name 'attention-'", "last"]),
        ("_attention", ["name '_attention'", "a letter first"]),
        ("../escape", ["name '../escape'"]),
        ("caf\u00e9", ["name 'caf\u00e9'"]),
        ("", ["name ''"]),
        ("lambda", ["'lambda' is a keyword or a builtin of Python"]),
        ("none", ["'None' is a keyword or a builtin of Python"]),
        ("value-error", ["'ValueError' is a keyword or a builtin of Python"]),
        ("sga", ["package attnbench ", "has a module 'sga' already"]),
        ("SGA", ["has a module 'sga' already"]),
        ("json", ["Python's standard library has that name"]),
        ("torch", ["an installed module", "torch"]),
        ("attnbench", ["an installed module", "attnbench"]),
        ("pytorch-fid", ["an installed module", "pytorch_fid"]),
        ("scikit-image", ["the installed package scikit-image "]),
    ],
)
def test_a_name_that_cannot_be_used_is_refused_and_nothing_is_written(name: str, parts: list[str], tmp_path: Path) -> None:
    if name.startswith("-"):
        assert attnbench("new-module", name, "--folder", tmp_path).code == 2  # an option, to the command line
    else:
        line = refused("new-module", name, "--folder", tmp_path)
        for part in parts:
            assert part in line
    assert list(tmp_path.iterdir()) == []


def test_the_name_of_another_packages_module_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "site", monkeypatch, "theirs", "my_attention = theirs:Mine", None)
    line = refused("new-module", "my-attention", "--folder", tmp_path)
    assert "package theirs 1.2 has a module 'my_attention' already" in line


def test_what_exists_already_is_left_alone(tmp_path: Path) -> None:
    folder, file, link = tmp_path / "my-folder", tmp_path / "my-file", tmp_path / "my-link"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    file.write_text("mine")
    link.symlink_to(tmp_path / "nowhere")
    before = tree(tmp_path)
    for path in (folder, file, link):
        assert f"'{path}' exists already" in refused("new-module", path.name, "--folder", tmp_path)
    assert tree(tmp_path) == before
    assert "'/no/where' is not a folder" in refused("new-module", "my-attention", "--folder", "/no/where")
    assert "cannot be written" in refused("new-module", "my-attention", "--folder", "/proc")


def test_a_failure_halfway_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_the_way = {"a.py": "", "a.py/b.py": ""}  # the second needs a folder where the first is a file
    monkeypatch.setattr(new_package, "files", lambda name, kind: in_the_way)
    assert "cannot be written" in refused("new-module", "my-attention", "--folder", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_wheel_carries_the_templates(tmp_path: Path, python: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    root, source = Path(__file__).parents[1], tmp_path / "source"
    for package in ("attnbench", "baselines", "configs"):
        shutil.copytree(root / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    (source / "results").mkdir()
    for file in ("pyproject.toml", "README.md", "LICENSE", "results/__init__.py", "results/published.csv"):
        shutil.copy(root / file, source / file)
    python("-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", tmp_path, source)
    (built,) = tmp_path.glob("*.whl")
    carried = {Path(name).name for name in zipfile.ZipFile(built).namelist() if name.startswith("attnbench/contract/template/")}
    assert (
        carried
        == {*MODULE.templates, *METRIC.templates}
        == {path.name for path in (root / "attnbench" / "contract" / "template").iterdir()}
    )
