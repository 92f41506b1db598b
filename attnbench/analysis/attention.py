"""`attnbench analyze attention`: which positions of the reference each position of the sketch attends to, and how sharply.

In every map that a module passes to `observe("attention", map)`, (B, n, m), rows are positions of the sketch. They are first
divided by their sums, since rows need not sum to one: in SGA columns do (paper section 3.4, equation 10). Then

    entropy_i = - sum_j p_ij log p_ij,   in nats, 0 for a row with one nonzero entry, log m for a uniform one.

A map whose query and key are branches of one tensor is *self*-attention: it covers the sketch's own grid and is overlaid on the
generated picture. Any other is *cross*-attention, overlaid on the reference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from attnbench.analysis.analysed_cells import AnalysedCell, each_usable
from attnbench.analysis.sections import COLOURS, Section, by_store, paper_style, percent, table_text, write_section
from attnbench.console import log
from attnbench.data.batches import pair_batch
from attnbench.data.images import PreparedDataset
from attnbench.errors import UserError
from attnbench.method.attention_maps import Maps
from attnbench.method.backbone import Colorizer
from attnbench.method.precision import tf32
from attnbench.method.probe import listening

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

Point = tuple[int, int]  # x, y in pixels, from the upper left corner

POINTS = 3  # number of points chosen by default
_ROWS = 12  # of a store's figure
_DIM = 0.2  # brightness where the weight is 0
_BRIGHT = (
    "Brightness is a point's attention relative to its largest weight; cross-attention is overlaid on the reference, "
    "self-attention on the generated picture. Right: the entropy of each position's row."
)
_NO_MAP = 'n/a: its module shows no attention map of this pair; if it has one, add `observe("attention", map)` to its forward'


@dataclass(frozen=True)
class AttentionMap:
    """One map of one pair.

    Attributes:
        name: `cross` or `self`, numbered where there are several.
        within: whether it covers the sketch's own grid.
        rows: (n, m), float64, rows sum to one; nan where the original row sums to 0.
        sums: (n,), the sums of the original rows.
    """

    name: str
    within: bool
    rows: Tensor
    sums: Tensor

    @property
    def entropy(self) -> Tensor:
        """(n,), in nats."""
        return entropy(self.rows)

    @property
    def uneven(self) -> bool:
        """Whether some original rows do not sum to one."""
        return bool((self.sums - 1).abs().max() > 1e-3)

    @property
    def mean_entropy(self) -> float:
        """Mean over the rows with a defined entropy."""
        return float(self.entropy.nanmean())

    @property
    def share(self) -> float:
        """The mean entropy as a share of a uniform row's, log m; 0 where m = 1."""
        return self.mean_entropy / math.log(self.rows.shape[1]) if self.rows.shape[1] > 1 else 0.0


@dataclass(frozen=True)
class Looked:
    """A cell's maps of one test pair; pictures (S, S, 3) in [0, 1]."""

    cell: AnalysedCell
    pair: int
    names: tuple[str, str]
    points: tuple[Point, ...]
    sketch: np.ndarray
    reference: np.ndarray
    generated: np.ndarray
    maps: list[AttentionMap]


def normalized(attention: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of a map (n, m) divided by their sums, (n, m), and the sums, (n,), in float64."""
    sums = attention.double().sum(-1)
    return attention.double() / sums[:, None], sums


def entropy(rows: Tensor) -> Tensor:
    """Of each distribution, in nats: (n, m) -> (n,)."""
    return torch.special.entr(rows).sum(-1)


def maps_of(generator: Colorizer, sketch: Tensor, reference: Tensor) -> tuple[Tensor, list[AttentionMap]]:
    """The generated picture of one pair, and the attention maps that the module shows on the way."""
    with listening(seen := Maps()):
        generated = generator(sketch, reference)
    return generated, [AttentionMap(one.name, one.within, *normalized(one.weights[0].cpu())) for one in seen.shown]


def analyze_attention(
    cells: Sequence[AnalysedCell],
    device: torch.device,
    *,
    pair: int,
    points: Sequence[Point] = (),
) -> list[Path]:
    """Write the sections of these cells, and of their stores; returns the files.

    Args:
        pair: index of one of the protocol's test pairs, from 0.
        points: of the sketch, in pixels; by default on its lines.

    Raises:
        UserError: the cell, or each of several, has no trained generator, no images here, no such pair, no such point, or a map
            that cannot be shown.
    """

    def check(cell: AnalysedCell) -> PreparedDataset:
        return _check_asked(cell, pair, points)

    def analyse(cell: AnalysedCell, dataset: PreparedDataset) -> Looked:
        return of_cell(cell, dataset, device, pair=pair, points=points)

    files: list[Path] = []
    looked: dict[Path, Looked] = {}
    for cell, found in each_usable(cells, check, analyse):
        if not found.maps:
            log.info(f"{cell.label}: {_NO_MAP}")
            continue
        looked[cell.path] = found
        files += write_section(cell.path, cell_section(found))
    for store, inside in by_store([cell for cell in cells if cell.path in looked]).items():
        files += write_section(store, store_section([looked[cell.path] for cell in inside]))
    return files


def _check_asked(cell: AnalysedCell, pair: int, points: Sequence[Point]) -> PreparedDataset:
    """The cell's images; raises UserError if the generator, the images, the pair or a point does not exist."""
    size = cell.recipe.data.size
    for x, y in points:
        if not (0 <= x < size and 0 <= y < size):
            raise UserError(f"--point {x},{y}: the pictures of '{cell.path}' have {size} x {size} pixels, from 0,0")
    cell.check_generator()
    dataset = cell.dataset()
    pairs = cell.protocol.pairs(len(dataset.test))
    if not 0 <= pair < len(pairs):
        raise UserError(f"--pair {pair}: '{cell.path}' has {len(pairs)} test pairs, 0 to {len(pairs) - 1}")
    return dataset


@torch.no_grad()
@tf32(False)
def of_cell(
    cell: AnalysedCell, dataset: PreparedDataset, device: torch.device, *, pair: int, points: Sequence[Point] = ()
) -> Looked:
    """The maps of a cell's module on one test pair; raises UserError for a map that cannot be shown."""
    generator, images = cell.generator(device), dataset.test
    pairs = cell.protocol.pairs(len(images))
    batch = pair_batch(images, [pairs[pair]], data=cell.recipe.data, device=device)
    generated, maps = maps_of(generator, batch.sketch, batch.reference)
    for one in maps:
        _check(one, cell.path)
    chosen = tuple(points) or points_on_lines(batch.sketch[0, 0].cpu())
    sketch, reference = (images.names[index] for index in pairs[pair])
    drawn, given, coloured = (_picture(image[0]) for image in (batch.sketch, batch.reference, generated))
    return Looked(cell, pair, (sketch, reference), chosen, drawn, given, coloured, maps)


def points_on_lines(sketch: Tensor, count: int = POINTS) -> tuple[Point, ...]:
    """Where the sketch, (S, S) with paper at 1, has most lines: centres of patches S / 8 wide, no two of them adjacent."""
    size = sketch.shape[-1]
    patch = max(1, size // 8)
    ink = F.avg_pool2d((1 - sketch)[None, None], patch)[0, 0]
    ink[[0, -1]] = ink[:, [0, -1]] = -1  # not the frame of the picture
    found: list[Point] = []
    for _ in range(count):
        row, column = divmod(int(ink.argmax()), ink.shape[1])
        found.append((column * patch + patch // 2, row * patch + patch // 2))
        ink[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2] = -2
    return tuple(dict.fromkeys(found))


def cell_section(looked: Looked) -> Section:
    """The section of one cell."""
    numbers = "; ".join(
        f"{attention.name}: mean entropy {attention.mean_entropy:.2f} nats, {percent(attention.share)} of a uniform map's"
        if attention.entropy.isfinite().any()
        else f"{attention.name}: every row is zero"
        for attention in looked.maps
    )
    uneven = [
        f"{attention.name}: {attention.sums.min():.3g} to {attention.sums.max():.3g}"
        for attention in looked.maps
        if attention.uneven
    ]
    note = f" These maps' rows do not sum to one ({'; '.join(uneven)}); they are divided by their sums." if uneven else ""
    where = ", ".join(f"({x}, {y})" for x, y in looked.points)
    return Section(
        "attention",
        f"Where points of the sketch look: {looked.cell.label}",
        f"Test pair {looked.pair}: sketch {looked.names[0]}, reference {looked.names[1]}. Points at pixels {where}. {_BRIGHT} "
        f"{numbers}.{note}",
        f"Pictures of a pair, with attention maps overlaid as brightness. {numbers}.",
        _figure([looked]),
        pd.concat([_frame(looked, attention) for attention in looked.maps], ignore_index=True),
    )


def store_section(found: Sequence[Looked]) -> Section:
    """The section of several cells together, showing one per variant and dataset, as far as there is room."""
    firsts: dict[tuple[str, str], Looked] = {}
    datasets = list(dict.fromkeys(one.cell.dataset_label for one in found))
    for one in sorted(found, key=lambda one: datasets.index(one.cell.dataset_label)):
        firsts.setdefault((one.cell.variant_label, one.cell.dataset_label), one)
    rows = list(accumulate(len(one.maps) for one in firsts.values()))
    shown = [one for one, so_far in zip(firsts.values(), rows, strict=True) if so_far <= max(_ROWS, rows[0])]
    left_out = len(shown) < len(found)
    note = f" {len(shown)} of {len(found)} cells are shown, one per module and dataset; the CSV has all." if left_out else ""
    uneven = any(attention.uneven for one in found for attention in one.maps)
    note += " Rows that do not sum to one are divided by their sums." if uneven else ""
    return Section(
        "attention",
        "Where points of the sketch look, module by module",
        f"Test pair {found[0].pair}. {_BRIGHT} Above it: the mean, as a share of a uniform map's.{note}",
        f"A row for each attention map of {len(shown)} cells: the pictures of a pair, each point's attention as brightness "
        "on them, and a map of the entropies.",
        _figure(shown),
        pd.concat([_frame(looked, attention) for looked in found for attention in looked.maps], ignore_index=True),
    )


def short_table(files: Sequence[Path]) -> str:
    """The CSV files of cells as a text table: the mean entropy of each map."""
    frames = [pd.read_csv(file) for file in files if file.suffix == ".csv"]
    if not frames:
        return ""
    together = pd.concat(frames).drop_duplicates()  # a store's file repeats those of its cells
    means = together.groupby(["cell", "map"], sort=False)[["entropy", "share_of_log_m"]].mean().reset_index()
    means["share_of_log_m"] = [percent(share) for share in means["share_of_log_m"]]
    means = means.rename(columns={"entropy": "entropy, nats", "share_of_log_m": "of log m"})
    means["entropy, nats"] = [f"{value:.3f}" for value in means["entropy, nats"]]
    return table_text(means)


def _frame(looked: Looked, attention: AttentionMap) -> pd.DataFrame:
    """A row for each position of the sketch: its centre and the centre of its largest weight in pixels, sum and entropy."""
    size = looked.sketch.shape[0]
    n, m = attention.rows.shape
    y, x = _centres(n, size)
    peak_y, peak_x = (axis[attention.rows.nan_to_num(-1).argmax(-1).numpy()] for axis in _centres(m, size))
    entropies = attention.entropy.numpy()
    return pd.DataFrame(
        {**looked.cell.columns, "pair": looked.pair, "map": attention.name, "x": x, "y": y, "peak_x": peak_x, "peak_y": peak_y}
        | {"row_sum": attention.sums.numpy(), "entropy": entropies, "share_of_log_m": entropies / max(math.log(m), 1e-300)}
    )


def _centres(count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(y, x) of the positions of a square grid, in pixels."""
    side = math.isqrt(count)
    line = (np.arange(side) + 0.5) * size / side
    return np.repeat(line, side), np.tile(line, side)


def _check(attention: AttentionMap, path: Path) -> None:
    """Raises UserError if a map is not of square grids, not finite, or has negative weights."""
    if any(math.isqrt(count) ** 2 != count for count in attention.rows.shape):
        n, m = attention.rows.shape
        raise UserError(
            f"'{path}': its {attention.name} map has {n} x {m} entries, which are not square grids: it cannot be overlaid"
        )
    if not torch.isfinite(attention.sums).all():
        raise UserError(f"'{path}': its {attention.name} map is not finite: train it again")
    if (attention.rows * attention.sums[:, None] < 0).any():
        raise UserError(
            f"'{path}': its {attention.name} map has negative weights, so its rows are not distributions and have no entropy"
        )


def _picture(image: Tensor) -> np.ndarray:
    """(1 or 3, S, S) in [-1, 1] -> (S, S, 3) in [0, 1]."""
    return ((image.cpu() + 1) / 2).clamp(0, 1).expand(3, -1, -1).permute(1, 2, 0).numpy()


def _figure(found: Sequence[Looked]) -> Figure:
    """A row for each map: sketch with its points, reference, generated; what each point looks at; the entropy."""
    from matplotlib.figure import Figure

    headings = [0.16] if len(found) > 1 else []  # the height of the row above each cell's maps, relative to theirs
    heights = [height for looked in found for height in (*headings, *[1.0] * len(looked.maps))]
    count = max(len(looked.points) for looked in found)
    with paper_style():
        figure = Figure(figsize=(1.25 * (count + 4) + 0.5, 1.35 * sum(heights) + 0.2), layout="constrained")
        grid = figure.add_gridspec(len(heights), count + 4, height_ratios=heights)
        places = iter(range(len(heights)))
        for looked in found:
            if headings:
                axis = figure.add_subplot(grid[next(places), :])
                axis.set_axis_off()
                axis.text(0, 0, looked.cell.label, transform=axis.transAxes, fontweight="bold", va="center")
            for attention in looked.maps:
                place = next(places)
                image = _draw_row([figure.add_subplot(grid[place, column]) for column in range(count + 4)], looked, attention)
                figure.colorbar(image, ax=image.axes, label="nats", shrink=0.85)
    return figure


def _draw_row(row: Sequence[Axes], looked: Looked, attention: AttentionMap) -> AxesImage:
    """Draw one map; returns the image of the entropy."""
    for axis in row:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    if first := attention is looked.maps[0]:
        pictures = (looked.sketch, looked.reference, looked.generated)
        for axis, picture, title in zip(row, pictures, ("sketch", "reference", "generated"), strict=False):
            axis.imshow(picture)
            axis.set_title(title)
        for number, (x, y) in enumerate(looked.points, 1):
            _mark(row[0], x, y, number)
    row[3].set_ylabel(attention.name)
    side = looked.sketch.shape[0]
    for number, (axis, (x, y)) in enumerate(zip(row[3:], looked.points, strict=False), 1):
        weights = attention.rows[_row_of(x, y, len(attention.rows), side)]
        axis.imshow(_lit(looked.generated if attention.within else looked.reference, weights))
        if first:
            axis.set_title(f"point {number}", color=COLOURS[(number - 1) % len(COLOURS)])
        if attention.within:
            _mark(axis, x, y, number)
    grid = math.isqrt(len(attention.rows))
    most = math.log(attention.rows.shape[1]) or 1.0
    image = row[-1].imshow(attention.entropy.view(grid, grid).numpy(), cmap="cividis", vmin=0, vmax=most)
    row[-1].set_title(f"entropy, {percent(attention.share)}")
    return image


def _row_of(x: int, y: int, count: int, size: int) -> int:
    """The index of a map's row for a pixel."""
    side = math.isqrt(count)
    return (y * side // size) * side + x * side // size


def _lit(picture: np.ndarray, weights: Tensor) -> np.ndarray:
    """The picture with the brightness of the weights (m,) relative to the largest; dim everywhere if they are undefined."""
    side, size = math.isqrt(len(weights)), picture.shape[0]
    light = (weights / weights.max()).nan_to_num(0).view(1, 1, side, side)
    light = F.interpolate(light, size=(size, size), mode="nearest")[0, 0, :, :, None]
    return picture * (_DIM + (1 - _DIM) * light.numpy())


def _mark(axis: Axes, x: int, y: int, number: int) -> None:
    style: dict[str, Any] = {"markersize": 6, "markeredgecolor": "white", "markeredgewidth": 0.8}
    axis.plot([x], [y], "o", color=COLOURS[(number - 1) % len(COLOURS)], **style)
    axis.annotate(str(number), (x, y), color="white", fontsize=4.5, ha="center", va="center_baseline")
