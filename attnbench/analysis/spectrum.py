"""`attnbench analyze spectrum`: how concentrated features are before and after the module. Figure 8 of the paper (section 4.2).

A sample's features are a matrix of n tokens by C channels, as they are, not centred. With its singular values s_1 >= s_2 >= ...

    ratio_r = sum_{k <= r} s_k^2 / sum_k s_k^2,   averaged over samples.

Before: f_s, the sketch's, and, which the paper does not show, f_r; after: f_gen. Eval mode, test pairs. The paper's text speaks
of the nuclear norm, its caption and its code of squared values, which these are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from attnbench.analysis.cells import AnalysedCell, features
from attnbench.analysis.sections import COLOURS, Section, by_store, paper_style, percent, write_section
from attnbench.console import Reporter
from attnbench.data.batches import pair_batch
from attnbench.errors import UserError
from attnbench.evaluate import BATCH, pair_list
from attnbench.precision import tf32

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BEFORE, REFERENCE, AFTER = "before: sketch", "before: reference", "after"
_LINES: dict[str, Any] = {BEFORE: "--", REFERENCE: ":", AFTER: "-"}
_ENERGY = 0.9  # of which the captions say how many values hold it


def accumulated(tokens: Tensor) -> Tensor:
    """ratio_r of each sample: (B, n, C) -> (B, min(n, C)), float64, rising to 1."""
    squares = torch.linalg.svdvals(tokens.double()).square()
    return squares.cumsum(-1) / squares.sum(-1, keepdim=True)


def analyze_spectrum(cells: Sequence[AnalysedCell], device: torch.device, reporter: Reporter, *, pairs: int) -> list[Path]:
    """Write the sections of these cells, and of their stores; returns the files.

    Args:
        pairs: how many test pairs, the first of the protocol's; fewer where there are fewer.

    Raises:
        UserError: a cell has no trained generator, or no images here.
    """
    files: list[Path] = []
    frames: dict[Path, pd.DataFrame] = {}
    for cell in cells:
        frames[cell.path] = of_cell(cell, device, reporter, pairs=pairs)
        files += write_section(cell.path, section(frames[cell.path]))
    for store, inside in by_store(cells).items():
        files += write_section(store, section(pd.concat([frames[cell.path] for cell in inside], ignore_index=True)))
    return files


@torch.no_grad()
@tf32(False)
def of_cell(cell: AnalysedCell, device: torch.device, reporter: Reporter, *, pairs: int) -> pd.DataFrame:
    """Columns: cell, dataset, of (one of the three features), r (from 1), ratio (the mean), deviation, samples."""
    generator, images = cell.generator(device), cell.dataset(reporter).test
    chosen = pair_list(len(images), cell.recipe.evaluation)[:pairs]
    found: dict[str, list[Tensor]] = {BEFORE: [], REFERENCE: [], AFTER: []}
    with reporter.progress(f"{cell.label}: spectrum") as update:
        for start in range(0, len(chosen), BATCH):
            batch = pair_batch(images, chosen[start : start + BATCH], data=cell.recipe.data, device=device)
            maps = features(generator, batch.sketch, batch.reference)
            for (name, ratios), one in zip(found.items(), maps, strict=True):
                if not torch.isfinite(one).all():
                    raise UserError(f"'{cell.path}': the features of its generator are not finite ({name}): train it again")
                ratios.append(accumulated(one.flatten(2).mT).cpu())
            update(min(start + BATCH, len(chosen)), len(chosen))
    frames = []
    for name, ratios in found.items():
        table = torch.cat(ratios).numpy()
        columns = {"cell": cell.label, "dataset": cell.record["dataset"]["name"], "of": name}
        values = {"r": np.arange(1, table.shape[1] + 1), "ratio": table.mean(0), "deviation": table.std(0)}
        frames.append(pd.DataFrame({**columns, **values, "samples": len(table)}))
    return pd.concat(frames, ignore_index=True)


def needed(frame: pd.DataFrame, energy: float = _ENERGY) -> int:
    """How many singular values hold that share, of rows of one cell and one feature."""
    return int(frame.loc[frame["ratio"] >= energy - 1e-12, "r"].min())


def short_table(files: Sequence[Path]) -> str:
    """What the CSV files of cells say, as text: the share of the first value, of the first ten, and how many hold 90 %."""
    rows = []
    for file in files:
        for (cell, name), part in pd.read_csv(file).groupby(["cell", "of"], sort=False) if file.suffix == ".csv" else ():
            ratio = part.set_index("r")["ratio"]
            row = {"cell": cell, "features": name, "first": percent(ratio[1]), "first 10": percent(ratio[min(10, len(ratio))])}
            rows.append({**row, f"values for {100 * _ENERGY:g} %": f"{needed(part)} of {len(ratio)}"})
    frame = pd.DataFrame(rows).drop_duplicates()  # a store's file repeats those of its cells
    text: str = frame.to_markdown(index=False, tablefmt="simple", disable_numparse=True)
    return text


def section(frame: pd.DataFrame) -> Section:
    """Of one cell, or of several together."""
    cells = list(frame["cell"].unique())
    numbers = []
    for cell in cells:
        parts = dict(iter(frame[frame["cell"] == cell].groupby("of", sort=False)))
        held = {name: needed(part) for name, part in parts.items()}
        first = {name: percent(part["ratio"].iloc[0]) for name, part in parts.items()}
        numbers.append(
            f"{cell}: {held[BEFORE]} of {len(parts[BEFORE])} values before and {held[AFTER]} after hold {100 * _ENERGY:g} %, "
            f"the first alone {first[BEFORE]} and {first[AFTER]}"
        )
    listed = "; ".join(numbers)
    return Section(
        "spectrum",
        "Spectrum of the features before and after the module" + (f": {cells[0]}" if len(cells) == 1 else ""),
        "Squared singular values of the tokens by channels, largest first, accumulated, as shares of their sum; mean of "
        f"{frame['samples'].min()} test pairs{', bands a standard deviation of pairs' if len(cells) == 1 else ''}. {listed}.",
        f"Curves that rise to 1; the higher, the more of the features lies in few directions. {listed}.",
        _figure(frame),
        frame,
    )


def _figure(frame: pd.DataFrame) -> Figure:
    """A panel for each data set: a colour for each cell, a kind of line for each feature."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    datasets = list(frame["dataset"].unique())
    cells = list(frame["cell"].unique())
    with paper_style():
        figure = Figure(figsize=(0.6 + 3.0 * len(datasets), 2.6 + 0.08 * len(cells)), layout="constrained")
        axes = figure.subplots(1, len(datasets), squeeze=False, sharey=True)[0]
        for axis, dataset in zip(axes, datasets, strict=True):
            for (cell, name), part in frame[frame["dataset"] == dataset].groupby(["cell", "of"], sort=False):
                colour = COLOURS[cells.index(cell) % len(COLOURS)]
                axis.plot(part["r"], part["ratio"], _LINES[str(name)], color=colour, linewidth=1.2)
                if len(cells) == 1:
                    low, high = part["ratio"] - part["deviation"], part["ratio"] + part["deviation"]
                    axis.fill_between(part["r"], low, high.clip(upper=1), color=colour, alpha=0.12, linewidth=0)
            axis.set(title=dataset if len(cells) > 1 else cells[0], xlabel="r", xscale="log", ylim=(None, 1.005))
            axis.xaxis.set_major_formatter("{x:g}")
        axes[0].set_ylabel("accumulated ratio")
        colours = [Line2D([], [], color=COLOURS[k % len(COLOURS)], label=cell) for k, cell in enumerate(cells)]
        colours = colours if len(cells) > 1 else []
        lines = [Line2D([], [], color="0.3", linestyle=line, label=name) for name, line in _LINES.items()]
        figure.legend(handles=[*colours, *lines], loc="outside lower center", ncols=2 if colours else 3, frameon=False)
    return figure
