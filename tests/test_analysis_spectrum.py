"""The spectrum of features before and after a module, against NumPy and matrices of known rank."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from runs import attnbench, cells, install, only_cell, record, tiny
from torch import Tensor

from attnbench import load
from attnbench.analysis.analysed_cells import features
from attnbench.analysis.spectrum import accumulated, needed, store_section
from attnbench.data.batches import pair_batch
from attnbench.metrics.protocol import Protocol


def test_a_matrix_of_rank_three_is_done_after_three_values() -> None:
    source = torch.Generator().manual_seed(0)
    tokens = torch.randn(2, 12, 3, generator=source) @ torch.randn(2, 3, 7, generator=source)
    ratios = accumulated(tokens)
    assert ratios.shape == (2, 7)
    assert (ratios[:, 1] < 1 - 1e-3).all()
    assert torch.allclose(ratios[:, 2:], torch.ones(2, 5, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (1, 4), (4, 1)])
def test_ratios_are_numpys(shape: tuple[int, int]) -> None:
    matrix = np.random.default_rng(0).normal(3, 1, shape)  # a mean, which is not subtracted
    squares = np.linalg.svd(matrix, compute_uv=False) ** 2
    expected = [squares[: r + 1].sum() / squares.sum() for r in range(min(shape))]
    assert np.allclose(accumulated(torch.from_numpy(matrix)[None])[0], expected)
    assert accumulated(torch.from_numpy(matrix)[None])[0, -1] == pytest.approx(1)


def test_equal_values_rise_evenly() -> None:
    assert torch.allclose(accumulated(torch.eye(4)[None])[0], torch.tensor([0.25, 0.5, 0.75, 1], dtype=torch.float64))


def test_needed_counts_the_values_that_hold_a_share() -> None:
    frame = pd.DataFrame({"r": [1, 2, 3, 4], "ratio": [0.25, 0.5, 0.75, 1.0]})
    assert (needed(frame, 0.5), needed(frame, 0.51), needed(frame, 1.0)) == (2, 3, 4)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """SGA and SPADE, trained for four steps, with job.json."""
    made = tmp_path / "results"
    assert attnbench(*tiny(made, "sga,spade")).code == 0
    assert attnbench(*tiny(made, "sga,spade", executor="commands")).code == 0
    return made


def test_before_is_the_sketchs_features_and_after_what_the_module_gives(store: Path) -> None:
    folder = only_cell(store, "sga")
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    outcome = attnbench("analyze", "spectrum", folder, "--device", "cpu", "--pairs", "2")
    assert outcome.code == 0, outcome.err
    frame = pd.read_csv(folder / "analysis" / "spectrum.csv")

    (cell,) = cells("sga")
    generator = load(folder)
    images = cell.dataset.test
    pairs = Protocol().pairs(len(images))
    batch = pair_batch(images, pairs, data=cell.recipe.data, device=torch.device("cpu"))
    seen: list[Tensor] = []
    with torch.no_grad():
        f_s = generator.sketch_encoder(batch.sketch).feature
        f_r = generator.reference_encoder(batch.reference).feature
        seen = [f_s, f_r, generator.module(f_s, f_r)]
        assert all(torch.equal(a, b) for a, b in zip(features(generator, batch.sketch, batch.reference), seen, strict=True))
    for name, maps in zip(("before: sketch", "before: reference", "after"), seen, strict=True):
        rows = frame[frame["of"] == name]
        matrices = maps.flatten(2).mT.double().numpy()  # (B, n, C)
        squares = np.linalg.svd(matrices, compute_uv=False) ** 2
        expected = (squares.cumsum(1) / squares.sum(1, keepdims=True)).mean(0)
        assert np.allclose(rows["ratio"], expected, atol=1e-6)
        assert rows["samples"].unique() == [2]
        assert list(rows["r"]) == list(range(1, 17))
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_every_module_has_a_spectrum_and_a_store_an_overlay(store: Path) -> None:
    outcome = attnbench("analyze", "spectrum", store, "--device", "cpu")
    assert outcome.code == 0, outcome.err
    assert "SPADE on synthetic, seed 0" in outcome.out
    for base in (*store.glob("s*-*"), store):
        with Image.open(base / "analysis" / "spectrum.png") as picture:
            assert picture.width > 500
        assert (base / "analysis" / "spectrum.pdf").read_bytes().startswith(b"%PDF")
        assert set(json.loads((base / "analysis" / "spectrum.json").read_text())) == {"title", "caption", "alt"}
    together = pd.read_csv(store / "analysis" / "spectrum.csv")
    assert set(together["cell"]) == {"SGA on synthetic, seed 0", "SPADE on synthetic, seed 0"}


def test_a_dead_module_gets_a_clear_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = '''
from torch import nn

class Dead(nn.Module):
    """Nothing comes out of it."""
    def __init__(self, channels):
        super().__init__()
        self.mix = nn.Conv2d(channels, channels, 1)

    def forward(self, sketch, reference):
        return 0 * self.mix(sketch + reference)
'''
    install(tmp_path / "site", monkeypatch, "dead_package", "dead = dead_package:Dead", code)
    store = tmp_path / "results"
    assert attnbench(*tiny(store, "dead,spade")).code == 0
    assert attnbench(*tiny(store, "dead,spade", executor="commands")).code == 0
    outcome = attnbench("analyze", "spectrum", only_cell(store, "dead"), "--device", "cpu")
    assert outcome.code == 2
    assert "features of its generator are zero everywhere (after)" in outcome.err.splitlines()[-1]
    outcome = attnbench("analyze", "spectrum", store, "--device", "cpu")
    assert outcome.code == 0, outcome.err
    assert "is left out: " in outcome.err
    assert (only_cell(store, "spade") / "analysis" / "spectrum.png").is_file()


def test_variants_keep_their_colours_over_datasets_and_none_repeats() -> None:
    rows = [
        {"cell": f"{variant} {dataset} {seed}", "variant": variant, "dataset": dataset, "seed": seed, "of": of}
        | {"r": r, "ratio": r / 3, "deviation": 0.0, "samples": 2}
        for dataset in ("anime", "cat")
        for variant in (f"variant {k}" for k in range(9))
        for seed in range(2)
        for of in ("before: sketch", "before: reference", "after")
        for r in (1, 2, 3)
        if (variant, dataset) != ("variant 0", "cat")
    ]
    made = store_section(pd.DataFrame(rows))
    assert len(made.figure.axes) == 2 * 3
    (legend,) = made.figure.legends
    colours = {text.get_text(): line.get_color() for text, line in zip(legend.get_texts(), legend.get_lines(), strict=True)}
    assert len(set(colours.values())) == 9
    means = {
        axis.get_title(): [line.get_color() for line in axis.lines if line.get_linewidth() > 1] for axis in made.figure.axes
    }
    assert means["anime, after"] == list(colours.values())
    assert means["cat, after"] == list(colours.values())[1:]
    assert len(made.figure.axes[0].lines) == 9 * 3  # two seeds, thin, and their mean
    assert max(len(made.caption), len(made.alt)) < 700


def refused(*arguments: str | Path) -> str:
    outcome = attnbench("analyze", "spectrum", *arguments, "--device", "cpu")
    assert outcome.code == 2
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    return outcome.err


def test_bad_input_is_one_clear_line(store: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no cells in" in refused(tmp_path / "empty")
    assert "there is no folder" in refused(tmp_path / "nowhere")
    folder = only_cell(store, "sga")
    weights = folder / "generator.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    assert "generator.safetensors" in refused(folder)
    weights.unlink()
    assert "generator.safetensors" in refused(folder)
    weights.write_bytes(whole)
    changed = record(folder)
    changed["dataset"]["fingerprint"] = "0" * 64
    (folder / "cell.json").write_text(json.dumps(changed))
    assert "differs from what it was trained on" in refused(folder)
    changed["module"]["name"] = "sgaa"
    (folder / "cell.json").write_text(json.dumps(changed))
    assert "did you mean 'sga'?" in refused(folder)


def test_a_store_whose_cells_are_not_trained_yet_says_so(tmp_path: Path) -> None:
    assert attnbench(*tiny(tmp_path / "results", "sga", executor="commands")).code == 0
    outcome = attnbench("analyze", "spectrum", tmp_path / "results", "--device", "cpu")
    assert outcome.code == 2
    assert "is left out: it is not trained yet" in outcome.err
    assert "no cell in" in outcome.err.splitlines()[-1]


def test_a_folder_of_that_name_under_the_data_root_is_found(folder_of_heads: object, tmp_path: Path) -> None:
    """A cell that came without job.json, as committed results do."""
    assert callable(folder_of_heads)
    heads = folder_of_heads(4, 3, 16)
    assert attnbench(*tiny(tmp_path / "results", "sga", f"heads={heads}")).code == 0
    folder = only_cell(tmp_path / "results")
    (folder / "job.json").unlink()
    shutil.copytree(heads, tmp_path / "data" / "heads")
    assert "unknown dataset 'heads'" in refused(folder)
    outcome = attnbench("analyze", "spectrum", folder, "--device", "cpu", "--data-root", tmp_path / "data")
    assert outcome.code == 0, outcome.err
