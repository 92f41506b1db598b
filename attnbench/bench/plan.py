"""What a benchmark measures: modules, image sizes, precisions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from attnbench.cells.variant import Variant, parse_variant
from attnbench.config.grid_files import COMPARISON, load_grid
from attnbench.config.recipe import Recipe, describe, load_recipe
from attnbench.errors import UserError, unknown

PRECISIONS = {  # -> train.precision, train.tf32
    "float32": ("float32", False),
    "tf32": ("float32", True),
    "bfloat16": ("bfloat16", True),
}
BenchRow = dict[str, Any]

# For the estimate of a benchmark's time. Shares were measured on a CPU, and are counted for a GPU.
_SHARE_OF_CEILING = {"cpu": 0.4, "cuda": 0.15}
_RELEASED_STEPS = 2  # operations of the released code's step, in ours
_ROW_SECONDS, _COMPILE_SECONDS = 3.0, 60.0
_GROWTH_SECONDS = 2.0


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        sizes: image sides, in pixels.
        precisions: keys of PRECISIONS.
        steps: number of timed steps, each preceded by an untimed one.
        baseline: whether the released code's step is timed in between.
        growth: image sides at which each module is run alone; empty for no such curves.
    """

    variants: Sequence[Variant]
    recipe: Recipe
    recipe_name: str
    sizes: Sequence[int]
    precisions: Sequence[str]
    steps: int
    baseline: bool = True
    growth: Sequence[int] = ()


@dataclass(frozen=True)
class _Defaults:
    """What is measured by default; `overrides` apply to this `recipe` alone."""

    recipe: str
    overrides: Sequence[str]
    sizes: Sequence[int]
    precisions: Sequence[str]
    steps: int
    growth: Sequence[int]


_ON_GPU = _Defaults("fast", (), (256,), ("bfloat16",), 10, ())
_ON_CPU = _Defaults("official", ("train.batch_size=4",), (64, 128), ("float32",), 2, (64, 128, 256, 512))


def plan_bench(
    device: torch.device,
    *,
    modules: Sequence[str] = (),
    recipe: str | Path | None = None,
    overrides: Sequence[str] | None = None,
    sizes: Sequence[int] | None = None,
    precisions: Sequence[str] | None = None,
    steps: int | None = None,
    baseline: bool = True,
    growth: Sequence[int] | None = None,
) -> Plan:
    """A plan from what is given, and defaults for the rest: minutes of work for a GPU, much less work on a CPU.

    Raises:
        UserError: an unknown module, recipe or precision; a size or a precision that cannot be measured here.
    """
    defaults = _ON_GPU if device.type == "cuda" else _ON_CPU
    if overrides is None:
        overrides = defaults.overrides if recipe is None else ()
    recipe = defaults.recipe if recipe is None else recipe
    modules = modules or [entry.module for entry in load_grid(COMPARISON).variants]
    plan = Plan(
        [parse_variant(text) for text in modules],
        load_recipe(recipe, overrides),
        describe(recipe, overrides),
        defaults.sizes if sizes is None else sizes,
        defaults.precisions if precisions is None else precisions,
        defaults.steps if steps is None else steps,
        baseline,
        defaults.growth if growth is None else growth,
    )
    if not plan.sizes or not plan.precisions:
        raise UserError("nothing to measure: name an image size (--sizes 256) and a precision (--precisions float32)")
    for name in plan.precisions:
        if name not in PRECISIONS:
            raise unknown("precision", name, PRECISIONS)
        if name == "tf32" and device.type != "cuda":
            raise UserError(f"precision 'tf32' is for NVIDIA GPUs, not for device '{device}': leave it out of --precisions")
    pixels = stride(plan.recipe)
    for size in (*plan.sizes, *plan.growth):
        if size < 2 * pixels or size % pixels:
            raise UserError(f"size {size}: this backbone needs a multiple of {pixels}, at least {2 * pixels}")
    return plan


def estimated_seconds(
    plan: Plan, costs: Collection[Mapping[str, float]], ceilings: Mapping[str, float], device: torch.device
) -> float:
    """About how long the plan takes: by operations, and by what share of the ceiling such a step reaches.

    Args:
        costs: of each variant at each size, as from `count_costs`.
        ceilings: GFLOP/s of each precision.
    """
    batch, share = plan.recipe.train.batch_size, _SHARE_OF_CEILING.get(device.type, 0.3)
    released = (2 if device.type == "cuda" else 1) if plan.baseline else 0  # with TF32 and without
    seconds = len(plan.variants) * len(plan.growth) * _GROWTH_SECONDS
    for counted in costs:
        for precision in plan.precisions:
            step = counted["step_gflop"] * batch / (share * ceilings[precision])
            slowest = counted["step_gflop"] * batch / (share * min(ceilings.values()))
            turn = 2 * (step + released * _RELEASED_STEPS * slowest)  # each is run twice, and timed the second time
            seconds += (plan.steps + 1) * turn + _ROW_SECONDS + (_COMPILE_SECONDS if plan.recipe.train.compile else 0)
    return seconds


def at(recipe: Recipe, size: int, precision: str = "float32") -> Recipe:
    """The recipe at another size and precision, a key of PRECISIONS."""
    kind, allow_tf32 = PRECISIONS[precision]
    train = recipe.train.model_copy(update={"precision": kind, "tf32": allow_tf32})
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"size": size}), "train": train})


def stride(recipe: Recipe) -> int:
    """Side of the square of pixels behind one position of the feature map."""
    return int(2 ** (recipe.backbone.levels - 1))
