"""Comparison of two modules: the pairing, what is refused, and the two percentages in the paper's text."""

import io

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from runs import attnbench
from test_tables import SAME, cell, described, foreign, framed, scored, typeset

from attnbench.errors import UserError
from attnbench.tables.comparison import as_frame, comparisons, published_improvements, sheet
from attnbench.tables.formats import written
from attnbench.tables.published import published
from attnbench.tables.rows import Row

FIDS = {"SGA": [30.0, 31.0, 29.5], "SCFT": [33.0, 33.5, 33.1]}


def compared(rows, a="sga", b="scft", **options):
    return as_frame(comparisons(framed(rows), a, b, **options))


def seeds(dataset="cat", **changes):
    return [cell(label, dataset, seed, fid=fid, **changes) for label, fids in FIDS.items() for seed, fid in enumerate(fids)]


def with_pairs(store, count=60, shift=0.05, seeds=(0,)):
    """SGA better than SCFT by `shift` on every pair, up to noise."""
    return [scored(store, label, seed, by, count) for label, by in (("SGA", shift), ("SCFT", 0.0)) for seed in seeds]


def scores(store, label, seed=0):
    return pd.read_csv(store / f"{label}-cat-{seed}" / "pairs.csv").sort_values("sketch")["ssim_global"].to_numpy()


def test_over_common_seeds_it_is_the_paired_t_test():
    frame = compared([*seeds(), cell("SGA", seed=7, fid=99.0)], metrics=["fid"])
    (row,) = frame.to_dict("records")
    theirs = scipy.stats.ttest_rel(FIDS["SGA"], FIDS["SCFT"])
    interval = theirs.confidence_interval()
    assert (row["unit"], row["n"], row["seeds"]) == ("seeds", 3, "0,1,2")  # the seed that SCFT lacks is left out
    assert [row["a"], row["b"]] == pytest.approx([np.mean(FIDS["SGA"]), np.mean(FIDS["SCFT"])])
    assert [row["p"], row["low"], row["high"]] == pytest.approx([theirs.pvalue, interval.low, interval.high])
    assert (row["better"], row["improvement"]) == ("SGA", pytest.approx((row["b"] - row["a"]) / row["b"]))


def test_with_one_seed_images_are_the_unit_and_pairs_are_matched_by_name(tmp_path):
    frame = compared(with_pairs(tmp_path), metrics=["ssim_global"], store=tmp_path)
    (row,) = frame.to_dict("records")
    differences = scores(tmp_path, "SGA") - scores(tmp_path, "SCFT")
    half = 1.96 * differences.std(ddof=1) / 60**0.5
    assert (row["unit"], row["n"]) == ("images", 60)
    assert row["difference"] == pytest.approx(differences.mean())
    assert [row["low"], row["high"]] == pytest.approx([differences.mean() - half, differences.mean() + half], abs=5e-4)
    assert row["p"] == pytest.approx(1e-4)


def test_with_several_seeds_both_units_are_there_and_image_scores_are_averaged(tmp_path):
    frame = compared(with_pairs(tmp_path, seeds=(0, 1)), metrics=["ssim_global"], store=tmp_path).set_index("unit")
    both = sum(scores(tmp_path, "SGA", seed) - scores(tmp_path, "SCFT", seed) for seed in (0, 1)) / 2
    assert frame["n"].to_dict() == {"seeds": 2, "images": 60}
    assert frame.loc["images", "difference"] == pytest.approx(both.mean())
    assert frame.loc["seeds", "difference"] == pytest.approx(both.mean())
    assert frame.loc["images", "high"] - frame.loc["images", "low"] == pytest.approx(3.92 * both.std() / 60**0.5, rel=0.1)


def test_what_chance_gives_is_said_once_whatever_the_units(tmp_path):
    rows = [row | {"ssim_global.chance": 0.25} for row in with_pairs(tmp_path, seeds=(0, 1))]
    (one,) = comparisons(framed(rows), "sga", "scft", metrics=["ssim_global"], store=tmp_path)
    assert len(one.found) == 2
    notes = [note for note in sheet(one).notes if "chance, " in note]
    assert notes == ["SSIM (global): chance, without a look at the reference: cat 0.250."]


def test_pairs_that_only_one_of_them_coloured_are_left_out(tmp_path):
    rows = with_pairs(tmp_path)
    file = tmp_path / "SGA-cat-0" / "pairs.csv"
    file.write_text("\n".join(file.read_text().splitlines()[:41]))
    (sga,) = [row for row in rows if row["label"] == "SGA"]
    sga["ssim_global"] = pd.read_csv(file)["ssim_global"].mean()  # as of a measurement of fewer pairs
    assert compared(rows, metrics=["ssim_global"], store=tmp_path)["n"].tolist() == [40]


def test_fid_of_one_seed_has_a_difference_without_an_interval_and_the_reason():
    (row,) = compared([cell("SGA", fid=30.0), cell("SCFT", fid=33.0)], metrics=["fid"]).to_dict("records")
    assert row["difference"] == pytest.approx(-3)
    assert np.isnan([row["low"], row["high"], row["p"]]).all()
    assert "one seed in common, and FID has no scores per image" in row["reason"]


def test_missing_pairs_files_are_named_as_the_reason(tmp_path):
    frame = compared([cell("SGA"), cell("SCFT")], metrics=["ssim_global"], store=tmp_path)
    assert "pairs.csv" in frame["reason"][0]
    (found,) = comparisons(framed(seeds()), "sga", "scft", metrics=["ssim_global"], store=tmp_path)
    assert any("not compared over images" in note for note in found.notes)


def test_recipes_weights_images_and_protocols_never_mix():
    mine = [
        cell("SGA"),
        cell("SCFT", recipe_digest="f" * 16),
        cell("SCFT", train_weights="other"),
        cell("SCFT", fingerprint="x"),
    ]
    with pytest.raises(UserError, match="share no dataset and seed under one recipe"):
        compared(mine)
    other_protocol = cell("SCFT", **{"fid.weights": "inception=others"})
    assert compared([cell("SGA"), other_protocol])["metric"].tolist() == ["ssim_global"]
    two = [*seeds(), *seeds(recipe="another", recipe_digest="e" * 16)]
    assert compared(two, metrics=["fid"])["recipe"].tolist() == ["official", "another"]


def test_a_dataset_that_one_of_them_lacks_is_named():
    (found,) = comparisons(framed([*seeds(), cell("SGA", "dog")]), "sga", "scft")
    assert "dog: no finished cell of SCFT." in found.notes


def test_the_papers_figures_come_out_of_its_table():
    """27.21 % and 25.67 % in the text of arXiv 2207.06095, from numbers that the table rounds."""
    sga, scft = Row("SGA", "sga", {}, {}), Row("SCFT", "scft", {}, {})
    (fid, fid_datasets, fid_gain), (ssim, _, ssim_gain) = published_improvements(
        sga, scft, map(described, ["fid", "fid:dims=768", "ssim_global", "ssim"])
    )
    assert (fid, ssim, fid_datasets) == ("FID", "SSIM (global)", ["anime", "cat", "dog", "wild"])
    assert [100 * fid_gain, 100 * ssim_gain] == pytest.approx([27.21, 25.67], abs=0.02)


def test_cells_that_measured_the_papers_numbers_give_the_papers_figures():
    paper = published().query("table == 2 and module in ['sga', 'scft']").pivot_table("value", ["label", "dataset"], "metric")
    rows = [cell(label, dataset, fid=row.fid, ssim=row.ssim_global) for (label, dataset), row in paper.iterrows()]
    (found,) = comparisons(framed(rows), "sga", "scft")
    expected = "Mean relative improvement of SGA over SCFT over anime, cat, dog, wild: FID 27.22 %, SSIM (global) 25.67 %."
    assert expected in sheet(found).notes
    assert any("over anime, cat, dog, wild: FID 27.22 %" in note for note in sheet(found, with_published=True).notes[1:])


def test_options_name_a_variant():
    variant = {"module": "sga", "options": '{"stop_gradient": false}', "all_options": '{"stop_gradient": false}'}
    rows = [cell("SGA", all_options='{"stop_gradient": true}'), cell("SGA w/o stop-gradient", fid=40.0, **variant)]
    frame = compared(rows, "sga", "sga:stop_gradient=false", metrics=["fid"])
    assert (frame["a"][0], frame["b"][0], frame["better"][0]) == (30.0, 40.0, "SGA")
    with pytest.raises(UserError, match="'sga' and 'sga:stop_gradient=true' are the same variant"):
        compared(rows, "sga", "sga:stop_gradient=true")


@pytest.mark.parametrize(
    ("b", "parts"),
    [
        ("scfft", ["no finished cell of 'scfft'", "did you mean 'scft'?", "`attnbench run --modules scfft`"]),
        ("sga:stop_gradient=false", ["no finished cell of 'sga:stop_gradient=false'", "SGA", "`attnbench run --modules"]),
        ("sga", ["'sga' and 'sga' are the same variant"]),
        ("sga:stop", ["'stop' is not option=value"]),
        ("cmft", ["no finished cell of 'cmft'"]),
        ("zzz", ["no finished cell of 'zzz' (known: scft, sga, spade); `attnbench run"]),
        ("spade", ["SGA and SPADE share no dataset and seed", "SPADE: dog seed 0"]),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(b, parts):
    failed = cell("CMFT", status="failed", fid=None, ssim=None)
    with pytest.raises(UserError) as refused:
        compared([*seeds(), failed, cell("SPADE", "dog")], "sga", b)
    assert all(part in str(refused.value) for part in parts), refused.value
    assert "\n" not in str(refused.value)


def test_the_better_one_is_marked_by_the_metrics_direction_and_by_the_test():
    (found,) = comparisons(framed(seeds()), "sga", "scft", metrics=["fid", "ssim_global"])
    fid, ssim = sheet(found).lines
    assert (fid.section, fid.entries[0].rank, fid.entries[1].rank) == ("cat: 3 seeds", 0, None)
    assert fid.entries[4].text == "A"  # FID falls, p < 0.05
    assert ssim.entries[4].text == "-"  # equal
    (lost,) = comparisons(framed(seeds()), "scft", "sga", metrics=["fid"])
    assert sheet(lost).lines[0].entries[4].text == "B"


def test_the_command_prints_every_format(tmp_path, monkeypatch):
    rows = with_pairs(tmp_path, seeds=(0, 1))
    monkeypatch.setattr("attnbench.store.frame.results", lambda *_: framed(rows))
    command = ("compare", tmp_path, "sga", "scft")
    text = attnbench(*command, "--published").out
    assert "A: SGA; B: SCFT." in text
    assert "cat: 2 seeds" in text
    assert "cat: 60 images" in text
    assert "Mean relative improvement of SGA over SCFT over cat: FID" in text
    assert max(map(len, text.splitlines())) <= 80
    assert "| *cat: 2 seeds* " in attnbench(*command, "--format", "md").out
    assert r"\multicolumn" in attnbench(*command, "--format", "latex").out
    frame = pd.read_csv(io.StringIO(attnbench(*command, "--format", "csv").out))
    assert frame["unit"].tolist() == ["seeds", "seeds", "images"]
    assert "did you mean 'latex'" in attnbench(*command, "--format", "latx").err


def test_protocols_are_sections_of_their_own():
    same = [cell(label, seed=seed, fid=fid, protocol=SAME) for label, fid in (("SGA", 20.0), ("SCFT", 21.0)) for seed in (0, 1)]
    alone = cell("SGA", "dog", protocol=SAME)
    rows = [*seeds(), *same, cell("SGA", "dog"), alone, cell("SCFT", "dog")]
    (found,) = comparisons(framed(rows), "sga", "scft", metrics=["fid"])
    frame = as_frame([found])
    assert frame[["dataset", "protocol", "metric", "a"]].to_numpy().tolist() == [
        ["cat", "", "fid", pytest.approx(np.mean(FIDS["SGA"]))],
        ["cat", "same", "fid", 20.0],
        ["dog", "", "fid", 30.0],
    ]
    printed = sheet(found)
    assert [line.section for line in printed.lines] == ["cat: 3 seeds", "cat, same: 2 seeds", "dog: 1 seed"]
    assert "dog, same: SCFT is not measured." in printed.notes
    assert "over cat: FID, same 4.76 %" in printed.notes[0]


def test_widths_of_a_metric_are_compared_each_with_itself():
    rows = [cell("SGA", numbers={"fid:dims=768": 1.0}), cell("SCFT", numbers={"fid:dims=768": 2.0})]
    assert compared(rows, metrics=["fid"])["metric"].tolist() == ["fid", "fid:dims=768"]
    assert compared(rows, metrics=["fid:dims=768"])["a"].tolist() == [1.0]


@pytest.mark.parametrize("name", ["MangaNinja", "manganinja"])
def test_pictures_made_elsewhere_are_compared_over_images_alone(tmp_path, name):
    ours = [scored(tmp_path, "SGA", seed, test="theirs") for seed in (0, 1)]
    theirs = foreign(test="theirs")
    made = tmp_path / theirs["folder"]
    made.mkdir()
    pairs = pd.read_csv(tmp_path / ours[0]["folder"] / "pairs.csv")
    pairs = pairs.assign(ssim_global=pairs["ssim_global"] + 0.1)
    pairs.to_csv(made / "pairs.csv", index=False)
    theirs["ssim_global"] = pairs["ssim_global"].mean()
    frame = compared([*ours, theirs], "sga", name, store=tmp_path).set_index("metric")
    assert frame["better"].to_dict() == {"fid": "MangaNinja (not trained here)", "ssim_global": "MangaNinja (not trained here)"}
    assert frame["unit"].to_dict() == {"fid": "seeds", "ssim_global": "images"}
    assert frame.loc["ssim_global", "difference"] == pytest.approx(-0.1)
    assert np.isnan(frame.loc["fid", "p"])
    assert frame.loc["fid", "reason"] == "not trained here, and FID has no scores per image"
    (found,) = comparisons(framed([*ours, theirs]), name, "sga")
    assert "MangaNinja: not trained here (v1.0, 50 steps, made at 512 px; pictures 1a2b3c4d)." in sheet(found).notes
    with pytest.raises(UserError, match="did you mean 'MangaNinja'"):
        compared([*ours, theirs], "sga", "MangaNinj")
    with pytest.raises(UserError, match=r"matches several variants: .* \[99\]: keep one of them"):
        compared([*ours, theirs, foreign(test="theirs", digest="99")], "sga", name)


def test_its_latex_compiles(tmp_path):
    (found,) = comparisons(framed(with_pairs(tmp_path, seeds=(0, 1))), "sga", "scft", store=tmp_path)
    assert "Overfull" not in typeset(written(sheet(found, with_published=True), "latex"), tmp_path)


def test_comparing_does_not_import_torch(python):
    """`compare` only reads: it must not pay for importing torch."""
    python("-c", "import sys, attnbench.tables.comparison; sys.exit('torch' in sys.modules)")
