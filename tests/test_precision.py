"""Switches of precision: what they hold, and what is told where they cannot be set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.parametrize import ParametrizationList
from torch.overrides import TorchFunctionMode

from attnbench.config.recipe import load_recipe
from attnbench.errors import UserError
from attnbench.method import matrix_product
from attnbench.method.backbone import Discriminator
from attnbench.method.losses import style_loss
from attnbench.method.matrix_product import product
from attnbench.method.precision import PreciseParametrization, keep_parametrizations_precise, sums_in_fixed_order, tf32
from attnbench.training.state import assemble
from attnbench_baselines.spade import SPADE

MATMUL, CUDNN = torch.backends.cuda.matmul, torch.backends.cudnn


@pytest.fixture
def switches() -> Iterator[None]:
    """They are as they were after the test."""
    before = MATMUL.allow_tf32, CUDNN.allow_tf32
    yield
    MATMUL.allow_tf32, CUDNN.allow_tf32 = before


@pytest.fixture
def allowed_in_products(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each product was made with TF32 allowed."""
    seen: list[bool] = []

    @contextmanager
    def watched(convolutions: bool | None, allowed: bool | None) -> Iterator[None]:
        with tf32(convolutions, allowed):
            seen.append(MATMUL.allow_tf32)
            yield

    monkeypatch.setattr(matrix_product, "tf32", watched)
    return seen


def layers(seed: int) -> list[Tensor]:
    source = torch.Generator().manual_seed(seed)
    return [torch.rand(2, 3, 4, 4, generator=source).requires_grad_(seed == 1)]


@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize("gram", ["joint", "per_sample"])
def test_both_products_of_a_gram_matrix_may_be_rounded_if_the_recipe_says_so(
    switches: None, allowed_in_products: list[bool], gram: str, allowed: bool, outside: bool
) -> None:
    MATMUL.allow_tf32 = outside
    style_loss(layers(1), layers(2), gram=gram, gram_tf32=allowed).backward()
    assert allowed_in_products == [allowed, allowed]
    assert MATMUL.allow_tf32 == outside


def test_rounding_gram_products_to_tf32_changes_gradients_ten_times_less_than_bfloat16_does() -> None:
    """Ten bits of the factors, as the hardware keeps them, instead of seven."""

    def rounded(x: Tensor, bits: int) -> Tensor:
        mantissa, exponent = torch.frexp(x)
        return torch.ldexp((mantissa * 2**bits).round() / 2**bits, exponent)

    a, b = (torch.rand(32, 4096, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))

    def gradient(bits: int) -> Tensor:
        gram = rounded(a + b, bits) @ rounded(a - b, bits).mT
        sign = (gram + gram.mT).sign()
        return rounded(sign, bits) @ rounded(a, bits)

    exact = gradient(24)
    error = {bits: float((gradient(bits) - exact).norm() / exact.norm()) for bits in (8, 11)}
    assert error[11] < 5e-3
    assert error[8] > 4 * error[11]


@pytest.mark.parametrize("shapes", [((3, 4), (4, 5)), ((2, 3, 4), (2, 4, 5)), ((3, 4), (2, 4, 5))])
def test_the_product_is_a_matrix_product_on_every_device(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    a, b = (torch.rand(shape) for shape in shapes)
    assert torch.equal(product(a, b, True), a @ b)
    assert product(a.to("meta"), b.to("meta"), True).shape == (a @ b).shape


@pytest.mark.parametrize(("name", "newer", "value"), [("cuda.matmul", MATMUL, "tf32"), ("cudnn", CUDNN.conv, "ieee")])
def test_newer_switches_that_somebody_has_set_are_named(switches: None, name: str, newer: Any, value: str) -> None:
    MATMUL.allow_tf32, CUDNN.allow_tf32 = False, True  # PyTorch's defaults
    newer.fp32_precision = value
    with pytest.raises(UserError, match=rf"by fp32_precision, .*: set torch.backends.{name}.allow_tf32 instead"), tf32(True):
        raise AssertionError("not reached")


def test_sums_in_fixed_order_hold_within_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CUDNN, "deterministic", False)
    monkeypatch.setattr(CUDNN, "benchmark", True)
    with pytest.raises(KeyError), sums_in_fixed_order():
        assert (CUDNN.deterministic, CUDNN.benchmark) == (True, False)
        raise KeyError
    assert (CUDNN.deterministic, CUDNN.benchmark) == (False, True)


class Iterations(TorchFunctionMode):
    """Notes whether autocast is on at each product of a weight and a vector, as a spectral norm's iteration makes them."""

    def __init__(self) -> None:
        super().__init__()
        self.autocast: list[bool] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.mv:
            self.autocast.append(torch.is_autocast_enabled("cpu"))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("network", "inputs"),
    [
        (Discriminator(4, 2), (torch.rand(2, 3, 16, 16), torch.rand(2, 1, 16, 16))),
        (SPADE(8, variant="resblk"), (torch.rand(2, 8, 4, 4), torch.rand(2, 8, 4, 4))),
    ],
    ids=["discriminator", "SPADE"],
)
def test_spectral_norms_are_iterated_without_autocast(network: torch.nn.Module, inputs: tuple[Tensor, Tensor]) -> None:
    """On a GPU, autocast takes these products to bfloat16."""
    for wanted in (True, False):
        with torch.autocast("cpu", torch.bfloat16), Iterations() as seen:
            network(*inputs)
        assert set(seen.autocast) == {wanted}
        keep_parametrizations_precise(network)


def test_both_networks_of_a_cell_are_precise() -> None:
    training = assemble(partial(SPADE, variant="resblk"), load_recipe("demo"), 0, torch.device("cpu"), None)
    for network in (training.generator, training.discriminator):
        parts = [part for part in network.modules() if isinstance(part, ParametrizationList)]
        assert parts
        assert all(isinstance(part, PreciseParametrization) for part in parts)


def test_networks_are_precise_however_they_are_copied_and_have_the_names_that_they_had() -> None:
    network = Discriminator(4, 2)
    names = network.state_dict().keys()
    keep_parametrizations_precise(network)
    copied = deepcopy(network)
    with torch.no_grad():
        for weight in network.parameters():
            weight.zero_()
    assert copied.state_dict().keys() == names
    assert copied(torch.rand(1, 3, 16, 16), torch.rand(1, 1, 16, 16)).std() > 0
    keep_parametrizations_precise(copied)
