"""What the metrics of right answers answer to: right pictures made wrong by known amounts, and every metric's score.

python docs/right-answers/make.py --output DIR          # writes DIR/responses.webp
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
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


def main(output: Path) -> None:
    """Write the figure into the folder `output`."""
    pictures = right_pictures()
    parts, answers = pictures.parts, pictures.answers
    order = common_parts(pictures)
    pairs = list(zip(order[::2], order[1::2], strict=False))
    rows: dict[str, tuple[Sequence[float], Callable[[float], Tensor]]] = {
        "recoloured,\nCIELAB units": (range(0, 61, 10), lambda by: recoloured(answers, parts, by)),
        "colours swapped,\npairs of parts": (range(len(pairs) + 1), lambda by: all_swapped(answers, parts, pairs[: int(by)])),
        "colours shifted,\npixels": (range(5), lambda by: shifted(answers, int(by))),
        "blurred,\nsigma in pixels": (np.arange(0, 3.1, 0.5).tolist(), lambda by: blurred(answers, by)),
        "noisy,\nsigma in grey levels": (range(0, 41, 10), lambda by: noisy(answers, by)),
    }
    figure, grid = plt.subplots(len(rows), len(METRICS) + 1, figsize=(10, 8.8), dpi=WIDTH / 10, layout="constrained")
    for axes, (title, (steps, distorted)) in zip(grid, rows.items(), strict=True):
        made = {step: distorted(step) for step in steps}
        picture(axes[0], made[steps[len(steps) // 2]][0], title)
        for one, (key, scores) in zip(axes[1:], responses(pictures, made), strict=True):
            curve(one, list(steps), scores, key)
    headings = [metric.descriptor.heading for metric in parse_metrics(METRICS)]
    for axes, heading in zip(grid[0][1:], headings, strict=True):
        axes.set_title(heading.replace(" to the answer", "\nto the answer"), fontsize=8.5)
    output.mkdir(parents=True, exist_ok=True)
    drawn = io.BytesIO()
    figure.savefig(drawn)
    Image.open(drawn).convert("RGB").save(output / "responses.webp", quality=85)


def right_pictures() -> Pictures:
    """Drawings with real references, coloured right."""
    data = Data(size=SIZE)
    dataset = prepare(synthetic(train=2, test=PICTURES, size=SIZE), data)
    pairs = PairSet.of(dataset.test, Protocol(), data)
    pictures = pictures_of(pairs.wanted(), pairs, dataset, torch.device("cpu"))
    return replace(pictures, generated=pictures.answers)


def common_parts(pictures: Pictures) -> list[int]:
    """The parts that count in at least half of the pictures, the largest first."""
    often = regions_of(pictures).counted.mean(0) >= 0.5
    sizes = torch.bincount(pictures.parts.flatten(), minlength=len(often)).numpy()
    return [int(part) for part in np.argsort(-sizes) if often[part]]


def all_swapped(images: Tensor, parts: Tensor, pairs: Sequence[tuple[int, int]]) -> Tensor:
    for one, other in pairs:
        images = swapped(images, parts, one, other)
    return images


def responses(pictures: Pictures, made: dict[float, Tensor]) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Of each metric its name and, for each step, the (N,) scores."""
    metrics = parse_metrics(METRICS)
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


def curve(axes: Axes, steps: Sequence[float], scores: Sequence[np.ndarray], name: str) -> None:
    """The mean over the pictures, and the middle half of them; the 100 dB of equal pictures lie above their panel."""
    low, high = np.percentile(np.stack(scores), [25, 75], axis=1)
    axes.fill_between(steps, low, high, color=BLUE, alpha=0.2, linewidth=0)
    axes.plot(steps, [one.mean() for one in scores], color=BLUE, marker="o", markersize=3, linewidth=1.4)
    axes.set_ylim(*LIMITS[name])
    axes.tick_params(labelsize=7, color=GREY, length=2)
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    main(parser.parse_args().output)
