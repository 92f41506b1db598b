"""Any method's pictures in the table: pairs as files, pictures in, rows out; and what is refused before anything is written."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import runs
import torch
from PIL import Image
from runs import Outcome, attnbench, only_cell, record

import attnbench as package
from attnbench.cells.identity import identity_of_record
from attnbench.cells.record import parse_record
from attnbench.config.recipe import load_recipe
from attnbench.data.images import prepare
from attnbench.data.origin import parse_dataset
from attnbench.data.synthetic import draw, palette
from attnbench.execute import score as scoring
from attnbench.metrics.generate import PairSet
from attnbench.metrics.protocol import Protocol
from attnbench.store.folder import CellFolder
from attnbench.store.pictures import PairPictures
from attnbench_baselines.trivial_methods import copy, paste, recolour

HEADS = "synthetic:train=4:test=6:size=32"
RECIPE = ("--recipe", "demo", "--set", "data.size=32")
Change = Callable[[Path], None]


def write_pairs(folder: Path, *more: str, dataset: str = HEADS) -> Path:
    done = attnbench("pairs", dataset, "-o", folder, *RECIPE, *more)
    assert done.code == 0, done.err
    return folder


def lines(pairs: Path) -> list[dict[str, str]]:
    with (pairs / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def paint(pairs: Path, into: Path, name: str = "{}", side: int | None = None) -> Path:
    """What another program would write: the reference's mean colour in the sketch, read from manifest.csv alone."""
    into.mkdir(exist_ok=True)
    for line in lines(pairs):
        sketch = Image.open(pairs / line["sketch"]).convert("L")
        color = np.asarray(Image.open(pairs / line["reference"])).mean((0, 1))
        picture = Image.fromarray((np.asarray(sketch)[..., None] / 255 * color).round().astype(np.uint8))
        picture = picture.resize((side, side)) if side else picture
        picture.save(into / name.format(line["output"]))
    return into


def score(pictures: Path | str, store: Path, *more: str | Path, label: str = "Painter", recipe: bool = True) -> Outcome:
    return attnbench("score", pictures, "-d", HEADS, "--as", label, "-o", store, *(RECIPE if recipe else ()), *more)


def score_by(method: str, store: Path, *more: str | Path) -> Outcome:
    return attnbench("score", "--method", method, "-d", HEADS, "-o", store, *RECIPE, *more)


@pytest.fixture
def painted(tmp_path: Path) -> Path:
    return paint(write_pairs(tmp_path / "pairs"), tmp_path / "painted")


# pairs


def test_pairs_are_those_that_trained_cells_are_measured_on(tmp_path: Path) -> None:
    folder, data = write_pairs(tmp_path / "pairs"), load_recipe("demo", ["data.size=32"]).data
    pairs = PairSet.of(prepare(parse_dataset(HEADS, None), data).test, Protocol(), data)
    found = lines(folder)
    assert [(line["sketch_name"], line["reference_name"]) for line in found] == pairs.names
    for line, sketch, reference in zip(found, pairs.sketches(), pairs.reference_images(), strict=True):
        assert np.array_equal(np.asarray(Image.open(folder / line["sketch"])), sketch[0])
        assert np.array_equal(np.asarray(Image.open(folder / line["reference"])), reference.permute(1, 2, 0))
        assert line["output"] == f"{int(line['pair']):04d}.png"


def test_pairs_of_another_size_have_line_art_drawn_at_that_size(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "pairs", "--size", "64", "--limit", "2")
    data = load_recipe("demo", ["data.size=64"]).data
    pairs = PairSet.of(prepare(parse_dataset(HEADS, None), data).test, Protocol(), data)
    assert len(list((folder / "sketches").iterdir())) == 2
    assert np.array_equal(np.asarray(Image.open(folder / "sketches" / "0001.png")), pairs.sketches()[1, 0])
    about = json.loads((folder / "pairs.json").read_text())
    assert (about["size"], about["data"]["size"], about["pairs"], about["protocol"]["limit"]) == (64, 32, 2, 2)


def test_references_of_the_protocol_same_are_the_warped_originals(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "pairs", "--set", "evaluation.references=same")
    data = load_recipe("demo", ["data.size=32"]).data
    images = prepare(parse_dataset(HEADS, None), data).test
    shown = np.asarray(Image.open(folder / "references" / "0000.png"))
    warped = PairSet.of(images, Protocol(references="same"), data).reference_images()[0].permute(1, 2, 0)
    assert np.array_equal(shown, warped)
    assert not np.array_equal(shown, images.images[0].permute(1, 2, 0))


def test_references_may_come_from_elsewhere(tmp_path: Path, folder_of_heads: Callable[..., Path]) -> None:
    others = folder_of_heads(train=3) / "train"
    folder = write_pairs(tmp_path / "pairs", "--references", str(others))
    assert {line["reference_name"] for line in lines(folder)} == {"004.png", "005.png", "006.png"}
    painted = paint(folder, tmp_path / "painted")
    assert score(painted, tmp_path / "store", "--pairs", folder, "--metrics", "ssim_global", recipe=False).code == 0
    (measurement,) = record(only_cell(tmp_path / "store"))["measurements"]
    assert measurement["protocol"]["references"] == "folder"
    another = str(folder_of_heads(train=2) / "train")
    done = score(painted, tmp_path / "other", "--pairs", folder, "--references", another, recipe=False)
    refused(done, "are not those of the pairs in", tmp_path / "other")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nothing"], "unknown dataset 'nothing'"),
        ([HEADS, "--set", "train.epochs=1"], "only keys of `evaluation` and `data` can be set"),
        ([HEADS, "--set", "evaluation.references=[cross,same]"], "--set evaluation.references=same"),
        ([HEADS, "--recipe", "nothing"], "unknown recipe 'nothing'"),
        ([HEADS, "--references", "nowhere"], "nowhere' of references"),
    ],
)
def test_pairs_that_cannot_be_made_are_refused_in_one_line(arguments: list[str], told: str, tmp_path: Path) -> None:
    refused(attnbench("pairs", *arguments, "-o", tmp_path / "pairs"), told, tmp_path / "pairs")


def test_pairs_go_into_a_new_folder_or_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_pairs(tmp_path / "empty")
    before = runs.tree(tmp_path)
    again = attnbench("pairs", HEADS, "-o", tmp_path / "empty", *RECIPE)
    assert (again.code, "is not empty: choose a new folder with -o" in again.err) == (2, True)
    (tmp_path / "file").touch()
    assert "is a file" in attnbench("pairs", HEADS, "-o", tmp_path / "file", *RECIPE).err
    assert {name: tree for name, tree in runs.tree(tmp_path).items() if name != "file"} == before


def test_pairs_that_were_stopped_halfway_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("attnbench.execute.pairs.csv.writer", stop)
    assert attnbench("pairs", HEADS, "-o", tmp_path / "pairs", *RECIPE).code == 130
    assert list(tmp_path.iterdir()) == []


# score


def test_pictures_become_a_row_that_is_marked_as_not_trained_here(painted: Path, tmp_path: Path) -> None:
    done = score(painted, tmp_path / "store", "--note", "v1.0, mean colours")
    assert done.code == 0, done.err
    assert "Painter (not trained here)" in done.out
    folder = only_cell(tmp_path / "store")
    found = parse_record((folder / "cell.json").read_bytes())
    assert folder.name == f"painter-synthetic-{found.identity[:10]}"
    assert identity_of_record(found) == found.identity
    assert found.pictures is not None
    assert (found.pictures.note, found.pictures.side, found.pictures.size) == ("v1.0, mean colours", 32, 32)
    assert (found.module.label, found.dataset.train, found.status) == ("Painter", 0, "finished")
    (measurement,) = found.measurements
    assert set(measurement.metrics) == {"match", "bleed", "ssim_global", "ssim"}
    assert {one.source for one in measurement.metrics.values()} == {"given pictures"}
    values = {key: one.value or 0 for key, one in measurement.metrics.items()}
    assert 0 < values["match"] < 100
    assert 0 <= values["bleed"] <= 100
    assert 0 < values["ssim"] < 1
    assert 0 < values["ssim_global"] < 1


def test_numbers_are_those_of_the_pictures_as_they_are(painted: Path, tmp_path: Path) -> None:
    score(painted, tmp_path / "store", "--metrics", "ssim_global")
    folder = only_cell(tmp_path / "store")
    kept = PairPictures(folder / record(folder)["measurements"][0]["folder"])
    given = np.stack([np.asarray(Image.open(painted / f"{pair:04d}.png")) for pair in range(6)])
    assert kept.lossless
    assert torch.equal(kept.all_of(kept.generated), torch.from_numpy(given.transpose(0, 3, 1, 2)))


@pytest.mark.parametrize("name", ["{}.png", "{:08d}.PNG", "{:02d}.webp"])
def test_any_padding_and_format_will_do(name: str, painted: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    for pair in range(6):
        Image.open(painted / f"{pair:04d}.png").save(renamed / name.format(pair), lossless=True)
    Image.new("RGB", (8, 8)).save(renamed / "overview.png")  # not named by a number: no pair's picture
    for folder in (painted, renamed):
        assert score(folder, tmp_path / "store").code == 0
    only_cell(tmp_path / "store")  # the same pictures, the same row


def test_scoring_again_measures_only_what_is_missing(painted: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    score(painted, store, "--metrics", "ssim_global", "--note", "first")
    first = record(only_cell(store))
    before = runs.tree(store)
    again = score(painted, store, "--metrics", "ssim_global")
    assert (again.code, "measured already" in again.err) == (0, True)
    assert runs.tree(store) == before
    assert (
        "measures ssim\n"
        in score(painted, store, "--metrics", "ssim_global,ssim", "--note", "second", "--pictures", "none").err
    )
    second = record(only_cell(store))
    old, new = first["measurements"][0]["metrics"], second["measurements"][0]["metrics"]
    assert (set(new), new["ssim_global"]) == ({"ssim_global", "ssim"}, old["ssim_global"])
    assert second["pictures"]["note"] == "second"
    assert second["measurements"][0]["pictures"] == "lossless"  # they were kept, and are the same


def test_a_metric_that_comes_later_is_measured_from_the_kept_pictures(painted: Path, tmp_path: Path) -> None:
    for store, metrics in ((tmp_path / "a", "ssim_global"), (tmp_path / "b", "ssim_global,ssim")):
        assert score(painted, store, "--metrics", metrics).code == 0
    done = attnbench("measure", tmp_path / "a", "--metrics", "ssim")
    assert (done.code, done.out.split(";")[0]) == (0, "measured 1, already measured 0, left out 0")
    numbers = [record(only_cell(tmp_path / name))["measurements"][0]["metrics"]["ssim"] for name in "ab"]
    assert numbers[0]["source"] == "lossless pictures"
    assert numbers[0]["value"] == numbers[1]["value"]
    assert numbers[0]["identity"] == numbers[1]["identity"]


def test_pictures_that_were_not_kept_have_to_be_scored_again(painted: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    assert score(painted, store, "--metrics", "ssim_global", "--pictures", "none").code == 0
    done = attnbench("measure", store, "--metrics", "ssim")
    assert (done.code, "`attnbench score` measures them again" in done.err) == (1, True)
    assert score(painted, store, "--metrics", "ssim").code == 0


def test_pairs_say_size_data_and_protocol(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs", "--size", "48", "--set", "evaluation.references=same", "--limit", "3")
    painted = paint(pairs, tmp_path / "painted")
    assert score(painted, tmp_path / "store", "--pairs", pairs, "--metrics", "ssim_global", recipe=False).code == 0
    found = record(only_cell(tmp_path / "store"))
    assert (found["pictures"]["side"], found["pictures"]["size"]) == (48, 32)
    assert found["recipe"]["values"] == {"data": json.loads((pairs / "pairs.json").read_text())["data"]}
    (measurement,) = found["measurements"]
    assert (measurement["protocol"]["references"], measurement["protocol"]["limit"]) == ("same", 3)
    assert measurement["metrics"]["ssim_global"]["n"] == 3
    assert score(painted, tmp_path / "store", "--pairs", pairs, "--set", "evaluation.references=same").code == 0


def test_other_pictures_of_the_same_name_are_another_row(painted: Path, tmp_path: Path) -> None:
    score(painted, tmp_path / "store")
    Image.new("RGB", (32, 32)).save(painted / "0003.png")
    score(painted, tmp_path / "store")
    assert len({folder.name for folder in (tmp_path / "store").iterdir()}) == 2


def test_the_format_of_the_protocol_is_applied(painted: Path, tmp_path: Path) -> None:
    score(painted, tmp_path / "store")
    assert score(painted, tmp_path / "store", "--set", "evaluation.format=jpeg75").code == 0
    plain, lossy = record(only_cell(tmp_path / "store"))["measurements"]
    assert lossy["protocol"]["format"] == "jpeg75"
    assert plain["generated"] != lossy["generated"]


def test_pictures_scored_under_other_rules_for_line_art_are_refused(painted: Path, tmp_path: Path) -> None:
    score(painted, tmp_path / "store")
    before = runs.tree(tmp_path / "store")
    again = score(painted, tmp_path / "store", "--set", "data.sketch.at=native")
    assert (again.code, "were scored before, with other values of `data`" in again.err) == (2, True)
    assert runs.tree(tmp_path / "store") == before


def test_a_damaged_record_is_set_aside(painted: Path, tmp_path: Path) -> None:
    score(painted, tmp_path / "store")
    folder = only_cell(tmp_path / "store")
    before = record(folder)
    (folder / "cell.json").write_text("{")
    assert "set aside as cell.json.damaged1" in score(painted, tmp_path / "store").err
    assert record(folder)["identity"] == before["identity"]


@pytest.mark.parametrize("where", ["before measuring", "before the record"])
def test_the_same_command_goes_on_after_a_kill(
    where: str, painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    store = tmp_path / "store"
    with monkeypatch.context() as killed:
        if where == "before measuring":
            killed.setattr(scoring, "measure_cell", stop)
        else:
            killed.setattr(CellFolder, "write_record", stop)
        assert score(painted, store).code == 130
    assert not (only_cell(store) / "cell.json").exists()  # no row without numbers
    assert score(painted, store).code == 0
    other = tmp_path / "undisturbed"
    score(painted, other)
    numbers = [
        {key: one["value"] for key, one in record(only_cell(place))["measurements"][0]["metrics"].items()}
        for place in (store, other)
    ]
    assert numbers[0] == numbers[1]


def remove(*names: str) -> Change:
    return lambda folder: [(folder / name).unlink() for name in names] and None


def add(name: str, side: int = 32, height: int | None = None) -> Change:
    return lambda folder: Image.new("RGB", (side, height or side)).save(folder / name)


def damage(folder: Path) -> None:
    (folder / "0002.png").write_bytes((folder / "0002.png").read_bytes()[:60])
    (folder / "0004.png").write_text("no picture")


def without_numbers(folder: Path) -> None:
    for file in list(folder.iterdir()):
        file.rename(folder / f"fake_{file.name}")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (remove("0005.png"), "lacks pictures of 1 of 6 pairs: 5: name each by its pair's number, as 0005.png"),
        (remove("0001.png", "0004.png"), "lacks pictures of 2 of 6 pairs: 1, 4"),
        (add("0006.png"), "has pictures beyond the last pair, which is 5: 0006.png"),
        (add("3.jpg"), "has several pictures of one pair: 0003.png and 3.jpg"),
        (damage, "cannot be decoded: 0002.png ("),
        (add("0003.png", 16), "are not 32 x 32: 0003.png is 16 x 16"),
        (add("0003.png", 32, 20), "are not 32 x 32: 0003.png is 32 x 20"),
        (without_numbers, "no picture in '{}' is named by its pair's number (found: fake_0000.png, "),
    ],
    ids=["missing", "several missing", "surplus", "twice", "damaged", "size", "not square", "no numbers"],
)
def test_pictures_that_are_not_those_of_the_pairs_are_refused(change: Change, told: str, painted: Path, tmp_path: Path) -> None:
    change(painted)
    refused(score(painted, tmp_path / "store"), told.format(painted), tmp_path / "store")


def test_pictures_of_another_size_than_the_pairs_are_refused(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs", "--size", "48")
    painted = paint(pairs, tmp_path / "painted", side=40)
    named = ", ".join(f"000{pair}.png is 40 x 40" for pair in range(5))
    told = f"are not 48 x 48: {named}, ... (6 in all)"
    refused(score(painted, tmp_path / "store", "--pairs", pairs), told, tmp_path / "store")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--as", ""], "--as '': expected a name without / : or ,"),
        (["--as", "a/b"], "--as 'a/b': expected"),
        (["--as", "a:b"], "--as 'a:b': expected"),
        (["--as", "a,b"], "--as 'a,b': expected"),
        (["--as", ".a"], "--as '.a': expected"),
        (["--as", "sga"], "--as sga: a module has this name"),
        (["-d", "synthetics"], "unknown dataset 'synthetics': did you mean 'synthetic'?"),
        (["--metrics", "ssimm"], "unknown metric 'ssimm': did you mean 'ssim'?"),
        (["--metrics", "ssim,ssim"], "metrics has 'ssim' twice: name it once"),
        (["--set", "train.epochs=1"], "only keys of `evaluation` and `data` can be set"),
        (["--set", "evaluation.references=[cross,same]"], "has several kinds of references (cross, same)"),
        (["--method", "copy"], "one of the three, and only one"),
        (["--right-answers"], "one of the three, and only one"),
        (["--as", "Right answer"], "--as Right answer: the dataset's own have this name (--right-answers)"),
        (["--pairs", "nowhere"], "'nowhere' holds no pairs.json: name a folder that `attnbench pairs` wrote"),
        (["--device", "abacus"], "device 'abacus' cannot be used here"),
        (["--limit", "4"], "has pictures beyond the last pair, which is 3: 0004.png, 0005.png"),
    ],
)
def test_bad_input_is_refused_in_one_line(arguments: list[str], told: str, painted: Path, tmp_path: Path) -> None:
    refused(score(painted, tmp_path / "store", *arguments), told, tmp_path / "store")


def test_what_is_missing_is_named(painted: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    refused(attnbench("score", painted, "-d", HEADS, "-o", store), "--as is missing", store)
    refused(attnbench("score", painted, "--as", "me", "-o", store), "--dataset is missing", store)
    refused(attnbench("score", "-d", HEADS, "--as", "me", "-o", store), "name a folder of pictures, a method with", store)
    refused(score(tmp_path / "nowhere", store), "there is no folder", store)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--set", "evaluation.references=same"], "evaluation.references = same contradicts the pairs in"),
        (["--set", "evaluation.pair_seed=1"], "evaluation.pair_seed = 1 contradicts the pairs in"),
        (["--set", "data.size=64"], "data.size = 64 contradicts the pairs in"),
        (["--limit", "2"], "evaluation.limit = 2 contradicts the pairs in"),
    ],
)
def test_a_key_that_contradicts_the_pairs_is_refused(arguments: list[str], told: str, painted: Path, tmp_path: Path) -> None:
    done = score(painted, tmp_path / "store", "--pairs", tmp_path / "pairs", *arguments, recipe=False)
    refused(done, told, tmp_path / "store")


def test_a_recipe_of_another_size_gives_way_to_the_pairs(painted: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    done = score(painted, store, "--pairs", tmp_path / "pairs", "--recipe", "demo", "--metrics", "ssim_global", recipe=False)
    assert done.code == 0, done.err
    assert record(only_cell(store))["pictures"]["size"] == json.loads((tmp_path / "pairs" / "pairs.json").read_text())["size"]


def test_pairs_of_other_images_are_refused(painted: Path, tmp_path: Path) -> None:
    store, others = tmp_path / "store", write_pairs(tmp_path / "others", dataset=f"{HEADS}:seed=1")
    refused(
        score(painted, store, "--pairs", others), "are of other images (dataset 'synthetic') than the test images of", store
    )


def test_a_damaged_file_of_pairs_is_refused(painted: Path, tmp_path: Path) -> None:
    file = tmp_path / "pairs" / "pairs.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"size": "large"}))
    refused(score(painted, tmp_path / "store", "--pairs", file), "is damaged (size: ", tmp_path / "store")


def refused(done: Outcome, told: str, untouched: Path) -> None:
    """One line on stderr, exit code 2, and nothing written."""
    errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert done.code == 2, done.err
    assert len(errors) == 1
    assert done.err.splitlines()[-1] == errors[0]
    assert told in errors[0]
    assert not untouched.exists()


# methods


def test_a_method_colours_the_pairs_and_is_scored(tmp_path: Path) -> None:
    done = score_by("copy", tmp_path / "store")
    assert done.code == 0, done.err
    folder = only_cell(tmp_path / "store")
    found = record(folder)
    assert (found["module"]["label"], found["pictures"]["note"]) == ("copy", "The sketch itself, without any colour")
    kept = PairPictures(folder / found["measurements"][0]["folder"])
    assert torch.equal(kept.all_of(kept.generated), kept.all_of(kept.sketch))
    before = runs.tree(tmp_path / "store")
    assert score_by("copy", tmp_path / "store").code == 0
    assert runs.tree(tmp_path / "store") == before
    assert score_by("recolour", tmp_path / "store", "--as", "Floor", "--note", "no correspondence").code == 0
    assert record(only_cell(tmp_path / "store", "floor"))["pictures"]["note"] == "no correspondence"
    frame = package.results(tmp_path / "store")
    assert set(frame["label"]) == {"copy", "Floor"}


def test_recolour_has_the_palette_of_the_reference_and_the_lines_of_the_sketch() -> None:
    rng = np.random.default_rng(0)
    reference = Image.fromarray(rng.integers((150, 40, 90), (230, 120, 170), (64, 64, 3)).astype(np.uint8))
    lines = np.full((64, 64), 255, np.uint8)
    drawn = [3, 10, 14, 30, 45, 60]
    lines[drawn] = 0
    found = np.asarray(recolour(Image.fromarray(lines), reference))
    assert (found[drawn] == 0).all()
    paper = np.delete(found, drawn, 0).reshape(-1, 3).astype(float)
    assert np.abs(paper.mean(0) - np.asarray(reference).reshape(-1, 3).mean(0)).max() < 8
    assert np.abs(paper.std(0) - np.asarray(reference).reshape(-1, 3).std(0)).max() < 8


def test_copy_is_the_sketch() -> None:
    sketch = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    picture = copy(sketch, Image.new("RGB", (16, 16), "red"))
    assert (picture.mode, picture.convert("L").tobytes()) == ("RGB", sketch.tobytes())


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [(16, 16), (24, 20)])
def test_paste_is_the_reference_at_the_sketch_s_size(size: tuple[int, int], mode: str) -> None:
    reference = Image.linear_gradient("L").resize(size).convert(mode)
    picture = paste(Image.new("L", (16, 16)), reference)
    assert (picture.mode, picture.size) == ("RGB", (16, 16))
    assert np.abs(np.asarray(picture, float) - np.asarray(reference.convert("RGB").resize((16, 16)), float)).max() <= 1
    assert size != (16, 16) or picture.tobytes() == reference.convert("RGB").tobytes()


def test_paste_scores_what_the_references_score_as_they_are(tmp_path: Path) -> None:
    assert score_by("paste", tmp_path / "store").code == 0
    folder = only_cell(tmp_path / "store")
    found = record(folder)
    assert found["pictures"]["note"] == "The reference itself, as it is"
    kept = PairPictures(folder / found["measurements"][0]["folder"])
    assert torch.equal(kept.all_of(kept.generated), kept.all_of(kept.reference))


@pytest.mark.parametrize("method", [copy, recolour, paste])
@pytest.mark.parametrize("tone", [0, 255])
def test_methods_bear_blank_pictures(method: Callable[..., Image.Image], tone: int) -> None:
    picture = method(Image.new("L", (16, 16), tone), Image.new("RGB", (16, 16), "red"))
    assert (picture.mode, picture.size) == ("RGB", (16, 16))


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("raise ValueError('no\\ncolours')", "failed on pair 0 (000000, 000003): ValueError: no colours"),
        (
            "return sketch",
            "gave a picture of mode L, 32 x 32 for pair 0 (000000, 000003): it must be a Pillow image of mode RGB",
        ),
        ("return reference.resize((8, 9))", "gave a picture of mode RGB, 8 x 9 for pair 0"),
        ("return None", "gave a NoneType for pair 0"),
    ],
)
def test_a_method_that_misbehaves_is_named_with_the_pair(
    body: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = f"def odd(sketch, reference):\n    {body}\n"
    runs.install(tmp_path / "site", monkeypatch, "odd_methods", "\n[attnbench.methods]\nodd = odd_methods:odd", code)
    done = score_by("odd", tmp_path / "store")
    refused(done, f"method 'odd' of package odd_methods 1.2 {told}", tmp_path / "store")


def test_an_unknown_method_and_pairs_for_a_method_are_refused(tmp_path: Path) -> None:
    refused(score_by("copi", tmp_path / "store"), "unknown method 'copi': did you mean 'copy'?", tmp_path / "store")
    refused(score_by("copy", tmp_path / "store", "--pairs", "pairs"), "--pairs is for pictures in a folder", tmp_path / "store")


# right answers


def score_answers(store: Path, *more: str | Path, dataset: str = HEADS) -> Outcome:
    return attnbench("score", "--right-answers", "-d", dataset, "-o", store, *RECIPE, *more)


def test_a_dataset_s_right_answers_are_a_row_that_says_what_it_is(tmp_path: Path) -> None:
    store = tmp_path / "store"
    done = score_answers(store)
    assert done.code == 0, done.err
    assert "right answer (not trained here)" in done.out
    assert "right answer: not trained here (The dataset's own, each sketch in its reference's" in " ".join(done.out.split())
    folder = only_cell(store)
    found = record(folder)
    assert folder.name == f"right-answer-synthetic-{found['identity'][:10]}"
    assert (found["dataset"]["train"], found["pictures"]["side"], found["pictures"]["size"]) == (0, 32, 32)
    kept = PairPictures(folder / found["measurements"][0]["folder"])
    drawn = [draw(0, sketch, 32, colors=palette(0, reference)) for sketch, reference in Protocol().pairs(6)]
    assert torch.equal(kept.all_of(kept.generated), torch.from_numpy(np.stack(drawn).transpose(0, 3, 1, 2)))
    before = runs.tree(store)
    assert "measured already" in score_answers(store).err
    assert runs.tree(store) == before


def test_right_answers_to_one_s_own_colours_are_the_originals(tmp_path: Path) -> None:
    done = score_answers(tmp_path / "store", "--set", "evaluation.references=same", "--as", "Perfect", "--note", "drawn anew")
    assert done.code == 0, done.err
    found = record(only_cell(tmp_path / "store", "perfect"))
    assert found["pictures"]["note"] == "drawn anew"
    values = {key: one["value"] for key, one in found["measurements"][0]["metrics"].items()}
    assert values == pytest.approx({"match": 100, "bleed": 0, "ssim_global": 1, "ssim": 1})


def test_right_answers_that_nobody_knows_are_refused_in_one_line(
    tmp_path: Path, folder_of_heads: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, heads = tmp_path / "store", folder_of_heads(train=3)
    refused(score_answers(store, dataset=f"mine={heads}"), "--right-answers: dataset 'mine' has none: choose", store)
    refused(score_answers(store, "--references", heads / "train"), "references from elsewhere: leave --references out", store)
    refused(score_answers(store, "--pairs", "pairs"), "--pairs is for pictures in a folder: right answers are", store)
    refused(score_answers(store, "--method", "copy"), "one of the three, and only one", store)
    refused(score_answers(store, "--as", "copy"), "--as copy: an installed method has this name", store)

    def broken(*_: object, **__: object) -> None:
        raise ValueError("no\nink")

    monkeypatch.setattr("attnbench.data.layouts.cartoon.palette", broken)
    refused(score_answers(store), "dataset 'synthetic' failed to make them: ValueError: no ink", store)


@pytest.mark.parametrize("asked", [["--right-answers"], ["--method", "copy", "--metrics", "match"]])
def test_what_a_dataset_lacks_is_refused_before_it_is_decoded(
    asked: list[str], tmp_path: Path, folder_of_heads: Callable[..., Path]
) -> None:
    heads = folder_of_heads(train=3)
    (heads / "train" / "damaged.png").write_text("no picture")
    done = attnbench("score", *asked, "-d", f"mine={heads}", "-o", tmp_path / "store", *RECIPE)
    refused(done, "no dataset here has" if "match" in asked else "dataset 'mine' has none", tmp_path / "store")


# metrics that need what a dataset lacks

NEEDS_ANSWERS = '''
class Right:
    """Share of pixels that are right."""

    title, lower_is_better, per_image, uses = "Right", False, True, ("answers",)

    def measure(self, pictures):
        return (pictures.generated == pictures.answers).double().mean((1, 2, 3))
'''


def test_a_recipe_s_metric_that_the_dataset_cannot_have_is_left_out_and_one_asked_for_by_name_refused(
    painted: Path, tmp_path: Path, folder_of_heads: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.install(tmp_path / "site", monkeypatch, "right", "right = right:Right", NEEDS_ANSWERS, group="attnbench.metrics")
    store, mine = tmp_path / "store", f"mine={folder_of_heads(train=3, test=6)}"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("data: {size: 32}\nevaluation: {metrics: [right, ssim_global]}\n")
    asked = ("score", painted, "-d", mine, "--as", "Painter", "-o", store, "--recipe", recipe)
    told = "metric 'right' needs right answers, which no dataset here has (mine): leave it out"
    refused(attnbench(*asked, "--metrics", "right,ssim_global"), told, store)
    refused(attnbench(*asked, "--set", "evaluation.metrics=[right]"), told, store)
    done = attnbench(*asked)
    assert done.code == 0, done.err
    assert "Right ↑" not in done.out
    assert "Not measured on mine: Right (dataset 'mine' has no right answers)." in " ".join(done.out.split())
    assert "measured already" in attnbench(*asked).err
