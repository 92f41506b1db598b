"""Oracle: the reference's features, taken from where the known warp says. What a perfect map would be worth.

In training, and in evaluation under `references: same`, the reference is the sketch's own original, warped, and the backbone
knows which place of the sketch each of its pixels shows: `context.shows`. With p over the pixels of the reference, and cells
i of f_s and j of f_r,

    N_ij = number of pixels p in cell j of the reference that show a place in cell i of the sketch     (B, n, m)
    A    = N_ij / sum_k N_ik,  0 where the reference shows nothing of cell i                           (B, n, m)
    out  = f_s + A f_r                                                                                 (B, C, h, w)

This is CMFT's sum (cmft.py) with the map replaced by the true one, as far as a map between cells can be true. There are no
parameters, and no gradient through A. What CMFT lacks of this row, under `same`, is what its map lacks; modules with values of
their own, or another fusion, may lack less. PCK's own bound is its `ceiling`: it asks for the cell's middle, and A holds all of
the cell, so that it misses some where the warp folds, or shrinks the picture.

Of a reference that is another image, nothing is known. In evaluation (`cross`, or a colorization) the module then does what
none.py does, f_gen = f_s, and says so, which stands below tables: it was never trained so, and its numbers there bound nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attnbench import Context, branch, observe, warn


class Oracle(nn.Module):
    """The true map under a known warp: what a perfect correspondence is worth; of other references, it sees nothing.

    (B, C, h, w), (B, C, h, w) -> (B, C, h, w).

    Args:
        channels: C.
    """

    def __init__(self, channels: int):
        super().__init__()

    def forward(self, sketch: Tensor, reference: Tensor, context: Context | None = None) -> Tensor:
        (skip,), (value,) = branch(sketch, "skip"), branch(reference, "value")
        if context is None or context.shows is None:
            if not self.training:  # training has no such references
                warn(UNKNOWN, once=True)
            return skip
        attention = true_map(context.shows, sketch.shape[-2:], reference.shape[-2:])
        observe("attention", attention)
        warped = attention.to(value.dtype) @ value.flatten(2).mT  # (B, n, C)
        return skip + warped.mT.reshape(sketch.shape)


UNKNOWN = "the oracle looked at no reference, since it is not known what these show of their sketches: f_gen = f_s"


@torch.no_grad()
def true_map(shows: Tensor, sketch: torch.Size, reference: torch.Size) -> Tensor:
    """A, (B, n, m) float32.

    Args:
        shows: (B, H, W, 2): the place in the sketch that each pixel of the reference shows, (x, y) in shares of its sides.
        sketch, reference: heights and widths of f_s and f_r.
    """
    (h, w), (rows, columns) = sketch, reference
    n, m = h * w, rows * columns
    batch, height, width, _ = shows.shape
    column, row = (shows[..., 0] * w).floor().long(), (shows[..., 1] * h).floor().long()
    inside = (column >= 0) & (column < w) & (row >= 0) & (row < h)
    here = (row * w + column).where(inside, n)  # after the last cell: what the sketch does not have
    down, across = (
        (2 * torch.arange(side, device=shows.device) + 1) * cells // (2 * side)  # of the pixels' middles
        for side, cells in ((height, rows), (width, columns))
    )
    there = down[:, None] * columns + across  # (H, W)
    # Sorted and counted, since adding up by index has no fixed order on a GPU.
    pixels = (here * m + there).int().flatten(1).sort(-1).values  # (B, H W), each the number of its pair of cells
    pairs = torch.arange(n * m + 1, device=shows.device, dtype=torch.int32).repeat(batch, 1)
    counts = torch.searchsorted(pixels, pairs, out_int32=True).diff(dim=-1).view(batch, n, m).float()
    return counts / counts.sum(-1, keepdim=True).clamp_min(1)
