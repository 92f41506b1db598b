"""Costs, counted on the meta device, against counts by hand."""

import pytest
import torch

from attnbench.config.recipe import Recipe, load_recipe
from attnbench.data.batches import Batch
from attnbench.training.costs import LiveMemory, count_costs, step_memory
from attnbench.training.loop import train_step
from attnbench.training.state import assemble
from attnbench_baselines.sga import SGA


@pytest.fixture(scope="module")
def full():
    return count_costs(SGA, Recipe())


def test_one_forward_at_full_size_takes_52_gflop_and_one_to_double_maps(full):
    """Along the width h w 2w for each channel, along the height 2h h 2w."""
    maps = ((256, 16), (128, 32), (64, 64), (32, 128))
    doubling = sum(2 * channels * (2 + 4) * side**3 for channels, side in maps) / 1e9
    assert full["generator_gflop"] - doubling == pytest.approx(52.2, abs=0.1)


def test_the_networks_of_an_iteration_take_less_than_200_gflop_an_image(full):
    """The released recipe, with two generator forwards and all of VGG19, takes about 360."""
    assert full["step_gflop"] - full["gram_gflop"] < 200


def test_joint_gram_matrices_take_two_products_a_layer(full):
    layers = [(64, 256 * 256), (128, 128 * 128)]
    by_hand = sum(2 * 2 * (16 * channels) ** 2 * positions for channels, positions in layers) / 16 / 1e9
    assert full["gram_gflop"] == pytest.approx(by_hand)


def test_a_second_generator_forward_costs_one_forward_more(full):
    twice = count_costs(SGA, load_recipe("official", ["train.generator_forwards=2"]))
    assert twice["step_gflop"] - full["step_gflop"] == pytest.approx(full["generator_gflop"], rel=1e-6)


def test_counting_parameters_needs_no_memory(full):
    assert full["generator_parameters"] == 83_915_219
    assert full["module_parameters"] == 3_944_192
    assert full["discriminator_parameters"] == 99_217


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_memory_for_training_is_counted_without_taking_any(precision):
    """As much as steps on a CPU take, in float32, with the moments and the gradients of the steps before."""
    changes = ["data.size=32", "backbone.width=4", "backbone.levels=3", "train.batch_size=2"]
    recipe = load_recipe("demo", changes)
    training = assemble(SGA, recipe, 0, torch.device("cpu"), None)
    weights = sum(x.nbytes for part in (training.generator, training.discriminator) for x in part.state_dict().values())
    with LiveMemory() as memory:
        batch = Batch(*(torch.rand(2, channels, 32, 32) for channels in (3, 1, 3)), shows=torch.rand(2, 32, 32, 2))
        for _ in range(3):
            train_step(training, batch, recipe)
    counted = step_memory(SGA, load_recipe("demo", [*changes, f"train.precision={precision}"]))
    assert counted == pytest.approx(weights + memory.peak, rel=0.001)


def test_full_cells_take_more_memory_than_small_ones():
    full, small = (step_memory(SGA, load_recipe("official", [f"data.size={size}"])) for size in (256, 64))
    weights_gradients_and_moments = 4 * 4 * 84e6
    assert weights_gradients_and_moments < small < 2 * weights_gradients_and_moments < full


COME_AND_GO = """
import torch
from attnbench.training.costs import peak_memory, reset_peak_memory
cpu = torch.device("cpu")
reset_peak_memory(cpu)
before = peak_memory(cpu)
torch.ones((before + 200_000_000) // 4)  # more than the process had at its peak, where the peak cannot be reset
print(peak_memory(cpu) - before)
"""


def test_peak_memory_sees_a_large_tensor_come_and_go(python):
    assert int(python("-c", COME_AND_GO).stdout) > 100_000_000
