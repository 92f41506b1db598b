"""Where training is logged: in the cell's own files, and by TensorBoard if that is asked for."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from runs import HEADS, attnbench, only_cell, overrides, same_result, steps_in, tiny, tree

import attnbench as library
from attnbench.errors import UserError
from attnbench.execute import cell_run
from attnbench.store.job import read_job
from attnbench.training.logs import LossLog

ASKED = ("--log-to", "tensorboard")
TENSORBOARD = "torch.utils.tensorboard"
NEEDED = '--log-to tensorboard needs TensorBoard: pip install "attnbench[tensorboard]", or pass --log-to none'


@pytest.fixture(autouse=True)
def _no_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting FLOPs takes longer than these runs; test_costs.py has its tests."""
    monkeypatch.setattr(cell_run, "count_costs", lambda factory, recipe: {})


class Writer:
    """What attnbench uses of TensorBoard's writer, remembered."""

    def __init__(self, folder: str, purge_step: int) -> None:
        self.folder, self.purge_step, self.closed = Path(folder), purge_step, False
        self.scalars: dict[str, dict[int, float]] = {}
        self.images: dict[int, np.ndarray[Any, Any]] = {}

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        self.scalars.setdefault(tag, {})[step] = value

    def add_image(self, tag: str, picture: np.ndarray[Any, Any], step: int, dataformats: str) -> None:
        assert (tag, dataformats, picture.shape[2]) == ("samples", "HWC", 3)
        self.images[step] = picture

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> list[Writer]:
    """TensorBoard is installed; all the writers that are made during the test."""
    made: list[Writer] = []

    def writer(*arguments: Any, **options: Any) -> Writer:
        made.append(Writer(*arguments, **options))
        return made[-1]

    monkeypatch.setitem(sys.modules, TENSORBOARD, SimpleNamespace(SummaryWriter=writer))
    return made


@pytest.fixture
def not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorBoard is not installed, whatever this machine has."""
    monkeypatch.setitem(sys.modules, TENSORBOARD, None)


def losses_of(folder: Path) -> Mapping[str, Mapping[int, float]]:
    """losses.jsonl by TensorBoard's names."""
    rows = [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines()]
    return {f"loss/{name}": {row["step"]: row[name] for row in rows} for name in rows[0] if name != "step"}


def test_losses_and_pictures_reach_tensorboard_and_change_no_number(tmp_path: Path, writers: list[Writer]) -> None:
    assert attnbench(*tiny(tmp_path / "asked"), *ASKED).code == 0
    assert attnbench(*tiny(tmp_path / "not")).code == 0
    folder, (writer,) = only_cell(tmp_path / "asked"), writers
    assert (writer.folder, writer.purge_step, writer.closed) == (folder / "tensorboard", 1, True)
    assert writer.scalars == losses_of(folder)
    assert [f"step{step:07d}.png" for step in writer.images] == sorted(path.name for path in (folder / "samples").iterdir())
    assert same_result(folder, only_cell(tmp_path / "not"))


@pytest.mark.parametrize("tensorboard", ["writers", "not_installed"])
def test_nothing_is_logged_elsewhere_unless_it_is_asked_for(
    tensorboard: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    made = request.getfixturevalue(tensorboard)
    assert attnbench(*tiny(tmp_path)).code == 0
    assert not made
    assert not (only_cell(tmp_path) / "tensorboard").exists()


def logged(folder: Path, first: int, last: int) -> None:
    """Training from a checkpoint before a step, until it is killed after another."""
    log = LossLog(folder / "losses.jsonl", keep_until=first - 1, log_to="tensorboard")
    for step in range(first, last + 1):
        log.add(step, {"generator": torch.tensor(float(step))})
        log.flush()
        log.picture(step, np.zeros((4, 4, 3), np.uint8))
    log.close()


def test_training_that_goes_on_drops_the_steps_that_it_repeats(tmp_path: Path, writers: list[Writer]) -> None:
    logged(tmp_path, 1, 7)
    logged(tmp_path, 5, 8)
    assert [writer.purge_step for writer in writers] == [1, 5]
    assert [*writers[1].images] == [5, 6, 7, 8]
    assert steps_in(tmp_path / "losses.jsonl") == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.filterwarnings("ignore::Warning")  # TensorBoard's own
def test_tensorboard_shows_every_step_of_resumed_training_once(tmp_path: Path) -> None:
    accumulators = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs TensorBoard: pip install tensorboard"
    )
    logged(tmp_path, 1, 7)
    logged(tmp_path, 5, 8)
    shown = accumulators.EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"images": 0, "scalars": 0})
    shown.Reload()
    assert [(scalar.step, scalar.value) for scalar in shown.Scalars("loss/generator")] == [(step, step) for step in range(1, 9)]
    assert [image.step for image in shown.Images("samples")] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_cell_run_by_hand_logs_as_the_run_that_planned_it(tmp_path: Path, writers: list[Writer]) -> None:
    planned = attnbench(*tiny(tmp_path, "sga,scft", executor="commands"), *ASKED)
    assert not writers
    for command in planned.out.splitlines():
        assert attnbench(*command.split()[1:]).code == 0
    assert {writer.folder.parent.name for writer in writers} == {folder.name for folder in tmp_path.iterdir()}


def test_a_cell_run_by_hand_logs_where_it_is_told_to(tmp_path: Path, writers: list[Writer]) -> None:
    assert attnbench(*tiny(tmp_path, executor="commands")).code == 0
    assert attnbench("cell", only_cell(tmp_path), "--device", "cpu", *ASKED).code == 0
    (writer,) = writers
    assert writer.scalars == losses_of(only_cell(tmp_path))


def test_python_asks_for_tensorboard_as_the_command_line_does(tmp_path: Path, writers: list[Writer]) -> None:
    options: dict[str, Any] = {"overrides": overrides(), "store": tmp_path, "log_to": "tensorboard"}
    library.run("sga", HEADS, "demo", executor="commands", **options)
    job = read_job(only_cell(tmp_path))
    assert job is not None
    assert job.options.log_to == "tensorboard"
    with pytest.raises(UserError, match="unknown logger 'tensorbord': did you mean 'tensorboard'"):
        library.run("sga", HEADS, "demo", **options | {"log_to": "tensorbord"})


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_without_tensorboard_a_run_that_asks_for_it_is_refused_before_any_work(
    more: list[str], tmp_path: Path, not_installed: None
) -> None:
    refused = attnbench(*tiny(tmp_path / "store"), *ASKED, *more)
    assert (refused.code, refused.out, refused.err) == (2, "", f"error: {NEEDED}\n")
    assert not (tmp_path / "store").exists()


def test_without_tensorboard_a_cell_that_asks_for_it_is_refused_before_any_work(tmp_path: Path, not_installed: None) -> None:
    assert attnbench(*tiny(tmp_path, executor="commands")).code == 0
    before = tree(tmp_path)
    refused = attnbench("cell", only_cell(tmp_path), "--device", "cpu", *ASKED)
    assert (refused.code, refused.err) == (2, f"error: {NEEDED}\n")
    assert tree(tmp_path) == before


def test_a_cell_whose_run_logged_to_tensorboard_can_be_run_without_it(tmp_path: Path, writers: list[Writer]) -> None:
    assert attnbench(*tiny(tmp_path, executor="commands"), *ASKED).code == 0
    folder = only_cell(tmp_path)
    assert attnbench("cell", folder, "--device", "cpu", "--log-to", "none").code == 0
    assert not writers
    assert not (folder / "tensorboard").exists()


@pytest.mark.parametrize("command", ["run", "cell"])
def test_a_logger_that_does_not_exist_is_one_line_that_names_the_nearest(command: str, tmp_path: Path) -> None:
    arguments = tiny(tmp_path / "store") if command == "run" else ["cell", str(tmp_path)]
    refused = attnbench(*arguments, "--log-to", "tensorbord")
    known = "did you mean 'tensorboard'? (known: tensorboard)"
    assert (refused.code, refused.err) == (2, f"error: --log-to: unknown logger 'tensorbord': {known}\n")
    assert not (tmp_path / "store").exists()
