"""Training: exact resume, one forward for two, equal conditions for all modules."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import runs
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from attnbench.config.recipe import Recipe, load_recipe
from attnbench.data.images import ImageSet
from attnbench.errors import Interrupted
from attnbench.store.folder import CellFolder
from attnbench.training.loop import total_steps, train
from attnbench.training.state import Training, build

CPU = torch.device("cpu")
SEED = 3
STEPS = 6
MODULES = ("sga", "scft")
History = list[tuple[int, dict[str, float]]]


def tiny_recipe(**changes: Any) -> Recipe:
    return load_recipe("demo", runs.overrides(**{"train__steps": STEPS, **changes}))


def images(datasets: str = runs.HEADS) -> ImageSet:
    return runs.cells(datasets=datasets)[0].dataset.train


def fresh(module: str, recipe: Recipe, seed: int = SEED) -> Training:
    return build(runs.cells(module)[0].variant.factory, recipe, seed, CPU)


def continued(training: Training, recipe: Recipe, until: int | None = None, datasets: str = runs.HEADS) -> History:
    """Train on, to the end or until a step; the losses of every step."""
    history: History = []

    def log(step: int, losses: dict[str, Tensor]) -> None:
        history.append((step, {name: loss.item() for name, loss in losses.items()}))

    try:
        train(
            training,
            images(datasets),
            recipe,
            seed=SEED,
            device=CPU,
            log=log,
            after_step=lambda now: None,
            should_stop=lambda: training.step == until,
        )
    except Interrupted as interrupted:
        assert interrupted.step == until
    return history


def state(training: Training) -> dict[str, Any]:
    """All that training has changed, but for the time it took."""
    return {name: value for name, value in training.state_dict().items() if name != "seconds"}


def equal(a: Any, b: Any) -> bool:
    """Equal in structure, and every tensor bit for bit."""
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, Sequence) and not isinstance(a, str):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


@pytest.mark.parametrize("module", MODULES)
def test_a_run_that_was_interrupted_after_any_step_ends_bit_for_bit_as_an_uninterrupted_one(
    module: str, tmp_path: Path
) -> None:
    recipe = tiny_recipe()
    whole = fresh(module, recipe)
    losses = continued(whole, recipe)
    assert [step for step, _ in losses] == list(range(1, STEPS + 1))
    for k in range(1, STEPS):
        first, folder = fresh(module, recipe), CellFolder(tmp_path)
        before = continued(first, recipe, until=k)
        folder.write_checkpoint(first.state_dict())
        torch.manual_seed(k)  # whatever the second process's random state is
        second = fresh(module, recipe)
        checkpoint = folder.read_checkpoint()
        assert checkpoint is not None
        second.load_state_dict(checkpoint)
        assert before + continued(second, recipe) == losses, k
        assert equal(state(second), state(whole)), k


def test_a_checkpoint_sets_no_option_that_belongs_to_the_machine_or_the_recipe() -> None:
    """A cell that was captured on a GPU goes on on a CPU, and the other way round."""
    recipe = tiny_recipe()
    first, second = fresh("sga", recipe), fresh("sga", recipe)
    continued(first, recipe, until=2)
    saved = first.state_dict()
    for group in saved["optimizer_g"]["param_groups"]:
        group |= {"lr": torch.tensor(0.5), "fused": False, "capturable": True}
    second.load_state_dict(saved)
    (group,) = second.optimizer_g.param_groups
    assert (group["lr"], group["fused"], group["capturable"]) == (recipe.train.lr_generator, True, False)
    assert second.optimizer_g.state


@pytest.mark.parametrize("module", MODULES)
def test_one_forward_with_merged_momentum_does_what_two_forwards_do(module: str) -> None:
    results = {}
    for forwards in (1, 2):
        recipe = tiny_recipe(train__generator_forwards=forwards)
        training = fresh(module, recipe)
        results[forwards] = continued(training, recipe), training.generator
    (losses, one), (released_losses, two) = results[1], results[2]
    for (_, got), (_, wanted) in zip(losses, released_losses, strict=True):
        assert got == pytest.approx(wanted, rel=1e-5)
    torch.testing.assert_close(dict(one.named_parameters()), dict(two.named_parameters()), rtol=1e-5, atol=1e-6)
    buffers, released = ({k: v for k, v in g.named_buffers() if "running" in k} for g in (one, two))
    assert buffers
    torch.testing.assert_close(buffers, released, rtol=1e-5, atol=1e-6)


def test_without_merged_momentum_one_forward_leaves_other_statistics() -> None:
    """The test above can fail: running statistics do tell one forward from two."""
    recipes = [tiny_recipe(train__generator_forwards=count, train__steps=1) for count in (1, 2)]
    one, two = (fresh("sga", recipe) for recipe in recipes)
    for layer in one.generator.modules():
        if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
            layer.momentum = 0.1
    for training, recipe in zip((one, two), recipes, strict=True):
        continued(training, recipe)
    means = [training.generator.get_buffer("sketch_encoder.blocks.0.1.running_mean") for training in (one, two)]
    assert (means[0] - means[1]).abs().max() > 1e-3


def test_all_modules_start_from_the_same_backbone_and_discriminator() -> None:
    sga, scft, other_seed = fresh("sga", tiny_recipe()), fresh("scft", tiny_recipe()), fresh("sga", tiny_recipe(), seed=4)

    def backbone(training: Training) -> dict[str, Tensor]:
        weights = training.generator.state_dict() | training.discriminator.state_dict(prefix="D.")
        return {name: value for name, value in weights.items() if not name.startswith("module.")}

    assert equal(backbone(sga), backbone(scft))
    assert not equal(backbone(sga), backbone(other_seed))


def test_building_a_generator_leaves_the_random_state_alone() -> None:
    torch.manual_seed(0)
    wanted = torch.rand(3)
    torch.manual_seed(0)
    fresh("sga", tiny_recipe())
    assert torch.equal(torch.rand(3), wanted)


def test_every_module_sees_the_same_batches_in_the_same_order() -> None:
    seen: dict[str, list[tuple[Tensor, ...]]] = {}
    for module in MODULES:
        batches = seen.setdefault(module, [])
        training = fresh(module, tiny_recipe())
        training.generator.register_forward_pre_hook(lambda _, inputs, batches=batches: batches.append(inputs))
        continued(training, tiny_recipe())
    assert len(seen["sga"]) == STEPS
    assert equal(seen["sga"], seen["scft"])
    assert not torch.equal(seen["sga"][0][1], seen["sga"][2][1])  # the next epoch warps anew


def test_generator_and_discriminator_change_in_every_part() -> None:
    recipe = tiny_recipe(train__steps=2)
    training = fresh("sga", recipe)
    parts = {**dict(training.generator.named_children()), "discriminator": training.discriminator}
    before = {name: [p.detach().clone() for p in part.parameters()] for name, part in parts.items()}
    continued(training, recipe)
    for name, part in parts.items():
        changed = [not torch.equal(old, new) for old, new in zip(before[name], part.parameters(), strict=True)]
        assert all(changed), f"{name}: {changed}"


def test_bfloat16_autocast_trains_with_finite_losses_near_those_of_float32() -> None:
    losses = {}
    for precision in ("float32", "bfloat16"):
        recipe = tiny_recipe(train__precision=precision)
        training = fresh("sga", recipe)
        losses[precision] = continued(training, recipe)
        assert {p.dtype for p in training.generator.parameters()} == {torch.float32}
    for (_, exact), (_, rounded) in zip(losses["float32"], losses["bfloat16"], strict=True):
        assert rounded == pytest.approx(exact, rel=0.1)
    assert losses["bfloat16"] != losses["float32"]


@pytest.mark.parametrize(
    ("schedule", "factors"), [("constant", [1.0] * 8), ("linear", [1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25])]
)
def test_learning_rates_follow_the_schedule(schedule: str, factors: list[float]) -> None:
    rates = {"lr_generator": 0.004, "lr_discriminator": 0.002}
    changes = {f"train__{name}": rate for name, rate in rates.items()}
    recipe = tiny_recipe(train__schedule=schedule, train__steps=8, **changes)
    training, seen = fresh("sga", recipe), []

    def note(_: object) -> None:
        seen.append(tuple(optimizer.param_groups[0]["lr"] for optimizer in (training.optimizer_g, training.optimizer_d)))

    train(training, images(), recipe, seed=SEED, device=CPU, log=lambda step, losses: None, after_step=note)
    assert seen == [pytest.approx((factor * 0.004, factor * 0.002)) for factor in factors]


@pytest.mark.parametrize("module", MODULES)
def test_the_reconstruction_loss_falls_within_thirty_steps(module: str) -> None:
    recipe = tiny_recipe(train__steps=30, train__lr_generator=0.002)
    losses = [values["reconstruction"] for _, values in continued(fresh(module, recipe), recipe)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_incomplete_batches_are_left_out_and_steps_override_epochs() -> None:
    five = images("synthetic:train=5:test=2:size=16")
    assert total_steps(five, tiny_recipe(train__steps="null", train__epochs=3)) == 6
    assert total_steps(five, tiny_recipe(train__steps=7, train__epochs=3)) == 7


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_compiled_run_has_the_same_losses_within_rounding(
    backend: str, compiler: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`aot_eager` traces and differentiates as `inductor`, the default, does, without its minutes of C++."""
    if backend == "inductor" and not (shutil.which("g++") and os.environ.get("ATTNBENCH_TEST_INDUCTOR")):
        pytest.skip("takes minutes: set ATTNBENCH_TEST_INDUCTOR=1, with a C++ compiler (g++)")
    graphs = CompileCounterWithBackend(backend)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=graphs))
    smallest = {"train__steps": 2, "backbone__levels": 2, "backbone__residual_blocks": 0, "backbone__discriminator_layers": 1}
    plain, compiled = (tiny_recipe(**smallest, train__compile=value) for value in ("false", "true"))
    losses = [continued(fresh("scft", recipe), recipe) for recipe in (plain, compiled)]
    for (_, wanted), (_, got) in zip(*losses, strict=True):
        assert got == pytest.approx(wanted, rel=1e-3)
    assert graphs.frame_count >= 2  # generator and discriminator
