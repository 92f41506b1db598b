"""The command line: what it says to wrong input, before any work starts; what it lists, plans and prints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from runs import HEADS, Python, attnbench, install, install_module, only_cell, record, tiny, tree

from attnbench.cli import app

COMMANDS = ["list", "run", "cell", "status", "table", "report", "compare", "colorize", "export", "merge", "check", "new-module"]
COMMANDS += ["weights", "bench"]
ANALYSES = ["gradients", "spectrum", "attention"]


def refused(*arguments: str | Path) -> str:
    """The one line that a command says to bad input."""
    outcome = attnbench(*arguments)
    assert outcome.code == 2, outcome
    lines = [line for line in outcome.err.splitlines() if not line.startswith("  decoding ")]  # progress
    assert len(lines) == 1, outcome.err
    assert lines[0].startswith("error: ")
    assert outcome.out == ""
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["run", "-m", "sgaa", "-d", HEADS], ["module 'sgaa'", "did you mean 'sga'"]),
        (["run", "-m", "sga", "-d", "synthetik"], ["dataset 'synthetik'", "did you mean 'synthetic'"]),
        (["run", "-m", "sga", "-d", HEADS, "-r", "demmo"], ["recipe 'demmo'", "did you mean 'demo'"]),
        (["run", "-m", "sga", "-d", HEADS, "-r", "no/such.yaml"], ["'no/such.yaml' does not exist", "demo"]),
        (["run", "-m", "sga", "-d", HEADS, "--set", "train.epoch=1"], ["'train.epoch'", "did you mean 'train.epochs'"]),
        (["run", "-m", "sga", "-d", HEADS, "--set", "train.epochs=0"], ["train.epochs = 0", "greater than or equal to 1"]),
        (["run", "-m", "sga", "-d", HEADS, "--set", "train.epochs"], ["train.epochs", "section.key=value"]),
        (["run", "-m", "sga:stop=true", "-d", HEADS], ["module 'sga'", "option 'stop'", "did you mean 'stop_gradient'"]),
        (["run", "-m", "sga:stop_gradient", "-d", HEADS], ["'stop_gradient' is not option=value"]),
        (["run", "-m", "sga:exact_norm=true:double_norm=false", "-d", HEADS], ["'sga' cannot be built", "needs double_norm"]),
        (["run", "-m", "sga,sga", "-d", HEADS], ["asked for twice"]),
        (["run", "-m", "sga,sga:stop_gradient=true", "-d", HEADS], ["asked for twice"]),
        (["run", "-m", "sga", "-d", "synthetic:trian=3"], ["dataset 'synthetic'", "did you mean 'train'"]),
        (["run", "-m", "sga", "-d", "synthetic:train=0"], ["train=0"]),
        (["run", "-m", "sga", "-d", HEADS, "--seeds", "one"], ["--seeds one", "0,1,2"]),
        (["run", "-m", "sga", "-d", HEADS, "--seeds", "-1"], ["seed -1", "0 or more"]),
        (["run", "-m", "sga", "-d", "cat"], ["'cat' needs a data root", "--data-root", "ATTNBENCH_DATA"]),
        (["run", "-m", "sga", "-d", "cat", "--data-root", "/no/where"], ["data root '/no/where' is not a folder"]),
        (["run", "-m", "sga", "-d", "mine=/no/where"], ["dataset 'mine'", "no folder '/no/where'"]),
        (
            ["run", "-m", "sga", "-d", HEADS, "-r", "demo", "--set", "train.batch_size=8"],
            ["has 4 training images", "batch of 8", "train.batch_size=4"],
        ),
        (["run", "-m", "sga", "-d", HEADS, "--devices", "abacus"], ["device 'abacus' cannot be used"]),
        (["run", "-m", "sga", "-d", HEADS, "--torch-home", "/no/where"], ["--torch-home '/no/where' is not a folder"]),
        (["run", "-m", "sga"], ["--datasets is missing"]),
        (["run", "-d", HEADS], ["--modules is missing"]),
    ],
)
def test_bad_input_is_one_line_before_anything_is_written(arguments: list[str], parts: list[str], tmp_path: Path) -> None:
    if arguments[1:] and "--torch-home" not in arguments and "-r" not in arguments:
        arguments = [*arguments, "-r", "demo", "--set", "train.batch_size=2"]
    line = refused(*arguments, "-o", tmp_path / "results")
    assert all(part in line for part in parts), line
    assert not (tmp_path / "results").exists()


def test_a_missing_dataset_is_refused_with_the_places_and_the_way_to_get_it(tmp_path: Path) -> None:
    line = refused(*tiny(tmp_path / "results", datasets="wild"), "--data-root", tmp_path)
    assert "'wild' was not found" in line
    assert str(tmp_path / "afhq" / "train" / "wild") in line
    assert "download.sh afhq-dataset" in line


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert f"no images in '{empty}'" in refused(*tiny(tmp_path / "results", datasets=f"mine={empty}"))


def test_a_corrupt_image_is_named_before_training_and_can_be_left_out(
    folder_of_heads: Callable[..., Path], tmp_path: Path
) -> None:
    folder = folder_of_heads(train=5, test=2, size=16)
    (folder / "train" / "003.png").write_bytes((folder / "train" / "003.png").read_bytes()[:100])
    arguments = tiny(tmp_path / "results", datasets=f"mine={folder}", train__steps=1)
    line = refused(*arguments)
    assert "003.png" in line
    assert "--skip-corrupt" in line
    assert not list((tmp_path / "results").glob("*/losses.jsonl"))
    outcome = attnbench(*arguments, "--skip-corrupt")
    assert outcome.code == 0, outcome
    assert "left out, cannot be decoded: mine/train/003.png" in outcome.err
    images = record(only_cell(tmp_path / "results"))["dataset"]
    assert images["skipped"] == ["train/003.png"]
    assert images["train"] == 4


def test_missing_perceptual_weights_are_refused_with_the_command_that_gets_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setenv("ATTNBENCH_OFFLINE", "1")
    line = refused(*tiny(tmp_path / "results", loss__perceptual=0.01))
    assert "vgg19" in line
    assert "attnbench weights --download vgg19" in line


def test_a_results_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    in_the_way = tmp_path / "results"
    in_the_way.write_text("a file")
    line = refused(*tiny(in_the_way))
    assert f"results folder '{in_the_way}' cannot be written to" in line
    assert "-o" in line
    assert in_the_way.read_text() == "a file"
    assert "cannot be written to" in refused(*tiny("/proc/results"))


def test_wrong_words_for_the_table_are_refused(tmp_path: Path) -> None:
    assert "did you mean 'latex'" in refused("table", tmp_path, "--format", "latx")
    assert "did you mean 'best'" in refused("table", tmp_path, "--epoch", "bst")
    assert f"no cells in '{tmp_path}'" in refused("table", tmp_path)
    assert "there is no results folder" in refused("table", tmp_path / "nowhere")


def test_an_unknown_metric_is_refused_in_a_recipe_and_in_a_table(tmp_path: Path) -> None:
    line = refused(*tiny(tmp_path / "results", evaluation__metrics="[ssm]"))
    assert "unknown metric 'ssm': did you mean 'ssim'" in line
    assert not (tmp_path / "results").exists()
    assert attnbench(*tiny(tmp_path / "results", train__steps=1)).code == 0
    assert "unknown metric 'ssmi': did you mean 'ssim'" in refused("table", tmp_path / "results", "--metrics", "ssmi")


def test_run_without_arguments_explains_itself() -> None:
    outcome = attnbench("run")
    assert outcome.code == 0
    assert "attnbench run --recipe demo --modules sga,scft --datasets synthetic" in outcome.out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_each_option_explained(command: str) -> None:
    outcome = attnbench(command, "--help")
    assert outcome.code == 0
    import typer.main

    for parameter in typer.main.get_command(app).commands[command].params:  # type: ignore[attr-defined]
        assert getattr(parameter, "help", None), f"{command} {parameter.name} is not explained"


@pytest.mark.parametrize("analysis", ANALYSES)
def test_every_analysis_has_help_with_each_option_explained(analysis: str) -> None:
    assert attnbench("analyze", analysis, "--help").code == 0
    import typer.main

    for parameter in typer.main.get_command(app).commands["analyze"].commands[analysis].params:  # type: ignore[attr-defined]
        assert getattr(parameter, "help", None), f"analyze {analysis} {parameter.name} is not explained"


def test_no_help_imports_torch_or_pandas(python: Python) -> None:
    code = f"""
import contextlib, io, sys
from attnbench import cli
for command in {["", *COMMANDS, *(f"analyze {name}" for name in ANALYSES)]}:
    sys.argv = ["attnbench", *command.split(), "--help"]
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        cli.main()
print(sorted({{"torch", "pandas", "numpy", "PIL"}} & set(sys.modules)))
"""
    assert python("-c", code).stdout == "[]\n"


def test_list_names_modules_datasets_and_recipes_with_package_and_version() -> None:
    from importlib.metadata import version

    outcome = attnbench("list")
    assert outcome.code == 0
    for name in ("sga", "scft", "anime", "cat", "dog", "wild", "synthetic"):
        assert any(
            line.startswith(f"{name} ") and f"attnbench {version('attnbench')}" in line for line in outcome.out.splitlines()
        )
    for recipe in ("demo", "official", "paper", "small"):
        assert any(
            line.startswith(f"{recipe} ") and f"attnbench {version('attnbench')}" in line for line in outcome.out.splitlines()
        )


def test_a_plugin_that_cannot_be_imported_is_named_and_hurts_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path / "site", monkeypatch, "crooked", "bent = crooked:Bent", "import no_such_library_at_all")
    outcome = attnbench("list")
    assert outcome.code == 0
    flat = " ".join(outcome.out.split())
    assert "bent crooked 1.2 broken" in flat
    assert "no_such_library_at_all" in flat
    assert "Stop-Gradient Attention" in flat
    line = refused(*tiny(tmp_path / "results", modules="bent"))
    assert "package crooked 1.2" in line
    assert "ModuleNotFoundError" in line
    assert attnbench(*tiny(tmp_path / "results", modules="sga", train__steps=1), "--dry-run").code == 0


def test_a_name_that_two_packages_claim_is_refused_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from attnbench_baselines.sga import SGA as Mine"
    install(tmp_path / "a", monkeypatch, "first_claim", "claimed = first_claim:Mine", code)
    install(tmp_path / "b", monkeypatch, "second_claim", "claimed = second_claim:Mine", code)
    line = refused(*tiny(tmp_path / "results", modules="claimed"))
    assert "first_claim 1.2 and second_claim 1.2" in line
    assert attnbench(*tiny(tmp_path / "results", modules="sga"), "--dry-run").code == 0


def test_dry_run_says_what_would_be_done_and_does_nothing(tmp_path: Path) -> None:
    store = tmp_path / "results"
    planned = attnbench(*tiny(store, modules="sga,scft"), "--dry-run")
    assert planned.code == 0
    assert planned.out.count(" new ") == 2
    assert not store.exists()
    attnbench(*tiny(store, modules="sga"))
    before = tree(store)
    planned = attnbench(*tiny(store, modules="sga,scft"), "--dry-run")
    assert planned.out.count(" new ") == 1
    assert planned.out.count("finished") == 1
    assert "4 + 2 images" in planned.out
    assert tree(store) == before


def test_dry_run_says_where_an_interrupted_cell_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = "if self.training and self.step == 2:\n    os.kill(os.getpid(), signal.SIGINT)"
    install_module(tmp_path / "site", monkeypatch, "halted", stop)
    assert attnbench(*tiny(tmp_path / "results", "halted")).code == 130
    before = tree(tmp_path / "results")
    monkeypatch.setenv("COLUMNS", "200")
    assert "continues at step 2" in attnbench(*tiny(tmp_path / "results", "halted"), "--dry-run").out
    assert tree(tmp_path / "results") == before


def test_run_prints_the_table_and_names_the_pictures_and_every_format_follows(tmp_path: Path) -> None:
    store = tmp_path / "results"
    outcome = attnbench(*tiny(store, modules="sga,scft"))
    assert outcome.code == 0, outcome
    assert "SSIM (global)" in outcome.out
    assert "samples.png" in outcome.out
    assert "SCFT" in attnbench("table", store).out
    assert "| SGA" in attnbench("table", store, "--format", "md").out.replace("|  SGA", "| SGA")
    assert r"\toprule" in attnbench("table", store, "--format", "latex").out
    assert "<table" in attnbench("table", store, "--format", "html").out
    rows = attnbench("table", store, "--format", "csv").out.strip().splitlines()
    assert len(rows) == 3
    assert rows[0].startswith("folder,identity,status,stale,label,module")


def test_a_module_that_looks_at_values_is_trained_without_a_count_of_its_operations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = """
import torch
from torch import nn


class Looking(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.share = torch.linspace(0, 1, 3)[1].item()
        self.scale = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, sketch, reference):
        return self.scale * sketch + (self.share if reference.mean().item() > 0 else 1) * reference
"""
    install(tmp_path / "site", monkeypatch, "looks", "looks = looks:Looking", code)
    outcome = attnbench(*tiny(tmp_path / "results", modules="looks", train__steps=2))
    assert outcome.code == 0, outcome
    assert "operations could not be counted" in outcome.err
    assert record(only_cell(tmp_path / "results"))["status"] == "finished"
