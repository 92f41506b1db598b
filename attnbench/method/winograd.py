"""3x3 convolutions with 16 products where the definition has 36: Winograd's minimal filtering F(2x2, 3x3).

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, section 4.1. With a 4x4 tile d of the input,
which overlaps its neighbours by two, and a 3x3 filter g, a 2x2 tile of the output is

    Y = A^T [ sum over channels of (G g G^T) * (B^T d B) ] A

where `*` is element by element: over all tiles and channels, sixteen matrix products. On GPUs cuDNN chooses such algorithms
itself; PyTorch on a CPU does not. There, the sixteen products of a residual block at 256 px take half the time of its
convolutions, and are closer to the exact result, having shorter sums.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEWEST_CHANNELS = 256  # input and output channels
FEWEST_TILES = 256  # of the whole batch; below either bound the transforms cost what the products save
_G = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))
_A_T = ((1.0, 1.0, 1.0, 0.0), (0.0, 1.0, -1.0, -1.0))


class Conv3x3(nn.Conv2d):
    """A 3x3 convolution with stride 1 and padding 1: by Winograd's algorithm where that is faster, else PyTorch's.

    Args:
        channels_in, channels_out: as in `nn.Conv2d`.
    """

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__(channels_in, channels_out, 3, padding=1)
        self.plain = False  # True: always PyTorch's

    def forward(self, x: Tensor) -> Tensor:
        if not self._pays(x):
            return super().forward(x)
        assert self.bias is not None
        return winograd(x, self.weight) + self.bias.view(-1, 1, 1)

    def _pays(self, x: Tensor) -> bool:
        if self.plain or x.device.type != "cpu" or x.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
            return False
        batch, _, height, width = x.shape
        tiles = batch * height * width / 4
        even = height % 2 == width % 2 == 0
        return even and tiles >= FEWEST_TILES and min(self.in_channels, self.out_channels) >= FEWEST_CHANNELS


def winograd(x: Tensor, weight: Tensor) -> Tensor:
    """(B, C, H, W) with even H and W, (O, C, 3, 3) -> (B, O, H, W), zero padding of 1."""
    (batch, channels, height, width), out = x.shape, len(weight)
    g, a_t = (torch.tensor(matrix, dtype=x.dtype, device=x.device) for matrix in (_G, _A_T))
    filters = (torch.kron(g, g) @ weight.reshape(out * channels, 9).mT).view(16, out, channels)
    products = filters @ _tiles(x)  # (16, O, tiles)
    pixels = (torch.kron(a_t, a_t) @ products.view(16, -1)).view(2, 2, out, batch, height // 2, width // 2)
    return pixels.permute(3, 2, 4, 0, 5, 1).reshape(batch, out, height, width)


def _tiles(x: Tensor) -> Tensor:
    """B^T d B of every tile: (B, C, H, W) -> (16, C, B H/2 W/2)."""
    channels, height, width = x.shape[1:]
    padded = F.pad(x.transpose(0, 1), (1, 1, 1, 1))
    rows = [padded[:, :, i : i + height - 1 : 2] for i in range(4)]
    transformed: list[Tensor] = []
    for row in _filtered(*rows):
        transformed += _filtered(*(row[..., j : j + width - 1 : 2] for j in range(4)))
    return torch.stack(transformed).view(16, channels, -1)


def _filtered(d0: Tensor, d1: Tensor, d2: Tensor, d3: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """B^T d, along one axis of the tiles."""
    return d0 - d2, d1 + d2, d2 - d1, d1 - d3
