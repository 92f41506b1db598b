"""What the metrics of right answers answer to: right pictures made wrong by known amounts, and every metric's score.

python docs/right-answers/make.py --output DIR          # writes DIR/responses.webp
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from attnbench.config.recipe import Data
from attnbench.contract.distortions import blurred, noisy, recoloured, shifted, swapped
from attnbench.data.images import prepare
from attnbench.data.layouts import synthetic
from attnbench.metrics.generate import PairSet
from attnbench.metrics.measure import measure, pictures_of
from attnbench.metrics.metric import parse_metrics
from attnbench.metrics.parts import regions_of
from attnbench.metrics.pictures import Pictures
from attnbench.metrics.protocol import Protocol

SIZE, PICTURES, WIDTH = 64, 24, 1000  # WIDTH of the figure, in pixels
METRICS = ("match", "bleed", "ciede2000", "psnr:against=answer", "ssim:against=answer")
LIMITS = {"match": (-4, 104), "bleed": (-1, 31), "ciede2000": (-1, 31), "psnr": (6, 42), "ssim": (0, 1.04)}
BLUE, GREY = "#1f6f8b", "#8a8a8a"
Rows = dict[str, tuple[Sequence[float], Callable[[float], Tensor]]]  # distortion -> its steps, and the pictures at each


def main(output: Path) -> None:
    """Write the figure into the folder `output`."""
    pictures = right_pictures(SIZE, PICTURES)
    parts, answers = pictures.parts, pictures.answers
    pairs = pairs_of_parts(pictures)
    rows: Rows = {
        "recoloured,\nCIELAB units": (range(0, 61, 10), lambda by: recoloured(answers, parts, by)),
        "colours swapped,\npairs of parts": (range(len(pairs) + 1), lambda by: all_swapped(answers, parts, pairs[: int(by)])),
        "colours shifted,\npixels": (range(5), lambda by: shifted(answers, int(by))),
        "blurred,\nsigma in pixels": (np.arange(0, 3.1, 0.5).tolist(), lambda by: blurred(answers, by)),
        "noisy,\nsigma in grey levels": (range(0, 41, 10), lambda by: noisy(answers, by)),
    }
    save(figure_of(rows, pictures, METRICS, LIMITS, height=8.8), output / "responses.webp")


def right_pictures(size: int, count: int) -> Pictures:
    """Drawings with real references, coloured right."""
    data = Data(size=size)
    dataset = prepare(synthetic(train=2, test=count, size=size), data)
    pairs = PairSet.of(dataset.test, Protocol(), data)
    pictures = pictures_of(pairs.wanted(), pairs, dataset, torch.device("cpu"))
    return replace(pictures, generated=pictures.answers)


def figure_of(
    rows: Rows, pictures: Pictures, metrics: Sequence[str], limits: Mapping[str, tuple[float, float]], height: float
) -> Figure:
    """A row for each distortion: a picture at its middle step, and the curve of every metric.

    Args:
        limits: name of a metric -> the ends of its axis.
        height: of the figure; its width is 10.
    """
    figure, grid = plt.subplots(len(rows), len(metrics) + 1, figsize=(10, height), dpi=WIDTH / 10, layout="constrained")
    for axes, (title, (steps, distorted)) in zip(grid, rows.items(), strict=True):
        made = {step: distorted(step) for step in steps}
        picture(axes[0], made[steps[len(steps) // 2]][0], title)
        for one, (key, scores) in zip(axes[1:], responses(pictures, made, metrics), strict=True):
            curve(one, list(steps), scores, limits[key])
    headings = [metric.descriptor.heading for metric in parse_metrics(metrics)]
    for axes, heading in zip(grid[0][1:], headings, strict=True):
        axes.set_title(heading.replace(" to the", "\nto the"), fontsize=8.5)
    return figure


def save(figure: Figure, file: Path, quality: int = 85) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    drawn = io.BytesIO()
    figure.savefig(drawn)
    Image.open(drawn).convert("RGB").save(file, quality=quality)


def common_parts(pictures: Pictures) -> list[int]:
    """The parts that count in at least half of the pictures, the largest first."""
    often = regions_of(pictures).counted.mean(0) >= 0.5
    sizes = torch.bincount(pictures.parts.flatten(), minlength=len(often)).numpy()
    return [int(part) for part in np.argsort(-sizes) if often[part]]


def pairs_of_parts(pictures: Pictures) -> list[tuple[int, int]]:
    """Of the parts that count: the two largest, the next two, ..."""
    order = common_parts(pictures)
    return list(zip(order[::2], order[1::2], strict=False))


def all_swapped(images: Tensor, parts: Tensor, pairs: Sequence[tuple[int, int]]) -> Tensor:
    for one, other in pairs:
        images = swapped(images, parts, one, other)
    return images


def responses(pictures: Pictures, made: Mapping[float, Tensor], texts: Sequence[str]) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Of each metric its name and, for each step, the (N,) scores."""
    metrics = parse_metrics(texts)
    found = [measure(replace(pictures, generated=one, _made={}, _own={}), metrics) for one in made.values()]
    for metric in metrics:
        yield metric.descriptor.name, [np.asarray(numbers[metric.key].scores) for numbers in found]


def picture(axes: Axes, image: Tensor, title: str) -> None:
    axes.imshow(image.permute(1, 2, 0).numpy())
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(title, fontsize=8)
    for side in axes.spines.values():
        side.set_visible(False)


def curve(axes: Axes, steps: Sequence[float], scores: Sequence[np.ndarray], limits: tuple[float, float]) -> None:
    """The mean over the pictures, and the middle half of them; the 100 dB of equal pictures lie above their panel."""
    low, high = np.percentile(np.stack(scores), [25, 75], axis=1)
    axes.fill_between(steps, low, high, color=BLUE, alpha=0.2, linewidth=0)
    axes.plot(steps, [one.mean() for one in scores], color=BLUE, marker="o", markersize=3, linewidth=1.4)
    axes.set_ylim(*limits)
    axes.tick_params(labelsize=7, color=GREY, length=2)
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    main(parser.parse_args().output)
