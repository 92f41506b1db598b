"""Stores of format 1, in which a cell's evaluation was a part of it: read as they are, and taken over without a loss."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from runs import attnbench, cells, install_module, only_cell, record, same_result, tiny, tree

from attnbench.cells.identity import identity_of
from attnbench.cells.record import parse_record
from attnbench.data.format_1 import fingerprint_of_format_1
from attnbench.execute import cell_run, migrate
from attnbench.store.frame import results

STORE = Path(__file__).parent / "format_1"  # one cell of each kind, as attnbench 0.1.0 of 2026-11 wrote them
FINISHED = "sga-synthetic-seed0-65c3f786d3"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return shutil.copytree(STORE, tmp_path / "old")


def values(cell: Path) -> dict[str, Any]:
    return json.loads((cell / "cell.json").read_text())  # type: ignore[no-any-return]


def test_a_store_of_format_1_is_read_as_it_is() -> None:
    before = tree(STORE)
    frame = results(STORE).set_index("folder")
    for folder in STORE.iterdir():
        then = values(folder)
        row = frame.loc[folder.name]
        assert (row["status"], row["identity"], row["test_images"] == then["dataset"]["test"]) == (
            then["status"],
            then["identity"],
            bool(then.get("metrics")),
        )
        for name, number in then.get("metrics", {}).items():
            keys = [key for key in frame.columns if key.split(":")[0] == name and "." not in key]
            assert number["value"] in [row[key] for key in keys]
    assert frame.loc["sga-cat-seed0-60d32fbb20", "fid:dims=192.floor"] == pytest.approx(0.24375482174520258)
    assert "FID-192" in attnbench("table", STORE, "--format", "md", "--metrics", "fid").out
    assert attnbench("status", STORE).code == 0
    assert tree(STORE) == before


def test_the_best_epoch_of_format_1_is_the_same() -> None:
    then = values(STORE / "sga-cat-seed0-60d32fbb20")
    best = {"step": 60, "epoch": 4, "metrics": then["metrics"]}
    now = parse_record(json.dumps({**then, "best": best})).best
    assert now is not None
    assert (now.step, now.epoch, now.by) == (60, 4, "fid:dims=192")
    assert [number.value for number in now.metrics.values()] == [number["value"] for number in then["metrics"].values()]


def test_every_kind_of_cell_is_taken_over_and_nothing_is_lost(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(old / "sga-cat-seed0-60d32fbb20")  # its images are not here
    fingerprint = values(old / FINISHED)["dataset"]["fingerprint"]
    monkeypatch.setattr(migrate, "fingerprint_of_format_1", lambda dataset: fingerprint)  # its drawings as they were
    (dataset,) = {cell.dataset.name: cell.dataset for cell in cells()}.values()
    monkeypatch.setattr(migrate, "images_of", lambda path, record, data, data_root: dataset)
    before = {folder.name.split("-")[0]: values(folder) for folder in old.iterdir()}
    shown = attnbench("table", old, "--format", "md")
    done = attnbench("migrate", old)
    assert (done.code, done.out) == (0, "taken over 5, left as they are 0\n")
    for folder in old.iterdir():
        then, now = before[folder.name.split("-")[0]], values(folder)
        assert folder.name.endswith(now["identity"][:10])
        assert (now["format"], now["identity_version"], now["status"]) == (2, 2, then["status"])
        assert now["dataset"]["fingerprint"] == dataset.fingerprints["train"]
        everything = {**now["recipe"]["values"], "evaluation": now["recipe"]["evaluation"]}
        assert everything == then["recipe"]["values"]
        for part in ("module", "seed", "weights", "step", "costs", "losses", "failure", "provenance", "started", "ended"):
            assert now.get(part) == then.get(part), part
        numbers = {name: number for one in now.get("measurements", []) for name, number in one["metrics"].items()}
        assert {key.split(":")[0]: number["value"] for key, number in numbers.items()} == {
            name: number["value"] for name, number in then.get("metrics", {}).items()
        }
        for one in now.get("measurements", []):
            assert (one["folder"], one["pictures"], one["test"]["fingerprint"]) == (
                ".",
                "small",
                dataset.fingerprints["test"],
            )
    after = attnbench("table", old, "--format", "md")
    assert [line for line in after.out.splitlines() if line.startswith("|")] == [
        line.replace("\n", "") for line in shown.out.splitlines() if line.startswith("|")
    ]
    again = tree(old)
    assert attnbench("migrate", old).out == "taken over 0, left as they are 0\n"
    assert tree(old) == again


def test_a_cell_whose_images_are_not_at_hand_stays_as_it_is_and_says_why(old: Path) -> None:
    before = tree(old)
    done = attnbench("migrate", old)
    assert done.code == 0
    assert done.out.startswith("taken over 0, left as they are 6\n")
    assert "left as it is: sga-cat-seed0-60d32fbb20: the images of" in done.out
    source = "drawn here (version 2, difficulty 1, seed 0, 128 px)"
    assert f"left as it is: {FINISHED}: 'synthetic' in {source} differs from the images" in done.out
    assert tree(old) == before
    refused = attnbench("measure", old, "--device", "cpu")
    assert refused.code == 1
    assert f"it is of an older attnbench: `attnbench migrate {old}` takes it over first" in refused.err


def as_format_1(cell: Path, run: Any) -> Path:
    """Write a tiny cell's record as format 1 has it, and rename its folder; `run` is the cell in memory."""
    now = record(cell)
    evaluation = run.recipe.evaluation.model_dump(mode="json", exclude={"references", "limit"})
    recipe = {**now["recipe"]["values"], "evaluation": evaluation}
    fingerprint = fingerprint_of_format_1(run.dataset)
    identity = identity_of(
        recipe=recipe,
        module=now["module"]["name"],
        options=now["module"]["options"],
        fingerprint=fingerprint,
        seed=now["seed"],
        weights=now["weights"],
        version=1,
    )
    then = {name: value for name, value in now.items() if name not in ("identity_version", "measurements")}
    then |= {
        "format": 1,
        "identity": identity,
        "dataset": {**now["dataset"], "fingerprint": fingerprint, "test": len(run.dataset.test)},
        "recipe": {**now["recipe"], "values": recipe},
    }
    if measurements := now.get("measurements"):
        parts = ("value", "n")
        then["metrics"] = {key: {part: number[part] for part in parts} for key, number in measurements[0]["metrics"].items()}
    (cell / "cell.json").write_text(json.dumps(then, indent=1))
    return cell.rename(cell.with_name(f"{cell.name[:-10]}{identity[:10]}"))


def test_a_run_goes_on_with_cells_of_format_1_and_measures_what_they_lack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"evaluation__metrics": "[ssim_global]"}
    run = tiny(tmp_path / "results", **changes)
    assert attnbench(*run).code == 0
    whole = only_cell(tmp_path / "results")
    name, before = whole.name, record(whole)
    old = as_format_1(whole, cells(**changes)[0])
    shutil.move(old / before["measurements"][0]["folder"] / "pairs.csv", old)
    shutil.rmtree(old / "measured")
    monkeypatch.setattr(cell_run, "train", lambda *_, **__: pytest.fail("it must not train"))
    done = attnbench(*run)
    assert done.code == 0, done.err
    assert f"{old.name}: taken over from an older attnbench, as {name}" in done.err
    assert done.err.endswith("SGA on synthetic, seed 0: finished\n")
    now = record(only_cell(tmp_path / "results"))
    assert now["identity"] == before["identity"]
    assert [one["identity"] for one in now["measurements"]] == [one["identity"] for one in before["measurements"]]
    assert attnbench(*tiny(tmp_path / "results", evaluation__metrics="[ssim_global,ssim]")).code == 0
    (measurement,) = record(only_cell(tmp_path / "results"))["measurements"]
    assert measurement["metrics"]["ssim"]["source"] == "generator"
    assert "ssim" in (only_cell(tmp_path / "results") / "pairs.csv").read_text().splitlines()[0]


def test_an_interrupted_cell_of_format_1_ends_as_an_undisturbed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    act = 'if self.training and self.step == 3 and os.environ.get("CUE"):\n    raise RuntimeError("on cue")'
    install_module(tmp_path / "site", monkeypatch, "patient", act)
    assert attnbench(*tiny(tmp_path / "undisturbed", "patient")).code == 0
    run = tiny(tmp_path / "results", "patient")
    monkeypatch.setenv("CUE", "1")
    assert attnbench(*run, "--checkpoint-minutes", "0").code == 1
    monkeypatch.delenv("CUE")
    cell = only_cell(tmp_path / "results")
    assert record(cell)["step"] == 2
    (cell / "cell.json").write_text(json.dumps({**record(cell), "status": "interrupted"}))
    as_format_1(cell, cells("patient")[0])
    done = attnbench(*run)
    assert done.code == 0, done.err
    assert "continues at step 2" in done.err
    assert same_result(only_cell(tmp_path / "results"), only_cell(tmp_path / "undisturbed"))


def test_a_cell_that_is_running_is_left_and_a_killed_migration_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"evaluation__metrics": "[ssim_global]"}
    assert attnbench(*tiny(tmp_path / "results", **changes)).code == 0
    old = as_format_1(only_cell(tmp_path / "results"), cells(**changes)[0])
    with FileLock(old / ".lock"):
        assert "another process is running it" in attnbench("migrate", tmp_path / "results").out
    with monkeypatch.context() as killed:
        killed.setattr(migrate.CellFolder, "write_record", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        assert attnbench("migrate", tmp_path / "results").code == 130
    assert attnbench("migrate", tmp_path / "results").out == "taken over 1, left as they are 0\n"
    assert record(only_cell(tmp_path / "results"))["identity_version"] == 2


def test_a_folder_that_is_no_store_is_refused(tmp_path: Path) -> None:
    refused = attnbench("migrate", tmp_path / "nowhere")
    assert (refused.code, "there is no results folder" in refused.err) == (2, True)
