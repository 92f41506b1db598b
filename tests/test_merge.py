"""Merging: finished cells come whole or not at all, nothing that was here is lost, and only what is what it says counts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from filelock import FileLock
from runs import attnbench, only_cell, record, tree

from attnbench.errors import UserError
from attnbench.store import merge as merge_file
from attnbench.store.frame import results
from attnbench.store.merge import merge
from attnbench.store.reading import records

VARIANTS = Path(__file__).parents[1] / "results" / "variants"
NAME = "scft-cat-seed0-273fbe252b"
LEFT_BEHIND = ("job.json", "progress.json", "cell.log", "checkpoint.pt", "checkpoint.previous.pt", ".lock", ".x.1.draft")


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Somebody's store with one finished cell, all its files beside it."""
    cell = shutil.copytree(VARIANTS / NAME, tmp_path / "other" / NAME)
    for name in (*LEFT_BEHIND, "generator.safetensors"):
        (cell / name).write_text(name)
    (cell / "samples").mkdir()
    (cell / "samples" / "step1.png").write_text("picture")
    return tmp_path / "other"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    return tmp_path / "mine"


def change(cell: Path, **parts: Any) -> None:
    (cell / "cell.json").write_text(json.dumps({**record(cell), **parts}))


def unfinished(mine: Path, name: str = NAME) -> Path:
    """A cell of ours that was interrupted."""
    cell = mine / name
    cell.mkdir(parents=True)
    shutil.copy(VARIANTS / NAME / "cell.json", cell)
    change(cell, status="interrupted")
    (cell / "checkpoint.pt").write_text("ours")
    (cell / "job.json").write_text("our job")
    return cell


def test_a_finished_cell_comes_with_its_results_and_without_what_was_its_machines(other: Path, mine: Path) -> None:
    before = tree(other)
    outcome = merge(other, mine)
    assert (outcome.merged, outcome.there, outcome.left_out) == ([NAME], [], {})
    came = {str(path.relative_to(mine / NAME)) for path in (mine / NAME).rglob("*")}
    assert came == {"cell.json", "recipe.yaml", "generator.safetensors", "samples", "samples/step1.png"}
    assert [path.name for path in mine.iterdir()] == [NAME]
    assert tree(other) == before


def test_merging_again_changes_nothing(other: Path, mine: Path) -> None:
    merge(other, mine)
    before = tree(mine)
    outcome = merge(other, mine)
    assert (outcome.merged, outcome.there) == ([], [NAME])
    assert tree(mine) == before


def test_all_that_was_measured_here_passes_the_check_and_shows_in_the_table(mine: Path) -> None:
    said = attnbench("merge", VARIANTS, mine)
    count = len(list(VARIANTS.iterdir()))
    assert (said.code, said.out) == (0, f"merged {count}, already there 0, left out 0\n")
    frame = results(mine)
    assert frame.drop(columns="folder").equals(results(VARIANTS).drop(columns="folder"))


def test_a_cell_in_a_folder_of_the_other_store_and_a_store_that_is_a_cell_are_found(other: Path, mine: Path) -> None:
    assert merge(other.parent, mine.parent.parent / f"{mine.parent.name}-beside").merged == [f"other/{NAME}"]
    assert merge(other / NAME, mine).merged == ["."]
    assert (mine / NAME / "cell.json").is_file()


def test_an_unfinished_cell_gives_way_and_is_kept(other: Path, mine: Path) -> None:
    cell = unfinished(mine)
    assert merge(other, mine).merged == [NAME]
    assert record(cell) == record(other / NAME)
    aside = mine / ".superseded" / f"{NAME}-1"
    assert record(aside)["status"] == "interrupted"
    assert (aside / "checkpoint.pt").read_text() == "ours"
    assert not (cell / "checkpoint.pt").exists()
    assert (cell / "job.json").read_text() == "our job"
    assert [found.record.status for found in records(mine)] == ["finished"]


def test_an_unfinished_cell_of_the_same_identity_under_another_name_gives_way(other: Path, mine: Path) -> None:
    cell = unfinished(mine, "scft-cats-seed0-273fbe252b")
    assert merge(other, mine).merged == [NAME]
    assert record(cell)["status"] == "finished"
    assert not (mine / NAME).exists()


def measured(cell: Path) -> dict[str, Any]:
    (measurement,) = record(cell)["measurements"]
    return measurement  # type: ignore[no-any-return]


def test_a_cell_that_is_finished_in_both_stays_and_a_difference_is_said(
    other: Path, mine: Path, warned: Callable[[], list[str]]
) -> None:
    merge(other, mine)
    changed = measured(other / NAME)
    number = changed["metrics"]["kid:dims=768"]
    here, number["value"] = number["value"], 0.5
    change(other / NAME, measurements=[changed])
    before = tree(mine)
    assert merge(other, mine).there == [NAME]
    assert warned() == [f"{mine / NAME}: the cell here is kept: kid:dims=768 is {here} here and 0.5 there"]
    assert tree(mine) == before


def test_a_cell_gets_the_numbers_and_measurements_that_only_the_other_has(other: Path, mine: Path) -> None:
    (other / NAME / "pairs.csv").write_text("sketch,reference,ssim_global,ssim\na.png,b.png,0.5,0.25\nb.png,a.png,0.75,0.5\n")
    merge(other, mine)
    whole = measured(mine / NAME)
    fewer = {key: number for key, number in whole["metrics"].items() if key != "ssim"}
    change(mine / NAME, measurements=[{**whole, "metrics": fewer}])
    pairs = pd.read_csv(mine / NAME / "pairs.csv")
    pairs.drop(columns="ssim").to_csv(mine / NAME / "pairs.csv", index=False)
    under_another = {**whole, "identity": "ab" * 32, "protocol": {**whole["protocol"], "references": "same"}}
    change(other / NAME, measurements=[whole, under_another])
    outcome = merge(other, mine)
    assert (outcome.there, outcome.added) == ([NAME], [NAME])
    assert str(outcome) == "merged 0, already there 1, left out 0; measurements added to 1"
    first, second = record(mine / NAME)["measurements"]
    assert first["metrics"] == {**fewer, "ssim": whole["metrics"]["ssim"]}
    assert second == {**under_another, "folder": "measured/same-ababab"}
    assert pd.read_csv(mine / NAME / "pairs.csv")["ssim"].equals(pairs["ssim"])
    assert pd.read_csv(mine / NAME / second["folder"] / "pairs.csv").equals(pairs)
    before = tree(mine)
    assert merge(other, mine).added == []
    assert tree(mine) == before


def test_a_cell_that_another_process_runs_is_left_and_said(other: Path, mine: Path) -> None:
    cell = unfinished(mine)
    with FileLock(cell / ".lock"):
        outcome = merge(other, mine)
    assert outcome.merged == []
    assert "another process is running it here" in outcome.left_out[NAME]
    assert record(cell)["status"] == "interrupted"
    assert not (mine / ".superseded").exists()


def edited(cell: Path) -> None:
    change(cell, seed=1)


def renamed(cell: Path) -> None:
    cell.rename(cell.with_name("scft-cat-seed0-0000000000"))


def not_finished(cell: Path) -> None:
    change(cell, status="failed")


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (edited, "its identity does not match the rest of its cell.json"),
        (renamed, "its folder's name does not end in -273fbe252b"),
        (not_finished, "it is not finished (failed)"),
    ],
)
def test_what_is_not_what_it_says_is_left_out_with_the_reason(
    damage: Callable[[Path], None], why: str, other: Path, mine: Path
) -> None:
    damage(only_cell(other))
    outcome = attnbench("merge", other, mine)
    assert outcome.code == 0
    counts, line = outcome.out.splitlines()
    assert counts == "merged 0, already there 0, left out 1"
    assert line.startswith("left out: scft-cat-seed0-")
    assert why in line
    assert not list(mine.iterdir())


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "EOF"),
        ('{"identity": 1, "status": 2, "format": 99}', "newer attnbench"),
        ('{"identity": "1", "status": "finished"}', "it is not a cell's record (module is missing)"),
    ],
)
def test_a_damaged_or_newer_record_is_said_and_the_rest_comes(
    text: str, why: str, other: Path, mine: Path, warned: Callable[[], list[str]]
) -> None:
    (other / "damaged").mkdir()
    (other / "damaged" / "cell.json").write_text(text)
    assert merge(other, mine).merged == [NAME]
    (line,) = warned()
    assert str(other / "damaged" / "cell.json") in line
    assert why in line


def test_bad_input_is_one_line_before_anything_is_written(other: Path, mine: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for source, target, why in [
        (tmp_path / "nowhere", mine, "there is no results folder"),
        (tmp_path / "empty", mine, "no cells in"),
        (other, other, "are the same folder"),
        (other, other / "inside", "lies in the other"),
        (other, tmp_path, "lies in the other"),
        (other, tmp_path / "file", "cannot be written to"),
    ]:
        before = tree(tmp_path)
        outcome = attnbench("merge", source, target)
        assert outcome.code == 2
        (line,) = outcome.err.splitlines()
        assert line.startswith("error: ")
        assert why in line
        assert tree(tmp_path) == before
        assert not mine.exists()


def test_a_merge_that_breaks_off_leaves_no_half_cell_and_the_next_one_ends_it(
    other: Path, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(source: str, target: str) -> None:
        raise OSError(28, "No space left on device")

    unfinished(mine)
    with monkeypatch.context() as patched:
        patched.setattr(merge_file, "_copy", fail)
        broken = attnbench("merge", other, mine)
    assert broken.code == 2
    assert "No space left on device" in broken.err
    assert broken.err.count("\n") == 1
    assert record(mine / NAME)["status"] == "interrupted"
    assert [path.name for path in mine.iterdir()] == [NAME]
    assert merge(other, mine).merged == [NAME]


def test_a_draft_of_a_merge_that_was_killed_is_no_cell_and_is_cleared_away(other: Path, mine: Path) -> None:
    shutil.copytree(VARIANTS / NAME, mine / ".merging" / NAME)
    with pytest.raises(UserError, match="no cells"):
        records(mine)
    merge(other, mine)
    assert [path.name for path in mine.iterdir()] == [NAME]


def test_two_merges_into_one_store_do_not_meet(other: Path, mine: Path) -> None:
    (mine / ".merging").mkdir(parents=True)
    with FileLock(mine / ".merging" / ".lock"):
        outcome = attnbench("merge", other, mine)
    assert outcome.code == 2
    assert "another `attnbench merge`" in outcome.err
