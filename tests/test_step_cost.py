"""The count of a training step's bytes and operations, against counts by hand and against PyTorch's counter."""

from __future__ import annotations

import importlib.util
import json
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from attnbench.config.recipe import Recipe, load_recipe
from attnbench.training.costs import count_costs
from attnbench_baselines.sga import SGA

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "step_cost.py"
TINY = ["backbone.width=4", "backbone.levels=3", "backbone.residual_blocks=1", "backbone.discriminator_width=4"]
TINY += ["backbone.discriminator_layers=2", "data.size=32", "train.batch_size=2"]
FLOAT = 4  # bytes


@cache
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("step_cost", BENCHMARK)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["step_cost"] = module  # its dataclasses look themselves up here
    spec.loader.exec_module(module)
    return module


@cache
def step(recipe: str = "official", *overrides: str) -> list[Any]:
    """The operations of a step of SGA."""
    return benchmark().record_step(SGA, load_recipe(recipe, [*TINY, *overrides]))


def recorded() -> Any:
    return benchmark().Recorder(Recipe())


def sizes(kernels: list[Any]) -> list[int]:
    return [kernel.bytes for kernel in kernels]


def eager_bytes(operations: list[Any]) -> int:
    return sum(sizes(benchmark().eager_kernels(operations)))


@pytest.mark.parametrize("recipe", ["official", "fast"])
def test_flop_are_those_of_pytorchs_counter(recipe: str) -> None:
    counted = count_costs(SGA, load_recipe(recipe, TINY))["step_gflop"] * 2  # images
    assert sum(operation.flop for operation in step(recipe)) == pytest.approx(counted * 1e9, rel=1e-12)


def test_the_backward_of_a_part_is_counted_in_that_part() -> None:
    def flop(part: str, backward: bool) -> int:
        return sum(one.flop for one in step() if (one.part, one.backward) == (part, backward))

    assert flop("residual stage", True) == 2 * flop("residual stage", False)  # gradients at input and weight
    for encoder, channels in (("sketch encoder", 1), ("reference encoder", 3)):
        first_layer = 2 * 2 * 32 * 32 * 4 * channels * 9  # an image needs no gradient
        assert flop(encoder, True) == 2 * flop(encoder, False) - first_layer > 0


def test_everything_of_the_losses_networks_and_optimisers_has_its_part() -> None:
    assert {operation.part for operation in step()} == set(benchmark().PARTS)
    assert {one.part for one in step() if one.name == "_fused_adam_"} == {"optimisers"}
    assert {one.part for one in step() if one.name == "max_pool2d_with_indices"} == {"VGG19"}


def test_a_convolution_reads_input_and_filters_and_adds_its_bias_in_a_second_pass() -> None:
    x, weight, bias = torch.zeros(2, 3, 8, 8), torch.zeros(5, 3, 3, 3), torch.zeros(5)
    with recorded() as recorder:
        F.conv2d(x, weight, bias, padding=1)
    inputs, filters, output = 2 * 3 * 64 * FLOAT, 5 * 3 * 9 * FLOAT, 2 * 5 * 64 * FLOAT
    assert sizes(benchmark().eager_kernels(recorder.operations)) == [inputs + filters + output, 2 * output + 5 * FLOAT]


def test_the_gradient_of_a_convolution_is_three_kernels_that_each_read_the_arriving_one() -> None:
    x, weight, bias = (torch.zeros(shape, requires_grad=True) for shape in ((2, 3, 8, 8), (5, 3, 3, 3), (5,)))
    out, arriving = F.conv2d(x, weight, bias, padding=1), torch.zeros(2, 5, 8, 8)
    with recorded() as recorder:
        out.backward(arriving)
    inputs, filters, output = 2 * 3 * 64 * FLOAT, 5 * 3 * 9 * FLOAT, 2 * 5 * 64 * FLOAT
    of_gradient = [one for one in recorder.operations if one.name.startswith("convolution, gradient")]
    whole = output + filters + inputs
    assert sizes(benchmark().eager_kernels(of_gradient)) == [whole, whole, output + 5 * FLOAT]


def test_a_batch_norm_reads_its_input_twice() -> None:
    x, running, ones = torch.zeros(2, 3, 8, 8), [torch.zeros(3), torch.ones(3)], torch.ones(3)
    with recorded() as recorder:
        F.batch_norm(x, *running, ones, ones, training=True)
    full, channels = 2 * 3 * 64 * FLOAT, 3 * FLOAT
    statistics, normalised = sizes(benchmark().eager_kernels(recorder.operations))
    assert statistics == full + 4 * channels  # this batch's and the running ones
    assert normalised == 2 * full + 3 * channels  # `ones`, as scale and shift, is one piece of memory


def test_a_pointwise_operation_reads_what_is_stored_and_a_view_costs_nothing() -> None:
    x, row = torch.zeros(10, 20), torch.zeros(20)
    with recorded() as recorder:
        x.view(20, 10).mT.contiguous()  # a copy
        x + row.expand(10, 20)
        x * x
        x.add_(1)
        torch.empty(1000)
    full = 200 * FLOAT
    assert sizes(benchmark().eager_kernels(recorder.operations)) == [2 * full, 2 * full + 20 * FLOAT, 2 * full, 2 * full]


def test_a_chain_between_two_products_is_one_kernel_that_reads_one_of_them_and_writes_what_the_other_reads() -> None:
    x = torch.zeros(10, 10)
    with recorded() as recorder:
        ((x @ x) * 2 + 1).relu_() @ x
    full = 100 * FLOAT
    assert sizes(benchmark().eager_kernels(recorder.operations)) == [2 * full, 2 * full, 2 * full, 2 * full, 3 * full]
    assert sizes(benchmark().compiled_kernels(recorder.operations)) == [2 * full, 2 * full, 3 * full]


def test_a_chain_also_writes_what_backward_will_read() -> None:
    x = torch.zeros(10, 10, requires_grad=True)
    with recorded() as recorder:
        (x * 2).exp().sigmoid().backward(torch.ones(10, 10))
    full = 100 * FLOAT
    forward = benchmark().compiled_kernels(recorder.operations)[0]
    assert [one.name for one in forward.operations] == ["mul", "exp", "sigmoid"]
    assert forward.bytes == 3 * full  # x; what exp and sigmoid gave


def test_what_needs_the_result_of_a_reduction_is_a_kernel_of_its_own() -> None:
    x = torch.zeros(10, 10)
    with recorded() as recorder:
        x * 2 - (x * 2).sum()
    full = 100 * FLOAT
    chain, after = benchmark().compiled_kernels(recorder.operations)
    assert [one.name for one in chain.operations] == ["mul", "mul", "sum"]
    assert sizes([chain, after]) == [2 * full + FLOAT, 2 * full + FLOAT]


def test_compiling_moves_fewer_bytes_in_fewer_kernels_and_does_the_same_arithmetic() -> None:
    eager, compiled = benchmark().eager_kernels(step("fast")), benchmark().compiled_kernels(step("fast"))
    assert len(compiled) < len(eager)
    assert sum(sizes(compiled)) < sum(sizes(eager))
    assert sum(kernel.flop for kernel in compiled) == sum(kernel.flop for kernel in eager)


def test_bfloat16_moves_fewer_bytes_than_float32() -> None:
    assert eager_bytes(step("fast")) < eager_bytes(step("official"))


@pytest.mark.parametrize(("asked", "precision"), [("true", "tf32"), ("false", "float32")])
def test_products_of_gram_matrices_have_the_precision_of_the_recipe(asked: str, precision: str) -> None:
    products = [one for one in step("fast", f"loss.gram_tf32={asked}") if one.part == "losses" and one.kind == "product"]
    assert [one.precision for one in products] == [precision] * 4  # two layers, forward and backward


def test_convolutions_of_a_float32_recipe_are_in_tf32_and_other_products_are_not() -> None:
    kinds = {(one.name.startswith("convolution"), one.precision) for one in step() if one.kind == "product"}
    assert kinds == {(True, "tf32"), (False, "float32")}


def test_a_kernel_takes_as_long_as_its_arithmetic_or_its_bytes_whichever_is_more() -> None:
    script = benchmark()
    gpu = script.GPU("slow", {"float32": 1e6, "bfloat16": 1e6, "tf32": 1e6}, 1e6)
    x = torch.zeros(10, 10)
    with recorded() as recorder:
        _ = x @ x, x + 1
    product, pointwise = script.eager_kernels(recorder.operations)
    assert script.seconds(product, gpu) == pytest.approx(2000 / 0.85e6 + script.GAP)
    assert script.seconds(pointwise, gpu) == pytest.approx(800 / 0.7e6 + script.GAP)


def test_the_command_prints_a_table_and_writes_parts_that_add_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark().main(["--set", *TINY[:2], "--set", *TINY[2:], "--device", "h200", "--json", str(tmp_path)])
    printed = capsys.readouterr().out
    assert f"SGA, fast with {', '.join(TINY)}, H200 SXM: 32 px, batches of 2, bfloat16" in printed
    (file,) = tmp_path.iterdir()
    assert file.name.startswith("step-cost-sga-fast-with-")
    assert file.name.endswith("-h200.json")
    saved = json.loads(file.read_text())
    assert [line.split("  ")[0] for line in printed.splitlines()[4:14]] == [*saved["parts"], "total"]
    for key, value in saved["total"].items():
        assert sum(part[key] for part in saved["parts"].values()) == pytest.approx(value)
    for mode in ("eager", "compiled"):
        assert saved[mode]["ms"] == pytest.approx(saved["total"][f"{mode}_ms"])
        assert saved[mode]["images_per_second"] == pytest.approx(2e3 / saved[mode]["ms"])
    assert saved["assumptions"]["bandwidth"] == 4.8e12
