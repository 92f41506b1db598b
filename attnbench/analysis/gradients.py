"""`attnbench analyze gradients`: do the branches of a module's gradient agree? Figures 4, 5 and 10 of the paper (section 3.3).

Over the epochs, from what `attnbench run --record-gradients` has counted; and, on a checkpoint, of each loss term apart, over
training batches in train mode. Cosines and counts are `cosines`'.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from attnbench import weights
from attnbench.analysis.cells import AnalysedCell, unusable
from attnbench.analysis.cosines import BINS, DOMINANT, GRADIENTS, Counts, GradientCosines, added, from_json
from attnbench.analysis.sections import COLOURS, Section, by_store, paper_style, percent, write_section
from attnbench.backbone import feature_channels
from attnbench.console import Reporter
from attnbench.data.batches import Batch
from attnbench.data.images import PreparedDataset
from attnbench.errors import UserError
from attnbench.losses import PerceptualFeatures, generator_losses
from attnbench.precision import tf32
from attnbench.probe import listening
from attnbench.recipe import Recipe
from attnbench.train import Training, assemble, batches, precision

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TERMS = ("total", "reconstruction", "adversarial", "perceptual", "style")
SHOWN_BINS = 50  # of the 200, four together, in figures
_EDGES = np.linspace(-1, 1, SHOWN_BINS + 1)
_INSIDE = " `Inside` is what the module has computed itself, and splits again."
_LABELS = {"above": f"above {DOMINANT}", "below": "below 0"}
_NO_BRANCH = 'n/a: its module marks no branches; `x_skip, x_query = branch(x, "skip", "query")` in its forward would'
_NO_MATCHING = "n/a: its module has no matching path (no `query` or `key`), so nothing can disagree with its content path"
_ALONE = "n/a: each of its module's inputs has one branch only, which is the whole"


@dataclass(frozen=True)
class Epoch:
    """A line of gradients.jsonl.

    Attributes:
        epoch: from 1.
        step: at its end; steps: how many were counted.
    """

    epoch: int
    step: int
    steps: int
    counts: list[Counts]


@dataclass(frozen=True)
class ByLoss:
    """What the checkpoint says.

    Attributes:
        step: of the checkpoint.
        images: how many gradients' cosines are counted, batches times their size.
        terms: loss term -> counts; `total` is their weighted sum.
        left_out: why some terms are not there, or empty.
    """

    step: int
    images: int
    terms: Mapping[str, list[Counts]]
    left_out: str


def analyze_gradients(cells: Sequence[AnalysedCell], device: torch.device, reporter: Reporter, *, count: int) -> list[Path]:
    """Write the sections of these cells, and of their stores; returns the files.

    Args:
        count: training batches for each cell's checkpoint.

    Raises:
        UserError: a cell has neither recorded gradients nor a checkpoint with its images.
    """
    found = [_look(cell, device, reporter, count) for cell in cells]
    files: list[Path] = []
    shares: dict[Path, pd.DataFrame] = {}
    for cell, (epochs, by_loss) in zip(cells, found, strict=True):
        if why := not_applicable(epochs, by_loss):
            reporter.say(f"{cell.label}: {why}")
            continue
        if epochs:
            files += write_section(cell.path, epochs_section(cell.label, epochs))
        if by_loss:
            files += write_section(cell.path, losses_section(cell.label, by_loss))
        shares[cell.path] = _total_shares(cell.label, epochs, by_loss)
    for store, inside in by_store([cell for cell in cells if cell.path in shares]).items():
        together = pd.concat([shares[cell.path] for cell in inside], ignore_index=True)
        files += write_section(store, overview_section(together))
    return files


def not_applicable(epochs: Sequence[Epoch], by_loss: ByLoss | None) -> str | None:
    """Why there is nothing to compare, in words, or None."""
    counts = [one for epoch in epochs for one in epoch.counts]
    counts += [one for term in (by_loss.terms if by_loss else {}).values() for one in term]
    if not counts:
        return _NO_BRANCH
    if all(one.kind == "content" for one in counts):
        return _NO_MATCHING
    inputs = [name for name, _ in {one.key for one in counts}]
    return _ALONE if len(inputs) == len(set(inputs)) else None


def _look(cell: AnalysedCell, device: torch.device, reporter: Reporter, count: int) -> tuple[list[Epoch], ByLoss | None]:
    """What there is of a cell: the epochs that were recorded, and its checkpoint."""
    epochs = read_epochs(cell.path / GRADIENTS)
    checkpoint = cell.checkpoint()
    if checkpoint is None:
        if not epochs:
            raise UserError(
                f"'{cell.path}' has no {GRADIENTS}, which `attnbench run --record-gradients` writes, and no checkpoint.pt: "
                "name a cell that has one of them"
            )
        return epochs, None
    try:
        dataset = cell.dataset(reporter)
    except UserError as error:
        if not epochs:
            raise
        reporter.say(f"{cell.label}: only what was recorded; its checkpoint is left out: {error}")
        return epochs, None
    return epochs, of_checkpoint(cell, checkpoint, dataset, device, reporter, count=count)


def read_epochs(path: Path) -> list[Epoch]:
    """What `attnbench run --record-gradients` wrote; none where there is no such file. A last line that is cut off is left out.

    Raises:
        UserError: the file is damaged.
    """
    if not path.is_file():
        return []
    epochs: list[Epoch] = []
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            epochs.append(Epoch(row["epoch"], row["step"], row["steps"], from_json(row["splits"])))
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines) and isinstance(error, json.JSONDecodeError):
                break
            raise UserError(f"'{path}' is damaged in line {number} ({error!r}): remove that line") from None
    return epochs


def of_checkpoint(
    cell: AnalysedCell,
    checkpoint: Mapping[str, Any],
    dataset: PreparedDataset,
    device: torch.device,
    reporter: Reporter,
    *,
    count: int,
) -> ByLoss:
    """Cosines of each loss term, apart, and of the total, over the batches that training would take next.

    Train mode, no optimiser's step; running statistics are put back after each batch.

    Raises:
        UserError: the module is not installed, or has other weights than the checkpoint.
    """
    recipe = cell.recipe
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"compile": False})})
    features, left_out = _perceptual_network(cell, reporter)
    training = assemble(cell.variant.factory, recipe, cell.record["seed"], device, features)
    for network, name in ((training.generator, "generator"), (training.discriminator, "discriminator")):
        try:
            network.load_state_dict(checkpoint[name])
        except RuntimeError as error:
            raise unusable(cell.path / "checkpoint.pt", error) from error
        network.train()
    shape, step = recipe.backbone, checkpoint["step"]
    cosines = GradientCosines(training.generator.module, feature_channels(shape.width, shape.levels))
    counted: dict[str, list[Counts]] = {}
    with reporter.progress(f"{cell.label}: gradients") as update, tf32(recipe.train.tf32):
        following = batches(dataset.train, recipe, seed=cell.record["seed"], device=device, first=step, count=count)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            for done, batch in enumerate(following, 1):
                with buffers_kept(training.generator, training.discriminator):
                    for name, counts in of_batch(training, batch, recipe, cosines).items():
                        counted[name] = added([*counted.get(name, []), *counts])
                update(done, count)
    cosines.close()
    if left_out:
        counted.pop("total")  # it lacks what is left out
    terms = {name: counted[name] for name in TERMS if name in counted}
    return ByLoss(step, count * recipe.train.batch_size, terms, left_out)


def of_batch(training: Training, batch: Batch, recipe: Recipe, cosines: GradientCosines) -> dict[str, list[Counts]]:
    """Each loss term that has a weight, apart, and `total`, their weighted sum. Nothing is optimised."""
    with precision(recipe, batch.target.device):
        with listening(cosines):
            generated = training.generator(batch.sketch, batch.reference)
        scores = training.discriminator(generated, batch.sketch)
        total, parts = generator_losses(generated, batch.target, scores, recipe.loss, training.features)
    weighted = {name: part for name, part in parts.items() if getattr(recipe.loss, name) > 0}
    return {name: cosines_of(loss, cosines) for name, loss in {"total": total, **weighted}.items()}


def cosines_of(loss: Tensor, cosines: GradientCosines) -> list[Counts]:
    """What one loss says at the branches of the latest forward, which stays good for others."""
    if cosines.totals and loss.requires_grad:
        torch.autograd.grad(loss, cosines.totals, retain_graph=True, allow_unused=True)
    return cosines.take()


@contextmanager
def buffers_kept(*networks: nn.Module) -> Iterator[None]:
    """Running statistics, and spectral norms' vectors, are afterwards what they were."""
    kept = [(buffer, buffer.clone()) for network in networks for buffer in network.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, before in kept:
                buffer.copy_(before)


def _perceptual_network(cell: AnalysedCell, reporter: Reporter) -> tuple[PerceptualFeatures | None, str]:
    """VGG19 if the losses need it; else None, and if it is missing what is left out for that."""
    recipe = cell.recipe
    if not recipe.needs_perceptual_network:
        return None, ""
    try:
        features = PerceptualFeatures.pretrained(imagenet_normalization=recipe.loss.imagenet_normalization)
    except weights.MissingWeights as missing:
        left_out = "perceptual and style loss, and with them the total, are left out: VGG19's weights are not here"
        reporter.say(f"{cell.label}: {left_out} ({missing})")
        return None, left_out
    if weights.file_digest(weights.find_or_download("vgg19")) != cell.record["weights"].get("vgg19"):
        reporter.say(f"{cell.label}: the VGG19 here is another file than the one that it was trained with")
    return features, ""


def frame_of(counts: Sequence[Counts], **columns: Any) -> pd.DataFrame:
    """A row a branch: input, role, kind, how many positions, shares, and the 200 bins."""
    edges = [f"[{2 * k / BINS - 1:.2f}, {2 * (k + 1) / BINS - 1:.2f}]" for k in range(BINS)]
    rows = [
        {
            **columns,
            "input": one.input,
            "role": one.role,
            "kind": one.kind,
            "cosines": one.cosines,
            "zeros": one.zeros,
            "not_finite": one.not_finite,
            f"share above {DOMINANT}": one.share_above,
            "share below 0": one.share_below,
            **dict(zip(edges, one.bins, strict=True)),
        }
        for one in counts
    ]
    return pd.DataFrame(rows)


def short_table(files: Sequence[Path]) -> str:
    """What the CSV files of cells say, as text: the shares at the last epoch, and on the checkpoint, there loss by loss."""
    parts = []
    for file in files:
        frame = pd.read_csv(file) if file.name in ("gradients-epochs.csv", "gradients-losses.csv") else pd.DataFrame()
        if frame.empty:
            continue
        if "epoch" in frame:
            frame = frame[frame["epoch"] == frame["epoch"].max()]
        moments = frame["epoch" if "epoch" in frame else "loss"]
        first = frame[moments == moments.iloc[0]]
        shown = first[["cell", "input", "role"]].copy()
        shown["no gradient"] = [percent(share) for share in first["zeros"] / (first["zeros"] + first["cosines"])]
        shown[f"above {DOMINANT}"] = [percent(share) for share in first[f"share above {DOMINANT}"]]
        for moment, part in frame.groupby(moments, sort=False):
            below = part.set_index(["input", "role"])["share below 0"]
            when = f"epoch {moment}" if "epoch" in frame else moment
            shown[f"below 0: {when}"] = [percent(below.get(key)) for key in zip(first["input"], first["role"], strict=True)]
        parts.append(shown.to_markdown(index=False, tablefmt="simple", disable_numparse=True))
    return "\n\n".join(parts)


def epochs_section(label: str, epochs: Sequence[Epoch]) -> Section:
    """Figure 4: for every branch the distribution of its cosines, epoch by epoch, and the shares."""
    last = epochs[-1]
    frames = [frame_of(one.counts, cell=label, epoch=one.epoch, step=one.step, steps=one.steps) for one in epochs]
    shares = _in_words(last.counts)
    partly = [str(one.epoch) for one in epochs[:-1] if one.steps < max(other.steps for other in epochs)]
    note = f" Epochs {', '.join(partly)} were counted in part, since the run was stopped within them." if partly else ""
    return Section(
        "gradients-epochs",
        f"Gradients of the branches over the epochs: {label}",
        "Cosine, at each position, between the gradient of a branch and the whole gradient of its input, in all steps of an "
        f"epoch. At epoch {last.epoch} ({last.steps} steps): {shares}.{note}{_of_inside(last.counts)}",
        f"For each branch a map of the cosines' distribution over {len(epochs)} epochs, and two lines: the share above "
        f"{DOMINANT} and the share below 0. At the end {shares}.",
        epochs_figure(epochs),
        pd.concat(frames, ignore_index=True),
    )


def losses_section(label: str, found: ByLoss) -> Section:
    """Figure 5: for every branch the distribution of its cosines, for each loss term alone."""
    frames = [frame_of(counts, cell=label, loss=name, step=found.step) for name, counts in found.terms.items()]
    conflicts = [
        f"{name} {percent(one.share_below)}"
        for name, counts in found.terms.items()
        for one in counts
        if one == max((c for c in counts if c.kind == "matching"), key=lambda c: c.share_below or 0.0, default=None)
    ]
    first = next(iter(found.terms))
    note = f" Here {found.left_out}." if found.left_out else ""
    return Section(
        "gradients-losses",
        f"Gradients of the branches for each loss: {label}",
        f"The trained networks after {found.step} steps, {found.images} training images, train mode, each loss term alone: "
        "cosine, at each position, between the gradient of a branch and the whole gradient of its input. "
        f"Of the matching branch that conflicts most, the share below 0: {', '.join(conflicts)}. "
        f"For {_term(first)}: {_in_words(found.terms[first])}.{note}{_of_inside(found.terms[first])}",
        f"For each branch the cosines' distributions, a line for each of {', '.join(found.terms)}. "
        f"For {_term(first)}, {_in_words(found.terms[first])}.",
        losses_figure(found.terms),
        pd.concat(frames, ignore_index=True),
    )


def overview_section(shares: pd.DataFrame) -> Section:
    """The shares of several cells side by side, of the total loss."""
    matching = shares[(shares["kind"] == "matching") & shares["below"].notna()]
    named = zip(matching["cell"], matching["input"], matching["role"], matching["below"], strict=True)
    listed = "; ".join(f"{cell}, {name} {role} {percent(share)}" for cell, name, role, share in named)
    listed = listed or "no matching branch has a gradient"
    return Section(
        "gradients",
        "Gradients of the branches, module by module",
        f"Share of positions at which a branch's gradient has a cosine above {DOMINANT} (it dominates) or below 0 (it points "
        f"against) with the whole gradient of its input, under the total loss. Below 0: {listed}.",
        f"Two panels of bars, a row for each branch of each cell. Below 0: {listed}.",
        overview_figure(shares),
        shares,
    )


def _total_shares(label: str, epochs: Sequence[Epoch], by_loss: ByLoss | None) -> pd.DataFrame:
    """Of the checkpoint under the total loss (or the first of those that are there), else of the last epoch."""
    if by_loss:
        loss = next(iter(by_loss.terms))
        counts, moment = by_loss.terms[loss], f"step {by_loss.step}, {_term(loss)}"
    else:
        counts, moment = epochs[-1].counts, f"epoch {epochs[-1].epoch}, the total loss"
    rows = [
        {"cell": label, "of": moment, "input": one.input, "role": one.role, "kind": one.kind}
        | {"above": one.share_above, "below": one.share_below, "zero": one.share_zero}
        for one in counts
    ]
    return pd.DataFrame(rows)


def _term(name: str) -> str:
    return "the total loss" if name == "total" else f"the {name} loss"


def _of_inside(counts: Sequence[Counts]) -> str:
    return _INSIDE if any(one.input.startswith("inside") for one in counts) else ""


def _in_words(counts: Sequence[Counts]) -> str:
    """What dominates and what conflicts."""
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
    """Branches by their input."""
    rows: dict[str, list[Counts]] = {}
    for one in counts:
        rows.setdefault(one.input, []).append(one)
    return list(rows.values())


def _density(one: Counts) -> np.ndarray:
    """The share of cosines in each of the bins that are shown; not a number where there is none."""
    merged = np.array(one.bins, float).reshape(SHOWN_BINS, -1).sum(1)
    return merged / merged.sum() if merged.sum() else np.full(SHOWN_BINS, np.nan)


def epochs_figure(epochs: Sequence[Epoch]) -> Figure:
    """A row for each input: of each branch a map, epochs upwards; behind them the shares over the epochs."""
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    rows = _grid_of(epochs[-1].counts)
    columns = max(map(len, rows)) + 1
    found = {(*one.key, epoch.epoch): one for epoch in epochs for one in epoch.counts}
    numbers = [epoch.epoch for epoch in epochs]
    colours, shades = colormaps["cividis"], LogNorm(0.1, 100)
    mark = "o" if len(epochs) < 8 else ""
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
                    100 * np.stack(heights), origin="lower", aspect="auto", extent=extent, cmap=colours, norm=shades
                )
                axis.set_facecolor(colours(0.0))  # of a share of 0, which has no logarithm
                axis.set(title=f"{branch.input}: {branch.role}", xlabel="cosine with the whole", ylabel="epoch")
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
                axis.set(xlim=(-1, 1), ylim=(0.01, 110), yscale="log")
                axis.yaxis.set_major_formatter("{x:g}")
                axis.axvline(0, color="0.6", linewidth=0.6, zorder=0)
                axis.axvline(DOMINANT, color="0.6", linewidth=0.6, linestyle=":", zorder=0)
                if empty:
                    _say_no_gradient(axis)
            for axis in row[len(branches) :]:
                axis.set_axis_off()
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(terms), frameon=False)
    return figure


def overview_figure(shares: pd.DataFrame) -> Figure:
    """Bars of the shares above 0.935 and below 0, a row for each branch of each cell."""
    from matplotlib.figure import Figure

    labels = [f"{row.input}: {row.role}" for row in shares.itertuples()]
    with paper_style():
        figure = Figure(figsize=(6.5, 1.0 + 0.2 * len(shares) + 0.25 * shares["cell"].nunique()), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        places, place, ticks = [], 0.0, []
        for _, group in shares.groupby("cell", sort=False):
            ticks.append(place)
            places += [place + 1 + k for k in range(len(group))]
            place += len(group) + 1.6
        for axis, which in zip(axes, ("above", "below"), strict=True):
            for kind, colour in zip(("content", "matching"), COLOURS, strict=False):
                chosen = [
                    (at, value)
                    for at, value, is_kind in zip(places, shares[which], shares["kind"] == kind, strict=True)
                    if is_kind and pd.notna(value)
                ]
                axis.barh([at for at, _ in chosen], [100 * value for _, value in chosen], color=colour, height=0.75, label=kind)
            for at, value in zip(places, shares[which], strict=True):
                text = "no gradient" if pd.isna(value) else f"{100 * value:.1f}"
                axis.text(1.5 if pd.isna(value) else 100 * value + 1.5, at, text, va="center", fontsize=6)
            axis.set(xlim=(0, 118), xlabel=f"cosine {_LABELS[which]}, % of positions")
        axes[0].set_yticks([*places, *ticks], [*labels, *shares["cell"].unique()])
        for label in axes[0].get_yticklabels()[len(places) :]:
            label.set_fontweight("bold")
        axes[0].tick_params(axis="y", length=0)
        axes[0].invert_yaxis()
        axes[1].tick_params(axis="y", length=0)
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=2, frameon=False)
    return figure


def _say_no_gradient(axis: Axes) -> None:
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8}
    axis.text(0.5, 0.5, "no gradient", transform=axis.transAxes, ha="center", va="center", color="0.3", bbox=box)
