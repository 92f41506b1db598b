"""A trained generator as a folder that stands alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from runs import Python, attnbench, install_module, only_cell, overrides, record, tiny, tree

import attnbench as library
from attnbench.cells.record import parse_record, record_text
from attnbench.cells.variant import parse_variant
from attnbench.colorization import export as exporting
from attnbench.colorization import program
from attnbench.colorization.export import export, pair_sheet, public_record
from attnbench.colorization.model_card import model_card
from attnbench.colorization.program import Program, write_program
from attnbench.config.recipe import Recipe, load_recipe
from attnbench.errors import UserError
from attnbench.method.backbone import Colorizer
from attnbench.store.pictures import PICTURES
from attnbench.store.reading import read_record
from attnbench.training.state import build_generator

SIX = ["spade", "cocosnet", "scft", "unite", "cmft", "sga"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("store")
    assert attnbench(*tiny(store, "sga:double_norm=false")).code == 0
    return only_cell(store)


@pytest.fixture
def cell(finished: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(finished, tmp_path / "store" / finished.name))


def built(module: str, *changes: str) -> Colorizer:
    """A generator as `load` gives it, with statistics of its batch norms that are not those of a fresh network."""
    recipe = load_recipe("demo", [*overrides(), *changes])
    generator = build_generator(parse_variant(module).factory, recipe, 0)
    size = recipe.data.size
    torch.manual_seed(0)
    for _ in range(3):
        generator(torch.rand(4, 1, size, size) * 2 - 1, torch.rand(4, 3, size, size) * 2 - 1)
    generator.recipe = recipe  # type: ignore[assignment]
    return generator.eval()


def numbers(stored: dict[str, Any]) -> dict[str, Any]:
    """The numbers of the first measurement in a record's plain values."""
    return stored["measurements"][0]["metrics"]  # type: ignore[no-any-return]


def missing(reason: str) -> dict[str, Any]:
    described = {"name": "lpips", "title": "LPIPS", "lower_is_better": True, "per_image": True}
    return {"value": None, "reason": reason, "missing": "lpips", "metric": described}


def pictures_of(cell: Path) -> Path:
    return cell / str(record(cell)["measurements"][0]["folder"]) / PICTURES


def inputs(count: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(count)
    return torch.rand(count, 1, size, size) * 2 - 1, torch.rand(count, 3, size, size) * 2 - 1


def test_the_folder_stands_alone(cell: Path, tmp_path: Path) -> None:
    """Two lines of Python give the generator that was trained, when nothing else of the cell is left."""
    before = library.load(cell)
    folder = export(cell, tmp_path / "deep" / "er" / "mine")
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == {"generator.safetensors", "cell.json", "recipe.yaml", "README.md", "pictures/pairs.png"}
    shutil.rmtree(cell)
    generator = library.load(folder)
    pair = inputs(2, 16)
    with torch.no_grad():
        assert torch.equal(generator(*pair), before(*pair))
    assert load_recipe(folder / "recipe.yaml") == Recipe.model_validate(record(folder)["recipe"]["values"])
    again = export(folder, tmp_path / "again")  # an exported one is a cell as well
    assert (again / "pictures" / "pairs.png").read_bytes() == (folder / "pictures" / "pairs.png").read_bytes()
    assert (again / "generator.safetensors").read_bytes() == (folder / "generator.safetensors").read_bytes()
    assert [path.name for path in (tmp_path / "deep" / "er").iterdir()] == ["mine"]


def test_the_command_writes_beside_nothing_surprising(cell: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    before = tree(cell)
    outcome = attnbench("export", cell)
    assert outcome.code == 0
    assert outcome.err == ""
    assert [path.name for path in here.iterdir()] == [f"{cell.name}-export"]
    assert outcome.out.startswith(f"written to {cell.name}-export; ")
    assert tree(cell) == before
    made = attnbench(
        "colorize", "-m", f"{cell.name}-export", "-s", cell / "samples.png", "-r", cell / "samples.png", "-o", "a.png"
    )
    assert made.code == 0


def test_the_card_says_what_was_measured_and_how(compiler: None, cell: Path, tmp_path: Path) -> None:
    stored = record(cell)
    numbers(stored)["fid:dims=768"] = {
        "value": 12.3456, "n": 2, "n_real": 2, "floor": 3.21, "n_floor": 2, "weights": {"inception": "31b69c56" * 8},
        "metric": {
            "name": "fid", "title": "FID-768", "lower_is_better": True, "per_image": False, "note": "a remark",
            "options": {"dims": 768, "real_size": "native"},
        },
    }  # fmt: skip
    numbers(stored)["lpips"] = missing("weights 'lpips' are not in '/home/somebody/.cache'")
    lacks = "dataset 'synthetic' has no right answers"
    numbers(stored)["mine"] = {**missing(lacks), "missing": None, "metric": {**missing("")["metric"], "title": "Mine"}}
    same = json.loads(json.dumps(stored["measurements"][0]))
    same["protocol"]["references"] = "same"
    stored["measurements"].append({**same, "identity": "same", "metrics": {"ssim": {**same["metrics"]["ssim"], "value": 0.25}}})
    (cell / "cell.json").write_text(json.dumps(stored))
    card = (export(cell, tmp_path / "mine", program=True) / "README.md").read_text()
    _, front, text = card.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "attnbench",
        "pipeline_tag": "image-to-image",
        "tags": ["attnbench", "image-to-image", "line-art-colorization", "reference-based", "sga"],
    }
    assert "# license: choose one" in front
    rows = {row[1]: row[2:4] for line in text.splitlines() if len(row := [part.strip() for part in line.split("|")]) > 3}
    assert rows["FID-768 ↓"][0] == "12.35"
    how = "dims=768, real_size=native; weights inception 31b69c56; 2 generated against 2 real test images"
    assert rows["FID-768 ↓"][1] == f"{how}; floor, real training against real test images: 3.21 (2 images); a remark"
    assert rows["LPIPS ↓"] == ["not measured", "its network was not on the machine"]
    assert rows["Mine ↓"] == ["not measured", lacks]
    first, second = (line.split("|")[2:4] for line in text.splitlines() if line.startswith("| SSIM (windowed) ↑ |"))
    assert first[0].strip() == f"{numbers(stored)['ssim']['value']:.4g}"
    assert first[1].strip() == "mean of 2 pairs; 11 x 11 Gaussian window"
    assert [part.strip() for part in second] == ["0.25", "protocol: same; mean of 2 pairs; 11 x 11 Gaussian window"]
    assert "with another test image as its reference. Under `same`, the reference is the sketch's own original" in text
    assert f"Test images: 2, fingerprint `{stored['measurements'][0]['test']['fingerprint'][:16]}`.\n" in text
    assert rows["budget"][0].startswith("4 steps of 2 images, 2 passes over the training images")
    assert rows["parameters of the generator (M)"][0] == f"{stored['costs']['generator_parameters'] / 1e6:.2f}"
    assert "w/o double-norm" in text
    assert "`double_norm=false`" in text
    assert "Metrics of right answers, where the dataset knows them, compare results with the sketch in its reference's" in text
    assert 'attnbench.load("mine")' in text
    assert "![sketch, reference, generated, original](pictures/pairs.png)" in text
    assert "\n2 of the 2 test pairs: " in text
    assert "16 x 16 pixels,\nbatches of any size" in text


@pytest.mark.parametrize(
    ("told", "recorded", "said"),
    [
        ({"floor_is": "the originals"}, {"floor": 5.123456}, "floor, the originals: 5.123"),
        ({"ceiling_is": "the originals"}, {"ceiling": 91}, "ceiling, the originals: 91"),
        ({}, {"ceiling": 91.5}, "ceiling: 91.5"),
        ({"per_image": False}, {"floor": 0.5, "n_floor": 9}, "floor, real training against real test images: 0.5 (9 images)"),
        ({}, {"chance": 12.5, "ceiling": 90.0}, "ceiling: 90; chance, without a look at the reference: 12.5"),
        ({}, {"floor": None, "ceiling": "high"}, ""),
    ],
)
def test_the_card_says_what_a_number_can_be_compared_with(
    told: dict[str, Any], recorded: dict[str, Any], said: str, cell: Path
) -> None:
    stored = record(cell)
    described = {"name": "mine", "title": "Mine", "lower_is_better": True, "per_image": True, **told}
    numbers(stored)["mine"] = {"value": 1.0, "n": 2, "metric": described, **recorded}
    card = model_card(public_record(parse_record(json.dumps(stored).encode())), "mine", "", None)
    (how,) = [line.split("|")[3].strip() for line in card.splitlines() if line.startswith("| Mine ↓ |")]
    assert how.split("; ", 1)[1:] == ([said] if said else [])


def test_a_single_pair_is_no_mean(cell: Path) -> None:
    stored = record(cell)
    numbers(stored)["ssim"]["n"] = 1
    card = model_card(public_record(parse_record(json.dumps(stored).encode())), "mine", "", None)
    assert " | 1 pair; 11 x 11 Gaussian window |" in card


def test_nothing_of_this_machine_goes_along(compiler: None, cell: Path, tmp_path: Path) -> None:
    stored = record(cell)
    secret = "/home/somebody/weights"
    stored |= {"failure": {"message": f"cannot read {secret}", "traceback": secret}, "host": secret}
    numbers(stored)["lpips"] = missing(secret)
    numbers(stored)["mine"] = {**missing(secret), "missing": None}
    stored["best"] = {"step": 2, "epoch": 1, "by": "lpips", "metrics": {"lpips": missing(secret)}}
    (cell / "cell.json").write_text(json.dumps(stored))
    (cell / "job.json").write_text(secret)
    folder = export(cell, tmp_path / "mine", program=True)
    assert not (folder / "job.json").exists()
    home = Path(library.__file__).parents[1]
    for path in folder.rglob("*"):
        for private in (secret, str(tmp_path), str(home), str(Path(torch.__file__).parents[1]), str(Path.home()) + "/"):
            assert path.is_dir() or private.encode() not in path.read_bytes()
    kept = record(folder)
    assert kept["identity"] == stored["identity"]
    assert numbers(kept)["ssim"] == numbers(stored)["ssim"]
    assert numbers(kept)["mine"]["reason"] == "it could not be measured"
    assert kept["measurements"][0]["pictures"] == "none"
    assert library.results(folder)["ssim"].tolist() == [numbers(stored)["ssim"]["value"]]


def test_a_record_of_any_age_is_made_public() -> None:
    for stored in (Path(__file__).parents[1] / "results").rglob("cell.json"):
        old = read_record(stored)
        public = public_record(old)
        assert [one.metrics for one in public.measurements] == [one.metrics for one in old.measurements]
        assert parse_record(record_text(public)) == public


@pytest.mark.parametrize("module", SIX)
def test_a_program_of_each_module_agrees_with_its_generator(compiler: None, module: str, tmp_path: Path) -> None:
    generator = built(module)
    made = write_program(generator, tmp_path / "generator.pt2", module)
    assert made.any_batch
    assert made.difference <= 1e-4
    program = torch.export.load(tmp_path / "generator.pt2").module()
    for count in (1, 3, 7):
        pair = inputs(count, 16)
        with torch.no_grad():
            image = generator(*pair)
            assert (program(*pair) - image).abs().max() <= 1e-4
        assert image.std() > 0.01


def test_a_program_runs_without_attnbench(tmp_path: Path, compiler: None, python: Python) -> None:
    write_program(generator := built("sga"), tmp_path / "generator.pt2", "sga")
    sketch, reference = inputs(1, 16)
    torch.save((sketch, reference), tmp_path / "pair.pt")
    code = (
        "import sys; sys.modules['attnbench'] = None\n"
        "import torch\n"
        "program = torch.export.load('generator.pt2').module()\n"
        "torch.save(program(*torch.load('pair.pt')).detach(), 'image.pt')"
    )
    python("-c", code, cwd=tmp_path)
    with torch.no_grad():
        assert (torch.load(tmp_path / "image.pt") - generator(sketch, reference)).abs().max() <= 1e-4


def test_a_module_that_counts_its_batch_gets_a_program_for_one_picture(
    compiler: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_module(tmp_path / "site", monkeypatch, "counts", "mixed = mixed + sum(range(int(len(mixed)))) * 0")
    made = write_program(built("counts"), tmp_path / "generator.pt2", "counts")
    assert (made.any_batch, made.checked) == (False, 1)
    assert torch.export.load(tmp_path / "generator.pt2").module()(*inputs(1, 16)).shape == (1, 3, 16, 16)


def test_a_module_that_draws_its_references_gets_a_program_for_one_picture(compiler: None, tmp_path: Path) -> None:
    made = write_program(built("cmft:key_source=reference_sketch"), tmp_path / "generator.pt2", "cmft")
    assert (made.any_batch, made.checked) == (False, 1)
    assert made.difference <= 1e-4


def test_a_module_that_looks_at_values_has_no_program(
    compiler: None, cell: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    install_module(tmp_path / "site", monkeypatch, "looks", "mixed = mixed if mixed.mean() > 0 else -mixed")
    with pytest.raises(UserError, match="module 'looks' cannot be made into a program .*: export it without --program"):
        write_program(built("looks"), tmp_path / "generator.pt2", "looks")
    assert capfd.readouterr() == ("", "")  # torch prints pages


def test_a_program_that_differs_is_not_kept(
    compiler: None, cell: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "TOLERANCE", -1.0)
    outcome = attnbench("export", cell, "-o", tmp_path / "out" / "mine", "--program")
    assert outcome.code == 2
    assert outcome.err.startswith("error: the program of module 'sga' differs from its generator by ")
    assert list((tmp_path / "out").iterdir()) == []


def running(cell: Path) -> None:
    rewrite(cell, status="running")


def without_weights(cell: Path) -> None:
    (cell / "generator.safetensors").unlink()


def cut_weights(cell: Path) -> None:
    path = cell / "generator.safetensors"
    path.write_bytes(path.read_bytes()[:-5])


def cut_pictures(cell: Path) -> None:
    path = pictures_of(cell)
    path.write_bytes(path.read_bytes()[:-30])


def spoilt_pictures(cell: Path) -> None:
    data = bytearray(pictures_of(cell).read_bytes())
    where = data.index(b"WEBP")
    data[where : where + 40] = bytes(40)
    pictures_of(cell).write_bytes(data)


def without_data_set(cell: Path) -> None:
    rewrite(cell, dataset={})


def spoilt_grid(cell: Path) -> None:
    pictures_of(cell).unlink()
    path = cell / "samples.png"
    path.write_bytes(path.read_bytes()[:100])


def within(cell: Path, part: str, **changes: Any) -> None:
    rewrite(cell, **{part: record(cell)[part] | changes})


def rewrite(cell: Path, **changes: Any) -> None:
    (cell / "cell.json").write_text(json.dumps(record(cell) | changes))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (running, "is not finished (running): finish it with `attnbench run` first"),
        (without_weights, "has a cell's numbers but not its trained generator"),
        (cut_weights, "generator.safetensors' is damaged"),
        (cut_pictures, f"{PICTURES}' is damaged"),
        (spoilt_pictures, f"{PICTURES}' is damaged"),
        (without_data_set, "cell.json' is not a cell's record (dataset.name is missing)"),
        (lambda cell: rewrite(cell, step=None), "cell.json' is not a cell's record (step is null)"),
        (lambda cell: within(cell, "dataset", train=None), "cell.json' is not a cell's record (dataset.train is null)"),
        (lambda cell: within(cell, "dataset", train=0), "cell.json' is not a cell's record (dataset.train is 0)"),
        (lambda cell: within(cell, "dataset", fingerprint=None), "(dataset.fingerprint is null)"),
        (lambda cell: within(cell, "provenance", versions=None), "(provenance.versions is null)"),
        (
            lambda cell: rewrite(cell, best={"step": 1, "epoch": 1, "by": "fid", "metrics": {"fid": {"value": "low"}}}),
            "cell.json' is not a cell's record (best.metrics.fid.value is \"low\")",
        ),
        (lambda cell: rewrite(cell, measurements={"fid": 3}), "cell.json' is not a cell's record"),
        (spoilt_grid, "samples.png' is damaged"),
        (shutil.rmtree, "there is no cell"),
    ],
)
def test_what_cannot_be_exported_is_one_line_and_leaves_nothing(
    spoil: Callable[[Path], None], message: str, cell: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: object) -> None:
        raise AssertionError("a program was made before the cell had been checked")

    spoil(cell)
    monkeypatch.setattr(exporting, "write_program", never)
    target = cell.parent.parent / "mine"
    outcome = attnbench("export", cell, "-o", target, "--program")
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert message in line
    assert sorted(path.name for path in cell.parent.parent.iterdir()) == ["store"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_in_the_way_stays(kind: str, cell: Path, tmp_path: Path) -> None:
    target = tmp_path / "mine"
    if kind == "folder":
        target.mkdir()
    (target / "notes.txt" if kind == "folder" else target).write_text("mine")
    before = tree(tmp_path)
    outcome = attnbench("export", cell, "-o", target)
    assert (outcome.code, outcome.err) == (2, f"error: '{target}' exists already: choose another folder with -o\n")
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("/proc/mine", "'/proc/mine' cannot be written"),
        ("{}/" + "m" * 300, "' cannot be used: File name too long"),
        ("{}/circle", "'{}/circle' cannot be used: Too many levels of symbolic links"),
        ("{}/file/mine", "'{}/file/mine' cannot be written: Not a directory"),
        ("{}/store/mine", "'{}/store/mine' is in '{}/store', where it would count as the same cell again"),
        ("{}/store/deeper/mine", "'{}/store/deeper/mine' is in '{}/store', where it would count as the same cell again"),
    ],
)
def test_a_folder_that_cannot_be_written_to_is_one_line(
    target: str, message: str, cell: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    (tmp_path / "file").write_text("a file")
    monkeypatch.setattr(exporting, "load", None)  # before the work
    outcome = attnbench("export", cell, "-o", target.format(tmp_path))
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert message.format(tmp_path, tmp_path) in line
    assert {path.name for path in tmp_path.iterdir()} == {"store", "circle", "file"}
    assert [path.name for path in cell.parent.iterdir()] == [cell.name]


def test_pictures_are_those_of_the_pairs_or_of_the_last_grid(cell: Path, tmp_path: Path) -> None:
    (cell / "samples.png").unlink()
    stored = read_record(cell / "cell.json")
    sheet = pair_sheet(cell, stored, 1)
    assert sheet is not None
    assert sheet[1] == "1 of the 2"
    assert sheet[0].width == 4 * 128 + 3 * 4
    assert pair_sheet(cell, stored, 0) is None
    pictures_of(cell).unlink()
    assert pair_sheet(cell, stored, 8) is None
    folder = export(cell, tmp_path / "mine")
    assert "\nNo pictures are included.\n" in (folder / "README.md").read_text()
    assert not (folder / "pictures").exists()
    Image.new("RGB", (30, 20), "red").save(cell / "samples.png")
    sheet = pair_sheet(cell, stored, 8)
    assert sheet is not None
    assert sheet[0].size == (30, 20)


def test_a_module_of_another_package_is_named(cell: Path, tmp_path: Path) -> None:
    stored = read_record(cell / "cell.json")
    module = stored.module.model_copy(update={"package": "colour-tools", "version": "2.1"})
    card = model_card(public_record(stored.model_copy(update={"module": module})), "mine", "", None)
    version = stored.provenance.versions["attnbench"]
    assert (
        f"With the Python package attnbench {version} (`pip install .` in a checkout of it) and colour-tools 2.1, which" in card
    )


@pytest.mark.parametrize(
    ("difference", "sentence"),
    [(0.0, "exactly equals the generator's."), (3.2e-6, "differs from the generator's by at most 3e-06.")],
)
def test_the_card_says_how_a_program_differs(difference: float, sentence: str, cell: Path) -> None:
    program = Program(size=16, any_batch=True, checked=8, difference=difference)
    card = model_card(public_record(read_record(cell / "cell.json")), "mine", "", program)
    assert f"On 8 drawings its output\n{sentence}\n" in card
