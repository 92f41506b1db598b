"""Winograd's algorithm computes the convolution that it replaces."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attnbench.method import winograd as algorithm
from attnbench.method.backbone import ResidualBlock
from attnbench.method.winograd import Conv3x3, winograd


def values(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype).requires_grad_()


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 5, 2, 6), (3, 1, 4, 2)])
def test_values_and_gradients_are_those_of_the_convolution(shape: tuple[int, int, int, int]) -> None:
    x, weight = values(*shape), values(4, shape[1], 3, 3)
    wanted, got = F.conv2d(x, weight, padding=1), winograd(x, weight)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)
    arriving = values(*wanted.shape).detach()
    for a, b in zip(*(torch.autograd.grad(y, (x, weight), arriving) for y in (got, wanted)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_in_float32_it_is_as_close_to_the_exact_result_as_the_convolution() -> None:
    x, weight = values(4, 64, 8, 8, dtype=torch.float32), values(64, 64, 3, 3, dtype=torch.float32)
    exact = F.conv2d(x.double(), weight.double(), padding=1)
    errors = [(y - exact).abs().max() / exact.abs().max() for y in (winograd(x, weight), F.conv2d(x, weight, padding=1))]
    assert errors[0] < 4 * errors[1] + 1e-7


def test_a_block_takes_it_where_maps_are_large_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[torch.Size] = []

    def counted(x: Tensor, weight: Tensor) -> Tensor:
        calls.append(x.shape)
        return winograd(x, weight)

    monkeypatch.setattr(algorithm, "winograd", counted)
    block = ResidualBlock(algorithm.FEWEST_CHANNELS).eval()
    with torch.no_grad():
        block(torch.zeros(4, algorithm.FEWEST_CHANNELS, 16, 16))
        assert len(calls) == 2
        block(torch.zeros(3, algorithm.FEWEST_CHANNELS, 16, 16))  # too few tiles
        block(torch.zeros(8, algorithm.FEWEST_CHANNELS, 16, 15))  # odd
        with torch.autocast("cpu", torch.bfloat16):
            block(torch.zeros(4, algorithm.FEWEST_CHANNELS, 16, 16))
        ResidualBlock(algorithm.FEWEST_CHANNELS - 1).eval()(torch.zeros(4, algorithm.FEWEST_CHANNELS - 1, 16, 16))
    assert len(calls) == 2


def test_the_layer_is_a_convolution_to_its_weights_and_to_what_counts_operations() -> None:
    layer, plain = Conv3x3(3, 4), torch.nn.Conv2d(3, 4, 3, padding=1)
    assert layer.state_dict().keys() == plain.state_dict().keys()
    plain.load_state_dict(layer.state_dict())
    x = values(2, 3, 5, 5, dtype=torch.float32)
    assert torch.equal(layer(x), plain(x))
