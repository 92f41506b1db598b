"""For authors of modules: a package to start from, and the contract's checks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attnbench.cli.app import app
from attnbench.cli.options import Device


@app.command("new-module", epilog="Example: `attnbench new-module my-attention`")
def new_module_(
    name: Annotated[str, typer.Argument(help="The package's name; `my-attention` gives the module `my_attention`.")],
    folder: Annotated[Path, typer.Option("--folder", help="Where to create the package's folder.")] = Path(),
) -> None:
    """Write a package with a module of your own to start from.

    Ready to install, test and train.
    """
    import shlex

    from attnbench.contract.new_module import module_name, new_module

    target = new_module(name, folder.expanduser())
    module = module_name(name)
    typer.echo(f"written: {target / (module + '.py')}, its test and its package. Next:\n")
    typer.echo(f"  pip install -e {shlex.quote(str(target))}")
    typer.echo(f"  attnbench check {module}")
    typer.echo(f"  attnbench run --recipe demo --modules {module},sga --datasets synthetic")


@app.command(
    epilog="""Examples:

`attnbench check sga`
`attnbench check sga:stop_gradient=false`
`attnbench check my_package:MyAttention:heads=4 --channels 256`

Exit codes: 0 nothing failed; 1 something failed; 2 bad input.
"""
)
def check(
    module: Annotated[str, typer.Argument(help="A module of `attnbench list`, or an import path: `my_package:MyAttention`.")],
    channels: Annotated[int, typer.Option("--channels", "-c", min=1, help="Channels of the feature maps.")] = 992,
    size: Annotated[int, typer.Option("--size", min=1, help="Largest height and width of the feature maps.")] = 16,
    device: Device = None,
    costs: Annotated[bool, typer.Option("--costs/--no-costs", help="Compare costs with the built-in modules'.")] = True,
) -> None:
    """Check a module against the contract that all modules keep.

    Shapes, gradients, precisions, checkpoints, devices, compilers, probes.

    The module's author has to fix what `failed`; a `note` is for information.
    """
    from rich.console import Console

    from attnbench.cli import show

    with Console(stderr=True).status(f"checking {module}"):
        from attnbench.contract.checking import check as check_contract

        report = check_contract(module, channels, size=size, device=device, costs=costs)
    show.check_report(report)
    if not report.passed:
        raise typer.Exit(1)
