"""The figure of results/stop-gradient.md: gradients of six maps' branches, each with and without stop-gradient.

attnbench analyze gradients results/stop-gradient                      # where the cells were trained: writes the numbers
python docs/reference-rows/make.py results/stop-gradient.csv           # draws them, into docs/reference-rows/stop-gradient.webp
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

WITH, WITHOUT = "with stop-gradient", "w/o stop-gradient"
COLOURS = {"content": "#0072B2", "matching": "#D55E00"}
PANELS = {"above": "dominates: cosine above 0.935", "below": "conflicts: cosine below 0"}
HEIGHT = 0.38  # of a bar; a row is 1


def main(numbers: Path, output: Path) -> None:
    """Draw the shares in a CSV file of `analyze gradients`."""
    shares = paired(pd.read_csv(numbers))
    places, heads = rows_of(shares)
    style = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}
    with plt.rc_context(style):
        figure, axes = plt.subplots(1, 2, sharey=True, figsize=(7.2, 0.24 * (places[-1] + 3)), layout="constrained")
        for axis, (column, title) in zip(axes, PANELS.items(), strict=True):
            for stopped, offset in ((False, -HEIGHT / 2), (True, HEIGHT / 2)):
                values = 100 * shares[f"{column}, {stopped}"]
                colours = [COLOURS[kind] for kind in shares["kind"]]
                bars = axis.barh(places + offset, values, HEIGHT, color="white" if stopped else colours, edgecolor=colours)
                for bar, value in zip(bars, values, strict=True):
                    text = "no gradient" if np.isnan(value) else f"{value:.1f}"
                    x = 1.5 if np.isnan(value) else value + 1.5
                    axis.text(x, bar.get_y() + HEIGHT / 2, text, va="center", fontsize=5, color="0.35" if stopped else "black")
            axis.set(xlim=(0, 118), xlabel=f"{title}, % of positions")
            axis.tick_params(axis="y", length=0)
        names = shares["input"] + ": " + shares["role"]
        axes[0].set_yticks([*places, *heads.values()], [*names, *heads])
        for label in axes[0].get_yticklabels()[len(places) :]:
            label.set_fontweight("bold")
        axes[0].set_ylim(places[-1] + 0.9, -1.2)
        patches = [plt.Rectangle((0, 0), 1, 1, facecolor=colour, edgecolor=colour) for colour in COLOURS.values()]
        hollow = plt.Rectangle((0, 0), 1, 1, facecolor="white", edgecolor="0.3")
        figure.legend([*patches, hollow], [*COLOURS, WITH], loc="outside lower center", ncols=3, frameon=False)
        figure.savefig(output, dpi=200, pil_kwargs={"lossless": True})
    plt.close(figure)


def paired(shares: pd.DataFrame) -> pd.DataFrame:
    """A row for each branch of each module: `above, False` without the stop, `above, True` with it, and so on."""
    labels = shares["variant"]
    stopped = labels.str.endswith(WITH) | ((labels + f" {WITHOUT}").isin(labels))
    module = labels.str.removesuffix(f" {WITH}").str.removesuffix(f" {WITHOUT}")
    found = shares.assign(module=module, stopped=stopped).set_index(["module", "input", "role", "kind", "stopped"])
    wide = found[["above", "below"]].unstack("stopped")
    wide.columns = [f"{column}, {stop}" for column, stop in wide.columns]
    order = dict.fromkeys(index[:4] for index in found.index)
    return wide.loc[list(order)].reset_index()


def rows_of(shares: pd.DataFrame) -> tuple[np.ndarray, dict[str, float]]:
    """Where each branch's row is, with a heading and some room above each module; and where the headings are."""
    number = pd.factorize(shares["module"])[0]
    places = np.arange(len(shares)) + 1.5 * number
    heads = {module: places[number == k][0] - 1.0 for k, module in enumerate(shares["module"].unique())}
    return places, heads


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("numbers", type=Path)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("stop-gradient.webp"))
    arguments = parser.parse_args()
    main(arguments.numbers, arguments.output)
