"""The report's data and its file, without a browser: what is read, chosen, thinned out, and said of what is damaged."""

from __future__ import annotations

import base64
import io
import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image
from runs import Process, attnbench, edit, only_cell, record, tiny
from test_tables import write_old_cell

from attnbench.cells.record import DatasetRecord, ModuleRecord, Record
from attnbench.cli.options import split_list
from attnbench.config.grid_files import load_grid
from attnbench.errors import UserError
from attnbench.plugins import split_options
from attnbench.report.cell_facts import command_of, with_options
from attnbench.report.collect import collect
from attnbench.report.curves import CURVE_POINTS, epoch_metrics, loss_curves
from attnbench.report.figures import find_figures
from attnbench.report.page import render, write_report
from attnbench.report.pair_grid import BUDGET, EXTREMES, Album, fit
from attnbench.report.serve import Site, version_of
from attnbench.store.frame import results
from attnbench.store.pictures import PICTURES, PairPictures
from attnbench.tables.compile import render_table, tables

HEADS = "synthetic:train=4:test=9:size=16"
MODULES = "sga,scft,cmft"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three modules on one dataset, measured after each epoch; not to be changed."""
    store = tmp_path_factory.mktemp("trained")
    assert attnbench(*tiny(store, MODULES, HEADS, evaluation__when="each_epoch")).code == 0
    return store


@pytest.fixture
def store(trained: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(trained, tmp_path / "store"))


def measured(cell: Path) -> Path:
    """The folder of a cell's first measurement, which has pairs.csv and pictures."""
    return cell / str(record(cell)["measurements"][0]["folder"])


def edit_numbers(cell: Path, **changes: dict[str, Any]) -> None:
    """Change numbers of a cell's first measurement, in the file."""
    first, *others = record(cell)["measurements"]
    metrics = {key: {**number, **changes.get(key, {})} for key, number in first["metrics"].items()}
    edit(cell, measurements=[{**first, "metrics": metrics}, *others])


def draw_figure(file: Path, width: int, height: int) -> None:
    """Noise on no ground, as matplotlib may leave it."""
    picture = np.zeros((height, width, 4), np.uint8)
    picture[20:, 20:] = np.random.default_rng(width).integers(0, 256, (height - 20, width - 20, 4))
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(file)


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])  # type: ignore[no-any-return]


def test_the_command_writes_one_file_that_asks_for_nothing(store: Path) -> None:
    outcome = attnbench("report", store)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith(f"written to {store / 'report.html'} (")
    page = (store / "report.html").read_text()
    own = page[: page.index('id="plotly"')]  # plotly.js knows addresses of map services, which nothing here uses
    assert not re.findall(r'(?:src|href)="(?!data:|#)', own)
    assert "default-src 'none'" in own
    assert attnbench("report", store, "-o", store / "other.html").code == 0
    assert (store / "other.html").is_file()


def test_copied_tables_are_those_of_the_command_table(store: Path) -> None:
    (table,) = collect(store, pairs=4).tables
    assert set(table.texts) == {"", "published", "costs", "published costs"}
    for shown, texts in table.texts.items():
        wanted = {"with_published": "published" in shown, "costs": "costs" in shown}
        (one,) = tables(results(store), significance=True, store=store, **wanted)
        assert texts["latex"] == render_table(one, "latex")
        assert texts["md"] == render_table(one, "md")
    assert table.texts[""]["csv"] == attnbench("table", store, "-f", "csv").out


def test_costs_and_published_numbers_are_marked_as_such(store: Path) -> None:
    (table,) = collect(store, pairs=4).tables
    titles = {column["title"]: column["is_cost"] for column in table.columns}
    assert not titles["SSIM (global) ↑"]
    assert titles["module (M)"]
    kinds = {kind for _, kind in table.notes}
    assert kinds == {"always", "published", "costs"}


def test_every_column_of_the_grid_shows_the_same_pairs(store: Path) -> None:
    (view,), (album,) = (report := collect(store, pairs=4)).views, report.albums
    grid = view.grid
    assert [column["label"] for column in grid["columns"]] == ["SCFT", "CMFT", "SGA"]
    names = {}
    for column in grid["columns"]:
        lines = (measured(store / column["folder"]) / "pairs.csv").read_text().splitlines()[1:]
        names[column["label"]] = {tuple(line.split(",")[:2]): k for k, line in enumerate(lines)}
    for pair in grid["pairs"]:
        for k, column in enumerate(grid["columns"]):
            kept = PairPictures(measured(store / column["folder"]))
            assert kept.lossless
            place = names[column["label"]][pair["sketch"], pair["reference"]]
            assert album.files[pair["generated"][k]] == as_shown(kept.generated(place))
            given = [album.files[at] for at in pair["pictures"]]
            assert given == [as_shown(read(place)) for read in (kept.sketch, kept.reference, kept.original)]
    assert len(set(album.files)) == len(album.files)


def as_shown(kept: bytes) -> bytes:
    """The lossy copy of a picture that was kept without loss."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(kept)).save(buffer, "WEBP", quality=80, method=2)
    return buffer.getvalue()


def test_a_picture_that_was_not_kept_is_a_gap(store: Path) -> None:
    for name in ("sga", "scft", "cmft"):
        file = measured(only_cell(store, name)) / PICTURES
        with ZipFile(file) as whole, ZipFile(file.with_suffix(".new"), "w") as part:
            for inner in whole.namelist():
                if not inner.startswith("original/") or name == "cmft":
                    part.writestr(inner, whole.read(inner))
        file.with_suffix(".new").replace(file)
    report = collect(store, pairs=4)
    assert report.notes == []
    for pair in report.views[0].grid["pairs"]:
        assert None not in pair["pictures"]  # from the column that kept them
    (measured(only_cell(store, "cmft")) / PICTURES).unlink()
    report = collect(store, pairs=4)
    assert report.notes == []
    for pair in report.views[0].grid["pairs"]:
        assert [place is None for place in pair["pictures"]] == [False, True, True]
    render(report)


def test_best_worst_and_most_differing_pairs_are_those_of_the_scores(store: Path) -> None:
    (view,) = collect(store, pairs=4).views
    grid = view.grid
    assert grid["chosen_by"] == "match"  # the first of the recipe's
    assert grid["test_pairs"] == 9
    sets = {(one["kind"], one["label"]): [grid["pairs"][k]["sketch"] for k in one["pairs"]] for one in grid["sets"]}
    assert len(sets["spread", ""]) == 4
    scores = {}
    for column in grid["columns"]:
        rows = [line.split(",") for line in (measured(store / column["folder"]) / "pairs.csv").read_text().splitlines()]
        at = rows[0].index("match")
        scores[column["label"]] = {row[0]: float(row[at]) for row in rows[1:]}
    for label, mine in scores.items():
        assert sets["worst", label] == sorted(mine, key=lambda sketch: mine[sketch])[:EXTREMES]
        assert sets["best", label] == sorted(mine, key=lambda sketch: -mine[sketch])[:EXTREMES]
    gap = {sketch: np.ptp([mine[sketch] for mine in scores.values()]) for sketch in scores["SGA"]}
    assert sets["differ", ""] == sorted(gap, key=lambda sketch: -gap[sketch])[:EXTREMES]


def test_a_column_is_the_lowest_seed_that_has_pictures(store: Path) -> None:
    assert attnbench(*tiny(store, "sga", HEADS, evaluation__when="each_epoch"), "--seeds", "1,2").code == 0
    for seed in (0, 1):
        (folder,) = store.glob(f"sga-*seed{seed}-*")
        (measured(folder) / PICTURES).unlink()
    (view,) = collect(store, pairs=4).views
    assert {column["label"]: column["seed"] for column in view.grid["columns"]} == {"SCFT": 0, "CMFT": 0, "SGA": 2}


def test_cells_without_pictures_are_named(store: Path) -> None:
    (measured(only_cell(store, "sga")) / PICTURES).unlink()
    (view,) = collect(store, pairs=4).views
    assert view.grid["left_out"] == ["SGA"]
    for folder in store.glob("*-seed0-*"):
        (measured(folder) / PICTURES).unlink(missing_ok=True)
    report = collect(store, pairs=4)
    assert report.views[0].grid["columns"] == []
    assert report.notes == []
    render(report)


def test_many_pictures_are_scaled_down_to_the_budget(store: Path) -> None:
    report = collect(store, pairs=9)
    whole = sum(len(data) for album in report.albums for data in album.files)
    assert fit(report.albums, whole) == ([album.files for album in report.albums], None)
    wide = Album()
    for shade in range(0, 250, 50):
        buffer = io.BytesIO()
        noise = np.random.default_rng(shade).integers(0, 255, (256, 256, 3), dtype=np.uint8)
        Image.fromarray(noise).save(buffer, "WEBP", quality=90)
        wide.add(buffer.getvalue())
    total = sum(map(len, wide.files))
    (scaled,), side = fit([wide], total // 4)
    assert side == 128
    assert {Image.open(io.BytesIO(data)).size for data in scaled} == {(128, 128)}
    assert sum(map(len, scaled)) < total // 3


def test_curves_are_means_over_stretches_of_all_steps(tmp_path: Path, warned: Callable[[], list[str]]) -> None:
    lines = [json.dumps({"step": k, "generator": float(k), "style": 7.0}) for k in range(1, 6 * CURVE_POINTS + 1)]
    (tmp_path / "losses.jsonl").write_text("\n".join(lines) + '\n{"step": 99999, "gen')  # its process was killed in a write
    curves = loss_curves(tmp_path)
    assert curves is not None
    assert len(curves.steps) == CURVE_POINTS
    assert curves.steps[:2] == [3.5, 9.5]
    assert curves.losses["generator"][:2] == [3.5, 9.5]
    assert set(curves.losses["style"]) == {7.0}
    assert warned() == []


def test_a_short_log_is_shown_as_it_is(tmp_path: Path, warned: Callable[[], list[str]]) -> None:
    (tmp_path / "losses.jsonl").write_text('{"step": 1, "generator": 2.0}\n{"step": 2, "generator": 1.0}\n')
    curves = loss_curves(tmp_path)
    assert curves is not None
    assert (curves.steps, curves.losses) == ([1.0, 2.0], {"generator": [2.0, 1.0]})
    assert loss_curves(tmp_path / "nowhere") is None
    assert warned() == []


@pytest.mark.parametrize("line", ['{"step": 2, "gen', '{"step": 2}', "[]", '{"step": 2, "generator": null}', "\x00\x00"])
def test_a_damaged_log_is_shown_to_the_damage(line: str, tmp_path: Path, warned: Callable[[], list[str]]) -> None:
    (tmp_path / "losses.jsonl").write_text(f'{{"step": 1, "generator": 2.0}}\n{line}\n{{"step": 3, "generator": 1.0}}\n')
    curves = loss_curves(tmp_path)
    assert curves is not None
    assert curves.steps == [1.0]
    (line,) = warned()
    assert re.search(r"losses\.jsonl is damaged \(line 2: .*\): its curves end there", line)


def test_a_log_that_is_damaged_from_its_start_has_no_curves(tmp_path: Path, warned: Callable[[], list[str]]) -> None:
    (tmp_path / "losses.jsonl").write_text("not json\n")
    assert loss_curves(tmp_path) is None
    assert "line 1" in warned()[0]


def test_metrics_over_epochs_are_described_in_old_files_and_new_ones(tmp_path: Path, warned: Callable[[], list[str]]) -> None:
    metrics = {"fid": {"value": 9.5, "dims": 192}, "ssim": {"value": 0.5}, "kid": {"value": None, "reason": "no network"}}
    described = {"name": "mine", "title": "Mine", "lower_is_better": True, "per_image": True}  # not installed here
    new = {"mine:size=3": {"value": 2.5, "metric": described}, "mine": {"value": None, "metric": described}}
    lines = [{"step": 2, "epoch": 1, "metrics": metrics}, {"step": 4, "epoch": 2, "metrics": new}, [1]]
    (tmp_path / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [(one.metric, one.described.title, one.epoch, one.value) for one in epoch_metrics(tmp_path)] == [
        ("fid:dims=192", "FID-192", 1, 9.5),
        ("ssim", "SSIM (windowed)", 1, 0.5),
        ("mine:size=3", "Mine", 2, 2.5),
    ]
    assert "evaluations.jsonl is damaged (line 3" in warned()[0]


def test_the_view_has_curves_and_epochs_of_every_cell(store: Path) -> None:
    (view,) = collect(store, pairs=4).views
    assert {curve["label"] for curve in view.curves} == {"SGA", "SCFT", "CMFT"}
    sga = only_cell(store, "sga")
    lines = [json.loads(line) for line in (sga / "losses.jsonl").read_text().splitlines()]
    (mine,) = [curve for curve in view.curves if curve["label"] == "SGA"]
    assert mine["losses"]["reconstruction"] == [float(f"{line['reconstruction']:.4g}") for line in lines]
    epochs = [json.loads(line) for line in (sga / "evaluations.jsonl").read_text().splitlines()]
    (ssim,) = [one for one in view.epochs if (one["label"], one["metric"]) == ("SGA", "ssim")]
    assert {one["metric"] for one in view.epochs if one["first"]} == {record(sga)["best"]["by"]}
    assert ssim["points"] == [(row["epoch"], float(f"{row['metrics']['ssim']['value']:.6g}")) for row in epochs]


def test_quality_and_cost_are_the_frames(store: Path) -> None:
    (view,) = collect(store, pairs=4).views
    frame = results(store).set_index("label")
    quality = {one["title"]: one for one in view.metrics}["SSIM (global)"]
    assert quality["values"]["SGA"] == (pytest.approx(frame.loc["SGA", "ssim_global"], rel=1e-5), None, 1)
    cost = {one["name"]: one for one in view.costs}
    assert cost["module_parameters"]["values"]["SGA"] == pytest.approx(frame.loc["SGA", "module_parameters"] / 1e6, rel=1e-3)
    assert cost["images_per_second"]["title"].endswith(f"on {frame.loc['SGA', 'device']}")


def test_the_command_of_a_cell_makes_that_cell_again(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (only_cell(store, "sga") / "job.json").unlink()
    report = collect(store, pairs=4)
    (cell,) = [cell for cell in report.cells if cell["folder"].startswith("sga")]
    assert "is not recorded" in cell["remark"]
    (weights := tmp_path / "torch home").mkdir()
    job = {"dataset": HEADS, "data_root": None, "torch_home": str(weights)}
    (store / cell["folder"] / "job.json").write_text(json.dumps(job))
    (cell,) = [cell for cell in collect(store, pairs=4).cells if cell["folder"].startswith("sga")]
    assert cell["remark"] == ""
    monkeypatch.chdir(tmp_path)
    told: list[str] = []
    monkeypatch.setattr("torch.hub.set_dir", told.append)
    program, *arguments = shlex.split(cell["command"])
    assert program == "attnbench"
    assert attnbench(*arguments, "--executor", "inline", "--devices", "cpu").code == 0
    assert told == [str(weights / "hub")]
    again = only_cell(tmp_path / "again")
    assert again.name == cell["folder"]
    assert (again / "losses.jsonl").read_bytes() == (store / cell["folder"] / "losses.jsonl").read_bytes()


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"wide": 1, "deep": 1.0, "on": True, "none": None, "small": 1e-05},
        {"text": "a word " * 30},
        {"text": "no"},
        {"text": "x."},
        {"text": "several\nlines"},
        {"text": "a: b, 'c' \"d\" % \\ é😀"},
        {"layers": [1, 2]},
        {"parts": {"key": "a", "value": ["b", None]}, "more": False},
    ],
)
def test_options_in_a_command_are_read_back_as_they_were(given: dict[str, Any], tmp_path: Path) -> None:
    module = ModuleRecord.model_construct(name="mine", label="Mine: 100 %", given=given)
    text = with_options(module)
    if text is not None:
        assert [text] == split_list(text)
        assert json.dumps(split_options(text, "module")) == json.dumps(["mine", given])
        return
    assert any(sign in json.dumps(given) for sign in ",:")
    dataset = DatasetRecord.model_construct(name="cat")
    cell = Record.model_construct(module=module, seed=0, status="finished", dataset=dataset)
    first, command = command_of(cell, tmp_path / "mine-cat-seed0-12")[0].rsplit("\n", 1)
    subprocess.run(["sh", "-c", first], cwd=tmp_path, check=True)
    grid = shlex.split(command)[shlex.split(command).index("--grid") + 1]
    (variant,) = load_grid(tmp_path / grid).variants
    assert (variant.module, variant.label) == ("mine", "Mine: 100 %")
    assert json.dumps(variant.options) == json.dumps(given)


def test_an_unfinished_cell_goes_on_by_its_command(store: Path) -> None:
    folder = only_cell(store, "sga")
    edit(
        folder,
        status="failed",
        failure={"message": "OutOfMemoryError: too large", "traceback": "Traceback ..."},
        measurements=[],
    )
    (folder / "job.json").write_text(json.dumps({"dataset": HEADS, "data_root": None, "torch_home": "x"}))
    report = collect(store, pairs=4)
    (cell,) = [cell for cell in report.cells if cell["status"] == "failed"]
    assert cell["command"] == f"attnbench cell {folder} --retry-failed"
    assert cell["troubles"] == ["failed: OutOfMemoryError: too large"]
    assert report.troubles == [("SGA on synthetic, seed 0", folder.name, "failed: OutOfMemoryError: too large")]
    assert "Traceback ..." in render(report)


def test_statuses_are_counted_and_running_cells_have_their_progress(store: Path) -> None:
    sga, scft, cmft = (only_cell(store, name) for name in ("sga", "scft", "cmft"))
    edit(sga, status="running")
    edit(scft, status="running")  # killed: without progress
    edit(cmft, status="waiting")
    progress = {"phase": "training", "step": 3, "total": 4, "device": "cuda:7", "losses": {"G": 2.5}, "images_per_second": 8.0}
    (sga / "progress.json").write_text(json.dumps(progress))
    report = collect(store, pairs=4)
    assert report.counts == {"running": 1, "waiting": 1, "interrupted": 1}
    page = render(report)
    assert re.search(r'SGA on synthetic, seed 0</th><td><progress max="100" value="75.0"', page)
    assert "cuda:7" in page


def test_names_are_text_wherever_they_come_from(store: Path) -> None:
    folder = only_cell(store, "sga")
    hostile = "</script><img src=x onerror=alert(1)>"
    mine = record(folder)
    edit(folder, module={**mine["module"], "name": hostile, "label": hostile}, dataset={**mine["dataset"], "name": hostile})
    scft = only_cell(store, "scft")
    edit(scft, status="failed", failure={"message": hostile, "traceback": hostile})
    page = render(collect(store, pairs=4))
    assert "<img src=x" not in page
    assert hostile in data_of(page)["variants"]


def test_figures_of_analyses_are_embedded_with_their_words(store: Path) -> None:
    draw_figure(store / "analysis" / "cosines.png", 1860, 620)
    draw_figure(only_cell(store, "sga") / "analysis" / "cosines.png", 300, 200)
    texts = {"title": "Cosines", "caption": "Of gradients. " * 1000, "alt": "Two lines"}
    (store / "analysis" / "cosines.json").write_text(json.dumps(texts))
    (store / "analysis" / "broken.png").write_bytes(b"no png")
    report = collect(store, pairs=4)
    of_store, of_cell = report.figures
    (figure,) = of_store.shown
    assert (figure.title, figure.alt, of_store.folder) == ("Cosines", "Two lines", "")
    assert figure.caption.startswith("Of gradients. Of gradients.")
    assert figure.caption.endswith(" … (the rest is in cosines.json)")
    assert len(figure.caption) < 2000
    image = Image.open(io.BytesIO(figure.data))
    assert (image.format, image.size) == ("WEBP", (1240, 413))  # what a page shows
    assert (figure.width, figure.height) == image.size
    assert min(image.getpixel((0, 0))) > 250  # a figure without a ground is on paper
    assert (of_cell.shown[0].title, of_cell.label) == ("cosines", "SGA on synthetic, seed 0")
    (note,) = report.notes
    assert note.startswith(f"{store / 'analysis' / 'broken.png'} is left out: it cannot be read as a picture (")
    page = render(report)
    assert page.count(base64.b64encode(figure.data).decode()) == 1
    assert re.search(r'<img alt="Two lines" width="1240" height="413" decoding="async" data-album="1" data-place="0">', page)


def test_figures_beyond_the_budget_are_named_by_their_files(tmp_path: Path) -> None:
    cells = {"a": "A on cat, seed 0", "b": "B on cat, seed 0", "c": "C on cat, seed 0"}
    for folder in ("", *cells):
        for name in ("attention", "spectrum"):
            draw_figure(tmp_path / folder / "analysis" / f"{name}.png", 300, 200)
    everything = find_figures(tmp_path, cells)
    assert [(one.folder, len(one.shown)) for one in everything] == [("", 2), ("a", 2), ("b", 2), ("c", 2)]
    sizes = [sum(len(figure.data) for figure in one.shown) for one in everything]
    found = find_figures(tmp_path, cells, budget=sum(sizes[:3]) - 1)
    assert [(one.folder, len(one.shown)) for one in found] == [("", 2), ("a", 2), ("b", 0), ("c", 0)]
    assert found[3].files == [tmp_path / "c" / "analysis" / f"{name}.png" for name in ("attention", "spectrum")]
    assert [len(one.shown) for one in find_figures(tmp_path, cells, budget=sum(sizes))] == [2, 2, 2, 2]


def test_pictures_have_the_room_that_figures_leave(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_figure(store / "analysis" / "a.png", 300, 200)
    report = collect(store, pairs=4)
    asked = []

    def fit_to(albums: Any, budget: int) -> tuple[list[list[bytes]], None]:
        asked.append(budget)
        return [album.files for album in albums], None

    monkeypatch.setattr("attnbench.report.page.fit", fit_to)
    render(report)
    assert asked == [BUDGET - len(report.figures[0].shown[0].data)]


def test_a_page_names_the_figures_that_it_has_no_room_for(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = only_cell(store, "sga") / "analysis" / "spectrum.png"
    draw_figure(file, 300, 200)
    report = collect(store, pairs=4)
    page = render(replace(report, figures=[replace(one, shown=[]) for one in report.figures]))
    assert "Figures of 1 more cell are left out" in page
    assert f"SGA on synthetic, seed 0: spectrum.png in <code>{file.parent}</code>" in page


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_metrics_and_costs_that_are_no_numbers_are_left_out_and_named(store: Path, value: object) -> None:
    sga, scft = only_cell(store, "sga"), only_cell(store, "scft")
    edit_numbers(sga, ssim={"value": value})
    edit(sga, costs={**record(sga)["costs"], "step_gflop": value})
    outcome = attnbench("report", store)
    assert outcome.code == 0
    view = data_of((store / "report.html").read_text())["views"][0]
    quality = {metric["title"]: metric["values"] for metric in view["metrics"]}
    assert set(quality["SSIM (windowed)"]) == {"SCFT", "CMFT"}
    assert set(quality["SSIM (global)"]) == {"SGA", "SCFT", "CMFT"}
    (cost,) = [cost for cost in view["costs"] if cost["name"] == "step_gflop"]
    assert set(cost["values"]) == {"SCFT", "CMFT"}
    message = [] if value != value else [f"{sga / 'cell.json'} has {name} {str(value)!r}" for name in ("ssim", "step_gflop")]
    assert [line.split(": not")[0] for line in outcome.err.splitlines()] == message
    assert scft.name not in outcome.err


def test_a_record_with_a_text_for_a_number_is_left_out_and_named(store: Path) -> None:
    sga = only_cell(store, "sga")
    edit_numbers(sga, ssim={"value": "much"})
    outcome = attnbench("report", store)
    assert outcome.code == 0
    (line,) = outcome.err.splitlines()
    assert line == f'{sga / "cell.json"} is left out: it is not a cell\'s record (measurements.0.metrics.ssim.value is "much")'
    (view,) = data_of((store / "report.html").read_text())["views"]
    assert view["variants"] == ["SCFT", "CMFT"]


def test_losses_and_epochs_that_are_no_numbers_are_gaps(store: Path) -> None:
    sga = only_cell(store, "sga")
    for name, key in (("losses.jsonl", "generator"), ("evaluations.jsonl", "value")):
        lines = (sga / name).read_text().splitlines()
        lines[1] = re.sub(rf'"{key}": ?[-0-9.e]+', f'"{key}": NaN', lines[1])
        lines[-1] = re.sub(rf'"{key}": ?[-0-9.e]+', f'"{key}": -Infinity', lines[-1]) if name == "losses.jsonl" else lines[-1]
        (sga / name).write_text("\n".join(lines) + "\n")
    report = collect(store, pairs=4)
    assert report.notes == []
    (log,) = data_of(render(report))["logs"]
    (curve,) = [curve for curve in log["curves"] if curve["label"] == "SGA"]
    shown = curve["losses"]["generator"]
    assert [loss is None for loss in shown] == [False, True, False, True]
    assert None not in curve["losses"]["reconstruction"]
    epochs = {one["label"]: [epoch for epoch, _ in one["points"]] for one in log["epochs"] if one["metric"] == "ssim"}
    assert len(epochs["SGA"]) == len(epochs["SCFT"]) - 1


@pytest.mark.parametrize("score", ["inf", "none", "1e999"])
def test_scores_that_are_no_numbers_are_left_out_and_named(store: Path, score: str) -> None:
    file = measured(only_cell(store, "sga")) / "pairs.csv"
    head, first, second, *rest = (line.split(",") for line in file.read_text().splitlines())
    second[head.index("ssim")] = score
    file.write_text("\n".join(",".join(line) for line in (head, first, second, *rest)) + "\n")
    outcome = attnbench("report", store, "--pairs", "9")
    assert outcome.code == 0
    grid = data_of((store / "report.html").read_text())["views"][0]["grid"]
    column = [one["label"] for one in grid["columns"]].index("SGA")
    metric = [one["key"] for one in grid["metrics"]].index("ssim")
    (lacking,) = [pair["sketch"] for pair in grid["pairs"] if pair["scores"][column][metric] is None]
    assert lacking == second[0]
    shown = [score, score.replace("1e999", "inf")]  # as one pandas or another reads it
    wanted = [f"{file} has ssim '{one}' in line 3: not a finite number, left out" for one in shown]
    assert any(line in outcome.err for line in wanted)


def test_what_is_damaged_is_said_once_and_the_rest_stands(store: Path) -> None:
    (measured(only_cell(store, "sga")) / PICTURES).write_bytes(b"PK but no more")
    (only_cell(store, "scft") / "cell.json").write_text("{")
    (only_cell(store, "cmft") / "losses.jsonl").write_text("oops\n")
    outcome = attnbench("report", store)
    assert outcome.code == 0
    lines = outcome.err.splitlines()
    assert len(lines) == 3
    page = (store / "report.html").read_text()
    for name in ("cell.json is left out", "pictures.zip' is damaged", "losses.jsonl is damaged"):
        assert any(name in line for line in lines)
        assert name in page.replace("&#39;", "'")
    assert [column["label"] for column in data_of(page)["views"][0]["grid"]["columns"]] == ["CMFT"]


def test_a_picture_that_is_damaged_inside_the_zip_is_left_out_alone(store: Path) -> None:
    file = measured(only_cell(store, "sga")) / PICTURES
    data = PairPictures(file.parent).generated(0)
    file.write_bytes(file.read_bytes().replace(data, bytes(len(data))))
    report = collect(store, pairs=9)
    grid = report.views[0].grid
    column = [one["label"] for one in grid["columns"]].index("SGA")
    assert sum(pair["generated"][column] is None for pair in grid["pairs"]) == 1
    assert "a picture of pair 0 is left out" in report.notes[0]
    render(report)


def test_pairs_and_pictures_that_disagree_are_not_shown(store: Path) -> None:
    file = measured(only_cell(store, "sga")) / "pairs.csv"
    file.write_text("\n".join(file.read_text().splitlines()[:-1]) + "\n")
    report = collect(store, pairs=4)
    assert report.views[0].grid["left_out"] == ["SGA"]
    assert "9 pairs, pairs.csv 8" in report.notes[0]


def test_data_sets_of_one_name_and_other_images_are_views_of_their_own(store: Path) -> None:
    folder = only_cell(store, "sga")
    edit(folder, dataset={**record(folder)["dataset"], "fingerprint": "f" * 64})
    views = collect(store, pairs=4).views
    assert sorted([column["label"] for column in view.grid["columns"]] for view in views) == [["SCFT", "CMFT"], ["SGA"]]


def add_measurement(cell: Path, label: str = "same") -> dict[str, Any]:
    """A second measurement of a cell, with the pictures and the scores of the first."""
    first = record(cell)["measurements"][0]
    folder = f"measured/{label}-1a2b3c"
    shutil.copytree(cell / first["folder"], cell / folder)
    protocol = {**first["protocol"], "references": label}
    second = {**first, "identity": f"{label} {cell.name}", "folder": folder, "protocol": protocol}
    edit(cell, measurements=[first, second])
    return second


def test_each_protocol_is_a_view_and_cells_are_counted_once(store: Path) -> None:
    for name in ("sga", "scft"):
        add_measurement(only_cell(store, name))
    report = collect(store, pairs=4)
    assert report.notes == []
    assert [view.title for view in report.views] == ["synthetic", "synthetic, same"]
    assert [[column["label"] for column in view.grid["columns"]] for view in report.views] == [
        ["SCFT", "CMFT", "SGA"],
        ["SCFT", "SGA"],
    ]
    assert report.views[1].grid["left_out"] == ["CMFT"]
    assert report.counts == {"finished": 3}
    assert len(report.cells) == 3
    (sga,) = [cell for cell in report.cells if cell["variant"] == "SGA"]
    titles = ["match", "bleed", "SSIM (global)", "SSIM (windowed)"]
    assert [name for name, _, _ in sga["metrics"]] == [*titles, *(f"{title}, same" for title in titles)]
    data = data_of(render(report))
    assert [view["log"] for view in data["views"]] == [0, 0]
    assert len(data["logs"][0]["curves"]) == 3
    assert report.tables[0].groups == [("synthetic", 4, False), ("synthetic, same", 4, False), *report.tables[0].groups[2:]]


def test_pictures_made_elsewhere_are_shown_beside_the_cells_and_marked(store: Path) -> None:
    sga = only_cell(store, "sga")
    theirs = Path(shutil.copytree(sga, store / "manganinja-synthetic"))
    for name in ("job.json", "losses.jsonl", "evaluations.jsonl", "recipe.yaml"):
        (theirs / name).unlink()
    module = {**record(sga)["module"], "name": "manganinja", "label": "MangaNinja", "package": "elsewhere"}
    made = {"digest": "1a2b3c4d5e", "note": "v1.0", "side": 32, "size": 16}
    measurements = [{**record(sga)["measurements"][0], "identity": "theirs"}]
    recipe = {"name": "", "digest": "", "values": {}}
    given = {"module": module, "pictures": made, "measurements": measurements, "recipe": recipe, "identity": "pictures"}
    edit(theirs, **given, costs={}, best=None)
    report = collect(store, pairs=4)
    assert report.notes == []
    (view,) = report.views
    name = "MangaNinja (not trained here)"
    assert view.variants == ["SCFT", "CMFT", "SGA", name]
    assert view.grid["columns"][-1] == {"label": name, "seed": None, "folder": theirs.name}
    (table,) = report.tables
    assert table.rows[-1][0] == name
    assert ("MangaNinja: not trained here (v1.0, made at 32 px; pictures 1a2b3c4d).", "always") in table.notes
    (cell,) = [cell for cell in report.cells if cell["folder"] == theirs.name]
    assert cell["label"] == f"{name} on synthetic"
    assert (cell["command"], cell["remark"]) == ("", "These pictures were not trained here: no command makes them again.")
    assert dict(cell["facts"])["pictures"] == "32 px, measured at 16 px, digest 1a2b3c4d5e"
    assert dict(cell["facts"])["note"] == "v1.0"
    assert "MangaNinja (not trained here) on synthetic" in render(report)
    edit(theirs, pictures={**made, "size": 32})  # which no cell was measured at
    assert [view.title.partition(" · ")[2] for view in collect(store, pairs=4).views][1:] == ["not trained here, 32 px"]


def test_a_finished_cell_that_is_not_measured_needs_attention(store: Path) -> None:
    edit(only_cell(store, "sga"), measurements=[], best=None)
    report = collect(store, pairs=4)
    assert [text for _, _, text in report.troubles] == ["not measured: `attnbench measure` measures it"]
    (view,) = report.views
    assert view.grid["left_out"] == ["SGA"]
    render(report)


def test_a_store_of_the_old_format_is_shown_with_its_small_pictures(store: Path, tmp_path: Path) -> None:
    kept = measured(only_cell(store, "sga"))
    old = tmp_path / "old"
    old.mkdir()
    write_old_cell(old)
    small = old / "sga-cat-seed0" / PICTURES
    with ZipFile(kept / PICTURES) as whole, ZipFile(small, "w") as part:
        for name in whole.namelist():
            part.writestr(name, as_shown(whole.read(name)) if name.endswith(".webp") else whole.read(name))
        pairs = json.loads(whole.read("index.json"))["pairs"]
    with ZipFile(small, "a") as part, pytest.warns(UserWarning, match="Duplicate name"):
        part.writestr("index.json", json.dumps({"pairs": pairs[:2], "side": 16}))
    report = collect(old, pairs=4)
    assert report.notes == []
    (view,), (album,) = report.views, report.albums
    assert [metric["title"] for metric in view.metrics] == ["FID-192", "SSIM (windowed)", "LPIPS-squeeze"]
    assert view.grid["chosen_by"] == "SSIM (windowed)"
    assert [pair["scores"] for pair in view.grid["pairs"]] == [[[0.4, 0.2]], [[0.6, 0.4]]]
    assert album.files[view.grid["pairs"][1]["generated"][0]] == PairPictures(small.parent).generated(1)  # as it is
    render(report)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "there is no results folder 'nowhere'"),
        (["."], "no cells in '.'"),
        ([".", "--serve"], "no cells in '.'"),
        (["nowhere", "--serve", "--port", "0"], "there is no results folder 'nowhere'"),
        ([".", "--port", "8000"], "--port is for --serve"),
        ([".", "--serve", "-o", "x.html"], "--output is not for --serve"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = attnbench("report", *arguments, *([] if "--port" in arguments or "--serve" not in arguments else ["--port", "0"]))
    assert outcome.code == 2
    assert outcome.err.startswith(f"error: {message}")
    assert len(outcome.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_is_named(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attnbench.report.page.collect", pytest.fail)  # which may take a minute
    with pytest.raises(UserError, match=r"nowhere/x\.html' cannot be written: .*: choose another file with -o"):
        write_report(store, store / "nowhere" / "x.html", pairs=4)
    with pytest.raises(UserError, match="is a folder: name a file with -o"):
        write_report(store, store, pairs=4)


def test_a_port_in_use_is_one_line(store: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        outcome = attnbench("report", store, "--serve", "--port", str(port))
    assert outcome.code == 2
    assert outcome.err == (f"error: port {port} is in use: choose another with --port, or any free one with --port 0\n")


def test_the_version_changes_with_what_the_page_shows(store: Path) -> None:
    seen = [version_of(store)]
    folder = only_cell(store, "sga")
    (store / "report.html").write_text("itself")
    (folder / "cell.log").write_text("a line")
    assert version_of(store) == seen[0]
    edit(folder, status="running")
    seen.append(version_of(store))
    (store / "analysis").mkdir()
    (store / "analysis" / "a.png").write_bytes(b"")
    seen.append(version_of(store))
    shutil.rmtree(folder)
    seen.append(version_of(store))
    assert len(set(seen)) == len(seen)


def test_the_site_makes_its_page_anew_only_after_a_change(store: Path, warned: Callable[[], list[str]]) -> None:
    site = Site(store, 4)
    status, first = site.page()
    assert status == 200
    assert site.page()[1] is first
    edit(only_cell(store, "sga"), status="failed", failure={"message": "it broke", "traceback": None})
    assert b"it broke" in site.page()[1]
    assert json.loads(site.live())["version"] == version_of(store)
    assert warned() == []


def test_a_page_that_cannot_be_made_says_why_and_comes_back(
    store: Path, monkeypatch: pytest.MonkeyPatch, warned: Callable[[], list[str]]
) -> None:
    site = Site(store, 4)
    aside = store.rename(store.with_name("aside"))
    status, page = site.page()
    assert status == 503
    assert warned()[0].startswith("the page cannot be made: there is no results folder")
    assert b"there is no results folder" in page
    assert b'<meta http-equiv="refresh"' in page
    assert site.page() == (503, page)  # asked again, it is not made again
    assert len(warned()) == 1
    aside.rename(store)
    edit(only_cell(store, "sga"), status="failed")
    with monkeypatch.context() as patch:
        patch.setattr("attnbench.report.serve.render", lambda report, live: json.dumps({"<b>": 1} | {"x": {1, 2}}))
        status, page = site.page()
    assert status == 503
    assert b"TypeError: Object of type set is not JSON serializable" in page
    edit(only_cell(store, "sga"), status="finished")
    assert site.page()[0] == 200


def test_the_server_answers_and_ends_quietly(store: Path, process: Process, ctrl_c_is_heard: None) -> None:
    with process("report", store, "--serve", "--port", "0") as server:
        watchdog = threading.Timer(300, server.kill)
        watchdog.start()
        try:
            assert server.stdout is not None
            address = server.stdout.readline().split()[0]
            with urllib.request.urlopen(address) as answer:
                page = answer.read().decode()
            with urllib.request.urlopen(f"{address}live") as answer:
                live = json.load(answer)
            with pytest.raises(urllib.error.HTTPError, match="403"):  # of a page whose name was made to lead to this machine
                urllib.request.urlopen(urllib.request.Request(address, headers={"Host": "evil.example"}))
            assert f'data-live="{live["version"]}"' in page
            server.send_signal(signal.SIGINT)
            out, err = server.communicate()
        finally:
            watchdog.cancel()
    assert (server.returncode, out, err) == (0, "", "")
