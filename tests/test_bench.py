"""The benchmark: its baseline computes the same losses, its figures hang together, its report can be read."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import partial, partialmethod
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import runs
import torch
from PIL import Image
from torch import Tensor

from attnbench import winograd
from attnbench.bench import bench, plan_bench, rows_to_text
from attnbench.bench.measure import alternate, ceiling, second_run
from attnbench.bench.released import ReleasedStep
from attnbench.data.batches import Batch
from attnbench.errors import UserError
from attnbench.losses import PerceptualFeatures
from attnbench.precision import tf32
from attnbench.recipe import Recipe, load_recipe
from attnbench.train import Training, assemble, train_step
from attnbench_baselines.sga import SGA

CPU = torch.device("cpu")
STEPS = 50
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
    moved = (Batch(*(getattr(batch, field.name).to(device) for field in fields(batch))) for batch in batches(recipe, STEPS))
    return torch.stack([step(batch).double().cpu() for batch in moved])


def trained(vgg19: dict[str, Tensor], *overrides: str, nudge: float = 0.0, seed: int = 0, device: torch.device = CPU) -> Tensor:
    recipe = tiny_recipe(*overrides)
    built = training(recipe, vgg19, nudge, seed, device)
    with tf32(False):
        return history(lambda batch: train_step(built, batch, recipe)["generator"], recipe, device)


def assert_explained_by_rounding(changed: Tensor, plain: Tensor, nudged: list[Tensor]) -> None:
    """Nowhere further from the plain losses than 100 times what a change of all weights by a rounding has led to by then.

    Two such changes differ by tens in single steps, where a kink of an activation is crossed or is not.
    """
    reach = torch.stack([(other - plain).abs() for other in nudged]).amax(0).cummax(0).values
    assert reach.isfinite().all()
    assert (reach < 0.02 * plain).all()  # else rounding would explain anything
    excess = (changed - plain).abs() / (100 * reach + 1e-6 * plain)
    assert excess.max() <= 1, (int(excess.argmax()), float(excess.max()))


@pytest.fixture(scope="module")
def vgg19(released: ReleasedStep) -> dict[str, Tensor]:
    return released.vgg.state_dict()


@pytest.fixture(scope="module")
def plain(vgg19: dict[str, Tensor]) -> Tensor:
    return trained(vgg19)


@pytest.fixture(scope="module")
def nudged(vgg19: dict[str, Tensor]) -> list[Tensor]:
    return [trained(vgg19, nudge=EPSILON["float32"], seed=seed) for seed in (1, 2)]


def test_fifty_losses_of_the_released_step_are_ours_within_rounding(
    released: ReleasedStep, plain: Tensor, nudged: list[Tensor]
) -> None:
    """Two forwards, the whole unfrozen VGG19 and four Gram products change nothing but the time."""
    assert_explained_by_rounding(history(released, tiny_recipe()), plain, nudged)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile as `inductor` does, but for its minutes of C++."""
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend="aot_eager"))


@pytest.mark.filterwarnings("ignore")  # of the compiler's own making
@pytest.mark.parametrize("switch", ["train.channels_last=true", "train.compile=true"])
def test_fifty_losses_with_a_switch_of_speed_are_the_plain_ones_within_rounding(
    switch: str, vgg19: dict[str, Tensor], plain: Tensor, nudged: list[Tensor], traced: None
) -> None:
    assert_explained_by_rounding(trained(vgg19, switch), plain, nudged)


def test_fifty_losses_with_winograds_convolutions_are_the_plain_ones_within_rounding(
    vgg19: dict[str, Tensor], plain: Tensor, nudged: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd, "FEWEST_CHANNELS", 1)
    monkeypatch.setattr(winograd, "FEWEST_TILES", 1)
    changed = trained(vgg19)
    assert_explained_by_rounding(changed, plain, nudged)
    assert not torch.equal(changed, plain)


@pytest.mark.filterwarnings("ignore")
def test_fifty_losses_of_the_fast_recipe_are_those_of_the_official_one_within_the_rounding_of_bfloat16(
    vgg19: dict[str, Tensor], traced: None
) -> None:
    without_vgg = ("loss.perceptual=0", "loss.style=0")  # processors without bfloat16 take minutes for it
    plain = trained(vgg19, *without_vgg)
    nudged = [trained(vgg19, *without_vgg, nudge=EPSILON["bfloat16"], seed=seed) for seed in (1, 2)]
    fast = load_recipe("fast").train
    switches = [f"train.{name}={json.dumps(getattr(fast, name))}" for name in ("precision", "channels_last", "compile")]
    changed = trained(vgg19, *without_vgg, *switches)
    assert_explained_by_rounding(changed, plain, nudged)
    assert not torch.equal(changed, plain)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_fifty_losses_on_a_gpu_are_those_of_the_processor_and_the_fast_recipe_keeps_them(
    vgg19: dict[str, Tensor], plain: Tensor, nudged: list[Tensor]
) -> None:
    gpu = torch.device("cuda")
    assert_explained_by_rounding(trained(vgg19, device=gpu), plain, nudged)
    coarse = [trained(vgg19, nudge=EPSILON["bfloat16"], seed=seed) for seed in (1, 2)]
    switches = ("train.precision=bfloat16", "train.channels_last=true", "train.compile=true")
    assert_explained_by_rounding(trained(vgg19, *switches, device=gpu), plain, coarse)


def test_a_real_change_is_not_taken_for_rounding(vgg19: dict[str, Tensor], plain: Tensor, nudged: list[Tensor]) -> None:
    with pytest.raises(AssertionError):
        assert_explained_by_rounding(trained(vgg19, "loss.reconstruction=30.03"), plain, nudged)


def test_works_take_turns_and_the_second_run_of_a_turn_counts() -> None:
    calls: list[str] = []

    def work(name: str, pauses: Iterator[float]) -> float:
        def once() -> None:
            calls.append(name)
            time.sleep(next(pauses))

        return second_run(once, CPU)

    pauses = cycle([0.05, 0.0])  # the first of two runs is slow
    seconds = alternate({name: partial(work, name, pauses) for name in ("a", "b")}, 2)
    assert calls == ["a", "a", "b", "b"] * 2
    assert [len(taken) for taken in seconds.values()] == [2, 2]
    assert max(map(max, seconds.values())) < 0.05


def measured(tmp_path: Path, **changes: Any) -> tuple[list[dict[str, Any]], list[Path]]:
    settings = {"modules": ["sga", "cmft"], "sizes": [32], "precisions": ["float32"], "steps": 1, "growth": [], **changes}
    return bench(plan_bench(CPU, overrides=TINY, **settings), CPU, tmp_path)


def test_a_row_hangs_together_and_the_report_holds_it(tmp_path: Path) -> None:
    rows, files = measured(tmp_path, sizes=[32, 64], growth=[32, 64, 128])
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


def test_without_baseline_and_growth_there_is_neither_ratio_nor_plot(tmp_path: Path) -> None:
    rows, files = measured(tmp_path, modules=["cmft"], baseline=False)
    assert not [name for name in rows[0] if "released" in name]
    assert [file.suffix for file in files] == [".json"]


def test_the_ceiling_is_above_what_a_smaller_product_reaches() -> None:
    assert ceiling("float32", CPU) > 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precisions": ["fp32"]}, "unknown precision 'fp32'"),
        ({"precisions": ["tf32"]}, "'tf32' is for NVIDIA GPUs"),
        ({"sizes": []}, "nothing to measure: name an image size"),
        ({"sizes": [50]}, "size 50: .* multiples of 4 from 8 on"),
        ({"growth": [4]}, "size 4: "),
        ({"modules": ["sgaa"]}, "did you mean 'sga'"),
    ],
)
def test_what_cannot_be_measured_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        measured(tmp_path, **changes)
    assert not list(tmp_path.iterdir())


def test_the_command_prints_the_table_and_names_its_files(tmp_path: Path) -> None:
    options = [part for override in TINY for part in ("--set", override)]
    outcome = runs.attnbench("bench", "-m", "sga", *options, "--sizes", "32", "--steps", "1", "--growth", "", "-o", tmp_path)
    assert outcome.code == 0, outcome.err
    assert "x released" in outcome.out
    assert f"written to {tmp_path}" in outcome.out
