"""For authors of modules and metrics: a package to start from, and the contract's checks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attnbench.cli.app import app
from attnbench.cli.options import Device, TorchHome

if TYPE_CHECKING:
    from attnbench.contract.report import Report


Name = Annotated[str, typer.Argument(help="The package's name; `my-own` gives the plug-in `my_own`.")]
Place = Annotated[Path, typer.Option("--folder", help="Where to create the package's folder.")]


@app.command("new-module", epilog="Example: `attnbench new-module my-attention`")
def new_module_(name: Name, folder: Place = Path()) -> None:
    """Write a package with a module of your own to start from.

    Ready to install, test and train.
    """
    from attnbench.contract.new_module import new_module

    _next_steps(
        name,
        new_module(name, folder.expanduser()),
        "attnbench check {0}",
        "attnbench run --recipe demo --modules {0},sga --datasets synthetic",
    )


@app.command("new-metric", epilog="Example: `attnbench new-metric my-metric`")
def new_metric_(name: Name, folder: Place = Path()) -> None:
    """Write a package with a metric of your own to start from.

    Ready to install and test, and to measure cells that are trained already.
    """
    from attnbench.contract.new_metric import new_metric

    target = new_metric(name, folder.expanduser())
    _next_steps(name, target, "attnbench check-metric {0}", "attnbench measure results/ --metrics {0}")


def _next_steps(name: str, target: Path, *commands: str) -> None:
    import shlex

    from attnbench.contract.new_package import module_name

    plugin = module_name(name)
    typer.echo(f"written: {target / (plugin + '.py')}, its test and its package. Next:\n")
    for command in (f"pip install -e {shlex.quote(str(target))}", *(command.format(plugin) for command in commands)):
        typer.echo(f"  {command}")


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

    with Console(stderr=True).status(f"checking {module}"):
        from attnbench.contract.checking import check as check_contract

        report = check_contract(module, channels, size=size, device=device, costs=costs)
    _show(report)


@app.command(
    "check-metric",
    epilog="""Examples:

`attnbench check-metric my_metric`
`attnbench check-metric my_package:MyMetric:block=4 --device cuda`

Exit codes: 0 nothing failed; 1 something failed; 2 bad input.
""",
)
def check_metric_(
    metric: Annotated[str, typer.Argument(help="A metric of `attnbench list`, or an import path: `my_package:MyMetric`.")],
    device: Device = None,
    torch_home: TorchHome = None,
) -> None:
    """Check a metric against the contract that all metrics keep.

    What it says of itself, its numbers, range and direction; and that nothing else changes them: the batch, the order, what
    was measured before, missing weights.

    The metric's author has to fix what `failed`; a `note` is for information.
    """
    from rich.console import Console

    with Console(stderr=True).status(f"checking {metric}"):
        from attnbench import weights
        from attnbench.contract.metric_checking import check_metric

        weights.use_torch_home(torch_home)
        report = check_metric(metric, device=device)
    _show(report)


def _show(report: Report) -> None:
    from attnbench.cli import show

    show.check_report(report)
    if not report.passed:
        raise typer.Exit(1)
