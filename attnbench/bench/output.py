"""A benchmark's numbers as a table, a JSON file and plots."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from attnbench.cells.record import Provenance
from attnbench.files import write_text

if TYPE_CHECKING:
    from attnbench.bench.plan import BenchRow, Plan

_SHOWN = {
    "module": "module",
    "size": "px",
    "precision": "precision",
    "step_ms": "step ms",
    "images_per_second": "images/s",
    "speedup_over_released": "x released",
    "speedup_over_released_float32": "x released, no TF32",
    "step_gflop": "GFLOP/image",
    "gflop_per_second": "GFLOP/s",
    "share_of_ceiling": "of ceiling",
    "memory_gb": "GB",
    "prepare_share": "batch/step",
    "first_step_seconds": "first step s",
}
_SHARES = ("share_of_ceiling", "prepare_share")


def rows_to_text(rows: Sequence[BenchRow]) -> str:
    """A line per row; columns without a measurement are left out."""
    frame = pd.DataFrame(rows)
    shown = frame[[name for name in _SHOWN if name in frame]].copy()
    for name in _SHARES:
        shown[name] = [f"{100 * share:.3g} %" for share in shown[name]]
    text: str = shown.rename(columns=_SHOWN).to_markdown(index=False, tablefmt="simple", floatfmt=",.3g")
    return text


def write_benchmark(
    plan: Plan,
    rows: Sequence[BenchRow],
    growth: Sequence[BenchRow],
    ceilings: Mapping[str, float],
    made_by: Provenance,
    store: Path,
) -> list[Path]:
    """Write the JSON file, and the plots of growing costs if there are any, to `<store>/bench/`; returns their paths."""
    name = re.sub(r"[^a-z0-9]+", "-", f"{made_by.device} {plan.recipe_name}".lower()).strip("-")
    file = store / "bench" / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {
        "recipe": {"name": plan.recipe_name, "values": plan.recipe.model_dump(mode="json")},
        "steps": plan.steps,
        "ceilings_gflop_per_second": dict(ceilings),
        "rows": list(rows),
        "growth": list(growth),
        "provenance": made_by.model_dump(),
    }
    write_text(file, json.dumps(report, indent=1) + "\n")
    if len(plan.sizes) < 2 and not growth:
        return [file]
    picture = file.with_suffix(".png")
    _plot(rows, growth, f"{made_by.device}, {plan.recipe_name}", picture)
    return [file, picture]


def _plot(rows: Sequence[BenchRow], growth: Sequence[BenchRow], title: str, file: Path) -> None:
    """Top: a whole step against the image side. Bottom: the module alone against its tokens. One line per module."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    figure = Figure(figsize=(9, 7), layout="constrained")
    figure.suptitle(title, fontsize="medium")
    axes = figure.subplots(2, 2)
    first = rows[0]["precision"] if rows else ""
    steps = [row for row in rows if row["precision"] == first]
    panels = (
        (axes[0, 0], steps, "size", "step_ms", f"training step, ms ({first})", "image side, px"),
        (axes[0, 1], steps, "size", "memory_gb", f"training step, GB ({first})", "image side, px"),
        (axes[1, 0], growth, "tokens", "module_ms", "module alone, 2 images, ms", "tokens n"),
        (axes[1, 1], growth, "tokens", "module_mb", "module alone, 2 images, MB", "tokens n"),
    )
    for axis, points, x, y, heading, x_label in panels:
        frame = pd.DataFrame(points, columns=["module", x, y])
        for label, line in frame.groupby("module", sort=False):
            axis.plot(line[x], line[y], marker="o", markersize=4, label=str(label))
        axis.set(title=heading, xlabel=x_label, xscale="log", yscale="log")
        axis.set_xticks(sorted(set(frame[x])), [f"{value:,}" for value in sorted(set(frame[x]))])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_locator(NullLocator())
        axis.grid(alpha=0.3)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False)
    figure.savefig(file, dpi=150)
