"""For users who measure what is trained: metrics that came later, other protocols, older results folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attnbench.cli.app import app
from attnbench.cli.options import DataRoot, Device, Overrides, StoreArgument, TorchHome, split_list
from attnbench.cli.run_flags import EvaluationBatch, Limit, Pictures, PicturesChoice, References
from attnbench.errors import UserError


@app.command(
    epilog="""Examples:

`attnbench measure results/`: what the cells' runs asked for and is missing
`attnbench measure results/ --metrics my_metric`: a column more in the table, under the protocols that the cells have
`attnbench measure results/ --set evaluation.references=same`: another protocol
`attnbench measure results/ --limit 50 --evaluation-batch 4`

Exit codes: 0 everything is measured; 1 cells were left out or numbers are empty, with the reason; 2 bad input, or a full disk;
130 interrupted.
"""
)
def measure(
    store: StoreArgument = Path("results"),
    metrics: Annotated[
        str,
        typer.Option(
            "--metrics",
            help="Metrics, comma-separated, options as `name:option=value`. \\[default: those of the cell's run]",
        ),
    ] = "",
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", "-r", help="Measure as this recipe says. \\[default: as the run of each cell asked]"),
    ] = None,
    overrides: Overrides = None,
    limit: Limit = None,
    references: References = None,
    again: Annotated[bool, typer.Option("--again", help="Measure again what is measured already.")] = False,
    pictures: Pictures = PicturesChoice.lossless,
    evaluation_batch: EvaluationBatch = 16,
    data_root: DataRoot = None,
    torch_home: TorchHome = None,
    device: Device = None,
) -> None:
    """Measure trained cells by metrics or protocols that they lack; nothing is trained.

    From their networks, or from the test pictures that they kept.
    """
    from attnbench.config.recipe import limited
    from attnbench.execute.measure_store import MeasureRequest, measure_store
    from attnbench.store.job import run_options

    if metrics and not split_list(metrics):
        raise UserError(f"--metrics {metrics}: it names no metric; `attnbench list` shows them")
    request = MeasureRequest(
        store=store,
        metrics=split_list(metrics),
        recipe=recipe,
        overrides=limited(overrides or (), limit, references),
        options=run_options(references=references, again=again, pictures=pictures.value, evaluation_batch=evaluation_batch),
        data_root=data_root,
        torch_home=torch_home,
        device=device,
    )
    outcome = measure_store(request)
    typer.echo(f"{outcome}; `attnbench table {store}`")
    if not outcome.complete:
        raise typer.Exit(1)


@app.command(epilog="Example: `attnbench migrate results/ --data-root ~/data`")
def migrate(store: StoreArgument = Path("results"), data_root: DataRoot = None) -> None:
    """Take over cells that an older attnbench made.

    Their numbers become measurements of their own, so that another metric or protocol trains nothing anew. The images of a cell
    have to be at hand; a cell without them stays as it is, and tables go on reading it.
    """
    from attnbench.execute.migrate import migrate as migrate_store

    typer.echo(str(migrate_store(store, data_root)))
