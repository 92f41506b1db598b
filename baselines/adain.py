"""AdaIN: the reference's statistics, channel by channel, without correspondence.

Paper: "Arbitrary Style Transfer in Real-time with Adaptive Instance Normalization", ICCV 2017, arXiv 1703.06868, section 5,
equation 8. With mean mu and deviation sigma of each channel over the positions of one sample, (B, C, 1, 1):

    out = sigma(f_r) (f_s - mu(f_s)) / sigma(f_s) + mu(f_r)      (B, C, h, w),   sigma(x) = sqrt(var(x) + 1e-5)

There are no parameters. What the reference gives is 2 C numbers, the same at every position: how much of which colour it has,
and not where. What a module with a map gains over this row is what the map is worth.

The paper puts the layer between a pretrained VGG and a decoder that learns to invert it; here the encoders learn, too, and the
skips from the sketch's encoder give the decoder the lines that normalisation may take from f_s. The variance is over n
positions, where some codes divide by n - 1: at a single position it is 0, and out = mu(f_r).
"""

from __future__ import annotations

from torch import Tensor, nn

from attnbench import at_least_float32, branch

EPSILON = 1e-5  # under the root


class AdaIN(nn.Module):
    """Adaptive instance normalisation, ICCV 2017: each channel gets the reference's mean and deviation.

    (B, C, h, w), (B, C, h, w) -> (B, C, h, w).

    Args:
        channels: C.
    """

    def __init__(self, channels: int):
        super().__init__()

    def forward(self, sketch: Tensor, reference: Tensor) -> Tensor:
        (content,), (style,) = branch(sketch, "content"), branch(reference, "style")
        mean, deviation = statistics(content)
        new_mean, new_deviation = statistics(style)
        normalized = (at_least_float32(content) - mean) / deviation
        return (new_deviation * normalized + new_mean).to(sketch.dtype)


def statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    """mu and sigma of each channel, (B, C, 1, 1) each, from (B, C, h, w), in at least float32."""
    wide = at_least_float32(features)
    variance, mean = wide.var((2, 3), correction=0, keepdim=True), wide.mean((2, 3), keepdim=True)
    return mean, (variance + EPSILON).sqrt()
