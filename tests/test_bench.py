"""The benchmark: its baseline computes the same losses, its figures hang together, its report can be read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import runs
import torch
from PIL import Image
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from attnbench.bench import measure
from attnbench.bench.measure import alternate, bench, ceiling, second_run, time
from attnbench.bench.output import rows_to_text
from attnbench.bench.plan import Plan, estimated_seconds, plan_bench
from attnbench.bench.released import ReleasedStep
from attnbench.config.recipe import Recipe, load_recipe
from attnbench.data.batches import Batch
from attnbench.errors import UserError
from attnbench.method import winograd
from attnbench.method.losses import PerceptualFeatures
from attnbench.method.precision import sums_in_fixed_order, tf32
from attnbench.training.loop import train_step
from attnbench.training.state import Training, assemble
from attnbench_baselines.sga import SGA

CPU = torch.device("cpu")
STEPS = 50
NUDGES = range(1, 6)  # seeds of changes by a rounding: of two, one in some versions of torch crosses no kink that matters
EPSILON = {"float32": 2.0**-22, "bfloat16": 2.0**-8}  # relative error of a short sum
TINY = ("backbone.width=4", "backbone.levels=3", "backbone.residual_blocks=1", "backbone.discriminator_width=4")
TINY += ("backbone.discriminator_layers=2", "data.size=32", "train.batch_size=4")


def tiny_recipe(*overrides: str) -> Recipe:
    return load_recipe("official", [*TINY, *overrides])


def batches(recipe: Recipe, count: int) -> Iterator[Batch]:
    """Colours that a network of this size can learn something of: a sketch is the grey of its target."""
    source = torch.Generator().manual_seed(0)
    shape = (recipe.train.batch_size, 3, recipe.data.size, recipe.data.size)
    for _ in range(count):
        target = torch.nn.functional.interpolate(torch.randn((*shape[:2], 4, 4), generator=source), shape[2:], mode="bilinear")
        yield Batch(target.tanh(), target.mean(1, keepdim=True).tanh(), target.flip(-1).tanh())


@pytest.fixture(scope="module")
def released() -> ReleasedStep:
    """One for all, since drawing the weights of a whole VGG19 takes seconds; its VGG19 never changes."""
    torch.manual_seed(0)
    return ReleasedStep(SGA, tiny_recipe(), CPU)


def training(
    recipe: Recipe, vgg19: dict[str, Tensor], nudge: float = 0.0, seed: int = 0, device: torch.device = CPU
) -> Training:
    """Training on that VGG19; `nudge` is a relative change of every weight of the generator."""
    features = PerceptualFeatures()
    features.load_vgg19(vgg19)
    built = assemble(SGA, recipe, 0, device, features)
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in built.generator.parameters():
            parameter.mul_((1 + nudge * torch.randn(parameter.shape, generator=source)).to(device))
    built.generator.train()
    built.discriminator.train()
    return built


def history(step: Callable[[Batch], Tensor], recipe: Recipe, device: torch.device = CPU) -> Tensor:
    """The generator's loss at each step."""
    moved = (Batch(**{name: tensor.to(device) for name, tensor in batch.tensors().items()}) for batch in batches(recipe, STEPS))
    return torch.stack([step(batch).double().cpu() for batch in moved])


def trained(vgg19: dict[str, Tensor], *overrides: str, nudge: float = 0.0, seed: int = 0, device: torch.device = CPU) -> Tensor:
    recipe = tiny_recipe(*overrides)
    built = training(recipe, vgg19, nudge, seed, device)
    with tf32(False), sums_in_fixed_order():
        return history(lambda batch: train_step(built, batch, recipe)["generator"], recipe, device)


def beyond_rounding(changed: Tensor, plain: Tensor, nudged: list[Tensor], floor: float = 1e-6) -> float:
    """How far the losses are from the plain ones, at the worst step: 1 is 100 times what changes of all weights by a rounding
    have led to by then.

    Two such changes differ by tens in single steps, where a kink of an activation is crossed or is not. What is below the
    floor, relative to the plain losses, is always rounding.
    """
    reach = torch.stack([(other - plain).abs() for other in nudged]).amax(0).cummax(0).values
    assert reach.isfinite().all()
    assert (reach < 0.02 * plain).all()  # else rounding would explain anything
    return float(((changed - plain).abs() / (100 * reach + floor * plain)).max())


@pytest.fixture(scope="module")
def vgg19(released: ReleasedStep) -> dict[str, Tensor]:
    return released.vgg.state_dict()


@pytest.fixture(scope="module")
def plain(vgg19: dict[str, Tensor]) -> Tensor:
    return trained(vgg19)


@pytest.fixture(scope="module")
def nudged(vgg19: dict[str, Tensor]) -> list[Tensor]:
    return [trained(vgg19, nudge=EPSILON["float32"], seed=seed) for seed in NUDGES]


def test_fifty_losses_of_the_released_step_are_ours_within_rounding(
    released: ReleasedStep, plain: Tensor, nudged: list[Tensor]
) -> None:
    """Two forwards, the whole unfrozen VGG19 and four Gram products change nothing but the time."""
    assert beyond_rounding(history(released, tiny_recipe()), plain, nudged) <= 1


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch, compiler: None) -> CompileCounterWithBackend:
    """Counts what is compiled: as `inductor` does, but for its minutes of C++."""
    counter = CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    return counter


def test_fifty_losses_of_compiled_networks_are_the_plain_ones_within_rounding(
    vgg19: dict[str, Tensor], plain: Tensor, nudged: list[Tensor], graphs: CompileCounterWithBackend
) -> None:
    assert beyond_rounding(trained(vgg19, "train.compile=true"), plain, nudged) <= 1
    assert graphs.frame_count >= 3  # generator, discriminator, VGG19


def test_fifty_losses_with_channels_last_are_the_plain_ones_within_rounding(
    vgg19: dict[str, Tensor], plain: Tensor, nudged: list[Tensor]
) -> None:
    assert beyond_rounding(trained(vgg19, "train.channels_last=true"), plain, nudged) <= 1


def test_channels_last_reaches_every_convolution(vgg19: dict[str, Tensor]) -> None:
    built = training(tiny_recipe("train.channels_last=true"), vgg19)
    assert built.features is not None
    for network in (built.generator, built.discriminator, built.features):
        weights = [parameter for parameter in network.parameters() if parameter.dim() == 4]
        assert weights
        assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


def test_fifty_losses_with_winograds_convolutions_are_the_plain_ones_within_rounding(
    vgg19: dict[str, Tensor], plain: Tensor, nudged: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd, "FEWEST_CHANNELS", 1)
    monkeypatch.setattr(winograd, "FEWEST_TILES", 1)
    changed = trained(vgg19)
    assert beyond_rounding(changed, plain, nudged) <= 1
    assert not torch.equal(changed, plain)


def test_fifty_losses_of_the_fast_recipe_are_those_of_the_official_one_within_the_rounding_of_bfloat16(
    vgg19: dict[str, Tensor], graphs: CompileCounterWithBackend
) -> None:
    without_vgg = ("loss.perceptual=0", "loss.style=0")  # processors without bfloat16 take minutes for it
    plain = trained(vgg19, *without_vgg)
    nudged = [trained(vgg19, *without_vgg, nudge=EPSILON["bfloat16"], seed=seed) for seed in NUDGES]
    fast = load_recipe("fast").train
    switches = [f"train.{name}={json.dumps(getattr(fast, name))}" for name in ("precision", "channels_last", "compile")]
    changed = trained(vgg19, *without_vgg, *switches)
    assert beyond_rounding(changed, plain, nudged) <= 1
    assert not torch.equal(changed, plain)
    assert graphs.frame_count >= 2


def test_fifty_losses_on_a_gpu_are_those_of_the_processor_and_the_fast_recipe_keeps_them(
    gpu: torch.device, compiler: None, vgg19: dict[str, Tensor], plain: Tensor, nudged: list[Tensor]
) -> None:
    assert beyond_rounding(trained(vgg19, device=gpu), plain, nudged, floor=1e-5) <= 1  # other algorithms of convolutions
    coarse = [trained(vgg19, nudge=EPSILON["bfloat16"], seed=seed) for seed in NUDGES]
    switches = ("train.precision=bfloat16", "train.channels_last=true", "train.compile=true")
    assert beyond_rounding(trained(vgg19, *switches, device=gpu), plain, coarse) <= 1


def test_a_real_change_is_not_taken_for_rounding(vgg19: dict[str, Tensor], plain: Tensor, nudged: list[Tensor]) -> None:
    assert beyond_rounding(trained(vgg19, "loss.reconstruction=30.03"), plain, nudged) > 1


def test_works_take_turns_and_the_second_run_of_a_turn_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, clock = [], [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def work(name: str, durations: Iterator[float]) -> float:
        def once() -> None:
            calls.append(name)
            clock[0] += next(durations)

        return second_run(once, CPU)

    durations = {"a": cycle([64.0, 1.0]), "b": cycle([64.0, 2.0])}  # the first of two runs is slow
    seconds = alternate({name: partial(work, name, durations[name]) for name in durations}, 2)
    assert calls == ["a", "a", "b", "b"] * 2
    assert seconds == {"a": [1.0, 1.0], "b": [2.0, 2.0]}


def plan_tiny(**changes: Any) -> Plan:
    settings = {"modules": ["sga", "cmft"], "sizes": [32], "precisions": ["float32"], "steps": 1, "growth": [], **changes}
    return plan_bench(CPU, overrides=TINY, **settings)


@pytest.fixture
def measured(tmp_path: Path) -> Callable[..., tuple[list[dict[str, Any]], list[Path]]]:
    """measured(sizes=[32]): rows and files of a tiny benchmark."""
    return lambda **changes: bench(plan_tiny(**changes), CPU, tmp_path)


def test_a_row_hangs_together_and_the_report_holds_it(measured: Callable[..., Any]) -> None:
    rows, files = measured(sizes=[32, 64], growth=[32, 64, 128])
    assert [(row["module"], row["size"], row["tokens"]) for row in rows] == [
        ("SGA", 32, 64), ("CMFT", 32, 64), ("SGA", 64, 256), ("CMFT", 64, 256),
    ]  # fmt: skip
    for row in rows:
        assert row["images_per_second"] == pytest.approx(4e3 / (row["step_ms"] + row["prepare_ms"]))
        assert row["gflop_per_second"] == pytest.approx(row["step_gflop"] * 4e3 / row["step_ms"])
        assert row["memory_gb"] > 16e-9 * row["generator_parameters"]  # weights, gradients and Adam's two moments
        assert row["speedup_over_released"] == pytest.approx(row["released_ms"] / row["step_ms"])  # one round: one ratio
    assert rows[2]["memory_gb"] > 2 * rows[0]["memory_gb"]
    data, picture = files
    report = json.loads(data.read_text())
    assert report["rows"] == rows
    assert [row["tokens"] for row in report["growth"] if row["module"] == "SGA"] == [64, 256, 1024]
    assert report["provenance"]["device"].startswith("cpu")
    assert report["ceilings_gflop_per_second"]["float32"] > 1
    with Image.open(picture) as opened:
        assert opened.width > 600
    shown = rows_to_text(rows)
    assert "x released" in shown
    assert len(shown.splitlines()) == 2 + len(rows)


def test_without_baseline_and_growth_there_is_neither_ratio_nor_plot(measured: Callable[..., Any]) -> None:
    rows, files = measured(modules=["cmft"], baseline=False)
    assert not [name for name in rows[0] if "released" in name]
    assert [file.suffix for file in files] == [".json"]


def test_the_ceiling_is_the_rate_of_a_product_of_2048_by_2048(monkeypatch: pytest.MonkeyPatch) -> None:
    def two_seconds(work: Callable[[], Tensor], device: torch.device) -> float:
        assert work().shape == (2048, 2048)
        return 2.0

    monkeypatch.setattr(measure, "second_run", two_seconds)
    assert ceiling("float32", CPU) == pytest.approx(2 * 2048**3 / 2.0 / 1e9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precisions": ["fp32"]}, "unknown precision 'fp32'"),
        ({"precisions": ["tf32"]}, "'tf32' is for NVIDIA GPUs"),
        ({"sizes": []}, "nothing to measure: name an image size"),
        ({"sizes": [50]}, "size 50: .* a multiple of 4, at least 8"),
        ({"growth": [4]}, "size 4: "),
        ({"modules": ["sgaa"]}, "did you mean 'sga'"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_work_starts(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan_tiny(**changes)


def test_on_a_gpu_the_default_is_a_matter_of_minutes_and_says_so_first() -> None:
    """An H100: 600 TFLOP/s in large products, 228 GFLOP an image in a step."""
    plan = plan_bench(torch.device("cuda"))
    assert (len(plan.variants), plan.sizes, plan.precisions, plan.growth) == (6, (256,), ("bfloat16",), ())
    costs = [{"step_gflop": 228.0}] * 6
    seconds = estimated_seconds(plan, costs, {"bfloat16": 600e3}, torch.device("cuda"))
    assert 60 < seconds < 15 * 60
    whole = plan_bench(torch.device("cuda"), precisions=["bfloat16", "tf32", "float32"], sizes=[256, 512])
    rates = {"bfloat16": 600e3, "tf32": 350e3, "float32": 50e3}
    assert estimated_seconds(whole, costs * 2, rates, torch.device("cuda")) > 5 * seconds


def test_the_estimate_comes_before_any_row(measured: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "attnbench")
    measured(sizes=[32])
    said = [line.getMessage() for line in caplog.records]
    estimate = next(i for i, line in enumerate(said) if re.fullmatch(r"2 rows, in about \d+ s", line))
    assert estimate < min(i for i, line in enumerate(said) if " px, float32: " in line)


@pytest.mark.usefixtures("measured")
def test_the_command_prints_the_table_and_names_its_files(tmp_path: Path) -> None:
    options = [part for override in TINY for part in ("--set", override)]
    outcome = runs.attnbench("bench", "-m", "sga", *options, "--sizes", "32", "--steps", "1", "--growth", "", "-o", tmp_path)
    assert outcome.code == 0, outcome.err
    assert "x released" in outcome.out
    assert f"written to {tmp_path}" in outcome.out
