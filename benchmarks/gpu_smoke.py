"""A first look at a GPU: every module for a few steps on real images, in two minutes.

    python benchmarks/gpu_smoke.py IMAGES OUT --steps 40 --compile sga

Prints a line a module: whether its losses are finite and fall, milliseconds a step, images a second, memory. Then, for SGA, the
places where a step waits for the GPU, and whether training that was saved and resumed gives the weights of undisturbed
training; and for the modules named by --compile the speed of the compiled network, with a profile in OUT. With --device cpu and
a small --set data.size it runs anywhere.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from attnbench.bench.measure import ceiling
from attnbench.cells.variant import parse_variant
from attnbench.config.recipe import Recipe, load_recipe
from attnbench.data.batches import training_batch
from attnbench.data.images import ImageSet, decode, resident, resize
from attnbench.method.losses import PerceptualFeatures
from attnbench.method.precision import tf32
from attnbench.training.loop import train_step
from attnbench.training.state import STEP_STREAM, Training, assemble, reseed

MODULES = ("spade", "cocosnet", "scft", "unite", "cmft", "sga")
WARM_UP, RESUMED = 3, 5  # steps that are not timed; steps after a resume
COUNT = 64  # images


class Smoke:
    """The images, the device, and how a step is made on them."""

    def __init__(self, folder: Path, device: torch.device, overrides: list[str]):
        self.device, self.overrides = device, ["data.sketch.at=target", *overrides]
        files = sorted(folder.glob("*"))[:COUNT]
        if not files:
            raise SystemExit(f"no images in '{folder}'")
        size = self.recipe("fast").data.size
        pixels = np.stack([np.asarray(resize(decode(Image.open(file)), size)).transpose(2, 0, 1) for file in files])
        images = ImageSet([file.name for file in files], torch.from_numpy(pixels), None, torch.full((len(files),), 0.4))
        self.images = resident(images, device)

    def recipe(self, name: str, *overrides: str) -> Recipe:
        return load_recipe(name, [*self.overrides, *overrides])

    def training(self, module: str, recipe: Recipe) -> Training:
        training = assemble(parse_variant(module).factory, recipe, 0, self.device, PerceptualFeatures.pretrained())
        training.generator.train()
        training.discriminator.train()
        return training

    def run(self, training: Training, recipe: Recipe, first: int, count: int) -> list[dict[str, Tensor]]:
        """The losses of the steps first ... first + count - 1."""
        size = recipe.train.batch_size
        losses = []
        with tf32(recipe.train.tf32):
            for step in range(first, first + count):
                reseed(STEP_STREAM, 0, step)
                indices = (np.arange(size) + step * size) % len(self.images)
                batch = training_batch(self.images, indices, seed=0, epoch=step, data=recipe.data, device=self.device)
                losses.append(train_step(training, batch, recipe))
        return losses

    def timed(self, training: Training, recipe: Recipe, first: int, count: int) -> tuple[list[dict[str, Tensor]], float]:
        """The losses, and milliseconds a step."""
        self.wait()
        started = time.perf_counter()
        losses = self.run(training, recipe, first, count)
        self.wait()
        return losses, 1e3 * (time.perf_counter() - started) / count

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def look_at(smoke: Smoke, module: str, recipe: Recipe, steps: int) -> str:
    """A line about one module."""
    training = smoke.training(module, recipe)
    smoke.run(training, recipe, 0, WARM_UP)
    on_gpu = smoke.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    losses, milliseconds = smoke.timed(training, recipe, WARM_UP, steps)
    finite = all(bool(loss.isfinite()) for step in losses for loss in step.values())
    totals = [float(step["generator"]) for step in losses]
    few = max(1, min(5, steps // 2))
    before, after = np.mean(totals[:few]), np.mean(totals[-few:])
    memory = f", {torch.cuda.max_memory_allocated() / 1e9:.1f} GB" if on_gpu else ""
    return (
        f"generator {before:.3f} -> {after:.3f} ({'falls' if after < before else 'RISES'}), "
        f"{'finite' if finite else 'NOT FINITE'}, {speed(recipe, milliseconds)}{memory}"
    )


def speed(recipe: Recipe, milliseconds: float) -> str:
    return f"{milliseconds:.1f} ms, {1e3 * recipe.train.batch_size / milliseconds:.0f} images/s"


def waits(smoke: Smoke, module: str, recipe: Recipe) -> str:
    """Where a step waits for the GPU."""
    training = smoke.training(module, recipe)
    smoke.run(training, recipe, 0, WARM_UP)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        smoke.run(training, recipe, WARM_UP, 1)
        torch.cuda.set_sync_debug_mode("default")
    return f"{len(caught)} a step, in {sorted({f'{Path(one.filename).name}:{one.lineno}' for one in caught})}"


def resume_difference(smoke: Smoke, module: str, recipe: Recipe) -> str:
    """How far the weights are from those of undisturbed training, a few steps after a resume."""
    undisturbed = smoke.training(module, recipe)
    smoke.run(undisturbed, recipe, 0, WARM_UP)
    saved = io.BytesIO()
    torch.save(undisturbed.state_dict(), saved)
    smoke.run(undisturbed, recipe, WARM_UP, RESUMED)
    resumed = smoke.training(module, recipe)
    saved.seek(0)
    resumed.load_state_dict(torch.load(saved, weights_only=True))
    smoke.run(resumed, recipe, WARM_UP, RESUMED)
    pairs = zip(undisturbed.generator.state_dict().values(), resumed.generator.state_dict().values(), strict=True)
    return f"largest difference of a weight {max(float((a.float() - b.float()).abs().max()) for a, b in pairs):.3g}"


def compiled(smoke: Smoke, module: str, recipe: Recipe, steps: int, out: Path) -> str:
    """The compiled network's speed; on a GPU also a profile."""
    training = smoke.training(module, recipe)
    _, first = smoke.timed(training, recipe, 0, 1)
    smoke.run(training, recipe, 1, WARM_UP)
    _, milliseconds = smoke.timed(training, recipe, 1 + WARM_UP, steps)
    line = f"first step {first / 1e3:.0f} s, then {speed(recipe, milliseconds)}"
    if smoke.device.type != "cuda":
        return line
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        smoke.run(training, recipe, 1 + WARM_UP + steps, 3)
        smoke.wait()
    events = profiled.key_averages()
    table = events.table(sort_by="self_device_time_total", row_limit=60, max_name_column_width=90)
    (out / f"profile-{module}.txt").write_text(table)
    return f"{line}, GPU busy {sum(event.self_device_time_total for event in events) / 3e3:.1f} ms a step"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("images", type=Path, help="folder of images")
    parser.add_argument("out", type=Path, help="folder for the profile")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--compile", default="sga,scft", help="modules, comma-separated")
    parser.add_argument("--set", nargs="*", default=[], help="keys of the recipe")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    device = torch.device(asked.device)
    smoke = Smoke(asked.images, device, asked.set)
    eager, full = smoke.recipe("fast", "train.compile=false"), smoke.recipe("official")
    checks = [
        *((f"ceiling, {kind}", lambda kind=kind: f"{ceiling(kind, device) / 1e3:.0f} TFLOP/s") for kind in kinds_on(device)),
        ("sga, official", lambda: look_at(smoke, "sga", full, asked.steps)),
        *((f"{name}, fast", lambda name=name: look_at(smoke, name, eager, asked.steps)) for name in MODULES),
        *([("waits for the GPU", lambda: waits(smoke, "sga", eager))] if device.type == "cuda" else []),
        ("resumed", lambda: resume_difference(smoke, "sga", eager)),
        *(
            (f"{name}, compiled", lambda name=name: compiled(smoke, name, smoke.recipe("fast"), asked.steps, asked.out))
            for name in filter(None, asked.compile.split(","))
        ),
    ]
    failed = 0
    for title, check in checks:
        try:
            line = check()
        except Exception as error:  # one that fails must not hide what the others would show
            failed += 1
            line = f"FAILED: {type(error).__name__}: {str(error)[:600]}"
        sys.stdout.write(f"{title}: {line}\n")
        sys.stdout.flush()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return 1 if failed else 0


def kinds_on(device: torch.device) -> tuple[str, ...]:
    return ("bfloat16", "tf32", "float32") if device.type == "cuda" else ("float32",)


if __name__ == "__main__":
    sys.exit(main())
