"""The state of a cell in training: networks, optimisers, the step; built, saved and restored here.

Initial weights, and everything random in a step, are functions of the seed: the same for all modules, and for a run that was
interrupted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Adam

from attnbench.config.recipe import Recipe
from attnbench.data.batches import draw_reference
from attnbench.errors import Diverged
from attnbench.method.backbone import Colorizer, Discriminator, feature_channels, merge_two_batch_norm_updates
from attnbench.method.compiling import compile_parts, compiled
from attnbench.method.losses import Features, PerceptualFeatures, generator_losses
from attnbench.method.precision import keep_parametrizations_precise
from attnbench.training.stopwatch import Stopwatch

ModuleFactory = Callable[[int], nn.Module]  # channels -> module
_PARTS = ("generator", "discriminator", "optimizer_g", "optimizer_d")  # of a checkpoint
_OF_THE_DEVICE = ("lr", "fused", "capturable")  # options of an optimiser that this machine and the recipe set
_MODULE, _BACKBONE, _DISCRIMINATOR, STEP_STREAM = range(4)  # independent random streams


@dataclass
class Training:
    """The state of a cell in training.

    Attributes:
        features: the frozen network that the losses need.
        stopwatch: how long it has trained.
        losses: `generator_losses`, perhaps compiled.
    """

    generator: Colorizer
    discriminator: Discriminator
    optimizer_g: Adam
    optimizer_d: Adam
    features: Features | None
    stopwatch: Stopwatch
    losses: Callable[..., tuple[Tensor, dict[str, Tensor]]] = generator_losses
    step: int = 0

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values only."""
        return {
            "step": self.step,
            "seconds": self.stopwatch.seconds,
            **{name: getattr(self, name).state_dict() for name in _PARTS},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        optimizers = (self.optimizer_g, self.optimizer_d)
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        ours = [{option: group[option] for option in _OF_THE_DEVICE} for group in groups]
        for name in _PARTS:
            getattr(self, name).load_state_dict(state[name])  # of an optimiser, with new groups
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        for group, options in zip(groups, ours, strict=True):
            group.update(options)
        self.step, self.stopwatch = state["step"], Stopwatch(self.stopwatch.device, state["seconds"])


def build_generator(factory: ModuleFactory, recipe: Recipe, seed: int) -> Colorizer:
    """A fresh generator on the CPU. The backbone's initial weights depend on the seed alone: the same for all modules."""
    shape = recipe.backbone
    with torch.random.fork_rng(devices=[]):
        reseed(_MODULE, seed)
        module = factory(feature_channels(shape.width, shape.levels))
        reseed(_BACKBONE, seed)
        generator = Colorizer(
            module,
            width=shape.width,
            levels=shape.levels,
            residual_blocks=shape.residual_blocks,
            draw=partial(draw_reference, sketch=recipe.data.sketch),
        )
    if recipe.train.generator_forwards == 1:
        merge_two_batch_norm_updates(generator)
    return generator


def build(factory: ModuleFactory, recipe: Recipe, seed: int, device: torch.device) -> Training:
    """Networks, optimisers and losses for one cell, at step 0.

    Raises:
        weights.MissingWeights: the perceptual network is needed and its weights are missing.
    """
    features = None
    if recipe.needs_perceptual_network:
        features = PerceptualFeatures.pretrained(imagenet_normalization=recipe.loss.imagenet_normalization)
    return assemble(factory, recipe, seed, device, features)


def assemble(
    factory: ModuleFactory, recipe: Recipe, seed: int, device: torch.device, features: PerceptualFeatures | None
) -> Training:
    """Like `build`, with a given perceptual network."""
    generator = build_generator(factory, recipe, seed)
    with torch.random.fork_rng(devices=[]):
        reseed(_DISCRIMINATOR, seed)
        discriminator = Discriminator(recipe.backbone.discriminator_width, recipe.backbone.discriminator_layers)
    networks: list[nn.Module] = [generator, discriminator, *([features] if features else [])]
    for network in networks:
        network.to(device)
        keep_parametrizations_precise(network)
        if recipe.train.channels_last:
            network.to(memory_format=torch.channels_last)
    if recipe.train.compile:  # the perceptual network is compiled with the losses
        compile_parts(generator)
        compile_parts(discriminator)
    return Training(
        generator,
        discriminator,
        _adam(generator, recipe.train.lr_generator, recipe, device),
        _adam(discriminator, recipe.train.lr_discriminator, recipe, device),
        features,
        Stopwatch(device),
        compiled(generator_losses) if recipe.train.compile else generator_losses,
    )


def _adam(network: nn.Module, rate: float, recipe: Recipe, device: torch.device) -> Adam:
    """Adam. For a step that is captured, its learning rate is a tensor: a number would be captured too."""
    captured = uses_cuda_graph(recipe, device)
    return Adam(
        network.parameters(),
        torch.tensor(rate, device=device) if captured else rate,
        betas=recipe.train.betas,
        fused=device.type in ("cpu", "cuda") or None,
        capturable=captured,
    )


def uses_cuda_graph(recipe: Recipe, device: torch.device) -> bool:
    """Whether steps are captured: if the recipe says so, and on a GPU alone."""
    return recipe.train.cuda_graph and device.type == "cuda"


def check_weights_are_finite(training: Training) -> None:
    """Raises Diverged if a weight is not finite; losses can stay finite for one step longer."""
    for network in (training.generator, training.discriminator):
        for name, value in network.state_dict().items():
            if value.is_floating_point() and not torch.isfinite(value).all():
                raise Diverged(training.step, f"weight {name}")


def reseed(*key: int) -> None:
    """Set torch's global random state, of every device, to a function of the key."""
    torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1)))
