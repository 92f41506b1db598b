"""What is installed here: plug-ins, recipes, grids, pretrained weights, and the schemas of stored files."""

from __future__ import annotations

from typing import Annotated

import typer

from attnbench.cli.app import app
from attnbench.cli.options import TorchHome, split_list
from attnbench.errors import UserError, unknown


@app.command("list")
def list_() -> None:
    """List what is installed: modules, datasets, metrics, methods, recipes, grids.

    Plug-ins are shown with their package and its version. A plug-in that cannot be imported is shown with its error; the
    others work.
    """
    from attnbench.cli import show

    show.installed_here()


@app.command("weights")
def weights_(
    download: Annotated[str, typer.Option("--download", help="Names, comma-separated, or `all`.")] = "",
    torch_home: TorchHome = None,
) -> None:
    """Show or download pretrained weights.

    For each network of the losses and metrics: whether its weights are on this machine, and where.
    """
    from attnbench import weights

    weights.use_torch_home(torch_home)
    catalogue = weights.catalogue()
    wanted = list(catalogue) if download == "all" else split_list(download)
    for name in wanted:
        try:
            weights.find_or_download(name)
        except weights.MissingWeights as missing:
            raise UserError(str(missing)) from None
    widths = [max(map(len, column)) for column in (catalogue, [entry.purpose for entry in catalogue.values()])]
    for name, entry in catalogue.items():
        place = weights.find(name) or f"missing ({entry.file})"
        typer.echo(f"{name:{widths[0]}}  {entry.purpose:{widths[1]}}  {place}")


@app.command(epilog="Example: `attnbench schema cell > cell.schema.json`")
def schema(name: Annotated[str, typer.Argument(help="cell, recipe or grid.")] = "cell") -> None:
    """Print the JSON schema of a stored file.

    `cell` is a cell's record, cell.json; `recipe` and `grid` describe YAML files of these kinds.
    """
    import json

    from pydantic import BaseModel

    from attnbench.cells.record import Record
    from attnbench.config.grid_files import GridFile
    from attnbench.config.recipe import Recipe

    models: dict[str, type[BaseModel]] = {"cell": Record, "recipe": Recipe, "grid": GridFile}
    if name not in models:
        raise unknown("schema", name, models)
    typer.echo(json.dumps(models[name].model_json_schema(), indent=1))
