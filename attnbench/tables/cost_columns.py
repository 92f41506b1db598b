"""Costs of a variant, as columns of a table and as rows of a page or a card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from attnbench.tables.formats import Heading


@dataclass(frozen=True)
class Cost:
    """A cost of a variant: counted for the recipe, or measured on one device.

    Attributes:
        name: its key in a record, and its column in the frame.
        title: for a table's heading.
        description: longer, for pages and cards.
        unit: numbers are divided by it.
        measured: on a device, rather than counted.
        device: on which it was measured, and by how many cells at a time, if they shared it: these were slower for it.
    """

    name: str
    title: str
    description: str
    unit: float
    decimals: int
    measured: bool = False
    device: str | None = None

    @property
    def heading(self) -> Heading:
        return Heading(self.device or "costs", self.title)

    def written(self, value: float) -> str:
        return f"{value / self.unit:.{self.decimals}f}"


COSTS = (
    Cost("images_per_second", "images/s", "images per second, training", 1, 1, measured=True),
    Cost("module_parameters", "module (M)", "parameters of the module (M)", 1e6, 2),
    Cost("generator_parameters", "generator (M)", "parameters of the generator (M)", 1e6, 2),
    Cost("generator_gflop", "GFLOP", "GFLOP per image, generator", 1, 2),
    Cost("step_gflop", "GFLOP (step)", "GFLOP per image, training step", 1, 2),
    Cost("peak_memory_bytes", "peak (GB)", "peak memory (GB)", 1e9, 2, measured=True),
)


def cost_columns(finished: pd.DataFrame) -> list[Cost]:
    """Counted costs once, measured costs once per device."""
    counted = [cost for cost in COSTS if not cost.measured]
    return counted + [replace(cost, device=device) for device in devices_of(finished) for cost in COSTS if cost.measured]


def devices_of(finished: pd.DataFrame) -> list[str]:
    """The devices that cells were trained on, as in `Cost.device`."""
    return sorted(_devices(finished).dropna().unique()) if "device" in finished else []


def _devices(finished: pd.DataFrame) -> pd.Series:
    """Of each cell, as in `Cost.device`."""
    if "cells_on_device" not in finished:
        return finished["device"]
    shared = finished["cells_on_device"].map("{:.0f} cells at a time".format, na_action="ignore")
    return finished["device"].where(shared.isna(), finished["device"] + ", " + shared.astype(str))


def cost_means(finished: pd.DataFrame, cost: Cost) -> dict[str, float]:
    """Label -> mean of the cost over the row's cells; of a measured cost, over those trained on its device."""
    if cost.name not in finished:
        return {}
    mine = finished if cost.device is None else finished[_devices(finished) == cost.device]
    return {str(label): mean for label, mean in mine.groupby("label")[cost.name].mean().dropna().items()}


def cost_note(costs: Sequence[Cost]) -> list[str]:
    devices = list(dict.fromkeys(cost.device for cost in costs if cost.device))
    counted = (
        "Costs: millions of parameters of the module and of the whole generator; GFLOP per image of one forward of the "
        "generator and of a training step"
    )
    measured = (
        f"; images per second in training and peak memory: mean over a row's cells on {', and separately on '.join(devices)}."
    )
    return [counted + (measured if devices else ".")]
