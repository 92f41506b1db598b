"""Maps made larger and smaller: PyTorch's results, from sums in a fixed order."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attnbench.method.resampling import average_to, doubled

SIZES = [(4, 4), (16, 16), (5, 7), (2, 1), (1, 6)]
FORMATS = [torch.contiguous_format, torch.channels_last]


def maps(height: int, width: int, dtype: torch.dtype = torch.float64, channels: int = 3) -> Tensor:
    source = torch.Generator().manual_seed(height)
    return torch.randn(2, channels, height, width, generator=source, dtype=torch.float64).to(dtype)


def value_and_gradient(function, x):
    x = x.clone().requires_grad_()
    out = function(x)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (out * weights).sum().backward()
    return out.detach(), x.grad


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_doubling_is_bilinear_with_aligned_corners_and_so_is_its_gradient(height, width, memory_format):
    x = maps(height, width).to(memory_format=memory_format)
    got = value_and_gradient(doubled, x)
    wanted = value_and_gradient(lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True), x)
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)
    assert got[0].stride() == wanted[0].stride()


def test_doubling_stays_in_bfloat16_under_autocast_where_pytorchs_own_leaves_it():
    x = maps(16, 16, torch.bfloat16).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        got = doubled(x)
    assert got.dtype == torch.bfloat16
    wanted = F.interpolate(x.double(), scale_factor=2, mode="bilinear", align_corners=True)
    assert (got - wanted).abs().max() < 2**-7 * wanted.abs().max()


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 8), (7, 9), (4, 4)])
def test_averages_are_those_of_adaptive_pooling_whether_or_not_the_sizes_divide(height, width, memory_format):
    x = maps(height, width).to(memory_format=memory_format)
    got = value_and_gradient(lambda x: average_to(x, 4, 4), x)
    wanted = value_and_gradient(lambda x: F.adaptive_avg_pool2d(x, (4, 4)), x)
    torch.testing.assert_close(got, wanted, rtol=1e-13, atol=1e-13)
