"""Runs of whole cells: what is done is not done again, what was stopped goes on, what fails hurts nobody else."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import (
    HEADS,
    Process,
    attnbench,
    cells,
    install_module,
    install_waiting,
    only_cell,
    record,
    same_result,
    steps_in,
    tiny,
    tree,
    until,
)

from attnbench.cells import sources
from attnbench.execute import cell_run
from attnbench.execute import run as run_file
from attnbench.store.folder import CellFolder

pytestmark = pytest.mark.usefixtures("ctrl_c_is_heard")

EVERY_STEP = ("--checkpoint-minutes", "0")
NOW = {"SIGINT": "os.kill(os.getpid(), signal.SIGINT)"}


@pytest.fixture(autouse=True)
def _no_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting FLOPs takes longer than these runs; test_costs.py has its tests, and the processes below count."""
    monkeypatch.setattr(cell_run, "count_costs", lambda factory, recipe: {})


def on_cue(condition: str, action: str) -> str:
    """Code for `install_module` that acts while the environment variable CUE is set."""
    return f'if os.environ.get("CUE") and {condition}:\n    {action}'


def refuse_to_train(*_: Any, **__: Any) -> None:
    raise AssertionError("this run has nothing to train")


def test_a_second_run_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "results"
    assert attnbench(*tiny(store, "sga,scft")).code == 0
    before = tree(store)
    monkeypatch.setattr(cell_run, "train", refuse_to_train)
    again = attnbench(*tiny(store, "sga,scft"))
    assert again.code == 0, again.err
    assert "SGA on synthetic, seed 0: finished\n" in again.err
    assert "SCFT on synthetic, seed 0: finished\n" in again.err
    assert "SSIM" in again.out
    assert tree(store) == before


def test_a_run_after_sigkill_ends_as_an_undisturbed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, process: Process
) -> None:
    """Killed wherever it is, after step 7; and it does not get beyond step 16."""
    waits = install_waiting(tmp_path / "site", monkeypatch, "struck", step=16)
    run = tiny(tmp_path / "killed", "struck", train__steps=20)
    killed = process(*run, *EVERY_STEP)
    until(lambda: any(log.read_text().count("\n") >= 7 for log in (tmp_path / "killed").glob("*/losses.jsonl")))
    killed.kill()
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    folder = only_cell(tmp_path / "killed")
    assert record(folder)["status"] == "running"
    assert not (folder / "generator.safetensors").exists()

    waits.touch()
    again = attnbench(*run)
    assert again.code == 0, again.err
    assert "continues at step" in again.err
    assert attnbench(*tiny(tmp_path / "undisturbed", "struck", train__steps=20)).code == 0
    assert same_result(folder, only_cell(tmp_path / "undisturbed"))
    assert steps_in(folder / "losses.jsonl") == list(range(1, 21))
    assert not list(folder.rglob("*.draft"))


def test_ctrl_c_stops_after_a_checkpoint_and_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_module(tmp_path / "site", monkeypatch, "calm", on_cue("self.training and self.step == 2", NOW["SIGINT"]))
    monkeypatch.setenv("CUE", "1")
    stopped = attnbench(*tiny(tmp_path / "stopped", "calm"))
    assert stopped.code == 130
    assert "stopped after step 2" in stopped.err
    assert stopped.err.splitlines()[-1].endswith("the same command continues from there")
    folder = only_cell(tmp_path / "stopped")
    assert record(folder) | {"status": "interrupted", "step": 2} == record(folder)
    checkpoint = CellFolder(folder).read_checkpoint()
    assert checkpoint is not None
    assert checkpoint["step"] == 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    monkeypatch.delenv("CUE")
    again = attnbench(*tiny(tmp_path / "stopped", "calm"))
    assert again.code == 0, again.err
    assert "continues at step 2" in again.err
    attnbench(*tiny(tmp_path / "undisturbed", "calm"))
    assert same_result(folder, only_cell(tmp_path / "undisturbed"))


def test_a_second_sigterm_does_not_take_the_time_to_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SLURM sends two, some milliseconds apart."""
    act = "if self.training and self.step == 2:\n    for _ in range(2):\n        os.kill(os.getpid(), signal.SIGTERM)"
    install_module(tmp_path / "site", monkeypatch, "told_twice", act)
    assert attnbench(*tiny(tmp_path / "results", "told_twice")).code == 130
    folder = only_cell(tmp_path / "results")
    assert record(folder) | {"status": "interrupted", "step": 2} == record(folder)


def test_a_cell_stopped_in_its_last_evaluation_still_reports_its_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_module(tmp_path / "site", monkeypatch, "late", on_cue("self.training and self.step == 4", NOW["SIGINT"]))
    monkeypatch.setenv("CUE", "1")
    assert attnbench(*tiny(tmp_path / "results", "late")).code == 130
    monkeypatch.delenv("CUE")
    monkeypatch.setattr("attnbench.training.loop.train_step", refuse_to_train)
    assert attnbench(*tiny(tmp_path / "results", "late")).code == 0
    folder = only_cell(tmp_path / "results")
    last = json.loads((folder / "losses.jsonl").read_text().splitlines()[-1])
    assert {"step": 4, **record(folder)["losses"]} == last


def test_an_epoch_whose_evaluation_was_stopped_is_evaluated_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_module(tmp_path / "site", monkeypatch, "epochs", on_cue("self.training and self.step == 2", NOW["SIGINT"]))
    changes = {"evaluation__when": "each_epoch"}  # of two steps
    monkeypatch.setenv("CUE", "1")
    assert attnbench(*tiny(tmp_path / "stopped", "epochs", **changes)).code == 130
    monkeypatch.delenv("CUE")
    for store in ("stopped", "undisturbed"):
        assert attnbench(*tiny(tmp_path / store, "epochs", **changes)).code == 0
    stopped, undisturbed = (only_cell(tmp_path / store) / "evaluations.jsonl" for store in ("stopped", "undisturbed"))
    assert steps_in(stopped) == [2, 4]
    assert stopped.read_bytes() == undisturbed.read_bytes()


def test_a_module_that_raises_fails_its_cell_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    act = 'if self.training and self.step == 3:\n    raise RuntimeError("no such\\nluck")'
    install_module(tmp_path / "site", monkeypatch, "unlucky", act)
    store = tmp_path / "results"
    outcome = attnbench(*tiny(store, "unlucky,sga"))
    assert outcome.code == 1
    failed, other = record(only_cell(store, "unlucky")), record(only_cell(store, "sga"))
    assert (failed["status"], other["status"]) == ("failed", "finished")
    assert failed["failure"]["message"] == "RuntimeError: no such luck"
    assert "Traceback" in failed["failure"]["traceback"]
    assert "unlucky_package.py" in failed["failure"]["traceback"]
    assert "failed [1]" in outcome.out
    assert "Traceback" not in outcome.err

    again = attnbench(*tiny(store, "unlucky,sga"))
    assert again.code == 1
    assert "--retry-failed runs it again" in again.err
    assert record(only_cell(store, "unlucky")) == failed


def test_retry_failed_runs_a_failed_cell_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_module(
        tmp_path / "site", monkeypatch, "flaky", on_cue("self.training and self.step == 3", 'raise RuntimeError("flaky")')
    )
    monkeypatch.setenv("CUE", "1")
    assert attnbench(*tiny(tmp_path / "results", "flaky"), *EVERY_STEP).code == 1
    monkeypatch.delenv("CUE")
    assert attnbench(*tiny(tmp_path / "results", "flaky")).code == 1
    assert attnbench(*tiny(tmp_path / "results", "flaky"), "--retry-failed").code == 0
    assert attnbench(*tiny(tmp_path / "undisturbed", "flaky")).code == 0
    folder = only_cell(tmp_path / "results")
    assert record(folder)["status"] == "finished"
    assert "failure" not in record(folder)
    assert same_result(folder, only_cell(tmp_path / "undisturbed"))


@pytest.mark.parametrize("k", [1, 3])
def test_a_cell_diverges_at_the_step_whose_loss_is_not_finite(k: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    act = f'if self.training and self.step == {k}:\n    mixed = mixed * float("nan")'
    install_module(tmp_path / "site", monkeypatch, f"nan{k}", act)
    outcome = attnbench(*tiny(tmp_path / "results", f"nan{k},sga"), *EVERY_STEP)
    assert outcome.code == 1
    folder = only_cell(tmp_path / "results", "nan")
    assert record(folder)["status"] == "diverged"
    assert record(folder)["failure"]["message"].startswith(f"diverged at step {k}:")
    assert f"diverged at step {k}" in outcome.err
    assert record(only_cell(tmp_path / "results", "sga"))["status"] == "finished"
    assert steps_in(folder / "losses.jsonl") == list(range(1, k))
    checkpoint = CellFolder(folder).read_checkpoint()
    assert (checkpoint["step"] if checkpoint else 0) == k - 1
    if checkpoint:
        assert all(weight.isfinite().all() for weight in checkpoint["generator"].values())


def test_a_learning_rate_that_blows_up_is_recorded_as_diverged(tmp_path: Path) -> None:
    changes = {"train__lr_generator": 1e30, "train__steps": 20}
    assert attnbench(*tiny(tmp_path / "results", **changes)).code == 1
    folder = only_cell(tmp_path / "results")
    said = record(folder)["failure"]["message"]
    steps = steps_in(folder / "losses.jsonl")
    assert record(folder)["status"] == "diverged"
    assert said.startswith(f"diverged at step {len(steps) + 1}: the ")
    assert steps == list(range(1, len(steps) + 1))


def test_two_processes_share_the_cells_and_do_none_twice(tmp_path: Path, process: Process) -> None:
    store, modules = tmp_path / "results", "sga,scft,sga:stop_gradient=false"
    both = [process(*tiny(store, modules, train__steps=15)) for _ in range(2)]
    outcomes = [(*one.communicate(timeout=500), one.returncode) for one in both]
    for out, err, code in outcomes:
        assert code == 0, err
        assert "SCFT" in out
    said = "".join(err for _, err, _ in outcomes)
    for label in ("SGA on", "SCFT on", "SGA w/o stop-gradient on"):
        assert sum(line.startswith(label) and line.endswith(": new") for line in said.splitlines()) == 1, said
    assert all(steps_in(log) == list(range(1, 16)) for log in store.glob("*/losses.jsonl"))


def test_a_cell_that_another_process_holds_is_done_last(tmp_path: Path) -> None:
    store, held = tmp_path / "results", threading.Event()
    (busy, _) = cells("sga,scft")
    folder = CellFolder(store / busy.folder_name)
    folder.path.mkdir(parents=True)

    def other_process() -> None:
        with folder.locked(wait=False) as ours:
            assert ours
            held.set()
            until(lambda: list(store.glob("scft-*/generator.safetensors")))

    thread = threading.Thread(target=other_process)
    thread.start()
    assert held.wait(60)
    outcome = attnbench(*tiny(store, "sga,scft"))
    thread.join()
    assert outcome.code == 0, outcome.err
    order = ["SGA on synthetic, seed 0: another process is running it; continuing", "SCFT on synthetic, seed 0: new"]
    order += ["SGA on synthetic, seed 0: waiting", "SGA on synthetic, seed 0: new"]
    assert sorted(order, key=outcome.err.index) == order


def test_ctrl_c_ends_the_wait_for_another_process(tmp_path: Path) -> None:
    held, done = threading.Event(), threading.Event()
    (busy,) = cells("sga")
    folder = CellFolder(tmp_path / busy.folder_name)
    folder.path.mkdir(parents=True)

    def other_process() -> None:
        with folder.locked(wait=False):
            held.set()
            until(lambda: "waiting" in getattr(sys.stderr, "getvalue", str)())
            os.kill(os.getpid(), signal.SIGINT)
            done.wait(300)

    thread = threading.Thread(target=other_process)
    thread.start()
    assert held.wait(60)
    outcome = attnbench(*tiny(tmp_path, "sga"))
    done.set()
    thread.join()
    assert outcome.code == 130
    assert outcome.err.splitlines()[-1].startswith("stopped;")


def test_ctrl_c_before_the_first_cell_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_file, "prepare", lambda *_, **__: signal.raise_signal(signal.SIGINT))
    outcome = attnbench(*tiny(tmp_path))
    assert outcome.code == 130
    assert outcome.err == "stopped; nothing saved is lost, the same command continues\n"


def no_space(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_one_line_and_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save, calls = torch.save, []

    def fill_up(*arguments: Any, **options: Any) -> None:
        calls.append(arguments)
        (no_space if len(calls) == 3 else save)(*arguments, **options)

    store = tmp_path / "results"
    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", fill_up)
        full = attnbench(*tiny(store), *EVERY_STEP)
    assert full.code == 2
    assert [line for line in full.err.splitlines() if line.startswith("error: ")] == [full.err.splitlines()[-1]]
    assert f"error: the disk of '{store}' is full" in full.err
    assert "free some space and run the same command again" in full.err
    checkpoint = CellFolder(only_cell(store)).read_checkpoint()
    assert checkpoint is not None
    assert checkpoint["step"] == 2

    again = attnbench(*tiny(store))
    assert again.code == 0, again.err
    assert "continues at step 2" in again.err
    attnbench(*tiny(tmp_path / "undisturbed"))
    assert same_result(only_cell(store), only_cell(tmp_path / "undisturbed"))


@pytest.mark.parametrize("when", ["self.training and self.step == 3", "self.step == 4 and not self.training"])
def test_a_disk_that_really_fills_up_costs_nothing(
    when: str, small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filler, name = small_disk / "filler", f"greedy{int('not' in when)}"
    fill = f"""if os.environ.get("CUE") and {when}:
    with open("{filler}", "wb", buffering=0) as file:
        try:
            while file.write(bytes(1024)):
                pass
        except OSError:
            pass"""
    install_module(tmp_path / "site", monkeypatch, name, fill)
    monkeypatch.setenv("CUE", "1")
    full = attnbench(*tiny(small_disk / "results", name), *EVERY_STEP)
    assert full.code == 2, full.err
    assert full.err.splitlines()[-1].startswith(f"error: the disk of '{small_disk / 'results'}' is full: ")
    assert "Traceback" not in full.err

    filler.unlink()
    monkeypatch.delenv("CUE")
    again = attnbench(*tiny(small_disk / "results", name))
    assert again.code == 0, again.err
    assert "continues at step" in again.err
    attnbench(*tiny(tmp_path / "undisturbed", name))
    assert same_result(only_cell(small_disk / "results"), only_cell(tmp_path / "undisturbed"))


def test_a_disk_too_small_for_the_new_cells_is_refused_before_training(small_disk: Path) -> None:
    outcome = attnbench(*tiny(small_disk / "results", backbone__width=16))
    assert outcome.code == 2
    assert "free some space or choose another folder with -o" in outcome.err.splitlines()[-1]
    assert list((small_disk / "results").iterdir()) == []


def test_a_metric_whose_weights_appear_later_is_measured_without_training(
    tmp_path: Path, torch_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_module(tmp_path / "site", monkeypatch, "patient", on_cue("not self.training", NOW["SIGINT"]))
    store = tmp_path / "results"
    changes = {"data__size": 32, "evaluation__metrics": "[ssim,lpips]", "evaluation__lpips_network": "squeeze"}
    run = [*tiny(store, "patient", HEADS.replace("16", "32"), **changes), "--pictures", "none"]

    def numbers() -> dict[str, Any]:
        (measurement,) = record(only_cell(store))["measurements"]
        return measurement["metrics"]  # type: ignore[no-any-return]

    with monkeypatch.context() as without:
        without.setenv("TORCH_HOME", str(tmp_path / "empty"))
        without.setenv("ATTNBENCH_OFFLINE", "1")
        assert attnbench(*run).code == 0
        lacking = record(only_cell(store))
        before = numbers()
        assert before["lpips:network=squeeze"]["value"] is None
        assert "lpips-squeeze" in before["lpips:network=squeeze"]["reason"]
        assert attnbench(*run).code == 0
        assert record(only_cell(store)) == lacking

    monkeypatch.setattr(cell_run, "train", refuse_to_train)
    monkeypatch.setenv("CUE", "1")  # Ctrl-C in the middle of it
    assert attnbench(*run).code == 130
    assert record(only_cell(store)) == lacking
    monkeypatch.delenv("CUE")
    again = attnbench(*run)
    assert again.code == 0, again.err
    assert "trained; measures lpips:network=squeeze\n" in again.err
    found = record(only_cell(store))
    assert numbers()["lpips:network=squeeze"]["value"] > 0
    assert numbers()["ssim"] == before["ssim"]
    assert {**found, "measurements": None} == {**lacking, "measurements": None}
    assert attnbench(*run).err.endswith(": finished\n")


def edit(site: Path, name: str) -> None:
    """Change what a module that `install_module` made computes."""
    file = site / f"{name}_package.py"
    file.write_text(file.read_text().replace("return mixed", "return 2 * mixed"))
    sources.forget()


def test_a_cell_whose_module_changed_is_shown_as_stale_and_runs_again_only_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_module(tmp_path / "site", monkeypatch, "edited", "pass")
    store = tmp_path / "results"
    assert attnbench(*tiny(store, "edited")).code == 0
    before = record(only_cell(store, "edited"))
    edit(tmp_path / "site", "edited")

    again = attnbench(*tiny(store, "edited"))
    assert again.code == 0
    assert "finished; stale: the code of edited_package has changed since; --rerun-stale runs it again" in again.err
    assert "stale" in again.out
    assert record(only_cell(store, "edited")) == before
    status = attnbench("status", store)
    assert "--rerun-stale" in status.out

    rerun = attnbench(*tiny(store, "edited"), "--rerun-stale")
    assert rerun.code == 0, rerun.err
    (old,) = (store / ".superseded").iterdir()
    assert record(old) == before
    assert (old / "generator.safetensors").is_file()
    after = record(only_cell(store, "edited"))
    assert after["module"]["sources"] != before["module"]["sources"]
    assert "stale" not in attnbench(*tiny(store, "edited"), "--rerun-stale").err


def test_an_unfinished_cell_whose_module_changed_starts_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_module(tmp_path / "site", monkeypatch, "halfway", on_cue("self.training and self.step == 2", NOW["SIGINT"]))
    monkeypatch.setenv("CUE", "1")
    assert attnbench(*tiny(tmp_path / "results", "halfway")).code == 130
    monkeypatch.delenv("CUE")
    edit(tmp_path / "site", "halfway")
    again = attnbench(*tiny(tmp_path / "results", "halfway"))
    assert again.code == 0, again.err
    assert "starts again: the code of halfway_package has changed since its checkpoint at step 2" in again.err
    assert steps_in(only_cell(tmp_path / "results", "halfway") / "losses.jsonl") == [1, 2, 3, 4]
    (old,) = (tmp_path / "results" / ".superseded").iterdir()
    assert CellFolder(old).read_checkpoint() is not None
