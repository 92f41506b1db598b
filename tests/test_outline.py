"""Outlines, held to a naive loop, to closed forms, and to what on drawings they answer to and what not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from attnbench import Pictures
from attnbench.config.recipe import Data
from attnbench.contract.distortions import blurred, noisy, recoloured, shifted, swapped
from attnbench.data.images import PreparedDataset
from attnbench.metrics.generate import PairSet
from attnbench.metrics.measure import Number, measure, pictures_of
from attnbench.metrics.metric import parse_metric
from attnbench.metrics.protocol import Protocol

CPU = torch.device("cpu")
DATA = Data(size=64)


def outline(pictures: Pictures) -> Number:
    (number,) = measure(pictures, [parse_metric("outline")]).values()
    assert number.scores is not None, number.reason
    return number


def score(pictures: Pictures) -> float:
    return float(outline(pictures).value or 0)


def inked(lines: Tensor) -> Tensor:
    """(N, 3, S, S): black where lines are, (N, S, S), on white."""
    return torch.where(lines, 0, 255).to(torch.uint8)[:, None].expand(-1, 3, -1, -1).contiguous()


def given(found: Tensor, wanted: Tensor, original: Tensor | None = None) -> Pictures:
    """Pictures whose lines, and those of whose sketches and originals, are known: (N, S, S) bool."""
    available = {"sketch": lambda: inked(wanted)[:, :1].clone(), "draw": lambda: lambda images, rows: images[:, :1]}
    if original is not None:
        available["wanted"] = lambda: inked(original)
    return Pictures(inked(found), [(str(row), str(row)) for row in range(len(found))], CPU, available)


def column(*columns: int, size: int = 32) -> Tensor:
    """(1, S, S): vertical lines."""
    lines = torch.zeros(1, size, size, dtype=torch.bool)
    lines[..., list(columns)] = True
    return lines


def coloured(pictures: Pictures, generated: Tensor) -> Pictures:
    return replace(pictures, generated=generated, _made={}, _own={})


# Closed forms, and a naive loop


@pytest.mark.parametrize("density", [0.02, 0.1, 0.4])
def test_it_is_what_a_naive_loop_over_pixels_counts(density: float) -> None:
    rng = np.random.default_rng(0)
    found, wanted = (torch.from_numpy(rng.random((4, 20, 20)) < density) for _ in range(2))

    def share(lines: np.ndarray, others: np.ndarray) -> float:
        pixels = [(y, x) for y in range(20) for x in range(20) if lines[y, x]]
        near = [any(others[v, u] for v in range(20) for u in range(20) if max(abs(v - y), abs(u - x)) <= 1) for y, x in pixels]
        return 100 * sum(near) / len(near)

    number = outline(given(found, wanted))
    shares = [(share(a, b), share(b, a)) for a, b in zip(found.numpy(), wanted.numpy(), strict=True)]
    assert number.scores == pytest.approx([2 * p * r / (p + r) for p, r in shares])
    assert number.details["precision"] == pytest.approx(np.mean([p for p, _ in shares]), abs=0.006)
    assert number.details["recall"] == pytest.approx(np.mean([r for _, r in shares]), abs=0.006)


@pytest.mark.parametrize(("columns", "wanted"), [((10,), 100), ((11,), 100), ((9,), 100), ((12,), 0), ((7,), 0)])
def test_a_line_a_pixel_off_is_right_and_two_pixels_off_wrong(columns: Sequence[int], wanted: float) -> None:
    assert score(given(column(*columns), column(10))) == wanted
    assert score(given(column(*columns).mT, column(10).mT)) == wanted


def test_a_pixel_counts_from_corner_to_corner_and_not_around_the_picture_s_edge() -> None:
    dot, there, across = torch.zeros(3, 1, 8, 8, dtype=torch.bool)
    dot[0, 0, 0], there[0, 1, 1], across[0, 7, 7] = True, True, True
    assert score(given(dot, there)) == 100
    assert score(given(dot, across)) == 0


def test_lines_that_are_lost_cost_recall_and_lines_that_are_made_up_precision() -> None:
    lost, more = outline(given(column(8), column(8, 20))), outline(given(column(8, 14, 20, 26), column(8, 20)))
    assert (lost.value, lost.details["precision"], lost.details["recall"]) == (pytest.approx(200 / 3), 100, 50)
    assert (more.value, more.details["precision"], more.details["recall"]) == (pytest.approx(200 / 3), 50, 100)


def test_without_lines_in_both_it_is_100_and_in_one_alone_0() -> None:
    none, some = column(), column(5)
    found = outline(given(torch.cat([none, none, some]), torch.cat([none, some, none])))
    assert found.scores is not None
    assert found.scores.tolist() == [100, 0, 0]
    assert found.details["precision"] == found.details["recall"] == pytest.approx(100 / 3, abs=0.006)


def test_the_ceiling_is_what_the_originals_score_and_there_is_none_without_originals() -> None:
    found, wanted = column(3), column(8, 20)
    assert outline(given(found, wanted, original=column(8))).details["ceiling"] == 66.67
    assert "ceiling" not in outline(given(found, wanted)).details


def test_a_picture_s_score_depends_on_no_other_and_not_on_its_place(drawings: Pictures) -> None:
    made = torch.cat([blurred(drawings.answers[row : row + 1], sigma) for row, sigma in enumerate((0, 1, 1.5, 2, 3, 4))])
    together = outline(coloured(drawings, made)).scores
    assert together is not None
    rows = [4, 0, 5, 2, 1, 3]
    draw, sketch = drawings.draw, drawings.sketch

    def of(some: list[int]) -> Pictures:
        available = {"sketch": lambda: sketch[some], "draw": lambda: lambda images, at: draw(images, [some[i] for i in at])}
        return Pictures(made[some], [drawings.names[row] for row in some], CPU, available)

    assert outline(of(rows)).scores == pytest.approx(together[rows])
    assert [score(of([row])) for row in range(len(made))] == pytest.approx(together)
    assert len(set(together.round(3))) == len(together)


# On drawings


def test_originals_have_the_lines_that_were_drawn_from_them_and_so_has_the_sketch(drawings: Pictures) -> None:
    for made in (drawings.wanted, drawings.sketch.expand(-1, 3, -1, -1).clone()):
        found = outline(coloured(drawings, made))
        assert found.value == found.details["ceiling"] == 100


def test_a_blank_picture_has_none_of_the_lines_and_another_drawing_few(drawings: Pictures) -> None:
    assert score(coloured(drawings, torch.full_like(drawings.wanted, 255))) == 0
    assert score(coloured(drawings, drawings.reference)) < 65


def test_references_from_elsewhere_have_a_number_and_no_ceiling(dataset: PreparedDataset) -> None:
    elsewhere = Protocol(references="folder", folder="x", folder_digest="1a")
    pairs = PairSet.of(dataset.test, elsewhere, DATA, dataset.train)
    found = outline(pictures_of(dataset.test.images, pairs, dataset, CPU))
    assert found.value == 100
    assert "ceiling" not in found.details


@pytest.mark.parametrize(
    ("distort", "steps"),
    [
        (lambda images, by: blurred(images, by), (0, 1, 1.5, 2, 3)),
        (lambda images, by: shifted(images, int(by)), (0, 1, 2, 3, 4)),
        (lambda images, by: noisy(images, by), (0, 5, 10, 20, 40)),
    ],
    ids=["blurred", "shifted", "noisy"],
)
def test_the_more_the_lines_suffer_the_lower_it_is(
    distort: Callable[[Tensor, float], Tensor], steps: Sequence[float], drawings: Pictures
) -> None:
    found = [score(coloured(drawings, distort(drawings.answers, step))) for step in steps]
    assert all(b < a for a, b in pairwise(found)), found
    assert found[0] > 96
    assert found[-1] < 80


def test_a_shift_by_a_pixel_is_hardly_seen_and_one_by_two_is(drawings: Pictures) -> None:
    right, one, two = (score(coloured(drawings, shifted(drawings.answers, by))) for by in (0, 1, 2))
    assert right - one < 2
    assert right - two > 8


@pytest.mark.parametrize("amount", [5, 10, 20, 40, 60])
def test_colours_of_the_same_lightness_are_not_seen(amount: float, drawings: Pictures) -> None:
    right = score(drawings)
    made = recoloured(drawings.answers, drawings.parts, amount)
    assert score(coloured(drawings, made)) == pytest.approx(right, abs=0.5)


def test_two_parts_in_each_other_s_colours_keep_their_lines(drawings: Pictures) -> None:
    assert score(coloured(drawings, swapped(drawings.answers, drawings.parts, 0, 1))) == pytest.approx(score(drawings), abs=4)


def test_a_dark_fill_counts_as_lines_that_the_sketch_does_not_have(drawings: Pictures) -> None:
    made = drawings.answers.clone()
    made[..., 8:56, 8:56] = made[..., 8:56, 8:56] // 16
    dark, right = outline(coloured(drawings, made)), outline(drawings)
    assert dark.details["precision"] < right.details["precision"] - 25
    assert dark.details["recall"] > right.details["recall"] - 5
