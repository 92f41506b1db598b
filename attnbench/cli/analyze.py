"""For users who ask why a module wins: `attnbench analyze`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from attnbench.cli.app import PlainGroup, app
from attnbench.cli.options import Device, TorchHome, whole_numbers
from attnbench.errors import UserError

analyze = typer.Typer(
    cls=PlainGroup,
    help="Look into trained modules: gradients of their branches, spectra of their features, their attention, what they match.",
    no_args_is_help=True,
)
app.add_typer(analyze, name="analyze")

CellsArgument = Annotated[
    list[Path], typer.Argument(metavar="CELL...", help="Cell folders; a results folder stands for all its trained cells.")
]
RunsDataRoot = Annotated[
    Path | None, typer.Option("--data-root", help="Folder that holds the datasets' folders. \\[default: the run's]")
]
IN_ANALYSIS = (
    "Writes a figure (PNG, PDF), a CSV and a caption to `analysis/` in each cell; for several cells, also in their results "
    "folder."
)


@analyze.command("gradients", epilog=f"{IN_ANALYSIS} Example: `attnbench analyze gradients results/scft-* --batches 16`")
def analyze_gradients_(
    cells: CellsArgument,
    data_root: RunsDataRoot = None,
    torch_home: TorchHome = None,
    device: Device = None,
    batches: Annotated[int, typer.Option("--batches", min=1, help="Training batches for each checkpoint.")] = 8,
) -> None:
    """Show which branches of a module's gradient agree.

    The cosine between each branch's gradient and the whole, at each position (the paper's figures 4, 5 and 10): over epochs
    recorded by `attnbench run --record-gradients`, and on checkpoints for each loss term separately.
    """
    from attnbench import weights
    from attnbench.analysis.gradients import analyze_gradients, short_table

    weights.use_torch_home(torch_home)
    _analyze(analyze_gradients, short_table, cells, data_root, device, count=batches)


@analyze.command("spectrum", epilog=f"{IN_ANALYSIS} Example: `attnbench analyze spectrum results/sga-cat-* results/scft-cat-*`")
def analyze_spectrum_(
    cells: CellsArgument,
    data_root: RunsDataRoot = None,
    device: Device = None,
    pairs: Annotated[int, typer.Option("--pairs", min=1, help="Test pairs for each cell.")] = 64,
) -> None:
    """Show how concentrated features are before and after a module.

    The accumulated ratio of their squared singular values, averaged over test pairs (the paper's figure 8).
    """
    from attnbench.analysis.spectrum import analyze_spectrum, short_table

    _analyze(analyze_spectrum, short_table, cells, data_root, device, pairs=pairs)


@analyze.command("attention", epilog=f"{IN_ANALYSIS} Example: `attnbench analyze attention results/sga-cat-* --point 100,80`")
def analyze_attention_(
    cells: CellsArgument,
    data_root: RunsDataRoot = None,
    device: Device = None,
    pair: Annotated[int, typer.Option("--pair", min=0, help="Index of the test pair.")] = 0,
    points: Annotated[
        list[str] | None,
        typer.Option("--point", help="A point of the sketch: X,Y in pixels. Repeatable. \\[default: three on its lines]"),
    ] = None,
) -> None:
    """Show where points of a sketch look in the reference.

    Each attention map that the module exposes, laid over the pictures, and the entropy of its rows.
    """
    from attnbench.analysis.attention import analyze_attention, short_table

    wanted = [_point(text) for text in points or ()]
    _analyze(analyze_attention, short_table, cells, data_root, device, pair=pair, points=wanted)


@analyze.command("correspondence", epilog=f"{IN_ANALYSIS} Example: `attnbench analyze correspondence results/`")
def analyze_correspondence_(
    cells: CellsArgument,
    data_root: RunsDataRoot = None,
    device: Device = None,
    pairs: Annotated[int, typer.Option("--pairs", min=1, help="Test images for each cell.")] = 64,
) -> None:
    """Show whether a module finds what corresponds.

    The reference is each sketch's own original under a known warp. Curves: how often attention, and a coloured mark painted
    into the reference, fall within a distance of the true place; beside them, what can be had without a look.
    """
    from attnbench.analysis.correspondence import analyze_correspondence, short_table

    _analyze(analyze_correspondence, short_table, cells, data_root, device, pairs=pairs)


def _point(text: str) -> tuple[int, int]:
    numbers = whole_numbers(text, "--point")
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
    """Write an analysis of these cells, and print a short table of its numbers and the paths of its figures."""
    from attnbench.analysis.analysed_cells import find_cells
    from attnbench.devices import pick_device

    files = write(find_cells(cells, data_root=data_root), pick_device(device), **options)
    typer.echo(short_table(files))
    pictures = [file for file in files if file.suffix == ".png"]
    for file in pictures[-4:]:  # a results folder's own figures come last
        typer.echo(f"written to {file}, with .pdf, .csv and .json beside it")
    if len(pictures) > 4:
        typer.echo(f"{len(pictures) - 4} more figures are in `analysis/` of their cells")
