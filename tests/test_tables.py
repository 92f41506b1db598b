"""Tables from a store: rows and columns, marks, and numbers that never share a column."""

import io
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from attnbench.cells.record import BestEpoch, MeasurementRecord, MetricRecord, Record, record_text
from attnbench.config.grid_files import load_grid
from attnbench.errors import UserError
from attnbench.metrics.descriptor import Descriptor
from attnbench.metrics.protocol import Protocol, measurement_identity
from attnbench.store.frame import keys_in, results, rows_of_cell
from attnbench.store.reading import Stored
from attnbench.tables.compile import for_pandas, render_table, tables
from attnbench.tables.formats import show
from attnbench.tables.published import published
from attnbench.tables.status import status_of

TITLES = {
    "fid": "FID",
    "fid:dims=768": "FID-768",
    "kid": "KID",
    "ssim_global": "SSIM (global)",
    "ssim": "SSIM (windowed)",
    "lpips": "LPIPS-alex",
    "mine": "Mine",
}
DECIMALS = {"fid": 2, "fid:dims=768": 4, "kid": 4}
WEIGHTS = {
    "fid": {"inception": "feedfacecafe"},
    "fid:dims=768": {"inception": "feedfacecafe"},
    "lpips": {"lpips-alex": "abad1dea" * 2},
}
USUAL, SAME = Protocol(), Protocol(references="same")


def described(key):
    """As the plug-in describes the metric, which tables never ask."""
    return Descriptor(
        name=key.partition(":")[0],
        title=TITLES[key],
        decimals=DECIMALS.get(key, 3),
        lower_is_better=key.startswith(("fid", "kid", "lpips")),
        per_image=not key.startswith(("fid", "kid")),
        in_paper=key in ("fid", "ssim_global"),
        package="colour-metrics" if key == "mine" else "attnbench",
    )


def number(key, value, **parts):
    """A number of a record; a text is the reason why there is none, and names the network if one is missing."""
    weights = parts.pop("weights", WEIGHTS.get(key, {}))
    if isinstance(value, str):
        missing = {"missing": next(iter(weights))} if "missing" in value else {}
        return MetricRecord(value=None, reason=value, metric=described(key), **missing, **parts)
    parts = {**({"floor": 5.0, "n_floor": 500} if key == "fid" else {}), **parts}
    return MetricRecord(value=value, metric=described(key), weights=weights, source=parts.pop("source", "generator"), **parts)


def measurement(numbers, protocol=USUAL, test="test images", images=500, folder=".", subject="it"):
    return MeasurementRecord(
        identity=measurement_identity(subject, test, protocol),
        protocol=protocol,
        test={"fingerprint": test, "images": images},
        folder=folder,
        metrics={key: value if isinstance(value, MetricRecord) else number(key, value) for key, value in numbers.items()},
    )


def made(label="SGA", dataset="cat", seed=0, measurements=(), **changes):
    """A record."""
    name = label.lower().split(" ")[0]
    values = {
        "format": 2,
        "identity": f"{label} on {dataset}, seed {seed}",
        "status": "finished",
        "module": {"name": name, "label": label, "given": {}, "options": {}, "package": "attnbench", "version": "0.1.0"},
        "dataset": {"name": dataset, "fingerprint": f"images-of-{dataset}", "train": 100},
        "seed": seed,
        "recipe": {"name": "official", "digest": "0123456789abcdef", "values": {"data": {"size": 256}}},
        "weights": {},
        "measurements": list(measurements),
        **changes,
    }
    return Record.model_validate(values)


def foreign(label="MangaNinja", dataset="cat", numbers=None, *, digest="1a2b3c4d5e6f", size=256, **measured):
    """A row of the frame, of pictures that were made elsewhere."""
    numbers = {"fid": 28.0, "ssim_global": 0.9} if numbers is None else numbers
    record = made(
        label,
        dataset,
        identity=f"pictures {digest}",
        measurements=[measurement(numbers, **{"subject": digest, **measured})],
        pictures={"digest": digest, "note": "v1.0, 50 steps", "side": 512, "size": size},
        recipe={"name": "", "digest": "", "values": {"data": {"size": size}}},
    )
    return in_frame(record, f"{label}-{dataset}")


def in_frame(record, folder):
    """The row of the frame for a record with one measurement, or none."""
    (row,) = rows_of_cell(Stored(folder, record), {}, {})
    return row


def cell(label="SGA", dataset="cat", seed=0, fid=30.0, ssim=0.8, *, numbers=None, best=None, **changes):
    """A row of the frame that `attnbench.results` gives.

    Args:
        fid, ssim, numbers: values of metrics, or reasons why there are none; None for a metric that was not asked for.
        best: numbers of the best epoch.
        changes: of the measurement (protocol, test, images, measured), else columns of the frame.
    """
    every = {key: value for key, value in {"fid": fid, "ssim_global": ssim, **(numbers or {})}.items() if value is not None}
    about = {name: changes.pop(name) for name in ("protocol", "test", "images") if name in changes}
    one = measurement(every, subject=f"{label} {dataset} {seed}", **{"test": f"test images of {dataset}", **about})
    record = made(label, dataset, seed, [one] if every else [])
    if best:
        numbers = {key: number(key, value) for key, value in best.items()}
        record = record.model_copy(
            update={"best": BestEpoch(step=1, epoch=1, by=next(iter(best)), measurement=one.identity, metrics=numbers)}
        )
    row = in_frame(record, f"{label}-{dataset}-{seed}")
    row["identity"] += "".join(
        f", {changes[name]}" for name in ("recipe_digest", "train_weights", "fingerprint") if name in changes
    )
    return {**row, **({"all_options": changes["options"]} if "options" in changes else {}), **changes}


def framed(rows):
    """Rows as `attnbench.results` gives them."""
    frame = pd.DataFrame(list(rows))
    keys = dict.fromkeys(key for row in rows for key in keys_in(row.get("metrics")))
    frame.attrs["metrics"] = {key: described(key).model_dump() for key in keys}
    return frame


def one_table(*cells, **options):
    (table,) = tables(framed(cells), **options)
    return table


def texts(table):
    return {label: [entry.text for entry in entries] for label, entries in table.rows.items()}


def ranks(table):
    return {label: [entry.rank for entry in entries] for label, entries in table.rows.items()}


def test_rows_are_modules_and_columns_are_metrics_of_datasets():
    table = one_table(cell("SCFT", "anime"), cell("SCFT", "cat", fid=36.333), cell("SGA", "anime"), cell("SGA", "cat"))
    assert [(c.setting.dataset, c.title) for c in table.columns] == [
        ("anime", "FID"),
        ("anime", "SSIM (global)"),
        ("cat", "FID"),
        ("cat", "SSIM (global)"),
    ]
    assert list(table.rows) == ["SCFT", "SGA"]
    assert texts(table)["SCFT"][2:] == ["36.33", "0.800"]


def test_the_best_and_the_second_are_marked_by_the_metrics_direction():
    table = one_table(
        cell("SCFT", fid=40, ssim=0.9),
        cell("SGA", fid=30, ssim=0.7),
        cell("Mine", fid=35, ssim=0.8),
        cell("Worst", fid=50, ssim=0.1),
    )
    assert ranks(table) == {"SGA": [0, None], "Mine": [1, 1], "SCFT": [None, 0], "Worst": [None, None]}


def test_equal_values_share_a_rank():
    table = one_table(cell("A", fid=30.001), cell("B", fid=30.002), cell("C", fid=31))
    assert [ranks(table)[label][0] for label in "ABC"] == [0, 0, 1]


def test_a_column_of_one_has_no_best():
    assert ranks(one_table(cell())) == {"SGA": [None, None]}


def test_seeds_are_averaged_with_their_deviation():
    table = one_table(cell(seed=0, fid=30), cell(seed=1, fid=32), cell(seed=2, fid=34))
    assert texts(table)["SGA"][0] == "32.00 ± 2.00"
    assert "seeds 0, 1, 2" in table.caption
    assert "mean ± standard deviation over n = 3 seeds, unless the entry gives another n." in table.notes


def test_an_entry_with_another_number_of_seeds_than_most_says_so():
    cells = [cell(label, seed=seed, fid=30 + seed) for label in ("SCFT", "SGA") for seed in range(3)]
    table = one_table(*cells, cell("CMFT", fid=31), cell("UNITE", fid=30), cell("UNITE", seed=1, fid=32))
    assert [texts(table)[label][0] for label in ("SGA", "UNITE", "CMFT")] == ["31.00 ± 1.00", "31.00 ± 1.41 n=2", "31.00 n=1"]


def test_many_seeds_are_named_by_the_first_and_the_last():
    assert "seeds 0-9." in one_table(*(cell(seed=seed) for seed in range(10))).caption


def test_a_cell_that_is_in_two_folders_of_a_store_counts_once():
    again = cell(folder="copy/SGA-cat-0", status="interrupted", fid=None, ssim=None)
    table = one_table(again, cell(folder="other/SGA-cat-0"), cell(), cell(seed=1, fid=32))
    assert texts(table)["SGA"][0] == "31.00 ± 1.41"


def test_fid_at_another_width_has_another_title():
    table = one_table(cell(fid=None, numbers={"fid:dims=768": 1.44304}), metrics=["fid"])
    assert table.columns[0].title == "FID-768"
    assert texts(table)["SGA"][0] == "1.4430"  # such distances are small


def test_numbers_from_different_networks_never_share_a_column():
    table = one_table(cell("SGA"), cell("SCFT", **{"fid.weights": "inception=beefbeefbeef"}))
    fid = [column for column in table.columns if column.key == "fid"]
    assert [column.title for column in fid] == ["FID [feedfa]", "FID [beefbe]"]
    assert texts(table)["SGA"][:2] == ["30.00", "-"]
    assert texts(table)["SCFT"][:2] == ["-", "30.00"]


def test_cells_of_different_recipes_never_share_a_table():
    frame = framed([cell("SGA"), cell("SCFT", recipe="mine", recipe_digest="f" * 16)])
    assert [list(table.rows) for table in tables(frame)] == [["SGA"], ["SCFT"]]


def test_datasets_of_one_name_with_different_images_are_distinguished():
    table = one_table(cell("SGA"), cell("SCFT", fingerprint="another"))
    assert {column.setting.dataset for column in table.columns} == {"cat [images]", "cat [anothe]"}


def test_a_metric_without_its_network_is_a_dash_with_the_reason():
    table = one_table(
        cell("SGA", fid="weights 'inception' are missing"),
        cell("SCFT", fid="weights 'inception' are missing"),
    )
    assert [row[0] for row in texts(table).values()] == ["- [1]", "- [1]"]
    assert table.notes[0] == "[1] FID: weights 'inception' are missing"


def test_failed_and_diverged_cells_are_shown_with_their_reason_and_open_ones_named():
    table = one_table(
        cell("SGA"),
        cell("A", status="failed", failure="RuntimeError: boom", fid=None, ssim=None),
        cell("B", status="diverged", failure="diverged at step 7", fid=None, ssim=None),
        cell("C", status="interrupted", fid=None, ssim=None),
    )
    assert [texts(table)[label][0] for label in "ABC"] == ["failed [1]", "diverged [2]", "- [3]"]
    assert "[1] A-cat-0: RuntimeError: boom" in table.notes
    assert "[2] B-cat-0: diverged at step 7" in table.notes
    assert "[3] Not finished: C-cat-0." in table.notes


def test_a_seed_that_failed_beside_others_that_finished_is_never_dropped():
    table = one_table(
        cell(seed=0, fid=30),
        cell(seed=1, fid=32),
        cell(seed=2, status="failed", failure="RuntimeError: boom", fid=None, ssim=None),
        *(cell("SCFT", seed=seed) for seed in range(3)),
        cell("CMFT"),
        cell("CMFT", seed=1, status="running", fid=None, ssim=None),
    )
    assert texts(table)["SGA"][0] == "31.00 ± 1.41 n=2 [2]"
    assert texts(table)["CMFT"][0] == "30.00 n=1 [1]"
    assert table.notes[:2] == ["[1] Not finished: CMFT-cat-1.", "[2] SGA-cat-2: failed: RuntimeError: boom"]


def test_entries_of_changed_code_say_which_file_changed():
    table = one_table(cell("SCFT", stale=None), cell("SGA", stale="baselines/sga.py"), cell("SGA", seed=1, stale=float("nan")))
    assert texts(table)["SCFT"][0] == "30.00 n=1"
    assert texts(table)["SGA"][0] == "30.00 ± 0.00 [1]"
    assert "[1] stale: baselines/sga.py changed since this was trained" in table.notes


def test_the_floor_the_count_and_the_weights_stand_with_every_fid():
    table = one_table(cell("SGA", "cat"), cell("SGA", "anime", **{"fid.floor": 7.0, "fid.n_floor": 400.0}))
    assert any("anime 7.00 (400 images), cat 5.00 (500 images)" in note for note in table.notes)
    assert "test images: " in table.caption
    for style in ("md", "latex", "html"):
        assert "FID: weights inception feedface; N = anime 500, cat 500 generated images; floor" in render_table(table, style)


def test_what_chance_gives_stands_below_the_table_for_every_metric_that_records_it():
    by_chance = [
        cell("SGA", "cat", numbers={"mine": number("mine", 0.5, chance=0.2504)}),
        cell("SCFT", "cat", numbers={"mine": number("mine", 0.4, chance=0.2504)}),
        cell("SGA", "anime", numbers={"mine": number("mine", 0.5, chance=0.125), "kid": number("kid", 1.0, chance=2)}),
        cell("SGA", "cat", protocol=SAME, numbers={"mine": number("mine", 0.5, chance="high")}),
        cell("SGA", "anime", protocol=SAME, numbers={"mine": number("mine", 0.5)}),
    ]
    table = one_table(*by_chance, metrics=["mine", "kid"])
    assert [note for note in table.notes if "chance" in note] == [
        "Mine: chance, without a look at the reference: anime 0.125, cat 0.250.",
        "KID: N = anime 500 generated images; chance, without a look at the reference: anime 2.0000.",
    ]
    assert not any("chance" in note for note in one_table(cell(), cell("SCFT")).notes)


def test_a_metric_that_cannot_measure_a_dataset_has_a_note_there_and_no_column():
    none = "dataset 'cat' has no right answers"
    cells = [
        cell("SGA", "cat", numbers={"mine": none, "ssim": "dataset 'cat' has no maps of parts", "lpips": none}, fid=None),
        cell("SCFT", "cat", numbers={"mine": none, "ssim": "dataset 'cat' has no maps of parts", "lpips": none}, fid=None),
        cell("SGA", "anime", numbers={"mine": 0.5}, fid=None),
    ]
    table = one_table(*cells)
    assert [(column.setting.dataset, column.key) for column in table.columns] == [
        ("anime", "ssim_global"),
        ("anime", "mine"),
        ("cat", "ssim_global"),
    ]
    assert [note for note in table.notes if "cat" in note] == [
        "Not measured on cat: Mine, LPIPS-alex (dataset 'cat' has no right answers).",
        "Not measured on cat: SSIM (windowed) (dataset 'cat' has no maps of parts).",
    ]
    chosen = one_table(*cells, metrics=["mine", "lpips"])  # by name, they have their columns with the reason
    assert texts(chosen)["SGA"] == ["0.500", "- [1]", "- [1]"]
    assert [note for note in chosen.notes if note.startswith("[")] == ["[1] dataset 'cat' has no right answers"]


@pytest.mark.parametrize("mendable", [{"failed": True}, {"missing": "net"}])
def test_a_metric_that_failed_or_lacks_weights_keeps_its_column(mendable):
    why = "it did not work"
    fails = [cell(label, numbers={"mine": number("mine", why, **mendable)}) for label in ("SGA", "SCFT")]
    table = one_table(*fails)
    assert [column.key for column in table.columns] == ["fid", "ssim_global", "mine"]
    assert texts(table)["SGA"][2] == "- [1]"
    table = one_table(cell("SGA", numbers={"mine": why}), cell("SCFT", numbers={"mine": 0.5}))  # as where one has a number
    assert texts(table)["SGA"][2] == "- [1]"


def test_where_no_metric_can_measure_a_dataset_all_have_their_columns():
    table = one_table(cell("SGA", fid=None, ssim="none", numbers={"mine": "neither"}))
    assert texts(table)["SGA"] == ["- [1]", "- [2]"]
    assert table.notes[:2] == ["[1] none", "[2] neither"]


def test_each_datasets_fid_stands_with_its_own_weights():
    table = one_table(cell("SGA", "cat"), cell("SGA", "anime", **{"fid.weights": "inception=another"}))
    anime, cat = [note for note in table.notes if "weights inception" in note]
    assert "feedface; N = cat 500" in cat
    assert "another; N = anime 500" in anime


def test_csv_has_the_floor_the_count_and_the_weights_with_their_name():
    frame = for_pandas(framed([cell("SGA"), cell("SCFT", fid="no network")]), with_published=True)
    row = frame.set_index("label").loc["SGA"]
    assert (row["fid.weights"], row["fid.floor"], row["fid.n_floor"]) == ("inception=feedfacecafe", 5, 500)
    assert row["fid.published"] == 34.35
    assert row["fid.difference"] == pytest.approx(-4.35)
    assert frame["fid.weights"].isna().tolist() == [False, True]


def test_csv_has_a_column_for_each_value_of_a_mapping():
    parts = {"hair": 74.0, "eyes": {"left": 51.5, "right": 50}}
    best = {"mine": number("mine", 0.5, parts={"hair": 80.0})}
    frame = framed([cell(numbers={"mine": number("mine", 0.4, parts=parts)}), cell("SCFT", numbers={"mine": 0.3})])
    csv = pd.read_csv(io.StringIO(for_pandas(frame).to_csv(index=False))).set_index("label")
    assert csv.loc["SGA", ["mine.parts.hair", "mine.parts.eyes.left", "mine.parts.eyes.right"]].tolist() == [74, 51.5, 50]
    assert csv.loc["SCFT", [name for name in csv if name.startswith("mine.parts")]].isna().all()
    row = in_frame(
        made(measurements=[measurement({"mine": 0.4})], best=BestEpoch(step=1, epoch=1, by="mine", metrics=best)), "it"
    )
    assert row["best.mine.parts.hair"] == 80


def test_csv_has_a_row_for_each_cell_and_measurement():
    same = cell(fid=10.0, protocol=SAME, measured="measured/same-1a2b3c")
    frame = for_pandas(framed([cell(), same, cell(seed=1, status="failed", fid=None, ssim=None)]), with_published=True)
    assert frame["protocol"].fillna("none").tolist() == ["", "same", "none"]
    assert frame["fid.published"].fillna(0).tolist() == [34.35, 0, 0]  # the paper has one protocol
    assert frame["folder"].nunique() == 2


def test_published_numbers_stand_behind_ours_where_the_quantity_is_the_same():
    variant = cell("SGA w/o stop-gradient", module="sga", options='{"stop_gradient": false}')
    table = one_table(cell("SGA"), variant, cell("Mine"), with_published=True)
    assert texts(table)["SGA"] == ["30.00 (34.35, -4.35)", "0.800 (0.843, -0.043)"]
    assert texts(table)["SGA w/o stop-gradient"] == ["30.00 (40.73, -10.73)", "0.800 (0.796, +0.004)"]
    assert texts(table)["Mine"] == ["30.00", "0.800"]
    assert any("2207.06095" in note for note in table.notes)


def test_published_fid_is_not_put_beside_fid_at_another_width():
    table = one_table(cell(fid=None, numbers={"fid:dims=768": 30.0}), with_published=True)
    assert texts(table)["SGA"] == ["0.800 (0.843, -0.043)", "30.0000"]
    table = one_table(cell(fid=None, numbers={"fid:dims=768": 30.0}), metrics=["fid", "ssim_global"], with_published=True)
    assert texts(table)["SGA"] == ["30.0000", "0.800 (0.843, -0.043)"]
    same = one_table(cell(), cell(protocol=SAME), with_published=True)
    assert texts(same)["SGA"] == ["30.00 (34.35, -4.35)", "0.800 (0.843, -0.043)", "30.00", "0.800"]
    assert "no number for FID, same, SSIM (global), same." in same.notes[-1]


def test_published_has_every_number_of_the_three_tables():
    counts = published().groupby("table").size()
    assert counts.to_dict() == {1: 8, 2: 48, 3: 32}


def test_metrics_can_be_chosen():
    rows = [cell(numbers={"kid": 0.0123, "lpips": 0.3})]
    assert texts(one_table(*rows, metrics=["kid"])) == {"SGA": ["0.0123"]}
    assert texts(one_table(*rows, metrics=["lpips", "fid"])) == {"SGA": ["0.300", "30.00"]}
    with pytest.raises(UserError, match="did you mean 'lpips'"):
        one_table(*rows, metrics=["lpip"])
    with pytest.raises(UserError, match="none of any other metric: `attnbench measure`"):
        one_table(cell(fid=None, ssim=None), metrics=["fid"])


def test_the_best_epoch_needs_cells_that_measured_every_epoch():
    with pytest.raises(UserError, match="each_epoch"):
        one_table(cell(), epoch="best")
    best = {"fid": 25.0, "ssim_global": 0.7}
    table = one_table(cell(best=best), cell(fid=20.0, protocol=SAME), cell("SCFT"), epoch="best")
    assert texts(table) == {"SCFT": ["-", "-"], "SGA": ["25.00", "0.700"]}
    assert "each cell's best epoch by FID" in table.caption


def headings(table):
    return [column.heading.text for column in table.columns]


def test_two_protocols_of_a_dataset_are_two_groups_of_columns():
    rows = [cell(), cell(fid=20.0, ssim=0.9, protocol=SAME), cell("SCFT", fid=40.0)]
    table = one_table(*rows)
    assert headings(table) == ["cat FID ↓", "cat SSIM (global) ↑", "cat, same FID ↓", "cat, same SSIM (global) ↑"]
    assert texts(table)["SGA"] == ["30.00", "0.800", "20.00", "0.900"]
    assert texts(table)["SCFT"] == ["40.00", "0.800", "- [1]", "- [1]"]
    assert "[1] not measured: `attnbench measure` measures it" in table.notes
    assert "FID, same: weights inception feedface; N = cat 500 generated images; floor" in " ".join(table.notes)
    assert "test images: cat 500; seed 0." in table.caption


def test_what_failed_counts_under_every_protocol():
    lost = cell("SGA", seed=1, status="failed", failure="RuntimeError: boom", fid=None, ssim=None)
    table = one_table(cell(protocol=SAME), cell(), lost, metrics=["fid"])
    assert texts(table)["SGA"] == ["30.00 [1]", "30.00 [1]"]
    assert table.notes[0] == "[1] SGA-cat-1: failed: RuntimeError: boom"


def test_cells_that_are_not_measured_at_all_have_their_statuses():
    open_cells = [cell("SCFT", fid=None, ssim=None), cell("SGA", fid=None, ssim=None, status="running")]
    table = one_table(*open_cells)
    assert headings(table) == ["cat status"]
    assert texts(table) == {"SCFT": ["- [1]"], "SGA": ["- [2]"]}
    assert table.notes == ["[1] not measured: `attnbench measure` measures it", "[2] Not finished: SGA-cat-0."]


def test_two_widths_of_a_metric_are_two_columns_of_one_table():
    both = {"fid:dims=768": 1.5}
    table = one_table(cell("SGA", numbers=both), cell("SCFT", fid=40.0), metrics=["fid"])
    assert headings(table) == ["cat FID ↓", "cat FID-768 ↓"]
    assert texts(table) == {"SCFT": ["40.00", "- [1]"], "SGA": ["30.00", "1.5000"]}
    assert headings(one_table(cell(numbers=both), metrics=["fid:dims=768"])) == ["cat FID-768 ↓"]
    paper = ["cat FID ↓", "cat SSIM (global) ↑", "cat FID-768 ↓"]
    assert headings(one_table(cell(numbers={**both, "ssim": 0.5}))) == paper  # the paper's alone


def test_metrics_of_one_title_have_their_keys(monkeypatch):
    monkeypatch.setitem(TITLES, "ssim", "SSIM (global)")
    table = one_table(cell(numbers={"ssim": 0.5}), metrics=["ssim_global", "ssim"])
    assert [column.title for column in table.columns] == ["SSIM (global) (ssim_global)", "SSIM (global) (ssim)"]


def test_a_table_needs_no_plug_in_and_no_torch(tmp_path, python):
    """A store with a metric that is not installed here, read in a process of its own."""
    for seed in (0, 1):
        folder = tmp_path / f"sga-cat-seed{seed}"
        folder.mkdir()
        record = made("SGA", "cat", seed, [measurement({"fid": 30.0 + seed, "mine": 0.5})])
        (folder / "cell.json").write_text(record_text(record))
    code = "import sys; from attnbench.store.frame import results; from attnbench.tables.compile import tables, render_table\n"
    code += f"(table,) = tables(results({str(tmp_path)!r})); print(render_table(table, 'md'))\n"
    code += "sys.exit('torch' in sys.modules)"
    lines = python("-c", code).stdout.splitlines()
    assert [part.strip() for part in lines[0].strip("|").split("|")] == ["", "cat FID ↓", "cat Mine ↑"]
    assert [part.strip() for part in lines[2].strip("|").split("|")] == ["SGA", "30.50 ± 0.71", "0.500 ± 0.000"]


def test_numbers_from_small_copies_of_the_pictures_say_so():
    lossy = number("ssim", 0.5, source="small pictures")
    table = one_table(cell("SGA", numbers={"ssim": lossy}), cell("SCFT", numbers={"ssim": 0.6}), metrics=["ssim", "fid"])
    assert texts(table) == {"SCFT": ["0.600", "30.00"], "SGA": ["0.500 [1]", "30.00"]}
    assert "[1] measured from small (lossy) copies of the pictures" in table.notes


def test_protocols_of_one_name_on_different_test_images_are_told_apart():
    table = one_table(cell("SGA", test="abcdef1"), cell("SCFT", test="123456f", images=100), metrics=["fid"])
    assert headings(table) == ["cat, test images abcdef FID ↓", "cat, test images 123456 FID ↓"]
    assert texts(table) == {"SCFT": ["- [1]", "30.00"], "SGA": ["30.00", "- [1]"]}
    assert "test images: cat, test images abcdef 500, cat, test images 123456 100;" in table.caption


def test_limits_stand_in_the_heading_and_are_not_mixed():
    table = one_table(cell(), cell(fid=50.0, protocol=Protocol(limit=50)), metrics=["fid"])
    assert headings(table) == ["cat FID ↓", "cat, first 50 pairs FID ↓"]


def test_a_cell_measured_twice_counts_once_in_costs():
    costs = {"device": "cpu", "images_per_second": 10.0, "module_parameters": 1e6}
    twice = [cell(**costs), cell(protocol=SAME, **costs)]
    table = one_table(*twice, cell(seed=1, **{**costs, "images_per_second": 40.0}), metrics=["fid"], costs=True)
    speed = [column.heading.title for column in table.columns].index("images/s")
    assert table.rows["SGA"][speed].text == "25.0"


def test_a_cell_measured_twice_counts_once_in_the_status(tmp_path):
    records = {
        "sga": made(measurements=[measurement({"fid": 1.0}), measurement({"fid": 2.0}, SAME, folder="measured/same")]),
        "scft": made("SCFT"),
        "cmft": made("CMFT", status="failed", failure={"message": "boom"}),
    }
    for name, record in records.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "cell.json").write_text(record_text(record))
    assert len(results(tmp_path)) == 4
    found = status_of(tmp_path)
    assert found.counts == {"cat": {"finished": 2, "failed": 1}}
    lines = {one.title: (one.remedy, list(one.lines)) for one in found.troubles}
    assert lines["not measured"] == (f"`attnbench measure {tmp_path}` measures them", ["SCFT on cat, seed 0 (scft)"])
    assert lines["failed"][1] == ["CMFT on cat, seed 0: boom (cmft)"]


def test_pictures_made_elsewhere_come_last_and_say_so():
    ours = cell("SGA", test="theirs", device="cpu", images_per_second=3.0)
    table = one_table(foreign(test="theirs"), ours, costs=True, with_published=True)
    assert list(table.rows) == ["SGA", "MangaNinja (not trained here)"]
    found = texts(table)["MangaNinja (not trained here)"]
    assert found[:2] == ["28.00", "0.900"]
    assert set(found[2:]) == {"-"}  # costs
    assert ranks(table)["MangaNinja (not trained here)"][:2] == [0, 0]
    assert "MangaNinja: not trained here (v1.0, 50 steps, made at 512 px; pictures 1a2b3c4d)." in table.notes
    assert table.caption.startswith("Recipe: official (01234567); test images: cat 500; seed 0")


def test_pictures_made_elsewhere_join_every_recipe_that_measured_the_same_images_at_their_size():
    two = [cell("SGA", test="theirs"), cell("SGA", test="theirs", recipe="mine", recipe_digest="f" * 16)]
    others = [cell("SCFT", test="theirs", size=64, recipe_digest="e" * 16), foreign("Other", test="elsewhere", digest="77")]
    found = [list(table.rows) for table in tables(framed([*two, foreign(test="theirs"), *others]))]
    theirs = "MangaNinja (not trained here)"
    assert found == [["SGA", theirs], ["SGA", theirs], ["SCFT"], ["Other (not trained here)"]]
    alone = tables(framed([foreign(test="elsewhere")]))[0]
    assert alone.caption == "Not trained here: pictures of 256 px; test images: cat 500; seed 0."
    assert [list(table.rows) for table in tables(framed([*two, foreign()]), grid=load_grid("ablation"))] == [
        [row for row in table.rows if "not trained" not in row] for table in tables(framed(two), grid=load_grid("ablation"))
    ]


def test_pictures_of_one_name_that_differ_are_two_rows():
    table = one_table(foreign(digest="aaaaaaaa"), foreign(digest="bbbbbbbb"), foreign("Other", digest="cc"), metrics=["fid"])
    assert list(table.rows) == [
        "MangaNinja (not trained here) [aaaaaaaa]",
        "MangaNinja (not trained here) [bbbbbbbb]",
        "Other (not trained here)",
    ]


def test_a_methods_pictures_of_several_protocols_are_one_row_and_those_of_one_protocol_are_not():
    cross, same, again = (
        foreign(digest=digest, protocol=one) for digest, one in (("aaaaaaaa", USUAL), ("bbbbbbbb", SAME), ("cccccccc", SAME))
    )
    table = one_table(cross, same, metrics=["fid"])
    assert texts(table) == {"MangaNinja (not trained here)": ["28.00", "28.00"]}
    assert "MangaNinja: not trained here (v1.0, 50 steps, made at 512 px; pictures aaaaaaaa, bbbbbbbb)." in table.notes
    assert texts(one_table(cross, same, again, metrics=["fid"])) == {
        "MangaNinja (not trained here) [aaaaaaaa bbbbbbbb]": ["28.00", "28.00"],
        "MangaNinja (not trained here) [cccccccc]": ["-", "28.00"],
    }


def test_what_is_said_of_a_methods_pictures_on_several_datasets_is_said_once():
    rows = [foreign(dataset=name, digest=digest) for name, digest in (("cat", "aaaaaaaa"), ("dog", "bbbbbbbb"))]
    table = one_table(*rows, metrics=["fid"])
    assert list(table.rows) == ["MangaNinja (not trained here)"]
    assert "MangaNinja: not trained here (v1.0, 50 steps, made at 512 px; pictures aaaaaaaa, bbbbbbbb)." in table.notes
    other = {**foreign(dataset="wild", digest="cccccccc"), "elsewhere": "v2.0"}
    said = (
        "MangaNinja: not trained here (v1.0, 50 steps, made at 512 px; pictures aaaaaaaa, bbbbbbbb; v2.0; pictures cccccccc)."
    )
    assert said in one_table(*rows, other, metrics=["fid"]).notes


def test_datasets_are_ordered_by_name_and_protocols_with_the_usual_one_first():
    frame = [cell("SGA", name, protocol=one) for name in ("synthetic-2", "synthetic", "cat") for one in (SAME, USUAL)]
    shown = dict.fromkeys(column.setting.text for column in one_table(*frame).columns)
    assert list(shown) == [name + more for name in ("cat", "synthetic", "synthetic-2") for more in ("", ", same")]


def test_scores_are_read_from_the_measurements_own_file(tmp_path):
    rows = [
        scored(tmp_path, "SGA", measured="measured/cross-1a2b3c"),
        scored(tmp_path, "SGA", protocol=SAME, measured="measured/same-1a2b3c", shift=0.1),
    ]
    table = one_table(*rows, metrics=["ssim_global"], store=tmp_path)
    usual, same = (entry.spread for entry in table.rows["SGA"])
    assert float(usual.strip("[]").split(",")[0]) + 0.1 == pytest.approx(float(same.strip("[]").split(",")[0]), abs=0.002)


def test_scores_of_old_files_have_names_without_options(tmp_path):
    row = scored(tmp_path, "SGA")
    file = tmp_path / row["folder"] / "pairs.csv"
    file.write_text(file.read_text().replace("ssim_global", "mine"))
    kept = {"ssim_global": np.nan, "mine:size=3": row["ssim_global"], "metrics": '["mine:size=3"]'}
    frame = pd.DataFrame([{**row, **kept}])
    frame.attrs["metrics"] = {"mine:size=3": described("mine").model_dump()}
    (table,) = tables(frame, store=tmp_path)
    assert table.rows["SGA"][0].spread.startswith("[")


def write_old_cell(store, label="SGA", seed=0, **numbers):
    """A cell of format 1, in which evaluation was a part of the cell."""
    network = "31b69c56" * 8
    fid = {
        "value": 66.0 + seed,
        "n": 400,
        "floor": 0.34,
        "n_floor": 400,
        "dims": 192,
        "real_size": "native",
        "weights": network,
    }
    evaluation = {"metrics": ["fid", "ssim", "lpips"], "fid_dims": 192, "lpips_network": "squeeze", "pairing": "derangement"}
    metrics = {"fid": fid, "ssim": {"value": 0.5}, "lpips": {"value": 0.3, "network": "squeeze", "weights": network}}
    made_now = json.loads(record_text(made(label, "cat", seed)))
    record = {
        **{name: value for name, value in made_now.items() if name != "measurements"},
        "format": 1,
        "identity": f"{label} {seed}",
        "dataset": {"name": "cat", "fingerprint": "f" * 64, "train": 100, "test": 400},
        "recipe": {"name": "small", "digest": "d" * 64, "values": {"data": {"size": 48}, "evaluation": evaluation}},
        "metrics": {**metrics, **numbers},
    }
    folder = store / f"{label.lower()}-cat-seed{seed}"
    folder.mkdir()
    (folder / "cell.json").write_text(json.dumps(record))
    (folder / "pairs.csv").write_text("sketch,reference,ssim,lpips\na.png,b.png,0.4,0.2\nb.png,a.png,0.6,0.4\n")


def test_a_store_of_the_old_format_gives_its_table(tmp_path):
    """Parts of the protocol then are options of metrics now, and columns of pairs.csv had names without them."""
    write_old_cell(tmp_path)
    write_old_cell(tmp_path, "SCFT", lpips={"value": None, "reason": "no network", "missing": "lpips-squeeze"})
    (table,) = tables(results(tmp_path), store=tmp_path)
    assert headings(table) == ["cat FID-192 ↓"]  # of these three, the paper has the first alone
    (table,) = tables(results(tmp_path), metrics=["fid", "ssim", "lpips"], store=tmp_path)
    assert headings(table) == ["cat FID-192 ↓", "cat SSIM (windowed) ↑", "cat LPIPS-squeeze ↓"]
    assert texts(table)["SGA"][0] == "66.00"
    assert texts(table)["SGA"][1].startswith("0.500 [0.400, 0.600]")
    assert texts(table)["SGA"][2].startswith("0.300 [0.200, 0.400]")
    assert "FID-192: weights inception 31b69c56; N = cat 400 generated images; floor" in " ".join(table.notes)
    assert "test images: cat 400; seed 0; LPIPS-squeeze: weights lpips-squeeze 31b69c56." in table.caption


EARLIER = ["fid", "ssim_global", "ssim", "lpips"]


@pytest.mark.parametrize(
    ("name", "metrics"),
    [
        ("seeds", EARLIER),
        ("small", EARLIER),
        ("variants", EARLIER),
        ("right-answers", ["match", "bleed", "ciede2000"]),
        ("right-answers", ["fid:dims=192:real_size=target", "ssim_global"]),
        ("real", ["pck", "pck:alpha=0.05", "pck:at=mean"]),
        ("real", ["psnr", "ssim_global"]),
        ("real", ["outline", "palette", "style", "lpips:network=squeeze:against=reference"]),
    ],
)
def test_committed_results_give_the_tables_beside_them(name, metrics):
    root = Path(__file__).parents[1] / "results"
    (table,) = tables(results(root / name), metrics=metrics, store=root / name)
    written = (root / f"{name}.md").read_text()
    lines = [line for line in render_table(table, "md").splitlines() if line.startswith("| S")]
    for line in lines:
        label, *entries = (part.strip() for part in line.strip("|").split("|"))
        rows = [other for other in written.splitlines() if other.startswith(f"| {label} ")]
        values = [entry.replace("*", "").split(" ")[0].replace("<u>", "").replace("</u>", "") for entry in entries]
        assert any(all(value in row for value in values) for row in rows), (label, values)


def test_markdown_marks_best_and_second():
    text = render_table(one_table(cell("SCFT", fid=40), cell("SGA", fid=30)), "md")
    assert "**30.00**" in text
    assert "<u>40.00</u>" in text
    assert text.splitlines()[0].count("|") == 4


def scored(store, label, seed=0, shift=0.0, count=60, **changes):
    """A cell with scores of its test pairs: the same for every module, plus `shift` and a little noise."""
    images = np.random.default_rng(0).normal(0.7, 0.1, count)
    scores = images + shift + np.random.default_rng(len(label) + 10 * seed).normal(0, 0.01, count)
    pairs = pd.DataFrame({"sketch": [f"{i}.png" for i in range(count)], "reference": "r.png", "ssim_global": scores})
    row = cell(label, seed=seed, ssim=scores.mean(), **changes)
    folder = store / row["folder"] / row["measured"]
    folder.mkdir(parents=True)
    pairs.sample(frac=1, random_state=seed).to_csv(folder / "pairs.csv", index=False)  # in random order
    return row


def test_one_seed_has_a_bootstrap_interval_over_its_test_pairs_where_they_are_known(tmp_path):
    table = one_table(scored(tmp_path, "SGA"), cell("SCFT"), metrics=["ssim_global"], store=tmp_path)
    scores = pd.read_csv(tmp_path / "SGA-cat-0" / "pairs.csv")["ssim_global"]
    low, high = map(float, table.rows["SGA"][0].spread.strip("[]").split(","))
    half = 1.96 * scores.std() / len(scores) ** 0.5
    assert [low, high] == pytest.approx([scores.mean() - half, scores.mean() + half], abs=0.003)
    assert table.rows["SCFT"][0].spread == ""
    assert any("bootstrap interval" in note for note in table.notes)


def test_scores_that_are_not_those_of_the_number_are_left_out_with_a_warning(tmp_path, warned):
    row = scored(tmp_path, "SGA")
    file = tmp_path / row["folder"] / "pairs.csv"
    file.write_text("\n".join(file.read_text().splitlines()[:31]))
    table = one_table(row, metrics=["ssim_global"], store=tmp_path)
    assert table.rows["SGA"][0].spread == ""
    assert warned() == [
        f"{row['folder']}/pairs.csv does not agree with cell.json on ssim_global: left out; `attnbench measure --again` writes "
        "it anew"
    ]


@pytest.mark.parametrize("score", ["oops", "inf", "-1e999", None])
def test_a_pairs_file_that_is_damaged_gives_no_interval(tmp_path, score):
    row = scored(tmp_path, "SGA")
    assert one_table(row, store=tmp_path).rows["SGA"][1].spread != ""
    file = tmp_path / row["folder"] / "pairs.csv"
    pairs = pd.read_csv(file, dtype=str)
    pairs.loc[3, "ssim_global"] = score
    file.write_text("" if score is None else pairs.to_csv(index=False))
    assert one_table(row, store=tmp_path).rows["SGA"][1].spread == ""


def test_entries_that_do_not_differ_from_the_best_over_images_are_marked(tmp_path):
    rows = [
        scored(tmp_path, "Best", shift=0.1),
        scored(tmp_path, "Alike", shift=0.0999),
        scored(tmp_path, "Worse"),
        cell("No pairs"),
    ]
    table = one_table(*rows, metrics=["ssim_global"], store=tmp_path, significance=True)
    marked = {label for label, (entry,) in table.rows.items() if "†" in entry.marks}
    assert marked == {"Alike"}
    assert any("no scores of pairs" in note for note in table.notes)


def test_over_common_seeds_the_mark_follows_the_paired_t_test():
    best, alike, worse = [30.0, 31.0, 32.0], [30.5, 30.8, 32.4], [35.1, 36.0, 36.9]
    rows = [
        cell(label, seed=seed, fid=fid)
        for label, fids in (("Best", best), ("Alike", alike), ("Worse", worse))
        for seed, fid in enumerate(fids)
    ]
    table = one_table(*rows, cell("One seed", fid=50.0), metrics=["fid"], significance=True)
    assert {label for label, (entry,) in table.rows.items() if "†" in entry.marks} == {"Alike"}
    assert any(note.startswith("†") for note in table.notes)
    assert r"\textsuperscript{\dag{}}" in render_table(table, "latex")


def test_costs_are_means_over_cells_of_one_device_and_never_over_two():
    costs = {"module_parameters": 3.94e6, "generator_parameters": 40e6, "generator_gflop": 60.0, "step_gflop": 193.6}

    def measured(device, speed, memory):
        return {"device": device, "images_per_second": speed, "peak_memory_bytes": memory, **costs}

    table = one_table(
        cell("SGA", **measured("H200", 100.0, 8e9)),
        cell("SGA", seed=1, **measured("H200", 120.0, 8e9)),
        cell("SCFT", **measured("cpu", 2.0, 4e9)),
        metrics=["fid"],
        costs=True,
    )
    assert [column.heading.text for column in table.columns[1:]] == [
        "costs module (M)", "costs generator (M)", "costs GFLOP", "costs GFLOP (step)",
        "H200 images/s", "H200 peak (GB)", "cpu images/s", "cpu peak (GB)",
    ]  # fmt: skip
    assert texts(table)["SGA"][1:] == ["3.94", "40.00", "60.00", "193.60", "110.0", "8.00", "-", "-"]
    assert texts(table)["SCFT"][5:] == ["-", "-", "2.0", "4.00"]
    assert any("on H200, and separately on cpu" in note for note in table.notes)


def test_speeds_of_cells_that_shared_their_device_stand_apart_from_those_of_cells_alone():
    def on_h200(speed, **more):
        return {"device": "H200", "images_per_second": speed, **more}

    table = one_table(
        cell("SGA", **on_h200(100.0)),
        cell("SGA", seed=1, **on_h200(60.0, cells_on_device=2)),
        cell("SCFT", **on_h200(30.0, cells_on_device=5)),
        metrics=["fid"],
        costs=True,
    )
    speeds = [column.heading.text for column in table.columns if "images/s" in column.heading.text]
    assert speeds == ["H200 images/s", "H200, 2 cells at a time images/s", "H200, 5 cells at a time images/s"]
    places = [i for i, column in enumerate(table.columns) if column.heading.text in speeds]
    assert [texts(table)["SGA"][i] for i in places] == ["100.0", "60.0", "-"]
    assert [texts(table)["SCFT"][i] for i in places] == ["-", "-", "30.0"]


@pytest.mark.parametrize(("width", "blocks"), [(80, 4), (200, 1)])
def test_a_terminal_that_is_too_narrow_gets_a_table_a_dataset(width, blocks):
    datasets = ["anime", "cat", "dog", "wild"]
    table = one_table(*(cell("A module of mine", dataset, seed) for dataset in datasets for seed in (0, 1)))
    console = Console(width=width, record=True, file=io.StringIO())
    show(table.sheet, console)
    text = console.export_text()
    assert text.count("A module of mine") == blocks
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text


def test_numbers_in_a_terminals_column_are_aligned():
    table = one_table(cell("SCFT", fid=5.0), cell("SGA", fid=30.0, stale="sga.py"), with_published=True)
    console = Console(width=100, record=True, file=io.StringIO())
    show(table.sheet, console)
    lines = [line for line in console.export_text().splitlines() if line.startswith(("SCFT", "SGA"))]
    assert len({line.index(".") for line in lines}) == 1


def test_ten_times_as_many_cells_take_no_longer_than_ten_times_as_long(seconds):
    """Measured: 2.2 times; if the frame were searched for every entry, it would be a hundred."""
    frame = framed(
        [cell(f"M{module}", dataset, seed) for module in range(10) for dataset in ("a", "b", "c", "d") for seed in range(250)]
    )
    tables(frame)
    assert seconds(lambda: tables(frame)) < 10 * seconds(lambda: tables(frame[frame["seed"] < 25]))


def test_html_escapes_what_people_wrote():
    text = render_table(one_table(cell("<script>")), "html")
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


def test_markdown_escapes_what_would_end_a_field():
    assert r"a\|b \* c" in render_table(one_table(cell("a|b * c")), "md")


def typeset(text, folder):
    """The output of pdflatex."""
    if shutil.which("pdflatex") is None:
        pytest.skip("needs LaTeX: pdflatex is not installed (only the text was checked)")
    document = r"\documentclass{article}\usepackage{booktabs}\begin{document}" + text + r"\end{document}"
    (folder / "table.tex").write_text(document)
    done = subprocess.run(["pdflatex", "-halt-on-error", "table.tex"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-1000:]
    return done.stdout


def test_latex_escapes_and_marks(tmp_path):
    text = render_table(one_table(cell("SCFT_1 & 2%", fid=40), cell("SGA", fid=30)), "latex")
    assert r"\textbf{30.00}" in text
    assert r"\underline{40.00}" in text
    assert r"SCFT\_1 \& 2\%" in text
    assert r"\toprule" in text
    assert r"$\downarrow$" in text
    typeset(text, tmp_path)


def test_greek_letters_of_a_metrics_title_are_latex_commands(tmp_path):
    labelled = render_table(one_table(cell("λ, μ, Ω")), "latex")
    assert r"$\lambda$, $\mu$, $\Omega$" in labelled
    root = Path(__file__).parents[1] / "results" / "right-answers"
    (table,) = tables(results(root), metrics=["ciede2000"], store=root)
    text = render_table(table, "latex")
    assert r"$\Delta$E00" in text
    assert "Δ" not in text
    typeset(text, tmp_path)


def test_the_papers_eight_columns_with_all_that_can_stand_in_them_fit_a_page(tmp_path):
    rows = [
        cell(label, dataset, seed, fid=30 + seed, stale="sga.py")
        for label in ("CoCosNet", "SGA")
        for dataset in ("anime", "cat", "dog", "wild")
        for seed in range(3)
    ]
    text = render_table(one_table(*rows, with_published=True, significance=True), "latex")
    assert text.count(r"\begin{table}") == 1
    assert r"$-$4.35" in render_table(one_table(cell(), with_published=True), "latex")
    assert r"\scriptsize (34.35) \\ \scriptsize $-$3.35\end" in text
    assert "Overfull" not in typeset(text, tmp_path)


def test_what_is_wider_than_a_page_becomes_several_latex_tables(tmp_path):
    metrics = ["fid", "kid", "ssim_global", "ssim"]
    rows = [
        cell(label, dataset, numbers={"kid": 0.1, "ssim": 0.5})
        for label in ("SCFT", "SGA")
        for dataset in ("anime", "cat", "dog", "wild")
    ]
    text = render_table(one_table(*rows, metrics=metrics), "latex")
    assert text.count(r"\begin{table}") == 2
    assert "Overfull" not in typeset(text, tmp_path)


def test_unknown_format_is_refused():
    with pytest.raises(UserError, match="did you mean 'latex'"):
        render_table(one_table(cell()), "latx")
