"""Marks in a warped reference: two coloured discs, whose colours change places between the two pictures of a pair.

Whatever makes a picture of a sketch and the marked reference, the difference between its two pictures is where it takes the
marks to be in the sketch. A method that adopts the reference's colours as a whole makes no difference: both references have
the same ones.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

COLOURS = ((1.0, 0.0, 1.0), (0.0, 1.0, 0.0))  # magenta and green, the ends of a diagonal of the RGB cube
RADIUS = 1 / 16  # of a disc, as a share of the picture's side
APART = 0.3  # between the two discs at least, in the reference and in the sketch
_DRAWS = 1000


def mark_places(shown: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two places for marks, each well inside of the reference and of the sketch, and apart in both.

    Of so many draws the first that has all this; under a warp that leaves no such two places, the ones that come nearest to it.

    Args:
        shown: (S, S, 2), what each pixel of the reference shows of the sketch, see `warp.places_shown`.

    Returns:
        Their places in the reference, and in the sketch: (2, 2) each, (x, y) in shares of the sides.
    """
    side = len(shown)
    best, found = -np.inf, None
    for _ in range(_DRAWS):
        pixels = rng.integers(side, size=(2, 2))  # (x, y) of each
        there, here = (pixels + 0.5) / side, shown[pixels[:, 1], pixels[:, 0]]
        inside = min(min(places.min(), 1 - places.max()) for places in (there, here)) / RADIUS
        apart = min(np.linalg.norm(places[0] - places[1]) for places in (there, here)) / APART
        if min(inside, apart) > best:
            best, found = min(inside, apart), (there, here)
        if best >= 1:
            break
    assert found is not None
    return found


def with_marks(images: Tensor, places: Tensor, swapped: Tensor) -> Tensor:
    """The images with two discs each.

    Args:
        images: (B, 3, S, S) in [0, 1].
        places: (B, 2, 2), (x, y) of the discs' middles in shares of the sides.
        swapped: (B,) bool: whether the first disc is green and the second magenta, instead of the other way round.
    """
    side = images.shape[-1]
    middles = (torch.arange(side, device=images.device, dtype=places.dtype) + 0.5) / side
    y, x = torch.meshgrid(middles, middles, indexing="ij")
    colours = torch.tensor(COLOURS, dtype=images.dtype, device=images.device)
    for disc in (0, 1):
        across, down = (places[:, disc, axis, None, None] for axis in (0, 1))
        inside = (x - across) ** 2 + (y - down) ** 2 <= RADIUS**2  # (B, S, S)
        colour = colours[(swapped.long() + disc) % 2]  # (B, 3)
        images = torch.where(inside[:, None], colour[:, :, None, None], images)
    return images
