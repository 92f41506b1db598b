"""Attention maps: entropy by its definition, the picture under a map, points, and every kind of bad input."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from runs import attnbench, install, only_cell, tiny
from safetensors.torch import load_file, save_file
from torch import Tensor

from attnbench import branch, observe
from attnbench.analysis.analysed_cells import find_cells
from attnbench.analysis.attention import AttentionMap, Looked, entropy, normalized, points_on_lines, store_section
from attnbench.method.attention_maps import Maps
from attnbench.method.probe import listening


def test_a_uniform_row_has_entropy_log_m_and_a_single_entry_none() -> None:
    rows, _ = normalized(torch.stack([torch.full((9,), 1 / 9), torch.eye(9)[3], torch.tensor([0.5, 0.5, *[0.0] * 7])]))
    assert entropy(rows).tolist() == pytest.approx([math.log(9), 0, math.log(2)])


def test_entropy_is_that_of_a_loop() -> None:
    attention = torch.rand(4, 9, generator=torch.Generator().manual_seed(0))
    rows, sums = normalized(attention)
    for i in range(4):
        total = sum(attention[i].tolist())
        assert float(sums[i]) == pytest.approx(total)
        shares = [value / total for value in attention[i].tolist()]
        assert float(entropy(rows)[i]) == pytest.approx(-sum(p * math.log(p) for p in shares))


def test_rows_that_do_not_sum_to_one_are_divided_and_empty_ones_have_no_entropy() -> None:
    rows, sums = normalized(torch.tensor([[0.001, 0.003], [0.0, 0.0]]))
    assert rows[0].tolist() == pytest.approx([0.25, 0.75])
    assert sums.tolist() == pytest.approx([0.004, 0])
    assert entropy(rows).isnan().tolist() == [False, True]


def test_a_map_between_branches_of_one_tensor_is_self_attention() -> None:
    x, y = torch.rand(1, 4, 3), torch.rand(1, 4, 3)
    with listening(seen := Maps()):
        for source, message in ((x, y), (x, x), (y, y)):
            query, _ = branch(source, "query", "content")
            key, _ = branch(message, "key", "value")
            observe("attention", (query @ key.mT).softmax(-1))
        observe("confidence", torch.rand(1, 1, 2, 2))
    assert [(one.name, one.within) for one in seen.shown] == [("cross", False), ("self", True), ("self 2", True)]
    assert seen.shown[1].weights.shape == (1, 4, 4)


class Addresses:
    """A listener that keeps no tensor, only where each was."""

    def __init__(self) -> None:
        self.found: list[int] = []

    def branched(self, total: Tensor, branches: dict[str, Tensor]) -> None:
        self.found.append(total.data_ptr())


def test_a_key_in_the_querys_freed_memory_is_still_another_tensor() -> None:
    """Branches of projections that are not kept: without a gradient nothing else holds the query's memory."""
    projections = [torch.nn.Conv2d(4, 4, 1) for _ in range(2)]
    x, y = torch.rand(2, 1, 4, 16, 16).unbind()

    def look(listener: Addresses | Maps) -> None:
        with torch.no_grad(), listening(listener):
            (query,) = branch(projections[0](x), "query")
            query = F.normalize(query, dim=1).flatten(2)
            (key,) = branch(projections[1](y), "key")
            observe("attention", (query.mT @ F.normalize(key, dim=1).flatten(2)).softmax(-1))

    reused = 0
    for _ in range(10):
        look(addresses := Addresses())
        reused += len(set(addresses.found)) == 1
        look(seen := Maps())
        assert [one.name for one in seen.shown] == ["cross"]
    if not reused:
        pytest.skip("here the key never came into the query's freed memory")


def test_two_halves_of_one_tensor_are_two_tensors() -> None:
    """Sketch and reference in one batch, as a shared encoder takes them."""
    sketch, reference = torch.rand(2, 4, 3).chunk(2)
    with listening(seen := Maps()):
        (query,), (key,) = branch(sketch, "query"), branch(reference, "key")
        observe("attention", (query @ key.mT).softmax(-1))
    assert not seen.shown[0].within


def test_heads_are_averaged() -> None:
    heads = torch.stack([torch.eye(4), torch.eye(4).flip(0)])[None]
    with listening(seen := Maps()):
        observe("attention", heads)
    assert torch.equal(seen.shown[0].weights[0], (torch.eye(4) + torch.eye(4).flip(0)) / 2)


def test_points_are_on_the_lines() -> None:
    sketch = torch.ones(64, 64)
    sketch[18, 10:14] = sketch[42:46, 50] = sketch[30, 28:30] = -1
    sketch[0] = -1  # the frame
    assert [(x // 8, y // 8) for x, y in points_on_lines(sketch)] == [(1, 2), (6, 5), (3, 3)]
    assert len(points_on_lines(torch.ones(16, 16))) == 3


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SGA, UNITE, SPADE and CMFT with finer levels, trained for four steps, with job.json."""
    made = tmp_path_factory.mktemp("looked") / "results"
    modules = "sga,unite,spade,cmft:levels=2"
    assert attnbench(*tiny(made, modules)).code == 0
    assert attnbench(*tiny(made, modules, executor="commands")).code == 0
    return made


def look(*arguments: str | Path) -> str:
    outcome = attnbench("analyze", "attention", *arguments, "--device", "cpu")
    assert outcome.code == 0, outcome.err
    return outcome.out + outcome.err


def test_every_map_gets_overlays_and_numbers(store: Path) -> None:
    folder = only_cell(store, "sga")
    look(folder, "--point", "3,5", "--point", "15,0")
    texts = json.loads((folder / "analysis" / "attention.json").read_text())
    assert "Points at pixels (3, 5), (15, 0)" in texts["caption"]
    assert "rows do not sum to one" in texts["caption"]  # its columns do
    with Image.open(folder / "analysis" / "attention.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 20
    frame = pd.read_csv(folder / "analysis" / "attention.csv")
    assert list(frame["map"].unique()) == ["cross", "self"]
    for _, rows in frame.groupby("map"):
        assert len(rows) == 16
        assert rows["entropy"].between(0, math.log(16) + 1e-9).all()
        assert np.allclose(rows["share_of_log_m"], rows["entropy"] / math.log(16))
        assert list(rows["x"][:5]) == [2, 6, 10, 14, 2]  # centres of 4 x 4 patches of 16 pixels, row by row
        assert list(rows["y"][:5]) == [2, 2, 2, 2, 6]
    assert f"{frame[frame['map'] == 'cross']['entropy'].mean():.2f} nats" in texts["caption"]


def test_a_module_without_a_map_says_so_and_the_others_share_a_figure(store: Path) -> None:
    output = look(store)
    assert "SPADE on synthetic, seed 0: n/a: its module shows no attention map of this pair; if it has one, add" in output
    assert not (only_cell_named(store, "spade") / "analysis").exists()
    together = pd.read_csv(store / "analysis" / "attention.csv")
    assert together.groupby("cell")["map"].nunique().to_dict() == {
        "SGA on synthetic, seed 0": 2,
        "UNITE on synthetic, seed 0": 1,
        "CMFT (levels=2) on synthetic, seed 0": 2,
    }
    finer = together[(together["map"] == "cross 2")]
    assert len(finer) == 64  # 8 x 8


def test_cells_that_cannot_be_shown_are_named_and_the_others_go_on(store: Path, tmp_path: Path) -> None:
    mine = Path(shutil.copytree(store, tmp_path / "results", ignore=shutil.ignore_patterns("analysis")))
    sga, unite, spade = (only_cell_named(mine, name) for name in ("sga", "unite", "spade"))
    shutil.rmtree(spade)
    weights = sga / "generator.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])  # truncated: found before any work
    state = load_file(unite / "generator.safetensors")
    save_file(
        {f"other.{name}": value for name, value in state.items()}, unite / "generator.safetensors"
    )  # found while it is analysed
    output = look(mine)
    assert "SGA on synthetic, seed 0 is left out:" in output
    assert "UNITE on synthetic, seed 0 is left out:" in output
    assert (only_cell_named(mine, "cmft") / "analysis" / "attention.png").is_file()
    assert not (sga / "analysis").exists()
    assert not (mine / "analysis").exists()  # one alone is nothing to compare

    shutil.rmtree(only_cell_named(mine, "cmft"))
    outcome = attnbench("analyze", "attention", mine, "--device", "cpu")
    assert outcome.code == 2
    assert "error: none of the 2 cells can be analysed" in outcome.err


def test_a_stores_figure_has_one_cell_per_module_and_dataset_and_an_end(store: Path) -> None:
    (cell,) = find_cells([only_cell_named(store, "sga")])
    picture = np.zeros((4, 4, 3))
    two = [AttentionMap(name, False, *normalized(torch.rand(4, 4).softmax(-1))) for name in ("cross", "cross 2")]
    found = [
        Looked(
            replace(cell, label=f"{variant}, seed {seed}", variant_label=f"{variant}"),
            0,
            ("a", "b"),
            ((1, 1),),
            picture,
            picture,
            picture,
            two,
        )
        for seed in range(2)
        for variant in range(20)
    ]
    made = store_section(found)
    assert len(made.table) == 40 * 2 * 4  # everything
    assert "6 of 40 cells are shown" in made.caption
    assert max(len(made.caption), len(made.alt)) < 700
    assert made.figure.get_size_inches()[1] < 20


def test_headings_stay_on_the_page(store: Path) -> None:
    (cell,) = find_cells([only_cell_named(store, "sga")])
    shown = [AttentionMap("cross", False, *normalized(torch.full((4, 4), 0.25)))]
    pictures = [np.zeros((4, 4, 3))] * 3
    both = [
        Looked(replace(cell, label=f"{label} on cat, seed 0", variant_label=label), 0, ("a", "b"), ((1, 1),), *pictures, shown)
        for label in ("SGA", "SGA w/o stop-gradient and w/o self-SGA")
    ]
    figure = store_section(both).figure
    figure.draw_without_rendering()
    page = figure.bbox
    headings = [text for axis in figure.axes for text in axis.texts if "seed" in text.get_text()]
    assert len(headings) == 2
    for heading in headings:
        box = heading.get_window_extent()
        assert page.x0 <= box.x0 < box.x1 <= page.x1
        assert page.y0 <= box.y0 < box.y1 <= page.y1


def test_a_map_with_negative_or_zero_weights_gets_a_clear_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = '''
import torch
from torch import nn
from attnbench import observe

class Mine(nn.Module):
    """A map of one value."""
    def __init__(self, channels, value: float = 0.0):
        super().__init__()
        self.mix, self.value = nn.Conv2d(channels, channels, 1), value

    def forward(self, sketch, reference):
        n = sketch.shape[-1] ** 2
        observe("attention", torch.full((len(sketch), n, n), self.value))
        return sketch + self.mix(reference)
'''
    install(tmp_path / "site", monkeypatch, "flat_package", "flat = flat_package:Mine", code)
    modules = "flat,flat:value=-1"
    assert attnbench(*tiny(tmp_path / "results", modules)).code == 0
    assert attnbench(*tiny(tmp_path / "results", modules, executor="commands")).code == 0
    output = look(tmp_path / "results")
    assert "is left out:" in output
    assert "its cross map has negative weights" in output
    (made,) = (tmp_path / "results").glob("*/analysis/attention.json")
    assert "every row is zero" in json.loads(made.read_text())["caption"]


def only_cell_named(store: Path, module: str) -> Path:
    return next(store.glob(f"{module}-*"))


def test_a_strangers_map_is_laid_where_it_belongs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every position looks at the last one of the reference."""
    code = '''
import torch
from torch import nn
from attnbench import observe

class Mine(nn.Module):
    """The last colour for everybody."""
    def __init__(self, channels, ragged: bool = False):
        super().__init__()
        self.mix, self.ragged = nn.Conv2d(channels, channels, 1), ragged

    def forward(self, sketch, reference):
        n = sketch.shape[-1] ** 2
        a = torch.zeros(len(sketch), n, n, device=sketch.device)
        a[..., -1] = 0.5
        observe("attention", a[:, :, :-1] if self.ragged else a)
        return sketch + self.mix(reference)[..., -1:, -1:]
'''
    install(tmp_path / "site", monkeypatch, "mine_package", "mine = mine_package:Mine", code)
    store = tmp_path / "results"
    modules = "mine,mine:ragged=true"
    assert attnbench(*tiny(store, modules)).code == 0
    assert attnbench(*tiny(store, modules, executor="commands")).code == 0
    folders = {json.loads((path / "cell.json").read_text())["module"]["options"]["ragged"]: path for path in store.iterdir()}
    look(folders[False])
    frame = pd.read_csv(folders[False] / "analysis" / "attention.csv")
    assert set(zip(frame["peak_x"], frame["peak_y"], strict=True)) == {(14.0, 14.0)}
    assert (frame["entropy"] == 0).all()
    assert (frame["row_sum"] == 0.5).all()
    outcome = attnbench("analyze", "attention", folders[True], "--device", "cpu")
    assert outcome.code == 2
    assert "cross map has 16 x 15 entries, which are not square grids" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--point", "16,3"], "--point 16,3: the pictures of"),
        (["--point", "3"], "--point 3: expected X,Y in pixels"),
        (["--point", "a,b"], "--point a,b: expected comma-separated whole numbers"),
        (["--pair", "2"], "has 2 test pairs, 0 to 1"),
        (["--device", "abacus"], "device 'abacus' cannot be used here"),
    ],
)
def test_bad_input_is_one_clear_line(store: Path, arguments: list[str], error: str) -> None:
    outcome = attnbench("analyze", "attention", only_cell_named(store, "unite"), *arguments)
    assert outcome.code == 2
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    assert error in outcome.err
