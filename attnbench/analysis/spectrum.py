"""`attnbench analyze spectrum`: how concentrated features are before and after the module. Figure 8 of the paper (section 4.2).

A sample's features are a matrix of n tokens by C channels, not centred. With its singular values s_1 >= s_2 >= ...

    ratio_r = sum_{k <= r} s_k^2 / sum_k s_k^2,   averaged over samples.

Before: f_s, of the sketch, and f_r, which the paper does not show; after: f_gen. Eval mode, test pairs. The paper's text
mentions the nuclear norm, its caption and its code squared values, as here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from attnbench.analysis.analysed_cells import AnalysedCell, each_usable, features
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
from attnbench.console import progress
from attnbench.data.batches import pair_batch
from attnbench.data.images import PreparedDataset
from attnbench.errors import UserError
from attnbench.method.precision import tf32
from attnbench.metrics.generate import BATCH

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEFORE, REFERENCE, AFTER = "before: sketch", "before: reference", "after"
_LINES: dict[str, Any] = {BEFORE: "--", REFERENCE: ":", AFTER: "-"}
_ENERGY = 0.9  # captions give the number of values that hold this share
_DATASETS = 6  # rows of a store's figure


def accumulated(tokens: Tensor) -> Tensor:
    """ratio_r of each sample: (B, n, C) -> (B, min(n, C)), float64, rising to 1; nan if all entries are zero."""
    squares = torch.linalg.svdvals(tokens.double()).square()
    return squares.cumsum(-1) / squares.sum(-1, keepdim=True)


def analyze_spectrum(cells: Sequence[AnalysedCell], device: torch.device, *, pairs: int) -> list[Path]:
    """Write the sections of these cells, and of their stores; returns the files.

    Args:
        pairs: number of test pairs, the first of the protocol's; all of them if there are fewer.

    Raises:
        UserError: the cell, or each of several, has no trained generator, no images here, or features without a spectrum.
    """

    def check(cell: AnalysedCell) -> PreparedDataset:
        cell.check_generator()
        return cell.dataset()

    def analyse(cell: AnalysedCell, dataset: PreparedDataset) -> pd.DataFrame:
        return of_cell(cell, dataset, device, pairs=pairs)

    files: list[Path] = []
    frames: dict[Path, pd.DataFrame] = {}
    for cell, frame in each_usable(cells, check, analyse):
        frames[cell.path] = frame
        files += write_section(cell.path, cell_section(frame))
    for store, inside in by_store([cell for cell in cells if cell.path in frames]).items():
        files += write_section(store, store_section(pd.concat([frames[cell.path] for cell in inside], ignore_index=True)))
    return files


@torch.no_grad()
@tf32(False)
def of_cell(cell: AnalysedCell, dataset: PreparedDataset, device: torch.device, *, pairs: int) -> pd.DataFrame:
    """Columns: those of the cell; of (one of the three features), r (from 1), ratio (the mean), deviation, samples."""
    generator, images = cell.generator(device), dataset.test
    chosen = cell.protocol.pairs(len(images))[:pairs]
    found: dict[str, list[Tensor]] = {BEFORE: [], REFERENCE: [], AFTER: []}
    with progress(f"{cell.label}: spectrum") as update:
        for start in range(0, len(chosen), BATCH):
            batch = pair_batch(images, chosen[start : start + BATCH], data=cell.recipe.data, device=device)
            maps = features(generator, batch.sketch, batch.reference)
            for (name, ratios), one in zip(found.items(), maps, strict=True):
                if not torch.isfinite(one).all():
                    raise UserError(f"'{cell.path}': the features of its generator are not finite ({name}): train it again")
                if not one.flatten(1).any(1).all():
                    raise UserError(
                        f"'{cell.path}': the features of its generator are zero everywhere ({name}) and have no spectrum: its "
                        "network is dead, train it again"
                    )
                ratios.append(accumulated(one.flatten(2).mT).cpu())
            update(min(start + BATCH, len(chosen)), len(chosen))
    frames = []
    for name, ratios in found.items():
        table = torch.cat(ratios).numpy()
        values = {"r": np.arange(1, table.shape[1] + 1), "ratio": table.mean(0), "deviation": table.std(0)}
        frames.append(pd.DataFrame({**cell.columns, "of": name, **values, "samples": len(table)}))
    return pd.concat(frames, ignore_index=True)


def needed(frame: pd.DataFrame, energy: float = _ENERGY) -> int:
    """The number of singular values that hold this share, from the rows of one cell and one feature."""
    return int(frame.loc[frame["ratio"] >= energy - 1e-12, "r"].min())


def short_table(files: Sequence[Path]) -> str:
    """The CSV files of cells as a text table: the share of the first value, of the first ten, and the number that hold 90 %."""
    rows = []
    for file in files:
        for (cell, name), part in pd.read_csv(file).groupby(["cell", "of"], sort=False) if file.suffix == ".csv" else ():
            ratio = part.set_index("r")["ratio"]
            row = {"cell": cell, "features": name, "first": percent(ratio[1]), "first 10": percent(ratio[min(10, len(ratio))])}
            rows.append({**row, f"values for {100 * _ENERGY:g} %": f"{needed(part)} of {len(ratio)}"})
    return table_text(pd.DataFrame(rows).drop_duplicates())  # a store's file repeats those of its cells


def cell_section(frame: pd.DataFrame) -> Section:
    """The section of one cell."""
    cell = frame["cell"].iloc[0]
    shares = _energy_text(frame)
    return Section(
        "spectrum",
        f"Spectrum of the features before and after the module: {cell}",
        f"{_quantity_text(frame)}; bands: one standard deviation over pairs. {shares}.",
        f"Curves that rise to 1; the higher a curve, the fewer directions the features lie in. {shares}.",
        _cell_figure(frame),
        frame,
    )


def store_section(frame: pd.DataFrame) -> Section:
    """The section of several cells together."""
    datasets = list(frame["dataset"].unique())
    shown = frame[frame["dataset"].isin(datasets[:_DATASETS])]
    groups = shown.groupby(["dataset", "variant"], sort=False)
    parts = sorted(groups, key=lambda group: datasets.index(group[0][0]))
    shares = short_list([f"{variant} on {dataset}: {_energy_text(part)}" for (dataset, variant), part in parts])
    seeds = frame.groupby(["dataset", "variant"])["cell"].nunique().max() > 1
    note = " Thin: each seed; thick: their mean." if seeds else ""
    note += f" The first {_DATASETS} of {len(datasets)} datasets are shown." if len(datasets) > _DATASETS else ""
    return Section(
        "spectrum",
        "Spectrum of the features before and after the module, module by module",
        f"{_quantity_text(frame)}.{note} {shares}.",
        "Curves that rise to 1, a row of panels for each dataset, a colour for each module.",
        _store_figure(shown),
        frame,
    )


def _quantity_text(frame: pd.DataFrame) -> str:
    return (
        "Cumulative squared singular values of the tokens by channels, largest first, as shares of their sum; mean over "
        f"{frame['samples'].min()} test pairs"
    )


def _energy_text(frame: pd.DataFrame) -> str:
    """The number of values that hold 90 % before and after, for the mean over cells."""
    means = frame.groupby(["of", "r"])["ratio"].mean().reset_index()
    before, after = (means[means["of"] == name] for name in (BEFORE, AFTER))
    return f"{needed(before)} of {len(before)} values before and {needed(after)} after hold {100 * _ENERGY:g} %"


def _cell_figure(frame: pd.DataFrame) -> Figure:
    """As in the paper: one panel, a line style for each feature."""
    from matplotlib.figure import Figure

    with paper_style():
        figure = Figure(figsize=(3.6, 2.7), layout="constrained")
        axis = figure.subplots()
        for name, part in frame.groupby("of", sort=False):
            axis.plot(part["r"], part["ratio"], _LINES[str(name)], color=COLOURS[0], linewidth=1.2, label=name)
            low, high = part["ratio"] - part["deviation"], part["ratio"] + part["deviation"]
            axis.fill_between(part["r"], low, high.clip(upper=1), color=COLOURS[0], alpha=0.12, linewidth=0)
        axis.set(title=frame["cell"].iloc[0], ylabel="accumulated ratio")
        _scale(axis)
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def _store_figure(frame: pd.DataFrame) -> Figure:
    """A row for each dataset, a panel for each feature, a colour for each variant: seeds thin, their mean thick."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    datasets, colours = list(frame["dataset"].unique()), colours_of(list(frame["variant"].unique()))
    with paper_style():
        figure = Figure(figsize=(7, 0.5 + 1.9 * len(datasets) + 0.06 * len(colours)), layout="constrained")
        axes = figure.subplots(len(datasets), len(_LINES), squeeze=False, sharex="row", sharey="row")
        for row, dataset in zip(axes, datasets, strict=True):
            for axis, feature in zip(row, _LINES, strict=True):
                there = frame[(frame["dataset"] == dataset) & (frame["of"] == feature)]
                for variant, of_variant in there.groupby("variant", sort=False):
                    curves = [part for _, part in of_variant.groupby("cell", sort=False)]
                    for curve in curves if len(curves) > 1 else ():
                        axis.plot(curve["r"], curve["ratio"], color=colours[str(variant)], linewidth=0.5, alpha=0.5)
                    mean = of_variant.groupby("r")["ratio"].mean()
                    axis.plot(mean.index, mean, color=colours[str(variant)], linewidth=1.2)
                axis.set(title=f"{dataset}, {feature}")
                _scale(axis)
            row[0].set_ylabel("accumulated ratio")
        handles = [Line2D([], [], color=colour, label=variant) for variant, colour in colours.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)), frameon=False)
    return figure


def _scale(axis: Axes) -> None:
    axis.set(xlabel="r", xscale="log", ylim=(None, 1.005))
    axis.xaxis.set_major_formatter("{x:g}")
