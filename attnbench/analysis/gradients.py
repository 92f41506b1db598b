"""`attnbench analyze gradients`: do the branches of a module's gradient agree? Figures 4, 5 and 10 of the paper (section 3.3).

Over the epochs, from the counts of `attnbench run --record-gradients`; and on a checkpoint, for each loss term separately, over
training batches in train mode. `training.gradient_cosines` defines and counts the cosines.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from attnbench import weights
from attnbench.analysis.analysed_cells import AnalysedCell, each_usable, unusable
from attnbench.analysis.sections import COLOURS, Section, by_store, paper_style, percent, table_text, write_section
from attnbench.config.recipe import Recipe
from attnbench.console import log, progress, warn
from attnbench.data.batches import Batch
from attnbench.data.images import PreparedDataset
from attnbench.errors import UserError
from attnbench.method.backbone import feature_channels
from attnbench.method.losses import PerceptualFeatures, generator_losses
from attnbench.method.precision import tf32
from attnbench.method.probe import listening
from attnbench.training.gradient_cosines import BINS, DOMINANT, GRADIENTS, BranchKey, Counts, GradientCosines, from_json
from attnbench.training.loop import batches, precision
from attnbench.training.state import Training, assemble

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TERMS = ("total", "reconstruction", "adversarial", "perceptual", "style")
SHOWN_BINS = 50  # in figures: the 200 bins, four merged into one
_TICKS = (-1, -0.5, 0, 0.5, 1)
_LEAST = 0.1  # per cent in a bin: the lower end of the colour scale
_EDGES = np.linspace(-1, 1, SHOWN_BINS + 1)
_SHORT = {"reconstruction": "rec.", "adversarial": "adv.", "perceptual": "perc."}  # in printed tables
_ROWS = 44  # branches in a store's figure
_INSIDE = " `Inside` is a tensor that the module has computed itself and splits again."
_SPLITS = " Several splits of one input are numbered; the whole is that of one split, not their sum."
_ABOVE, _BELOW = f"share above {DOMINANT}", "share below 0"  # columns
_LABELS = {"above": f"above {DOMINANT}", "below": "below 0"}
_OF_SPLIT = "of this split alone"
_NO_BRANCH = 'n/a: its module marks no branches; add `x_skip, x_query = branch(x, "skip", "query")` to its forward'
_NO_MATCHING = "n/a: its module has no matching path (no `query` or `key`), so nothing can disagree with its content path"
_ALONE = "n/a: each input of its module has only one branch, which is the whole"


@dataclass(frozen=True)
class Epoch:
    """A line of gradients.jsonl.

    Attributes:
        epoch: from 1.
        step: at its end.
        steps: number of steps counted.
    """

    epoch: int
    step: int
    steps: int
    counts: list[Counts]


@dataclass(frozen=True)
class Kept:
    """The available data of a cell: the recorded epochs, and its checkpoint with its dataset, or None."""

    epochs: list[Epoch]
    resumable: tuple[Mapping[str, Any], PreparedDataset] | None


@dataclass(frozen=True)
class ByLoss:
    """The counts on a checkpoint.

    Attributes:
        step: of the checkpoint.
        images: number of images counted, batches times batch size.
        terms: loss term -> counts; `total` is the weighted sum of the losses.
        left_out: why some terms are missing, or empty.
    """

    step: int
    images: int
    terms: Mapping[str, list[Counts]]
    left_out: str


def analyze_gradients(cells: Sequence[AnalysedCell], device: torch.device, *, count: int) -> list[Path]:
    """Write the sections of these cells, and of their stores; returns the files.

    Args:
        count: training batches for each cell's checkpoint.

    Raises:
        UserError: the cell, or each of several, has neither recorded gradients nor a checkpoint with its images.
    """

    def analyse(cell: AnalysedCell, kept: Kept) -> tuple[list[Epoch], ByLoss | None]:
        by_loss = of_checkpoint(cell, *kept.resumable, device, count=count) if kept.resumable else None
        return kept.epochs, by_loss

    files: list[Path] = []
    shares: dict[Path, pd.DataFrame] = {}
    for cell, (epochs, by_loss) in each_usable(cells, _look, analyse):
        if why := not_applicable(epochs, by_loss):
            log.info(f"{cell.label}: {why}")
            continue
        if epochs:
            files += write_section(cell.path, epochs_section(cell, epochs))
        if by_loss:
            files += write_section(cell.path, losses_section(cell, by_loss))
        shares[cell.path] = _total_shares(cell, epochs, by_loss)
    for store, inside in by_store([cell for cell in cells if cell.path in shares]).items():
        together = pd.concat([shares[cell.path] for cell in inside], ignore_index=True)
        files += write_section(store, overview_section(together))
    return files


def not_applicable(epochs: Sequence[Epoch], by_loss: ByLoss | None) -> str | None:
    """Why there is nothing to compare, or None."""
    counts = [one for epoch in epochs for one in epoch.counts]
    counts += [one for term in (by_loss.terms if by_loss else {}).values() for one in term]
    if not counts:
        return _NO_BRANCH
    if all(one.kind == "content" for one in counts):
        return _NO_MATCHING
    inputs = [name for name, _ in {one.key for one in counts}]
    return _ALONE if len(inputs) == len(set(inputs)) else None


def _look(cell: AnalysedCell) -> Kept:
    """Load the available data of a cell; nothing is computed yet."""
    epochs = read_epochs(cell.path / GRADIENTS)
    checkpoint = cell.checkpoint()
    if checkpoint is None:
        if not epochs:
            raise UserError(
                f"'{cell.path}' has no {GRADIENTS}, which `attnbench run --record-gradients` writes, and no checkpoint.pt: "
                "name a cell that has one of them"
            )
        return Kept(epochs, None)
    try:
        _ = cell.variant  # raises if its module is not installed
        return Kept(epochs, (checkpoint, cell.dataset()))
    except UserError as error:
        if not epochs:
            raise
        warn(f"{cell.label}: only recorded epochs; its checkpoint is left out: {error}")
        return Kept(epochs, None)


def read_epochs(path: Path) -> list[Epoch]:
    """The epochs that `attnbench run --record-gradients` wrote; empty if there is no file. A truncated last line is left out.

    Raises:
        UserError: the file is damaged.
    """
    if not path.is_file():
        return []
    epochs: list[Epoch] = []
    lines = path.read_text(errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            epochs.append(_epoch_of(json.loads(line)))
            if bool(epochs[0].counts) != bool(epochs[-1].counts):
                raise ValueError("it has no branches, or the lines before have none")
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines) and isinstance(error, json.JSONDecodeError):
                break
            raise UserError(f"'{path}' is damaged in line {number} ({error!r}): remove that line") from None
    return epochs


def _epoch_of(row: Mapping[str, Any]) -> Epoch:
    """Raises KeyError, TypeError or ValueError if the row is not a line of gradients.jsonl."""
    if not all(isinstance(row[name], int) for name in ("epoch", "step", "steps")):
        raise ValueError("epoch, step and steps must be whole numbers")
    return Epoch(row["epoch"], row["step"], row["steps"], from_json(row["splits"]))


def of_checkpoint(
    cell: AnalysedCell,
    checkpoint: Mapping[str, Any],
    dataset: PreparedDataset,
    device: torch.device,
    *,
    count: int,
) -> ByLoss:
    """Cosines for each loss term separately and for the total, over the batches that training would take next.

    Train mode, no optimiser step; running statistics are restored after each batch.

    Raises:
        UserError: the module is not installed, or has other weights than the checkpoint.
    """
    recipe = cell.recipe
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"compile": False})})
    features, left_out = _perceptual_network(cell)
    training = assemble(cell.variant.factory, recipe, cell.record.seed, device, features)
    for network, name in ((training.generator, "generator"), (training.discriminator, "discriminator")):
        try:
            network.load_state_dict(checkpoint[name])
        except RuntimeError as error:
            raise unusable(cell.path / "checkpoint.pt", error) from error
        network.train()
    shape, step = recipe.backbone, checkpoint["step"]
    cosines = GradientCosines(training.generator.module, feature_channels(shape.width, shape.levels))
    counted: dict[str, list[Counts]] = {}
    with progress(f"{cell.label}: gradients") as update, tf32(recipe.train.tf32):
        following = batches(dataset.train, recipe, seed=cell.record.seed, device=device, first=step, count=count)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            for done, batch in enumerate(following, 1):
                with buffers_kept(training.generator, training.discriminator):
                    for name, counts in of_batch(training, batch, recipe, cosines).items():
                        counted[name] = added([*counted.get(name, []), *counts])
                update(done, count)
    cosines.close()
    if left_out:
        counted.pop("total")  # it lacks the terms that are left out
    terms = {name: counted[name] for name in TERMS if name in counted}
    return ByLoss(step, count * recipe.train.batch_size, terms, left_out)


def of_batch(training: Training, batch: Batch, recipe: Recipe, cosines: GradientCosines) -> dict[str, list[Counts]]:
    """Counts for each loss term with a positive weight, and for `total`, the weighted sum. Nothing is optimised."""
    with precision(recipe, batch.target.device):
        with listening(cosines):
            generated = training.generator(*batch.given)
        scores = training.discriminator(generated, batch.sketch)
        total, parts = generator_losses(generated, batch.target, scores, recipe.loss, training.features)
    weighted = {name: part for name, part in parts.items() if getattr(recipe.loss, name) > 0}
    return {name: cosines_of(loss, cosines) for name, loss in {"total": total, **weighted}.items()}


def cosines_of(loss: Tensor, cosines: GradientCosines) -> list[Counts]:
    """The counts of one loss at the branches of the latest forward, whose graph is kept for other losses."""
    if cosines.totals and loss.requires_grad:
        torch.autograd.grad(loss, cosines.totals, retain_graph=True, allow_unused=True)
    return cosines.take()


@contextmanager
def buffers_kept(*networks: nn.Module) -> Iterator[None]:
    """Restore running statistics, and the vectors of spectral norms, after the block."""
    kept = [(buffer, buffer.clone()) for network in networks for buffer in network.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, before in kept:
                buffer.copy_(before)


def _perceptual_network(cell: AnalysedCell) -> tuple[PerceptualFeatures | None, str]:
    """VGG19, or None if it is not needed or missing; and, if it is missing, what is left out because of that."""
    recipe = cell.recipe
    if not recipe.needs_perceptual_network:
        return None, ""
    with cell.weights_of_run("vgg19"):
        try:
            features = PerceptualFeatures.pretrained(imagenet_normalization=recipe.loss.imagenet_normalization)
        except weights.MissingWeights as missing:
            left_out = "perceptual loss, style loss and the total are left out: VGG19's weights are missing"
            warn(f"{cell.label}: {left_out} ({missing})")
            return None, left_out
        if weights.file_digest(weights.find_or_download("vgg19")) != cell.record.weights.get("vgg19"):
            warn(f"{cell.label}: VGG19's weights here differ from those that it was trained with")
    return features, ""


def shares_frame(counts: Sequence[Counts], **columns: Any) -> pd.DataFrame:
    """One row per branch: input, role, kind, whole, numbers of positions, shares, and the 200 bins."""
    edges = [f"[{2 * k / BINS - 1:.2f}, {2 * (k + 1) / BINS - 1:.2f}]" for k in range(BINS)]
    rows = [
        {
            **columns,
            "input": one.input,
            "role": one.role,
            "kind": one.kind,
            "whole": _whole_of(one, counts),
            "cosines": one.cosines,
            "zeros": one.zeros,
            "not_finite": one.not_finite,
            _ABOVE: one.share_above,
            _BELOW: one.share_below,
            **dict(zip(edges, one.bins, strict=True)),
        }
        for one in counts
    ]
    return pd.DataFrame(rows)


def short_table(files: Sequence[Path]) -> str:
    """The CSV files of cells as text tables: the shares at the last epoch, and on the checkpoint loss by loss."""
    recorded, by_loss = (
        [pd.read_csv(file) for file in files if file.name == f"gradients-{which}.csv"] for which in ("epochs", "losses")
    )
    parts = []
    if recorded:
        last = pd.concat([frame[frame["epoch"] == frame["epoch"].max()] for frame in recorded], ignore_index=True)
        columns = {"epoch": last["epoch"], f"above {DOMINANT}": _numbers(last[_ABOVE]), "below 0": _numbers(last[_BELOW])}
        table = table_text(pd.concat([_branches(last), pd.DataFrame(columns)], axis=1))
        parts.append(f"Recorded, at the last epoch: % of positions whose cosine with the whole is\n\n{table}")
    if by_loss:
        rows = pd.concat([_loss_by_loss(frame) for frame in by_loss], ignore_index=True)
        heading = (
            f"On the checkpoint: % of positions whose cosine with the whole is above {DOMINANT}, and, loss by loss, below 0"
        )
        parts.append(f"{heading}\n\n{table_text(rows.fillna('-'))}")
    return "\n\n".join(parts)


def _branches(frame: pd.DataFrame) -> pd.DataFrame:
    """The first columns of printed tables."""
    without = 100 * frame["zeros"] / (frame["zeros"] + frame["cosines"]).clip(lower=1)
    return pd.DataFrame(
        {"cell": frame["cell"], "branch": frame["input"] + " " + frame["role"], "no gradient": without.map("{:.1f}".format)}
    )


def _loss_by_loss(frame: pd.DataFrame) -> pd.DataFrame:
    """A cell's rows of the printed table."""
    losses = list(frame["loss"].unique())
    first = frame[frame["loss"] == losses[0]].reset_index(drop=True)
    table = _branches(first).assign(**{f"above {DOMINANT}": _numbers(first[_ABOVE])})
    for loss in losses:
        shares = frame[frame["loss"] == loss].set_index(["input", "role"])[_BELOW]
        table[_SHORT.get(loss, loss)] = list(_numbers(shares.reindex(pd.MultiIndex.from_frame(first[["input", "role"]]))))
    return table


def _numbers(shares: pd.Series[float]) -> pd.Series[str]:
    """Shares as text, in per cent."""
    return shares.map(lambda share: "-" if pd.isna(share) else f"{100 * share:.1f}")


def epochs_section(cell: AnalysedCell, epochs: Sequence[Epoch]) -> Section:
    """Figure 4: for every branch the distribution of its cosines, epoch by epoch, and the shares."""
    last = epochs[-1]
    frames = [shares_frame(one.counts, **cell.columns, epoch=one.epoch, step=one.step, steps=one.steps) for one in epochs]
    shares = _shares_text(last.counts)
    partly = [str(one.epoch) for one in epochs[:-1] if one.steps < max(other.steps for other in epochs)]
    note = f" Epochs {', '.join(partly)} were counted in part, since the run stopped during them." if partly else ""
    if missing := sorted(set(_span(epochs)) - {one.epoch for one in epochs}):
        note += f" Epochs {', '.join(map(str, missing))} were not recorded: their rows are empty."
    return Section(
        "gradients-epochs",
        f"Gradients of the branches over the epochs: {cell.label}",
        "Cosine, at each position, between the gradient of a branch and the whole gradient of its input, in all steps of an "
        f"epoch. At epoch {last.epoch} ({last.steps} steps): {shares}.{note}{_split_notes(last.counts)}",
        f"For each branch a map of the cosines' distribution over {len(epochs)} epochs, and two lines: the share above "
        f"{DOMINANT} and the share below 0.",
        epochs_figure(epochs),
        pd.concat(frames, ignore_index=True),
    )


def losses_section(cell: AnalysedCell, found: ByLoss) -> Section:
    """Figure 5: for every branch the distribution of its cosines, for each loss term alone."""
    frames = [shares_frame(counts, **cell.columns, loss=name, step=found.step) for name, counts in found.terms.items()]
    conflicts = [
        f"{name} {percent(max((one.share_below or 0.0 for one in counts if one.kind == 'matching'), default=None))}"
        for name, counts in found.terms.items()
    ]
    first = next(iter(found.terms))
    note = f" Here {found.left_out}." if found.left_out else ""
    return Section(
        "gradients-losses",
        f"Gradients of the branches for each loss: {cell.label}",
        f"The trained networks after {found.step} steps, {found.images} training images, train mode, each loss term alone: "
        "cosine, at each position, between the gradient of a branch and the whole gradient of its input. "
        f"Share below 0 of the matching branch that conflicts most: {', '.join(conflicts)}. "
        f"For {_term(first)}: {_shares_text(found.terms[first])}.{note}{_split_notes(found.terms[first])}",
        f"For each branch the distributions of its cosines, a line for each of {', '.join(found.terms)}.",
        losses_figure(found.terms),
        pd.concat(frames, ignore_index=True),
    )


def overview_section(shares: pd.DataFrame) -> Section:
    """The shares of several cells side by side: for each variant on each dataset, means over seeds."""
    groups = mean_over_seeds(shares)
    shown = _most_conflicting(groups, _ROWS)
    several = (groups["seeds"] > 1).any()
    note = " Bars are means over seeds, thin lines their range." if several else ""
    if len(shown) < len(groups):
        note += (
            f" {shown['group'].nunique()} of {groups['group'].nunique()} are shown, those whose matching branches conflict "
            "most with the whole; the CSV has all."
        )
    worst = groups[groups["kind"] == "matching"].dropna(subset="below").nlargest(3, "below")
    columns = (worst["group"], worst["input"], worst["role"], worst["below"])
    listed = [f"{group}, {name} {role}, {percent(share)}" for group, name, role, share in zip(*columns, strict=True)]
    conflicts = f"Most often below 0: {'; '.join(listed)}." if listed else "No matching branch has a gradient."
    splits = _SPLITS if (shares["whole"] == _OF_SPLIT).any() else ""
    return Section(
        "gradients",
        "Gradients of the branches, module by module",
        f"Share of positions at which a branch's gradient has a cosine above {DOMINANT} (it dominates) or below 0 (it "
        f"conflicts) with the whole gradient of its input, under the total loss unless noted. {conflicts}{note}{splits}",
        f"Two panels of bars, a row for each branch. {conflicts}",
        overview_figure(shown),
        shares,
    )


def mean_over_seeds(shares: pd.DataFrame) -> pd.DataFrame:
    """One row per branch and group (a variant on a dataset): above, below, their extremes over seeds, and number of seeds.

    Groups of one dataset are adjacent.
    """
    groups = [
        f"{variant} on {dataset}" + ("" if loss == "total" else f", {_term(loss)}")
        for variant, dataset, loss in zip(shares["variant"], shares["dataset"], shares["loss"], strict=True)
    ]
    first, then = pd.factorize(shares["dataset"])[0], pd.factorize(pd.Series(groups))[0]
    named = shares.assign(group=groups).iloc[np.lexsort((then, first))]  # lexsort is stable
    grouped = named.groupby(["group", "input", "role", "kind"], sort=False)
    return grouped.agg(
        above=("above", "mean"),
        above_low=("above", "min"),
        above_high=("above", "max"),
        below=("below", "mean"),
        below_low=("below", "min"),
        below_high=("below", "max"),
        seeds=("cell", "nunique"),
    ).reset_index()


def _most_conflicting(groups: pd.DataFrame, rows: int) -> pd.DataFrame:
    """As many whole groups as fit `rows`, at least one: those whose matching branches conflict most with the whole."""
    conflict = groups["below"].where(groups["kind"] == "matching").groupby(groups["group"], sort=False).max().fillna(-1)
    ordered = conflict.sort_values(ascending=False, kind="stable").index
    so_far = groups.groupby("group").size()[ordered].cumsum()
    chosen = ordered[so_far <= max(rows, so_far.iloc[0])]
    return groups[groups["group"].isin(chosen)].reset_index(drop=True)


def _total_shares(cell: AnalysedCell, epochs: Sequence[Epoch], by_loss: ByLoss | None) -> pd.DataFrame:
    """Shares on the checkpoint under the total loss (or the first available term), else at the last epoch."""
    if by_loss:
        loss = next(iter(by_loss.terms))
        counts, moment = by_loss.terms[loss], f"step {by_loss.step}"
    else:
        loss, counts, moment = "total", epochs[-1].counts, f"epoch {epochs[-1].epoch}"
    rows = [
        {**cell.columns, "loss": loss, "moment": moment, "input": one.input, "role": one.role, "kind": one.kind}
        | {"whole": _whole_of(one, counts), "above": one.share_above, "below": one.share_below, "zero": one.share_zero}
        for one in counts
    ]
    return pd.DataFrame(rows).astype({"above": float, "below": float})


def _term(name: str) -> str:
    return "the total loss" if name == "total" else f"the {name} loss"


def _split_notes(counts: Sequence[Counts]) -> str:
    inside = _INSIDE if any(one.input.startswith("inside") for one in counts) else ""
    return inside + (_SPLITS if any(_whole_of(one, counts) == _OF_SPLIT for one in counts) else "")


def _whole_of(one: Counts, counts: Sequence[Counts]) -> str:
    """The gradient that a branch is compared with: `sketch` and `sketch 2` are two splits, each with a whole of its own."""
    splits = Counter(name.split(" ")[0] for name in {other.input for other in counts})
    return _OF_SPLIT if splits[one.input.split(" ")[0]] > 1 else "of the input"


def _shares_text(counts: Sequence[Counts]) -> str:
    """How much content branches dominate, and matching branches conflict."""
    parts = []
    for one in counts:
        if not one.cosines:
            parts.append(f"{one.input} {one.role} has no gradient")
        elif one.kind == "content":
            parts.append(f"{one.input} {one.role} {percent(one.share_above)} above {DOMINANT}")
        else:
            parts.append(f"{one.input} {one.role} {percent(one.share_below)} below 0")
    return ", ".join(parts)


def _grid_of(counts: Sequence[Counts]) -> list[list[Counts]]:
    """Branches grouped by their input."""
    rows: dict[str, list[Counts]] = {}
    for one in counts:
        rows.setdefault(one.input, []).append(one)
    return list(rows.values())


def _density(one: Counts) -> np.ndarray:
    """The share of cosines in each shown bin; nan if there are no cosines."""
    merged = np.array(one.bins, float).reshape(SHOWN_BINS, -1).sum(1)
    return merged / merged.sum() if merged.sum() else np.full(SHOWN_BINS, np.nan)


def _span(epochs: Sequence[Epoch]) -> range:
    """All epoch numbers from the first to the last, including epochs that were not recorded."""
    return range(epochs[0].epoch, epochs[-1].epoch + 1)


def epochs_figure(epochs: Sequence[Epoch]) -> Figure:
    """A row for each input: of each branch a map, epochs upwards, empty where there are no cosines; then the shares."""
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    rows = _grid_of(epochs[-1].counts)
    columns = max(map(len, rows)) + 1
    found = {(*one.key, epoch.epoch): one for epoch in epochs for one in epoch.counts}
    numbers = _span(epochs)
    colours, shades = colormaps["cividis"], LogNorm(_LEAST, 100)
    mark = "o" if len(epochs) < 8 or len(epochs) < len(numbers) else ""
    with paper_style():
        figure = Figure(figsize=(2.3 * columns, 1.9 * len(rows)), layout="constrained")
        axes = figure.subplots(len(rows), columns, squeeze=False)
        image = None
        for row, branches in zip(axes, rows, strict=True):
            for axis, branch in zip(row, branches, strict=False):
                series = [found.get((*branch.key, number)) for number in numbers]
                heights = [_density(one) if one else np.full(SHOWN_BINS, np.nan) for one in series]
                extent = (-1, 1, numbers[0] - 0.5, numbers[-1] + 0.5)
                image = axis.imshow(
                    (100 * np.stack(heights)).clip(_LEAST),  # a share of 0 has no logarithm
                    origin="lower",
                    aspect="auto",
                    extent=extent,
                    cmap=colours,
                    norm=shades,
                    interpolation="nearest",
                )
                axis.set(title=f"{branch.input}: {branch.role}", xlabel="cosine with the whole", xticks=_TICKS, ylabel="epoch")
                axis.xaxis.set_major_formatter("{x:g}")
                axis.yaxis.set_major_locator(MaxNLocator(5, integer=True))
                if not any(one and one.cosines for one in series):
                    _say_no_gradient(axis)
                for which, line in (("above", "-"), ("below", ":")):
                    values = [getattr(one, f"share_{which}") if one else None for one in series]
                    row[-1].plot(
                        numbers,
                        [np.nan if value is None else 100 * value for value in values],
                        line,
                        marker=mark,
                        markersize=3,
                        color=COLOURS[branches.index(branch) % len(COLOURS)],
                        label=f"{branch.role}, {_LABELS[which]}",
                    )
            row[-1].set(xlabel="epoch", ylabel="share of positions, %", ylim=(-3, 103))
            row[-1].xaxis.set_major_locator(MaxNLocator(5, integer=True))
            row[-1].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
            for axis in row[len(branches) : -1]:
                axis.set_axis_off()
        if image is not None:
            figure.colorbar(
                image,
                ax=axes[:, :-1],
                label=f"% of positions in a bin of {2 / SHOWN_BINS:g}",
                location="bottom",
                aspect=40,
                shrink=0.9,
                format="{x:g}",
            )
    return figure


def losses_figure(terms: Mapping[str, Sequence[Counts]]) -> Figure:
    """A row for each input, a panel for each branch, a line for each loss term."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    rows = _grid_of(next(iter(terms.values())))
    columns = max(map(len, rows))
    with paper_style():
        figure = Figure(figsize=(2.8 * columns + 0.4, 1.9 * len(rows) + 0.4), layout="constrained")
        axes = figure.subplots(len(rows), columns, squeeze=False)
        for row, branches in zip(axes, rows, strict=True):
            for axis, branch in zip(row, branches, strict=False):
                empty = True
                for colour, (name, counts) in zip(COLOURS, terms.items(), strict=False):
                    one = next((one for one in counts if one.key == branch.key), None)
                    if one is None or not one.cosines:
                        continue
                    empty = False
                    axis.stairs(
                        100 * _density(one), _EDGES, color=colour, label=name, linewidth=1.6 if name == "total" else 0.9
                    )
                axis.set(title=f"{branch.input}: {branch.role}", xlabel="cosine with the whole", ylabel="positions, %")
                axis.set(xlim=(-1, 1), xticks=_TICKS, ylim=(0.01, 110), yscale="log")
                axis.xaxis.set_major_formatter("{x:g}")
                axis.yaxis.set_major_formatter("{x:g}")
                axis.axvline(0, color="0.6", linewidth=0.6, zorder=0)
                axis.axvline(DOMINANT, color="0.6", linewidth=0.6, linestyle=":", zorder=0)
                if empty:
                    _say_no_gradient(axis)
            for axis in row[len(branches) :]:
                axis.set_axis_off()
        handles = [Line2D([], [], color=colour, label=name) for colour, name in zip(COLOURS, terms, strict=False)]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(terms), frameon=False)
    return figure


def overview_figure(groups: pd.DataFrame) -> Figure:
    """Bars of the shares above 0.935 and below 0, a row for each branch of each group, from the frame of `mean_over_seeds`."""
    from matplotlib.figure import Figure

    names = groups["group"].unique()
    number = pd.factorize(groups["group"])[0]
    places = np.arange(len(groups)) + 1.4 * number + 1  # a heading, and some space, above each group
    ticks = [places[number == k][0] - 1 for k in range(len(names))]
    with paper_style():
        figure = Figure(figsize=(6.5, 0.9 + 0.165 * (places[-1] + 1)), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        for axis, which in zip(axes, ("above", "below"), strict=True):
            shares = 100 * groups[which]
            for kind, colour in zip(("content", "matching"), COLOURS, strict=False):
                chosen = (groups["kind"] == kind) & shares.notna()
                axis.barh(places[chosen], shares[chosen], color=colour, height=0.75, label=kind)
            axis.hlines(places, 100 * groups[f"{which}_low"], 100 * groups[f"{which}_high"], color="black", linewidth=0.7)
            for at, value, high in zip(places, shares, 100 * groups[f"{which}_high"], strict=True):
                text = "no gradient" if pd.isna(value) else f"{value:.1f}"
                axis.text(1.5 if pd.isna(value) else high + 1.5, at, text, va="center", fontsize=6)
            axis.set(xlim=(0, 118), xlabel=f"cosine {_LABELS[which]}, % of positions")
            axis.tick_params(axis="y", length=0)
        axes[0].set_yticks([*places, *ticks], [*(groups["input"] + ": " + groups["role"]), *names])
        for label in axes[0].get_yticklabels()[len(places) :]:
            label.set_fontweight("bold")
        axes[0].set_ylim(places[-1] + 0.8, ticks[0] - 0.8)
        handles, kinds = axes[0].get_legend_handles_labels()
        figure.legend(handles, kinds, loc="outside lower center", ncols=2, frameon=False)
    return figure


def _say_no_gradient(axis: Axes) -> None:
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8}
    axis.text(0.5, 0.5, "no gradient", transform=axis.transAxes, ha="center", va="center", color="0.3", bbox=box)


def added(counts: Iterable[Counts]) -> list[Counts]:
    """Sums for each branch, in order of first appearance."""
    sums: dict[BranchKey, Counts] = {}
    for one in counts:
        sums[one.key] = sums[one.key] + one if one.key in sums else one
    return list(sums.values())
