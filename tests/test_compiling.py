"""Networks compiled part by part: how many graphs, which of them the next module shares, and none to measure."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from test_gpu import TINY, batch_of, networks, some_images
from torch._dynamo.testing import CompileCounterWithBackend

from attnbench.config.recipe import Recipe, load_recipe
from attnbench.metrics.generate import PairSet, generate
from attnbench.metrics.protocol import protocols_of
from attnbench.training.loop import train_step
from attnbench.training.state import Training

CPU = torch.device("cpu")
ENCODERS, RESIDUAL, DECODER, DISCRIMINATOR, LOSSES = 2, 1, 1, 3, 1  # the discriminator takes real, generated, and its gradient
SHARED = ENCODERS + RESIDUAL + DECODER + LOSSES


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch, compiler: None) -> CompileCounterWithBackend:
    """Counts graphs, and runs them as they are traced."""
    counter = CompileCounterWithBackend("eager")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    return counter


def fast() -> Recipe:
    return load_recipe("fast", [*TINY, "backbone.residual_blocks=3"])


def stepped(module: str, recipe: Recipe, steps: int = 3) -> Training:
    training, images = networks(module, recipe, CPU), some_images(recipe)
    for step in range(steps):
        train_step(training, batch_of(images, recipe, step, CPU), recipe)
    return training


def test_a_generator_is_compiled_in_parts_and_the_next_modules_parts_are_the_same_but_for_itself(
    graphs: CompileCounterWithBackend,
) -> None:
    stepped("sga", fast(), steps=4)
    assert graphs.frame_count == SHARED + DISCRIMINATOR + 1
    stepped("scft", fast())
    # A spectral norm gives each of its layers a class of its own, in every discriminator anew.
    assert graphs.frame_count == SHARED + 2 * (DISCRIMINATOR + 1)


def test_to_colour_pairs_nothing_is_compiled_whatever_their_number(graphs: CompileCounterWithBackend) -> None:
    recipe = fast()
    training = stepped("sga", recipe, steps=1)
    compiled = graphs.frame_count
    pairs = PairSet.of(some_images(recipe), protocols_of(recipe.evaluation)[0], recipe.data)
    coloured = [generate(training.generator, pairs, CPU, batch=batch) for batch in (3, 8)]
    assert graphs.frame_count == compiled
    assert torch.equal(*coloured)
    train_step(training, batch_of(some_images(recipe), recipe, 1, CPU), recipe)
    assert graphs.frame_count == compiled  # training goes on with what it had
