"""None: the reference is not looked at. The floor of every comparison.

    f_gen = f_s                                             (B, C, h, w)

Residual blocks, decoder and losses are those of every other module, and so is the reference's encoder, which nothing trains:
no gradient reaches it. What is coloured then is the network's own guess at a sketch's colours, whatever the reference.

What a metric says of this row is what it owes to the backbone. A module's own share is its distance from here. A metric by
which this row is not below the others does not see what they add, if they add anything.
"""

from __future__ import annotations

from torch import Tensor, nn

from attnbench import branch


class NoReference(nn.Module):
    """The sketch's features alone, without parameters: the floor.

    (B, C, h, w), (B, C, h, w) -> (B, C, h, w).

    Args:
        channels: C.
    """

    no_gradient = ("reference",)

    def __init__(self, channels: int):
        super().__init__()

    def forward(self, sketch: Tensor, reference: Tensor) -> Tensor:
        (f_gen,) = branch(sketch, "skip")
        return f_gen
