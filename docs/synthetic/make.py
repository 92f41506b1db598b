"""The pictures of docs/synthetic.md: heads of every difficulty, and right answers with their part maps.

python docs/synthetic/make.py [--output DIR]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from attnbench.colorization.line_art import extracted
from attnbench.config.recipe import Sketch
from attnbench.data.synthetic import DIFFICULTIES, PARTS, draw, palette, part_map

SIZE, GAP = 112, 4
PART_COLOURS = np.array(
    [
        (225, 225, 235),
        (60, 110, 200),
        (240, 200, 60),
        (250, 205, 175),
        (110, 70, 50),
        (40, 160, 120),
        (210, 60, 90),
        (120, 60, 180),
    ],
    np.uint8,
)
assert len(PART_COLOURS) == len(PARTS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    folder = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    rows = [[draw(0, index, SIZE, difficulty=difficulty) for index in range(8)] for difficulty in DIFFICULTIES]
    grid(rows).save(folder / "difficulties.webp", quality=85)
    grid([answered(sketch, sketch + 9, 1 + sketch % 4) for sketch in range(4)]).save(folder / "answers.webp", quality=85)


def answered(sketch: int, reference: int, difficulty: int) -> list[Image.Image]:
    """Line art, reference, the right answer, the sketch's own colours, its parts."""
    large = draw(0, sketch, 4 * SIZE, difficulty=difficulty)
    lines = extracted(large, large.size, Sketch(sigma=(0.5,))).convert("RGB").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    parts = Image.fromarray(PART_COLOURS[part_map(0, sketch, SIZE, difficulty=difficulty)])
    return [
        lines,
        draw(0, reference, SIZE, difficulty=difficulty),
        draw(0, sketch, SIZE, difficulty=difficulty, colors=palette(0, reference)),
        draw(0, sketch, SIZE, difficulty=difficulty),
        parts,
    ]


def grid(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Pictures in rows, with white between them."""
    step = SIZE + GAP
    sheet = Image.new("RGB", (step * len(rows[0]) - GAP, step * len(rows) - GAP), "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            sheet.paste(picture, (x * step, y * step))
    return sheet


if __name__ == "__main__":
    main()
