"""Cells in processes of their own: whatever becomes of one, the others and the store are as they should be."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from runs import (
    Process,
    Python,
    attnbench,
    cells,
    edit,
    install_module,
    install_waiting,
    only_cell,
    record,
    same_result,
    steps_in,
    tiny,
    until,
)

from attnbench.cells import sources
from attnbench.cells.cell import Cell
from attnbench.config.recipe import load_recipe
from attnbench.execute import cell_run, gpu_sharing
from attnbench.execute import local as local_file
from attnbench.execute import worker as worker_file
from attnbench.execute.local import Local
from attnbench.execute.one_cell import EXIT_BUSY, EXIT_INTERRUPTED
from attnbench.execute.planned_cell import plan_cell
from attnbench.execute.worker import Worker
from attnbench.store.folder import CellFolder
from attnbench.store.job import RunOptions

EVERY_STEP = ("--checkpoint-minutes", "0")


@pytest.fixture
def waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """waits("slow"): a module of that name, see `install_waiting`; the file that is made when it waits."""
    return lambda name: install_waiting(tmp_path / name, monkeypatch, name)


@pytest.fixture
def one_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies is started again once, not twice: every start costs seconds."""
    monkeypatch.setattr(worker_file, "RESTARTS", 1)


@pytest.fixture
def undisturbed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """undisturbed("sga"): the folder of the cell that an inline run makes of a module."""
    monkeypatch.setattr(cell_run, "count_costs", lambda factory, recipe: {})

    def run(module: str, **changes: object) -> Path:
        assert attnbench(*tiny(tmp_path / "undisturbed", module, **changes)).code == 0
        return only_cell(tmp_path / "undisturbed", module)

    return run


def planned(store: Path, module: str, **changes: object) -> Path:
    """The folder of a cell that is planned and has not run."""
    (cell,) = cells(module, **changes)
    folder = CellFolder(store / cell.folder_name)
    plan_cell(cell, folder, RunOptions())
    return folder.path


def test_each_cell_has_its_own_fate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Callable[..., Path], workers: None, one_restart: None
) -> None:
    """Killed in the middle of a checkpoint; killed again and again; out of memory; and one that is well."""
    once = tmp_path / "killed once"
    acts = {
        "struck": f"""
if self.training and self.step == 3 and not os.path.exists({str(once)!r}):
    open({str(once)!r}, "w").close()
    def half(state, file):
        file.write(b"half a checkpoint")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    torch.save = half""",
        "doomed": "if self.training and self.step == 1:\n    os.kill(os.getpid(), signal.SIGKILL)",
        "greedy": "if self.training and self.step == 2:\n    torch.empty(1 << 50)",
    }
    for name, act in acts.items():
        install_module(tmp_path / name, monkeypatch, name, act)
    store = tmp_path / "results"
    outcome = attnbench(*tiny(store, "struck,doomed,greedy,sga", executor="local"), *EVERY_STEP, "--jobs", "2")
    assert outcome.code == 1, outcome.err

    assert same_result(only_cell(store, "struck"), undisturbed("struck"))
    assert "Mix on synthetic, seed 0: process killed by SIGKILL; restarting at step 2" in outcome.err
    assert not list(store.rglob("*.draft"))
    failures = {name: record(only_cell(store, name))["failure"] for name in ("doomed", "greedy")}
    assert failures["doomed"]["message"] == (
        "killed by SIGKILL 2 times at step 0, without a new checkpoint, perhaps out of memory"
    )
    assert failures["greedy"]["message"].startswith("RuntimeError: ")
    assert "memory" in failures["greedy"]["message"]
    assert "greedy_package.py" in failures["greedy"]["traceback"]
    assert same_result(only_cell(store, "sga"), undisturbed("sga"))
    assert record(only_cell(store, "sga"))["provenance"]["cells_on_device"] == 2
    assert "cells_on_device" not in record(undisturbed("sga"))["provenance"]
    assert "cells run 2 at a time on cpu" in outcome.err
    assert "2 of 4 cells failed" in outcome.out
    assert not list(store.rglob("progress.json"))


def test_a_cell_that_runs_beside_finished_ones_alone_has_its_device_for_itself(tmp_path: Path, workers: None) -> None:
    assert attnbench(*tiny(tmp_path, "scft")).code == 0
    outcome = attnbench(*tiny(tmp_path, "scft,sga", executor="local"), "--jobs", "2")
    assert outcome.code == 0, outcome.err
    assert "cells_on_device" not in record(only_cell(tmp_path, "sga"))["provenance"]


def test_a_process_that_dies_is_given_up_after_two_restarts_that_got_no_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = planned(tmp_path / "results", "sga")
    worker, starts = Worker(folder, RunOptions(), label="it"), []
    monkeypatch.setattr(worker, "start", lambda: starts.append(worker.folder.step))
    assert [worker.restart("killed by SIGBUS") for _ in range(2)] == [None, None]
    edit(folder, step=5)
    assert [worker.restart("killed by SIGBUS") for _ in range(3)] == [None, None, "failed"]
    assert starts == [0, 0, 5, 5]
    assert record(folder)["failure"]["message"] == "killed by SIGBUS 3 times at step 5, without a new checkpoint"


def test_a_cell_that_hangs_is_ended_and_says_where_it_hung(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: None
) -> None:
    hung = tmp_path / "hung"
    act = f"if self.training and self.step == 3:\n    import time\n    open({str(hung)!r}, 'w').close()\n    time.sleep(1000)"
    install_module(tmp_path / "site", monkeypatch, "hangs", act)
    folder = planned(tmp_path / "results", "hangs")
    worker = Worker(folder, RunOptions(), label="it", device="cpu")
    worker.start()
    until(hung.exists)
    worker.options = worker.options.model_copy(update={"time_limit_minutes": 0.001 / 60})
    assert worker.poll() is None  # it is asked where it is, and to end
    until(lambda: "hangs_package.py" in worker.log_file.read_text())
    worker.grace_seconds = 0
    until(lambda: worker.poll() == "failed")
    failure = record(folder)["failure"]
    assert failure["message"].startswith("exceeded the time limit of 1.66667e-05 minutes")
    assert "hangs_package.py" in failure["traceback"]


def test_a_slow_cell_that_is_over_its_time_is_saved_and_can_go_on(
    tmp_path: Path, waits: Callable[[str], Path], undisturbed: Callable[..., Path], workers: None
) -> None:
    waiting = waits("slow")
    folder = planned(tmp_path / "results", "slow")
    worker = Worker(folder, RunOptions(), label="it", device="cpu")
    worker.start()
    until(waiting.exists)
    worker.options = worker.options.model_copy(update={"time_limit_minutes": 0.001 / 60})
    until(lambda: worker.poll() == "failed")
    assert record(folder)["step"] == 3
    again = attnbench(*tiny(tmp_path / "results", "slow"), "--retry-failed")
    assert again.code == 0, again.err
    assert same_result(folder, undisturbed("slow"))


def test_ctrl_c_saves_all_running_cells(
    tmp_path: Path, waits: Callable[[str], Path], undisturbed: Callable[..., Path], process: Process, ctrl_c_is_heard: None
) -> None:
    store, names = tmp_path / "results", ("composed", "quiet")
    both = [waits(name) for name in names]
    runner = process(*tiny(store, ",".join(names), executor="local"), "--jobs", "2")
    until(lambda: all(waiting.exists() for waiting in both))
    runner.send_signal(signal.SIGINT)
    _, err = runner.communicate(timeout=500)
    assert runner.returncode == EXIT_INTERRUPTED, err
    assert "stopping: waiting for the running cells to save" in err
    assert err.splitlines()[-1] == "stopped; nothing saved is lost, the same command continues"
    for name in names:
        found = record(only_cell(store, name))
        assert (found["status"], found["step"]) == ("interrupted", 3)
    assert err.count("continues at step 3") == 2
    again = attnbench(*tiny(store, ",".join(names)))
    assert again.code == 0, again.err
    assert same_result(only_cell(store, "composed"), undisturbed("composed"))


def test_cells_save_and_end_when_their_runner_is_killed(tmp_path: Path, waits: Callable[[str], Path], process: Process) -> None:
    waiting = waits("orphan")
    runner = process(*tiny(tmp_path / "results", "orphan", executor="local"))
    until(waiting.exists)
    runner.kill()
    runner.communicate()
    folder = CellFolder(only_cell(tmp_path / "results"))
    until(lambda: not folder.is_held())
    assert (record(folder.path)["status"], record(folder.path)["step"]) == ("interrupted", 3)


@pytest.mark.parametrize("code", [0, 3, 75, 130])
def test_a_module_that_exits_fails_its_cell(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    act = f"if self.training and self.step == 2:\n    raise SystemExit({code})"
    install_module(tmp_path / "site", monkeypatch, f"exits{code}", act)
    assert attnbench(*tiny(tmp_path / "results", f"exits{code}")).code == 1
    found = record(only_cell(tmp_path / "results"))
    assert found["status"] == "failed"
    assert found["failure"]["message"] == f"SystemExit: {code}"


def test_a_process_that_somebody_keeps_ending_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: None, one_restart: None
) -> None:
    act = """
if self.training and self.step == 1:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)"""
    install_module(tmp_path / "site", monkeypatch, "unwanted", act)
    outcome = attnbench(*tiny(tmp_path / "results", "unwanted", executor="local"))
    assert outcome.code == 1
    assert record(only_cell(tmp_path / "results"))["failure"]["message"].startswith("stopped by a signal 2 times at step 0")


def test_a_cell_that_is_run_anew_can_be_killed_before_its_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: None, one_restart: None
) -> None:
    """Its record stands as soon as the old one is set aside; and its log stays, from which its failure is told."""
    install_module(tmp_path / "site", monkeypatch, "revised", "pass")
    store = tmp_path / "results"
    assert attnbench(*tiny(store, "revised")).code == 0
    before = record(only_cell(store, "revised"))
    file = tmp_path / "site" / "revised_package.py"
    act = "            if self.step == 1: os._exit(7)\n"
    file.write_text(file.read_text().replace("            pass\n", act))
    sources.forget()
    outcome = attnbench(*tiny(store, "revised", executor="local"), "--rerun-stale")
    assert outcome.code == 1
    after = record(only_cell(store, "revised"))
    assert after["failure"]["message"] == "ended with code 7 2 times at step 0, without a new checkpoint"
    assert "Mix on synthetic, seed 0: " in after["failure"]["traceback"]
    (old,) = (store / ".superseded").iterdir()
    assert record(old) == before


def test_two_runners_that_start_together_do_nothing_twice(tmp_path: Path, process: Process) -> None:
    store = tmp_path / "results"
    both = [process(*tiny(store, "sga,scft,cmft", executor="local")) for _ in range(2)]
    said = ""
    for one in both:
        _, err = one.communicate(timeout=500)
        assert one.returncode == 0, err
        said += err
    for module in ("sga", "scft", "cmft"):
        assert (only_cell(store, module) / "cell.log").read_text().count(": new\n") == 1, said
        assert steps_in(only_cell(store, module) / "losses.jsonl") == [1, 2, 3, 4]


def test_a_runner_goes_on_with_the_cells_that_another_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: Callable[[str], Path], process: Process
) -> None:
    """One, in a process, is in the middle of the first cell until the other, in this one, is in that of the second."""
    waiting, store = waits("first"), tmp_path / "results"
    let_go_on = f"if os.path.exists({str(waiting)!r}): os.remove({str(waiting)!r})"
    install_module(tmp_path / "second", monkeypatch, "second", let_go_on)
    run = tiny(store, "first,second", executor="local")
    one = process(*run)
    until(waiting.exists)
    other = attnbench(*run)
    _, said = one.communicate(timeout=500)
    assert (one.returncode, other.code) == (0, 0), said + other.err
    for module in ("first", "second"):
        log = (only_cell(store, module) / "cell.log").read_text()
        assert (log.count(": new\n"), log.count(": continues")) == (1, 0), said + other.err
        assert steps_in(only_cell(store, module) / "losses.jsonl") == [1, 2, 3, 4]
    assert other.err.count("another process is running it; continuing with the rest") == 1


def test_a_full_disk_stops_the_runner_and_costs_nothing(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Callable[..., Path], workers: None
) -> None:
    filler = small_disk / "filler"
    act = f"""
if os.environ.get("CUE") and self.training and self.step == 3:
    with open({str(filler)!r}, "wb", buffering=0) as file:
        try:
            while file.write(bytes(1024)):
                pass
        except OSError:
            pass"""
    install_module(tmp_path / "site", monkeypatch, "fills", act)
    monkeypatch.setenv("CUE", "1")
    store = small_disk / "results"
    full = attnbench(*tiny(store, "fills", executor="local"), *EVERY_STEP)
    assert full.code == 2, full.err
    assert full.err.splitlines()[-1].startswith(f"error: the disk of '{store}' is full: ")
    filler.unlink()
    monkeypatch.delenv("CUE")
    again = attnbench(*tiny(store, "fills"))
    assert again.code == 0, again.err
    assert "continues at step 2" in again.err
    assert same_result(only_cell(store), undisturbed("fills"))


def test_a_planned_cell_can_be_run_by_hand(tmp_path: Path, undisturbed: Callable[..., Path]) -> None:
    store = tmp_path / "results"
    listed = attnbench(*tiny(store, "sga,scft", executor="commands"))
    assert listed.code == 0, listed.err
    commands = [line.split() for line in listed.out.splitlines()]
    assert [command[:2] for command in commands] == [["attnbench", "cell"]] * 2
    assert record(only_cell(store, "sga"))["status"] == "waiting"

    assert attnbench(*commands[0][1:], "--device", "cpu").code == 0
    assert same_result(only_cell(store, "sga"), undisturbed("sga"))
    again = attnbench(*commands[0][1:])
    assert again.code == 0
    assert again.err.endswith(": finished\n")
    left = attnbench(*tiny(store, "sga,scft", executor="commands"))
    assert left.out.splitlines() == listed.out.splitlines()[1:]


def test_a_cell_that_another_process_runs_is_left_alone(tmp_path: Path) -> None:
    folder = planned(tmp_path / "results", "sga")
    with CellFolder(folder).locked(wait=False):
        outcome = attnbench("cell", folder)
    assert outcome.code == EXIT_BUSY
    assert "another process is running it" in outcome.err


def test_a_cell_whose_images_changed_since_it_was_planned_is_refused(
    tmp_path: Path, folder_of_heads: Callable[..., Path]
) -> None:
    heads = folder_of_heads(train=4, test=2, size=16)
    attnbench(*tiny(tmp_path / "results", "sga", f"mine={heads}", executor="commands"))
    folder = only_cell(tmp_path / "results")
    shutil.copy(heads / "train" / "002.png", heads / "train" / "another.png")
    outcome = attnbench("cell", folder, "--device", "cpu")
    assert outcome.code == 2
    assert "the training images of 'mine' changed since" in outcome.err.splitlines()[-1]
    assert record(folder)["status"] == "waiting"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: shutil.rmtree(folder), "there is no cell"),
        (lambda folder: (folder / "cell.json").unlink(), "holds no cell.json"),
        (lambda folder: (folder / "job.json").unlink(), "has no job.json, which says where its images are"),
        (lambda folder: (folder / "job.json").write_text("{"), "job.json' is damaged"),
        (lambda folder: (folder / "cell.json").write_text("{"), "cell.json' is damaged: `attnbench run` for this cell"),
    ],
)
def test_what_is_no_planned_cell_is_one_line(damage: Callable[[Path], object], said: str, tmp_path: Path) -> None:
    folder = planned(tmp_path / "results", "sga")
    damage(folder)
    outcome = attnbench("cell", folder, "--device", "cpu")
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert line.startswith("error: ")
    assert said in line


def test_a_folder_given_by_a_relative_path_is_found_from_elsewhere(
    tmp_path: Path, folder_of_heads: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = folder_of_heads(train=4, test=2, size=16)
    monkeypatch.chdir(heads.parent)
    attnbench(*tiny(tmp_path / "results", "sga", f"mine={heads.name}", executor="commands"))
    monkeypatch.chdir(tmp_path)
    assert attnbench("cell", only_cell(tmp_path / "results"), "--device", "cpu").code == 0


@contextmanager
def another_runner_has(folder: Path, done: Path, until_seen: Callable[[], bool]) -> Iterator[None]:
    """Its lock is held until it is finished by somebody else: here, by a thread that copies a finished cell."""
    held = threading.Event()

    def other_runner() -> None:
        with CellFolder(folder).locked(wait=False):
            held.set()
            until(until_seen)
            for path in done.iterdir():
                if path.is_file() and path.name != ".lock":
                    shutil.copy(path, folder)

    thread = threading.Thread(target=other_runner)
    thread.start()
    assert held.wait(60)
    yield
    thread.join()


def test_a_cell_that_another_runner_has_is_waited_for(tmp_path: Path, undisturbed: Callable[..., Path]) -> None:
    folder, said = planned(tmp_path / "results", "sga"), "another process is running it; continuing with the rest"
    with another_runner_has(folder, undisturbed("sga"), lambda: said in getattr(sys.stderr, "getvalue", str)()):
        outcome = attnbench(*tiny(tmp_path / "results", "sga", executor="local"))
    assert outcome.code == 0, outcome.err
    assert said in outcome.err
    assert "SGA on synthetic, seed 0: finished\n" in outcome.err
    assert not (folder / "cell.log").exists()


def test_a_cell_that_another_runner_takes_at_the_same_moment_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Callable[..., Path], workers: None
) -> None:
    """It is free when this runner looks, and no longer when its process starts."""
    folder, first_looks, is_held = planned(tmp_path / "results", "sga"), [False], CellFolder.is_held
    monkeypatch.setattr(CellFolder, "is_held", lambda self: first_looks.pop() if first_looks else is_held(self))
    log = folder / "cell.log"
    with another_runner_has(folder, undisturbed("sga"), lambda: log.exists() and "another process" in log.read_text()):
        outcome = attnbench(*tiny(tmp_path / "results", "sga", executor="local"))
    assert outcome.code == 0, outcome.err
    assert "SGA on synthetic, seed 0: finished\n" in outcome.err
    assert log.read_text().count("another process is running it") == 1


@pytest.mark.parametrize(("names", "found"), [("", ["cpu"]), ("cpu", ["cpu"]), ("cpu,cpu", ["cpu", "cpu"])])
def test_without_a_gpu_cells_run_on_the_processor(names: str, found: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from attnbench.devices import pick_devices

    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert pick_devices([name for name in names.split(",") if name]) == found


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--time", "60"], "--time does not apply to --executor local: --time-limit sets the minutes per cell"),
        (["--partition", "gpu", "--jobs", "2"], "--partition needs --executor slurm"),
        (["--executor", "slurm", "--devices", "0"], "--devices does not apply to --executor slurm"),
        (["--executor", "slurm", "--time", "soon"], "time 'soon' is not a time limit that SLURM accepts"),
        (["--executor", "inline", "--time-limit", "5"], "--time-limit does not apply to --executor inline"),
        (["--devices", "cuda:x"], "device 'cuda:x' cannot be used here"),
    ],
)
def test_options_that_do_not_go_together_are_refused_before_anything_is_written(
    arguments: list[str], said: str, tmp_path: Path
) -> None:
    outcome = attnbench("run", "-m", "sga", "-d", "synthetic", "-r", "demo", "-o", tmp_path / "results", *arguments)
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert said in line
    assert not (tmp_path / "results").exists()


def test_gpus_are_spread_over_and_can_be_named_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    from attnbench.devices import pick_devices
    from attnbench.errors import UserError

    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    assert pick_devices() == ["cuda:0", "cuda:1", "cuda:2"]
    assert pick_devices(["2", "cuda:0"]) == ["cuda:2", "cuda:0"]
    assert pick_devices(["cuda", "cuda:00", "0", "cpu:0"]) == ["cuda:0", "cuda:0", "cuda:0", "cpu"]
    with pytest.raises(UserError, match="device 'cuda:3' cannot be used here: GPUs found: 3"):
        pick_devices(["3"])


def test_the_gpu_of_a_process_is_its_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that makes a tensor on "cuda", and kernels that are launched without a name, then find it."""
    from attnbench.devices import pick_device

    current: list[str] = []
    monkeypatch.setattr("torch.empty", lambda *shape, device: current.append(f"{device} checked"))
    monkeypatch.setattr("torch.cuda.set_device", lambda device: current.append(str(device)))
    assert str(pick_device("cuda:1")) == "cuda:1"
    assert current == ["cuda:1 checked", "cuda:1"]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """machine(free=[80e9, 8e9], cores=16): one with two GPUs, as far as a runner can tell."""

    def has(free: Sequence[float], cores: int = 16) -> None:
        monkeypatch.setattr("torch.cuda.device_count", lambda: len(free))
        monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(cores)), raising=False)
        monkeypatch.setattr(gpu_sharing, "free_memory", lambda gpus: {gpu: int(free[int(gpu[5:])]) for gpu in gpus})

    return has


def many(count: int, size: int = 64, **changes: object) -> list[Cell]:
    """Cells of the paper's recipe at that size, as far as an executor looks at them."""
    (cell,) = cells()
    recipe = load_recipe("official", [f"data.size={size}"])
    return [replace(cell, recipe=recipe, seed=seed, **changes) for seed in range(count)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size", "count", "has", "at_once"),
    [
        pytest.param(256, 9, {"free": [80e9]}, 2, id="full cells"),
        pytest.param(64, 9, {"free": [80e9]}, 5, id="small cells"),
        pytest.param(64, 3, {"free": [80e9]}, 3, id="few cells"),
        pytest.param(64, 9, {"free": [8e9]}, 2, id="little memory"),
        pytest.param(64, 9, {"free": [1e9]}, 1, id="hardly any memory"),
        pytest.param(64, 9, {"free": [80e9], "cores": 7}, 3, id="few cores"),
        pytest.param(64, 9, {"free": [80e9, 80e9], "cores": 8}, 4, id="few cores for two GPUs"),
        pytest.param(256, 9, {"free": [80e9] * 4, "cores": 1}, 4, id="one core for four GPUs"),
    ],
)
def test_as_many_cells_share_a_gpu_as_their_size_memory_and_cores_allow(
    size: int, count: int, has: Mapping[str, Any], at_once: int, machine: Callable[..., None]
) -> None:
    machine(**has)
    assert Local().at_once(many(count, size)) == at_once


def test_the_most_demanding_cell_decides_how_many_share_a_gpu(machine: Callable[..., None]) -> None:
    machine(free=[80e9])
    assert Local().at_once([*many(4, 64), *many(1, 256)]) == 2


def test_training_images_count_only_where_a_gpu_keeps_them() -> None:
    demand = gpu_sharing.Demand(gflop=200, step_bytes=int(1e9), image_bytes=[int(8e9)])
    assert [demand.fit_in(int(free)) for free in (30e9, 40e9)] == [15, 4]


def test_each_gpu_has_its_first_cell_before_any_has_its_second(machine: Callable[..., None]) -> None:
    machine(free=[80e9, 8e9], cores=32)
    fitted = Local().fitted(many(20))
    assert list(fitted.devices) == ["cuda:0", "cuda:1", "cuda:0", "cuda:1", "cuda:0", "cuda:0", "cuda:0"]
    assert fitted.place == "7 at a time on cuda:0, cuda:1"
    assert list(Local().fitted(many(3)).devices) == ["cuda:0", "cuda:1", "cuda:0"]


@pytest.mark.parametrize(
    ("local", "devices"),
    [
        (Local(jobs=3), ["cuda:0", "cuda:1", "cuda:0"]),
        (Local(["cuda:1"], jobs=2), ["cuda:1", "cuda:1"]),
        (Local(["0", "0", "1"]), ["cuda:0", "cuda:0", "cuda:1"]),
        (Local(["cpu"]), ["cpu"]),
    ],
)
def test_gpus_are_not_asked_where_the_user_decides(
    local: Local, devices: list[str], machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(free=[80e9, 80e9])
    monkeypatch.setattr(gpu_sharing, "free_memory", lambda gpus: pytest.fail("asked"))
    assert list(local.fitted(many(9)).devices) == devices


def test_cells_that_cannot_be_counted_have_a_gpu_each(machine: Callable[..., None], caplog: pytest.LogCaptureFixture) -> None:
    def looks_at_values(channels: int) -> object:
        raise ValueError("a value is missing")

    machine(free=[80e9, 80e9])
    (variant,) = {id(cell.variant): cell.variant for cell in many(1)}.values()
    found = many(9, variant=replace(variant, factory=looks_at_values))  # type: ignore[arg-type]
    with caplog.at_level("INFO", logger="attnbench"):
        assert Local().at_once(found) == 2
    assert "what cells need cannot be counted: ValueError: a value is missing" in caplog.text


def test_gpus_that_do_not_tell_their_memory_have_one_cell_each(
    machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, python: Python
) -> None:
    asked = gpu_sharing.free_memory
    machine(free=[80e9, 80e9])
    monkeypatch.setattr(gpu_sharing, "free_memory", lambda gpus: asked(["cuda:99"]))
    with caplog.at_level("INFO", logger="attnbench"):
        assert Local().at_once(many(9)) == 2
    assert "one cell at a time on each GPU: their free memory is not known: " in caplog.text


def test_cells_are_spread_evenly_over_gpus_and_free_their_places(
    tmp_path: Path, machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three at a time on two GPUs, and they end in another order than they started in."""
    running: Counter[str] = Counter()
    most: Counter[str] = Counter()
    told = set()

    class Short(Worker):
        def start(self) -> None:
            running[str(self.device)] += 1
            most.update({str(self.device): max(0, running[str(self.device)] - most[str(self.device)])})
            told.add((self.device, self.sharing))
            self.polls = 3 - running.total()

        def poll(self) -> Literal["finished"] | None:
            self.polls -= 1
            if self.polls >= 0:
                return None
            running[str(self.device)] -= 1
            return "finished"

    machine(free=[80e9, 80e9])
    monkeypatch.setattr(local_file, "Worker", Short)
    monkeypatch.setattr(local_file, "POLL", 0)
    outcome = Local(jobs=3).run(cells(seeds=tuple(range(8))), tmp_path / "results", RunOptions())
    assert len(outcome.finished) == 8
    assert most == {"cuda:0": 2, "cuda:1": 1}
    assert told == {("cuda:0", 2), ("cuda:1", 1)}
    assert running.total() == 0


def test_a_dry_run_says_how_many_cells_run_at_a_time_and_where(tmp_path: Path) -> None:
    run = tiny(tmp_path / "results", executor="local")
    assert "cells run one at a time on cpu; results folder: " in attnbench(*run, "--dry-run").out
    assert "cells run 3 at a time on cpu; results folder: " in attnbench(*run, "--jobs", "3", "--dry-run").out


def test_stale_progress_of_a_killed_process_is_no_sign_of_life(tmp_path: Path) -> None:
    folder = planned(tmp_path / "results", "sga")
    waiting = record(folder)
    (folder / "cell.json").write_text(json.dumps({**waiting, "status": "running", "step": 3}))
    (folder / "progress.json").write_text(
        json.dumps(
            {"phase": "training", "step": 4, "total": 9, "device": "cpu", "updated": time.time() - 7200, "pid": os.getpid()}
        )
    )
    shown = attnbench("status", tmp_path / "results")
    assert shown.code == 0, shown.err
    assert "SGA on synthetic, seed 0" in shown.out
    assert "4/9" in shown.out
    assert "silent for 2 h 0 min" in shown.out
