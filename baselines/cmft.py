"""CMFT: colours by analogy, matched without a learned projection.

Paper: "Line Art Correlation Matching Feature Transfer Network for Automatic Animation Colorization", WACV 2021,
arXiv 2004.06718. Its full text was not at hand: this follows its summary, and its equation 6 as others quote it. With query,
key and value tokens, (B, n, C), (B, m, C), (B, m, C):

    A   = softmax_j(Q_i . K_j)                      (B, n, m)   no projection, no scale
    W   = A V                                       (B, n, C)
    out = X + W                                     (B, n, C)

The defaults, Q = X = f_s and K = V = Y = f_r, are the CMFT row of the comparison (Table 2). The module then has no parameters.

Equation 6 matches line art with line art, an image analogy: the sketch is to the reference's own drawing as the result is to
the reference. Its query and key each join the features of a line-art and of a colour encoder. This backbone has one encoder
for line art, so `key_source=reference_sketch` is Q = f_s, K = E_s(XDoG(I_r)), drawn at the network's size, at the middle sigma.

The authors published no code. An unofficial one multiplies channel by channel, without a sum over channels, and takes exp
without subtracting the maximum; both are read as slips here: products are summed, and the softmax is stable. Whether features
are centred and normalised first could not be verified: `normalize=center_l2` does it, with a temperature, without which
cosines over hundreds of keys are nearly uniform.

Our choices, since SGA's authors published no code of their CMFT row: X is added to what was transferred (`fuse=concat1x1` has
a learned mix of both), and one level is matched, the bottleneck. The paper matches at several levels of its decoder, with the
decoder's features in the query. Here a module gives f_gen and nothing else, so `levels=3` (16, 32 and 64 positions a side at
256 px) matches the layers e7, e8 and e5, e6 at their own resolutions, averages what they transfer down to f_gen's, and puts it
in place of those layers' channels: the way in which the encoders make f_s of their layers.

`stop_gradient=true` is SGA's question to this module: A, on every level, passes no gradient. The result is the same.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnbench import Attention, Context, Encoded, branch, no_autocast, observe

from .cocosnet import unit_vectors

TAU = 0.01


class CMFT(nn.Module):
    """CMFT, WACV 2021: unprojected dot-product matching, added to the sketch features.

    (B, C, h, w), (B, C, h, w) -> (B, C, h, w).

    Args:
        channels: C.
        key_source: what the sketch is matched with, `reference` or `reference_sketch`: the line art of the reference.
        normalize: `none`, or `center_l2`: unit vectors, centred over channels, with a temperature.
        tau: that temperature.
        fuse: `add`, or `concat1x1`: a 1x1 convolution of [X, W].
        levels: how many levels of the encoders are matched at their own resolutions, from the bottleneck up.
        stop_gradient: block the gradient through the attention maps.
    """

    def __init__(
        self,
        channels: int,
        *,
        key_source: Literal["reference", "reference_sketch"] = "reference",
        normalize: Literal["none", "center_l2"] = "none",
        tau: float = TAU,
        fuse: Literal["add", "concat1x1"] = "add",
        levels: int = 1,
        stop_gradient: bool = False,
    ):
        super().__init__()
        if key_source not in ("reference", "reference_sketch"):
            raise ValueError(f"key_source={key_source!r}: expected reference or reference_sketch")
        if normalize not in ("none", "center_l2"):
            raise ValueError(f"normalize={normalize!r}: expected none or center_l2")
        if not tau > 0:
            raise ValueError(f"tau={tau!r}: expected a number above 0")
        if tau != TAU and normalize == "none":
            raise ValueError(f"tau={tau!r} needs normalize=center_l2")
        if fuse not in ("add", "concat1x1"):
            raise ValueError(f"fuse={fuse!r}: expected add or concat1x1")
        if levels < 1:
            raise ValueError(f"levels={levels!r}: expected 1 or more")
        self.key_source = key_source
        self.normalize = normalize
        self.tau = tau
        self.levels = levels
        self.stop_gradient = stop_gradient
        self.mix = nn.Conv2d(2 * channels, channels, 1) if fuse == "concat1x1" else None

    def forward(self, sketch: Tensor, reference: Tensor, context: Context | None = None) -> Tensor:
        if context is None and (self.levels > 1 or self.key_source == "reference_sketch"):
            raise ValueError("levels > 1 and key_source=reference_sketch need the context that the backbone gives")
        drawing = context.draw_reference() if context and self.key_source == "reference_sketch" else None
        skip, query = branch(sketch, "skip", "query")
        value, key = value_and_key(reference, drawing.feature if drawing else None)
        warped = self.transfer(query, key, value)
        if context and self.levels > 1:
            warped = self.refine(warped, context, drawing)
        return skip + warped if self.mix is None else self.mix(torch.cat([skip, warped], 1))

    def transfer(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """W, (B, C, h, w), from maps (B, D, h, w), (B, D, h', w'), (B, C, h', w')."""
        attention = self.attention(query, key)
        observe("attention", attention.map)
        warped = attention.apply(value.flatten(2).mT).mT
        return warped.reshape(*value.shape[:2], *query.shape[-2:]).to(value.dtype)

    def attention(self, query: Tensor, key: Tensor) -> Attention:
        """A, (B, n, m)."""
        if self.normalize == "none":
            return Attention(query.flatten(2).mT, key.flatten(2).mT, stop_gradient=self.stop_gradient)
        with no_autocast(query):
            vectors = (unit_vectors(x) for x in (query, key))
            return Attention(*vectors, temperature=self.tau, stop_gradient=self.stop_gradient)

    def refine(self, warped: Tensor, context: Context, drawing: Encoded | None) -> Tensor:
        """Put what finer levels transfer, averaged down, in place of their layers' channels in `warped`."""
        sketch, reference = context.sketch.layers, context.reference.layers
        if 2 * self.levels > len(sketch):
            raise ValueError(f"levels={self.levels}: the encoders have {len(sketch) // 2}")
        widths = [layer.shape[1] for layer in sketch]
        parts = list(warped.split(widths, 1))
        for level in range(1, self.levels):
            both = slice(len(sketch) - 2 * (level + 1), len(sketch) - 2 * level)  # the level's two layers
            (query,) = branch(torch.cat(sketch[both], 1), "query")
            value, key = value_and_key(torch.cat(reference[both], 1), torch.cat(drawing.layers[both], 1) if drawing else None)
            finer = F.adaptive_avg_pool2d(self.transfer(query, key, value), (warped.shape[-2], warped.shape[-1]))
            parts[both] = finer.split(widths[both], 1)
        return torch.cat(parts, 1)


def value_and_key(reference: Tensor, drawing: Tensor | None) -> tuple[Tensor, Tensor]:
    """The reference in both roles, or the key from its drawing."""
    if drawing is None:
        value, key = branch(reference, "value", "key")
    else:
        (value,), (key,) = branch(reference, "value"), branch(drawing, "key")
    return value, key
