"""Oracle: the reference's features, taken from where the known warp says. The ceiling of correspondence.

In training, and in evaluation under `references: same`, the reference is the sketch's own original, warped, and the backbone
knows which place of the sketch each of its pixels shows: `context.shows`. With p over the pixels of the reference, and cells
i of f_s and j of f_r,

    N_ij = number of pixels p in cell j of the reference that show a place in cell i of the sketch     (B, n, m)
    A    = N_ij / sum_k N_ik,  0 where the reference shows nothing of cell i                           (B, n, m)
    out  = f_s + A f_r                                                                                 (B, C, h, w)

This is CMFT's sum (cmft.py) with the map replaced by the true one, as far as a map between cells can be true. There are no
parameters, and no gradient through A. What a module lacks of this row, under `same`, is what its map lacks.

Of a reference that is another image, nothing is known. In evaluation (`cross`, or a colorization) the module then does what
none.py does, f_gen = f_s, and says so in the log: it was never trained so, and its numbers there are no ceiling of anything.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

from attnbench import Context, branch, observe

log = logging.getLogger("attnbench")  # what the command line shows


class Oracle(nn.Module):
    """The reference's features where the known warp says; of other references, nothing: the ceiling of correspondence.

    (B, C, h, w), (B, C, h, w) -> (B, C, h, w).

    Args:
        channels: C.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.said = False

    def forward(self, sketch: Tensor, reference: Tensor, context: Context | None = None) -> Tensor:
        (skip,), (value,) = branch(sketch, "skip"), branch(reference, "value")
        if context is None or context.shows is None:
            self.say_that_the_warp_is_unknown()
            return skip
        attention = true_map(context.shows, sketch.shape[-2:], reference.shape[-2:])
        observe("attention", attention)
        warped = attention.to(value.dtype) @ value.flatten(2).mT  # (B, n, C)
        return skip + warped.mT.reshape(sketch.shape)

    def say_that_the_warp_is_unknown(self) -> None:
        """Once, in evaluation: training has no such references."""
        if not self.training and not self.said:
            self.said = True
            log.warning(UNKNOWN)


UNKNOWN = "oracle: what these references show of the sketch is not known, so it does what `none` does: f_gen = f_s"


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
    down = torch.arange(height, device=shows.device) * rows // height
    across = torch.arange(width, device=shows.device) * columns // width
    there = down[:, None] * columns + across  # (H, W)
    # Sorted and counted, since adding up by index has no fixed order on a GPU.
    pixels = (here * m + there).flatten(1).sort(-1).values  # (B, H W), each the number of its pair of cells
    pairs = torch.arange(n * m + 1, device=shows.device).repeat(batch, 1)
    counts = torch.searchsorted(pixels, pairs).diff(dim=-1).view(batch, n, m).float()
    return counts / counts.sum(-1, keepdim=True).clamp_min(1)
