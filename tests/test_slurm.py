"""Cells on a SLURM cluster: one of our own, of one node, on the loopback address (slurm_cluster.py)."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from runs import attnbench as run_attnbench
from runs import cells, edit, install_waiting, only_cell, record, same_result, steps_in, tiny
from slurm_cluster import Cluster, Unavailable, running_cluster

from attnbench.errors import UserError
from attnbench.execute import slurm_jobs
from attnbench.execute.inline import Inline
from attnbench.execute.planned_cell import plan_cell
from attnbench.execute.slurm import Slurm
from attnbench.execute.slurm_jobs import CellJob, active
from attnbench.store.folder import CellFolder
from attnbench.store.job import RunOptions

EACH = 3  # steps until a cell that is disturbed waits for that
OPTIONS = RunOptions()
ON_TEST = Slurm(partition="test", time=10, gpus=0, cpus=1)


@pytest.fixture(scope="session")
def _cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster | Unavailable]:
    try:
        with running_cluster(tmp_path_factory.mktemp("slurm")) as running:
            yield running
    except Unavailable as reason:
        yield reason


@pytest.fixture
def cluster(_cluster: Cluster | Unavailable, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """SLURM, as the commands of this process find it. Jobs that a test leaves are cancelled."""
    if isinstance(_cluster, Unavailable):
        pytest.skip(str(_cluster))
    for name, value in _cluster.environment.items():
        monkeypatch.setenv(name, value)
    yield _cluster
    _cluster.command("scancel", "--partition=test,urgent")
    _cluster.wait(lambda: not _cluster.command("squeue", "--noheader"), "the cancelled jobs end")


def planned(store: Path, module: str = "sga", **changes: object) -> list[tuple[str, Path]]:
    """The cells of a tiny run, in the store and ready to be handed over: (label, folder)."""
    found = cells(module, **changes)
    for cell in found:
        plan_cell(cell, CellFolder(store / cell.folder_name), OPTIONS)
    return [(cell.label, store / cell.folder_name) for cell in found]


def run_undisturbed(store: Path, module: str = "sga", **changes: object) -> list[Path]:
    store.mkdir()
    found = cells(module, **changes)
    Inline(["cpu"]).run(found, store, RunOptions())
    return [store / cell.folder_name for cell in found]


def steps_done(folder: Path) -> int:
    """By the log; 0 before it is there."""
    log = folder / "losses.jsonl"
    return len(log.read_bytes().splitlines()) if log.is_file() else 0


def has_status(folder: Path, status: str) -> Callable[[], bool]:
    return lambda: record(folder)["status"] == status


def test_an_array_of_cells_gives_the_numbers_of_a_run_in_this_process(cluster, tmp_path):
    todo = planned(tmp_path / "slurm", seeds=(0, 1))
    jobs = ON_TEST.submit(todo, tmp_path / "slurm", OPTIONS)
    (array,) = {job.split("_")[0] for job in jobs.values()}
    assert list(jobs.values()) == [f"{array}_0", f"{array}_1"]
    for _, folder in todo:
        cluster.wait(has_status(folder, "finished"), f"{folder} is finished")
    cluster.wait(lambda: not active(jobs.values()), "the jobs end")
    assert {cluster.state(job) for job in jobs.values()} == {"COMPLETED"}
    for ours, (_, theirs) in zip(run_undisturbed(tmp_path / "inline", seeds=(0, 1)), todo, strict=True):
        assert same_result(ours, theirs)


def warn(cluster: Cluster, job: str) -> None:
    """As SLURM does before a job's time is over."""
    cluster.command("scancel", "--signal=USR2", job)


def preempt(cluster: Cluster, job: str) -> None:
    """By a job that may push others out and needs the whole node."""
    cluster.command("sbatch", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")


def terminate(cluster: Cluster, job: str) -> None:
    """As SLURM does at a preemption with a time of grace: the job runs on, in order to save."""
    cluster.command("scancel", "--signal=TERM", job)


def test_however_often_a_job_is_disturbed_its_cell_ends_with_the_same_weights(cluster, tmp_path, monkeypatch):
    """Each start of the cell waits in a step to be disturbed; the fourth is not."""
    waits = install_waiting(tmp_path / "site", monkeypatch, "patient", step=EACH)
    ((label, folder),) = planned(tmp_path / "slurm", "patient", train__steps=4 * EACH)
    ((_, job),) = ON_TEST.submit([(label, folder)], tmp_path / "slurm", OPTIONS).items()
    for start, disturb in enumerate((warn, preempt, terminate), start=1):
        cluster.wait(waits.exists, f"the cell trains, to be disturbed: {disturb.__name__}")
        disturb(cluster, job)
        cluster.wait(has_status(folder, "interrupted"), f"the cell is saved: {disturb.__name__}")
        assert record(folder)["step"] == start * EACH
        waits.unlink()
    waits.touch()
    cluster.wait(has_status(folder, "finished"), "the cell is finished")
    cluster.wait(lambda: not active([job]), "the job ends")
    assert (cluster.state(job), cluster.restarts(job)) == ("COMPLETED", 3)
    assert steps_in(folder / "losses.jsonl") == list(range(1, 4 * EACH + 1))
    (undisturbed,) = run_undisturbed(tmp_path / "inline", "patient", train__steps=4 * EACH)
    assert same_result(folder, undisturbed)


def test_a_cancelled_job_saves_its_cell_and_does_not_come_back(cluster, tmp_path):
    todo = planned(tmp_path, seeds=(0, 1), train__steps=100_000)
    jobs = Slurm(partition="test", time=10, gpus=0, cpus=1, jobs=1).submit(todo, tmp_path, OPTIONS)
    first, second = (jobs[folder] for _, folder in todo)
    cluster.wait(lambda: steps_done(todo[0][1]) > 0, "the first cell trains")
    assert active([first, second]) == {first: "running", second: "pending (JobArrayTaskLimit)"}
    assert active([second, "99999_1"]) == {second: "pending (JobArrayTaskLimit)"}
    cluster.command("scancel", first, second)
    cluster.wait(has_status(todo[0][1], "interrupted"), "the cell is saved")
    cluster.wait(lambda: not active([first, second]), "the jobs end")
    assert (cluster.state(first), cluster.restarts(first)) == ("CANCELLED", 0)
    assert record(todo[0][1])["step"] > 0


def test_what_slurm_refuses_is_said_in_one_line(cluster, tmp_path, capfd):
    todo = planned(tmp_path)
    capfd.readouterr()
    with pytest.raises(UserError) as refused:
        Slurm(partition="nosuch", gpus=0).submit(todo, tmp_path, OPTIONS)
    assert str(refused.value) == "unknown partition 'nosuch' (known: test, urgent)"
    with pytest.raises(UserError, match="SLURM rejects the jobs: .*unrecognized option '--colour=red'") as refused:
        Slurm(gpus=0, extra={"colour": "red"}).submit(todo, tmp_path, OPTIONS)
    assert "\n" not in str(refused.value)
    assert capfd.readouterr() == ("", "")


def test_without_submitit_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r'pip install "attnbench\[slurm\]"'):
        ON_TEST.submit([("a cell", tmp_path)], tmp_path, OPTIONS)


def test_away_from_a_cluster_nothing_is_known_of_jobs(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert active(["12_0"]) is None
    assert active([]) == {}
    with pytest.raises(UserError, match="sbatch is not on the PATH: .* login node"):
        ON_TEST.submit([("a cell", tmp_path)], tmp_path, OPTIONS)


@pytest.mark.parametrize(
    ("sinfo", "reason"),
    [
        ("echo 'sinfo: fatal: Could not establish a source' >&2; exit 1", "Could not establish a source"),
        ("echo 'sinfo: error: no route' >&2; exec sleep 60", "Command .* timed out after 0.5 seconds"),
    ],
)
def test_where_slurm_does_not_answer_nothing_is_planned(sinfo, reason, tmp_path, monkeypatch):
    for command in ("sbatch", "srun", "sinfo"):
        (tmp_path / command).write_text(f"#!/bin/sh\n{sinfo}\n")
        (tmp_path / command).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(slurm_jobs, "ASK_SECONDS", 0.5 if "sleep" in sinfo else 30)
    outcome = run_attnbench(*tiny(tmp_path / "store", executor="slurm"))
    assert outcome.code == 2
    assert re.match(rf"error: SLURM does not respond \({reason}\): run this where", outcome.err)
    assert not (tmp_path / "store").exists()


def test_a_job_that_gets_nowhere_is_not_requeued_for_ever(tmp_path):
    ((label, folder),) = planned(tmp_path)
    job = CellJob(label, folder, OPTIONS, "cpu")
    for _ in range(2):
        job = job.checkpoint().function
    with pytest.raises(SystemExit, match="--time"):
        job.checkpoint()
    assert record(folder)["status"] == "failed"
    assert record(folder)["failure"]["message"] == (
        "3 jobs in a row ended before a new step was saved (step 0): give them more time (--time)"
    )


def test_a_job_that_gets_on_is_requeued_as_often_as_it_takes(tmp_path):
    ((label, folder),) = planned(tmp_path)
    job = CellJob(label, folder, OPTIONS, "cpu")
    for step in range(20):
        edit(folder, step=step // 2)
        job = job.checkpoint().function
    assert record(folder)["status"] == "waiting"


def test_options_become_those_of_sbatch():
    options = Slurm(time="1-00:00:00", gpus=2, cpus=8, extra={"mail-type": "FAIL", "exclusive": ""})
    found = options.parameters(cells=5)
    assert (found["time"], found["gpus_per_node"], found["cpus_per_task"], found["array_parallelism"]) == (1440, 2, 8, 5)
    assert found["srun_args"] == ["--cpus-per-task=8"]
    assert found["additional_parameters"] == {"requeue": True, "mail-type": "FAIL", "exclusive": True}
    with pytest.raises(UserError, match="time 'soon' is not a time limit that SLURM accepts"):
        Slurm(time="soon").parameters(cells=1)


def test_the_command_runs_cells_on_the_cluster(cluster, tmp_path):
    options = ("--partition", "test", "--time", "10", "--gpus", "0", "--cpus", "1")
    outcome = run_attnbench(*tiny(tmp_path / "store", executor="slurm"), *options)
    assert outcome.code == 0, outcome.err
    folder = only_cell(tmp_path / "store", "sga")
    (undisturbed,) = run_undisturbed(tmp_path / "inline")
    assert same_result(folder, undisturbed)
