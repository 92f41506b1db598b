"""The best and the worst pair of each module by a metric: sketch, reference, what the module made, the right answer.

python docs/right-answers/pairs.py STORE DATASET [--metric match] [--output FILE]

STORE is a results folder whose cells have kept their pictures, DATASET as on the command line: synthetic:difficulty=2:test=200.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import pandas as pd
from PIL import Image, ImageDraw

import attnbench
from attnbench.data.layouts import Dataset
from attnbench.data.origin import parse_dataset
from attnbench.store.pictures import PairPictures

SIDE, GAP, TITLE = 96, 4, 16


def main(store: Path, dataset: Dataset, metric: str, output: Path) -> None:
    """Write one picture: a row for each module, the best pair on the left, the worst on the right."""
    frame = attnbench.results(store)
    cells = frame[(frame["dataset"] == dataset.name) & frame["elsewhere"].isna() & frame[metric].notna()]
    rows = [row_of(store / cell["folder"] / cell["measured"], dataset, metric, cell["label"]) for _, cell in cells.iterrows()]
    sheet = Image.new("RGB", (rows[0].width, (rows[0].height + GAP) * len(rows) - GAP), "white")
    for place, row in enumerate(rows):
        sheet.paste(row, (0, place * (row.height + GAP)))
    sheet.save(output, quality=85)


def row_of(measured: Path, dataset: Dataset, metric: str, label: str) -> Image.Image:
    """A module's two pairs, with their scores."""
    scores = pd.read_csv(measured / "pairs.csv")[metric]
    pictures = PairPictures(measured)
    row = Image.new("RGB", (8 * (SIDE + GAP) + 4 * GAP, TITLE + SIDE), "white")
    pen = ImageDraw.Draw(row)
    for half, place in enumerate((int(scores.idxmax()), int(scores.idxmin()))):
        left = half * (4 * (SIDE + GAP) + 4 * GAP)
        pen.text((left, 2), f"{label}: {'highest' if half == 0 else 'lowest'} {metric}, {scores[place]:.0f}", fill="black")
        for x, picture in enumerate(four(pictures, place, dataset)):
            row.paste(picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.NEAREST), (left + x * (SIDE + GAP), TITLE))
    return row


def four(pictures: PairPictures, place: int, dataset: Dataset) -> list[Image.Image]:
    """Sketch, reference, generated, and the right answer at the size of these."""
    assert dataset.answer is not None
    kinds = (pictures.sketch, pictures.reference, pictures.generated)
    shown = [Image.open(io.BytesIO(read(place))) for read in kinds]
    sketch, reference = (dataset.test[index] for index in pictures.pairs[place])
    return [*shown, dataset.answer(sketch, reference).resize(shown[0].size, Image.Resampling.LANCZOS)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("dataset")
    parser.add_argument("--metric", default="match")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "pairs.webp")
    asked = parser.parse_args()
    main(asked.store, parse_dataset(asked.dataset, None), asked.metric, asked.output)
