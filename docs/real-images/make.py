"""What the metrics of real images answer to: right pictures and maps made wrong by known amounts, and every metric's score.

python docs/real-images/make.py --output DIR     # writes responses.webp, sets.webp, known-warps.webp; ten minutes on a core

All is drawn on `synthetic`, whose right answers are known; the metrics do not use them. Their networks have to be at hand.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from attnbench import weights
from attnbench.config.recipe import Data
from attnbench.contract.distortions import blurred, noisy, recoloured, shifted
from attnbench.data.images import PreparedDataset, prepare
from attnbench.data.layouts import synthetic
from attnbench.data.marks import with_marks
from attnbench.method.attention_maps import ShownMap
from attnbench.metrics.generate import PairSet
from attnbench.metrics.measure import Number, measure, pictures_of
from attnbench.metrics.metric import networks_needed, parse_metrics
from attnbench.metrics.pictures import EachMap, Pictures
from attnbench.metrics.protocol import Protocol
from attnbench.metrics.true_places import MAXIMUM, MEAN, middles, places_in_reference

CPU = torch.device("cpu")
BLUE, ORANGE, GREEN, PURPLE, GREY = "#1f6f8b", "#d1701b", "#4d8b3a", "#7a4a8c", "#8a8a8a"

METRICS = ("outline", "palette", "ms_ssim", "lpips:network=squeeze:against=reference", "style")
LIMITS = {"outline": (-4, 104), "palette": (-1, 31), "ms_ssim": (-0.04, 1.04), "lpips": (-0.03, 0.83), "style": (0.82, 1.01)}
SIZE, PICTURES = 176, 12

SETS = ("precision:dims=192:real_size=target", "recall:dims=192:real_size=target")
SET_SIZE, SET_PICTURES = 64, 128

WARP_SIZE, WARPED, GRID = 64, 24, 16  # pixels; pictures; positions along a side of a map, as at full size
PCK = tuple(f"{{}}:alpha={alpha}:at={at}" for alpha in (0.1, 0.05) for at in (MAXIMUM, MEAN))


def main(output: Path) -> None:
    """Write the figures into the folder `output`."""
    needed = networks_needed(parse_metrics(METRICS + SETS))
    if missing := [name for name in needed if weights.find(name) is None]:
        raise SystemExit(f"error: weights are missing: attnbench weights --download {','.join(missing)}")
    shared = right_answers()
    draw_responses(shared, output / "responses.webp")
    draw_sets(shared, output / "sets.webp")
    draw_known_warps(shared, output / "known-warps.webp")


def right_answers() -> ModuleType:
    """docs/right-answers/make.py, whose figure is of the same kind."""
    file = Path(__file__).resolve().parents[1] / "right-answers" / "make.py"
    spec = importlib.util.spec_from_file_location("right_answers", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- pictures


def draw_responses(shared: ModuleType, file: Path) -> None:
    pictures = shared.right_pictures(SIZE, PICTURES)
    parts, answers = pictures.parts, pictures.answers
    pairs = shared.pairs_of_parts(pictures)
    rows = {
        "recoloured,\nCIELAB units": (range(0, 61, 10), lambda by: recoloured(answers, parts, by)),
        "colours swapped,\npairs of parts": (range(len(pairs) + 1), lambda by: shared.all_swapped(answers, parts, pairs[:by])),
        "colours shifted,\npixels": (range(0, 13, 2), lambda by: shifted(answers, by)),
        "blurred,\nsigma in pixels": (range(7), lambda by: blurred(answers, by)),
        "noisy,\nsigma in grey levels": (range(0, 41, 10), lambda by: noisy(answers, by)),
        "towards the reference,\nits share": (np.linspace(0, 1, 6).tolist(), lambda by: blend(answers, pictures.reference, by)),
    }
    shared.save(shared.figure_of(rows, pictures, METRICS, LIMITS, height=10.2), file, quality=75)


def blend(images: Tensor, others: Tensor, share: float) -> Tensor:
    """(N, 3, S, S) uint8: the images, with so much of the others."""
    return torch.lerp(images.float(), others.float(), share).round().to(torch.uint8)


# --- sets


def draw_sets(shared: ModuleType, file: Path) -> None:
    """Precision and recall of sets of right answers."""
    data = Data(size=SET_SIZE)
    dataset = prepare(synthetic(train=SET_PICTURES, test=SET_PICTURES, size=SET_SIZE), data)
    right = in_colours_of(SET_PICTURES, dataset, data).answers
    halvings = [1, 0.75, 0.5, 0.375, 0.25, 0.125, 1 / SET_PICTURES]
    panels: dict[str, tuple[Sequence[float], Callable[[float], Tensor]]] = {
        "blurred, sigma in pixels": (np.arange(0, 1.1, 0.125).tolist(), lambda by: blurred(right, by)),
        "noisy, sigma in grey levels": (range(9), lambda by: noisy(right, by)),
        "share of distinct pictures": (halvings, lambda by: repeated(right, by)),
        "in the colours of so many references": (
            [128, 64, 32, 16, 8, 4, 2, 1],
            lambda by: in_colours_of(int(by), dataset, data).answers,
        ),
    }
    figure, grid = plt.subplots(1, len(panels), figsize=(10, 2.5), dpi=shared.WIDTH / 10, layout="constrained", sharey=True)
    for axes, (title, (steps, distorted)) in zip(grid, panels.items(), strict=True):
        found = [list(sets_of(distorted(step), dataset, data)) for step in steps]
        for row, (name, colour) in enumerate({"precision": BLUE, "recall": ORANGE}.items()):
            line(axes, steps, [numbers[row].value for numbers in found], colour, label=name)
            axes.axhline(found[0][row].details["ceiling"], color=colour, linewidth=0.8, linestyle=":")
        finish(axes, title, (-0.03, 1.03))
    grid[2].invert_xaxis()
    grid[3].set_xscale("log", base=2)
    grid[3].set_xticks([128, 32, 8, 2], ["128", "32", "8", "2"])
    grid[3].invert_xaxis()
    grid[0].legend(frameon=False, fontsize=8)
    shared.save(figure, file)


def in_colours_of(count: int, dataset: PreparedDataset, data: Data) -> Pictures:
    """Every test sketch as right answer in the colours of one of the first `count` others."""
    usual = Protocol().pairs(SET_PICTURES)
    pairs = PairSet(dataset.test, [(sketch, usual[sketch % count][1]) for sketch, _ in usual], Protocol(), data)
    return pictures_of(pairs.wanted(), pairs, dataset, CPU)


def repeated(images: Tensor, share: float) -> Tensor:
    """As many images, of which only the first `share` differ."""
    return images[torch.arange(len(images)) % round(share * len(images))]


def sets_of(made: Tensor, dataset: PreparedDataset, data: Data) -> Sequence[Number]:
    pictures = pictures_of(made, PairSet.of(dataset.test, Protocol(), data), dataset, CPU)
    return list(measure(pictures, parse_metrics(SETS)).values())


# --- known warps


def draw_known_warps(shared: ModuleType, file: Path) -> None:
    figure, grid = plt.subplots(4, 4, figsize=(10, 9), dpi=shared.WIDTH / 10, layout="constrained", height_ratios=[1, 1.5] * 2)
    draw_maps(grid[0], grid[1])
    draw_marks(grid[2], grid[3])
    grid[1][0].set_ylabel("PCK of maps, %", fontsize=8)
    grid[3][0].set_ylabel("PCK of marks, %", fontsize=8)
    lines, labels = grid[3][0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside upper center", ncols=len(labels), frameon=False, fontsize=8, columnspacing=1.2)
    shared.save(figure, file)


def pairs_under(references: str) -> tuple[PairSet, PreparedDataset]:
    data = Data(size=WARP_SIZE)
    dataset = prepare(synthetic(train=2, test=WARPED, size=WARP_SIZE), data)
    return PairSet.of(dataset.test, Protocol(references=references), data), dataset


def draw_maps(above: Sequence[Axes], below: Sequence[Axes]) -> None:
    pairs, _ = pairs_under("same")
    shows = [pairs.known.shows(pair) for pair in range(len(pairs))]
    right = Truth.of(shows)
    own = torch.eye(GRID**2).expand(len(shows), -1, -1)
    panels: dict[str, tuple[Sequence[float], Callable[[float], Tensor]]] = {
        "share that looks anywhere": (
            np.linspace(0, 1, 11).tolist(),
            lambda by: torch.lerp(right.maps(), uniform(right.maps()), by),
        ),
        "share that looks at its own place": (np.linspace(0, 1, 11).tolist(), lambda by: torch.lerp(right.maps(), own, by)),
        "off by, sigma in sides": (np.linspace(0, 0.2, 9).tolist(), lambda by: right.maps(off=by)),
        "spread, sigma in sides": (np.linspace(0.01, 0.41, 9).tolist(), lambda by: right.maps(spread=by)),
    }
    references = pairs.reference_images()
    for axes, under, (title, (steps, made)) in zip(above, below, panels.items(), strict=True):
        show_map(axes, references[0], made(steps[len(steps) // 3])[0])
        curves(under, title, steps, [seen(made(step), shows) for step in steps], "pck")


@dataclass(frozen=True)
class Truth:
    """Of each pair the cells of the sketch's grid that the reference shows, each with the first of its places."""

    cells: Sequence[np.ndarray]
    places: Sequence[np.ndarray]

    @classmethod
    def of(cls, shows: Sequence[np.ndarray]) -> Truth:
        cells, places = zip(*(places_in_reference(one, GRID) for one in shows), strict=True)
        first = [np.unique(one, return_index=True)[1] for one in cells]
        return cls([c[f] for c, f in zip(cells, first, strict=True)], [p[f] for p, f in zip(places, first, strict=True)])

    def maps(self, off: float = 0, spread: float = 0.01) -> Tensor:
        """(N, GRID^2, GRID^2): Gaussian attention, `spread` wide, around places that are off by a Gaussian draw."""
        rng, grid = np.random.default_rng(0), middles(GRID)
        maps = torch.zeros(len(self.cells), GRID**2, GRID**2)
        for row, (cells, places) in enumerate(zip(self.cells, self.places, strict=True)):
            away = ((grid - (places + off * rng.standard_normal(places.shape))[:, None]) ** 2).sum(-1)  # (cells, GRID^2)
            near = np.exp((away.min(1, keepdims=True) - away) / (2 * spread**2))
            maps[row, cells] = torch.from_numpy(near / near.sum(1, keepdims=True)).float()
        return maps


def uniform(maps: Tensor) -> Tensor:
    return torch.full_like(maps, 1 / maps.shape[-1])


def seen(maps: Tensor, shows: Sequence[np.ndarray]) -> Pictures:
    """Pictures of which nothing matters but the maps."""

    def show(each: EachMap) -> None:
        each(0, [ShownMap("cross", False, maps)])

    blank = torch.zeros(len(maps), 3, WARP_SIZE, WARP_SIZE, dtype=torch.uint8)
    return Pictures(blank, [("", "")] * len(maps), CPU, {"maps": lambda: show, "shows": lambda: shows.__getitem__})


def show_map(axes: Axes, reference: Tensor, weights: Tensor) -> None:
    """Where one position looks, as light on the reference."""
    cell = GRID * 9 + 6
    light = weights[cell].reshape(GRID, GRID) / weights[cell].max()
    light = light.repeat_interleave(WARP_SIZE // GRID, 0).repeat_interleave(WARP_SIZE // GRID, 1)
    blank_axes(axes, (reference / 255 * (0.3 + 0.7 * light)).permute(1, 2, 0))


def draw_marks(above: Sequence[Axes], below: Sequence[Axes]) -> None:
    pairs, dataset = pairs_under("marked")
    references, originals = pairs.reference_images(), pairs.wanted()
    # Of magenta: in a pair's first picture the one disc, in its second the other.
    places = torch.from_numpy(pairs.known.marks()[1])
    both = places.unflatten(0, (-1, 2)).repeat_interleave(2, 0)
    swapped = torch.arange(len(pairs)) % 2 == 1
    right = (with_marks(originals.float() / 255, both, swapped) * 255).round().to(torch.uint8)
    panels: dict[str, tuple[Sequence[float], Callable[[float], Tensor]]] = {
        "fainter, share that is lost": ([0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 1], lambda by: blend(right, originals, by)),
        "share of the reference itself": (np.linspace(0, 1, 11).tolist(), lambda by: blend(right, references, by)),
        "shifted, sides": (np.arange(0, 13, 1) / WARP_SIZE, lambda by: shifted(right, round(by * WARP_SIZE))),
        "blurred, sigma in sides": (np.arange(0, 17, 2) / WARP_SIZE, lambda by: blurred(right, by * WARP_SIZE)),
    }
    for axes, under, (title, (steps, made)) in zip(above, below, panels.items(), strict=True):
        blank_axes(axes, made(steps[len(steps) // 3])[0].permute(1, 2, 0))
        measured = [pictures_of(made(step), pairs, dataset, CPU) for step in steps]
        found = curves(under, title, list(steps), measured, "marked_pck")
        line(under, list(steps), [numbers[0].details["strength"] for numbers in found], GREEN, label="strength")


def curves(axes: Axes, title: str, steps: Sequence[float], pictures: Sequence[Pictures], name: str) -> list[list[Number]]:
    """PCK by maximum and mean at both alphas, with that of staying; and by maximum of what the warp has moved."""
    metrics = parse_metrics([text.format(name) for text in PCK])
    found = [list(measure(one, metrics).values()) for one in pictures]
    for column, metric in enumerate(metrics):
        way, alpha = metric.descriptor.options["at"], metric.descriptor.options["alpha"]
        style = "-" if alpha == 0.1 else "--"
        line(axes, steps, [one[column].value for one in found], BLUE if way == MAXIMUM else ORANGE, style, f"{way}, {alpha}")
        if way == MAXIMUM:
            staying = found[0][column].details["trivial"]["its own place"]
            axes.axhline(staying, color=GREY, linewidth=1, linestyle=style, label=f"own place, {alpha}")
    line(axes, steps, [one[0].details["moved"] for one in found], PURPLE, ":", label="of the moved, 0.1")
    finish(axes, title, (-4, 104))
    return found


# --- drawing


def line(axes: Axes, steps: Sequence[float], values: Sequence[float], colour: str, style: str = "-", label: str = "") -> None:
    axes.plot(list(steps), values, style, color=colour, marker="o", markersize=2.5, linewidth=1.4, label=label)


def finish(axes: Axes, title: str, limits: tuple[float, float]) -> None:
    axes.set_ylim(*limits)
    axes.set_xlabel(title, fontsize=8)
    axes.tick_params(labelsize=7, color=GREY, length=2)
    axes.spines[["top", "right"]].set_visible(False)


def blank_axes(axes: Axes, image: Tensor) -> None:
    axes.imshow(image.numpy())
    axes.set_axis_off()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    main(parser.parse_args().output)
