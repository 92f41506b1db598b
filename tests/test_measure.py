"""Train once, measure often: metrics and protocols that come later train nothing, and nothing is measured twice."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock
from PIL import Image
from runs import HEADS, Outcome, attnbench, cells, install, only_cell, overrides, record, tiny, tree

import attnbench as package
from attnbench.cells.record import parse_record, record_text
from attnbench.config.recipe import built_in_recipes
from attnbench.errors import UserError
from attnbench.execute import cell_run, measuring
from attnbench.metrics.protocol import VERSION
from attnbench.report.collect import collect
from attnbench.store.pictures import PairPictures
from attnbench.store.progress import Progress, ProgressFile
from attnbench.tables.status import status_of

LARGER = HEADS.replace("size=16", "size=32").replace("test=2", "test=3")

MINE = '''
import os
import numpy as np
from attnbench import NotMeasurable, Score


class Brightness:
    """Mean grey level of a picture, 0 to 255; of the package `mine`."""

    title, unit, decimals, lower_is_better, per_image = "Brightness", "levels", 1, False, True
    uses = ()

    def __init__(self, *, gain=1.0):
        self.gain = gain

    def measure(self, pictures):
        return self.gain * pictures.generated.double().mean((1, 2, 3)).numpy()


class Fails(Brightness):
    """Does what the environment says."""

    title = "Fails"

    def measure(self, pictures):
        how = os.environ.get("HOW", "")
        if how == "raises":
            raise RuntimeError("broken on purpose")
        if how == "nan":
            return np.full(len(pictures), np.nan)
        if how == "count":
            return np.zeros(len(pictures) + 1)
        if how == "exits":
            raise SystemExit(3)
        return super().measure(pictures)


class Guess(Brightness):
    """A share, with what chance gives, and the share of each part."""

    title, unit = "Guess", "%"

    def measure(self, pictures):
        scores = pictures.generated.double().mean((1, 2, 3)).numpy() / 2.55
        return Score(scores, {"chance": 38.25, "parts": {"hair": 74.0, "eyes": 51.5}, "order": ["hair", "eyes"], "none": {}})


class Answers(Brightness):
    """Distance to the right answer, in levels."""

    title, lower_is_better = "Answer", True
    uses = ("answers", "parts")

    def measure(self, pictures):
        assert pictures.parts.max() < len(pictures.part_names)
        return (pictures.generated.double() - pictures.answers.double()).abs().mean((1, 2, 3)).numpy()
'''
WRITES = (
    MINE
    + """

class Writes(Brightness):
    title, uses = "Writes", ("wanted", "reference", "sketch")

    def measure(self, pictures):
        for tensor in (pictures.generated, pictures.wanted, pictures.reference, pictures.sketch):
            tensor.zero_()
        return super().measure(pictures)
"""
)
POINTS = "brightness = mine:Brightness\nfails = mine:Fails\nanswer = mine:Answers\nguess = mine:Guess"


@pytest.fixture(autouse=True)
def _no_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting FLOPs takes longer than these runs; test_costs.py has its tests."""
    monkeypatch.setattr(cell_run, "count_costs", lambda factory, recipe: {})


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with metrics of its own is installed."""
    install(tmp_path / "site", monkeypatch, "mine", POINTS, MINE, group="attnbench.metrics")


def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a measurement must not train")

    monkeypatch.setattr(cell_run, "train", refuse)


def trained(store: Path, datasets: str = HEADS, **changes: Any) -> Path:
    """A cell that was trained and measured as the tiny recipe says."""
    done = attnbench(*tiny(store, "sga", datasets, **{"evaluation__metrics": "[ssim_global]", **changes}))
    assert done.code == 0, done.err
    return only_cell(store)


def measure(store: Path, *arguments: str | Path) -> Outcome:
    return attnbench("measure", store, "--device", "cpu", *arguments)


def numbers(cell: Path, **protocol: Any) -> dict[str, Any]:
    """The numbers of the one measurement whose protocol has these values."""
    (found,) = [
        one for one in record(cell)["measurements"] if all(one["protocol"].get(key) == value for key, value in protocol.items())
    ]
    return found["metrics"]  # type: ignore[no-any-return]


def scores(cell: Path, index: int = 0) -> pd.DataFrame:
    return pd.read_csv(cell / record(cell)["measurements"][index]["folder"] / "pairs.csv")


def test_a_metric_of_another_package_and_two_more_protocols_take_no_training_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mine: None
) -> None:
    cell = trained(tmp_path / "results")
    losses, generator = (cell / "losses.jsonl").read_bytes(), (cell / "generator.safetensors").read_bytes()
    no_training(monkeypatch)
    assert measure(tmp_path / "results", "--metrics", "brightness:gain=2").code == 0
    assert measure(tmp_path / "results", "--metrics", "ssim_global", "--set", "evaluation.references=same").code == 0
    assert measure(tmp_path / "results", "--metrics", "ssim_global,brightness", "--limit", "1").code == 0
    assert [list(one["metrics"]) for one in record(cell)["measurements"]] == [
        ["ssim_global", "brightness:gain=2.0"],
        ["ssim_global"],
        ["ssim_global", "brightness"],
    ]
    assert (cell / "losses.jsonl").read_bytes() == losses
    assert (cell / "generator.safetensors").read_bytes() == generator
    number = numbers(cell, references="cross", limit=None)["brightness:gain=2.0"]
    generated = PairPictures(cell / record(cell)["measurements"][0]["folder"])
    assert number["value"] == pytest.approx(2 * generated.all_of(generated.generated).double().mean().item())
    assert number["metric"]["package"] == "mine"
    assert (number["source"], number["provenance"]["device"][:3]) == ("lossless pictures", "cpu")
    assert list(scores(cell)) == ["sketch", "reference", "ssim_global", "brightness:gain=2.0"]
    assert len(scores(cell, 2)) == 1
    shown = attnbench("table", tmp_path / "results", "--format", "md", "--metrics", "brightness,ssim_global")
    assert "Brightness (brightness:gain=2.0) (levels) ↑" in shown.out  # told from the one without a gain
    assert "synthetic, same" in shown.out
    assert "first pair" in shown.out


def test_a_run_measures_what_is_not_measured_and_trains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = trained(tmp_path / "results")
    no_training(monkeypatch)
    changed = tiny(tmp_path / "results", evaluation__metrics="[ssim_global]", evaluation__references="[cross,same]")
    again = attnbench(*changed)
    assert again.code == 0, again.err
    assert "SGA on synthetic, seed 0: trained; measures ssim_global (same)" in again.err
    before = tree(cell)
    assert attnbench(*changed).err.endswith("SGA on synthetic, seed 0: finished\n")
    assert tree(cell) == before


def test_what_is_measured_is_not_measured_again_unless_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mine: None
) -> None:
    cell = trained(tmp_path / "results")
    assert measure(tmp_path / "results", "--metrics", "fails").code == 0
    before = tree(cell)
    there = measure(tmp_path / "results", "--metrics", "fails,ssim_global")
    assert there.out.startswith("measured 0, already measured 1, left out 0")
    assert tree(cell) == before
    monkeypatch.setenv("HOW", "nan")
    again = measure(tmp_path / "results", "--metrics", "fails", "--again")
    assert again.out.startswith("measured 1, already measured 0, left out 0")
    assert numbers(cell)["fails"]["value"] is None


def test_numbers_of_another_version_of_the_protocol_are_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = trained(tmp_path / "results")
    assert measure(tmp_path / "results").out.startswith("measured 0, already measured 1")
    for place in ("execute.asked", "cells.provenance"):
        monkeypatch.setattr(f"attnbench.{place}.VERSION", VERSION + 1)
    assert measure(tmp_path / "results").out.startswith("measured 1, already measured 0")
    assert {number["provenance"]["protocol"] for number in numbers(cell).values()} == {VERSION + 1}
    assert measure(tmp_path / "results").out.startswith("measured 0, already measured 1")


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("raises", "it failed: RuntimeError: broken on purpose"),
        ("nan", "2 of 2 scores are not finite numbers"),
        ("count", "it failed: ValueError: it gave numbers of shape (3,), not 2 scores, one for each picture"),
        ("exits", "it failed: SystemExit: 3"),
    ],
)
def test_a_metric_that_fails_has_a_reason_in_its_place_and_is_tried_again(
    how: str,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mine: None,
    warned: Callable[[], list[str]],
) -> None:
    cell = trained(tmp_path / "results")
    monkeypatch.setenv("HOW", how)
    done = measure(tmp_path / "results", "--metrics", "fails,brightness")
    assert (done.code, "numbers without a value: 1" in done.out) == (1, True)
    found = numbers(cell)
    assert (found["fails"]["value"], found["fails"]["reason"]) == (None, reason)
    assert found["brightness"]["value"] > 0
    assert warned() == [f"SGA on synthetic, seed 0: fails: {reason}"]
    assert f"Fails: {reason}" in attnbench("table", tmp_path / "results", "--metrics", "fails", "--format", "md").out
    monkeypatch.setenv("HOW", "")  # its author has mended it
    assert measure(tmp_path / "results", "--metrics", "fails,brightness").out.startswith("measured 1")
    assert numbers(cell)["fails"]["value"] == found["brightness"]["value"]


def test_a_table_is_made_where_the_metric_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mine: None) -> None:
    trained(tmp_path / "results")
    assert measure(tmp_path / "results", "--metrics", "brightness").code == 0
    here = attnbench("table", tmp_path / "results", "--format", "md", "--metrics", "brightness")
    shutil.rmtree(tmp_path / "site")
    gone = attnbench("table", tmp_path / "results", "--format", "md", "--metrics", "brightness")
    assert (gone.code, gone.out) == (0, here.out)
    refused = measure(tmp_path / "results", "--metrics", "brightness,ssim")
    assert refused.code == 2
    assert "error: unknown metric 'brightness' (known: " in refused.err


def test_a_name_that_two_packages_claim_is_refused_and_both_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = trained(tmp_path / "results")
    install(tmp_path / "site", monkeypatch, "rival", "ssim = rival:Brightness", MINE, group="attnbench.metrics")
    before = tree(cell)
    refused = measure(tmp_path / "results", "--metrics", "ssim")
    assert refused.code == 2
    assert "error: metric 'ssim' is claimed by attnbench 0.1.0 and rival 1.2: uninstall one of them" in refused.err
    assert tree(cell) == before


def test_right_answers_reach_a_metric_and_a_dataset_without_them_says_so(
    tmp_path: Path, mine: None, folder_of_heads: Callable[..., Path]
) -> None:
    cell = trained(tmp_path / "results")
    assert measure(tmp_path / "results", "--metrics", "answer").code == 0
    assert numbers(cell)["answer"]["value"] > 0
    heads = folder_of_heads(train=4, test=2, size=16)
    photos = trained(tmp_path / "others", f"mine={heads}")
    before = tree(photos)
    refused = measure(tmp_path / "others", "--metrics", "answer")
    assert refused.code == 2
    assert "metric 'answer' needs right answers, which no dataset here has (mine): leave it out" in refused.err
    refused = attnbench(*tiny(tmp_path / "third", "sga", f"mine={heads}", evaluation__metrics="[answer]"))
    assert (refused.code, (tmp_path / "third").exists()) == (2, False)
    assert tree(photos) == before
    shutil.copytree(photos, tmp_path / "results" / photos.name)  # where one of several datasets has them
    assert measure(tmp_path / "results", "--metrics", "answer").code == 0
    moved = tmp_path / "results" / photos.name
    assert numbers(moved)["answer"]["reason"] == "dataset 'mine' has no right answers"


def test_a_recipe_s_metric_that_no_dataset_here_can_have_is_left_out_with_the_reason(
    tmp_path: Path, mine: None, folder_of_heads: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = f"mine={folder_of_heads(train=4, test=2, size=16)}"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(built_in_recipes()["demo"].replace("metrics: [", "metrics: [answer, "))
    assert "answer" in recipe.read_text()
    run = tiny(tmp_path / "results", "sga", dataset, evaluation__when="each_epoch")
    run[run.index("demo")] = str(recipe)
    done = attnbench(*run)
    assert done.code == 0, done.err
    cell = only_cell(tmp_path / "results")
    found = numbers(cell)["answer"]
    assert (found["value"], found["reason"]) == (None, "dataset 'mine' has no right answers")
    assert numbers(cell)["ssim_global"]["value"] is not None
    assert record(cell)["best"]["by"] == "ssim_global"
    assert "Answer" not in done.out.partition("Recipe:")[0]
    assert "Not measured on mine: Answer, match, bleed (dataset 'mine' has no right answers)." in " ".join(done.out.split())
    assert collect(tmp_path / "results", pairs=2).troubles == []

    no_training(monkeypatch)
    before = tree(cell)
    assert attnbench(*run).code == 0  # it is not tried again
    assert measure(tmp_path / "results").out.startswith("measured 0, already measured 1")
    assert measure(tmp_path / "results", "--recipe", recipe).out.startswith("measured 0, already measured 1")
    assert tree(cell) == before


def test_a_metric_that_is_asked_for_by_name_and_that_no_dataset_here_can_have_is_refused(
    tmp_path: Path, mine: None, folder_of_heads: Callable[..., Path]
) -> None:
    dataset = f"mine={folder_of_heads(train=4, test=2, size=16)}"
    trained(tmp_path / "results", dataset)
    before = tree(tmp_path / "results")
    told = "metric 'answer' needs right answers, which no dataset here has \\(mine\\): leave it out"
    for named in ("evaluation.metrics=[answer,ssim]", "evaluation={metrics: [answer]}"):
        with pytest.raises(UserError, match=told):
            package.run("sga", dataset, "demo", overrides=[*overrides(), named], store=tmp_path / "new", executor="inline")
    for names in ({"metrics": "answer"}, {"overrides": "evaluation.metrics=[answer]"}):
        with pytest.raises(UserError, match=told):
            package.measure(tmp_path / "results", device="cpu", **names)
    assert not (tmp_path / "new").exists()
    assert tree(tmp_path / "results") == before


def test_what_a_metric_records_beside_its_number_goes_wherever_the_number_goes(tmp_path: Path, mine: None) -> None:
    from jsonschema import Draft202012Validator

    cell = trained(tmp_path / "lab", evaluation__metrics="[guess]")
    found = numbers(cell)["guess"]
    assert (found["chance"], found["parts"], found["order"]) == (38.25, {"hair": 74.0, "eyes": 51.5}, ["hair", "eyes"])
    schema = json.loads(attnbench("schema", "cell").out)
    assert not list(Draft202012Validator(schema).iter_errors(record(cell)))

    assert attnbench("merge", tmp_path / "lab", tmp_path / "results").code == 0
    merged = only_cell(tmp_path / "results")
    assert record_text(parse_record((merged / "cell.json").read_bytes())) == (cell / "cell.json").read_text()
    (row,) = package.results(tmp_path / "results").to_dict("records")
    assert (row["guess.chance"], row["guess.parts.hair"], row["guess.parts.eyes"]) == (38.25, 74, 51.5)
    csv = pd.read_csv(io.StringIO(attnbench("table", tmp_path / "results", "--format", "csv").out))
    assert csv["guess.parts.eyes"].tolist() == [51.5]

    chance = "Guess: chance, without a look at the reference: synthetic 38.2 %."
    assert chance in attnbench("table", tmp_path / "results", "--format", "md").out
    report = collect(tmp_path / "results", pairs=2)
    assert (chance, "always") in report.tables[0].notes
    ((_, _, beside),) = report.cells[0]["metrics"]
    assert "chance 38.25, parts hair 74.0 eyes 51.5" in beside
    assert attnbench("report", tmp_path / "results", "-o", tmp_path / "report.html").code == 0
    assert attnbench("export", merged, "-o", tmp_path / "given").code == 0
    assert "chance, without a look at the reference: 38.25" in (tmp_path / "given" / "README.md").read_text()


def test_test_images_that_change_train_nothing_and_their_numbers_stand_apart(
    tmp_path: Path, folder_of_heads: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, warned: Callable[[], list[str]]
) -> None:
    heads = folder_of_heads(train=4, test=2, size=16)
    cell = trained(tmp_path / "results", f"mine={heads}")
    Image.new("RGB", (16, 16), "red").save(heads / "test" / "another.png")
    no_training(monkeypatch)
    done = measure(tmp_path / "results", "--metrics", "ssim_global")
    assert done.code == 0, done.err
    assert warned() == [
        "SGA on mine, seed 0: its test images have changed since it was measured: its new numbers stand apart from the old"
    ]
    first, second = record(cell)["measurements"]
    assert (first["test"]["images"], second["test"]["images"]) == (2, 3)
    assert first["test"]["fingerprint"] != second["test"]["fingerprint"]
    assert attnbench(*tiny(tmp_path / "results", "sga", f"mine={heads}", evaluation__metrics="[ssim_global]")).code == 0
    table = attnbench("table", tmp_path / "results", "--format", "md").out
    for one in (first, second):
        assert f"test images {one['test']['fingerprint'][:6]}" in table


def test_two_measurers_at_once_share_the_work(tmp_path: Path, mine: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that finds a cell held goes on with the rest and comes back; what the other has measured it does not repeat."""
    store = tmp_path / "results"
    trained(store)
    assert attnbench(*tiny(store, "scft", evaluation__metrics="[ssim_global]")).code == 0
    held = only_cell(store, "scft")
    alone = tmp_path / "alone"  # a store with this cell alone
    alone.mkdir()
    (alone / held.name).symlink_to(held)
    lock = FileLock(held / ".lock")
    lock.acquire()
    seen: list[str] = []
    real = measuring.measure

    def measured_here(*arguments: Any) -> Any:
        seen.append("here")
        if lock.is_locked:  # the other one ends while we measure the first cell
            kept = record(held)
            lock.release()
            other = measure(alone, "--metrics", "brightness")
            assert other.code == 0
            assert record(held) != kept
        return real(*arguments)

    monkeypatch.setattr(measuring, "measure", measured_here)
    done = measure(store, "--metrics", "brightness")
    assert done.code == 0, done.err
    assert "SCFT on synthetic, seed 0: another process holds it; continuing with the rest" in done.err
    for cell in store.iterdir():
        assert list(numbers(cell)) == ["ssim_global", "brightness"]


def test_a_cell_without_its_generator_keeps_its_numbers_and_says_why_it_gets_no_new_ones(tmp_path: Path) -> None:
    cell = trained(tmp_path / "results")
    (cell / "generator.safetensors").unlink()
    before = tree(cell)
    done = measure(tmp_path / "results", "--metrics", "ssim_global", "--set", "evaluation.pair_seed=1")
    assert done.code == 1
    assert done.out.startswith("measured 0, already measured 0, left out 1")
    assert (
        "SGA on synthetic, seed 0: keeps the measurements that it has: its generator (generator.safetensors) is not here, and "
        "it kept no pictures of this protocol: copy it from where it was trained" in done.err
    )
    assert tree(cell) == before


def test_metrics_of_pictures_are_made_from_those_that_a_merged_cell_kept(
    tmp_path: Path, mine: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(tmp_path / "lab", LARGER, data__size=32)
    assert attnbench("merge", tmp_path / "lab", tmp_path / "results").code == 0
    cell = only_cell(tmp_path / "results")
    (cell / "generator.safetensors").unlink()
    assert not (cell / "job.json").exists()
    done = measure(tmp_path / "results", "--metrics", "brightness,ssim,answer")
    assert done.code == 0, done.err
    assert measure(tmp_path / "lab", "--metrics", "brightness,ssim,answer").code == 0
    mine_, theirs = numbers(cell), numbers(whole)
    for key in ("brightness", "ssim"):
        assert (mine_[key]["value"], mine_[key]["source"]) == (theirs[key]["value"], "lossless pictures")
    assert "the images of 'synthetic' are not at hand" in mine_["answer"]["reason"]
    assert scores(cell)["ssim"].equals(scores(whole)["ssim"])
    assert scores(cell)["sketch"].equals(scores(whole)["sketch"])


def test_pictures_are_kept_as_asked_and_a_number_from_small_ones_says_so(tmp_path: Path, mine: None) -> None:
    exact: dict[str, float] = {}
    for kind in ("lossless", "small", "none"):
        store = tmp_path / kind
        run = tiny(store, "sga", LARGER, data__size=32, evaluation__metrics="[ssim_global]")
        assert attnbench(*run, "--pictures", kind).code == 0
        cell = only_cell(store)
        assert record(cell)["measurements"][0]["pictures"] == kind
        assert (cell / record(cell)["measurements"][0]["folder"] / "pictures.zip").exists() == (kind != "none")
        assert attnbench(*run, "--pictures", kind).code == 0
        (cell / "generator.safetensors").unlink()
        done = measure(store, "--metrics", "ssim")
        if kind == "none":
            assert (done.code, list(numbers(cell))) == (1, ["ssim_global"])
            continue
        exact[kind] = numbers(cell)["ssim"]["value"]
        assert numbers(cell)["ssim"]["source"] == f"{kind} pictures"
    assert exact["lossless"] != exact["small"]
    assert exact["lossless"] == pytest.approx(exact["small"], abs=0.05)
    assert "small" in attnbench("table", tmp_path / "small", "--metrics", "ssim", "--format", "md").out


def test_kept_pictures_that_were_replaced_are_not_measured(tmp_path: Path, mine: None, warned: Callable[[], list[str]]) -> None:
    cell = trained(tmp_path / "results")
    folder = cell / record(cell)["measurements"][0]["folder"]
    before = PairPictures(folder)
    same = measuring.write_pair_pictures
    black = torch.zeros_like(before.all_of(before.generated))
    sketches, originals = before.all_of(before.sketch, channels=1), before.all_of(before.original)
    same(folder / "pictures.zip", before.pairs, sketches, originals, black)
    assert measure(tmp_path / "results", "--metrics", "brightness").code == 0
    assert "does not hold the pictures that were measured" in warned()[0]
    assert numbers(cell)["brightness"]["value"] > 0
    assert numbers(cell)["brightness"]["source"] == "generator"


def test_references_from_elsewhere_are_a_protocol_of_their_own(
    tmp_path: Path, mine: None, folder_of_heads: Callable[..., Path]
) -> None:
    cell = trained(tmp_path / "results")
    paintings = folder_of_heads(train=3, test=1, size=40) / "train"
    done = measure(tmp_path / "results", "--metrics", "ssim_global,brightness", "--references", paintings)
    assert done.code == 0, done.err
    found = numbers(cell, references="folder")
    assert "the references come from elsewhere" in found["ssim_global"]["reason"]
    assert found["brightness"]["value"] > 0
    measurement = record(cell)["measurements"][1]
    assert measurement["protocol"]["folder"] == "train"
    names = set(scores(cell, 1)["reference"])
    assert names <= {file.name for file in paintings.iterdir()}
    assert "references train" in attnbench("table", tmp_path / "results", "--metrics", "brightness", "--format", "md").out
    before = tree(cell)
    for folder, message in ((tmp_path / "nowhere", "there is no folder"), (tmp_path / "site", "no images in")):
        refused = measure(tmp_path / "results", "--references", folder)
        assert (refused.code, message in refused.err) == (2, True), refused.err
    assert tree(cell) == before


def test_the_evaluations_batch_changes_no_number(tmp_path: Path) -> None:
    stores = [tmp_path / str(batch) for batch in (1, 7, 16)]
    for store in stores:
        run = tiny(store, "sga", HEADS.replace("test=2", "test=9"), evaluation__metrics="[ssim_global]")
        assert attnbench(*run, "--evaluation-batch", store.name).code == 0
    found = [record(only_cell(store)) for store in stores]
    assert len({one["identity"] for one in found}) == 1
    values = [one["measurements"][0]["metrics"]["ssim_global"]["value"] for one in found]
    assert values == pytest.approx([values[0]] * 3, abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metrics", "sim"], "unknown metric 'sim': did you mean 'ssim'?"),
        (["--metrics", "ssim:window=3"], "metric 'ssim': unknown option 'window'"),
        (["--metrics", "match:window=3"], "metric 'match': unknown option 'window': it has no options"),
        (["--metrics", "ssim,ssim"], "evaluation: metrics has 'ssim' twice"),
        (["--set", "train.steps=3"], "--set train.steps=3: a measurement trains nothing"),
        (["--set", "evaluation.fid_dims=100"], "dims=100: expected one of 64, 192, 768, 2048"),
        (["--set", "evaluation.fid_dim=64"], "unknown key 'fid_dim': did you mean 'fid_dims'?"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(arguments: list[str], message: str, tmp_path: Path) -> None:
    cell = trained(tmp_path / "results")
    before = tree(cell)
    refused = measure(tmp_path / "results", *arguments)
    assert refused.code == 2
    (line,) = [line for line in refused.err.splitlines() if line.startswith("error: ")]
    assert message in line
    assert tree(cell) == before


def test_a_store_without_trained_cells_is_refused(tmp_path: Path) -> None:
    assert attnbench(*tiny(tmp_path / "results", executor="commands")).code == 0
    refused = measure(tmp_path / "results")
    assert (refused.code, "no cell in" in refused.err) == (2, True)


def test_the_identity_of_a_cell_is_what_it_is_trained_on(folder_of_heads: Callable[..., Path]) -> None:
    heads = folder_of_heads(train=4, test=2, size=16)
    (before,) = cells(datasets=f"mine={heads}")
    others = [
        cells(datasets=f"mine={heads}", evaluation__metrics="[ssim]", evaluation__pair_seed=3, evaluation__limit=1),
        cells(datasets=f"mine={heads}", evaluation__references="[cross,same]", evaluation__when="each_epoch"),
    ]
    Image.new("RGB", (16, 16), "red").save(heads / "test" / "another.png")
    others.append(cells(datasets=f"mine={heads}"))
    assert {one.identity for (one,) in others} == {before.identity}
    Image.new("RGB", (16, 16), "red").save(heads / "train" / "another.png")
    assert cells(datasets=f"mine={heads}")[0].identity != before.identity
    assert cells(datasets=f"mine={heads}", train__steps=5)[0].identity != before.identity


def test_a_comment_in_the_code_that_draws_or_decodes_makes_no_new_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    from attnbench import source_code

    before = cells()[0].identity
    real = Path.read_text

    def commented(path: Path, *arguments: Any, **options: Any) -> str:
        text = real(path, *arguments, **options)
        return text + "\n# a comment\n" if path.suffix == ".py" else text

    source_code.digest_of_file.cache_clear()
    monkeypatch.setattr(Path, "read_text", commented)
    after = cells()[0].identity
    monkeypatch.undo()
    source_code.digest_of_file.cache_clear()
    assert after == before


def test_the_best_epoch_is_by_the_first_metric_that_has_numbers(tmp_path: Path) -> None:
    store = tmp_path / "results"
    cell = trained(store, evaluation__when="each_epoch", evaluation__metrics="[ssim_global,ssim]", train__steps=6)
    lines = [json.loads(line) for line in (cell / "evaluations.jsonl").read_text().splitlines()]
    best = record(cell)["best"]
    values = [line["metrics"]["ssim_global"]["value"] for line in lines]
    assert best["by"] == "ssim_global"
    assert best["epoch"] == int(np.argmax(values)) + 1
    assert best["measurement"] == record(cell)["measurements"][0]["identity"]
    assert f"by {'SSIM (global)'}" in attnbench("table", store, "--epoch", "best", "--format", "md").out


def test_a_cell_that_is_measured_for_the_first_time_is_shown_as_running(tmp_path: Path) -> None:
    cell = trained(tmp_path / "results")
    (cell / "cell.json").write_text(json.dumps({**record(cell), "measurements": []}))
    alone = attnbench("status", tmp_path / "results").out
    assert "not measured" in alone
    assert f"`attnbench measure {tmp_path / 'results'}` measures them" in " ".join(alone.split())
    ProgressFile(cell).write(Progress("measuring", 4, 4, "cpu", done=1, of=2), always=True)
    found = status_of(tmp_path / "results")
    assert [label for label, _ in found.running] == ["SGA on synthetic, seed 0"]
    assert found.troubles == []


def test_a_metric_that_writes_into_its_inputs_changes_no_other_number_and_no_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path / "site", monkeypatch, "rude", "writes = rude:Writes", WRITES, group="attnbench.metrics")
    cell = trained(tmp_path / "results")
    rude = trained(tmp_path / "rude", evaluation__metrics="[writes,ssim_global]")
    assert numbers(rude)["ssim_global"]["value"] == numbers(cell)["ssim_global"]["value"]
    ours, theirs = (PairPictures(one / record(one)["measurements"][0]["folder"]) for one in (cell, rude))
    assert torch.equal(ours.all_of(ours.generated), theirs.all_of(theirs.generated))
    assert measure(tmp_path / "rude", "--metrics", "ssim_global", "--again").code == 0
    assert numbers(rude)["ssim_global"]["value"] == numbers(cell)["ssim_global"]["value"]


def test_a_damaged_file_of_scores_is_set_aside_and_made_anew(
    tmp_path: Path, mine: None, warned: Callable[[], list[str]]
) -> None:
    cell = trained(tmp_path / "results")
    whole = scores(cell)
    file = cell / record(cell)["measurements"][0]["folder"] / "pairs.csv"
    file.write_text("\n".join(file.read_text().splitlines()[:2]))
    assert measure(tmp_path / "results", "--metrics", "brightness").code == 0
    assert "pairs.csv is damaged: set aside as pairs.csv.damaged1; `attnbench measure --again`" in warned()[0]
    assert measure(tmp_path / "results", "--metrics", "ssim_global", "--again").code == 0
    assert scores(cell)[list(whole)].equals(whole)


def test_a_limit_that_leaves_nothing_out_is_none(tmp_path: Path) -> None:
    cell = trained(tmp_path / "results")
    before = tree(cell)
    done = measure(tmp_path / "results", "--metrics", "ssim_global", "--limit", "100")
    assert done.out.startswith("measured 0, already measured 1")
    assert tree(cell) == before
    assert attnbench(*tiny(tmp_path / "results", evaluation__metrics="[ssim_global]"), "--limit", "2").code == 0
    assert tree(cell) == before


def test_a_cell_is_measured_by_what_its_run_asked_for_unless_something_else_is(tmp_path: Path) -> None:
    cell = trained(tmp_path / "results", evaluation__metrics="[ssim_global,ssim]", evaluation__pair_seed=3)
    (cell / "cell.json").write_text(json.dumps({**record(cell), "measurements": []}))
    assert measure(tmp_path / "results").code == 0
    assert list(numbers(cell, pair_seed=3)) == ["ssim_global", "ssim"]
    assert measure(tmp_path / "results", "--recipe", "demo", "--metrics", "ssim").code == 0
    assert list(numbers(cell, pair_seed=0)) == ["ssim"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--limit", "2", "--set", "evaluation.limit=3"], "--set evaluation.limit=3 and --limit say the same thing"),
        (
            ["--references", ".", "--set", "evaluation.references=same"],
            "same and --references say the same",
        ),
        (["--metrics", ","], "--metrics ,: it names no metric"),
    ],
)
def test_what_contradicts_itself_is_refused(arguments: list[str], message: str, tmp_path: Path) -> None:
    cell = trained(tmp_path / "results")
    before = tree(cell)
    refused = measure(tmp_path / "results", *arguments)
    assert (refused.code, message in refused.err) == (2, True), refused.err
    assert tree(cell) == before


def test_a_store_that_cannot_be_written_to_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from attnbench.store import folder

    cell = trained(tmp_path / "results")
    before = tree(cell)

    def read_only(path: Path) -> None:
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(folder, "check_writable", read_only)
    scored = ("--method", "copy", "--dataset", HEADS, "--recipe", "demo", "--set", "data.size=16", "-o", tmp_path / "results")
    for refused in (measure(tmp_path / "results", "--metrics", "ssim"), attnbench("score", *scored)):
        assert refused.code == 2
        assert f"error: results folder '{tmp_path / 'results'}' cannot be written to: Read-only file system" in refused.err
    assert tree(cell) == before


def test_damaged_pictures_are_coloured_again(tmp_path: Path, mine: None, warned: Callable[[], list[str]]) -> None:
    cell = trained(tmp_path / "results")
    file = cell / record(cell)["measurements"][0]["folder"] / "pictures.zip"
    whole = PairPictures(file.parent)
    pictures = whole.all_of(whole.generated)
    with ZipFile(file) as before:
        inside = {name: before.read(name) for name in before.namelist()}
    with ZipFile(file, "w") as after:
        for name, data in inside.items():
            after.writestr(name, data[:20] if name == "generated/1.webp" else data)
    assert measure(tmp_path / "results", "--metrics", "brightness").code == 0
    assert "they are coloured again" in warned()[0]
    mended = PairPictures(file.parent)
    assert torch.equal(mended.all_of(mended.generated), pictures)
    (cell / "generator.safetensors").unlink()
    file.write_bytes(file.read_bytes()[:-30])
    assert measure(tmp_path / "results", "--metrics", "ssim").code == 1
    assert list(numbers(cell)) == ["ssim_global", "brightness"]
