"""What the board says of a running grid."""

from __future__ import annotations

import pytest

from attnbench.execute.board import Board
from attnbench.store.progress import Progress


def training(step: int, seconds_left: float | None, total: int = 100) -> Progress:
    return Progress("training", step, total, "cpu", seconds_left=seconds_left)


STARTING = Progress("starting", 0, 100, "cpu")
MEASURING = Progress("measuring", 100, 100, "cpu", done=3, of=9)


@pytest.mark.parametrize(
    ("running", "waiting", "said"),
    [
        ([training(50, 30)], 0, "about 30 s of training left"),
        ([training(50, 30)], 2, "about 2 min of training left"),  # 30 + 2 x 60
        ([training(75, 10), training(75, 30)], 2, "about 1 min of training left"),  # (10 + 30 + 2 x (40 + 120) / 2) / 2 = 100 s
        ([training(75, 10), training(75, 12)], 0, "about 12 s of training left"),  # the longest of those that run
        ([training(50, 20), STARTING], 0, "about 40 s of training left"),
        ([training(50, 20), None], 0, "about 40 s of training left"),
        ([training(50, 20), MEASURING], 0, "about 20 s of training left"),
    ],
)
def test_the_time_left_is_judged_by_the_speed_of_the_running_cells(
    running: list[Progress | None], waiting: int, said: str
) -> None:
    board = Board(9)
    assert board.summary([("a", progress) for progress in running], waiting, 0).endswith(said)


def test_a_cell_that_has_just_started_is_judged_by_the_speed_of_the_one_before() -> None:
    board = Board(9)
    board.summary([("a", training(90, 6))], 1, 0)
    assert board.summary([("a", MEASURING)], 1, 0).endswith("about 1 min of training left")
    assert board.summary([("b", STARTING)], 0, 0).endswith("about 1 min of training left")
    assert board.summary([("b", training(10, 900))], 0, 0).endswith("about 15 min of training left")


def test_before_a_step_was_timed_no_time_is_promised() -> None:
    board = Board(9)
    for running in ([], [None], [STARTING], [MEASURING]):
        assert "left" not in board.summary([("a", progress) for progress in running], 3, 0)
