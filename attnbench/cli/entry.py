"""The console script."""

from __future__ import annotations

import sys

import typer

from attnbench.cli import analyze, authors, bench, cell, installed, measure, models, pictures, results, run, tables
from attnbench.cli.app import app
from attnbench.console import messages_shown
from attnbench.errors import Interrupted, UserError
from attnbench.openmp import limit_spinning

# Importing these modules adds their commands to the application.
COMMANDS = (analyze, authors, bench, cell, installed, measure, models, pictures, results, run, tables)


def main() -> None:
    """Run the command line. A user error is one line on stderr and exit code 2."""
    limit_spinning()
    try:
        with messages_shown():
            app()
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except Interrupted as interrupted:
        typer.echo(f"{interrupted}; everything is saved, the same command continues from there", err=True)
        sys.exit(130)
    except SystemExit as ended:
        if ended.code == 130:  # Typer's exit code for a KeyboardInterrupt
            typer.echo("stopped; nothing saved is lost, the same command continues", err=True)
        raise
