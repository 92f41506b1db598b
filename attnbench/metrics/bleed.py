"""Whether colours end where parts do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_dilation, distance_transform_edt

from attnbench.metrics.line_art import sketch_lines
from attnbench.metrics.metric import Score
from attnbench.metrics.parts import MIN_PIXELS, NO_PART, USES, difference, lab_of, left_out, part_means, regions_of
from attnbench.metrics.pictures import Pictures

WIDTH = 1 / 16  # of the band beside a border, as a share of the picture's side
APART = 10.0  # distance in CIELAB below which the colours of two neighbours are too much alike to see one in the other


class Bleed:
    """How much of a neighbour's colour stands beside the borders of parts, in percent; in [0, 100], 0 for the right answer.

    Each part has one colour, the mean in CIELAB of its pixels away from borders. In a band a sixteenth of the picture wide, of
    each pixel the difference from the right answer, after its part's mean colour has been set right, is projected on the way
    from its part's colour to that of its neighbour: 0 % where nothing of that has come over, 100 % where the neighbour's
    colour stands. The mean of a picture, from 0 upwards, is its score. The parts' own colours count, right ones or wrong, so
    that the score does not depend on `match`; what goes in no direction, such as noise, cancels out.

    It sees colours that run over the edge of a part or stop short of it, and blur. It does not see whether colours are right,
    nor what happens under a line, or in parts that are all band, as eyes are. A picture without colours has nothing that could
    run over, and scores 0: read it beside `match`. Recorded with it: the mean CIEDE2000 in the band and inside of the parts,
    `band` and `inside`, and how many pictures have no border to look at, `no_border`.
    """

    title, unit, decimals, lower_is_better, per_image = "bleed", "%", 1, True, True
    range, uses, packages = (0, 100), USES, ("scikit-image",)

    def measure(self, pictures: Pictures) -> Score:
        regions = regions_of(pictures)
        lines = sketch_lines(pictures).numpy()
        labels = [clear_of_lines(*pair) for pair in zip(regions.labels, lines, strict=True)]
        rows = zip(labels, pictures.parts.numpy(), lab_of(pictures, "generated"), lab_of(pictures, "answers"), strict=True)
        found = [bleeding(*row, count=regions.counted.shape[1]) for row in rows]
        seen = [one for one in found if one is not None]
        means = {name: round(float(np.mean([getattr(one, name) for one in seen])), 2) for name in ("band", "inside") if seen}
        details = {**means, "no_border": len(found) - len(seen), **left_out(regions)}
        return Score(np.array([one.percent if one else 0.0 for one in found]), details)


@dataclass(frozen=True)
class Bleeding:
    """What a picture has of its neighbours' colours beside borders, and its mean CIEDE2000 there and inside of parts."""

    percent: float
    band: float
    inside: float


def bleeding(labels: np.ndarray, parts: np.ndarray, made: np.ndarray, right: np.ndarray, *, count: int) -> Bleeding | None:
    """Of one picture; None if it has no border between two parts that have an inside and colours of their own.

    Args:
        labels: (S, S): the part of each pixel that counts, else NO_PART.
        parts: (S, S): the part of each pixel.
        made, right: (S, S, 3) CIELAB.
        count: how many parts there are.
    """
    width = max(1, round(labels.shape[0] * WIDTH))
    distance, neighbours = nearest_others(parts)
    inside = np.where(distance > width, labels, NO_PART)
    has_inside = np.bincount(inside[inside != NO_PART], minlength=count) >= MIN_PIXELS  # (P,)
    colours = part_means(inside, made, count)  # (P, 3)
    shift = colours - part_means(inside, right, count)
    ways = colours[None] - colours[:, None]  # (P, P, 3): from a part's colour to another's
    lengths = np.linalg.norm(ways, axis=-1)
    differ = has_inside[:, None] & has_inside[None] & (lengths >= APART)
    band = (labels != NO_PART) & (distance <= width) & differ[labels, neighbours]
    if not band.any():
        return None
    own, other = labels[band], neighbours[band]
    error = made[band] - right[band] - shift[own]  # (pixels, 3)
    come_over = (error * ways[own, other]).sum(-1) / lengths[own, other] ** 2
    deep = inside != NO_PART
    return Bleeding(
        percent=100 * min(max(float(come_over.mean()), 0.0), 1.0),
        band=float(difference(made[band], right[band] + shift[own]).mean()),
        inside=float(difference(made[deep], right[deep] + shift[inside[deep]]).mean()),
    )


def clear_of_lines(labels: np.ndarray, lines: np.ndarray) -> np.ndarray:
    """(S, S): the labels without the pixels next to a line, half ink in the answer, which no shift of colour sets right."""
    return np.where(binary_dilation(lines, np.ones((3, 3))), NO_PART, labels)


def nearest_others(parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far the nearest pixel of another part is, and which part that is: (S, S) each; inf and 0 if there is but one part."""
    distances, neighbours = np.full(parts.shape, np.inf), np.zeros(parts.shape, int)
    found = np.unique(parts)
    for part in found if len(found) > 1 else ():
        mine = parts == part
        distance, (row, column) = distance_transform_edt(mine, return_indices=True)
        distances[mine], neighbours[mine] = distance[mine], parts[row, column][mine]
    return distances, neighbours
