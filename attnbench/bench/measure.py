"""Time, memory and operations of a training step, for each module, image size and precision."""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from attnbench.bench.output import write_benchmark
from attnbench.bench.plan import BenchRow, Plan, at, estimated_seconds, stride
from attnbench.bench.released import ReleasedStep
from attnbench.cells.provenance import provenance
from attnbench.cells.variant import Variant, parse_variant
from attnbench.config.recipe import Recipe
from attnbench.console import duration, log
from attnbench.contract.cost_table import cost_of
from attnbench.contract.subject import Subject
from attnbench.data.batches import training_batch
from attnbench.data.images import ImageSet
from attnbench.devices import wait_for
from attnbench.errors import UserError
from attnbench.method.backbone import feature_channels
from attnbench.method.losses import PerceptualFeatures
from attnbench.method.precision import tf32
from attnbench.training.costs import count_costs, peak_bytes
from attnbench.training.loop import step_of, switches, train_step
from attnbench.training.state import Training, assemble

BASELINE_MODULE = "sga"
_PRODUCT = {"cpu": 2048, "cuda": 8192}  # side of the square matrices whose product gives the ceiling


def bench(plan: Plan, device: torch.device, store: Path) -> tuple[list[BenchRow], list[Path]]:
    """Run the plan, and write `<store>/bench/<device>-<recipe>.json` and its plots. Returns the rows and the files.

    Images are random and VGG19 is untrained: neither affects the times.

    Raises:
        UserError: no measurement succeeded.
    """
    ceilings = {name: ceiling(name, device) for name in plan.precisions}
    for name, rate in ceilings.items():
        log.info(f"matrix products, {name}: {rate:,.0f} GFLOP/s")
    shapes = itertools.product(plan.sizes, plan.variants)
    costs = {(size, variant.label): count_costs(variant.factory, at(plan.recipe, size)) for size, variant in shapes}
    expected = duration(estimated_seconds(plan, costs.values(), ceilings, device))
    count = len(costs) * len(plan.precisions)
    log.info(f"{count} row{'s' if count > 1 else ''}, in about {expected}")
    rows: list[BenchRow] = []
    growth: list[BenchRow] = []
    made_by = provenance(device)  # before the files written below change the repository's state
    write = partial(write_benchmark, plan, rows, growth, ceilings, made_by, store)
    for size in plan.sizes:
        released = _released(plan, size, device) if plan.baseline else None
        for variant in plan.variants:
            for precision in plan.precisions:
                try:
                    counted = costs[size, variant.label]
                    rows.append(_row(plan, variant, size, precision, counted, ceilings[precision], released, device))
                except torch.OutOfMemoryError:
                    log.info(f"{variant.label}, {size} px, {precision}: left out, not enough memory")
                else:
                    log.info("{module}, {size} px, {precision}: {step_ms:,.0f} ms".format(**rows[-1]))
                    write()
    for variant in plan.variants:
        growth += _growth(plan, variant, device)
    if not rows and not growth:
        raise UserError("nothing could be measured: try smaller images (--sizes) or batches (--set train.batch_size=4)")
    return rows, write()


def ceiling(precision: str, device: torch.device) -> float:
    """GFLOP/s of a large matrix product: the ceiling that a step's rate is compared with."""
    side = _PRODUCT.get(device.type, 2048)
    kind = torch.bfloat16 if precision == "bfloat16" else torch.float32
    a, b = (torch.randn(side, side, device=device).to(kind) for _ in range(2))
    with tf32(False, products=precision == "tf32"):
        seconds = min(second_run(lambda: a @ b, device) for _ in range(5))
    return 2 * side**3 / seconds / 1e9


def alternate(clocks: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Call the clocks in turns, so that a machine that slows down slows all of them; returns the seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in clocks}
    for _ in range(rounds):
        for name, clock in clocks.items():
            seconds[name].append(clock())
    return seconds


def second_run(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds of the second of two runs, which finds caches and memory as an uninterrupted loop would leave them."""
    work()
    return _clock(work, device)


def _clock(work: Callable[[], Any], device: torch.device) -> float:
    wait_for(device)
    started = time.perf_counter()
    work()
    wait_for(device)
    return time.perf_counter() - started


def _released(plan: Plan, size: int, device: torch.device) -> dict[str, Callable[[], Any]]:
    """The baseline's step, under PyTorch's defaults and, on a GPU, also without TF32."""
    _forget(device)
    recipe = at(plan.recipe, size, "float32")
    step, batch = ReleasedStep(parse_variant(BASELINE_MODULE).factory, recipe, device), _batch(recipe, device)()

    def work(tf32_convolutions: bool) -> None:
        with tf32(tf32_convolutions):
            step(batch)

    steps: dict[str, Callable[[], Any]] = {"released": partial(work, True)}
    return {**steps, "released_float32": partial(work, False)} if device.type == "cuda" else steps


def _row(
    plan: Plan,
    variant: Variant,
    size: int,
    precision: str,
    costs: Mapping[str, float],
    ceiling: float,
    released: Mapping[str, Callable[[], Any]] | None,
    device: torch.device,
) -> BenchRow:
    _forget(device)
    torch.compiler.reset()  # else the compiler gives up after a few networks of one class, and runs the others uncompiled
    recipe = at(plan.recipe, size, precision)
    count = recipe.train.batch_size
    prepare = _batch(recipe, device)
    batch = prepare()
    training = _training(variant, recipe, device)
    one_step = step_of(training, recipe, device)

    def step() -> None:
        one_step(batch)

    def as_in_training() -> float:
        with switches(recipe, device):
            return second_run(step, device)

    with switches(recipe, device):
        first = _clock(step, device)
    others = {name: partial(second_run, work, device) for name, work in (released or {}).items()}
    seconds = alternate({"step": as_in_training, **others}, plan.steps)
    step_seconds = median(seconds["step"])
    prepare_seconds = median(second_run(prepare, device) for _ in range(max(plan.steps, 5)))
    with switches(recipe, device):
        memory = _memory(training, partial(train_step, training, batch, recipe), device)
    rate = costs["step_gflop"] * count / step_seconds
    return {
        "module": variant.label,
        "size": size,
        "tokens": (size // stride(recipe)) ** 2,
        "precision": precision,
        **costs,
        "networks_gflop": costs["step_gflop"] - costs["gram_gflop"],
        "step_ms": 1e3 * step_seconds,
        "step_ms_all": [1e3 * second for second in seconds["step"]],
        "first_step_seconds": first,
        "prepare_ms": 1e3 * prepare_seconds,
        "prepare_share": prepare_seconds / step_seconds,
        "images_per_second": count / (step_seconds + prepare_seconds),  # at least: a GPU does both at a time
        "gflop_per_second": rate,
        "share_of_ceiling": rate / ceiling,
        "memory_gb": memory / 1e9,
        **{f"{name}_ms": 1e3 * median(seconds[name]) for name in released or {}},
        **{f"speedup_over_{name}": _speedup(seconds[name], seconds["step"]) for name in released or {}},
    }


def _speedup(slow: Sequence[float], fast: Sequence[float]) -> float:
    """Median over the rounds of the ratio within each round."""
    return median(a / b for a, b in zip(slow, fast, strict=True))


def _memory(training: Training, step: Callable[[], Any], device: torch.device) -> int:
    """Peak bytes of a step: weights, optimiser states, gradients and what the step itself allocates."""
    optimizers = (training.optimizer_g, training.optimizer_d)
    networks = (training.generator, training.discriminator, training.features)
    held = [x for network in networks if isinstance(network, nn.Module) for x in network.state_dict().values()]
    for optimizer in optimizers:
        optimizer.zero_grad()  # so that gradients are allocated, and counted, again
        held += [x for state in optimizer.state.values() for x in state.values()]
    return sum(x.nbytes for x in held) + peak_bytes(step, device)


def _forget(device: torch.device) -> None:
    """Free the memory of earlier rows."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _training(variant: Variant, recipe: Recipe, device: torch.device) -> Training:
    features = None
    if recipe.needs_perceptual_network:
        features = PerceptualFeatures(imagenet_normalization=recipe.loss.imagenet_normalization)
        for parameter in features.parameters():  # uninitialised memory may hold subnormal numbers, which are slow
            torch.nn.init.normal_(parameter, std=0.02)
    training = assemble(variant.factory, recipe, 0, device, features)
    training.generator.train()
    training.discriminator.train()
    return training


def _growth(plan: Plan, variant: Variant, device: torch.device) -> Iterable[BenchRow]:
    """Costs of the module alone, forward and backward of two images, on the feature maps of images of growing size."""
    shape = plan.recipe.backbone
    for size in plan.growth:
        side = size // stride(plan.recipe)
        subject = Subject(variant.label, variant.factory, {}, feature_channels(shape.width, shape.levels), side, device)
        _forget(device)
        with tf32(False):
            cost = cost_of(subject, mine=True)
        if cost:  # None: not enough memory, or a module that does not take such feature maps
            yield {
                "module": variant.label,
                "size": size,
                "tokens": side**2,
                "module_gflop": cost.gflop,
                "module_ms": cost.milliseconds,
                "module_mb": cost.peak_mb,
            }


def _batch(recipe: Recipe, device: torch.device) -> Callable[[], Any]:
    """A function that prepares a training batch from random images already on the device."""
    count, side = recipe.train.batch_size, recipe.data.size
    source = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, side, side), generator=source, dtype=torch.uint8)
    stored = recipe.data.sketch.at == "native" or recipe.data.sketch.source == "dataset"
    columns = len(recipe.data.sketch.sigma) if recipe.data.sketch.sigma_per == "epoch" else 1
    sketches = torch.randint(0, 256, (count, columns, side, side), generator=source, dtype=torch.uint8) if stored else None
    names, sigma = [str(i) for i in range(count)], torch.full((count,), recipe.data.sketch.sigma[0])
    resident = ImageSet(names, images, sketches, sigma).to(device)
    return partial(training_batch, resident, range(count), seed=0, epoch=0, data=recipe.data, device=device)
