"""What a variant costs, as columns of a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from attnbench.tables.formats import Heading


@dataclass(frozen=True)
class Cost:
    """What a variant costs: counted for the recipe, or measured on one device."""

    name: str  # column of the frame
    title: str
    unit: float
    decimals: int
    device: str | None = None

    @property
    def heading(self) -> Heading:
        return Heading(self.device or "costs", self.title)


def cost_columns(finished: pd.DataFrame) -> list[Cost]:
    """What is counted once; what is measured, for each device by itself."""
    counted = [
        Cost("module_parameters", "module (M)", 1e6, 2),
        Cost("generator_parameters", "generator (M)", 1e6, 2),
        Cost("generator_gflop", "GFLOP", 1, 2),
        Cost("step_gflop", "GFLOP (step)", 1, 2),
    ]
    measured = [("images_per_second", "images/s", 1.0, 1), ("peak_memory_bytes", "peak (GB)", 1e9, 2)]
    devices = sorted(finished["device"].dropna().unique()) if "device" in finished else []
    return counted + [Cost(*what, device=device) for device in devices for what in measured]


def cost_means(finished: pd.DataFrame, cost: Cost) -> dict[str, float]:
    """Label -> the cost's mean over the row's cells, on the one device where it was measured."""
    if cost.name not in finished:
        return {}
    mine = finished if cost.device is None else finished[finished["device"] == cost.device]
    return {str(label): mean for label, mean in mine.groupby("label")[cost.name].mean().dropna().items()}


def cost_note(costs: Sequence[Cost]) -> list[str]:
    devices = list(dict.fromkeys(cost.device for cost in costs if cost.device))
    counted = (
        "Costs: millions of parameters of the module and of the whole generator; GFLOP of one forward of the generator and of "
        "a training step, an image"
    )
    measured = f"; images a second in training and peak memory: mean over a row's cells on {', and apart on '.join(devices)}."
    return [counted + (measured if devices else ".")]
