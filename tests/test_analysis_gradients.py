"""Gradients of branches: cosines by their definition, recording that changes no number, and every kind of bad input."""

from __future__ import annotations

import io
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from runs import HEADS, attnbench, cells, install, only_cell, record, same_result, steps_in, tiny
from torch import Tensor, nn

from attnbench.analysis.analysed_cells import find_cells
from attnbench.analysis.gradients import (
    added,
    buffers_kept,
    cosines_of,
    epochs_section,
    mean_over_seeds,
    of_batch,
    overview_section,
    read_epochs,
)
from attnbench.analysis.sections import table_text
from attnbench.config.recipe import load_recipe
from attnbench.errors import Interrupted
from attnbench.method import probe
from attnbench.method.probe import branch, listening
from attnbench.training.gradient_cosines import BINS, Counts, GradientCosines, as_json, channel_axis, count_cosines, from_json
from attnbench.training.loop import batches
from attnbench.training.loop import train as train_cell
from attnbench.training.state import assemble, build
from attnbench.weights import find as find_weights

CPU = torch.device("cpu")
RECORDED = "--record-gradients"


class Weighted(nn.Module):
    """Two branches with the gradients `first * g` and `second * g` for an output gradient g; vectors (C,)."""

    def __init__(self, first: Tensor, second: Tensor, *, maps: bool = True):
        super().__init__()
        self.first, self.second, self.maps = first, second, maps

    def forward(self, sketch: Tensor, reference: Tensor) -> Tensor:
        x = sketch if self.maps else sketch.flatten(2).mT
        shape = (-1, 1, 1) if self.maps else (-1,)
        skip, query = branch(x, "skip", "query")
        out = skip * self.first.view(shape) + query * self.second.view(shape)
        return out if self.maps else out.mT.reshape(sketch.shape)


def recorded_counts(module: nn.Module, channels: int = 2, side: int = 3) -> dict[str, Counts]:
    """The counts of a module's first input, by role, for an output gradient of ones."""
    f_s, f_r = (torch.ones(2, channels, side, side, requires_grad=True) for _ in range(2))
    cosines = GradientCosines(module, channels)
    with listening(cosines):
        out = module(f_s, f_r)
    found = {one.role: one for one in cosines_of(out.sum(), cosines)}
    cosines.close()
    return found


@pytest.mark.parametrize("maps", [True, False])
@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((1.0, 0.0), (2.0, 0.0), (1, 1)),  # both along the sum
        ((3.0, 0.0), (-1.0, 0.0), (1, -1)),  # one against it
        ((1.0, 1.0), (-0.5, 0.5), (0.5 + 1.5, 0.5)),  # at angles: the sum is (0.5, 1.5)
        ((0.0, 1.0), (0.0, 0.0), (1, None)),  # one without a gradient
        ((1e-30, 0.0), (-3e-31, 0.0), (1, -1)),  # however small
    ],
)
def test_a_known_split_has_its_known_cosines(
    first: tuple[float, float], second: tuple[float, float], expected: tuple[float | None, float | None], maps: bool
) -> None:
    found = recorded_counts(Weighted(torch.tensor(first), torch.tensor(second), maps=maps))
    whole = [a + b for a, b in zip(first, second, strict=True)]
    for role, part, scale in (("skip", first, expected[0]), ("query", second, expected[1])):
        counts = found[role]
        positions = 2 * 3 * 3
        if scale is None:
            assert (counts.cosines, counts.zeros, counts.share_above) == (0, positions, None)
            continue
        cosine = sum(a * b for a, b in zip(part, whole, strict=True)) / (math.hypot(*part) * math.hypot(*whole))
        assert counts.bins[min(int((cosine + 1) * BINS / 2), BINS - 1)] == counts.cosines == positions
        assert counts.above == (positions if cosine > 0.935 else 0)
        assert counts.below == (positions if cosine < 0 else 0)


def test_counts_are_those_of_a_loop_over_positions() -> None:
    source = torch.Generator().manual_seed(0)
    part, whole = (torch.randn(3, 5, 4, generator=source, dtype=torch.float64) for _ in range(2))
    part[0, 0] = 0
    whole[1, 1] = 0
    part[2, 2, 0] = torch.inf
    counts = count_cosines(part, whole, axis=2).tolist()
    expected = [0] * BINS
    above = below = 0
    for sample in range(3):
        for place in range(5):
            a, b = part[sample, place].tolist(), whole[sample, place].tolist()
            if (sample, place) in ((0, 0), (1, 1), (2, 2)):
                continue
            cosine = sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))
            expected[math.floor((cosine + 1) * 100)] += 1
            above += cosine > 0.935
            below += cosine < 0
    assert counts == [*expected, 2, 1, above, below]
    assert below > 2


def test_the_channel_axis_is_found_in_tokens_and_in_maps() -> None:
    assert channel_axis((2, 16, 6), 6) == 2
    assert channel_axis((2, 6, 16), 6) == 1  # (B, C, n)
    assert channel_axis((2, 6, 6), 6) == 2  # as many tokens as channels
    assert channel_axis((2, 6, 4, 4), 6) == 1
    assert channel_axis((2, 4, 4, 6), 6) == 3
    assert channel_axis((2, 6, 6, 6), 6) == 1
    assert channel_axis((2, 3, 8, 8), 6) == 1  # a finer layer


class Tangled(nn.Module):
    """Splits its input, and a part of it again; uses some branches more than once."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(4, 4, 1)

    def forward(self, sketch: Tensor, reference: Tensor) -> Tensor:
        skip, content, query = branch(sketch, "skip", "content", "query")
        value, key = branch(reference, "value", "key")
        gathered = self.mix(value) * (query * key).sum(1, keepdim=True).sigmoid()
        again, more = branch(gathered + content, "skip", "query")
        return skip * content + again + again * more.mean()


def test_branches_add_up_to_the_ordinary_gradient() -> None:
    torch.manual_seed(0)
    module = Tangled().double()
    inputs = [torch.randn(2, 4, 3, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    module(*inputs).square().sum().backward()
    ordinary = [x.grad for x in inputs]
    for x in inputs:
        x.grad = None
    with listening(kept := probe.BranchGradients()):
        module(*inputs).square().sum().backward()
    for split in kept.splits:
        total = split.pop("total")
        assert torch.allclose(sum(split.values()), total)  # type: ignore[arg-type]
    for x, split, wanted in zip(inputs, kept.splits, ordinary, strict=False):
        assert wanted is not None
        assert torch.allclose(sum(split.values()), wanted)  # type: ignore[arg-type]
        assert torch.allclose(x.grad, wanted)  # type: ignore[arg-type]


def test_every_input_is_named_and_several_of_a_kind_are_summed() -> None:
    torch.manual_seed(0)
    module = Tangled()
    inputs = [torch.randn(2, 4, 3, 3, requires_grad=True) for _ in range(2)]
    cosines = GradientCosines(module, 4)
    with listening(cosines):
        out = module(*inputs)
    out.square().sum().backward()
    found = cosines.take()
    assert [one.key for one in found] == [
        ("sketch", "skip"),
        ("sketch", "content"),
        ("sketch", "query"),
        ("sketch", "skip + content"),
        ("reference", "value"),
        ("reference", "key"),
        ("inside", "skip"),
        ("inside", "query"),
    ]
    assert {one.kind for one in found if one.role in ("query", "key")} == {"matching"}
    assert found[3].kind == "content"
    assert all(one.cosines == 2 * 9 for one in found)
    assert from_json(json.loads(json.dumps(as_json(found)))) == found
    assert cosines.take() == []  # counts start again at 0
    assert added([*found, *found])[0].cosines == 4 * 9
    cosines.close()
    assert not module._forward_pre_hooks


def test_two_losses_of_one_forward_are_counted_separately() -> None:
    module = Weighted(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
    f_s, f_r = (torch.ones(1, 2, 1, 1, requires_grad=True) for _ in range(2))
    cosines = GradientCosines(module, 2)
    with listening(cosines):
        out = module(f_s, f_r)
    first, second = (cosines_of(loss, cosines) for loss in (out[:, 0].sum(), out[:, 1].sum()))
    assert [(one.role, one.cosines, one.zeros) for one in first] == [("skip", 1, 0), ("query", 0, 1)]
    assert [(one.role, one.cosines, one.zeros) for one in second] == [("skip", 0, 1), ("query", 1, 0)]


@pytest.mark.parametrize("module", ["sga", "sga:stop_gradient=false", "scft", "unite", "cmft", "cocosnet", "spade"])
def test_training_with_recording_is_bit_for_bit_training_without(module: str, tmp_path: Path) -> None:
    for name, more in (("without", []), ("with", [RECORDED])):
        assert attnbench(*tiny(tmp_path / name, module), *more).code == 0
    without, recorded = only_cell(tmp_path / "without"), only_cell(tmp_path / "with")
    assert same_result(without, recorded)
    assert not (without / "gradients.jsonl").exists()
    rows = [json.loads(line) for line in (recorded / "gradients.jsonl").read_text().splitlines()]
    assert [(row["epoch"], row["step"], row["steps"]) for row in rows] == [(1, 2, 2), (2, 4, 2)]
    for row in rows:
        for one in from_json(row["splits"]):
            assert one.cosines + one.zeros == 2 * 2 * 4 * 4  # two steps of two images with 4 x 4 positions
            assert one.not_finite == 0


def test_recording_counts_only_the_forward_that_has_gradients(tmp_path: Path) -> None:
    assert attnbench(*tiny(tmp_path, "scft", train__generator_forwards=2), RECORDED).code == 0
    rows = [json.loads(line) for line in (only_cell(tmp_path) / "gradients.jsonl").read_text().splitlines()]
    assert [split["input"] for split in rows[-1]["splits"]] == ["sketch", "reference"]
    assert from_json(rows[-1]["splits"])[0].cosines == 2 * 2 * 4 * 4


def test_what_was_stopped_within_an_epoch_is_recorded_as_far_as_it_was_counted(tmp_path: Path) -> None:
    """Stopped after step 3 of epochs of 2 steps, saved there; and lines of steps that are made again are dropped."""
    (cell,) = cells("scft", train__steps=6)
    recipe, images = cell.recipe, cell.dataset.train

    def run(log: object, training: object, until: int) -> None:
        from attnbench.training.logs import GradientLog

        assert isinstance(log, GradientLog)
        train_cell(
            training,  # type: ignore[arg-type]
            images,
            recipe,
            seed=0,
            device=CPU,
            log=lambda step, losses: None,
            after_step=log.after_step,
            should_stop=lambda: training.step == until,  # type: ignore[attr-defined]
            listener=log.cosines,
        )

    from attnbench.training.logs import GradientLog

    training = build(cell.variant.factory, recipe, 0, CPU)
    first = GradientLog(tmp_path / "gradients.jsonl", training.generator.module, 56)
    with pytest.raises(Interrupted):
        run(first, training, 3)
    first.close()
    second = GradientLog(tmp_path / "gradients.jsonl", training.generator.module, 56)
    run(second, training, 6)
    second.close()
    rows = [json.loads(line) for line in (tmp_path / "gradients.jsonl").read_text().splitlines()]
    assert [(row["step"], row["steps"]) for row in rows] == [(2, 2), (4, 1), (6, 2)]


def test_lines_behind_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    store = tmp_path / "results"
    assert attnbench(*tiny(store, "scft"), RECORDED).code == 0
    folder = only_cell(store)
    whole = (folder / "gradients.jsonl").read_text()
    (folder / "checkpoint.pt").unlink()  # as if it had been killed before the first
    changed = {**record(folder), "status": "interrupted", "step": 0}
    (folder / "cell.json").write_text(json.dumps(changed))
    assert attnbench(*tiny(store, "scft"), RECORDED).code == 0
    assert (folder / "gradients.jsonl").read_text() == whole
    assert steps_in(folder / "gradients.jsonl") == [2, 4]


def test_without_a_listener_a_step_has_no_hooks_and_maps_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training keeps branches apart, so that recording changes no number; that is all that it does."""
    (cell,) = cells("scft")
    training = assemble(cell.variant.factory, cell.recipe, 0, CPU, None)
    shown: list[str] = []
    hooks: list[object] = []
    monkeypatch.setattr(probe, "_observers", watched := [])
    monkeypatch.setattr(Tensor, "register_hook", lambda self, hook: hooks.append(hook))
    listened: list[int] = []
    real = probe.Silent.branched

    def branched(self: probe.Silent, total: Tensor, branches: dict[str, Tensor]) -> None:
        listened.append(len(branches))
        shown.extend(str(one) for one in watched)
        real(self, total, branches)

    monkeypatch.setattr(probe.Silent, "branched", branched)
    train_cell(
        training,
        cell.dataset.train,
        cell.recipe,
        seed=0,
        device=CPU,
        log=lambda step, losses: None,
        after_step=lambda now: None,
    )
    assert listened == [2, 2] * 4
    assert not hooks
    assert not shown
    assert not training.generator.module._forward_pre_hooks


def test_a_cells_own_process_records(tmp_path: Path, workers: None) -> None:
    outcome = attnbench(*tiny(tmp_path, "scft", executor="local"), RECORDED)
    assert outcome.code == 0, outcome.err
    assert steps_in(only_cell(tmp_path) / "gradients.jsonl") == [2, 4]


@pytest.mark.parametrize("key", ["compile", "cuda_graph"])
def test_a_step_that_cannot_be_listened_to_is_refused_before_anything_is_written(key: str, tmp_path: Path) -> None:
    outcome = attnbench(*tiny(tmp_path / "results", "scft", **{f"train__{key}": "true"}), RECORDED)
    assert outcome.code == 2
    assert f"--record-gradients does not work with train.{key}=true" in outcome.err
    assert not (tmp_path / "results").exists()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SCFT with and without what was recorded of it, and SPADE, trained for four steps; copy it to change it."""
    made = tmp_path_factory.mktemp("analysed") / "results"
    assert attnbench(*tiny(made, "scft"), RECORDED).code == 0
    assert attnbench(*tiny(made, "scft,spade", executor="commands")).code == 0  # job.json, where the images are
    for folder in made.iterdir():
        if folder.name.startswith("spade"):
            assert attnbench("cell", folder, "--device", "cpu").code == 0
    return made


@pytest.fixture
def scft(store: Path, tmp_path: Path) -> Path:
    folder = only_cell(store, "scft")
    return Path(shutil.copytree(folder, tmp_path / "mine" / folder.name))


def test_a_cell_gets_figures_tables_and_captions(scft: Path) -> None:
    before = {path.name: path.read_bytes() for path in scft.iterdir() if path.is_file()}
    outcome = attnbench("analyze", "gradients", scft, "--batches", "2", "--device", "cpu")
    assert outcome.code == 0, outcome.err
    for name in ("gradients-epochs", "gradients-losses"):
        with Image.open(scft / "analysis" / f"{name}.png") as picture:
            assert picture.width > 800
        assert (scft / "analysis" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        texts = json.loads((scft / "analysis" / f"{name}.json").read_text())
        assert set(texts) == {"title", "caption", "alt"}
        assert "SCFT on synthetic, seed 0" in texts["title"]
    epochs = pd.read_csv(scft / "analysis" / "gradients-epochs.csv")
    assert list(epochs["epoch"].unique()) == [1, 2]
    losses = pd.read_csv(scft / "analysis" / "gradients-losses.csv")
    assert list(losses["loss"].unique()) == ["total", "reconstruction", "adversarial"]  # the demo's have a weight
    for _, row in losses.iterrows():
        bins = row[[name for name in losses.columns if name.startswith("[")]]
        assert bins.sum() == row["cosines"]
        assert row["cosines"] + row["zeros"] == 2 * 2 * 16
        assert row["share below 0"] == pytest.approx(bins.iloc[:100].sum() / row["cosines"])
    assert "total    rec.    adv." in outcome.out
    assert "sketch query" in outcome.out
    after = {path.name: path.read_bytes() for path in scft.iterdir() if path.is_file()}
    assert after == before


def test_the_total_on_a_checkpoint_is_what_training_would_record_next(tmp_path: Path) -> None:
    """The very batch, noise and statistics of the next step."""
    (cell,) = cells("sga:stop_gradient=false", train__steps=3)
    recipe = cell.recipe
    training = assemble(cell.variant.factory, recipe, 0, CPU, None)
    training.generator.train()
    training.discriminator.train()
    cosines = GradientCosines(training.generator.module, 56)
    (batch,) = batches(cell.dataset.train, recipe, seed=0, device=CPU, first=0, count=1)
    kept = {name: value.clone() for name, value in training.generator.state_dict().items()}
    with buffers_kept(training.generator, training.discriminator):
        terms = of_batch(training, batch, recipe, cosines)
        moved = training.generator.state_dict()
        assert any(not torch.equal(moved[name], kept[name]) for name in kept)  # running statistics do move
    assert all(torch.equal(value, kept[name]) for name, value in training.generator.state_dict().items())
    assert all(parameter.grad is None for parameter in training.generator.parameters())

    with listening(cosines):
        generated = training.generator(batch.sketch, batch.reference)
    scores = training.discriminator(generated, batch.sketch)
    weights = recipe.loss
    loss = weights.adversarial * (scores - 1).square().mean()
    loss = loss + weights.reconstruction * (generated - batch.target).abs().mean()
    loss.backward()
    wanted = {one.key: one for one in cosines.take()}
    for one in terms["total"]:
        assert abs(one.above - wanted[one.key].above) <= 1
        assert abs(one.below - wanted[one.key].below) <= 1
    assert len(terms["total"]) == 8
    cosines.close()


def test_one_store_gets_an_overview_of_its_cells(store: Path, tmp_path: Path) -> None:
    mine = tmp_path / "results"
    shutil.copytree(store, mine)
    other = mine / "another-scft"
    shutil.copytree(only_cell(mine, "scft"), other)
    outcome = attnbench("analyze", "gradients", mine, "--batches", "1", "--device", "cpu")
    assert outcome.code == 0, outcome.err
    shares = pd.read_csv(mine / "analysis" / "gradients.csv")
    assert len(shares) == 2 * 4
    assert shares["cell"].nunique() == 2  # two of the same module, distinguished by their folders
    assert "SCFT on synthetic, seed 0 (another-scft)" in set(shares["cell"])
    assert "SPADE on synthetic, seed 0: n/a: its module has no matching path" in outcome.err
    assert not (only_cell(mine, "spade") / "analysis").exists()


def test_one_damaged_cell_costs_the_others_nothing(store: Path, tmp_path: Path) -> None:
    mine = Path(shutil.copytree(store, tmp_path / "results"))
    scft = only_cell(mine, "scft")
    for name in ("z1", "z2", "z3"):
        shutil.copytree(scft, mine / name)
    whole = (scft / "checkpoint.pt").read_bytes()
    (mine / "z1" / "checkpoint.pt").write_bytes(whole[: len(whole) // 2])
    (mine / "z2" / "cell.json").write_text("{")
    state = torch.load(io.BytesIO(whole), weights_only=True)
    torch.save({**state, "generator": {}}, mine / "z3" / "checkpoint.pt")  # found when its turn comes, which is last
    outcome = attnbench("analyze", "gradients", mine, "--batches", "1", "--device", "cpu")
    assert outcome.code == 0, outcome.err
    lines = outcome.err.splitlines()
    at = {name: next(k for k, line in enumerate(lines) if name in line and "left out" in line) for name in ("z1", "z2", "z3")}
    work = next(k for k, line in enumerate(lines) if "gradients: 1/1" in line)
    assert max(at["z1"], at["z2"]) < work < at["z3"]
    assert (scft / "analysis" / "gradients-losses.png").is_file()
    assert not (mine / "z3" / "analysis").exists()

    refusal = attnbench("analyze", "gradients", *(mine / name for name in ("z1", "z2")), "--device", "cpu")
    assert refusal.code == 2
    assert "checkpoint.pt' is damaged" in refusal.err.splitlines()[-1]  # the one that is left


def frame_of_cells(variants: int, datasets: int, seeds: int) -> pd.DataFrame:
    """Shares as `analyze_gradients` gathers them, of modules with SGA's branches; variant k conflicts k % of the time."""
    branches = [("sketch", "content"), ("sketch", "query"), ("reference", "value"), ("reference", "key")]
    rows = [
        {"cell": f"SGA {k} on d{d}, seed {seed}", "variant": f"SGA {k}", "dataset": f"d{d}", "seed": seed, "loss": "total"}
        | {"moment": "step 1", "input": name, "role": role, "kind": "matching" if role in ("query", "key") else "content"}
        | {"whole": "of the input", "above": 0.5 + seed / 10, "below": k / 100, "zero": 0.0}
        for k in range(variants)
        for d in range(datasets)
        for seed in range(seeds)
        for name, role in branches
    ]
    return pd.DataFrame(rows)


def test_a_stores_figure_is_of_variants_and_has_an_end() -> None:
    shares = frame_of_cells(variants=20, datasets=2, seeds=5)
    made = overview_section(shares)
    assert made.table is shares
    assert made.figure.get_size_inches()[1] < 12
    assert max(len(made.caption), len(made.alt)) < 700
    assert "11 of 40 are shown" in made.caption
    assert "SGA 19 on d0, sketch query, 19.0 %" in made.caption
    headings = [label.get_text() for label in made.figure.axes[0].get_yticklabels() if " on " in label.get_text()]
    assert len(headings) == 11
    assert headings[0] == "SGA 14 on d0"  # those that conflict most, one dataset after the other
    assert headings[-1] == "SGA 19 on d1"


def test_bars_are_means_over_seeds_with_their_range() -> None:
    groups = mean_over_seeds(frame_of_cells(variants=2, datasets=2, seeds=3))
    assert list(groups["group"].unique()) == ["SGA 0 on d0", "SGA 1 on d0", "SGA 0 on d1", "SGA 1 on d1"]
    assert groups["seeds"].unique() == [3]
    assert groups["above"].to_numpy() == pytest.approx(0.6)
    assert groups["above_low"].to_numpy() == pytest.approx(0.5)
    assert groups["above_high"].to_numpy() == pytest.approx(0.7)


def test_an_epoch_that_was_not_recorded_is_an_empty_row(store: Path) -> None:
    (cell,) = find_cells([only_cell(store, "scft")])
    first, second = read_epochs(cell.path / "gradients.jsonl")
    made = epochs_section(cell, [first, replace(second, epoch=2), replace(second, epoch=5)])
    maps = [axis.images[0] for axis in made.figure.axes if axis.images]
    assert len(maps) == 4
    for image in maps:
        assert image.get_extent() == [-1, 1, 0.5, 5.5]
        assert list(np.ma.getmaskarray(image.get_array()).all(1)) == [False, False, True, True, False]
    lines = [line for axis in made.figure.axes for line in axis.lines]
    assert all(list(line.get_xdata()) == [1, 2, 3, 4, 5] for line in lines)
    assert all(np.isnan(line.get_ydata()[2]) for line in lines)
    assert "Epochs 3, 4 were not recorded" in made.caption
    assert "not recorded" not in epochs_section(cell, [first, second]).caption


def test_the_whole_of_an_input_that_is_split_twice_is_that_of_one_split(tmp_path: Path) -> None:
    store = tmp_path / "results"
    assert attnbench(*tiny(store, "sga:stop_gradient=false"), RECORDED).code == 0
    outcome = attnbench("analyze", "gradients", only_cell(store), "--device", "cpu")
    assert outcome.code == 0, outcome.err
    analysis = only_cell(store) / "analysis"
    whole = pd.read_csv(analysis / "gradients-epochs.csv").groupby("input")["whole"].unique().map(list).to_dict()
    one = ["of this split alone"]
    assert whole == {"inside": one, "inside 2": one, "reference": ["of the input"], "sketch": ["of the input"]}
    assert (
        "the whole is that of one split, not their sum"
        in json.loads((analysis / "gradients-epochs.json").read_text())["caption"]
    )


def test_the_printed_table_names_a_cell_once_and_stays_short() -> None:
    frame = pd.DataFrame({"cell": ["a"] * 3 + ["b"] * 97, "branch": [f"branch {k}" for k in range(100)]})
    lines = table_text(frame).splitlines()
    assert len(lines) == 2 + 60 + 1
    assert sum(line.startswith("a") for line in lines) == sum(line.startswith("b ") for line in lines) == 1
    assert "40 more rows" in lines[-1]


def test_a_strangers_module_is_analysed_by_its_roles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = '''
from torch import nn
from attnbench import branch

class Mine(nn.Module):
    """Half of it against the other half."""
    def __init__(self, channels, marked: bool = True):
        super().__init__()
        self.mix, self.marked = nn.Conv2d(channels, channels, 1), marked

    def forward(self, sketch, reference):
        skip, query = branch(sketch, "skip", "query") if self.marked else (sketch, sketch)
        return 3 * skip - query + self.mix(reference)
'''
    install(tmp_path / "site", monkeypatch, "mine_package", "mine = mine_package:Mine", code)
    store = tmp_path / "results"
    assert attnbench(*tiny(store, "mine,mine:marked=false"), RECORDED).code == 0
    marked, plain = sorted(store.iterdir(), key=lambda folder: record(folder)["module"]["given"] != {})
    outcome = attnbench("analyze", "gradients", marked, plain, "--device", "cpu")
    assert outcome.code == 0, outcome.err
    frame = pd.read_csv(marked / "analysis" / "gradients-epochs.csv")
    last = frame[frame["epoch"] == 2].set_index("role")
    assert last.loc["skip", "share above 0.935"] == 1  # 3 g of 2 g
    assert last.loc["query", "share below 0"] == 1  # -g of 2 g
    assert last.loc["query", "[-1.00, -0.99]"] == last.loc["query", "cosines"]
    assert "n/a: its module marks no branches" in outcome.err


def refused(*arguments: str | Path) -> str:
    outcome = attnbench("analyze", "gradients", *arguments, "--device", "cpu", "--batches", "1")
    assert outcome.code == 2, outcome.err
    errors = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "Traceback" not in outcome.err
    return errors[0]


def test_bad_input_is_one_clear_line(scft: Path, tmp_path: Path) -> None:
    assert "there is no folder" in refused(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "no cells in" in refused(tmp_path / "empty")
    checkpoint = scft / "checkpoint.pt"
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: len(whole) // 2])
    assert "checkpoint.pt' is damaged" in refused(scft)
    assert checkpoint.read_bytes() == whole[: len(whole) // 2]  # it stays where it is
    torch.save({"something": 1}, checkpoint)
    assert "it is not a cell's checkpoint" in refused(scft)
    assert not (scft / "analysis").exists()
    state = torch.load(io.BytesIO(whole), weights_only=True)
    torch.save({**state, "generator": {}}, checkpoint)
    assert "is damaged, or from another version of its module" in refused(scft)
    lines = (scft / "gradients.jsonl").read_text().splitlines()
    (scft / "gradients.jsonl").write_text('{"epoch": 1}\n')
    checkpoint.unlink()
    assert "gradients.jsonl' is damaged in line 1" in refused(scft)
    recorded = json.dumps({**json.loads(lines[0]), "epoch": 3})
    for damaged in (
        recorded.replace('"counts": [', '"counts": [0, ', 1),
        recorded.replace('"zeros": 0', '"zeros": "none"', 1),
        recorded.replace('"epoch": 3', '"epoch": "three"'),
        json.dumps({**json.loads(recorded), "splits": []}),
    ):
        assert damaged != recorded
        (scft / "gradients.jsonl").write_text("\n".join([*lines, damaged, ""]))
        assert "gradients.jsonl' is damaged in line 3" in refused(scft)
    (scft / "gradients.jsonl").unlink()
    assert "no gradients.jsonl, which `attnbench run --record-gradients` writes, and no checkpoint.pt" in refused(scft)
    (scft / "cell.json").write_text("{")
    assert "cell.json' is damaged" in refused(scft)


def test_a_cell_without_images_says_so_and_shows_what_was_recorded(scft: Path, tmp_path: Path) -> None:
    (scft / "job.json").unlink()  # then `synthetic` is drawn as it is by default, which are other heads
    outcome = attnbench("analyze", "gradients", scft, "--device", "cpu")
    assert outcome.code == 0
    assert "differs from what it was trained on (here 800 training images, then 4)" in outcome.err
    assert (scft / "analysis" / "gradients-epochs.png").is_file()
    assert not (scft / "analysis" / "gradients-losses.png").exists()
    (scft / "gradients.jsonl").unlink()
    assert "are missing" in refused(scft)
    changed = record(scft)
    changed["dataset"]["name"] = "cat"
    (scft / "cell.json").write_text(json.dumps(changed))
    assert "dataset 'cat' needs a data root: pass --data-root" in refused(scft)
    changed["dataset"]["name"] = "heads"  # not a known dataset: the folder of that name under the data root
    (scft / "cell.json").write_text(json.dumps(changed))
    assert f"there is no folder '{tmp_path / 'heads'}'" in refused(scft, "--data-root", tmp_path)


def test_without_vgg19_the_other_terms_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe with perceptual loss, of a cell that was trained where the weights were."""
    store = tmp_path / "results"
    assert attnbench(*tiny(store, "scft")).code == 0
    assert attnbench(*tiny(store, "scft", executor="commands")).code == 0
    folder = only_cell(store)
    changed = record(folder)
    assert load_recipe("official").loss.perceptual > 0
    changed["recipe"]["values"]["loss"]["perceptual"] = 0.01
    (folder / "cell.json").write_text(json.dumps(changed))
    job = json.loads((folder / "job.json").read_text()) if (folder / "job.json").is_file() else {}
    (folder / "job.json").write_text(json.dumps({"dataset": HEADS, "data_root": None, **job}))
    monkeypatch.setenv("ATTNBENCH_OFFLINE", "1")
    nowhere = tmp_path / "weights"
    nowhere.mkdir()
    monkeypatch.setattr(torch.hub, "_hub_dir", str(nowhere))
    monkeypatch.setenv("HF_HUB_CACHE", str(nowhere))
    outcome = attnbench("analyze", "gradients", folder, "--device", "cpu", "--batches", "1")
    assert outcome.code == 0, outcome.err
    assert "are left out: VGG19's weights are missing" in outcome.err
    losses = pd.read_csv(folder / "analysis" / "gradients-losses.csv")
    assert list(losses["loss"].unique()) == ["reconstruction", "adversarial"]
    assert "left out" in json.loads((folder / "analysis" / "gradients-losses.json").read_text())["caption"]


def test_weights_are_found_where_the_run_had_them(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the folder that job.json names, unless they are here; afterwards others are looked for here again."""
    folder = Path(shutil.copytree(only_cell(store, "scft"), tmp_path / "results" / "scft"))
    here, there = tmp_path / "here", tmp_path / "there"
    for home in (here, there):
        (home / "hub" / "checkpoints").mkdir(parents=True)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(here / "hub"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "nothing"))
    (cell,) = find_cells([folder])
    job = json.loads((folder / "job.json").read_text())
    (folder / "job.json").write_text(json.dumps({**job, "torch_home": str(there)}))
    with cell.weights_of_run("vgg19"):
        assert torch.hub.get_dir() == str(here / "hub")  # where a download would go
    weights = there / "hub" / "checkpoints" / "vgg19-dcbb9e9d.pth"
    weights.touch()
    with cell.weights_of_run("vgg19"):
        assert find_weights("vgg19") == weights
    assert find_weights("vgg19") is None
    (here / "hub" / "checkpoints" / weights.name).touch()
    with cell.weights_of_run("vgg19"):
        assert find_weights("vgg19") == here / "hub" / "checkpoints" / weights.name
