"""Sample grids: what the generator makes of fixed test pairs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

TITLES = ("sketch", "reference", "generated", "original")
_TITLE_HEIGHT, _GAP, _SMALLEST = 16, 4, 128


def sample_grid(columns: Sequence[Tensor], titles: Sequence[str] = TITLES) -> Image.Image:
    """One row a pair, one titled column each.

    Args:
        columns: (N, 1 or 3, S, S) uint8, on the CPU. Images under 128 pixels are enlarged by a whole factor.
    """
    count, _, side, _ = columns[0].shape
    scale = max(1, _SMALLEST // side)
    cell = side * scale + _GAP
    grid = Image.new("RGB", (len(columns) * cell - _GAP, count * cell - _GAP + _TITLE_HEIGHT), "white")
    draw = ImageDraw.Draw(grid)
    for x, (column, title) in enumerate(zip(columns, titles, strict=True)):
        draw.text((x * cell + 2, 2), title, fill="black")
        for y, image in enumerate(column):
            array = image.expand(3, -1, -1).permute(1, 2, 0).numpy()
            tile = Image.fromarray(np.ascontiguousarray(array)).resize((side * scale,) * 2, Image.Resampling.NEAREST)
            grid.paste(tile, (x * cell, y * cell + _TITLE_HEIGHT))
    return grid
