"""`attnbench analyze correspondence`: whether a module finds what corresponds, where a known warp is the truth.

The reference is the sketch's own original under a warp. Two ways to see what a module takes for corresponding:

- through its attention map, see `metrics.guesses`: for each position of the sketch, its largest and its mean attention;
- through a mark, see `metrics.marks`: two coloured discs in the reference, and where they appear in the picture.

The curves are the shares of guesses within alpha of the true place, for alpha from 0 to 0.3 of the picture's side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from attnbench.analysis.analysed_cells import AnalysedCell, each_usable
from attnbench.analysis.sections import (
    COLOURS,
    Section,
    by_store,
    colours_of,
    paper_style,
    percent,
    short_list,
    table_text,
    write_section,
)
from attnbench.console import log, progress
from attnbench.data.images import PreparedDataset
from attnbench.data.marks import RADIUS
from attnbench.errors import NotMeasurable, UserError
from attnbench.method.backbone import Colorizer
from attnbench.method.precision import tf32
from attnbench.metrics.generate import PairSet, generate
from attnbench.metrics.guesses import Guesses, guesses_of, trivial_shares
from attnbench.metrics.marks import Marks, differences, marks_of
from attnbench.metrics.measure import pictures_of
from attnbench.metrics.pictures import Pictures
from attnbench.metrics.protocol import Protocol
from attnbench.metrics.true_places import WAYS, middles, shares

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAP, MARK = "map", "mark"
_ALPHA = 0.1  # of captions, and of the circles in figures
_CURVE = [hundredths / 100 for hundredths in range(31)]
_POINTS = 5  # of the sketch, in a cell's figure
_LINES: dict[str, Any] = {WAYS[0]: "-", WAYS[1]: "--"}
_TITLES = {MAP: "through the map", MARK: "through a mark"}


@dataclass(frozen=True)
class Example:
    """The first pair, for the figure: pictures (S, S, 3) in [0, 1], and places in shares of the sides.

    Attributes:
        guesses: None for a module without a map.
        difference: (S, S), see `marks.differences`.
    """

    sketch: np.ndarray
    reference: np.ndarray
    marked: np.ndarray
    generated: np.ndarray
    difference: np.ndarray
    marks: Marks
    guesses: Guesses | None


@dataclass(frozen=True)
class Found:
    """What was found of a cell: its curves, and the first pair."""

    cell: AnalysedCell
    curves: pd.DataFrame
    example: Example


def analyze_correspondence(cells: Sequence[AnalysedCell], device: torch.device, *, pairs: int) -> list[Path]:
    """Write the sections of these cells, and of their stores; returns the files.

    Args:
        pairs: number of test images, the first ones; all of them if there are fewer.

    Raises:
        UserError: the cell, or each of several, has no trained generator or no images here.
    """

    def check(cell: AnalysedCell) -> PreparedDataset:
        cell.check_generator()
        return cell.dataset()

    def analyse(cell: AnalysedCell, dataset: PreparedDataset) -> Found:
        return of_cell(cell, dataset, device, pairs=pairs)

    files: list[Path] = []
    found: dict[Path, Found] = {}
    for cell, one in each_usable(cells, check, analyse):
        found[cell.path] = one
        files += write_section(cell.path, cell_section(one))
    for store, inside in by_store([cell for cell in cells if cell.path in found]).items():
        curves = [found[cell.path].curves for cell in inside]
        files += write_section(store, store_section(pd.concat(curves, ignore_index=True)))
    return files


@torch.no_grad()
@tf32(False)
def of_cell(cell: AnalysedCell, dataset: PreparedDataset, device: torch.device, *, pairs: int) -> Found:
    """Columns of the curves: those of the cell; through (map or mark), guess, alpha, share, samples (images, or marks)."""
    generator, shared = cell.generator(device), {"pair_seed": cell.protocol.pair_seed}
    own, pictures = _pictures(cell, dataset, device, generator, Protocol(references="same", limit=pairs, **shared))
    marked, with_marks = _pictures(cell, dataset, device, generator, Protocol(references="marked", limit=pairs, **shared))
    marks, guesses = marks_of(with_marks), _guesses(cell, pictures)
    curves = [_curves(cell, MARK, {way: [marks.errors(way)] for way in WAYS}, marks.trivial_shares(_CURVE), len(with_marks))]
    if guesses:
        errors = {way: [one.errors(one.guess(way)) for one in guesses] for way in WAYS}
        curves.append(_curves(cell, MAP, errors, trivial_shares(guesses, _CURVE), len(guesses)))
    batch, marked_batch = own.batch(0, 1, torch.device("cpu")), marked.batch(0, 1, torch.device("cpu"))
    example = Example(
        _picture((batch.sketch[0] + 1) / 2),
        _picture((batch.reference[0] + 1) / 2),
        _picture((marked_batch.reference[0] + 1) / 2),
        _picture(with_marks.generated[0] / 255),
        differences(with_marks.generated[:2])[0],
        marks,
        guesses[0] if guesses else None,
    )
    return Found(cell, pd.concat(curves, ignore_index=True), example)


def _pictures(
    cell: AnalysedCell, dataset: PreparedDataset, device: torch.device, generator: Colorizer, protocol: Protocol
) -> tuple[PairSet, Pictures]:
    pairs = PairSet.of(dataset.test, protocol.on(len(dataset.test)), cell.recipe.data)
    with progress(f"{cell.label}: {protocol.references}") as update:
        generated = generate(generator, pairs, device, progress=update)
    if not torch.isfinite(generated.float()).all():
        raise UserError(f"'{cell.path}': the pictures of its generator are not finite: train it again")
    return pairs, pictures_of(generated, pairs, dataset, device, generator=lambda: generator)


def _guesses(cell: AnalysedCell, pictures: Pictures) -> list[Guesses]:
    try:
        return guesses_of(pictures)
    except NotMeasurable as why:
        log.info(f"{cell.label}: {why}")
        return []


def _curves(
    cell: AnalysedCell,
    through: str,
    errors: Mapping[str, Sequence[np.ndarray]],
    trivial: Mapping[str, np.ndarray],
    samples: int,
) -> pd.DataFrame:
    """Args: errors: way -> of each picture its positions' errors, all pictures of equal weight; trivial: guess -> its curve."""
    curves = {way: np.mean([shares(one, _CURVE) for one in of_way], axis=0) for way, of_way in errors.items()} | dict(trivial)
    parts = [pd.DataFrame({"guess": guess, "alpha": _CURVE, "share": curve}) for guess, curve in curves.items()]
    return pd.concat(parts, ignore_index=True).assign(through=through, samples=samples, **cell.columns)


def share_at(curves: pd.DataFrame, through: str, guess: str, alpha: float = _ALPHA) -> float | None:
    """The mean share over the cells of a table; None where nothing was seen that way."""
    wanted = (curves["through"] == through) & (curves["guess"] == guess) & np.isclose(curves["alpha"], alpha)
    return float(curves.loc[wanted, "share"].mean()) if wanted.any() else None


def trivial_at(curves: pd.DataFrame, through: str, alpha: float = _ALPHA) -> float | None:
    """The best share of trivial guesses: anywhere, the middle, one place for all, or a position's own place, as if copied."""
    guesses = curves.loc[~curves["guess"].isin(WAYS), "guess"].unique()
    found = [share_at(curves, through, guess, alpha) for guess in guesses]
    return max((share for share in found if share is not None), default=None)


def short_table(files: Sequence[Path]) -> str:
    """The CSV files of cells as a text table: shares within 0.1 of the side, and the best trivial guess."""
    rows: dict[str, dict[str, str]] = {}
    for file in files:
        for cell, curves in pd.read_csv(file).groupby("cell", sort=False) if file.suffix == ".csv" else ():
            rows[str(cell)] = {"cell": str(cell), **_shares(curves)}  # a store's file repeats those of its cells
    return table_text(pd.DataFrame(list(rows.values())))


def _shares(curves: pd.DataFrame) -> dict[str, str]:
    found = {f"{through}, {way}": share_at(curves, through, way) for through in (MAP, MARK) for way in WAYS}
    found |= {f"{through}, trivial": trivial_at(curves, through) for through in (MAP, MARK)}
    return {name: percent(share) for name, share in found.items()}


def cell_section(found: Found) -> Section:
    """The section of one cell."""
    label, numbers = found.cell.label, _as_text(found.curves)
    return Section(
        "correspondence",
        f"Whether it finds what corresponds: {label}",
        f"{_quantity_text(found.curves)} Upper row, the first test image: true places in the warped reference (circles, of "
        f"radius {_ALPHA:g}) of points of the sketch, and where the map has its maximum (crosses); the marked reference, the "
        f"picture, and the difference that swapping the marks' colours makes, with the place where one belongs. {numbers}.",
        f"Pictures of a pair with true places and guesses; below, curves that rise from 0 to 1 with alpha. {numbers}.",
        _cell_figure(found),
        found.curves,
    )


def store_section(curves: pd.DataFrame) -> Section:
    """The section of several cells together."""
    groups = curves.groupby(["dataset", "variant"], sort=False)
    shares = short_list([f"{variant} on {dataset}: {_as_text(part)}" for (dataset, variant), part in groups])
    return Section(
        "correspondence",
        "Whether modules find what corresponds",
        f"{_quantity_text(curves)} Solid: by the maximum, averaged over seeds; dotted: the best trivial guess. {shares}.",
        "Curves that rise from 0 to 1 with alpha, a row of panels for each dataset, a colour for each module.",
        _store_figure(curves),
        curves,
    )


def _quantity_text(curves: pd.DataFrame) -> str:
    marks = curves.loc[curves["through"] == MARK, "samples"].min()
    return (
        "Share of positions of the sketch (through the map), and of marks in the reference (through a mark), that are found "
        f"within alpha of their true place; {marks} marks in {marks // 2} test images, whose references are their own "
        "originals under the recipe's warp."
    )


def _as_text(curves: pd.DataFrame) -> str:
    """`map 31.8 % (trivial 57.1 %), mark 9.3 % (trivial 52.2 %) within 0.1`."""
    parts = [
        f"{through} {percent(share)} (trivial {percent(trivial_at(curves, through))})"
        for through in (MAP, MARK)
        if (share := share_at(curves, through, WAYS[0])) is not None
    ]
    return f"{', '.join(parts)} within {_ALPHA:g}"


def _picture(image: torch.Tensor) -> np.ndarray:
    """(1 or 3, S, S) in [0, 1] -> (S, S, 3)."""
    return image.clamp(0, 1).expand(3, -1, -1).permute(1, 2, 0).numpy()


def _cell_figure(found: Found) -> Figure:
    from matplotlib.figure import Figure

    with paper_style():
        figure = Figure(figsize=(7, 3.9), layout="constrained")
        halves: Any = figure.subfigures(2, 1, height_ratios=(1, 1.5))
        _draw_example(halves[0].subplots(1, 5), found.example)
        axes = halves[1].subplots(1, 2, sharey=True)
        for axis, through in zip(axes, (MAP, MARK), strict=True):
            mine = found.curves[found.curves["through"] == through]
            for way in WAYS if len(mine) else ():
                curve = mine[mine["guess"] == way]
                axis.plot(curve["alpha"], curve["share"], _LINES[way], color=COLOURS[0], linewidth=1.2, label=way)
            _draw_trivial(axis, mine, COLOURS[-1], "best trivial guess")
            _scale(axis, _TITLES[through] if len(mine) else f"{_TITLES[through]}: there is none")
        axes[0].set_ylabel("share within alpha")
        axes[1].legend(loc="upper left", frameon=False)
    return figure


def _draw_example(axes: np.ndarray, example: Example) -> None:
    pictures = {
        "sketch": example.sketch,
        "reference": example.reference,
        "marked": example.marked,
        "generated": example.generated,
        "difference": example.difference,
    }
    for axis, (title, picture) in zip(axes, pictures.items(), strict=True):
        axis.set(xticks=[], yticks=[], title=title)
        axis.spines[:].set_visible(False)
        largest = np.abs(picture).max() or 1.0
        style: dict[str, Any] = {"cmap": "PiYG_r", "vmin": -largest, "vmax": largest} if picture.ndim == 2 else {}
        axis.imshow(picture, extent=(0, 1, 1, 0), **style)
        axis.autoscale(False)  # circles may reach beyond the picture
    _draw_points(axes[0], axes[1], example.guesses)
    _circle(axes[4], example.marks.in_sketch[0], RADIUS, "black")
    if np.isfinite(example.marks.maximum[0]).all():
        axes[4].plot(*example.marks.maximum[0], "x", color="black", markersize=4, markeredgewidth=0.9)


def _draw_points(sketch: Axes, reference: Axes, guesses: Guesses | None) -> None:
    """Some shown positions, each in a colour: in the sketch, where they are in the reference, and where the map has them."""
    if guesses is None:
        return
    shown = np.unique(guesses.cells)
    chosen = shown[np.linspace(0, len(shown) - 1, _POINTS + 2).round().astype(int)[1:-1]]
    for cell, colour in zip(dict.fromkeys(chosen.tolist()), COLOURS, strict=False):
        sketch.plot(*middles(guesses.side)[cell], "o", color=colour, markersize=4, markeredgecolor="white", markeredgewidth=0.6)
        for place in guesses.places[guesses.cells == cell]:
            _circle(reference, place, _ALPHA, colour)
            if np.isfinite(guesses.maximum[cell]).all():
                reference.plot(*zip(place, guesses.maximum[cell], strict=True), "-", color=colour, linewidth=0.6)
        reference.plot(*guesses.maximum[cell], "x", color=colour, markersize=4, markeredgewidth=1.0)


def _circle(axis: Axes, middle: np.ndarray, radius: float, colour: str) -> None:
    from matplotlib.patches import Circle

    axis.add_patch(Circle((float(middle[0]), float(middle[1])), radius, fill=False, edgecolor=colour, linewidth=0.9))


def _draw_trivial(axis: Axes, curves: pd.DataFrame, colour: str, label: str | None = None) -> None:
    """The upper edge of what trivial guesses have."""
    trivial = curves[~curves["guess"].isin(WAYS)]
    if len(trivial):
        best = trivial.groupby(["guess", "alpha"])["share"].mean().groupby("alpha").max()
        axis.plot(best.index, best, ":", color=colour, linewidth=1.0, label=label)


def _store_figure(curves: pd.DataFrame) -> Figure:
    """A row for each dataset, a panel for each way to see, a colour for each variant."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    datasets, colours = list(curves["dataset"].unique()), colours_of(list(curves["variant"].unique()))
    with paper_style():
        figure = Figure(figsize=(7, 0.5 + 2.1 * len(datasets) + 0.06 * len(colours)), layout="constrained")
        axes = figure.subplots(len(datasets), 2, squeeze=False, sharex=True, sharey=True)
        for row, dataset in zip(axes, datasets, strict=True):
            for axis, through in zip(row, (MAP, MARK), strict=True):
                there = curves[(curves["dataset"] == dataset) & (curves["through"] == through)]
                best = there[there["guess"] == WAYS[0]]
                for variant, of_variant in best.groupby("variant", sort=False):
                    mean = of_variant.groupby("alpha")["share"].mean()
                    axis.plot(mean.index, mean, color=colours[str(variant)], linewidth=1.2)
                _draw_trivial(axis, there, "black")
                _scale(axis, f"{dataset}, {_TITLES[through]}")
            row[0].set_ylabel("share within alpha")
        handles = [Line2D([], [], color=colour, label=variant) for variant, colour in colours.items()]
        handles.append(Line2D([], [], color="black", linestyle=":", label="best trivial guess"))
        figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)), frameon=False)
    return figure


def _scale(axis: Axes, title: str) -> None:
    axis.set(title=title, xlabel="alpha", xlim=(0, _CURVE[-1]), ylim=(0, 1.005))
