"""The shared colorization network: SCFT's, as the released code of "Eliminating Gradient Conflict in Reference-based Line-Art
Colorization" (ECCV 2022, arXiv 2207.06095) builds it.

    sketch (B, 1, S, S)    --E_s-->  f_s (B, C, h, w), skips e1..e9
    reference (B, 3, S, S) --E_r-->  f_r (B, C, h, w)
    f_gen = M(f_s, f_r)                  the correspondence module: the only part that differs between the rows of a table
    r     = R4(R3(R2(R1(f_gen)))) + f_gen
    image = Dec([r, f_gen], skips)       (B, 3, S, S) in [-1, 1]

With the defaults S = 256, C = 992, h = w = 16. Layers have PyTorch's default initialisation, as in the released code.
Convolutions before a batch norm keep their (redundant) bias, so that parameter counts match the released code's.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from attnbench.method.resampling import average_to, doubled
from attnbench.method.winograd import Conv3x3

SLOPE = 0.2  # of every LeakyReLU


def conv_block(channels_in: int, channels_out: int, stride: int = 1, *, spectral: bool = False) -> nn.Sequential:
    """3x3 convolution, batch norm, LeakyReLU ("CBL")."""
    conv = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1)
    return nn.Sequential(
        spectral_norm(conv) if spectral else conv, nn.BatchNorm2d(channels_out), nn.LeakyReLU(SLOPE, inplace=True)
    )


def level_widths(width: int, levels: int) -> list[int]:
    """Channels of each resolution: `width`, doubled at each level."""
    return [width * 2**level for level in range(levels)]


def feature_channels(width: int = 16, levels: int = 5) -> int:
    """C, the channels of f_s and f_r: both layers of every level, concatenated (992 by default)."""
    return 2 * sum(level_widths(width, levels))


@dataclass(frozen=True)
class Encoded:
    """An encoder's output for a batch of images.

    Attributes:
        image: (B, 1 or 3, S, S) in [-1, 1].
        feature: f_s or f_r, (B, C, h, w).
        layers: the outputs of all layers, [e1, ..., e(2*levels)], finest level first; the feature is made of these.
    """

    image: Tensor
    feature: Tensor
    layers: list[Tensor]


@dataclass(frozen=True)
class Context:
    """Inputs beyond f_s and f_r, for a module whose `forward` has a third parameter named `context`.

    Attributes:
        sketch, reference: what each encoder was given, and the outputs of all its layers.
        shows: (B, S, S, 2) float32: the place in the sketch that each pixel of the reference shows, (x, y) in shares of its
            sides; outside of [0, 1] where it shows the border beyond the sketch's edge, also one that mirrors it. Known where
            the reference is the sketch's own original, warped: in training, and in evaluation under `references: same` and
            `marked`; else None. It is the right answer, which no method has: for bounds, and for studies of what a module
            learns.
    """

    sketch: Encoded
    reference: Encoded
    encode_drawing: Callable[[Tensor], Encoded]
    shows: Tensor | None = None

    def draw_reference(self) -> Encoded:
        """The sketch encoder's output for the reference's own line art: XDoG at the network's size.

        Each call adds one forward of the encoder, and in training one update of its running statistics.
        """
        return self.encode_drawing(self.reference.image)


def wants_context(module: nn.Module) -> bool:
    """Whether the module's `forward` has a parameter named `context`."""
    return "context" in inspect.signature(module.forward).parameters


class Encoder(nn.Module):
    """Two conv blocks per level; the first block of every level but the finest has stride 2.

    The feature is the outputs of all layers, averaged down to the last one's size and concatenated in order, without
    projection or normalisation.
    """

    average_to = staticmethod(average_to)  # replaced in the benchmark's released step, as the decoder's `doubled` is

    def __init__(self, channels_in: int, width: int = 16, levels: int = 5):
        super().__init__()
        blocks, previous = [], channels_in
        for level, channels in enumerate(level_widths(width, levels)):
            blocks += [conv_block(previous, channels, 1 if level == 0 else 2), conv_block(channels, channels)]
            previous = channels
        self.blocks = nn.ModuleList(blocks)

    def forward(self, image: Tensor) -> Encoded:
        x, layers = image, []
        for block in self.blocks:
            x = block(x)
            layers.append(x)
        size = (x.shape[-2], x.shape[-1])
        return Encoded(image, torch.cat([self.average_to(layer, *size) for layer in layers], dim=1), layers)


class ResidualBlock(nn.Module):
    """x + BN(conv(ReLU(BN(conv(x))))), no activation after the addition."""

    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(
            Conv3x3(channels, channels),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            Conv3x3(channels, channels),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Decoder(nn.Module):
    """U-net decoder over [r, f_gen] with skips from the sketch encoder.

    Level by level from the coarsest: the first block takes the level's stride-1 output (at the coarsest, the decoder's
    input in place of e10), the second the level's first output; between levels the map is doubled bilinearly
    (align_corners=True).
    """

    doubled = staticmethod(doubled)

    def __init__(self, channels_in: int, width: int = 16, levels: int = 5):
        super().__init__()
        widths = level_widths(width, levels)
        blocks, previous = [], channels_in
        for level in reversed(range(levels)):
            channels = widths[level]
            skip = 0 if level == levels - 1 else channels
            blocks += [conv_block(previous + skip, channels), conv_block(2 * channels, channels)]
            previous = channels
        self.blocks = nn.ModuleList(blocks)
        self.to_image = nn.Conv2d(previous, 3, 3, padding=1)

    def forward(self, x: Tensor, skips: Sequence[Tensor]) -> Tensor:
        """Args: x (B, 2C, h, w); skips [e1, ..., e(2*levels)] of the sketch encoder. Returns (B, 3, S, S) in [-1, 1]."""
        firsts, seconds = skips[0::2], skips[1::2]
        levels = len(firsts)
        for i, (block_a, block_b) in enumerate(zip(self.blocks[0::2], self.blocks[1::2], strict=True)):
            level = levels - 1 - i
            if i > 0:
                skip = seconds[level]
                x = torch.cat([skip, _fit(self.doubled(x), skip)], dim=1)
            x = block_a(x)
            x = block_b(torch.cat([x, firsts[level]], dim=1))
        return torch.tanh(self.to_image(x))


def _fit(x: Tensor, like: Tensor) -> Tensor:
    """Zero-pad, or crop, to the height and width of `like`: doubling is a row or column off for odd sizes."""
    height, width = like.shape[-2] - x.shape[-2], like.shape[-1] - x.shape[-1]
    return F.pad(x, (0, width, 0, height)) if height or width else x


class Colorizer(nn.Module):
    """The generator: the shared backbone around one correspondence module.

    Args:
        module: maps (f_s, f_r), both (B, C, h, w), to f_gen of the same shape; if its `forward` has a parameter `context`, it
            also gets a `Context`.
        width, levels: of both encoders and the decoder; C = `feature_channels(width, levels)`.
        residual_blocks: blocks between the module and the decoder.
        draw: line art (B, 1, S, S) from images (B, 3, S, S), both in [-1, 1]; for modules that use the reference's.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        width: int = 16,
        levels: int = 5,
        residual_blocks: int = 4,
        draw: Callable[[Tensor], Tensor] | None = None,
    ):
        super().__init__()
        channels = feature_channels(width, levels)
        self.sketch_encoder = Encoder(1, width, levels)
        self.reference_encoder = Encoder(3, width, levels)
        self.module = module
        self.residual = nn.Sequential(*[ResidualBlock(channels) for _ in range(residual_blocks)])
        self.decoder = Decoder(2 * channels, width, levels)
        self.draw = draw
        self.wants_context = wants_context(module)

    def forward(self, sketch: Tensor, reference: Tensor, shows: Tensor | None = None) -> Tensor:
        """Args: sketch (B, 1, S, S), reference (B, 3, S, S), in [-1, 1], white = 1; shows (B, S, S, 2), see `Context`. Returns
        (B, 3, S, S) in [-1, 1]."""
        encoded, other = self.sketch_encoder(sketch), self.reference_encoder(reference)
        if self.wants_context:
            context = Context(encoded, other, self._encode_drawing, shows)
            f_gen = self.module(encoded.feature, other.feature, context=context)
        else:
            f_gen = self.module(encoded.feature, other.feature)
        r = self.residual(f_gen) + f_gen
        return self.decoder(torch.cat([r, f_gen], dim=1), encoded.layers)

    def _encode_drawing(self, image: Tensor) -> Encoded:
        if self.draw is None:
            raise ValueError("this Colorizer cannot draw its references: it was built without `draw`")
        return self.sketch_encoder(self.draw(image))


class Discriminator(nn.Module):
    """Patch discriminator on [image, sketch] (4 channels): spectral and batch norm in every block, then one score per patch.

    (B, 3, S, S), (B, 1, S, S) -> (B, 1, S/2^layers, S/2^layers); a patch sees 63 x 63 pixels at the default of four layers.
    """

    def __init__(self, width: int = 16, layers: int = 4):
        super().__init__()
        widths = [4, *level_widths(width, layers)]
        self.blocks = nn.Sequential(
            *[conv_block(a, b, 2, spectral=True) for a, b in pairwise(widths)],
            nn.Conv2d(widths[-1], 1, 3, padding=1),
        )

    def forward(self, image: Tensor, sketch: Tensor) -> Tensor:
        return self.blocks(torch.cat([image, sketch], dim=1))


def merge_two_batch_norm_updates(model: nn.Module) -> None:
    """Make one training forward move the running statistics as two equal forwards would: momentum m -> 1 - (1 - m)^2.

    The released code runs the generator twice on every batch, unchanged in between; one run with a momentum of 0.19 instead of
    0.1 is enough.
    """
    for layer in model.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.momentum is not None:
            layer.momentum = 1 - (1 - layer.momentum) ** 2


def count_parameters(model: nn.Module) -> int:
    """The number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
