"""What `pip install` of this project brings with it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
from runs import Python

ROOT = Path(__file__).resolve().parents[1]
PLACES = {"attnbench": "attnbench", "baselines": "attnbench_baselines", "configs": "attnbench_configs"}

SDIST = "from setuptools import build_meta; build_meta.build_sdist('dist')"  # as pip does it, which has no command for it
ASKED = "from attnbench.cells import provenance; print(provenance.__file__, provenance.commit())"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """What is to be packaged, as files outside of any checkout."""
    copy = tmp_path / "source"
    for package in ("attnbench", "baselines", "configs"):
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "results").mkdir()
    for file in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "results/__init__.py", "results/published.csv"):
        shutil.copy(ROOT / file, copy / file)
    return copy


def git(folder: Path, *arguments: str) -> str:
    somebody = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *somebody, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def committed(source: Path) -> str:
    """The commit of a new checkout that has all of these files."""
    git(source, "init", "-q")
    git(source, "add", ".")
    git(source, "commit", "-q", "-m", "all")
    return git(source, "rev-parse", "HEAD")


def wheel_of(source: Path, folder: Path, python: Python) -> Path:
    """A wheel of a folder or a source distribution, in a folder that has none."""
    python("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q", "-w", folder, source)
    (wheel,) = folder.glob("*.whl")
    return wheel


def sdist_of(source: Path, python: Python) -> Path:
    python("-c", SDIST, cwd=source)
    (archive,) = (source / "dist").glob("*.tar.gz")
    return archive


def commit_of(wheel: Path, python: Python) -> str:
    """The commit that attnbench gives as its own where only this wheel is installed."""
    site = wheel.with_suffix("")
    zipfile.ZipFile(wheel).extractall(site)
    file, commit = python("-P", "-c", ASKED, cwd=wheel.parent, env={**os.environ, "PYTHONPATH": str(site)}).stdout.split()
    assert Path(file).is_relative_to(site)
    return str(commit)


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
    held = set(zipfile.ZipFile(wheel_of(source, tmp_path, python)).namelist())
    wanted = {PLACES[top] + name.removeprefix(top) for name in names if (top := name.split("/")[0]) in PLACES and "/" in name}
    assert not wanted - held


def test_a_wheel_names_the_commit_it_was_built_from_and_whether_files_had_changed(
    source: Path, tmp_path: Path, python: Python
) -> None:
    commit = committed(source)
    assert commit_of(wheel_of(source, tmp_path / "clean", python), python) == commit
    assert git(source, "status", "--porcelain", "attnbench") == ""  # nothing is written to the checkout

    with (source / "attnbench" / "errors.py").open("a") as file:
        file.write("# changed\n")
    assert commit_of(wheel_of(source, tmp_path / "changed", python), python) == f"{commit}-dirty"

    shutil.rmtree(source / ".git")  # but not build/, where the last build left its commit
    assert commit_of(wheel_of(source, tmp_path / "no-checkout", python), python) == "None"


def test_a_source_distribution_and_its_wheel_name_the_commit(source: Path, tmp_path: Path, python: Python) -> None:
    commit = committed(source)
    archive = sdist_of(source, python)
    assert commit_of(wheel_of(archive, tmp_path / "wheel", python), python) == commit

    with tarfile.open(archive) as members:
        members.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    assert commit_of(wheel_of(sdist_of(unpacked, python), tmp_path / "again", python), python) == commit


def test_without_git_a_wheel_is_built_and_names_no_commit(
    source: Path, tmp_path: Path, python: Python, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed(source)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert commit_of(wheel_of(source, tmp_path / "wheel", python), python) == "None"


def test_an_editable_install_leaves_no_commit_in_its_checkout_which_is_asked_each_time(
    source: Path, tmp_path: Path, python: Python
) -> None:
    commit = committed(source)
    options = ("--no-deps", "--no-build-isolation", "--no-index", "-q", "--target", tmp_path / "site")
    python("-m", "pip", "install", *options, "--editable", source)
    assert not list(source.rglob("COMMIT"))
    (source / "LICENSE").write_text("changed since")
    asked = python("-P", "-c", ASKED, env={**os.environ, "PYTHONPATH": str(source)})
    assert asked.stdout.split() == [str(source / "attnbench" / "cells" / "provenance.py"), f"{commit}-dirty"]
