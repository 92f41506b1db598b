"""Colour jitter of the training images (paper section 3.1 asks for "a random color jittering"), by kind:

official        what the released code computes: noise from U(-1, 1) on the 0..255 scale, added and truncated to integers. Every
                value v >= 1 becomes v or v - 1 with equal odds, 0 stays 0. No colour changes.
channel_shift   one draw from U(-50, 50) for each channel, added and clipped: the noise that the SCFT paper describes.
color_jitter    brightness, contrast, saturation and hue within 0.05, 0.2, 0.4, 0.4, in this order (torchvision's definitions).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from attnbench.devices import send

CHANNEL_SHIFT = 50.0
COLOR_JITTER = (0.05, 0.2, 0.4, 0.4)


def jitter(images: Tensor, kind: str, rngs: Sequence[np.random.Generator]) -> Tensor:
    """Args: images (B, 3, H, W) uint8; one random generator per image. Returns the same shape and type."""
    if kind == "none":
        return images
    return {"official": _official, "channel_shift": _channel_shift, "color_jitter": _color_jitter}[kind](images, rngs)


def _official(images: Tensor, rngs: Sequence[np.random.Generator]) -> Tensor:
    size = images[0].numel()
    packed = np.stack([np.frombuffer(rng.bytes((size + 7) // 8), np.uint8) for rng in rngs])
    coins = send(torch.from_numpy(packed), images.device)[..., None] >> torch.arange(8, device=images.device) & 1
    coins = coins.flatten(1)[:, :size].view_as(images).to(torch.uint8)
    return images - torch.minimum(coins, images)


def _channel_shift(images: Tensor, rngs: Sequence[np.random.Generator]) -> Tensor:
    shift = np.stack([rng.uniform(-CHANNEL_SHIFT, CHANNEL_SHIFT, size=3) for rng in rngs])
    shifted = images + send(torch.from_numpy(shift).float(), images.device)[..., None, None]
    return shifted.round().clamp(0, 255).to(torch.uint8)


def _color_jitter(images: Tensor, rngs: Sequence[np.random.Generator]) -> Tensor:
    return torch.stack([_color_jitter_one(image, rng) for image, rng in zip(images, rngs, strict=True)])


def _color_jitter_one(image: Tensor, rng: np.random.Generator) -> Tensor:
    from torchvision.transforms.v2 import functional as tv  # its import takes as long as torch's

    draws = [float(rng.uniform(-strength, strength)) for strength in COLOR_JITTER]
    image = tv.adjust_brightness(image, 1 + draws[0])
    image = tv.adjust_contrast(image, 1 + draws[1])
    image = tv.adjust_saturation(image, 1 + draws[2])
    return tv.adjust_hue(image, draws[3])
