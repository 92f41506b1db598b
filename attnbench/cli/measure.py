"""For users who measure what is trained: metrics that came later, other protocols, older results folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attnbench.cli.app import app
from attnbench.cli.options import DataRoot, Device, Overrides, StoreArgument, TorchHome, split_list
from attnbench.cli.run_flags import EvaluationBatch, Limit, Pictures, PicturesChoice, RecipeChoice, References


@app.command(
    epilog="""Examples:

`attnbench measure results/`: what `run` would measure and is missing
`attnbench measure results/ --metrics my_metric`: a column more in the table, under the protocols that the cells have
`attnbench measure results/ --set evaluation.references=same`: another protocol
`attnbench measure results/ --limit 50 --evaluation-batch 4`

Exit codes: 0 everything is measured; 1 some cells were left out, with the reason; 2 bad input, or a full disk; 130 interrupted.
"""
)
def measure(
    store: StoreArgument = Path("results"),
    metrics: Annotated[
        str,
        typer.Option("--metrics", help="Metrics, comma-separated, options as `name:option=value`. \\[default: the recipe's]"),
    ] = "",
    recipe: RecipeChoice = "official",
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

    request = MeasureRequest(
        store=store,
        metrics=split_list(metrics),
        recipe=recipe,
        overrides=[*(overrides or ()), *limited(limit)],
        options=run_options(references=references, again=again, pictures=pictures, evaluation_batch=evaluation_batch),
        data_root=data_root,
        torch_home=torch_home,
        device=device,
    )
    outcome = measure_store(request)
    typer.echo(f"{outcome}; `attnbench table {store}`")
    if outcome.left_out:
        raise typer.Exit(1)


@app.command(epilog="Example: `attnbench migrate results/ --data-root ~/data`")
def migrate(store: StoreArgument = Path("results"), data_root: DataRoot = None) -> None:
    """Take over cells that an older attnbench made.

    Their numbers become measurements of their own, so that another metric or protocol trains nothing anew. The images of a cell
    have to be at hand; a cell without them stays as it is, and tables go on reading it.
    """
    from attnbench.execute.migrate import migrate as migrate_store

    typer.echo(str(migrate_store(store, data_root)))
