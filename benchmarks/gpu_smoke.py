"""A first look at a GPU: every module for a few steps on real images, in some four minutes.

    python benchmarks/gpu_smoke.py IMAGES OUT --steps 40 --compile sga

A line a check, the surest first, so that one that is cut off has said most:

    ceiling     the rate of large products in each precision
    MODULE      trained uncompiled: whether its losses are finite and fall, milliseconds a step, images a second, memory
    waits       where a step waits for the GPU
    resumed     whether training that was saved and resumed gives the weights of undisturbed training, bit for bit
    any order   the milliseconds that sums in a fixed order cost
    coloured    pairs coloured, images a second
    compiled    of the modules named by --compile: the same as MODULE, and the seconds of the first step; a profile in OUT
    captured    the first of them as a CUDA graph: the same, and how far its losses are from those of the compiled one

Steps are those of `attnbench run`: the same loop, batches and switches. With --device cpu and a small --set data.size it runs
anywhere. The exit code is 1 if a check failed, a loss was not finite, a step waited, or a resumed run came out differently.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from attnbench.bench.measure import ceiling
from attnbench.cells.provenance import commit, device_name
from attnbench.cells.variant import parse_variant
from attnbench.config.grid_files import COMPARISON, load_grid
from attnbench.config.recipe import Recipe, load_recipe
from attnbench.data.images import ImageSet, decode, resident, resize
from attnbench.devices import pick_device, wait_for
from attnbench.errors import Interrupted, UserError
from attnbench.metrics.generate import PairSet, generate
from attnbench.metrics.protocol import protocols_of
from attnbench.training.loop import Progressed, train
from attnbench.training.state import Training, build

MODULES = tuple(entry.module for entry in load_grid(COMPARISON).variants)
WARM_UP, RESUMED = 5, 5  # steps that are not timed, a capture among them; steps after a resume
COUNT = 64  # images
UNLIMITED = 1_000_000  # steps


class Failed(Exception):
    """A check that says no; its text is the check's line."""


@dataclass
class Ran:
    """Steps that were trained: their losses, and milliseconds a step after the warm-up."""

    losses: list[dict[str, float]] = field(default_factory=list)
    milliseconds: float = float("nan")


class Smoke:
    """The images, the device, and how they are trained on."""

    def __init__(self, folder: Path, device: torch.device, overrides: list[str]):
        self.device = device
        self.overrides = ["data.sketch.at=target", f"train.steps={UNLIMITED}", *overrides]
        files = sorted(folder.glob("*"))[:COUNT]
        if not files:
            raise UserError(f"no images in '{folder}'")
        size = self.recipe("fast").data.size
        pixels = np.stack([np.asarray(resize(decode(Image.open(file)), size)).transpose(2, 0, 1) for file in files])
        self.stored = ImageSet([file.name for file in files], torch.from_numpy(pixels), None, torch.full((len(files),), 0.4))
        self.images = resident(self.stored, device)

    def recipe(self, name: str, *overrides: str) -> Recipe:
        return load_recipe(name, [*self.overrides, *overrides])

    def training(self, module: str, recipe: Recipe) -> Training:
        return build(parse_variant(module).factory, recipe, 0, self.device)

    def train(
        self, training: Training, recipe: Recipe, steps: int, after_step: Callable[[Progressed], None] = lambda now: None
    ) -> Ran:
        """Train on for so many steps, of which the first WARM_UP are not timed."""
        first, found, started = training.step, [], [0.0]

        def timed(now: Progressed) -> None:
            after_step(now)
            if now.step == first + min(WARM_UP, steps - 1):
                wait_for(self.device)
                started[0] = time.perf_counter()

        with suppress(Interrupted):
            train(
                training,
                self.images,
                recipe,
                seed=0,
                device=self.device,
                log=lambda step, losses: found.append(losses),
                after_step=timed,
                should_stop=lambda: training.step >= first + steps,
            )
        wait_for(self.device)
        seconds = time.perf_counter() - started[0]
        losses = [{name: float(loss) for name, loss in one.items()} for one in found]
        return Ran(losses, 1e3 * seconds / (steps - min(WARM_UP, steps - 1)))


def seen(smoke: Smoke, recipe: Recipe, ran: Ran) -> str:
    """What the steps showed; raises Failed if a loss was not finite."""
    few = max(1, min(5, len(ran.losses) // 2))
    totals = [losses["generator"] for losses in ran.losses]
    before, after = np.mean(totals[:few]), np.mean(totals[-few:])
    line = f"generator {before:.3f} -> {after:.3f} ({'falls' if after < before else 'RISES'}), "
    line += f"{ran.milliseconds:.1f} ms, {1e3 * recipe.train.batch_size / ran.milliseconds:.0f} images/s"
    if smoke.device.type == "cuda":
        line += f", {torch.cuda.max_memory_allocated() / 1e9:.1f} GB"
    if not np.isfinite([list(losses.values()) for losses in ran.losses]).all():
        raise Failed(f"NOT FINITE: {line}")
    return line


def look_at(smoke: Smoke, module: str, recipe: Recipe, steps: int) -> str:
    return seen(smoke, recipe, smoke.train(smoke.training(module, recipe), recipe, WARM_UP + steps))


def waits(smoke: Smoke, module: str, recipe: Recipe) -> str:
    """Where the CPU waits for the GPU during a step; raises Failed if it does."""
    watched = WARM_UP + 2

    def after_step(now: Progressed) -> None:
        torch.cuda.set_sync_debug_mode("warn" if now.step == watched else "default")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        smoke.train(smoke.training(module, recipe), recipe, watched + 3, after_step)
    places = sorted(
        {f"{Path(one.filename).name}:{one.lineno}" for one in caught if "called a synchronizing" in str(one.message)}
    )
    if places:
        raise Failed(f"a step waits for the GPU in {', '.join(places)}")
    return "none in a step"


def resumed(smoke: Smoke, module: str, recipe: Recipe) -> str:
    """Compares training with training that was saved, and resumed in new networks; raises Failed if they differ."""
    undisturbed = smoke.training(module, recipe)
    smoke.train(undisturbed, recipe, WARM_UP)
    saved = io.BytesIO()
    torch.save(undisturbed.state_dict(), saved)
    smoke.train(undisturbed, recipe, RESUMED)
    again = smoke.training(module, recipe)
    saved.seek(0)
    again.load_state_dict(torch.load(saved, weights_only=True, map_location="cpu"))
    smoke.train(again, recipe, RESUMED)
    pairs = zip(undisturbed.generator.state_dict().values(), again.generator.state_dict().values(), strict=True)
    apart = max(float((a.double() - b.double()).abs().max()) for a, b in pairs)
    if apart:
        raise Failed(f"NOT EQUAL after {RESUMED} steps: largest difference of a weight {apart:.3g}")
    return f"bit for bit as undisturbed, after {RESUMED} steps"


def in_any_order(smoke: Smoke, module: str, recipe: Recipe, steps: int) -> str:
    """The time of a step where cuDNN may choose any algorithm, beside that of a step as it is; in turns."""
    milliseconds: dict[bool, list[float]] = {True: [], False: []}
    training = smoke.training(module, recipe)
    for fixed in (True, False, True, False):

        def after_step(now: Progressed, fixed: bool = fixed) -> None:
            torch.backends.cudnn.deterministic = fixed  # from the first step on, which is not timed

        milliseconds[fixed].append(smoke.train(training, recipe, WARM_UP + steps // 2, after_step).milliseconds)
    return f"{min(milliseconds[False]):.1f} ms a step, in a fixed order {min(milliseconds[True]):.1f} ms"


def coloured(smoke: Smoke, module: str, recipe: Recipe) -> str:
    pairs = PairSet.of(smoke.stored, protocols_of(recipe.evaluation)[0], recipe.data)
    training = smoke.training(module, recipe)
    generate(training.generator, pairs, smoke.device)
    started = time.perf_counter()
    pictures = generate(training.generator, pairs, smoke.device)
    return f"{len(pictures) / (time.perf_counter() - started):.0f} images/s, pixels from {pictures.min()} to {pictures.max()}"


def compiled(smoke: Smoke, module: str, recipe: Recipe, steps: int, out: Path, before: dict[str, Ran]) -> str:
    """The compiled network; its run is kept in `before`. On a GPU also a profile."""
    torch.compiler.reset()
    training = smoke.training(module, recipe)
    started = time.perf_counter()
    first = smoke.train(training, recipe, 1)
    started = time.perf_counter() - started
    ran = smoke.train(training, recipe, WARM_UP + steps)
    ran.losses = first.losses + ran.losses
    before[module] = ran
    line = f"first step {started:.0f} s, then {seen(smoke, recipe, ran)}"
    if smoke.device.type != "cuda":
        return line
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        smoke.train(training, recipe, 3)
    events = profiled.key_averages()
    table = events.table(sort_by="self_device_time_total", row_limit=60, max_name_column_width=90)
    (out / f"profile-{module}.txt").write_text(table)
    kernels = [one for one in events if one.device_type == torch.autograd.DeviceType.CUDA and not one.is_user_annotation]
    return f"{line}, GPU busy {sum(one.self_device_time_total for one in kernels) / 3e3:.1f} ms a step"


def captured(smoke: Smoke, module: str, recipe: Recipe, steps: int, before: dict[str, Ran]) -> str:
    """The compiled network's step as a CUDA graph, beside the run of `compiled`."""
    ran = smoke.train(smoke.training(module, recipe), recipe, 1 + WARM_UP + steps)
    line = seen(smoke, recipe, ran)
    if module not in before:
        return line
    pairs = zip(ran.losses, before[module].losses, strict=True)
    apart = max(abs(a["generator"] - b["generator"]) / abs(b["generator"]) for a, b in pairs)
    return f"{line}, losses within {apart:.1g} of the compiled ones"


def checks(smoke: Smoke, steps: int, to_compile: list[str], out: Path) -> Iterator[tuple[str, Callable[[], str]]]:
    on_gpu = smoke.device.type == "cuda"
    for kind in ("bfloat16", "tf32", "float32") if on_gpu else ("float32",):
        yield f"ceiling, {kind}", lambda kind=kind: f"{ceiling(kind, smoke.device) / 1e3:,.3g} TFLOP/s"
    eager = smoke.recipe("fast", "train.compile=false")
    yield "sga, official", lambda: look_at(smoke, "sga", smoke.recipe("official"), steps)
    for name in MODULES:
        yield f"{name}, fast", lambda name=name: look_at(smoke, name, eager, steps)
    if on_gpu:
        yield "waits", lambda: waits(smoke, "sga", eager)
    yield "resumed", lambda: resumed(smoke, "sga", eager)
    if on_gpu:
        yield "any order", lambda: in_any_order(smoke, "sga", eager, steps)
    yield "coloured", lambda: coloured(smoke, "sga", eager)
    before: dict[str, Ran] = {}
    for name in to_compile:
        yield f"{name}, compiled", lambda name=name: compiled(smoke, name, smoke.recipe("fast"), steps, out, before)
    if on_gpu and to_compile:
        graph = smoke.recipe("fast", "train.cuda_graph=true")
        yield f"{to_compile[0]}, captured", lambda: captured(smoke, to_compile[0], graph, steps, before)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("images", type=Path, help="folder of images")
    parser.add_argument("out", type=Path, help="folder for the profile")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, default=30, help="2 or more")
    parser.add_argument("--compile", default="sga,scft", help="modules, comma-separated")
    parser.add_argument("--set", nargs="*", action="extend", default=[], help="keys of the recipe")
    asked = parser.parse_args(arguments)
    to_compile = [name for name in asked.compile.split(",") if name]
    if asked.steps < 2:
        parser.error(f"--steps {asked.steps}: a loss that falls takes 2 or more")
    try:
        device = pick_device(asked.device)
        smoke = Smoke(asked.images, device, asked.set)
        for name in (*MODULES, *to_compile):
            parse_variant(name)
    except UserError as error:
        parser.error(str(error))
    asked.out.mkdir(parents=True, exist_ok=True)
    sys.stdout.write(f"{device_name(device)}, torch {torch.__version__}, attnbench {commit() or 'of no known commit'}\n")
    failed = 0
    for title, check in checks(smoke, asked.steps, to_compile, asked.out):
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            line = check()
        except Failed as no:
            failed += 1
            line = str(no)
        except Exception as error:  # one that fails must not hide what the others would show
            failed += 1
            line = f"FAILED: {type(error).__name__}: {str(error)[:600]}"
        sys.stdout.write(f"{title}: {line}\n")
        sys.stdout.flush()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
