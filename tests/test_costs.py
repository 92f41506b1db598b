"""Costs, counted on the meta device, against counts by hand."""

import pytest

from attnbench.config.recipe import Recipe, load_recipe
from attnbench.training.costs import count_costs
from attnbench_baselines.sga import SGA


@pytest.fixture(scope="module")
def full():
    return count_costs(SGA, Recipe())


def test_one_forward_at_full_size_takes_52_gflop(full):
    assert full["generator_gflop"] == pytest.approx(52.2, abs=0.1)


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
