"""The application that commands are added to."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

ORDER = (  # of commands in the help, whichever file is imported first
    "list", "run", "cell", "measure", "migrate", "pairs", "score", "status", "table", "compare", "report", "merge", "colorize",
    "export", "new-module", "check", "new-metric", "check-metric", "analyze", "bench", "weights", "schema",
)  # fmt: skip


class PlainGroup(TyperGroup):
    """Lists the commands without rich, whose import takes longer than all else; each command's own help still uses it."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{**settings, "rich_markup_mode": None})

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(self.commands, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))


app = typer.Typer(
    name="attnbench",
    cls=PlainGroup,
    help="Benchmark attention (correspondence) modules for reference-based line-art colorization.",
    epilog="Start with `attnbench run` for a first example, or `attnbench list` for what is installed.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
