"""AdaIN, adaptive instance normalisation, and a mix of channels: the reference's style without its places.

Paper: "Arbitrary Style Transfer in Real-time with Adaptive Instance Normalization", ICCV 2017, arXiv 1703.06868, equation 8,
per sample and channel, on f_s and f_r, with mean and deviation over positions:

    Z = std(f_r) (f_s - mean(f_s)) / std(f_s) + mean(f_r)                     (B, C, h, w)
    out = (1 - strength) f_s + strength (W Z + b)                             W, b: a 1x1 convolution

No feature of the reference reaches a place of the sketch, only what all of its places have in common: what an attention module
gains over this is what correspondence is worth. The paper transfers fixed VGG features and has neither W nor b; here the
features are trained, and the 1x1 convolution, the identity at first, lets the module weigh channels.
"""

import torch
from torch import nn

from attnbench import at_least_float32, branch, no_autocast


class MixedAdaIN(nn.Module):
    """Adaptive instance normalisation, ICCV 2017, and a mix of channels: each takes the reference's mean and deviation.

    (B, C, h, w), (B, C, h, w) -> (B, C, h, w).

    Args:
        channels: C.
        strength: how much of the result is restyled, 0 to 1.
        deviation: transfer the deviation as well; without, only the mean.
        eps: added to the sketch's variance, so that constant channels stay finite, and to the reference's, so that its square
            root has a gradient there.
    """

    def __init__(self, channels: int, *, strength: float = 1.0, deviation: bool = True, eps: float = 1e-5):
        super().__init__()
        if not 0 <= strength <= 1:
            raise ValueError(f"strength={strength}: needs 0 to 1")
        self.strength = strength
        self.deviation = deviation
        self.eps = eps
        self.mix = nn.Conv2d(channels, channels, 1)
        nn.init.dirac_(self.mix.weight)
        nn.init.zeros_(self.mix.bias)

    def forward(self, sketch: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        (skip, content), (style,) = branch(sketch, "skip", "content"), branch(reference, "content")
        with no_autocast(sketch):
            mean_s, deviation_s = self.statistics(content)
            mean_r, deviation_r = self.statistics(style)
            centred = at_least_float32(content) - mean_s
            restyled = (centred * deviation_r / deviation_s if self.deviation else centred) + mean_r
        return torch.lerp(at_least_float32(skip), at_least_float32(self.mix(restyled)), self.strength).to(sketch.dtype)

    def statistics(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation over positions, (B, C, 1, 1) each, in float32 at least."""
        variance, mean = torch.var_mean(at_least_float32(features), dim=(2, 3), correction=0, keepdim=True)
        return mean, (variance + self.eps).sqrt()
