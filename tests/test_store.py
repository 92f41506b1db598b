"""The store: damaged files are set aside, nothing is half written, and a cell's identity is what can change its numbers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from runs import HEADS, attnbench, cells, edit, install_module, only_cell, record, same_result, steps_in, tiny, tree

import attnbench as library
from attnbench.cells.cell import Cell
from attnbench.cells.sources import sources_of
from attnbench.config.recipe import load_recipe
from attnbench.data.batches import pair_batch
from attnbench.data.layouts import Drawing
from attnbench.data.synthetic import draw, palette
from attnbench.errors import UserError
from attnbench.execute import cell_run
from attnbench.files import replacing, write_text
from attnbench.metrics.generate import to_bytes
from attnbench.store.folder import CellFolder
from attnbench.store.generators import side_of
from attnbench.store.reading import read_record, records
from attnbench.training.loop import train
from attnbench.training.state import Training, build

FULL_STEPS = 4
STOP = 'if os.environ.get("CUE") and self.training and self.step == 3:\n    os.kill(os.getpid(), signal.SIGINT)'

RESULTS = Path(__file__).parents[1] / "results"


@pytest.fixture(autouse=True)
def _no_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting FLOPs takes longer than these runs; test_costs.py has its tests."""
    monkeypatch.setattr(cell_run, "count_costs", lambda factory, recipe: {})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one finished cell, to be copied before it is changed."""
    store = tmp_path_factory.mktemp("finished")
    assert attnbench(*tiny(store)).code == 0
    return store


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "copied")


def cut(file: Path, keep: float = 0.6) -> None:
    """What a power cut may leave of a file."""
    content = file.read_bytes()
    file.write_bytes(content[: int(keep * len(content))])


def numbers(said: dict[str, Any]) -> list[Any]:
    """The measurements of a record, without when and where they were made."""
    made = ("measured", "provenance")
    return [
        one | {"metrics": {key: {k: v for k, v in number.items() if k not in made} for key, number in one["metrics"].items()}}
        for one in said["measurements"]
    ]


def test_a_cell_folder_holds_what_the_store_promises(finished: Path) -> None:
    folder = only_cell(finished)
    promised = [
        "cell.json",
        "job.json",
        "recipe.yaml",
        "losses.jsonl",
        "measured",
        "samples.png",
        "samples",
        "generator.safetensors",
    ]
    assert {path.name for path in folder.iterdir()} - {".lock"} == {*promised, "checkpoint.pt"}
    (measured,) = (folder / "measured").iterdir()
    assert measured.name.startswith("cross-")
    assert {path.name for path in measured.iterdir()} == {"pairs.csv", "pictures.zip"}
    files = [*(folder / name for name in promised), *measured.iterdir()]
    assert {path.stat().st_mode & 0o444 for path in files} == {0o444}  # others may read results
    said = record(folder)
    assert [one["folder"] for one in said["measurements"]] == [f"measured/{measured.name}"]
    assert said["status"] == "finished"
    assert said["module"]["package"] == "attnbench"
    assert said["module"]["sources"] == sources_of("attnbench_baselines.sga:SGA")
    assert {"commit", "versions", "device"} <= said["provenance"].keys()
    assert load_recipe(folder / "recipe.yaml").training == said["recipe"]["values"]


def test_a_truncated_record_is_set_aside_and_said_so_and_the_cell_is_not_trained_again(copied: Path) -> None:
    folder = only_cell(copied)
    wanted, weights = record(folder), (folder / "generator.safetensors").read_bytes()
    cut(folder / "cell.json")
    damaged = (folder / "cell.json").read_bytes()
    again = attnbench(*tiny(copied))
    assert again.code == 0, again.err
    assert "cell.json is damaged" in again.err
    assert "set aside as cell.json.damaged1" in again.err
    assert (folder / "cell.json.damaged1").read_bytes() == damaged
    assert numbers(record(folder)) == numbers(wanted)
    assert record(folder)["losses"] == wanted["losses"]
    assert (folder / "generator.safetensors").read_bytes() == weights


def test_a_damaged_record_of_a_cell_without_checkpoint_takes_nothing_with_it(copied: Path) -> None:
    folder = only_cell(copied)
    weights = (folder / "generator.safetensors").read_bytes()
    (folder / "checkpoint.pt").unlink()  # as of a cell that was merged
    edit(folder, step=None)
    again = attnbench(*tiny(copied))
    assert again.code == 0, again.err
    aside = copied / ".superseded" / f"{folder.name}-1"
    assert (
        f"cell.json is damaged (it is not a cell's record (step is null)): the whole cell is set aside as {aside}" in again.err
    )
    assert (aside / "generator.safetensors").read_bytes() == weights
    assert record(folder)["status"] == "finished"


def test_the_table_leaves_a_truncated_record_out_says_so_and_leaves_it_alone(copied: Path) -> None:
    shutil.copytree(only_cell(copied), copied / "sga-other")
    cut(copied / "sga-other" / "cell.json")
    before = tree(copied)
    outcome = attnbench("table", copied)
    assert outcome.code == 0
    assert f"{copied / 'sga-other' / 'cell.json'} is left out: " in outcome.err
    assert "SGA" in outcome.out
    assert tree(copied) == before


def test_a_dry_run_leaves_a_truncated_record_alone(copied: Path) -> None:
    cut(only_cell(copied) / "cell.json")
    before = tree(copied)
    outcome = attnbench(*tiny(copied), "--dry-run")
    assert outcome.code == 0
    assert "continues" in outcome.out
    assert tree(copied) == before


@pytest.mark.parametrize(
    ("damaged", "goes_on_after"),
    [(["checkpoint.pt"], 2), (["checkpoint.previous.pt"], 3), (["checkpoint.pt", "checkpoint.previous.pt"], 0)],
)
def test_damaged_checkpoints_are_set_aside_and_the_best_that_is_left_is_used(
    damaged: list[str], goes_on_after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"cut{goes_on_after}"
    install_module(tmp_path / "site", monkeypatch, name, STOP)
    monkeypatch.setenv("CUE", "1")
    assert attnbench(*tiny(tmp_path / "results", name), "--checkpoint-minutes", "0").code == 130
    monkeypatch.delenv("CUE")
    folder = only_cell(tmp_path / "results")
    for file in damaged:
        cut(folder / file)

    started_at, trained = [], train

    def watched(training: Training, *arguments: Any, **options: Any) -> None:
        started_at.append(training.step)
        trained(training, *arguments, **options)

    monkeypatch.setattr(cell_run, "train", watched)
    again = attnbench(*tiny(tmp_path / "results", name))
    assert again.code == 0, again.err
    assert started_at == [goes_on_after]
    for file in damaged if "checkpoint.pt" in damaged else []:
        assert f"{folder / file} is damaged" in again.err
        assert f"set aside as {file}.damaged1" in again.err
        assert (folder / f"{file}.damaged1").is_file()
    assert steps_in(folder / "losses.jsonl") == [1, 2, 3, 4]
    assert attnbench(*tiny(tmp_path / "undisturbed", name)).code == 0
    assert same_result(folder, only_cell(tmp_path / "undisturbed"))


def test_checkpoints_hold_tensors_and_plain_values_only(finished: Path) -> None:
    state = torch.load(only_cell(finished) / "checkpoint.pt", weights_only=True)
    assert state["step"] == FULL_STEPS


def test_a_second_damaged_file_does_not_overwrite_the_first(tmp_path: Path, warned: Callable[[], list[str]]) -> None:
    folder = CellFolder(tmp_path)
    for content in ("{", "[1"):
        folder.record_file.write_text(content)
        assert folder.record() is None
        folder.set_damaged_record_aside()
    assert (tmp_path / "cell.json.damaged1").read_text() == "{"
    assert (tmp_path / "cell.json.damaged2").read_text() == "[1"
    assert len(warned()) == 2


def test_a_write_that_fails_keeps_the_old_file_and_leaves_no_draft(tmp_path: Path) -> None:
    file = tmp_path / "cell.json"
    write_text(file, "old")
    with pytest.raises(RuntimeError, match="half way"), replacing(file) as draft:
        draft.write_text("ne")
        raise RuntimeError("half way")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"cell.json": "old"}
    write_text(file, "new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"cell.json": "new"}


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_two(tmp_path: Path) -> None:
    folder = CellFolder(tmp_path)
    for step in (1, 2):
        folder.write_checkpoint({"step": step, "weight": torch.ones(3)})
    with pytest.raises((AttributeError, TypeError, RuntimeError)):
        folder.write_checkpoint({"step": 3, "weight": lambda: None})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.previous.pt", "checkpoint.pt"]
    steps = [torch.load(path, weights_only=True)["step"] for path in sorted(tmp_path.iterdir())]
    assert steps == [1, 2]


def test_drafts_of_a_killed_process_are_cleared_away(copied: Path) -> None:
    folder = only_cell(copied)
    drafts = [folder / ".checkpoint.pt.4711.draft", folder / "samples" / ".step0000001.png.4711.draft"]
    for draft in drafts:
        draft.write_bytes(b"half")
    assert attnbench(*tiny(copied)).code == 0
    assert not any(draft.exists() for draft in drafts)


def one(*arguments: str, **changes: object) -> Cell:
    (cell,) = cells(*arguments, **changes)
    return cell


def test_the_identity_changes_with_all_that_can_change_the_trained_network() -> None:
    found = [
        one(),
        one("scft"),
        one("sga:stop_gradient=false"),
        one(train__lr_generator=0.1),
        one("sga", "synthetic:train=5:test=2:size=16"),
        one("sga", "synthetic:train=4:test=2:size=16:seed=1"),
        cells(seeds=(1,))[0],
    ]
    assert len({cell.identity for cell in found}) == len(found)
    assert len({cell.folder_name for cell in found}) == len(found)


def test_how_a_cell_is_measured_and_on_which_images_does_not_change_it() -> None:
    found = [
        one(),
        one(evaluation__pair_seed=1),
        one(evaluation__references="same"),
        one(evaluation__limit=1),
        one(evaluation__metrics="[ssim_global]"),
        one(evaluation__format="jpeg75"),
        one(evaluation__when="each_epoch"),
    ]
    assert len({cell.folder_name for cell in found}) == 1


def test_a_trained_cell_that_is_to_be_measured_otherwise_is_not_trained_again(finished: Path) -> None:
    for change in ({"evaluation__pair_seed": 1}, {"evaluation__references": "same"}, {"evaluation__limit": 1}):
        outcome = attnbench(*tiny(finished, **change), "--dry-run")
        assert outcome.code == 0, outcome.err
        assert "trained; measures" in outcome.out
        assert "new" not in outcome.out


def test_default_options_given_explicitly_are_the_same_cell() -> None:
    assert one("sga:stop_gradient=true:double_norm=true").folder_name == one("sga").folder_name


def test_the_content_of_a_folder_counts_and_its_path_does_not(folder_of_heads: Callable[..., Path], tmp_path: Path) -> None:
    here = folder_of_heads(train=4, test=2, size=16)
    there = shutil.copytree(here, tmp_path / "elsewhere")
    assert one("sga", f"mine={here}").folder_name == one("sga", f"mine={there}").folder_name
    pixels = np.array(Image.open(there / "train" / "002.png"))
    pixels[3, 3] ^= 255
    Image.fromarray(pixels).save(there / "train" / "002.png")
    assert one("sga", f"mine={here}").identity != one("sga", f"mine={there}").identity


def test_test_images_do_not_change_the_cell(folder_of_heads: Callable[..., Path]) -> None:
    heads = folder_of_heads(train=4, test=2, size=16)
    before = one("sga", f"mine={heads}")
    Image.new("RGB", (16, 16), "red").save(heads / "test" / "000.png")
    Image.new("RGB", (16, 16), "blue").save(heads / "test" / "another.png")
    after = one("sga", f"mine={heads}")
    assert after.folder_name == before.folder_name
    assert after.dataset.fingerprints["test"] != before.dataset.fingerprints["test"]


def is_the_finished_cell(arguments: Sequence[str | Path]) -> bool:
    outcome = attnbench(*arguments, "--dry-run")
    assert outcome.code == 0, outcome.err
    return "finished" in outcome.out and "new" not in outcome.out


def test_device_checkpoints_and_the_recipes_name_do_not_change_the_cell(finished: Path) -> None:
    named = only_cell(finished) / "recipe.yaml"
    assert is_the_finished_cell(tiny(finished))
    assert is_the_finished_cell([*tiny(finished), "--checkpoint-minutes", "1"])
    assert is_the_finished_cell([part for part in tiny(finished) if part not in ("--devices", "cpu")])
    assert is_the_finished_cell(["run", "-r", named, "-m", "sga", "-d", HEADS, "-o", finished])
    assert not is_the_finished_cell(tiny(finished, train__steps=5))


def test_a_store_can_be_moved(finished: Path, copied: Path) -> None:
    assert is_the_finished_cell(tiny(copied))
    assert library.results(copied).equals(library.results(finished))


def test_load_gives_the_generator_that_was_trained(finished: Path) -> None:
    cell, folder = one(), only_cell(finished)
    generator = library.load(folder)
    assert not generator.training
    training = build(cell.variant.factory, cell.recipe, cell.seed, torch.device("cpu"))
    checkpoint = CellFolder(folder).read_checkpoint()
    assert checkpoint is not None
    untrained = training.generator.eval()
    batch = pair_batch(cell.dataset.test, [(0, 1), (1, 0)], data=cell.recipe.data, device=torch.device("cpu"))
    with torch.no_grad():
        before = untrained(batch.sketch, batch.reference)
        training.load_state_dict(checkpoint)
        after = training.generator(batch.sketch, batch.reference)
        loaded = generator(batch.sketch, batch.reference)
    assert torch.equal(loaded, after)
    assert not torch.equal(loaded, before)
    third_row = np.asarray(Image.open(folder / "samples.png").convert("RGB")).reshape(-1, 3)
    colours = {tuple(pixel) for pixel in third_row.tolist()}
    generated = to_bytes(loaded).permute(0, 2, 3, 1).reshape(-1, 3).tolist()
    assert all(tuple(pixel) in colours for pixel in generated)  # they are the ones that its sample grid shows


def test_samples_show_the_right_answers_where_the_dataset_knows_them(
    tmp_path: Path, folder_of_heads: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = 128 + 4  # pixels of a picture in the grid, and a gap

    def samples(name: str) -> Image.Image:
        with Image.open(only_cell(tmp_path / name) / "samples.png") as grid:
            return grid.convert("RGB")

    assert attnbench(*tiny(tmp_path / "known")).code == 0
    known = samples("known")
    assert known.width == 5 * cell - 4
    answer = draw(0, 0, 16, colors=palette(0, 1)).resize((128, 128), Image.Resampling.NEAREST)
    assert known.crop((4 * cell, 16, 4 * cell + 128, 16 + 128)).tobytes() == answer.tobytes()
    heads = folder_of_heads(train=4, test=2, size=16)
    assert attnbench(*tiny(tmp_path / "unknown", datasets=f"mine={heads}")).code == 0
    assert samples("unknown").width == 4 * cell - 4

    def broken(sketch: object, reference: object) -> Image.Image:
        raise ZeroDivisionError("no palette")

    monkeypatch.setattr(Drawing, "answer", broken)
    done = attnbench(*tiny(tmp_path / "broken"))
    assert done.code == 0
    assert done.err.count("right answers could not be made: ZeroDivisionError: no palette") == 1
    assert samples("broken").width == 4 * cell - 4


def test_load_takes_the_modules_options_from_the_record(tmp_path: Path) -> None:
    assert attnbench(*tiny(tmp_path, "sga:self_attention=false")).code == 0
    assert library.load(only_cell(tmp_path)).module.self_sga is None


@pytest.mark.parametrize("lacking", ["generator.safetensors", "cell.json"])
def test_load_refuses_a_folder_that_is_not_a_finished_cell(lacking: str, copied: Path) -> None:
    (only_cell(copied) / lacking).unlink()
    with pytest.raises(UserError, match=f"{lacking}.*name a finished cell's folder"):
        library.load(only_cell(copied))


@pytest.mark.parametrize("path", ["{}/" + "c" * 300, "{}/circle"])
def test_load_refuses_a_path_that_the_system_cannot_look_for(path: str, tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    with pytest.raises(UserError, match="cannot be used: (File name too long|Too many levels of symbolic links)"):
        library.load(path.format(tmp_path))


def test_load_refuses_a_record_without_a_part(copied: Path) -> None:
    whole = record(only_cell(copied))
    for key in ("seed", "module", "recipe", "dataset", "provenance"):
        (only_cell(copied) / "cell.json").write_text(json.dumps(whole | {key: None}))
        with pytest.raises(
            UserError, match=rf"cell.json' is not a cell's record \({key} is null\): copy the cell's folder again"
        ):
            library.load(only_cell(copied))


def test_the_side_of_the_trainings_images_is_in_the_record_and_no_part_of_the_identity(copied: Path) -> None:
    folder = only_cell(copied)
    assert side_of(library.load(folder)) == record(folder)["dataset"]["side"] == 16
    said = record(folder)
    del said["dataset"]["side"]
    (folder / "cell.json").write_text(json.dumps(said))
    assert side_of(library.load(folder)) is None
    assert is_the_finished_cell(tiny(copied))


@pytest.mark.parametrize("command", ["run", "table"])
def test_a_results_folder_that_is_a_file_is_one_line(command: str, tmp_path: Path) -> None:
    store = tmp_path / "results"
    store.write_text("not a folder")
    outcome = attnbench(*tiny(store)) if command == "run" else attnbench("table", store)
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert line.startswith("error: ")
    assert str(store) in line
    assert store.read_text() == "not a folder"


def test_a_results_folder_that_cannot_be_written_to_is_one_line() -> None:
    """/proc, where not even root makes folders, stands for a read-only disk."""
    if not Path("/proc/self").is_dir():
        pytest.skip("needs /proc")
    for store in ("/proc/results", "/proc/self"):
        outcome = attnbench(*tiny(store))
        assert outcome.code == 2
        (line,) = outcome.err.splitlines()
        assert line.startswith(f"error: results folder '{store}' cannot be written to: ")
        assert line.endswith("choose another with -o")


def test_a_record_that_is_not_one_is_damaged(tmp_path: Path) -> None:
    whole = {"identity": "1", "status": "finished"}
    damaged = [{"status": "finished"}, whole | {"format": None}, whole | {"format": "1"}, whole | {"identity": 1}]
    for content in (*map(json.dumps, damaged), "[]", ""):
        (tmp_path / "cell.json").write_text(content)
        with pytest.raises(ValueError, match="."):
            read_record(tmp_path / "cell.json")


def write_records(store: Path, *folders: str) -> None:
    for folder in folders:
        (store / folder).mkdir(parents=True)
        shutil.copy(next(RESULTS.rglob("cell.json")), store / folder)


def test_cells_are_found_at_any_depth_but_not_in_cells_or_hidden_folders(tmp_path: Path) -> None:
    write_records(tmp_path, "b", "a/deep/er", "b/samples/x", ".superseded/b-1", "a/.merging/c")
    assert [found.folder for found in records(tmp_path)] == ["a/deep/er", "b"]
    assert [found.folder for found in records(tmp_path / "b")] == [".", "samples/x"]


def test_a_link_to_a_cell_is_a_cell_and_a_link_in_a_circle_is_harmless(tmp_path: Path) -> None:
    write_records(tmp_path / "elsewhere", "a")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "linked").symlink_to(tmp_path / "elsewhere" / "a")
    (tmp_path / "store" / "circle").symlink_to(tmp_path / "store")
    assert [found.folder for found in records(tmp_path / "store")] == ["linked"]


def test_a_record_of_a_newer_attnbench_or_without_its_parts_is_left_out_of_the_frame_and_said(
    copied: Path, warned: Callable[[], list[str]]
) -> None:
    damaged = {"identity": "x", "status": "finished"}
    for name, content in {"newer": damaged | {"format": 99}, "without": damaged}.items():
        (copied / name).mkdir()
        (copied / name / "cell.json").write_text(json.dumps(content))
    assert len(library.results(copied)) == 1
    newer, without = warned()
    assert newer.startswith(f"{copied / 'newer' / 'cell.json'} is left out: ")
    assert "newer attnbench" in newer
    assert without == f"{copied / 'without' / 'cell.json'} is left out: it is not a cell's record (module is missing)"
