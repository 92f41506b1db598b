"""For users who care about the cost of a step: `attnbench bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attnbench.cli.app import app
from attnbench.cli.options import Device, split_list, whole_numbers


@app.command(
    epilog="""Examples:

`attnbench bench`

`attnbench bench --modules sga --recipe official --sizes 256 --set train.batch_size=16 --growth ""`

`attnbench bench --sizes 256,512 --precisions bfloat16,tf32,float32 --growth 128,256,512,1024`, on a GPU: an hour
"""
)
def bench(
    modules: Annotated[
        str, typer.Option("--modules", "-m", help="Modules, comma-separated. \\[default: the paper's six]")
    ] = "",
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", "-r", help="A built-in recipe or a YAML file. \\[default: fast; on a CPU official]"),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a key of the recipe. Repeatable. \\[default on a CPU: train.batch_size=4]"),
    ] = None,
    sizes: Annotated[
        str | None,
        typer.Option("--sizes", help="Image sizes in pixels, comma-separated. \\[default: 256; on a CPU 64,128]"),
    ] = None,
    precisions: Annotated[
        str | None, typer.Option("--precisions", help="Any of float32, tf32, bfloat16. \\[default: bfloat16; on a CPU float32]")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option("--steps", min=1, help="Steps to time, each after an untimed one. \\[default: 10; on a CPU 2]"),
    ] = None,
    baseline: Annotated[
        bool, typer.Option("--baseline/--no-baseline", help="Time the released code's step in between, for the speed-up.")
    ] = True,
    growth: Annotated[
        str | None,
        typer.Option("--growth", help="Image sizes at which to time modules alone. \\[default: none; on a CPU 64 to 512]"),
    ] = None,
    store: Annotated[
        Path, typer.Option("--output", "-o", help="Results folder; bench/<device>-<recipe>.json and plots go there.")
    ] = Path("results"),
    device: Device = None,
) -> None:
    """Time a training step; count parameters and FLOPs.

    For each module, image size and precision: milliseconds, memory, operations, the share of what the device can do, and the
    speed-up over a step of the paper's released code (with SGA). Plots show how costs grow.
    """
    from attnbench.bench.measure import bench as measure
    from attnbench.bench.output import rows_to_text
    from attnbench.bench.plan import plan_bench
    from attnbench.devices import pick_device
    from attnbench.store.folder import open_store

    chosen = pick_device(device)
    plan = plan_bench(
        chosen,
        modules=split_list(modules),
        recipe=recipe,
        overrides=overrides,
        sizes=None if sizes is None else whole_numbers(sizes, "--sizes"),
        precisions=None if precisions is None else split_list(precisions),
        steps=steps,
        baseline=baseline,
        growth=None if growth is None else whole_numbers(growth, "--growth"),
    )
    rows, files = measure(plan, chosen, open_store(store))
    typer.echo(rows_to_text(rows))
    for file in files:
        typer.echo(f"written to {file}")
