"""For users of a trained generator: colouring pictures, exporting."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attnbench.cli.app import app
from attnbench.cli.options import Device


@app.command(
    epilog="""Examples:

`attnbench colorize --model results/sga-anime-seed0-1a2b3c4d5e --sketch a.png --reference b.png -o out.png`

`attnbench colorize --model sga-anime --sketch photo.jpg --extract --reference painting.jpg -o out.png --side-by-side`

`attnbench colorize --model sga-anime --sketch sketches/ --reference colours/ -o coloured/`

Exit codes: 0 all coloured; 1 some sketches of a folder could not be coloured; 2 bad input.
"""
)
def colorize(
    model: Annotated[
        Path,
        typer.Option("--model", "-m", help="Folder of a finished cell or an exported generator, or its generator.safetensors."),
    ],
    sketch: Annotated[Path, typer.Option("--sketch", "-s", help="A drawing of any size, or a folder of drawings.")],
    reference: Annotated[
        Path,
        typer.Option(
            "--reference",
            "-r",
            help="A coloured picture, or a folder with one named like each sketch.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="The picture to write, or a folder; always a folder for a folder of sketches."),
    ],
    extract: Annotated[
        bool, typer.Option("--extract", help="The sketch is a photograph or a coloured picture: draw its lines (XDoG) first.")
    ] = False,
    lines: Annotated[
        str,
        typer.Option(
            "--lines", help="dark or light, against the paper; auto detects which; keep leaves the drawing's tones unchanged."
        ),
    ] = "auto",
    size: Annotated[
        int | None,
        typer.Option(
            "--size",
            min=0,
            help="Shorter side at which to colour, in pixels; 0: the drawing's own. \\[default: as in training]",
        ),
    ] = None,
    side_by_side: Annotated[
        bool, typer.Option("--side-by-side", help="Also write sketch, reference and result in one picture.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Overwrite existing pictures.")] = False,
    device: Device = None,
) -> None:
    """Colour drawings with a trained generator.

    Drawings of any size, grey or coloured paper, dark or light lines; the result has the drawing's size.
    """
    from attnbench.colorization.colorize_files import colorize_files
    from attnbench.colorization.line_art import checked_lines
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
        on_written=lambda job: typer.echo(f"{job.output}: {job.sketch.name} with the colours of {job.reference.name}"),
    )
    if failed:
        typer.echo(f"{failed} could not be coloured", err=True)
        raise typer.Exit(1)


@app.command(
    epilog="""Examples:

`attnbench export results/sga-anime-seed0-1a2b3c4d5e -o sga-anime`

`attnbench export results/sga-anime-seed0-1a2b3c4d5e --program`, with a torch.export program that needs only torch
"""
)
def export(
    cell: Annotated[Path, typer.Argument(help="A finished cell's folder.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to create. \\[default: ./<name of the cell>-export]")
    ] = None,
    program: Annotated[
        bool, typer.Option("--program", help="Also write generator.pt2, a torch.export program, checked against the generator.")
    ] = False,
    pictures: Annotated[int, typer.Option("--pictures", min=0, help="Test pairs to show in the model card.")] = 8,
) -> None:
    """Write a trained generator into a folder of its own.

    Weights, recipe, record, and a model card with metrics and pictures. `attnbench colorize` and `attnbench.load` read it.
    """
    from attnbench.colorization.export import export as write

    folder = write(cell.expanduser(), output and output.expanduser(), program=program, pictures=pictures)
    typer.echo(f"written to {folder}; README.md is its model card, with a licence left for you to choose")
