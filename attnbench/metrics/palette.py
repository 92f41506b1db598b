"""Whether a picture has its reference's colours, wherever they went: a sliced Wasserstein distance.

Rabin, Peyré, Delon and Bernot, "Wasserstein Barycenter and Its Application to Texture Mixing", SSVM 2011; with W1 in place of
W2^2. Of pixels a_1..a_n of the picture and b_1..b_m of the reference, colours in CIELAB (D65), and K = 64 directions t_k,

    distance = 1/K sum_k W1({a_i . t_k}, {b_j . t_k})
    W1(x, y) = integral over q in (0, 1) of |x's q-quantile - y's q-quantile|

W1 is exact, whatever n and m are. The directions are a Fibonacci lattice on the half-sphere (t and -t give the same), which is
spread evenly and is the same for everybody.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from skimage.color import rgb2lab

from attnbench.metrics.line_art import lines_in, sketch_lines
from attnbench.metrics.metric import Score
from attnbench.metrics.pictures import Pictures

DIRECTIONS = 64
MOST = 128  # pixels along a side: larger pictures are looked at on a lattice


class Palette:
    """How far a picture's colours are from its reference's, in CIELAB; from 0, for the same colours in the same amounts.

    The sliced Wasserstein-1 distance of the two sets of colours: how far colours have to move, on average over the pixels and
    over 64 directions, until one picture has those of the other. If all colours are off by a vector d, it is the mean of
    |d . t| over the directions t, half of d's length: there is no factor that would make up for it. Pixels on lines do not
    count: in the picture the lines of its sketch, in the reference those that XDoG draws in it. In a picture that is all lines,
    they count. Of pictures of more than 128 pixels a side every second, third, ... pixel counts, in both directions.

    It sees whether the colours are there in the right amounts, and nothing of where they are: a copy of the reference scores
    best, so it says something beside `outline` alone. A reference that shows more of a colour than the sketch has
    room for is out of reach for any colouring. Recorded with it is `original`, what the sketches' own originals have, whose
    colours owe nothing to the reference.
    """

    title, unit, decimals, lower_is_better, per_image = "palette", "ΔE", 1, True, True
    range, uses, packages = (0, None), ("sketch", "reference", "draw"), ("scikit-image",)
    companion = "outline"  # the metric without which no table shows it: copying the reference wins this one and loses that

    def measure(self, pictures: Pictures) -> Score:
        sketches, references = sketch_lines(pictures).numpy(), lines_in(pictures, pictures.reference).numpy()
        originals = pictures.wanted.numpy() if "wanted" in pictures.available else None
        scores, of_originals = [], []
        for row, (made, reference) in enumerate(zip(pictures.generated.numpy(), pictures.reference.numpy(), strict=True)):
            goal = sorted_shadows(colours(reference, references[row]))
            scores.append(distance(sorted_shadows(colours(made, sketches[row])), goal))
            if originals is not None:
                of_originals.append(distance(sorted_shadows(colours(originals[row], sketches[row])), goal))
        details: dict[str, Any] = {"original": round(float(np.mean(of_originals)), 2)} if of_originals else {}
        return Score(np.array(scores), details)


def colours(image: np.ndarray, lines: np.ndarray) -> np.ndarray:
    """(n, 3): CIELAB of the pixels that are no lines, on a lattice of at most MOST x MOST; of all of them if all are lines.

    Args:
        image: (3, S, S) uint8.
        lines: (S, S) bool.
    """
    step = -(-image.shape[-1] // MOST)
    lattice = (..., slice(step // 2, None, step), slice(step // 2, None, step))
    image, lines = image[lattice], lines[lattice]
    counted = np.ones_like(lines) if lines.all() else ~lines
    return np.asarray(rgb2lab(image[:, counted].T))


@cache
def directions() -> np.ndarray:
    """(DIRECTIONS, 3): unit vectors on the half-sphere of lighter colours, a Fibonacci lattice: equal steps of height, each
    turned by the golden angle.
    """
    step = np.arange(DIRECTIONS)
    height = (step + 0.5) / DIRECTIONS
    angle, radius = step * np.pi * (3 - 5**0.5), np.sqrt(1 - height**2)
    return np.stack([height, radius * np.cos(angle), radius * np.sin(angle)], axis=-1)


def sorted_shadows(points: np.ndarray) -> np.ndarray:
    """(DIRECTIONS, n): where points, (n, 3), lie along each direction, in ascending order."""
    return np.sort(directions() @ points.T, axis=-1)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """The mean over directions of W1.

    Quantiles of n points change at 1/n, 2/n, ..., those of m at 1/m, 2/m, ...; between two such places both are constant. They
    are the same places for all directions, and whole numbers in units of 1/(n m).

    Args:
        a, b: (DIRECTIONS, n) and (DIRECTIONS, m), sorted.
    """
    n, m = a.shape[-1], b.shape[-1]
    if n == m:
        return float(np.abs(a - b).mean())
    ends = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)
    starts = np.concatenate([[0], ends[:-1]])
    apart = np.abs(a[:, starts // m] - b[:, starts // n])  # (DIRECTIONS, pieces)
    return float((apart @ ((ends - starts) / (n * m))).mean())
