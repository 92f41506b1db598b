"""The command line. Each command parses, calls one function and prints; heavy imports wait until a command needs them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attnbench.errors import Interrupted, UserError

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table as RichTable

    from attnbench.cell import Settings
    from attnbench.contract import Report
    from attnbench.grid import Cell
    from attnbench.grid_file import GridFile
    from attnbench.tables import Table

app = typer.Typer(
    name="attnbench",
    help="Benchmark attention (correspondence) modules for reference-based line-art colorization.",
    epilog="Start with `attnbench run` for a first example, or `attnbench list` for what is installed.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_FIRST_STEPS = """\
attnbench run trains every module on every dataset, evaluates it, and prints the table.

  attnbench run --recipe demo --modules sga,scft --datasets synthetic
      a first look: cartoon heads drawn here, a few minutes on two CPU cores, nothing to download

  attnbench run --modules sga,scft --datasets anime,cat --data-root ~/data
      the paper's protocol; images in ~/data/anime and ~/data/cat (or ~/data/afhq)

  attnbench run --modules sga,sga:stop_gradient=false --datasets mine=path/to/images --dry-run
      a module with an option, a folder of your own; --dry-run only says what would be done

The same command again does only what is missing. `attnbench run --help` lists every option.
"""

StoreArgument = Annotated[Path, typer.Argument(help="Results folder.", show_default=True)]


@app.command("list")
def list_() -> None:
    """List modules, datasets, recipes and grids: what is installed, from which package and version.

    A plug-in that cannot be imported is shown with its error; the others work.
    """
    from importlib.metadata import version

    from rich.console import Console
    from rich.text import Text

    from attnbench import plugins
    from attnbench.grid_file import built_in_grids
    from attnbench.recipe import built_in_recipes

    console = Console(highlight=False)
    for title, group in (("Modules", plugins.MODULES), ("Datasets", plugins.DATASETS)):
        table = _listing(title)
        for plugin in plugins.installed(group):
            try:
                summary = _first_line(plugin.load().__doc__)
            except UserError as error:
                summary = f"broken: {error}"
            table.add_row(plugin.name, f"{plugin.package} {plugin.version}", Text(summary))
        console.print(table)
        console.print()
    table = _listing("Recipes")
    for name, text in sorted(built_in_recipes().items()):
        table.add_row(name, f"attnbench {version('attnbench')}", Text(_first_line(text).removeprefix("# ")))
    console.print(table)
    console.print()
    table = _listing("Grids")
    for name, grid in built_in_grids().items():
        table.add_row(name, f"attnbench {version('attnbench')}", Text(f"{grid.title}, {len(grid.variants)} variants"))
    console.print(table)


def _listing(title: str) -> RichTable:
    from rich.table import Table as RichTable

    return RichTable(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))


def _first_line(text: str | None) -> str:
    return (text or "").strip().split("\n")[0]


@app.command(
    epilog="""Examples:

- `attnbench run --recipe demo --modules sga,scft --datasets synthetic`
- `attnbench run --modules sga,scft --datasets anime,cat --data-root ~/data --set train.epochs=1`
- `attnbench run --modules sga:stop_gradient=false --datasets mine=path/to/images --seeds 0,1,2`
- `attnbench run --grid ablation --datasets cat --data-root ~/data`
- `attnbench run --grid comparison --modules mine --datasets cat`, six modules and yours

Exit codes: 0 all cells are finished; 1 some failed or diverged; 2 bad input; 130 interrupted.
"""
)
def run(
    modules: Annotated[
        str, typer.Option("--modules", "-m", help="Modules, comma-separated; options as `sga:stop_gradient=false`.")
    ] = "",
    datasets: Annotated[
        str,
        typer.Option("--datasets", "-d", help="Datasets, comma-separated: names, `name=folder`, `synthetic:train=200`."),
    ] = "",
    grid: Annotated[
        str | None,
        typer.Option("--grid", "-g", help="A built-in grid or a YAML file: its variants, and its datasets unless named."),
    ] = None,
    recipe: Annotated[str, typer.Option("--recipe", "-r", help="A built-in recipe or a YAML file.")] = "official",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Change a key of the recipe: `--set train.epochs=1`. Repeatable.")
    ] = None,
    seeds: Annotated[str, typer.Option("--seeds", help="Seeds, comma-separated.")] = "0",
    store: Annotated[Path, typer.Option("--output", "-o", help="Results folder.")] = Path("results"),
    data_root: Annotated[
        Path | None, typer.Option("--data-root", envvar="ATTNBENCH_DATA", help="Folder that holds the datasets' folders.")
    ] = None,
    torch_home: Annotated[
        Path | None, typer.Option("--torch-home", help="Folder with pretrained weights, in torch hub's layout [TORCH_HOME].")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="cpu, cuda, cuda:1, ... [default: the first GPU, or the CPU]")
    ] = None,
    checkpoint_minutes: Annotated[float, typer.Option("--checkpoint-minutes", min=0, help="Time between checkpoints.")] = 10.0,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed and diverged cells again.")] = False,
    skip_corrupt: Annotated[
        bool, typer.Option("--skip-corrupt", help="Leave out images that cannot be decoded, instead of refusing.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
) -> None:
    """Train and evaluate every module on every dataset, then print the table.

    Finished cells are not run twice; an interrupted one goes on where it was. Without arguments: first steps.
    """
    if not modules and not datasets and grid is None:
        typer.echo(_FIRST_STEPS)
        return
    if grid is None and not (modules and datasets):
        wanted = "--modules" if not modules else "--datasets"
        raise UserError(f"{wanted} is missing: `attnbench list` shows the choices, `attnbench run` examples")

    from attnbench import weights
    from attnbench.cell import Settings
    from attnbench.console import Reporter
    from attnbench.execute import execute, pick_device, plan
    from attnbench.grid import check_grid
    from attnbench.store import open_store, results

    weights.use_torch_home(torch_home)
    checked = check_grid(
        _listed(modules),
        _listed(datasets),
        recipe,
        grid=grid,
        overrides=overrides or (),
        seeds=_whole_numbers(seeds),
        data_root=data_root,
    )
    settings = Settings(
        device=pick_device(device),
        store=store if dry_run else open_store(store),
        checkpoint_seconds=60 * checkpoint_minutes,
        retry_failed=retry_failed,
    )
    reporter = Reporter()
    cells = plan(checked, reporter, skip_corrupt=skip_corrupt)
    if dry_run:
        _print_plan(cells, settings)
        return
    tally = execute(cells, settings, reporter)
    folders = {cell.folder_name for cell in cells}
    frame = results(store, reporter.say)
    _print_tables(frame[frame["folder"].isin(folders)])
    typer.echo(f"\nLook at {store / cells[0].folder_name / 'samples.png'} and its neighbours; `attnbench table {store}`")
    if tally.failed:
        raise typer.Exit(1)


@app.command(
    epilog="Examples: `attnbench table results/ --format latex`, `attnbench table results/ --grid ablation --published`, "
    "`attnbench table results/ --metrics fid,kid,lpips`"
)
def table(
    store: StoreArgument = Path("results"),
    style: Annotated[str, typer.Option("--format", "-f", help="text, md, latex, csv or html.")] = "text",
    metrics: Annotated[
        str, typer.Option("--metrics", help="Columns, comma-separated: fid, kid, ssim_global, ssim, lpips.")
    ] = "",
    grid: Annotated[
        str | None, typer.Option("--grid", "-g", help="Only the rows of a built-in grid or a YAML file, in its order.")
    ] = None,
    published: Annotated[bool, typer.Option("--published", help="The paper's number behind ours.")] = False,
    epoch: Annotated[str, typer.Option("--epoch", help="last, or best (by FID) where every epoch was measured.")] = "last",
) -> None:
    """Compile the table of a results folder: best bold, second underlined; CSV has one row a cell."""
    from attnbench.console import Reporter
    from attnbench.errors import unknown
    from attnbench.grid_file import load_grid
    from attnbench.rows import rows_of
    from attnbench.store import results
    from attnbench.tables import FORMATS, render, tables

    if style not in FORMATS:
        raise unknown("format", style, FORMATS)
    if epoch not in ("last", "best"):
        raise unknown("epoch", epoch, ("last", "best"))
    rows = load_grid(grid) if grid is not None else None
    frame = results(store, Reporter().say)
    if style == "csv":
        typer.echo((rows_of(frame, rows)[0] if rows else frame).to_csv(index=False), nl=False)
    elif style == "text":
        _print_tables(frame, _listed(metrics), epoch, published, rows)
    else:
        found = tables(frame, grid=rows, metrics=_listed(metrics), epoch=epoch, with_published=published)
        typer.echo("\n".join(render(one, style) for one in found), nl=False)


@app.command("weights")
def weights_(
    download: Annotated[str, typer.Option("--download", help="Names, comma-separated, or `all`.")] = "",
    torch_home: Annotated[
        Path | None, typer.Option("--torch-home", help="Folder with pretrained weights, in torch hub's layout [TORCH_HOME].")
    ] = None,
) -> None:
    """Show which pretrained networks are on this machine, and download those that are not."""
    from attnbench import weights

    weights.use_torch_home(torch_home)
    catalogue = weights.catalogue()
    wanted = list(catalogue) if download == "all" else _listed(download)
    for name in wanted:
        try:
            weights.find_or_download(name)
        except weights.MissingWeights as missing:
            raise UserError(str(missing)) from None
    for name, entry in catalogue.items():
        typer.echo(f"{name:14} {entry.purpose:26} {weights.find(name) or 'missing (' + entry.file + ')'}")


@app.command(epilog="Example: `attnbench bench --modules sga,scft --recipe demo`")
def bench(
    modules: Annotated[str, typer.Option("--modules", "-m", help="Modules, comma-separated.")] = "sga,scft",
    recipe: Annotated[str, typer.Option("--recipe", "-r", help="A built-in recipe or a YAML file.")] = "official",
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Change a key of the recipe. Repeatable.")] = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Steps to time, after one that is not.")] = 3,
    store: Annotated[Path, typer.Option("--output", "-o", help="Results folder; writes bench/<device>.json in it.")] = Path(
        "results"
    ),
    device: Annotated[str | None, typer.Option("--device", help="[default: the first GPU, or the CPU]")] = None,
) -> None:
    """Time a training step and the preparation of its batch, and count parameters and FLOPs, for each module."""
    from attnbench.bench import bench as measure
    from attnbench.bench import rows_to_text
    from attnbench.execute import pick_device
    from attnbench.grid import parse_variant
    from attnbench.recipe import describe, load_recipe
    from attnbench.store import open_store

    rows, file = measure(
        [parse_variant(text) for text in _listed(modules)],
        load_recipe(recipe, overrides or ()),
        describe(recipe, overrides or ()),
        pick_device(device),
        steps,
        open_store(store),
    )
    typer.echo(rows_to_text(rows))
    typer.echo(f"written to {file}")


@app.command("new-module", epilog="Example: `attnbench new-module my-attention`")
def new_module_(
    name: Annotated[str, typer.Argument(help="The package's name; the module is `my_attention` where this is `my-attention`.")],
    folder: Annotated[Path, typer.Option("--folder", help="Where the package's folder is made.")] = Path(),
) -> None:
    """Write a small package with a module of your own, ready to install, to test and to train."""
    import shlex

    from attnbench.new_module import module_name, new_module

    target = new_module(name, folder.expanduser())
    module = module_name(name)
    typer.echo(f"written: {target / (module + '.py')}, its test and its package. Next:\n")
    typer.echo(f"  pip install -e {shlex.quote(str(target))}")
    typer.echo(f"  attnbench check {module}")
    typer.echo(f"  attnbench run --recipe demo --modules {module},sga --datasets synthetic")


@app.command(
    epilog="""Examples:

- `attnbench check sga`
- `attnbench check sga:stop_gradient=false`
- `attnbench check my_package:MyAttention:heads=4 --channels 256`

Exit codes: 0 nothing failed; 1 something failed; 2 bad input.
"""
)
def check(
    module: Annotated[str, typer.Argument(help="A module of `attnbench list`, or an import path: `my_package:MyAttention`.")],
    channels: Annotated[int, typer.Option("--channels", "-c", min=1, help="C, of the feature maps.")] = 992,
    size: Annotated[int, typer.Option("--size", min=1, help="Largest height and width of the feature maps.")] = 16,
    device: Annotated[str | None, typer.Option("--device", help="[default: the first GPU, or the CPU]")] = None,
    costs: Annotated[bool, typer.Option("--costs/--no-costs", help="Compare costs with the built-in modules'.")] = True,
) -> None:
    """Hold a module to the contract: shapes, gradients, precisions, checkpoints, devices, compilers, probes.

    What `failed` is for the module's author to put right; a `note` is only good to know.
    """
    from rich.console import Console

    with Console(stderr=True).status(f"checking {module}"):
        from attnbench.contract import check as hold_to_contract

        report = hold_to_contract(module, channels, size=size, device=device, costs=costs)
    _print_report(report)
    if not report.passed:
        raise typer.Exit(1)


def _print_report(report: Report) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console(highlight=False)
    styles = {"passed": "green", "failed": "bold red", "note": "yellow"}
    title = Text(f"{report.module}: {report.setting}")
    findings = RichTable(title=title, title_justify="left", show_header=False, box=None)
    for finding in report.findings:
        findings.add_row(Text(finding.status, style=styles[finding.status]), finding.name, Text(finding.detail))
    console.print(findings)
    if report.costs:
        costs = RichTable(box=box.SIMPLE_HEAD)
        costs.add_column("")
        for heading in ("parameters", "GFLOP", "ms", "peak MB"):
            costs.add_column(heading, justify="right")
        for row in report.costs:
            costs.add_row(Text(f"{'>' if row.mine else ' '} {row.module}"), *row.figures, style="bold" if row.mine else "")
        console.print(costs)
        console.print("GFLOP: one forward of one image; ms and peak MB: forward and backward of two", style="dim")
        console.print()
    console.print(report.summary, markup=False, soft_wrap=True, style=styles["passed" if report.passed else "failed"])


def _print_plan(cells: list[Cell], settings: Settings) -> None:
    from rich.console import Console
    from rich.table import Table as RichTable

    from attnbench.execute import disk_bytes, state_of
    from attnbench.train import total_steps

    shown = RichTable(box=None, padding=(0, 2, 0, 0))
    for heading in ("cell", "state", "steps", "disk", "folder"):
        shown.add_column(heading, overflow="fold")
    for cell in cells:
        steps = total_steps(cell.dataset.train, cell.recipe)
        disk = f"{disk_bytes(cell)[0] / 1e9:.2f} GB"
        shown.add_row(cell.label, state_of(cell, settings), str(steps), disk, cell.folder_name)
    console = Console(highlight=False, soft_wrap=True)
    console.print(shown, markup=False)
    for dataset in {cell.dataset.name: cell.dataset for cell in cells}.values():
        console.print(f"{dataset.name}: {len(dataset.train)} + {len(dataset.test)} images, {dataset.source}", markup=False)
    for line in _weights_needed(cells[0]):
        console.print(line, markup=False)
    console.print(f"device: {settings.device}; results folder: {settings.store}", markup=False)


def _weights_needed(cell: Cell) -> list[str]:
    from attnbench import weights

    metrics = cell.recipe.evaluation.metrics
    names = ["vgg19"] if cell.recipe.needs_perceptual_network else []
    names += ["inception"] if {"fid", "kid"} & set(metrics) else []
    names += [f"lpips-{cell.recipe.evaluation.lpips_network}"] if "lpips" in metrics else []
    return [
        f"weights {name}: {weights.find(name) or 'missing, will be downloaded, else its metrics stay empty'}" for name in names
    ]


def _print_tables(
    frame: pd.DataFrame,
    metrics: list[str] | None = None,
    epoch: str = "last",
    published: bool = False,
    grid: GridFile | None = None,
) -> None:
    from rich.console import Console

    from attnbench.tables import tables

    console = Console(highlight=False)
    for one in tables(frame, grid=grid, metrics=metrics or (), epoch=epoch, with_published=published):
        console.print()
        console.print(_rich_table(one))
        for line in (one.caption, *one.notes):
            console.print(line, markup=False, style="dim")


def _rich_table(one: Table) -> RichTable:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    from attnbench.tables import arrow

    shown = RichTable(box=box.SIMPLE_HEAD)
    shown.add_column("")
    for column in one.columns:
        shown.add_column(Text(f"{column.dataset}\n{column.title} {arrow(column)}"), justify="right")
    styles = {0: "bold", 1: "underline", None: ""}
    for label, entries in one.rows.items():
        shown.add_row(Text(label), *(Text(entry.text, style=styles[entry.rank]) for entry in entries))
    return shown


def _listed(text: str) -> list[str]:
    """Items between commas."""
    return [item.strip() for item in text.split(",") if item.strip()]


def _whole_numbers(text: str) -> list[int]:
    try:
        return [int(item) for item in _listed(text)]
    except ValueError:
        raise UserError(f"--seeds {text}: expected whole numbers with commas between them, such as 0,1,2") from None


def main() -> None:
    """The console script: user errors are one line and exit code 2."""
    try:
        app()
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except Interrupted as interrupted:
        typer.echo(f"{interrupted}; everything is saved, the same command goes on from there", err=True)
        sys.exit(130)
    except SystemExit as ended:
        if ended.code == 130:  # what Typer makes of a KeyboardInterrupt
            typer.echo("stopped; nothing that was saved is lost, the same command goes on", err=True)
        raise
