"""A new metric's package: an error of colours to start from."""

from __future__ import annotations

from pathlib import Path

from attnbench import plugins
from attnbench.contract.new_package import Kind, new_package

METRIC = Kind(
    group=plugins.METRICS,
    noun="metric",
    described="a metric",
    example="my-metric",
    templates={
        "pyproject.toml.txt": "pyproject.toml",
        "metric.py.txt": "$module.py",
        "test_metric.py.txt": "tests/test_$module.py",
        "metric_readme.md.txt": "README.md",
        "gitignore.txt": ".gitignore",
    },
)


def new_metric(name: str, folder: Path = Path()) -> Path:
    """Write the package `name` into `folder/name`; arguments and errors as of `new_package`."""
    return new_package(name, METRIC, folder)
