"""Seconds of training: what a GPU still had to do counts, what happens beside training does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import runs
import torch

from attnbench.execute import cell_run
from attnbench.training import stopwatch
from attnbench.training.stopwatch import Stopwatch


class FakeGPU:
    """A clock, and a GPU with seconds of work that it has been asked to do."""

    def __init__(self) -> None:
        self.now = 100.0
        self.asked = 0.0

    def wait(self, device: torch.device) -> None:
        self.now, self.asked = self.now + self.asked, 0.0


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeGPU:
    fake = FakeGPU()
    monkeypatch.setattr(stopwatch, "monotonic", lambda: fake.now)
    monkeypatch.setattr(stopwatch, "wait_for", fake.wait)
    return fake


def test_what_the_gpu_had_still_to_do_counts_and_a_pause_does_not(fake: FakeGPU) -> None:
    watch = Stopwatch(torch.device("cuda"), seconds=5.0)
    with watch.running():
        fake.asked += 3  # steps, asked for in no time
        with watch.paused():
            assert watch.seconds == 8
            fake.now += 60  # a measurement
            fake.asked += 2  # whose last work is waited for, too
        assert watch.seconds == 8
        fake.asked += 4
    assert watch.seconds == 12
    fake.now += 60
    assert watch.seconds == 12


def test_it_stops_when_training_is_interrupted_even_in_a_pause(fake: FakeGPU) -> None:
    watch = Stopwatch(torch.device("cuda"))
    with pytest.raises(KeyboardInterrupt), watch.running():
        fake.now += 1
        with watch.paused():
            fake.now += 60
            raise KeyboardInterrupt
    fake.now += 60
    assert watch.seconds == 1
    with watch.paused():
        fake.now += 60
    assert watch.seconds == 1


def test_images_a_second_count_reading_the_losses_and_leave_out_pictures_and_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeGPU()
    monkeypatch.setattr(stopwatch, "monotonic", lambda: fake.now)

    def slowed(name: str, owner: type, seconds: float) -> None:
        plain: Callable[..., object] = getattr(owner, name)

        def later(*args: object, **kwargs: object) -> object:
            fake.now += seconds
            return plain(*args, **kwargs)

        monkeypatch.setattr(owner, name, later)

    slowed("flush", cell_run.LossLog, 2)
    slowed("_draw_samples", cell_run.CellRun, 1000)
    slowed("write_checkpoint", cell_run.CellFolder, 1000)
    outcome = runs.attnbench(*runs.tiny(tmp_path, "sga", train__steps=4), "--executor", "inline")
    assert outcome.code == 0, outcome.err
    costs = runs.record(runs.only_cell(tmp_path))["costs"]
    assert costs["train_seconds"] == 4 * 2  # each step's losses are read, as on a CPU


def test_a_step_that_cannot_be_captured_here_is_told_as_such(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "attnbench")
    assert runs.attnbench(*runs.tiny(tmp_path, "sga", train__cuda_graph="true")).code == 0
    assert "train.cuda_graph has no effect on cpu" in caplog.text


def test_a_cell_that_shared_its_device_in_an_earlier_start_is_still_told_as_one_that_did(tmp_path: Path) -> None:
    outcome = runs.attnbench(*runs.tiny(tmp_path, "sga", executor="commands"))
    assert outcome.code == 0, outcome.err
    cell = runs.only_cell(tmp_path)
    runs.edit(cell, status="interrupted", provenance={"cells_on_device": 3})
    assert runs.attnbench("cell", cell, "--device", "cpu").code == 0
    assert runs.record(cell)["provenance"]["cells_on_device"] == 3
    assert runs.record(cell)["provenance"]["device"].startswith("cpu")
