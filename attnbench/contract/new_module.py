"""A new module's package: cross attention to start from."""

from __future__ import annotations

from pathlib import Path

from attnbench import plugins
from attnbench.contract.new_package import Kind, new_package

MODULE = Kind(
    group=plugins.MODULES,
    noun="module",
    described="a correspondence module",
    example="my-attention",
    templates={
        "pyproject.toml.txt": "pyproject.toml",
        "module.py.txt": "$module.py",
        "test_module.py.txt": "tests/test_$module.py",
        "module_readme.md.txt": "README.md",
        "gitignore.txt": ".gitignore",
    },
)


def new_module(name: str, folder: Path = Path()) -> Path:
    """Write the package `name` into `folder/name`; arguments and errors as of `new_package`."""
    return new_package(name, MODULE, folder)
