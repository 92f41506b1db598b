"""LPIPS: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attnbench import weights


class LPIPS(nn.Module):
    """The reference implementation (package `lpips`, version 0.1 of its weights) for uint8 images.

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
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Args: a, b (B, 3, H, W) uint8. Returns (B,), 0 for equal images."""
        return self.distance(a.float() / 127.5 - 1, b.float() / 127.5 - 1).flatten()
