"""The pictures of docs/colorize.md: heads that the generator has not seen, drawn in several ways and coloured.

python docs/gallery/make.py CELL        # a finished cell of `attnbench run --recipe demo --datasets synthetic`
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from attnbench.colorization.line_art import extracted
from attnbench.config.recipe import Sketch
from attnbench.data.synthetic import draw

HERE = Path(__file__).parent
OTHER_HEADS = 1  # the seed of the heads here; those of the dataset have seed 0
HEIGHT = 180


def main(cell: str) -> None:
    """Write every picture of the page beside this file."""
    with TemporaryDirectory() as folder:
        inputs = Path(folder)
        lines = {index: extracted(draw(OTHER_HEADS, index, 512), (512, 512), Sketch(sigma=(0.5,))) for index in range(8)}
        colours = inputs / "colours"
        colours.mkdir()
        for index in range(8, 13):
            draw(OTHER_HEADS, index, 384).save(colours / f"{index}.png")
        drawings = {
            "ink": (lines[0], []),
            "pencil": (pencil(lines[1]).crop((0, 60, 512, 400)), []),
            "chalk": (ImageOps.invert(lines[2]).crop((90, 0, 430, 512)), []),
            "picture": (draw(OTHER_HEADS, 3, 600), ["--extract"]),
        }
        for (name, (drawing, options)), reference in zip(drawings.items(), sorted(colours.iterdir()), strict=False):
            drawing.save(inputs / f"{name}.png")
            sides = colorize(cell, inputs / f"{name}.png", reference, inputs / f"{name}.out.png", "--side-by-side", *options)
            beside([drawing, sides]).save(HERE / f"{name}.webp", quality=80)
        many = inputs / "many"
        many.mkdir()
        for reference in colours.iterdir():
            lines[4].save(many / reference.name)
        colorize(cell, many, colours, inputs / "coloured")
        found = [[Image.open(file) for file in sorted(place.iterdir())] for place in (colours, inputs / "coloured")]
        rows = [beside([lines[4], *row], 120) for row in found]
        stacked = Image.new("RGB", (rows[0].width, 2 * rows[0].height + 4), "white")
        for y, row in enumerate(rows):
            stacked.paste(row, (0, y * (row.height + 4)))
        stacked.save(HERE / "references.webp", quality=80)


def pencil(lines: Image.Image) -> Image.Image:
    """Soft grey on off-white, grainy paper that is darker to the right."""
    ink = 1 - np.asarray(lines.filter(ImageFilter.GaussianBlur(0.8)), float)[..., None] / 255
    shade = np.linspace(0, 14, lines.width)[None, :, None] + np.random.default_rng(0).normal(0, 4, (*ink.shape[:2], 1))
    paper = np.array([240.0, 234, 220]) - shade
    return Image.fromarray((paper + ink * (np.array([110, 110, 118]) - paper)).clip(0, 255).astype(np.uint8))


def colorize(cell: str, sketch: Path, reference: Path, output: Path, *options: str) -> Image.Image:
    """What the command writes beside the result, if that is a file."""
    command = ["attnbench", "colorize", "-m", cell, "-s", sketch, "-r", reference, "-o", output, *options]
    subprocess.run(command, check=True)
    sides = output.with_name(f"{output.stem}.side-by-side.png")
    return Image.open(sides) if sides.is_file() else Image.new("RGB", (1, 1))


def beside(pictures: list[Image.Image], height: int = HEIGHT) -> Image.Image:
    """In a row, all of one height."""
    tiles = [picture.convert("RGB").resize((round(picture.width * height / picture.height), height)) for picture in pictures]
    row = Image.new("RGB", (sum(tile.width + 4 for tile in tiles) - 4, height), "white")
    for index, tile in enumerate(tiles):
        row.paste(tile, (sum(other.width + 4 for other in tiles[:index]), 0))
    return row


if __name__ == "__main__":
    main(sys.argv[1])
