"""The command line. Each command parses, calls one function and prints; heavy imports wait until a command needs them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from attnbench.errors import Interrupted, UserError
from attnbench.openmp import limit_spinning

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table as RichTable

    from attnbench.cells.cell import Cell
    from attnbench.console import Reporter
    from attnbench.contract import Report
    from attnbench.execute.worker import CellOptions
    from attnbench.tables.formats import Sheet


class PlainGroup(TyperGroup):
    """Lists the commands without rich, whose import takes longer than all else; each command's own help has its boxes."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{**settings, "rich_markup_mode": None})


app = typer.Typer(
    name="attnbench",
    cls=PlainGroup,
    help="Benchmark attention (correspondence) modules for reference-based line-art colorization.",
    epilog="Start with `attnbench run` for a first example, or `attnbench list` for what is installed.",
    no_args_is_help=True,
    rich_markup_mode="rich",
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


class Executor(StrEnum):
    """Where cells run."""

    local = "local"
    slurm = "slurm"
    inline = "inline"
    commands = "commands"


SLURM = "With --executor slurm"
CheckpointMinutes = Annotated[float, typer.Option("--checkpoint-minutes", min=0, help="Time between checkpoints.")]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Run failed and diverged cells again.")]
RerunStale = Annotated[
    bool, typer.Option("--rerun-stale", help="Run cells again whose module's code has changed since; the old ones are kept.")
]
RecordGradients = Annotated[
    bool, typer.Option("--record-gradients", help="Count, every epoch, how the module's branches agree: `attnbench analyze`.")
]
StoreArgument = Annotated[Path, typer.Argument(help="Results folder.", show_default=True)]


@app.command("list")
def list_() -> None:
    """List what is installed: modules, datasets, recipes, grids.

    Modules are shown with their package and its version. A plug-in that cannot be imported is shown with its error; the
    others work.
    """
    from importlib.metadata import version

    from rich.console import Console
    from rich.text import Text

    from attnbench import plugins
    from attnbench.config.grid_files import built_in_grids
    from attnbench.config.recipe import built_in_recipes

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

`attnbench run --recipe demo --modules sga,scft --datasets synthetic`
`attnbench run --modules sga,scft --datasets anime,cat --data-root ~/data --set train.epochs=1`
`attnbench run --modules sga:stop_gradient=false --datasets mine=path/to/images --seeds 0,1,2`
`attnbench run --grid ablation --datasets cat --data-root ~/data`
`attnbench run --grid comparison --modules mine --datasets cat`, six modules and yours
`attnbench run --grid comparison --seeds 0,1,2,3,4 --jobs 8 --devices 0,1,2,3`, two cells on each of four GPUs
`attnbench run --grid comparison --executor slurm --partition gpu --time 8:00:00`

Exit codes: 0 all cells are finished; 1 some failed or diverged; 2 bad input, or a full disk; 130 interrupted.
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
    executor: Annotated[
        Executor,
        typer.Option(
            "--executor",
            help="local: a process each on this machine; slurm: a cluster; inline: this process, for debuggers; commands: "
            "only prepare the cells, and print a command for each, for a scheduler of yours.",
        ),
    ] = Executor.local,
    jobs: Annotated[int | None, typer.Option("--jobs", "-j", min=1, help="Cells at a time. \\[default: one a device]")] = None,
    devices: Annotated[
        str, typer.Option("--devices", help="cuda:0,cuda:1 or 0,1 or cpu. \\[default: all GPUs, or the CPU]")
    ] = "",
    time_limit: Annotated[
        float | None,
        typer.Option("--time-limit", min=0.01, help="Minutes a cell may take; one that takes longer is recorded as failed."),
    ] = None,
    checkpoint_minutes: CheckpointMinutes = 10.0,
    retry_failed: RetryFailed = False,
    rerun_stale: RerunStale = False,
    record_gradients: RecordGradients = False,
    skip_corrupt: Annotated[
        bool, typer.Option("--skip-corrupt", help="Leave out images that cannot be decoded, instead of refusing.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="Leave the cells to the cluster, and return.", rich_help_panel=SLURM)
    ] = False,
    partition: Annotated[str | None, typer.Option("--partition", rich_help_panel=SLURM, help="Of the cluster.")] = None,
    time: Annotated[
        str | None,
        typer.Option(
            "--time", rich_help_panel=SLURM, help="Of a job: minutes or 8:00:00; a cell that needs longer goes on in another."
        ),
    ] = None,
    gpus: Annotated[
        int | None, typer.Option("--gpus", min=0, rich_help_panel=SLURM, help="For each cell; 0 for the CPU. \\[default: 1]")
    ] = None,
    cpus: Annotated[int | None, typer.Option("--cpus", min=1, rich_help_panel=SLURM, help="For each cell.")] = None,
    memory: Annotated[str | None, typer.Option("--memory", rich_help_panel=SLURM, help="For each cell: 32G.")] = None,
    slurm: Annotated[
        list[str] | None,
        typer.Option("--slurm", rich_help_panel=SLURM, help="Any other option of sbatch: `--slurm account=lab`. Repeatable."),
    ] = None,
    setup: Annotated[
        list[str] | None,
        typer.Option("--setup", rich_help_panel=SLURM, help="A shell line before a job: `module load cuda`. Repeatable."),
    ] = None,
) -> None:
    """Train and evaluate modules on datasets; print the table.

    Finished cells are not run twice; an interrupted one goes on where it was. Without arguments: first steps.
    """
    if not modules and not datasets and grid is None:
        typer.echo(_FIRST_STEPS)
        return
    if grid is None and not (modules and datasets):
        wanted = "--modules" if not modules else "--datasets"
        raise UserError(f"{wanted} is missing: `attnbench list` shows the choices, `attnbench run` examples")

    of_cluster: dict[str, object] = {"--partition": partition, "--time": time, "--gpus": gpus, "--cpus": cpus}
    of_cluster |= {"--memory": memory, "--slurm": slurm, "--setup": setup, "--detach": detach or None}
    if executor is not Executor.slurm:
        _refuse(of_cluster, "needs --executor slurm (minutes for a cell are --time-limit)")
    if executor is Executor.slurm:
        _refuse({"--devices": devices or None}, "is not for --executor slurm: --gpus says how many a cell gets")
    if executor in (Executor.inline, Executor.commands):
        _refuse({"--jobs": jobs, "--time-limit": time_limit}, f"is not for --executor {executor}: its cells have no runner")

    from attnbench import weights
    from attnbench.cells.grid import check_grid
    from attnbench.console import Reporter
    from attnbench.devices import pick_devices
    from attnbench.execute.disk_space import check_space
    from attnbench.execute.planning import plan
    from attnbench.execute.worker import CellOptions
    from attnbench.store.folder import open_store

    weights.use_torch_home(torch_home)
    checked = check_grid(
        _listed(modules),
        _listed(datasets),
        recipe,
        grid=grid,
        overrides=overrides or (),
        seeds=_whole_numbers(seeds, "--seeds"),
        data_root=data_root,
    )
    if record_gradients:
        from attnbench.training.gradient_cosines import check_recordable

        check_recordable(checked.recipe)
    if executor is Executor.slurm:
        from attnbench.execute import slurm as slurm_jobs

        cluster = slurm_jobs.SlurmOptions(
            partition=partition,
            time=time,
            gpus=1 if gpus is None else gpus,
            cpus=cpus,
            memory=memory,
            parallel=jobs,
            setup=setup or (),
            extra=_assignments(slurm or ()),
        )
        slurm_jobs.check(cluster)
    found = [] if executor is Executor.slurm else pick_devices(_listed(devices))
    options = CellOptions(
        checkpoint_minutes=checkpoint_minutes,
        retry_failed=retry_failed,
        rerun_stale=rerun_stale,
        record_gradients=record_gradients,
        time_limit=60 * time_limit if time_limit else None,
    )
    if not dry_run:
        open_store(store)
    reporter = Reporter()
    cells = plan(checked, reporter, skip_corrupt=skip_corrupt)
    if dry_run:
        _print_plan(cells, store, ", ".join(found) or "those of the cluster")
        return
    check_space(cells, store, at_once=jobs or len(found) or len(cells))
    if executor is Executor.commands:
        _print_commands(cells, store, options, found if devices else [])
        return
    if executor is Executor.slurm:
        from attnbench.execute.cluster import run_slurm

        tally = run_slurm(cells, store, reporter, options, cluster, detach=detach)
        if tally is None:
            return
    elif executor is Executor.inline:
        from attnbench.devices import pick_device
        from attnbench.execute.cell_run import Settings
        from attnbench.execute.inline import run_inline

        settings = Settings(store, pick_device(found[0]), 60 * checkpoint_minutes, retry_failed, rerun_stale, record_gradients)
        tally = run_inline(cells, settings, reporter)
    else:
        from attnbench.execute.local import run_local

        tally = run_local(cells, store, reporter, options, devices=found, jobs=jobs)
    _print_tables_of(cells, store, reporter)
    if tally.failed:
        named = ", ".join(tally.failed[:5]) + (", ..." if len(tally.failed) > 5 else "")
        typer.echo(f"{len(tally.failed)} of {len(cells)} cells failed: {named}; `attnbench status {store}` has the reasons")
        raise typer.Exit(1)


def _print_tables_of(cells: Sequence[Cell], store: Path, reporter: Reporter) -> None:
    from attnbench.store.frame import results

    folders = {cell.folder_name for cell in cells}
    frame = results(store, reporter.say)
    _print_tables(frame[frame["folder"].isin(folders)], store)
    typer.echo(f"\nLook at {store / cells[0].folder_name / 'samples.png'} and its neighbours; `attnbench table {store}`")


def _print_commands(cells: Sequence[Cell], store: Path, options: CellOptions, devices: Sequence[str]) -> None:
    """One line for each cell that has something to do; the devices, if there are any, in turn."""
    import shlex
    from dataclasses import replace
    from itertools import cycle

    from attnbench.execute.planned_cell import write_job
    from attnbench.execute.state import state_of
    from attnbench.store.folder import CellFolder

    turns = cycle(devices or [None])
    for cell in cells:
        folder = CellFolder(store / cell.folder_name)
        write_job(cell, folder)
        if state_of(folder).to_do(options.retry_failed, options.rerun_stale):
            of_cell = replace(options, device=next(turns))
            typer.echo(shlex.join(["attnbench", "cell", str(folder.path), *of_cell.arguments()]))


def _refuse(given: Mapping[str, object], why: str) -> None:
    """Raises UserError if one of the options was given."""
    for option, value in given.items():
        if value is not None:
            raise UserError(f"{option} {why}")


@app.command(
    epilog="""Examples:

`attnbench cell results/sga-cat-seed0-1a2b3c4d5e --device cuda:1`
`attnbench run --grid comparison --executor commands | parallel -j4`

Exit codes: 0 finished; 1 failed or diverged, which is recorded; 2 bad input; 3 the disk is full; 75 another process runs it;
130 interrupted, everything saved.
"""
)
def cell(
    folder: Annotated[Path, typer.Argument(help="A planned cell's folder in the store.")],
    device: Annotated[
        str | None, typer.Option("--device", help="cpu, cuda, cuda:1, ... \\[default: the first GPU, or the CPU]")
    ] = None,
    checkpoint_minutes: CheckpointMinutes = 10.0,
    retry_failed: RetryFailed = False,
    rerun_stale: RerunStale = False,
    record_gradients: RecordGradients = False,
    stop_at_eof: Annotated[
        bool, typer.Option("--stop-at-eof", help="Save and stop when standard input ends, as it does when a runner dies.")
    ] = False,
) -> None:
    """Run one cell by hand, as `run` does for each.

    It goes on from its checkpoint. `attnbench run` plans cells; with `--executor commands` it only prints these commands.
    """
    from attnbench.execute.command import run_command

    code = run_command(
        folder,
        device=device,
        checkpoint_seconds=60 * checkpoint_minutes,
        retry_failed=retry_failed,
        rerun_stale=rerun_stale,
        record_gradients=record_gradients,
        stop_at_eof=stop_at_eof,
    )
    if code:
        raise typer.Exit(code)


@app.command(epilog="Examples: `attnbench status results/`, `watch attnbench status results/`")
def status(store: StoreArgument = Path("results")) -> None:
    """Show how far the cells of a results folder are.

    Finished, running (step, losses, speed, time left), waiting, failed or stale.

    It only reads the folder, so it works from any machine that sees it.
    """
    from attnbench.tables.status import print_status

    print_status(store)


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
    published: Annotated[
        bool, typer.Option("--published", help="The paper's number behind ours, with the difference.")
    ] = False,
    costs: Annotated[bool, typer.Option("--costs", help="Parameters, GFLOP, images a second and peak memory.")] = False,
    significance: Annotated[
        bool, typer.Option("--significance", help="Mark what cannot be told apart from the best of its column.")
    ] = False,
    epoch: Annotated[str, typer.Option("--epoch", help="last, or best (by FID) where every epoch was measured.")] = "last",
) -> None:
    """Compile the table of a results folder.

    Best bold, second underlined; CSV has one row a cell.
    """
    from attnbench.store.frame import without_collector

    with without_collector():  # for stores of thousands of cells
        from attnbench.config.grid_files import load_grid
        from attnbench.console import Reporter
        from attnbench.errors import unknown
        from attnbench.store.frame import results
        from attnbench.tables.compile import for_pandas, render, tables
        from attnbench.tables.formats import FORMATS

        if style not in FORMATS:
            raise unknown("format", style, FORMATS)
        if epoch not in ("last", "best"):
            raise unknown("epoch", epoch, ("last", "best"))
        if style == "csv":
            chosen = {"--metrics": metrics or None, "--costs": costs or None, "--significance": significance or None}
            _refuse(chosen, "is not for --format csv, which has all that is known of each cell")
        rows = load_grid(grid) if grid is not None else None
        frame = results(store, Reporter().say)
        if style == "csv":
            typer.echo(for_pandas(frame, grid=rows, with_published=published).to_csv(index=False), nl=False)
            return
        found = tables(
            frame,
            grid=rows,
            metrics=_listed(metrics),
            epoch=epoch,
            with_published=published,
            costs=costs,
            significance=significance,
            store=store,
        )
        if style == "text":
            _show([one.sheet for one in found])
        else:
            typer.echo("\n".join(render(one, style) for one in found), nl=False)


@app.command(
    epilog="Examples: `attnbench report results/`, `attnbench report results/ -o for-the-group.html --pairs 30`, "
    "`attnbench report results/ --serve`, while a grid runs"
)
def report(
    store: StoreArgument = Path("results"),
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file. \\[default: report.html in the results folder]")
    ] = None,
    pairs: Annotated[
        int, typer.Option("--pairs", min=1, help="Test pairs of each dataset in the image grid, beside the best and worst.")
    ] = 12,
    serve: Annotated[bool, typer.Option("--serve", help="Show it on this machine instead, live while a grid runs.")] = False,
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, help="Of --serve; 0 for any that is free. \\[default: 8765]")
    ] = None,
) -> None:
    """Write one HTML page about a results folder.

    Tables, quality against cost, pictures side by side, curves, and each cell's command, recipe, provenance and failure.

    The file needs nothing beside it and no network.
    """
    _refuse({"--output": output} if serve else {"--port": port}, f"is {'not ' * serve}for --serve")

    from attnbench.console import Reporter

    say = Reporter().say
    if serve:
        from attnbench.report.serve import serve as serve_page

        def ready(address: str) -> None:
            typer.echo(f"{address} shows '{store}'; Ctrl-C ends it")

        serve_page(store, 8765 if port is None else port, pairs=pairs, say=say, ready=ready)
        return
    from attnbench.report.page import write_report

    target = write_report(store, output, pairs=pairs, say=say)
    typer.echo(f"written to {target} ({target.stat().st_size / 1e6:.1f} MB): open it in a browser")


@app.command(
    epilog="Examples: `attnbench compare results/ sga scft --published`, "
    "`attnbench compare results/ sga sga:stop_gradient=false`"
)
def compare(
    store: Annotated[Path, typer.Argument(help="Results folder.")],
    a: Annotated[str, typer.Argument(metavar="A", help="A module: `sga`, or `sga:stop_gradient=false`.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The one to hold it against.")],
    metrics: Annotated[str, typer.Option("--metrics", help="Comma-separated. \\[default: all that were measured]")] = "",
    style: Annotated[str, typer.Option("--format", "-f", help="text, md, latex or csv.")] = "text",
    published: Annotated[bool, typer.Option("--published", help="The paper's differences beside ours.")] = False,
) -> None:
    """Compare two modules: differences, intervals, p-values.

    The difference on each dataset with its interval and p-value, and the mean relative improvement.

    Both coloured the same pairs, so the tests are paired: over the seeds that both have, and over the test images.
    """
    from attnbench.console import Reporter
    from attnbench.errors import unknown
    from attnbench.store.frame import results
    from attnbench.tables.comparison import FORMATS, as_frame, comparisons, sheet
    from attnbench.tables.formats import written

    if style not in FORMATS:
        raise unknown("format", style, FORMATS)
    found = comparisons(results(store, Reporter().say), a, b, metrics=_listed(metrics), store=store)
    sheets = [sheet(one, with_published=published) for one in found]
    if style == "csv":
        typer.echo(as_frame(found).to_csv(index=False), nl=False)
    elif style == "text":
        _show(sheets)
    else:
        typer.echo("\n".join(written(one, style) for one in sheets), nl=False)


@app.command(
    epilog="""Examples:

`attnbench colorize --model results/sga-anime-seed0-1a2b3c4d5e --sketch a.png --reference b.png -o out.png`

`attnbench colorize --model sga-anime --sketch photo.jpg --extract --reference painting.jpg -o out.png --side-by-side`

`attnbench colorize --model sga-anime --sketch sketches/ --reference colours/ -o coloured/`

Exit codes: 0 all are coloured; 1 some of a folder could not be; 2 bad input.
"""
)
def colorize(
    model: Annotated[
        Path,
        typer.Option("--model", "-m", help="A finished cell's folder, an exported one, or the generator.safetensors in it."),
    ],
    sketch: Annotated[Path, typer.Option("--sketch", "-s", help="A drawing of any size, or a folder of drawings.")],
    reference: Annotated[
        Path,
        typer.Option(
            "--reference",
            "-r",
            help="A coloured picture, or a folder with one of each sketch's name.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The picture to write, or a folder; for a folder of sketches a folder.")
    ],
    extract: Annotated[
        bool, typer.Option("--extract", help="The sketch is a photograph or a coloured picture: draw its lines (XDoG) first.")
    ] = False,
    lines: Annotated[
        str,
        typer.Option(
            "--lines", help="dark or light, against the paper; auto finds out; keep leaves the drawing's tones alone."
        ),
    ] = "auto",
    size: Annotated[
        int | None,
        typer.Option(
            "--size", min=0, help="Shorter side at which to colour; 0: the drawing's own. \\[default: that of the training]"
        ),
    ] = None,
    side_by_side: Annotated[
        bool, typer.Option("--side-by-side", help="Also write sketch, reference and result into one picture.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write over pictures that are there already.")] = False,
    device: Annotated[str | None, typer.Option("--device", help="\\[default: the first GPU, or the CPU]")] = None,
) -> None:
    """Colour drawings with a trained generator.

    Drawings of any size, grey or coloured paper, dark or light lines; the result has the drawing's size.
    """
    from attnbench.colorization.colorize_files import colorize_files
    from attnbench.colorization.line_art import checked_lines
    from attnbench.console import Reporter
    from attnbench.devices import pick_device

    failed = colorize_files(
        model.expanduser(),
        sketch.expanduser(),
        reference.expanduser(),
        output.expanduser(),
        size=size,
        extract=extract,
        lines=checked_lines(lines),
        side_by_side=side_by_side,
        overwrite=overwrite,
        device=str(pick_device(device)),
        say=typer.echo,
        warn=Reporter().say,
    )
    if failed:
        typer.echo(f"{failed} could not be coloured", err=True)
        raise typer.Exit(1)


@app.command(
    epilog="""Examples:

`attnbench export results/sga-anime-seed0-1a2b3c4d5e -o sga-anime`

`attnbench export results/sga-anime-seed0-1a2b3c4d5e --program`, with a torch.export program that needs torch alone
"""
)
def export(
    cell: Annotated[Path, typer.Argument(help="A finished cell's folder.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="New folder. \\[default: ./<name of the cell>-export]")
    ] = None,
    program: Annotated[
        bool, typer.Option("--program", help="Also write generator.pt2, a torch.export program, checked against the generator.")
    ] = False,
    pictures: Annotated[int, typer.Option("--pictures", min=0, help="Test pairs to show in the model card.")] = 8,
) -> None:
    """Write a trained generator into a folder of its own.

    Weights, recipe, record, and a model card with metrics and pictures. `attnbench colorize` and `attnbench.load` take it.
    """
    from attnbench.colorization.export import export as write
    from attnbench.console import Reporter

    folder = write(cell.expanduser(), output and output.expanduser(), program=program, pictures=pictures, warn=Reporter().say)
    typer.echo(f"written to {folder}; README.md is its model card, with a licence left for you to choose")


@app.command(epilog="Example: `attnbench merge /mnt/lab/results results/`, then `attnbench run` does what is still missing")
def merge(
    other: Annotated[Path, typer.Argument(help="Results folder to copy finished cells from; it stays as it is.")],
    store: StoreArgument = Path("results"),
) -> None:
    """Copy in finished cells that somebody else measured.

    They count as if measured here. A cell whose record does not fit its identity is left out. A cell that is finished in
    both stays as it is here.
    """
    from attnbench.console import Reporter
    from attnbench.store.merge import merge as merge_stores

    typer.echo(str(merge_stores(other, store, Reporter().say)))


@app.command("weights")
def weights_(
    download: Annotated[str, typer.Option("--download", help="Names, comma-separated, or `all`.")] = "",
    torch_home: Annotated[
        Path | None, typer.Option("--torch-home", help="Folder with pretrained weights, in torch hub's layout [TORCH_HOME].")
    ] = None,
) -> None:
    """Show, or download, the pretrained networks.

    Those of the losses and metrics: which are on this machine, and where.
    """
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


@app.command(
    epilog="""Examples:

`attnbench bench`

`attnbench bench --modules sga --recipe official --sizes 256 --set train.batch_size=16 --growth ""`

`attnbench bench --recipe fast --sizes 256,512 --precisions bfloat16,tf32,float32`, on a GPU
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
        str | None, typer.Option("--sizes", help="Of images, in pixels, comma-separated. \\[default: 256,512; on a CPU 64,128]")
    ] = None,
    precisions: Annotated[
        str | None, typer.Option("--precisions", help="Of float32, tf32, bfloat16. \\[default: all; on a CPU float32]")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option("--steps", min=1, help="Steps to time, each after one that is not. \\[default: 20; on a CPU 2]"),
    ] = None,
    baseline: Annotated[
        bool, typer.Option("--baseline/--no-baseline", help="Time the released code's step in between, for the ratio.")
    ] = True,
    growth: Annotated[
        str | None,
        typer.Option("--growth", help="Image sizes for modules on their own. \\[default: 128,256,512,1024; on a CPU to 512]"),
    ] = None,
    store: Annotated[
        Path, typer.Option("--output", "-o", help="Results folder; writes bench/<device>-<recipe>.json, and plots, in it.")
    ] = Path("results"),
    device: Annotated[str | None, typer.Option("--device", help="\\[default: the first GPU, or the CPU]")] = None,
) -> None:
    """Time a training step; count parameters and FLOPs.

    For each module, image size and precision: milliseconds, memory, operations, the share of what the device can do, and how
    many times faster it is than a step of the paper's released code (with SGA). Plots show how costs grow.
    """
    from attnbench.bench.measure import bench as measure
    from attnbench.bench.output import rows_to_text
    from attnbench.bench.plan import plan_bench
    from attnbench.console import Reporter
    from attnbench.devices import pick_device
    from attnbench.store.folder import open_store

    chosen = pick_device(device)
    plan = plan_bench(
        chosen,
        modules=_listed(modules),
        recipe=recipe,
        overrides=overrides,
        sizes=None if sizes is None else _whole_numbers(sizes, "--sizes"),
        precisions=None if precisions is None else _listed(precisions),
        steps=steps,
        baseline=baseline,
        growth=None if growth is None else _whole_numbers(growth, "--growth"),
    )
    rows, files = measure(plan, chosen, open_store(store), Reporter().say)
    typer.echo(rows_to_text(rows))
    for file in files:
        typer.echo(f"written to {file}")


analyze = typer.Typer(
    cls=PlainGroup,
    help="Look into trained modules: gradients of their branches, spectra of their features, their attention.",
    no_args_is_help=True,
)
app.add_typer(analyze, name="analyze")

CellsArgument = Annotated[
    list[Path], typer.Argument(metavar="CELL...", help="Folders of cells; of a results folder, all that are trained.")
]
DataRoot = Annotated[
    Path | None, typer.Option("--data-root", help="Folder that holds the datasets' folders. \\[default: the run's]")
]
Device = Annotated[str | None, typer.Option("--device", help="\\[default: the first GPU, or the CPU]")]
IN_ANALYSIS = (
    "Writes a figure (PNG, PDF), a CSV and a caption to `analysis/` in each cell, and for several in their results folder."
)


@analyze.command("gradients", epilog=f"{IN_ANALYSIS} Example: `attnbench analyze gradients results/scft-* --batches 16`")
def analyze_gradients_(
    cells: CellsArgument,
    data_root: DataRoot = None,
    torch_home: Annotated[
        Path | None, typer.Option("--torch-home", help="Folder with pretrained weights, in torch hub's layout [TORCH_HOME].")
    ] = None,
    device: Device = None,
    batches: Annotated[int, typer.Option("--batches", min=1, help="Training batches for each checkpoint.")] = 8,
) -> None:
    """Show which branches of a module's gradient agree.

    The cosine, at each position, of each branch's gradient with the whole (the paper's figures 4, 5 and 10): over the epochs
    where `attnbench run --record-gradients` has counted them, and on checkpoints for each loss term apart.
    """
    from attnbench import weights
    from attnbench.analysis.gradients import analyze_gradients, short_table

    weights.use_torch_home(torch_home)
    _analyze(analyze_gradients, short_table, cells, data_root, device, count=batches)


@analyze.command("spectrum", epilog=f"{IN_ANALYSIS} Example: `attnbench analyze spectrum results/sga-cat-* results/scft-cat-*`")
def analyze_spectrum_(
    cells: CellsArgument,
    data_root: DataRoot = None,
    device: Device = None,
    pairs: Annotated[int, typer.Option("--pairs", min=1, help="Test pairs for each cell.")] = 64,
) -> None:
    """Show how concentrated features are before and after a module.

    The accumulated ratio of their squared singular values, a mean over test pairs (the paper's figure 8).
    """
    from attnbench.analysis.spectrum import analyze_spectrum, short_table

    _analyze(analyze_spectrum, short_table, cells, data_root, device, pairs=pairs)


@analyze.command("attention", epilog=f"{IN_ANALYSIS} Example: `attnbench analyze attention results/sga-cat-* --point 100,80`")
def analyze_attention_(
    cells: CellsArgument,
    data_root: DataRoot = None,
    device: Device = None,
    pair: Annotated[int, typer.Option("--pair", min=0, help="Which test pair.")] = 0,
    points: Annotated[
        list[str] | None,
        typer.Option("--point", help="Of the sketch, X,Y in pixels. Repeatable. \\[default: three on its lines]"),
    ] = None,
) -> None:
    """Show where points of a sketch look in the reference.

    Each map that the module shows, laid over the pictures, and the entropy of its rows.
    """
    from attnbench.analysis.attention import analyze_attention, short_table

    wanted = [_point(text) for text in points or ()]
    _analyze(analyze_attention, short_table, cells, data_root, device, pair=pair, points=wanted)


def _point(text: str) -> tuple[int, int]:
    numbers = _whole_numbers(text, "--point")
    if len(numbers) != 2:
        raise UserError(f"--point {text}: expected X,Y in pixels, such as 100,80")
    return numbers[0], numbers[1]


def _analyze(
    write: Callable[..., list[Path]],
    short_table: Callable[[list[Path]], str],
    cells: list[Path],
    data_root: Path | None,
    device: str | None,
    **options: Any,
) -> None:
    """Write an analysis of these cells, and print its numbers in short and where its files are."""
    from attnbench.analysis.analysed_cells import find_cells
    from attnbench.console import Reporter
    from attnbench.devices import pick_device

    reporter, chosen = Reporter(), pick_device(device)
    files = write(find_cells(cells, reporter.say, data_root=data_root), chosen, reporter, **options)
    typer.echo(short_table(files))
    pictures = [file for file in files if file.suffix == ".png"]
    for file in pictures[-4:]:  # a results folder's own come last
        typer.echo(f"written to {file}, with .pdf, .csv and .json beside it")
    if len(pictures) > 4:
        typer.echo(f"and so are {len(pictures) - 4} more, each in `analysis/` of its cell")


@app.command("new-module", epilog="Example: `attnbench new-module my-attention`")
def new_module_(
    name: Annotated[str, typer.Argument(help="The package's name; the module is `my_attention` where this is `my-attention`.")],
    folder: Annotated[Path, typer.Option("--folder", help="Where the package's folder is made.")] = Path(),
) -> None:
    """Write a package with a module of your own to start from.

    Ready to install, to test and to train.
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
    channels: Annotated[int, typer.Option("--channels", "-c", min=1, help="C, of the feature maps.")] = 992,
    size: Annotated[int, typer.Option("--size", min=1, help="Largest height and width of the feature maps.")] = 16,
    device: Annotated[str | None, typer.Option("--device", help="\\[default: the first GPU, or the CPU]")] = None,
    costs: Annotated[bool, typer.Option("--costs/--no-costs", help="Compare costs with the built-in modules'.")] = True,
) -> None:
    """Hold a module to the contract every module keeps.

    Shapes, gradients, precisions, checkpoints, devices, compilers, probes.

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


def _print_plan(cells: list[Cell], store: Path, devices: str) -> None:
    from rich.console import Console
    from rich.table import Table as RichTable

    from attnbench.execute.disk_space import disk_bytes
    from attnbench.execute.state import state_of
    from attnbench.store.folder import CellFolder
    from attnbench.training.loop import total_steps

    shown = RichTable(box=None, padding=(0, 2, 0, 0))
    for heading in ("cell", "state", "steps", "disk", "folder"):
        shown.add_column(heading, overflow="fold")
    for cell, (kept, _) in zip(cells, disk_bytes(cells), strict=True):
        steps = total_steps(cell.dataset.train, cell.recipe)
        disk = f"{kept / 1e9:.2f} GB"
        state = state_of(CellFolder(store / cell.folder_name))
        shown.add_row(cell.label, f"{state}", str(steps), disk, cell.folder_name)
    console = Console(highlight=False, soft_wrap=True)
    console.print(shown, markup=False)
    for dataset in {cell.dataset.name: cell.dataset for cell in cells}.values():
        console.print(f"{dataset.name}: {len(dataset.train)} + {len(dataset.test)} images, {dataset.source}", markup=False)
    for line in _weights_needed(cells[0]):
        console.print(line, markup=False)
    console.print(f"devices: {devices}; results folder: {store}", markup=False)


def _weights_needed(cell: Cell) -> list[str]:
    from attnbench import weights

    metrics = cell.recipe.evaluation.metrics
    names = ["vgg19"] if cell.recipe.needs_perceptual_network else []
    names += ["inception"] if {"fid", "kid"} & set(metrics) else []
    names += [f"lpips-{cell.recipe.evaluation.lpips_network}"] if "lpips" in metrics else []
    return [
        f"weights {name}: {weights.find(name) or 'missing, will be downloaded, else its metrics stay empty'}" for name in names
    ]


def _print_tables(frame: pd.DataFrame, store: Path | None = None) -> None:
    from attnbench.tables.compile import tables

    _show([one.sheet for one in tables(frame, store=store)])


def _show(sheets: Sequence[Sheet]) -> None:
    from rich.console import Console

    from attnbench.tables.formats import show

    console = Console(highlight=False)
    for sheet in sheets:
        show(sheet, console)


def _listed(text: str) -> list[str]:
    """Items between commas."""
    return [item.strip() for item in text.split(",") if item.strip()]


def _assignments(texts: Sequence[str]) -> dict[str, str]:
    """`key=value` of `--slurm`."""
    pairs = [text.partition("=") for text in texts]
    for text, (key, _, _) in zip(texts, pairs, strict=True):
        if not key:
            raise UserError(f"--slurm {text}: expected option=value, for example --slurm account=lab")
    return {key.lstrip("-"): value for key, _, value in pairs}


def _whole_numbers(text: str, option: str) -> list[int]:
    try:
        return [int(item) for item in _listed(text)]
    except ValueError:
        raise UserError(f"{option} {text}: expected whole numbers with commas between them, such as 0,1,2") from None


def main() -> None:
    """The console script: user errors are one line and exit code 2."""
    limit_spinning()
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
