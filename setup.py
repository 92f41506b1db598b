"""The commit that attnbench is built from: wheels and source distributions carry it as attnbench/COMMIT, for provenance.

What is installed has no checkout to ask. setuptools-scm would bring the commit along too, but would make the version depend on
git's tags; the version, and all else, is in pyproject.toml. The file is written into what is built and never into the checkout:
an editable install goes on asking git (attnbench/cells/provenance.py).
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

ROOT, CARRIED = Path(__file__).resolve().parent, Path("attnbench", "COMMIT")


def commit() -> str:
    """Of this checkout, or that which an unpacked source distribution carries; empty where there is neither, or no git."""
    if not (ROOT / ".git").exists():
        return (ROOT / CARRIED).read_text() if (ROOT / CARRIED).is_file() else ""
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(describe, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


class BuildWithCommit(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode:  # which builds nothing
            Path(self.build_lib, CARRIED).write_text(commit())  # even if empty: an earlier build's may lie there


class SdistWithCommit(sdist):
    def make_release_tree(self, base_dir: str, files: Sequence[str]) -> None:
        super().make_release_tree(base_dir, files)
        Path(base_dir, CARRIED).write_text(commit())


setup(cmdclass={"build_py": BuildWithCommit, "sdist": SdistWithCommit})
