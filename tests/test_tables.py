"""Tables from a store: rows and columns, marks, and numbers that never share a column."""

import io
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from attnbench.errors import UserError
from attnbench.tables.compile import for_pandas, render_table, tables
from attnbench.tables.formats import show
from attnbench.tables.published import published


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
        "train_weights": "",
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
    assert "mean ± standard deviation over n = 3 seeds, unless the entry gives another n." in table.notes


def test_an_entry_with_another_number_of_seeds_than_most_says_so():
    cells = [cell(label, seed=seed, fid=30 + seed) for label in ("SCFT", "SGA") for seed in range(3)]
    table = one_table(*cells, cell("CMFT", fid=31), cell("UNITE", fid=30), cell("UNITE", seed=1, fid=32))
    assert [texts(table)[label][0] for label in ("SGA", "UNITE", "CMFT")] == ["31.00 ± 1.00", "31.00 ± 1.41 n=2", "31.00 n=1"]


def test_many_seeds_are_named_by_the_first_and_the_last():
    assert "seeds 0-9." in one_table(*(cell(seed=seed) for seed in range(10))).caption


def test_a_cell_that_is_in_two_folders_of_a_store_counts_once():
    again = cell(folder="copy/SGA-cat-0", status="interrupted", fid=None, ssim=None, identity="a")
    table = one_table(again, cell(identity="a"), cell(seed=1, fid=32, identity="b"))
    assert texts(table)["SGA"][0] == "31.00 ± 1.41"


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


def test_datasets_of_one_name_with_different_images_are_distinguished():
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
    assert any("cat 5.00 (500 images), anime 7.00 (400 images)" in note for note in table.notes)
    assert "test images: " in table.caption
    for style in ("md", "latex", "html"):
        assert "FID: weights inception feedface; N = cat 500, anime 500 generated images; floor" in render_table(table, style)


def test_each_datasets_fid_stands_with_its_own_weights():
    table = one_table(cell("SGA", "cat"), cell("SGA", "anime", **{"fid.weights": "another"}))
    cat, anime = [note for note in table.notes if "weights inception" in note]
    assert "feedface; N = cat 500" in cat
    assert "another; N = anime 500" in anime


def test_csv_has_the_floor_the_count_and_the_weights_with_their_name():
    frame = for_pandas(pd.DataFrame([cell("SGA"), cell("SCFT", fid=None, **{"fid.weights": None})]), with_published=True)
    row = frame.set_index("label").loc["SGA"]
    assert (row["fid.network"], row["fid.weights"], row["fid.floor"], row["fid.n_floor"]) == (
        "inception",
        "feedfacecafe",
        5,
        500,
    )
    assert row["fid.published"] == 34.35
    assert row["fid.difference"] == pytest.approx(-4.35)
    assert frame["fid.network"].isna().tolist() == [False, True]


def test_published_numbers_stand_behind_ours_where_the_quantity_is_the_same():
    variant = cell("SGA w/o stop-gradient", module="sga", options='{"stop_gradient": false}')
    table = one_table(cell("SGA"), variant, cell("Mine"), with_published=True)
    assert texts(table)["SGA"] == ["30.00 (34.35, -4.35)", "0.800 (0.843, -0.043)"]
    assert texts(table)["SGA w/o stop-gradient"] == ["30.00 (40.73, -10.73)", "0.800 (0.796, +0.004)"]
    assert texts(table)["Mine"] == ["30.00", "0.800"]
    assert any("2207.06095" in note for note in table.notes)


def test_published_fid_is_not_put_beside_fid_at_another_width():
    table = one_table(cell(**{"fid.dims": 768.0}), with_published=True)
    assert texts(table)["SGA"] == ["30.0000", "0.800 (0.843, -0.043)"]


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
    (store / row["folder"]).mkdir(parents=True)
    pairs.sample(frac=1, random_state=seed).to_csv(store / row["folder"] / "pairs.csv", index=False)  # in random order
    return row


def test_one_seed_has_a_bootstrap_interval_over_its_test_pairs_where_they_are_known(tmp_path):
    table = one_table(scored(tmp_path, "SGA"), cell("SCFT"), metrics=["ssim_global"], store=tmp_path)
    scores = pd.read_csv(tmp_path / "SGA-cat-0" / "pairs.csv")["ssim_global"]
    low, high = map(float, table.rows["SGA"][0].spread.strip("[]").split(","))
    half = 1.96 * scores.std() / len(scores) ** 0.5
    assert [low, high] == pytest.approx([scores.mean() - half, scores.mean() + half], abs=0.003)
    assert table.rows["SCFT"][0].spread == ""
    assert any("bootstrap interval" in note for note in table.notes)


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
    frame = pd.DataFrame(
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
    rows = [cell(label, dataset, kid=0.1, ssim=0.5) for label in ("SCFT", "SGA") for dataset in ("anime", "cat", "dog", "wild")]
    text = render_table(one_table(*rows, metrics=metrics), "latex")
    assert text.count(r"\begin{table}") == 2
    assert "Overfull" not in typeset(text, tmp_path)


def test_unknown_format_is_refused():
    with pytest.raises(UserError, match="did you mean 'latex'"):
        render_table(one_table(cell()), "latx")
