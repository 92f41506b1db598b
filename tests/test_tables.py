"""Tables from a store: what stands where, what is marked, and what never meets."""

import json
import shutil
import subprocess

import pandas as pd
import pytest

from attnbench.errors import UserError
from attnbench.tables import published, render, tables


def cell(label="SGA", dataset="cat", seed=0, fid=30.0, ssim=0.8, **changes):
    """A row of the frame that `attnbench.results` gives."""
    row = {
        "folder": f"{label}-{dataset}-{seed}",
        "status": "finished",
        "label": label,
        "module": label.lower().split(" ")[0],
        "options": "{}",
        "dataset": dataset,
        "fingerprint": f"images-of-{dataset}",
        "test_images": 500,
        "seed": seed,
        "recipe": "official",
        "recipe_digest": "0123456789abcdef",
        "recipe_metrics": "fid,ssim_global",
        "train_weights": "{}",
        "package": "attnbench",
        "version": "0.1.0",
        "failure": None,
        "fid": fid,
        "fid.dims": 2048.0,
        "fid.weights": "feedfacecafe",
        "fid.floor": 5.0,
        "fid.n_floor": 500.0,
        "ssim_global": ssim,
    }
    row |= changes
    return {"all_options": row["options"], **row}


def one_table(*cells, **options):
    (table,) = tables(pd.DataFrame(list(cells)), **options)
    return table


def texts(table):
    return {label: [entry.text for entry in entries] for label, entries in table.rows.items()}


def ranks(table):
    return {label: [entry.rank for entry in entries] for label, entries in table.rows.items()}


def test_rows_are_modules_and_columns_are_metrics_of_datasets():
    table = one_table(cell("SCFT", "anime"), cell("SCFT", "cat", fid=36.333), cell("SGA", "anime"), cell("SGA", "cat"))
    assert [(c.dataset, c.title) for c in table.columns] == [
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


def test_fid_at_another_width_has_another_title():
    table = one_table(cell(fid=1.44304, **{"fid.dims": 768.0}))
    assert table.columns[0].title == "FID-768"
    assert texts(table)["SGA"][0] == "1.4430"  # such distances are small


def test_numbers_from_different_networks_never_share_a_column():
    table = one_table(cell("SGA"), cell("SCFT", **{"fid.weights": "other-weights"}))
    fid = [column for column in table.columns if column.metric == "fid"]
    assert [column.title for column in fid] == ["FID [feedfa]", "FID [other-]"]
    assert texts(table)["SGA"][:2] == ["30.00", "-"]
    assert texts(table)["SCFT"][:2] == ["-", "30.00"]


def test_cells_of_different_recipes_never_share_a_table():
    frame = pd.DataFrame([cell("SGA"), cell("SCFT", recipe="mine", recipe_digest="f" * 16)])
    assert [list(table.rows) for table in tables(frame)] == [["SGA"], ["SCFT"]]


def test_datasets_of_one_name_with_different_images_are_told_apart():
    table = one_table(cell("SGA"), cell("SCFT", fingerprint="another"))
    assert {column.dataset for column in table.columns} == {"cat [images]", "cat [anothe]"}


def test_a_metric_without_its_network_is_a_dash_with_the_reason():
    table = one_table(
        cell("SGA", fid=None, **{"fid.reason": "weights 'inception' are missing", "fid.dims": None, "fid.weights": None}),
        cell("SCFT", fid=None, **{"fid.reason": "weights 'inception' are missing", "fid.dims": None, "fid.weights": None}),
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
    assert [texts(table)[label][0] for label in "ABC"] == ["failed [1]", "diverged [2]", "-"]
    assert "[1] A-cat-0: RuntimeError: boom" in table.notes
    assert "[2] B-cat-0: diverged at step 7" in table.notes
    assert "Not finished: C-cat-0." in table.notes


def test_the_floor_the_count_and_the_weights_stand_with_every_fid():
    table = one_table(cell("SGA", "cat"), cell("SGA", "anime", **{"fid.floor": 7.0, "fid.n_floor": 400.0}))
    assert any("cat 5.00 (500 images), anime 7.00 (400 images)" in note for note in table.notes)
    assert "feedface" in table.caption
    assert "test images: " in table.caption


def test_published_numbers_stand_behind_ours_where_the_quantity_is_the_same():
    variant = cell("SGA w/o stop-gradient", module="sga", options='{"stop_gradient": false}')
    table = one_table(cell("SGA"), variant, cell("Mine"), with_published=True)
    assert texts(table)["SGA"] == ["30.00 (34.35)", "0.800 (0.843)"]
    assert texts(table)["SGA w/o stop-gradient"] == ["30.00 (40.73)", "0.800 (0.796)"]
    assert texts(table)["Mine"] == ["30.00", "0.800"]
    assert any("2207.06095" in note for note in table.notes)


def test_published_fid_is_not_put_beside_fid_at_another_width():
    table = one_table(cell(**{"fid.dims": 768.0}), with_published=True)
    assert texts(table)["SGA"] == ["30.0000", "0.800 (0.843)"]


def test_published_table_gives_the_papers_mean_gains():
    """Mean relative gain of SGA over SCFT over the four datasets: 27.2 % in FID, 25.7 % in SSIM."""
    paper = published().query("table == 2").set_index(["module", "dataset", "metric"])["value"]
    for metric, gain in (("fid", 0.272), ("ssim_global", 0.257)):
        sga, scft = paper.loc["sga", :, metric], paper.loc["scft", :, metric]
        assert ((sga - scft).abs() / scft).mean() == pytest.approx(gain, abs=5e-4)


def test_published_has_every_number_of_the_three_tables():
    counts = published().groupby("table").size()
    assert counts.to_dict() == {1: 8, 2: 48, 3: 32}


def test_metrics_can_be_chosen():
    table = one_table(cell(kid=0.0123, **{"kid.dims": 2048.0, "kid.weights": "feedfacecafe"}), metrics=["kid"])
    assert texts(table) == {"SGA": ["0.0123"]}
    with pytest.raises(UserError, match="did you mean 'lpips'"):
        one_table(cell(), metrics=["lpip"])


def test_the_best_epoch_needs_cells_that_measured_every_epoch():
    with pytest.raises(UserError, match="each_epoch"):
        one_table(cell(), epoch="best")
    best = {"best.fid": 25.0, "best.fid.dims": 2048.0, "best.fid.weights": "feedfacecafe", "best.ssim_global": 0.7}
    table = one_table(cell(**best), epoch="best")
    assert texts(table) == {"SGA": ["25.00", "0.700"]}
    assert "lowest FID" in table.caption


def test_markdown_marks_best_and_second():
    text = render(one_table(cell("SCFT", fid=40), cell("SGA", fid=30)), "md")
    assert "**30.00**" in text
    assert "<u>40.00</u>" in text
    assert text.splitlines()[0].count("|") == 4


def test_html_escapes_what_people_wrote():
    text = render(one_table(cell("<script>")), "html")
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


def test_latex_escapes_and_marks(tmp_path):
    text = render(one_table(cell("SCFT_1 & 2%", fid=40), cell("SGA", fid=30)), "latex")
    assert r"\textbf{30.00}" in text
    assert r"\underline{40.00}" in text
    assert r"SCFT\_1 \& 2\%" in text
    assert r"\toprule" in text
    assert r"$\downarrow$" in text
    if shutil.which("pdflatex") is None:
        pytest.skip("needs LaTeX: pdflatex is not installed (the text was checked)")
    document = r"\documentclass{article}\usepackage{booktabs}\begin{document}" + text + r"\end{document}"
    (tmp_path / "table.tex").write_text(document)
    done = subprocess.run(
        ["pdflatex", "-halt-on-error", "table.tex"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-1000:]


def test_unknown_format_is_refused():
    with pytest.raises(UserError, match="did you mean 'latex'"):
        render(one_table(cell()), "latx")


def test_options_are_stored_as_json_that_published_options_match():
    assert all(isinstance(json.loads(options), dict) for options in published()["options"])
