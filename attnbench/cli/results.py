"""For users who read results: their progress, an HTML page, and results from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attnbench.cli.app import app
from attnbench.cli.options import StoreArgument
from attnbench.errors import UserError


@app.command(epilog="Examples: `attnbench status results/`, `watch attnbench status results/`")
def status(store: StoreArgument = Path("results")) -> None:
    """Show the progress of a results folder's cells.

    Finished, running (step, losses, speed, time left), waiting, failed or stale.

    It only reads the folder, so it works from any machine that can.
    """
    from attnbench.cli import show
    from attnbench.tables.status import status_of

    show.status(status_of(store))


@app.command(
    epilog="Examples: `attnbench report results/`, `attnbench report results/ -o for-the-group.html --pairs 30`, "
    "`attnbench report results/ --serve`, while a grid runs"
)
def report(
    store: StoreArgument = Path("results"),
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write. \\[default: report.html in the results folder]")
    ] = None,
    pairs: Annotated[
        int, typer.Option("--pairs", min=1, help="Test pairs of each dataset in the image grid, besides the best and worst.")
    ] = 12,
    serve: Annotated[bool, typer.Option("--serve", help="Serve it on this machine instead, live while a grid runs.")] = False,
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, help="Port of --serve; 0 for any free one. \\[default: 8765]")
    ] = None,
) -> None:
    """Write one HTML page about a results folder.

    Tables, quality against cost, pictures side by side, curves, and each cell's command, recipe, provenance and failure.

    The file is self-contained and needs no network.
    """
    if serve and output is not None:
        raise UserError("--output is not for --serve")
    if not serve and port is not None:
        raise UserError("--port is for --serve")
    if serve:
        from attnbench.report.serve import serve as serve_page

        def ready(address: str) -> None:
            typer.echo(f"{address} shows '{store}'; press Ctrl-C to stop")

        serve_page(store, 8765 if port is None else port, pairs=pairs, ready=ready)
        return
    from attnbench.report.page import write_report

    target = write_report(store, output, pairs=pairs)
    typer.echo(f"written to {target} ({target.stat().st_size / 1e6:.1f} MB): open it in a browser")


@app.command(epilog="Example: `attnbench merge /mnt/lab/results results/`, then `attnbench run` runs what is still missing")
def merge(
    other: Annotated[Path, typer.Argument(help="Results folder to copy finished cells from; it is not changed.")],
    store: StoreArgument = Path("results"),
) -> None:
    """Copy in finished cells that somebody else measured.

    They count as if measured here. A cell whose record does not match its identity is left out. A cell that is finished in
    both folders is not copied.
    """
    from attnbench.store.merge import merge as merge_stores

    typer.echo(str(merge_stores(other, store)))
