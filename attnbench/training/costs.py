"""What a module costs: parameters and floating-point operations, counted without running it; time and memory, measured."""

from __future__ import annotations

import resource
import sys
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from attnbench.config.recipe import Recipe
from attnbench.data.batches import Batch
from attnbench.devices import wait_for
from attnbench.method.backbone import count_parameters
from attnbench.method.losses import PerceptualFeatures, style_loss
from attnbench.training.loop import train_step
from attnbench.training.state import ModuleFactory, Training, assemble

_META = torch.device("meta")


def count_costs(factory: ModuleFactory, recipe: Recipe) -> dict[str, float]:
    """Parameters, and GFLOP (1 multiply-add = 2 FLOP; convolutions and matrix products) per image, at the recipe's size.

    Everything is built on the meta device: shapes without memory.

    Returns:
        module_parameters, generator_parameters, discriminator_parameters; generator_gflop: one forward of one image;
        step_gflop: a whole training step, divided by the batch size; gram_gflop: the part of step_gflop for the style loss's
        Gram matrices, which grows with the batch size if they are joint.
    """
    training, recipe = _without_memory(factory, recipe)
    features = training.features
    count, batch = recipe.train.batch_size, _empty_batch(recipe)
    with FlopCounterMode(display=False) as step:
        train_step(training, batch, recipe)
    training.generator.eval()
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        training.generator(*(given[:1] for given in batch.given))
    activations = [layer.requires_grad_() for layer in features(batch.target)] if features else []
    with FlopCounterMode(display=False) as gram:
        if activations:
            style_loss(activations, activations, gram=recipe.loss.gram).backward()
    training.discriminator.requires_grad_(True)
    return {
        "module_parameters": count_parameters(training.generator.module),
        "generator_parameters": count_parameters(training.generator),
        "discriminator_parameters": count_parameters(training.discriminator),
        "generator_gflop": forward.get_total_flops() / 1e9,
        "step_gflop": step.get_total_flops() / count / 1e9,
        "gram_gflop": gram.get_total_flops() / count / 1e9,
    }


def step_memory(factory: ModuleFactory, recipe: Recipe) -> int:
    """Peak bytes of training on a GPU: weights, gradients, Adam's moments, a batch and what a step makes of it.

    Counted on the meta device, as by `count_costs`, in float32, which takes the most. What kernels work in, CUDA's context and
    the training images do not count.
    """
    training, recipe = _without_memory(factory, recipe)
    parts = (training.generator, training.discriminator, training.features)
    weights = sum(x.nbytes for part in parts if isinstance(part, nn.Module) for x in part.state_dict().values())
    with LiveMemory() as memory:
        batch = _empty_batch(recipe)
        for _ in range(2):  # the second step finds the moments and the gradients of the first
            train_step(training, batch, recipe)
    return weights + memory.peak


def _without_memory(factory: ModuleFactory, recipe: Recipe) -> tuple[Training, Recipe]:
    """Everything on the meta device, and the recipe that it follows there: float32, uncompiled."""
    plain = recipe.train.model_copy(update={"compile": False, "precision": "float32"})
    recipe = recipe.model_copy(update={"train": plain})
    with _META:
        features = PerceptualFeatures() if recipe.needs_perceptual_network else None
        return assemble(on_meta(factory), recipe, 0, _META, features), recipe


def _empty_batch(recipe: Recipe) -> Batch:
    size, count = recipe.data.size, recipe.train.batch_size
    target, sketch, reference = (torch.zeros(count, channels, size, size, device=_META) for channels in (3, 1, 3))
    return Batch(target, sketch, reference, torch.zeros(count, size, size, 2, device=_META))


def on_meta(factory: ModuleFactory) -> ModuleFactory:
    """Build the module in memory, since a constructor may read values, then keep only its shapes."""

    def build(channels: int) -> nn.Module:
        with torch.device("cpu"):
            return factory(channels).to("meta")

    return build


def median_seconds(work: Callable[[], Any], times: int, device: torch.device) -> float:
    """Seconds that `work` takes on the device: the median of `times` runs, after one warm-up run."""
    durations = []
    for _ in range(times + 1):
        started = time.perf_counter()
        work()
        wait_for(device)
        durations.append(time.perf_counter() - started)
    return median(durations[1:])


def reset_peak_memory(device: torch.device) -> None:
    """Restart the peak that `peak_memory` returns."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # only Linux can reset a process's peak; elsewhere it covers the process's whole life
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int:
    """Peak bytes since `reset_peak_memory`: of tensors on a GPU, or of the process in main memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.is_file():
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def peak_bytes(work: Callable[[], Any], device: torch.device) -> int:
    """Peak bytes of the tensors made by `work`, beyond those that existed before."""
    if device.type != "cuda":
        with LiveMemory() as memory:
            work()
        return memory.peak
    reset_peak_memory(device)
    before = torch.cuda.memory_allocated(device)
    work()
    return peak_memory(device) - before


class LiveMemory(TorchDispatchMode):
    """Counts the memory of tensors that are made while it is active: exact, and the same on every machine.

    A storage counts from the operation that makes it until nothing refers to it any more, neither a name nor autograd. What
    existed before does not count, nor does the workspace of kernels.

    Attributes:
        live: bytes now.
        peak: the most bytes so far.

    >>> with LiveMemory() as memory:
    ...     x = torch.zeros(1000)      # 4000 bytes
    ...     y = x.view(10, 100) + 1    # 4000 more
    ...     del x, y
    >>> memory.peak, memory.live
    (8000, 0)
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._known: set[int] = set()  # addresses of storages that are counted

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {storage._cdata for storage in _storages((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for storage in _storages(result):
            if storage._cdata not in self._known and storage._cdata not in given:
                self._count(storage)
        self.peak = max(self.peak, self.live)
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._known.add(key)
        self.live += size
        weakref.finalize(storage, self._forget, key, size).atexit = False

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    return [x.untyped_storage() for x in tree_leaves(tree) if isinstance(x, torch.Tensor)]
