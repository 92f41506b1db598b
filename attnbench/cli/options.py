"""Options shared by several commands, and parsers of their values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from attnbench.errors import UserError

StoreArgument = Annotated[Path, typer.Argument(help="Results folder.", show_default=True)]
Device = Annotated[str | None, typer.Option("--device", help="\\[default: the first GPU, or the CPU]")]
DataRoot = Annotated[
    Path | None, typer.Option("--data-root", envvar="ATTNBENCH_DATA", help="Folder that holds the datasets' folders.")
]
TorchHome = Annotated[
    Path | None, typer.Option("--torch-home", help="Folder with pretrained weights, in torch hub's layout [TORCH_HOME].")
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Change a key of the recipe: `--set train.epochs=1`. Repeatable.")
]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Run failed and diverged cells again.")]
RerunStale = Annotated[
    bool, typer.Option("--rerun-stale", help="Run cells again if their module's code has changed since; the old ones are kept.")
]
RecordGradients = Annotated[
    bool,
    typer.Option(
        "--record-gradients", help="Record, every epoch, how the module's branches agree: `attnbench analyze gradients`."
    ),
]

LogTo = Annotated[
    str | None,
    typer.Option("--log-to", help="Log losses and sample pictures there too: `tensorboard`, in the cell's folder; or `none`."),
]


def split_list(text: str) -> list[str]:
    """Items of a comma-separated list."""
    return [item.strip() for item in text.split(",") if item.strip()]


def whole_numbers(text: str, option: str) -> list[int]:
    try:
        return [int(item) for item in split_list(text)]
    except ValueError:
        raise UserError(f"{option} {text}: expected comma-separated whole numbers, such as 0,1,2") from None


def assignments(texts: Sequence[str], option: str) -> dict[str, str]:
    """Texts of the form `key=value` as a dictionary; dashes before a key are dropped."""
    pairs = [text.partition("=") for text in texts]
    for text, (key, _, _) in zip(texts, pairs, strict=True):
        if not key:
            raise UserError(f"{option} {text}: expected option=value, for example {option} account=lab")
    return {key.lstrip("-"): value for key, _, value in pairs}
