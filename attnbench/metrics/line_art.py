"""Lines: of the sketch that was coloured, and of any picture, drawn as the recipe draws its sketches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from attnbench.config.recipe import Sketch
from attnbench.data.images import draw_sketches, sigma_index
from attnbench.metrics.pictures import Pictures

LINE = 128  # grey levels: what is darker is a line


def sketch_lines(pictures: Pictures) -> Tensor:
    """(N, S, S) bool: the lines of the sketches that were coloured."""
    return pictures.sketch[:, 0] < LINE


def lines_in(pictures: Pictures, images: Tensor) -> Tensor:
    """(N, S, S) bool: the lines of images, (N, 3, S, S) uint8, one for each sketch, drawn as its line art was."""
    drawn = pictures.draw
    rows = torch.arange(len(images)).split(16)
    return torch.cat([drawn(images[batch], batch.tolist())[:, 0] < LINE for batch in rows])


def drawn_by(sketch: Sketch, names: Sequence[str]) -> Callable[[Tensor, Sequence[int]], Tensor]:
    """XDoG with a recipe's constants, at the size of the images: (b, 3, S, S) uint8, rows -> (b, 1, S, S) uint8.

    Args:
        names: of the sketches; each sets the width of its lines, see `sigma_index`. Rows are places among them.
    """
    widths = torch.tensor([sketch.sigma[sigma_index(name, len(sketch.sigma))] for name in names])

    def draw(images: Tensor, rows: Sequence[int]) -> Tensor:
        drawn = draw_sketches(images.float() / 255, widths[list(rows)], sketch)
        return (drawn * 255).round().to(torch.uint8)

    return draw
