"""For users who compare modules: tables, and tests of differences."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attnbench.cli.app import app
from attnbench.cli.options import StoreArgument, split_list
from attnbench.errors import UserError


@app.command(
    epilog="Examples: `attnbench table results/ --format latex`, `attnbench table results/ --grid ablation --published`, "
    "`attnbench table results/ --costs --significance`"
)
def table(
    store: StoreArgument = Path("results"),
    style: Annotated[str, typer.Option("--format", "-f", help="text, md, latex, csv or html.")] = "text",
    metrics: Annotated[
        str,
        typer.Option("--metrics", help="Columns, comma-separated, as `attnbench list` names them, with options or without."),
    ] = "",
    grid: Annotated[
        str | None, typer.Option("--grid", "-g", help="Only the rows of a built-in grid or a YAML file, in its order.")
    ] = None,
    published: Annotated[
        bool, typer.Option("--published", help="Add the paper's number to each of ours, and the difference.")
    ] = False,
    costs: Annotated[bool, typer.Option("--costs", help="Add parameters, GFLOP, images per second and peak memory.")] = False,
    significance: Annotated[
        bool, typer.Option("--significance", help="Mark values not significantly different from their column's best.")
    ] = False,
    epoch: Annotated[str, typer.Option("--epoch", help="last, or best where every epoch was measured.")] = "last",
) -> None:
    """Compile the table of a results folder.

    The best is bold, the second underlined; CSV has one row per cell and measurement.
    """
    from attnbench.store.frame import without_collector

    with without_collector():  # for stores of thousands of cells
        from attnbench.cli import show
        from attnbench.config.grid_files import load_grid
        from attnbench.errors import unknown
        from attnbench.store.frame import results
        from attnbench.tables.compile import for_pandas, render_table, tables
        from attnbench.tables.formats import FORMATS

        if style not in FORMATS:
            raise unknown("format", style, FORMATS)
        if epoch not in ("last", "best"):
            raise unknown("epoch", epoch, ("last", "best"))
        refused = [
            name for name, value in (("--metrics", metrics), ("--costs", costs), ("--significance", significance)) if value
        ]
        if refused and style == "csv":
            raise UserError(f"{refused[0]} does not apply to --format csv, which has all that is known of each cell")
        rows = load_grid(grid) if grid is not None else None
        frame = results(store)
        if style == "csv":
            typer.echo(for_pandas(frame, grid=rows, with_published=published).to_csv(index=False), nl=False)
            return
        found = tables(
            frame,
            grid=rows,
            metrics=split_list(metrics),
            epoch=epoch,
            with_published=published,
            costs=costs,
            significance=significance,
            store=store,
        )
        if style == "text":
            show.sheets([one.sheet for one in found])
        else:
            typer.echo("\n".join(render_table(one, style) for one in found), nl=False)


@app.command(
    epilog="Examples: `attnbench compare results/ sga scft --published`, "
    "`attnbench compare results/ sga sga:stop_gradient=false`"
)
def compare(
    store: Annotated[Path, typer.Argument(help="Results folder.")],
    a: Annotated[str, typer.Argument(metavar="A", help="A module: `sga`, or `sga:stop_gradient=false`.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The module, or the pictures made elsewhere, to compare it with.")],
    metrics: Annotated[str, typer.Option("--metrics", help="Comma-separated. \\[default: all that were measured]")] = "",
    style: Annotated[str, typer.Option("--format", "-f", help="text, md, latex or csv.")] = "text",
    published: Annotated[bool, typer.Option("--published", help="Add the paper's differences to ours.")] = False,
) -> None:
    """Compare two modules: differences, intervals, p-values.

    The difference on each dataset with its interval and p-value, and the mean relative improvement.

    Both modules coloured the same pairs, so the tests are paired: over the seeds that both have, and over the test images.
    """
    from attnbench.cli import show
    from attnbench.errors import unknown
    from attnbench.store.frame import results
    from attnbench.tables.comparison import COMPARISON_FORMATS, as_frame, comparisons, sheet
    from attnbench.tables.formats import written

    if style not in COMPARISON_FORMATS:
        raise unknown("format", style, COMPARISON_FORMATS)
    found = comparisons(results(store), a, b, metrics=split_list(metrics), store=store)
    sheets = [sheet(one, with_published=published) for one in found]
    if style == "csv":
        typer.echo(as_frame(found).to_csv(index=False), nl=False)
    elif style == "text":
        show.sheets(sheets)
    else:
        typer.echo("\n".join(written(one, style) for one in sheets), nl=False)
