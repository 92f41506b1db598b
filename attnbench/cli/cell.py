"""For users who run single cells by hand, or with a scheduler of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from attnbench.cli.app import app
from attnbench.cli.options import LogTo, RecordGradients, RerunStale, RetryFailed


@app.command(
    epilog="""Examples:

`attnbench cell results/sga-cat-seed0-1a2b3c4d5e --device cuda:1`
`attnbench run --grid comparison --executor commands | parallel -j4`

Exit codes: 0 finished; 1 failed or diverged, which is recorded; 2 bad input; 3 the disk is full; 75 another process is running
the cell; 130 interrupted, everything saved.
"""
)
def cell(
    folder: Annotated[Path, typer.Argument(help="A planned cell's folder in the results folder.")],
    device: Annotated[
        str | None, typer.Option("--device", help="cpu, cuda, cuda:1, ... \\[default: the first GPU, or the CPU]")
    ] = None,
    checkpoint_minutes: Annotated[
        float | None,
        typer.Option("--checkpoint-minutes", min=0, help="Time between checkpoints. \\[default: the run's]"),
    ] = None,
    retry_failed: RetryFailed = False,
    rerun_stale: RerunStale = False,
    record_gradients: RecordGradients = False,
    log_to: LogTo = None,
    options: Annotated[str | None, typer.Option("--options", hidden=True, help="All options of the run, as JSON.")] = None,
    stop_at_eof: Annotated[
        bool, typer.Option("--stop-at-eof", help="Save and stop when standard input ends, as when the parent process dies.")
    ] = False,
) -> None:
    """Run one cell by hand, as `run` does for each.

    It continues from its checkpoint, with the checkpoint interval of the run that planned it, and records gradients and logs to
    TensorBoard if that did.
    `attnbench run` plans cells; with `--executor commands`, it only plans them and prints these commands.
    """
    from attnbench.execute.one_cell import run_planned_cell
    from attnbench.store.job import RunOptions

    given = {
        "checkpoint_minutes": checkpoint_minutes,
        "retry_failed": retry_failed or None,
        "rerun_stale": rerun_stale or None,
        "record_gradients": record_gradients or None,
        "log_to": log_to,
    }
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if log_to == "none":
        changes["log_to"] = None  # whatever the run's is
    code = run_planned_cell(
        folder,
        device=device,
        options=RunOptions.model_validate_json(options) if options else None,
        changes=changes,
        stop_at_eof=stop_at_eof,
    )
    if code:
        raise typer.Exit(code)
