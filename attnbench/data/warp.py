"""The thin-plate spline (TPS) that turns an image into its own reference.

    out(x) = in(x + a_0 + A x + sum_i w_i U(|x - d_i|)),   U(r) = r^2 log(r + 1e-6)

The offset (source - destination) is interpolated at the control points' destinations d_i, with the side conditions of a TPS.
Coordinates are (x, y) in [0, 1]^2. Of the two kinds, `official` is what the released code of arXiv 2207.06095 does: four fixed
corners and two points on the main diagonal that move along it, a strong and purely diagonal warp.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from attnbench.devices import send

CORNERS = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], dtype=np.float64)
_PADDING = {"constant": "zeros", "replicate": "border", "reflect": "reflection"}


def official_points(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw control points: sources (6, 2), destinations (6, 2). Redrawn while the two moved points coincide."""
    while True:
        place = np.round(rng.uniform(0.3, 0.7, size=2), 2)
        shift = np.round(rng.uniform(-0.25, 0.25, size=2), 2)
        moved = np.round(place + shift, 2)  # rounded again: 0.3 + 0.1 and 0.25 + 0.15 are one point
        if moved[0] != moved[1]:
            break
    on_diagonal = [np.stack([along, along], axis=1) for along in (place, moved)]
    return np.concatenate([CORNERS, on_diagonal[0]]), np.concatenate([CORNERS, on_diagonal[1]])


def grid_points(rng: np.random.Generator, points: int, magnitude: float) -> tuple[np.ndarray, np.ndarray]:
    """A `points` x `points` lattice, each point displaced by U(-magnitude, magnitude) along both axes; two (points^2, 2)."""
    axis = np.linspace(0, 1, points)
    sources = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    return sources, sources + rng.uniform(-magnitude, magnitude, size=sources.shape)


def tps_offsets(sources: Tensor, destinations: Tensor, height: int, width: int, device: torch.device | None = None) -> Tensor:
    """The backward map: the offset from each output position to the position that it samples.

    Args:
        sources, destinations: (B, K, 2) on the CPU, distinct destinations. The systems are small: solving them there, in
            float64, costs little and makes the warp the same on every device.
        device: where the map is evaluated.

    Returns:
        (B, height, width, 2) offsets in units of the image's sides, on the lattice linspace(0, 1) of both axes.
    """
    batch, count, _ = destinations.shape
    affine = torch.cat([torch.ones_like(destinations[..., :1]), destinations], dim=-1)  # (B, K, 3)
    system = destinations.new_zeros(batch, count + 3, count + 3)
    system[:, :count, :count] = _kernel(destinations, destinations)
    system[:, :count, count:] = affine
    system[:, count:, :count] = affine.mT
    values = torch.cat([sources - destinations, destinations.new_zeros(batch, 3, 2)], dim=1)
    device = destinations.device if device is None else device
    weights = send(torch.linalg.solve(system, values), device)  # (B, K + 3, 2)
    destinations = send(destinations, device)

    lattice = _lattice(height, width, destinations).view(1, -1, 2).expand(batch, -1, -1)
    basis = torch.cat([_kernel(lattice, destinations), torch.ones_like(lattice[..., :1]), lattice], dim=-1)
    return (basis @ weights).view(batch, height, width, 2)


def warp(images: Tensor, offsets: Tensor, *, border: str = "constant") -> Tensor:
    """Sample bicubically at lattice + offset.

    The lattice 0 .. 1 is stretched to 0 .. W pixels, not W - 1, as in the released code: even without offsets the image shrinks
    by up to a pixel, and with the black `constant` border its last row and column are black.

    Args:
        images: (B, C, H, W) in [0, 1].
        offsets: (B, H, W, 2) as from `tps_offsets`.
        border: constant (black), replicate or reflect.
    """
    _, _, height, width = images.shape
    place = (_lattice(height, width, offsets) + offsets).unbind(-1)
    # From pixels, place * side, to grid_sample's units with align_corners.
    where = torch.stack([2 * (along * side) / (side - 1) - 1 for along, side in zip(place, (width, height), strict=True)], -1)
    sampled = F.grid_sample(images, where.to(images.dtype), mode="bicubic", padding_mode=_PADDING[border], align_corners=True)
    return sampled.clamp(0, 1)


def places_shown(offsets: Tensor) -> Tensor:
    """What each pixel of a warped image shows: its place in the original, in shares of the sides, as `warp` samples it.

    Args:
        offsets: (B, H, W, 2) as from `tps_offsets`.

    Returns:
        (B, H, W, 2): (x, y); outside of [0, 1] where the border is shown.
    """
    height, width = offsets.shape[1:3]
    x, y = (_lattice(height, width, offsets) + offsets).unbind(-1)
    return torch.stack([x + 0.5 / width, y + 0.5 / height], dim=-1)  # the pixel's middle


def middles(height: int, width: int) -> Tensor:
    """(height, width, 2) float64: what each pixel of an image that is not warped shows, its own middle."""
    down, across = ((torch.arange(side, dtype=torch.float64) + 0.5) / side for side in (height, width))
    return torch.stack(torch.meshgrid(across, down, indexing="xy"), dim=-1)


def _lattice(height: int, width: int, like: Tensor) -> Tensor:
    """(H, W, 2): (x, y) of linspace(0, 1) along both axes."""
    x = torch.linspace(0, 1, width, dtype=like.dtype, device=like.device)
    y = torch.linspace(0, 1, height, dtype=like.dtype, device=like.device)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    """U of all distances, (B, N, 2), (B, K, 2) -> (B, N, K)."""
    distance = (a[:, :, None] - b[:, None]).norm(dim=-1)
    return distance**2 * torch.log(distance + 1e-6)
