"""The parts of pictures whose colours can be compared with those of the right answers.

A part of a picture counts if its right colour can be known, and seen:

- its reference shows it, too, on at least MIN_SHARE of its pixels, and on one: nobody can take a colour from what is not there;
- its sketch shows it on at least MIN_PIXELS pixels that are no lines.

Lines, see `line_art`, belong to no part: they are dark whatever colours a picture gets. A picture of
which no part counts scores what the right answer scores, since nothing in it is known to be wrong; `left_out` counts them.

Colours are CIELAB (D65) of sRGB, differences CIEDE2000: Sharma, Wu and Dalal, "The CIEDE2000 Color-Difference Formula:
Implementation Notes, Supplementary Test Data, and Mathematical Observations", 2005.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from skimage.color import deltaE_ciede2000, rgb2lab
from torch import Tensor

from attnbench.errors import NotMeasurable
from attnbench.metrics.line_art import sketch_lines
from attnbench.metrics.pictures import Pictures

USES = ("answers", "parts", "reference_parts", "sketch")  # what metrics of parts cannot do without
MIN_SHARE = 0.002  # 8 pixels of 64 x 64
MIN_PIXELS = 4
NO_PART = -1


@dataclass(frozen=True)
class Regions:
    """Where the P parts of N pictures are.

    Attributes:
        labels: (N, S, S): the part that a pixel belongs to; NO_PART on lines and in parts that do not count.
        counted: (N, P) bool: the parts that count.
        lacking: how many parts sketches show and their references lack.
        too_small: of how many others sketches show too few pixels.
    """

    labels: np.ndarray
    counted: np.ndarray
    lacking: int
    too_small: int


def regions_of(pictures: Pictures) -> Regions:
    """The regions of the pictures, found once for all metrics.

    Raises:
        NotMeasurable: not one part counts.
    """
    regions = pictures.once("regions", lambda: _regions(pictures))
    if not regions.counted.any():
        raise NotMeasurable("no reference shows a part of its sketch that is large enough")
    return regions


def _regions(pictures: Pictures) -> Regions:
    parts, names = pictures.parts.long().numpy(), pictures.part_names
    inside = np.where(sketch_lines(pictures).numpy(), NO_PART, parts)
    in_sketch, in_reference = _sizes(parts, len(names)) > 0, _shown(pictures)
    large = _sizes(inside, len(names)) >= MIN_PIXELS
    counted = in_sketch & in_reference & large
    lines_or_left_out = (inside == NO_PART) | ~_by_pixel(counted, parts)
    return Regions(
        labels=np.where(lines_or_left_out, NO_PART, parts),
        counted=counted,
        lacking=int((in_sketch & ~in_reference).sum()),
        too_small=int((in_sketch & in_reference & ~large).sum()),
    )


def shown_by_reference(pictures: Pictures) -> Tensor:
    """(N, S, S) bool: where the sketch shows a part that its reference shows, too; lines are of the part that they bound."""
    return torch.from_numpy(_by_pixel(_shown(pictures), pictures.parts.long().numpy()))


def left_out(regions: Regions) -> dict[str, int]:
    """For the record: parts that count, that references lack, that are too small; and pictures of which no part counts."""
    counted, no_part = int(regions.counted.sum()), int((~regions.counted.any(1)).sum())
    return {"counted": counted, "lacking": regions.lacking, "too_small": regions.too_small, "no_part": no_part}


def lab_of(pictures: Pictures, name: str) -> np.ndarray:
    """(N, S, S, 3) float32: `generated` or `answers` in CIELAB, converted once for all metrics."""

    def converted() -> np.ndarray:
        images = getattr(pictures, name).permute(0, 2, 3, 1).numpy()
        return np.stack([rgb2lab(image).astype(np.float32) for image in images])  # one by one: in float64 all take much memory

    return pictures.once(("lab", name), converted)


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(...): CIEDE2000 of CIELAB colours, (..., 3) each, in float64."""
    a, b = np.broadcast_arrays(a.astype(np.float64), b.astype(np.float64))
    return np.asarray(deltaE_ciede2000(a, b))


def part_means(labels: np.ndarray, values: np.ndarray, parts: int) -> np.ndarray:
    """(P, ...): the mean of the pixels of each part; 0 for one without pixels.

    Args:
        labels: (S, S) of one picture, NO_PART where a pixel does not count.
        values: (S, S, ...).
    """
    inside = labels != NO_PART
    of_pixel, columns = labels[inside], values.reshape(*labels.shape, -1)[inside].T
    sums = np.stack([np.bincount(of_pixel, column, minlength=parts) for column in columns], axis=-1)  # in float64
    sizes = np.maximum(np.bincount(of_pixel, minlength=parts), 1)
    return (sums / sizes[:, None]).reshape(parts, *values.shape[2:])


def mean_colours(pictures: Pictures, name: str) -> np.ndarray:
    """(N, P, 3): the mean CIELAB colour of each part in `generated` or `answers`; of no meaning where it does not count."""
    regions, images = regions_of(pictures), lab_of(pictures, name)
    parts = regions.counted.shape[1]
    return np.stack([part_means(labels, lab, parts) for labels, lab in zip(regions.labels, images, strict=True)])


def over_parts(values: np.ndarray, counted: np.ndarray, right: float) -> np.ndarray:
    """(N,): the mean over a picture's parts that count, each as much as any other; `right` for a picture without any.

    Args:
        values: (N, P).
        right: what the right answer scores.
    """
    means = (values * counted).sum(1) / np.maximum(counted.sum(1), 1)
    return np.where(counted.any(1), means, right)


def over_pictures(values: np.ndarray, counted: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """The mean of each part over the pictures in which it counts, to two digits; without parts that count nowhere."""
    found = zip(names, values.T, counted.T, strict=True)
    return {name: round(float(column[where].mean()), 2) for name, column, where in found if where.any()}


def _shown(pictures: Pictures) -> np.ndarray:
    """(N, P) bool: the parts that references show."""
    parts = pictures.reference_parts.long().numpy()
    return _sizes(parts, len(pictures.part_names)) >= max(1, MIN_SHARE * parts[0].size)


def _sizes(labels: np.ndarray, parts: int) -> np.ndarray:
    """(N, P): the pixels of each part."""
    return np.stack([np.bincount(one[one != NO_PART], minlength=parts) for one in labels])


def _by_pixel(of_parts: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(N, S, S): for each pixel what (N, P) says of its part."""
    return np.stack([one[parts] for one, parts in zip(of_parts, labels, strict=True)])
