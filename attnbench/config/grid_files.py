"""Grids: named sets of variants and datasets, such as the paper's three tables.

title: "Table 3: ablation of SGA"
datasets: [anime, cat, dog, wild]
variants:
  - {module: sga, label: SGA}
  - {module: sga, options: {stop_gradient: false}, label: SGA w/o stop-gradient}
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from attnbench.config.yaml_files import built_in_files, read_mapping, validated

COMPARISON = "comparison"  # the grid that sets the order of modules in tables


class GridVariant(BaseModel):
    """A variant: a module with options and the label of its row."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    module: str
    options: dict[str, JsonValue] = {}
    label: str | None = None


class GridFile(BaseModel):
    """The contents of a grid file; the rows of its table follow the order of the variants.

    Attributes:
        datasets: the default if the command line names none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    datasets: tuple[str, ...] = ()
    variants: tuple[GridVariant, ...] = Field(min_length=1)


def load_grid(name_or_path: str | Path) -> GridFile:
    """Read a built-in grid by name, or a YAML file by path.

    Raises:
        UserError: an unknown grid or key, a value of the wrong type.
    """
    return validated(GridFile, read_mapping("grid", name_or_path, built_in_files("grids")), f"grid '{name_or_path}'")


@cache
def built_in_grids() -> dict[str, GridFile]:
    """The grids that come with the package (the files of `configs/grids/`)."""
    return {name: GridFile.model_validate(yaml.safe_load(text)) for name, text in sorted(built_in_files("grids").items())}


def paper_label(module: str, options: Mapping[str, Any]) -> str | None:
    """The label of a module with these options in the built-in grids (the paper's tables), or None."""
    for grid in built_in_grids().values():
        for entry in grid.variants:
            if entry.module == module and entry.options == dict(options):
                return entry.label
    return None


def title_with_options(title: str, options: Mapping[str, Any]) -> str:
    """`SGA (stop_gradient=false, double_norm=false)`, or the title alone."""
    shown = ", ".join(f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in options.items())
    return f"{title} ({shown})" if shown else title
