"""Training: two optimisers, two losses, one generator forward per step.

Everything random in a step is a function of (seed, step), so a run that is killed and resumed computes the same as an
uninterrupted one: on the CPU, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from attnbench.config.recipe import Recipe
from attnbench.data.batches import Batch, epoch_order, training_batch
from attnbench.data.batches_ahead import BatchesAhead
from attnbench.data.images import ImageSet
from attnbench.errors import Interrupted
from attnbench.method.losses import discriminator_loss
from attnbench.method.precision import sums_in_fixed_order, tf32
from attnbench.method.probe import BranchListener, Silent, listening
from attnbench.training.allocator import freed_memory_kept
from attnbench.training.cuda_graph import CUDARecorder, GraphedStep, Step
from attnbench.training.state import STEP_STREAM, Training, reseed, uses_cuda_graph

_SILENT = Silent()


def train_step(training: Training, batch: Batch, recipe: Recipe, listener: BranchListener | None = None) -> dict[str, Tensor]:
    """One update of the discriminator, then one of the generator. Returns every loss, unweighted, and the weighted total.

    Args:
        listener: receives the branches of the module, see `probe.branch`; they have gradients in the generator's step only.
            Results are bitwise equal with and without a listener. Not for compiled networks.
    """
    generator, discriminator = training.generator, training.discriminator
    target, sketch = batch.target, batch.sketch

    with precision(recipe, target.device), _branches_apart(recipe, listener):
        generated = generator(*batch.given)

    discriminator.requires_grad_(True)
    with precision(recipe, target.device):
        loss_d = discriminator_loss(discriminator(target, sketch), discriminator(generated.detach(), sketch))
    training.optimizer_d.zero_grad()
    loss_d.backward()
    training.optimizer_d.step()

    if recipe.train.generator_forwards == 2:  # the released code's second forward; the generator has not changed in between
        with precision(recipe, target.device), _branches_apart(recipe, listener):
            generated = generator(*batch.given)

    discriminator.requires_grad_(False)  # only gradients through it are needed, not its own
    with precision(recipe, target.device):
        loss_g, parts = training.losses(generated, target, discriminator(generated, sketch), recipe.loss, training.features)
    training.optimizer_g.zero_grad()
    loss_g.backward()
    training.optimizer_g.step()

    return {"generator": loss_g.detach(), "discriminator": loss_d.detach(), **{k: v.detach() for k, v in parts.items()}}


def step_of(training: Training, recipe: Recipe, device: torch.device, listener: BranchListener | None = None) -> Step:
    """`train_step` as a function of the batch, captured as a CUDA graph if the recipe says so. For use inside `switches`."""
    step = partial(train_step, training, recipe=recipe, listener=listener)
    return GraphedStep(step, CUDARecorder(device)) if uses_cuda_graph(recipe, device) else step


@contextmanager
def switches(recipe: Recipe, device: torch.device) -> Iterator[None]:
    """What belongs to the whole process and holds while it trains: precision, order of sums, memory that is kept."""
    with tf32(recipe.train.tf32), sums_in_fixed_order(), freed_memory_kept(device):
        yield


def _branches_apart(recipe: Recipe, listener: BranchListener | None) -> AbstractContextManager[None]:
    """Split the roles of the module's inputs even without a listener, so that recording them changes no numbers."""
    return nullcontext() if recipe.train.compile else listening(listener or _SILENT)


def precision(recipe: Recipe, device: torch.device) -> AbstractContextManager[None]:
    """Autocast, if the recipe trains in bfloat16."""
    return torch.autocast(device.type, torch.bfloat16) if recipe.train.precision == "bfloat16" else nullcontext()


def steps_per_epoch(images: ImageSet, recipe: Recipe) -> int:
    """Full batches only: the incomplete last batch of an epoch is dropped, as in the released code."""
    return len(images) // recipe.train.batch_size


def total_steps(images: ImageSet, recipe: Recipe) -> int:
    return recipe.train.steps or recipe.train.epochs * steps_per_epoch(images, recipe)


@dataclass(frozen=True)
class Progressed:
    """Where training is after a step."""

    step: int
    epoch: int
    epoch_ends: bool
    last: bool


def train(
    training: Training,
    images: ImageSet,
    recipe: Recipe,
    *,
    seed: int,
    device: torch.device,
    log: Callable[[int, dict[str, Tensor]], None],
    after_step: Callable[[Progressed], None],
    should_stop: Callable[[], bool] = lambda: False,
    listener: BranchListener | None = None,
) -> None:
    """Train from `training.step` to the end of the recipe's budget.

    Args:
        log: takes the step (1, 2, ...) and its losses, still on the device; it waits for a GPU if it reads them.
        after_step: called when a step is logged: the place for checkpoints, pictures and progress, which the training's
            stopwatch should not count.
        listener: as in `train_step`.

    Raises:
        Interrupted: `should_stop` returned True; `training` is at the end of a step.
    """
    per_epoch, total = steps_per_epoch(images, recipe), total_steps(images, recipe)
    training.generator.train()
    training.discriminator.train()
    one_step = step_of(training, recipe, device, listener)
    upcoming = BatchesAhead(_batches(images, recipe, seed, device, training.step, total), device)
    with switches(recipe, device), training.stopwatch.running():
        for batch in upcoming:
            reseed(STEP_STREAM, seed, training.step)
            _set_learning_rates(training, recipe, training.step / total)
            losses = one_step(batch)
            upcoming.prepare()
            training.step += 1
            log(training.step, losses)
            epoch, position = divmod(training.step - 1, per_epoch)
            after_step(Progressed(training.step, epoch, epoch_ends=position == per_epoch - 1, last=training.step == total))
            if should_stop() and training.step < total:
                raise Interrupted(training.step)


def batches(images: ImageSet, recipe: Recipe, *, seed: int, device: torch.device, first: int, count: int) -> Iterator[Batch]:
    """The batches of steps first .. first + count - 1; torch's random state is set to that of each step."""
    for step, batch in enumerate(_batches(images, recipe, seed, device, first, first + count), first):
        reseed(STEP_STREAM, seed, step)
        yield batch


def _batches(images: ImageSet, recipe: Recipe, seed: int, device: torch.device, first: int, total: int) -> Iterator[Batch]:
    """The batches of steps first .. total - 1."""
    per_epoch, size = steps_per_epoch(images, recipe), recipe.train.batch_size
    shuffled_epoch = None
    for step in range(first, total):
        epoch, position = divmod(step, per_epoch)
        if shuffled_epoch != epoch:
            order, shuffled_epoch = epoch_order(seed, epoch, len(images)), epoch
        indices = order[position * size : (position + 1) * size]
        yield training_batch(images, indices, seed=seed, epoch=epoch, data=recipe.data, device=device)


def _set_learning_rates(training: Training, recipe: Recipe, progress: float) -> None:
    factor = min(1.0, 2 * (1 - progress)) if recipe.train.schedule == "linear" else 1.0
    rates = ((training.optimizer_g, recipe.train.lr_generator), (training.optimizer_d, recipe.train.lr_discriminator))
    for optimizer, rate in rates:
        for group in optimizer.param_groups:
            if isinstance(group["lr"], Tensor):  # of a captured step, which reads it
                group["lr"].fill_(factor * rate)
            else:
                group["lr"] = factor * rate
