"""LPIPS: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from attnbench import weights
from attnbench.metrics.against import ANSWER, ORIGINAL, REFERENCE, checked, compared, title_of, uses_of
from attnbench.metrics.pictures import Pictures

NETWORKS = ("alex", "vgg", "squeeze")


class LPIPS:
    """Perceptual distance between a picture and the sketch's own original; 0 for equal pictures, seldom above 1.

    It sees what an image classifier's features see: texture, objects, and colour where it changes these.

    Against the reference, as the SGA paper's released code has it, a picture is compared with one of another outline: a copy
    of the reference has 0, and the right answer has not. It is to be read beside a metric that sees whether a picture keeps
    its sketch, which `companion` names.

    Args:
        network: alex, vgg or squeeze. Numbers of different networks are different quantities.
        against: original; answer: the sketch in the reference's colours, where the dataset knows it; or reference.
    """

    decimals, lower_is_better, per_image = 3, True, True
    range, needs, added_options = (0, None), ("lpips-{network}",), ("against",)
    settings: ClassVar = {"lpips_network": "network"}
    packages = ("lpips",)

    def __init__(self, *, network: str = "alex", against: str = "original"):
        if network not in NETWORKS:
            raise ValueError(f"network={network}: expected one of {', '.join(NETWORKS)}")
        self.network, self.against = network, checked(against, (ORIGINAL, ANSWER, REFERENCE))
        self.uses, self.symmetric = uses_of(against), against == ORIGINAL

    @property
    def companion(self) -> str:
        return "outline" if self.against == REFERENCE else ""

    @property
    def title(self) -> str:
        return title_of(f"LPIPS-{self.network}", self.against)

    @staticmethod
    def networks() -> list[weights.Weights]:
        from torchvision import models

        urls = {
            "alex": models.AlexNet_Weights.IMAGENET1K_V1.url,
            "vgg": models.VGG16_Weights.IMAGENET1K_V1.url,
            "squeeze": models.SqueezeNet1_1_Weights.IMAGENET1K_V1.url,
        }
        return [weights.Weights(f"lpips-{name}", "LPIPS", url) for name, url in urls.items()]

    def measure(self, pictures: Pictures) -> np.ndarray:
        distance = PerceptualDistance(self.network).to(pictures.device)
        return pictures.scores(distance, *compared(pictures, self.against))


class PerceptualDistance(nn.Module):
    """The reference implementation's networks (package `lpips`, version 0.1 of its weights) for uint8 images.

    With channels last in memory, and each layer's features overwritten by their normalised difference, it takes half the
    reference's time on a CPU.

    Args:
        network: alex, vgg or squeeze.

    Raises:
        weights.MissingWeights: the network's ImageNet weights are not on this machine and cannot be downloaded.
    """

    def __init__(self, network: str = "alex"):
        import lpips

        super().__init__()
        path = weights.find_or_download(f"lpips-{network}")
        with weights.quiet_libraries():
            self.distance = lpips.LPIPS(net=network, pnet_rand=True, verbose=False)
        # The package numbers its slices' layers as torchvision does: slice2.3.weight is features.3.weight.
        state = weights.load_state(path)
        backbone = self.distance.net.state_dict()
        self.distance.net.load_state_dict({name: state[f"features.{name.split('.', 1)[1]}"] for name in backbone})
        self.requires_grad_(False).eval().to(memory_format=torch.channels_last)

    @torch.no_grad()
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Args: a, b (B, 3, H, W) uint8. Returns (B,), 0 for equal images."""
        total = a.new_zeros(len(a), dtype=torch.float32)
        for features_a, features_b, weight in zip(self._features(a), self._features(b), self.distance.lins, strict=True):
            difference = _normalized(features_a).sub_(_normalized(features_b))  # (B, C, h, w)
            total += weight(difference.square_()).mean((1, 2, 3))
        return total

    def _features(self, images: Tensor) -> Sequence[Tensor]:
        """The features of every layer, (B, C, h, w)."""
        images = images.to(memory_format=torch.channels_last).float() / 127.5 - 1
        return self.distance.net(self.distance.scaling_layer(images))


def _normalized(features: Tensor) -> Tensor:
    """Scaled to length 1 at each position; 1e-10 as in the reference implementation."""
    return features / (torch.linalg.vector_norm(features, dim=1, keepdim=True) + 1e-10)
