"""A step on a GPU never waits, and computes the same every time: on a CPU, as far as shapes and operations tell."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import runs
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from attnbench import plugins
from attnbench.cells.variant import parse_variant
from attnbench.config.recipe import Recipe, load_recipe
from attnbench.data.batches import Batch, training_batch
from attnbench.data.images import ImageSet
from attnbench.method.losses import PerceptualFeatures
from attnbench.training.costs import on_meta
from attnbench.training.cuda_graph import WARM_UP, GraphedStep, Step
from attnbench.training.loop import step_of, switches, train_step
from attnbench.training.state import STEP_STREAM, Training, assemble, reseed

META = torch.device("meta")
MODULES = tuple(plugin.name for plugin in plugins.installed(plugins.MODULES) if plugin.package == "attnbench")
MORE = ("cmft:levels=2", "cmft:key_source=reference_sketch", "spade:variant=resblk")  # which call what the defaults do not
# Those whose sums have a fixed order on a GPU: the backward of fused attention has none.
IN_ORDER = tuple("mha:fused=false" if module == "mha" else module for module in MODULES)
TINY = runs.overrides(data__size=32, train__batch_size=4)
DRAWN = {"native": "data.sketch.at=native", "target": "data.sketch.at=target", "each epoch": "data.sketch.sigma_per=epoch"}


def tiny_recipe(*overrides: str, name: str = "official") -> Recipe:
    return load_recipe(name, [*TINY, *overrides])


def some_images(recipe: Recipe, count: int = 8) -> ImageSet:
    sketch, side = recipe.data.sketch, recipe.data.size
    source = torch.Generator().manual_seed(0)
    stored = sketch.at == "native"
    columns = len(sketch.sigma) if sketch.sigma_per == "epoch" else 1
    return ImageSet(
        [str(i) for i in range(count)],
        torch.randint(0, 256, (count, 3, side, side), generator=source, dtype=torch.uint8),
        torch.randint(0, 256, (count, columns, side, side), generator=source, dtype=torch.uint8) if stored else None,
        torch.full((count,), sketch.sigma[0]),
    )


def networks(module: str, recipe: Recipe, device: torch.device) -> Training:
    factory = parse_variant(module).factory
    if device == META:
        with META:
            training = assemble(on_meta(factory), recipe, 0, META, PerceptualFeatures())
    else:
        torch.manual_seed(0)
        features = PerceptualFeatures()
        for parameter in features.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
        training = assemble(factory, recipe, 0, device, features)
    training.generator.train()
    training.discriminator.train()
    return training


def batch_of(images: ImageSet, recipe: Recipe, step: int, device: torch.device) -> Batch:
    size = recipe.train.batch_size
    rows = (np.arange(size) + step * size) % len(images)
    return training_batch(images, rows, seed=0, epoch=step, data=recipe.data, device=device)


READ = ("_local_scalar_dense", "equal", "masked_select", "nonzero")  # give Python a value, or a shape that depends on values
MADE_OF_NUMBERS = (torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor)


class Waits(TorchDispatchMode):
    """Notes what would make the CPU wait for a GPU, if the meta device were one.

    That is what reads values from it, and copies from one to the other that are not told to go on by themselves.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._numbers = Numbers(self.found)

    def __enter__(self) -> Waits:
        self._numbers.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._numbers.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        if name in READ and "meta" in _devices((args, kwargs)):
            self.found.append(name)
            if name == "_local_scalar_dense":
                return 1.0
        out = func(*args, **kwargs)
        waits = not (kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2]))
        if name in ("_to_copy", "copy_") and waits and _devices((args, kwargs, out)) == {"cpu", "meta"}:
            self.found.append(name)
        return out


class Numbers(TorchFunctionMode):
    """Notes tensors that are made of numbers on the meta device: PyTorch copies these out of sight of dispatch modes."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self._found = found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in MADE_OF_NUMBERS and out.is_meta:
            self._found.append(func.__name__)
        return out


def _devices(tree: Any) -> set[str]:
    return {x.device.type for x in tree_leaves(tree) if isinstance(x, Tensor)}


class Operations(TorchDispatchMode):
    """The names of all operations."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func._schema.name.removeprefix("aten::"))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("module", [*MODULES, *MORE])
def test_no_operation_of_a_step_waits_for_the_gpu(module: str) -> None:
    recipe = tiny_recipe()
    training = networks(module, recipe, META)
    images = some_images(recipe).to(META)
    with Waits() as waits:
        for step in range(2):  # the second finds the optimisers' states
            train_step(training, batch_of(images, recipe, step, META), recipe)
    assert waits.found == []


@pytest.mark.parametrize("where", ["cpu", "meta"])
@pytest.mark.parametrize("warp", ["official", "grid", "none"])
@pytest.mark.parametrize("jitter", ["official", "channel_shift", "none"])
@pytest.mark.parametrize("drawn", DRAWN)
def test_no_batch_waits_for_the_gpu_whether_or_not_images_are_there(where: str, warp: str, jitter: str, drawn: str) -> None:
    recipe = tiny_recipe(f"data.warp.kind={warp}", f"data.jitter={jitter}", DRAWN[drawn])
    images = some_images(recipe).to(torch.device(where))
    with Waits() as waits:
        batch = batch_of(images, recipe, 0, META)
    assert waits.found == []
    assert batch.sketch.is_meta
    assert batch.reference.is_meta


@pytest.mark.parametrize(
    "waiting",
    [
        lambda x: x.new_tensor([1.0, 2.0]),
        lambda x: torch.tensor(1.0, device=x.device),
        lambda x: torch.ones(3).to(x.device),
        lambda x: x.copy_(torch.ones(3)),
        lambda x: float(x.sum()),
        lambda x: "any" if x.any() else "none",
    ],
)
def test_what_waits_is_noticed(waiting: Callable[[Tensor], Any]) -> None:
    with Waits() as waits:
        waiting(torch.empty(3, device=META))
    assert waits.found


# Operations that are not deterministic on GPUs, by the list of torch.use_deterministic_algorithms: those that networks use.
UNORDERED = {
    "_adaptive_avg_pool2d_backward",
    "adaptive_max_pool2d_backward",
    "avg_pool3d_backward",
    "cumsum",
    "grid_sampler_2d_backward",
    "histc",
    "index_add",
    "index_add_",
    "index_put_",
    "put_",
    "reflection_pad2d_backward",
    "replication_pad2d_backward",
    "scatter_add",
    "scatter_add_",
    "scatter_reduce",
    "upsample_bicubic2d_backward",
    "upsample_bilinear2d_backward",
    "upsample_linear1d_backward",
}


@pytest.mark.parametrize("module", [*IN_ORDER, *MORE[1:]])  # cmft:levels pools adaptively
def test_no_sum_of_a_step_is_added_up_in_any_order(module: str) -> None:
    recipe = tiny_recipe()
    training = networks(module, recipe, META)
    with Operations() as seen:
        train_step(training, batch_of(some_images(recipe).to(META), recipe, 0, META), recipe)
    assert {"convolution_backward", "avg_pool2d_backward"} <= seen.names
    assert not seen.names & UNORDERED


class Repeats:
    """A recorder without a GPU: what is captured is not run then, and run as a whole each time."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def run(self, work: Callable[[], None]) -> None:
        self.calls.append("run")
        work()

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        self.calls.append("capture")
        return work


def trained(
    training: Training, recipe: Recipe, images: ImageSet, steps: Sequence[int], one_step: Step | None = None
) -> list[dict[str, float]]:
    """The losses of steps, as the training loop makes them unless `one_step` is given."""
    device = training.stopwatch.device
    one_step = one_step or step_of(training, recipe, device)
    found = []
    with switches(recipe, device):
        for step in steps:
            reseed(STEP_STREAM, 0, step)
            found.append(one_step(batch_of(images, recipe, step, device)))
    return [{name: float(loss) for name, loss in losses.items()} for losses in found]


def test_a_captured_step_reads_each_batch_and_gives_losses_that_stay() -> None:
    recipe = tiny_recipe("loss.perceptual=0", "loss.style=0")
    images, recorder, steps = some_images(recipe), Repeats(), range(WARM_UP + 3)
    plain = trained(networks("sga", recipe, torch.device("cpu")), recipe, images, steps)
    training = networks("sga", recipe, torch.device("cpu"))
    graphed = GraphedStep(partial(train_step, training, recipe=recipe), recorder)
    captured = trained(training, recipe, images, steps, graphed)
    assert captured == plain
    assert recorder.calls == ["run"] * WARM_UP + ["capture"]


@pytest.mark.parametrize("module", MODULES)
def test_a_step_on_a_gpu_never_waits(gpu: torch.device, module: str) -> None:
    recipe = tiny_recipe("train.precision=bfloat16", "train.channels_last=true")
    training, images = networks(module, recipe, gpu), some_images(recipe).to(gpu)
    for step in range(2):
        train_step(training, batch_of(images, recipe, step, gpu), recipe)
    try:
        with warnings.catch_warnings(action="ignore"):  # the first call in a process warns that not all waits are noticed
            torch.cuda.set_sync_debug_mode("error")
        train_step(training, batch_of(images, recipe, 2, gpu), recipe)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("changes", [(), ("train.precision=bfloat16", "train.channels_last=true")], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("module", IN_ORDER)
def test_training_that_is_resumed_on_a_gpu_is_bit_for_bit_that_which_was_not_interrupted(
    gpu: torch.device, module: str, changes: tuple[str, ...]
) -> None:
    recipe = tiny_recipe(*changes)
    images = some_images(recipe).to(gpu)
    undisturbed, resumed = (networks(module, recipe, gpu) for _ in range(2))
    trained(undisturbed, recipe, images, range(2))
    saved = io.BytesIO()
    torch.save(undisturbed.state_dict(), saved)
    saved.seek(0)
    resumed.load_state_dict(torch.load(saved, weights_only=True))
    assert trained(resumed, recipe, images, range(2, 6)) == trained(undisturbed, recipe, images, range(2, 6))
    for name, value in undisturbed.generator.state_dict().items():
        assert torch.equal(value, resumed.generator.state_dict()[name]), name


@pytest.mark.parametrize("module", MODULES)
def test_a_step_captured_on_a_gpu_gives_the_losses_of_one_that_is_not(gpu: torch.device, module: str) -> None:
    recipe = tiny_recipe("train.precision=bfloat16", "train.channels_last=true")
    images, steps = some_images(recipe).to(gpu), range(WARM_UP + 4)
    plain = trained(networks(module, recipe, gpu), recipe, images, steps)
    graphed = recipe.model_copy(update={"train": recipe.train.model_copy(update={"cuda_graph": True})})
    captured = trained(networks(module, graphed, gpu), graphed, images, steps)
    for got, wanted in zip(captured, plain, strict=True):
        assert got == pytest.approx(wanted, rel=5e-3)  # learning rates are in float32 there


CAPTURE_A_WAIT = """
import torch
from attnbench.data.batches import Batch
from attnbench.training.cuda_graph import CUDARecorder, GraphedStep

def waits(batch):
    return {"generator": batch.target.sum() * float(batch.target.mean())}

step = GraphedStep(waits, CUDARecorder(torch.device("cuda")))
before = torch.cuda.current_stream()
try:
    for _ in range(9):
        step(Batch(*(torch.ones(2, device="cuda") for _ in range(3))))
except Exception as error:
    print(type(error).__name__, error, torch.cuda.current_stream() == before)
"""


def test_a_step_that_waits_cannot_be_captured_and_is_told_so(gpu: torch.device, python: runs.Python) -> None:
    said = python("-c", CAPTURE_A_WAIT).stdout  # in a process of its own: a capture that fails leaves traces in it
    assert said.startswith("UserError a step cannot be captured as a CUDA graph (")
    assert said.strip().endswith("): pass --set train.cuda_graph=false True")
