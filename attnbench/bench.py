"""How long a training step takes, how much of it goes into preparing the batch, and how many operations it is."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from attnbench import store as stores
from attnbench.costs import count_costs, median_seconds, peak_memory, reset_peak_memory
from attnbench.data.batches import training_batch
from attnbench.data.images import ImageSet
from attnbench.grid import Variant
from attnbench.losses import PerceptualFeatures
from attnbench.provenance import device_name, provenance
from attnbench.recipe import Recipe
from attnbench.train import assemble, train_step

_SHOWN = {
    "module": "module",
    "generator_parameters": "parameters",
    "networks_gflop": "networks GFLOP/image",
    "gram_gflop": "Gram GFLOP/image",
    "step_ms": "step ms",
    "prepare_ms": "prepare ms",
    "prepare_share": "prepare/step",
    "images_per_second": "images/s",
    "gflop_per_second": "GFLOP/s",
    "peak_memory_gb": "peak GB",
}


def bench(
    variants: Sequence[Variant], recipe: Recipe, recipe_name: str, device: torch.device, steps: int, store: Path
) -> tuple[list[dict[str, Any]], Path]:
    """Time each module; medians of `steps` after one that is not counted. Random images, and a perceptual network without its
    weights: neither changes the time. Returns the rows, and the file that holds them."""
    rows = [_row(variant, recipe, device, steps) for variant in variants]
    name = re.sub(r"[^a-z0-9]+", "-", f"{device_name(device)} {recipe_name}".lower()).strip("-")
    file = store / "bench" / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    report = {"recipe": {"name": recipe_name, "values": recipe.model_dump(mode="json")}, "steps": steps, "rows": rows}
    stores.write_text(file, json.dumps({**report, "provenance": provenance(device)}, indent=1) + "\n")
    return rows, file


def rows_to_text(rows: Sequence[dict[str, Any]]) -> str:
    frame = pd.DataFrame(rows)[list(_SHOWN)].rename(columns=_SHOWN).set_index("module").T
    text: str = frame.to_markdown(tablefmt="simple", floatfmt=".4g")
    return text


def _row(variant: Variant, recipe: Recipe, device: torch.device, steps: int) -> dict[str, Any]:
    reset_peak_memory(device)
    features = None
    if recipe.needs_perceptual_network:
        features = PerceptualFeatures(imagenet_normalization=recipe.loss.imagenet_normalization)
    training = assemble(variant.factory, recipe, 0, device, features)
    images = _random_images(recipe)
    count = recipe.train.batch_size

    def prepare() -> Any:
        return training_batch(images, range(count), seed=0, epoch=0, data=recipe.data, device=device)

    batch = prepare()
    prepare_seconds = median_seconds(prepare, max(steps, 5), device)
    step_seconds = median_seconds(lambda: train_step(training, batch, recipe), steps, device)
    costs = count_costs(variant.factory, recipe)
    whole = step_seconds + prepare_seconds
    return {
        "module": variant.label,
        **costs,
        "networks_gflop": costs["step_gflop"] - costs["gram_gflop"],
        "step_ms": 1e3 * step_seconds,
        "prepare_ms": 1e3 * prepare_seconds,
        "prepare_share": prepare_seconds / step_seconds,
        "images_per_second": count / whole,
        "gflop_per_second": costs["step_gflop"] * count / whole,
        "peak_memory_gb": peak_memory(device) / 1e9,
    }


def _random_images(recipe: Recipe) -> ImageSet:
    count, side = recipe.train.batch_size, recipe.data.size
    source = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, side, side), generator=source, dtype=torch.uint8)
    stored = recipe.data.sketch.at == "native" or recipe.data.sketch.source == "dataset"
    columns = len(recipe.data.sketch.sigma) if recipe.data.sketch.sigma_per == "epoch" else 1
    sketches = torch.randint(0, 256, (count, columns, side, side), generator=source, dtype=torch.uint8) if stored else None
    return ImageSet([str(i) for i in range(count)], images, sketches, torch.full((count,), recipe.data.sketch.sigma[0]))
