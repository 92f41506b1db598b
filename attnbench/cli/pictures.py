"""For users who compare pictures of any method: the pairs to colour as files, and what was made of them as a row."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attnbench.cli.app import app
from attnbench.cli.options import DataRoot, Device, Overrides, TorchHome, split_list
from attnbench.cli.run_flags import Limit, Output, Pictures, PicturesChoice, RecipeChoice, References, SkipCorrupt


@app.command(
    epilog="""Examples:

`attnbench pairs cat -o pairs/ --size 512 --data-root ~/data`
`attnbench pairs synthetic -o pairs/ --recipe demo --limit 20`
`attnbench pairs mine=path/to/images -o pairs/ --set evaluation.references=same`
"""
)
def pairs(
    dataset: Annotated[str, typer.Argument(help="A dataset: its name, `name=folder`, `synthetic:train=200`.")],
    folder: Annotated[Path, typer.Option("--output", "-o", help="A new folder, or an empty one.")] = Path("pairs"),
    size: Annotated[
        int | None, typer.Option("--size", min=16, max=4096, help="Side of the pictures. \\[default: the recipe's data.size]")
    ] = None,
    recipe: RecipeChoice = "official",
    overrides: Overrides = None,
    limit: Limit = None,
    references: References = None,
    data_root: DataRoot = None,
    skip_corrupt: SkipCorrupt = False,
) -> None:
    """Write the test pairs as files, for a program that colours them.

    sketches/0000.png and references/0000.png, numbered by pair; manifest.csv, which lists them; and pairs.json, for `attnbench
    score --pairs`. The program writes a picture for each pair, 0000.png, of the size of its sketch.
    """
    from shlex import quote

    from attnbench.config.recipe import limited
    from attnbench.execute.pairs import PairsRequest, picture_name, write_pairs

    written = write_pairs(
        PairsRequest(
            dataset=dataset,
            folder=folder,
            size=size,
            recipe=recipe,
            overrides=limited(overrides or (), limit, references),
            references=references,
            data_root=data_root,
            skip_corrupt=skip_corrupt,
        )
    )
    first, last = (picture_name(pair, written.pairs) for pair in (0, written.pairs - 1))
    protocol = f", {written.protocol.label}" if written.protocol.label else ""
    by = "" if recipe == "official" else f" --recipe {quote(recipe)}"  # whose metrics are measured
    by += " --metrics ..." if written.protocol.marked else ""  # those of marks, which a recipe seldom has
    typer.echo(
        f"{written.pairs} pairs of {written.dataset}, {written.size} x {written.size}{protocol}: {folder / 'manifest.csv'}\n"
        f"Colour them into a folder, {first} to {last}; then\n\n"
        f"  attnbench score FOLDER --pairs {quote(str(folder))} --dataset {quote(dataset)} --as NAME{by} -o results/"
    )


@app.command(
    epilog="""Examples:

`attnbench score coloured/ --dataset cat --as MangaNinja --note "v1.0, 50 steps" --pairs pairs/ -o results/`
`attnbench score coloured/ --dataset synthetic --as mine --recipe demo`
`attnbench score --method recolour --dataset cat -o results/`
`attnbench score --right-answers --dataset synthetic -o results/`

Exit codes: 0 measured; 2 bad input, or a full disk; 130 interrupted.
"""
)
def score(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="PICTURES", help="A folder of pictures named by their pair's number: 0.png, 0017.jpg."),
    ] = None,
    dataset: Annotated[str, typer.Option("--dataset", "-d", help="Whose pairs they are: as for `attnbench pairs`.")] = "",
    label: Annotated[str | None, typer.Option("--as", help="What the row is called. \\[default: the method's name]")] = None,
    note: Annotated[str | None, typer.Option("--note", help="What else tables say of it: version, settings.")] = None,
    method: Annotated[
        str | None, typer.Option("--method", help="Colour the pairs by an installed method, instead of PICTURES.")
    ] = None,
    right_answers: Annotated[
        bool, typer.Option("--right-answers", help="The dataset's own right answers, where it knows them, instead of PICTURES.")
    ] = False,
    written: Annotated[
        Path | None,
        typer.Option(
            "--pairs", help="The folder that `attnbench pairs` wrote: protocol, `data` and size are those of the pairs."
        ),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", "-r", help="A built-in recipe or a YAML file. \\[default: official]")
    ] = None,
    overrides: Overrides = None,
    metrics: Annotated[
        str,
        typer.Option("--metrics", help="Metrics, comma-separated, options as `name:option=value`. \\[default: the recipe's]"),
    ] = "",
    limit: Limit = None,
    references: References = None,
    store: Output = Path("results"),
    pictures: Pictures = PicturesChoice.lossless,
    data_root: DataRoot = None,
    torch_home: TorchHome = None,
    skip_corrupt: SkipCorrupt = False,
    device: Device = None,
) -> None:
    """Measure pictures that any method made of the test pairs; they become a row of the table.

    Under the recipe's protocol, at the recipe's size, as pictures of trained modules are; tables mark the row as not trained
    here. Scoring the same pictures again measures only what is missing.
    """
    from attnbench.cli import show
    from attnbench.config.recipe import limited
    from attnbench.errors import UserError
    from attnbench.execute.score import ScoreRequest
    from attnbench.execute.score import score as score_pictures
    from attnbench.store.frame import results
    from attnbench.tables.compile import tables

    if not dataset:
        raise UserError("--dataset is missing: whose pairs were coloured, for example --dataset cat")
    scored = score_pictures(
        ScoreRequest(
            dataset=dataset,
            pictures=folder,
            method=method,
            right_answers=right_answers,
            label=label,
            note=note,
            store=store,
            pairs=written,
            recipe=recipe,
            overrides=limited(overrides or (), limit, references),
            metrics=split_list(metrics),
            references=references,
            data_root=data_root,
            torch_home=torch_home,
            skip_corrupt=skip_corrupt,
            kept=pictures.value,
            device=device,
        )
    )
    frame = results(store)
    show.sheets([one.sheet for one in tables(frame[frame["dataset"] == scored.dataset], store=store)])
    typer.echo(f"\nSee {store / scored.folder}; `attnbench table {store}`")
