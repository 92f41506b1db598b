"""One way to run: the command line and `attnbench.run` ask for the same things, are refused alike, and tell what failed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from runs import HEADS, attnbench, edit, install_module, only_cell, overrides, record, tiny, tree, until

import attnbench as library
from attnbench.cli.run_flags import ExecutorName
from attnbench.errors import CellsFailed, UserError
from attnbench.execute import cell_run
from attnbench.execute.local import Local
from attnbench.execute.run import EXECUTORS, RunRequest, check_request, make_executor
from attnbench.execute.slurm import Slurm
from attnbench.execute.worker import Worker
from attnbench.store.job import RunOptions, read_job

BREAKS = 'if self.training:\n    raise RuntimeError("broken on purpose")'


@pytest.fixture(autouse=True)
def _no_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting FLOPs takes longer than these runs; test_costs.py has its tests."""
    monkeypatch.setattr(cell_run, "count_costs", lambda factory, recipe: {})


def run(store: Path, modules: str = "sga", datasets: str = HEADS, **options: Any) -> pd.DataFrame:
    """As `tiny`, from Python; in this process unless an executor is named."""
    where = {} if "executor" in options else {"executor": "inline", "devices": ["cpu"]}
    asked = {"overrides": overrides(), "store": store, **where, **options}
    return library.run(modules.split(","), datasets.split(","), "demo", **asked)


def test_python_and_the_command_line_make_the_same_cell(tmp_path: Path) -> None:
    frame = run(tmp_path / "python")
    assert frame["status"].tolist() == ["finished"]
    assert attnbench(*tiny(tmp_path / "command")).code == 0
    python, command = only_cell(tmp_path / "python"), only_cell(tmp_path / "command")
    assert python.name == command.name
    assert (python / "generator.safetensors").read_bytes() == (command / "generator.safetensors").read_bytes()
    before = tree(tmp_path / "command")
    run(tmp_path / "command")  # each goes on with what the other left
    assert tree(tmp_path / "command") == before


def test_a_cell_that_fails_raises_once_the_others_have_been_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_module(tmp_path / "site", monkeypatch, "breaks", BREAKS)
    with pytest.raises(CellsFailed, match=r"^1 of 2 cells failed: Mix on synthetic, seed 0; `attnbench status ") as raised:
        run(tmp_path / "store", "breaks,sga")
    assert raised.value.failed == ["Mix on synthetic, seed 0"]
    assert record(only_cell(tmp_path / "store", "sga"))["status"] == "finished"
    assert "broken on purpose" in record(only_cell(tmp_path / "store", "breaks"))["failure"]["message"]


def test_failures_can_be_reported_instead_and_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warned: Callable[[], list[str]]
) -> None:
    install_module(
        tmp_path / "site", monkeypatch, "breaks", BREAKS.replace("self.training", 'self.training and os.environ.get("CUE")')
    )
    monkeypatch.setenv("CUE", "1")
    frame = run(tmp_path / "store", "breaks", raise_on_failure=False)
    assert frame["status"].tolist() == ["failed"]
    assert warned()[-1].startswith("1 of 1 cells failed: Mix on synthetic, seed 0; ")
    monkeypatch.delenv("CUE")
    assert run(tmp_path / "store", "breaks", raise_on_failure=False)["status"].tolist() == ["failed"]
    assert run(tmp_path / "store", "breaks", retry_failed=True)["status"].tolist() == ["finished"]


def test_a_cell_over_its_time_limit_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: None) -> None:
    install_module(tmp_path / "site", monkeypatch, "slow", "if self.training:\n    import time\n    time.sleep(600)")
    options = {"executor": "local", "devices": ["cpu"], "time_limit": 0.01}
    frame = run(tmp_path / "store", "slow", raise_on_failure=False, **options)
    assert frame["failure"].tolist()[0].startswith("exceeded the time limit of 0.01 minutes")
    job = read_job(only_cell(tmp_path / "store"))
    assert job is not None
    assert job.options.time_limit_minutes == 0.01


def test_images_that_cannot_be_decoded_are_refused_or_skipped(
    tmp_path: Path, folder_of_heads: Callable[..., Path], warned: Callable[[], list[str]]
) -> None:
    heads = folder_of_heads(train=4, test=2, size=16)
    (heads / "train" / "zzz.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="pass --skip-corrupt to leave them out"):
        run(tmp_path / "store", datasets=f"mine={heads}")
    assert run(tmp_path / "store", datasets=f"mine={heads}", skip_corrupt=True)["status"].tolist() == ["finished"]
    assert any("mine/train/zzz.png" in line for line in warned())
    assert record(only_cell(tmp_path / "store"))["dataset"]["skipped"] == ["train/zzz.png"]


def test_cells_can_be_planned_alone(tmp_path: Path) -> None:
    frame = run(tmp_path / "store", executor="commands")
    assert frame["status"].tolist() == ["waiting"]
    assert frame.attrs["commands"] == [f"attnbench cell {only_cell(tmp_path / 'store')}"]
    assert attnbench("cell", only_cell(tmp_path / "store"), "--device", "cpu").code == 0
    assert run(tmp_path / "store", executor="commands")["status"].tolist() == ["finished"]


@pytest.mark.parametrize(
    ("options", "flags", "message"),
    [
        ({"executor": "slrum"}, None, "unknown executor 'slrum': did you mean 'slurm'?"),
        (
            {"executor": "local", "partition": "gpu"},
            ["--executor", "local", "--partition", "gpu"],
            "--partition needs --executor slurm",
        ),
        (
            {"executor": "slurm", "devices": ["cuda:0"]},
            ["--executor", "slurm", "--devices", "cuda:0"],
            "--devices does not apply to --executor slurm: --gpus sets the number per cell",
        ),
        (
            {"executor": "inline", "jobs": 2},
            ["--executor", "inline", "--jobs", "2"],
            "--jobs does not apply to --executor inline: its cells run in this process, one at a time",
        ),
        (
            {"executor": "commands", "time_limit": 5},
            ["--executor", "commands", "--time-limit", "5"],
            "--time-limit does not apply to --executor commands: it only plans the cells",
        ),
        (
            {"executor": "local", "time": 5},
            ["--executor", "local", "--time", "5"],
            "--time does not apply to --executor local: --time-limit sets the minutes per cell",
        ),
        ({"executor": "local", "jobs": -1}, None, "--jobs -1: expected a number of cells, 1 or more"),
        (
            {"checkpoint_minutes": float("inf")},
            ["--checkpoint-minutes", "inf"],
            "options of the run: checkpoint_minutes = inf: input should be a finite number",
        ),
        ({"checkpoint_minutes": -1}, None, "options of the run: checkpoint_minutes = -1: "),
    ],
)
def test_an_option_that_does_not_fit_is_refused_alike_before_anything_is_written(
    options: dict[str, Any], flags: list[str] | None, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as raised:
        run(tmp_path / "store", **options)
    assert str(raised.value).startswith(message)
    assert not (tmp_path / "store").exists()
    if flags:
        arguments = ["run", "--recipe", "demo", "-m", "sga", "-d", HEADS, "-o", str(tmp_path / "store")]
        refused = attnbench(*arguments, *flags)
        assert (refused.code, refused.err) == (2, f"error: {message}\n")
        assert not (tmp_path / "store").exists()


def test_a_keyword_that_does_not_exist_is_pythons_own_error(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'retry_faild'"):
        run(tmp_path, retry_faild=True)


def test_one_module_dataset_and_seed_need_no_list(tmp_path: Path) -> None:
    frame = library.run(
        "sga", HEADS, "demo", overrides=overrides(), seeds=3, store=tmp_path, executor="commands", devices="cpu"
    )
    assert frame[["module", "seed"]].to_numpy().tolist() == [["sga", 3]]


def test_a_damaged_job_is_written_anew(tmp_path: Path) -> None:
    assert attnbench(*tiny(tmp_path, executor="commands")).code == 0
    (only_cell(tmp_path) / "job.json").write_text("{")
    assert attnbench(*tiny(tmp_path, executor="commands")).code == 0
    assert read_job(only_cell(tmp_path)) is not None


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("synthetic:train=abc", "dataset 'synthetic': train=abc: expected a whole number"),
        ("synthetic:difficulty=", "dataset 'synthetic:difficulty=': 'difficulty=' is not option=value"),
        ("synthetic:difficulty=null", "dataset 'synthetic': difficulty=null: expected a whole number"),
        ("synthetic:train=true", "dataset 'synthetic': train=true: expected a whole number"),
        ("a/b=heads", "dataset 'a/b': expected name=folder"),
        ("=heads", "dataset '': expected name=folder"),
        ("mine=", "dataset 'mine': expected name=folder"),
    ],
)
def test_a_dataset_that_cannot_be_one_is_one_line(dataset: str, message: str, tmp_path: Path) -> None:
    refused = attnbench(*tiny(tmp_path / "store", datasets=dataset))
    assert refused.code == 2
    (line,) = refused.err.splitlines()
    assert message in line
    assert not (tmp_path / "store").exists()


def test_a_single_device_or_line_may_be_a_text() -> None:
    assert make_executor("local", {"--devices": "cpu"}) == Local(["cpu"])
    assert make_executor("slurm", {"--setup": "module load cuda"}) == Slurm(setup=["module load cuda"])
    assert make_executor("local", {"--detach": False}) == Local()


def test_every_executor_is_on_the_command_line_and_takes_its_own_flags() -> None:
    assert {name.value for name in ExecutorName} == set(EXECUTORS)
    assert make_executor("local", {"--jobs": 3, "--devices": None}) == Local(jobs=3)
    assert make_executor("slurm", {"--slurm": {"account": "lab"}, "--gpus": 0}) == Slurm(extra={"account": "lab"}, gpus=0)


def test_a_request_is_checked_without_writing(tmp_path: Path) -> None:
    request = RunRequest(["sga"], [HEADS], "demo", overrides=overrides(), store=tmp_path / "store", executor=Local(["cpu"]))
    assert [variant.module for variant in check_request(request).variants] == ["sga"]
    assert not request.store.exists()
    compiled = replace(request, overrides=overrides(train__compile="true"), options=RunOptions(record_gradients=True))
    with pytest.raises(UserError, match="--record-gradients does not work with train.compile=true"):
        check_request(compiled)


def test_options_of_the_run_hold_for_a_cell_run_by_hand_but_for_running_it_again(tmp_path: Path) -> None:
    planned = attnbench(*tiny(tmp_path, "scft", executor="commands"), "--record-gradients", "--retry-failed")
    folder = only_cell(tmp_path)
    assert planned.out == f"attnbench cell {folder} --device cpu --retry-failed\n"
    edit(folder, status="failed", failure={"message": "earlier", "traceback": None})
    assert attnbench("cell", folder, "--device", "cpu").code == 1
    assert attnbench(*planned.out.split()[1:]).code == 0
    assert (folder / "gradients.jsonl").is_file()


def test_a_process_keeps_the_options_it_was_started_with(tmp_path: Path, workers: None) -> None:
    """Whatever another runner has written to job.json meanwhile."""
    assert attnbench(*tiny(tmp_path, "scft", executor="commands")).code == 0
    folder = only_cell(tmp_path)
    worker = Worker(folder, RunOptions(record_gradients=True), label="it", device="cpu")
    worker.start()
    until(worker.poll)
    assert (folder / "gradients.jsonl").read_text()
    job = read_job(folder)
    assert job is not None
    assert not job.options.record_gradients


def test_messages_of_a_run_are_the_programs_to_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """pytest has handlers of its own: nothing is written beside them, and nothing is left behind."""
    logger = logging.getLogger("attnbench")
    before = list(logger.handlers), logger.level
    run(tmp_path)
    assert capsys.readouterr().err == ""
    assert (list(logger.handlers), logger.level) == before


def test_where_nobody_shows_messages_a_run_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("attnbench"), "propagate", False)
    run(tmp_path)
    assert "SGA on synthetic, seed 0: new\n" in capsys.readouterr().err
    assert not logging.getLogger("attnbench").handlers
