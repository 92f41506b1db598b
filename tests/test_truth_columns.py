"""What tables choose to show: right answers first, no metric without its companion, what an original gains, and bounds."""

import json

import pandas as pd
import pytest
from runs import install
from test_tables import SAME, headings, made, measurement, ranks, texts, typeset

from attnbench.cells.record import MetricRecord, record_text
from attnbench.errors import UserError
from attnbench.metrics.descriptor import Descriptor
from attnbench.metrics.metric import parse_metric, parse_metrics
from attnbench.metrics.protocol import Protocol
from attnbench.report.collect import collect
from attnbench.store.frame import frame_of, metrics_in
from attnbench.store.reading import Stored
from attnbench.tables.comparison import comparisons, sheet
from attnbench.tables.compile import for_pandas, render_table, tables
from attnbench.tables.formats import MINUS

METRICS = {
    one.name: one
    for one in (
        Descriptor(name="fid", title="FID", decimals=1, lower_is_better=True, per_image=False, in_paper=True),
        Descriptor(name="ssim_global", title="SSIM", decimals=2, lower_is_better=False, per_image=True, in_paper=True),
        Descriptor(name="parts", title="Parts", unit="%", decimals=1, lower_is_better=False, per_image=True, truth=True),
        Descriptor(name="exact", title="Exact", decimals=1, lower_is_better=True, per_image=True, truth=True),
        Descriptor(name="plain", title="Plain", decimals=1, lower_is_better=True, per_image=True),
        Descriptor(name="theirs", title="Theirs", decimals=1, lower_is_better=True, per_image=True, package="colours"),
        Descriptor(name="colours", title="Colours", decimals=1, lower_is_better=True, per_image=True, companion="lines"),
        Descriptor(name="lines", title="Lines F1", unit="%", decimals=1, lower_is_better=False, per_image=True),
        Descriptor(name="signal", title="Signal", unit="dB", decimals=2, lower_is_better=False, per_image=True, gap=True),
    )
}
NO_ANSWERS = "dataset 'cat' has no right answers"
DIFFERENCE = f"same {MINUS} cross"
FIRST_50, SAME_50 = Protocol(limit=50), Protocol(references="same", limit=50)


def number(name, value, described=None, **parts):
    """A metric's number, or the reason why there is none."""
    metric = described or METRICS[name]
    if isinstance(value, str):
        return MetricRecord(value=None, reason=value, metric=metric, **parts)
    return MetricRecord(value=value, metric=metric, weights={}, source="generator", **parts)


def cell(numbers, label="SGA", dataset="cat", seed=0, protocol=Protocol(), **about):  # noqa: B008
    """A record of one measurement: name of a metric -> its number, the reason why it has none, or a `MetricRecord`."""
    every = {name: one if isinstance(one, MetricRecord) else number(name, one) for name, one in numbers.items()}
    folder = protocol.slug if protocol.label else "."
    one = measurement(every, protocol, subject=f"{label} {dataset} {seed}", folder=folder, **{"test": dataset, **about})
    return made(label, dataset, seed, [one])


def both(same, cross, label="SGA", seed=0):
    """A record measured with the sketches' own originals as references, and with others: numbers as of `cell`, or a signal."""
    given = [({"signal": one} if isinstance(one, float) else one) for one in (cross, same)]
    records = [cell(one, label, seed=seed, protocol=protocol) for one, protocol in zip(given, (Protocol(), SAME), strict=True)]
    return records[0].model_copy(update={"measurements": [one.measurements[0] for one in records]})


def framed(*records):
    return frame_of(Stored(f"{one.label}-{place}", one) for place, one in enumerate(records))


def one_table(*records, **options):
    (table,) = tables(framed(*records), **options)
    return table


PAPER = {"fid": 30.0, "ssim_global": 0.8}


def test_where_right_answers_are_known_metrics_of_them_come_before_the_papers():
    known = cell({**PAPER, "plain": 1.0, "parts": 50.0, "exact": 2.0, "theirs": 3.0}, dataset="synthetic")
    assert headings(one_table(known)) == [
        "synthetic Parts (%) ↑",
        "synthetic Exact ↓",
        "synthetic FID ↓",
        "synthetic SSIM ↑",
        "synthetic Theirs ↓",
    ]


def test_a_dataset_without_right_answers_keeps_the_papers_columns_and_has_no_note_on_what_it_would_not_show():
    cat = cell({**PAPER, "parts": NO_ANSWERS, "plain": 1.0})
    table = one_table(cat, cell({**PAPER, "parts": 50.0}, dataset="synthetic"))
    assert headings(table) == ["cat FID ↓", "cat SSIM ↑", "synthetic Parts (%) ↑", "synthetic FID ↓", "synthetic SSIM ↑"]
    assert not any("Not measured" in note for note in table.notes)


def test_where_all_metrics_are_shown_those_of_right_answers_come_first_and_what_cannot_be_measured_has_a_note():
    known = cell({"plain": 1.0, "parts": 50.0}, dataset="synthetic")
    table = one_table(cell({"plain": 1.0, "parts": NO_ANSWERS}), known)
    assert headings(table) == ["cat Plain ↓", "synthetic Parts (%) ↑", "synthetic Plain ↓"]
    assert f"Not measured on cat: Parts ({NO_ANSWERS})." in table.notes


def test_a_metric_of_right_answers_that_failed_where_they_are_known_keeps_its_column():
    table = one_table(cell({**PAPER, "parts": number("parts", "it failed: boom", failed=True)}, dataset="synthetic"))
    assert headings(table)[0] == "synthetic Parts (%) ↑"
    assert texts(table)["SGA"][0] == "- [1]"


def test_numbers_that_do_not_say_whether_they_are_of_right_answers_are_shown_as_ever():
    older = METRICS["parts"].model_copy(update={"truth": False})
    assert headings(one_table(cell({**PAPER, "parts": number("parts", 50.0, older)}))) == ["cat FID ↓", "cat SSIM ↑"]


def test_one_newer_number_tells_what_the_older_ones_do_not():
    older = Descriptor(**METRICS["parts"].model_dump(exclude_defaults=True, exclude={"truth"}))
    frame = framed(cell({"parts": number("parts", 1.0, older)}), cell({"parts": 2.0}, seed=1))
    assert metrics_in(frame)["parts"].truth


@pytest.mark.parametrize(("text", "truth"), [("match", True), ("psnr:against=answer", True), ("psnr", False), ("fid", False)])
def test_a_metric_that_uses_right_answers_is_described_so(text, truth):
    assert parse_metric(text).descriptor.truth is truth


TWO_METRICS = """
class Colours:
    '''Colours.'''
    title, decimals, lower_is_better, per_image, companion = "Colours", 1, True, True, "lines"

    def __init__(self, *, size: int = 1): ...

class Lines:
    '''Lines.'''
    title, decimals, lower_is_better, per_image = "Lines", 1, False, True

    def __init__(self, *, width: int = 1): ...
"""


@pytest.mark.parametrize(
    ("asked", "measured"),
    [
        (["colours", "fid"], ["colours", "fid", "lines"]),
        (["colours", "colours:size=2"], ["colours", "colours:size=2", "lines"]),
        (["lines:width=2", "colours"], ["lines:width=2", "colours"]),
        (["lines"], ["lines"]),
    ],
)
def test_a_companion_is_measured_with_the_metric_that_has_it(asked, measured, tmp_path, monkeypatch):
    points = "colours = two_metrics:Colours\nlines = two_metrics:Lines"
    install(tmp_path, monkeypatch, "two_metrics", points, TWO_METRICS, group="attnbench.metrics")
    assert [metric.key for metric in parse_metrics(asked)] == measured


CHAIN = """
class First:
    '''First.'''
    title, lower_is_better, per_image, companion = "First", True, True, "second"

class Second:
    '''Second.'''
    title, lower_is_better, per_image, companion = "Second", True, True, "third"

class Third:
    '''Third.'''
    title, lower_is_better, per_image, companion = "Third", True, True, "first"

class Lonely:
    '''Lonely.'''
    title, lower_is_better, per_image, companion = "Lonely", True, True, "nobody"
"""


def test_companions_have_companions_and_one_that_is_not_installed_is_named_with_who_asks(tmp_path, monkeypatch):
    points = "\n".join(f"{name.lower()} = chain:{name}" for name in ("First", "Second", "Third", "Lonely"))
    install(tmp_path, monkeypatch, "chain", points, CHAIN, group="attnbench.metrics")
    assert [metric.key for metric in parse_metrics(["first"])] == ["first", "second", "third"]
    with pytest.raises(
        UserError, match="metric 'lonely' is never shown without its companion 'nobody': unknown metric 'nobody'"
    ):
        parse_metrics(["lonely"])


def described(name, companion=""):
    return Descriptor(name=name, title=name.title(), lower_is_better=False, per_image=True, companion=companion)


def test_a_companion_that_lacks_its_own_is_no_companion():
    third = described("third")
    second = described("second", "third")
    first = described("first", "second")
    numbers = {one.name: number(one.name, 1.0, one) for one in (first, second, third)}
    whole = one_table(cell(numbers), metrics=["first"])
    assert headings(whole) == ["cat First ↑", "cat Second ↑", "cat Third ↑"]
    del numbers["third"]
    lacking = one_table(cell(numbers | {"plain": 1.0}), metrics=["first", "plain"])
    assert headings(lacking) == ["cat Plain ↓"]
    assert any("First is not shown without second" in note for note in lacking.notes)


def test_a_companion_stands_behind_its_metric_and_once():
    record = cell({"lines": 70.0, "plain": 1.0, "colours": 2.0})
    assert headings(one_table(record, metrics=["colours", "plain"])) == ["cat Colours ↓", "cat Lines F1 (%) ↑", "cat Plain ↓"]
    every = one_table(record, metrics=["colours", "plain", "lines"])  # in the order that was asked for
    assert headings(every) == ["cat Colours ↓", "cat Plain ↓", "cat Lines F1 (%) ↑"]
    assert headings(one_table(record)) == ["cat Lines F1 (%) ↑", "cat Plain ↓", "cat Colours ↓"]


WITHHELD = (
    "cat: Colours is not shown without lines, which copying the reference would lose: `attnbench measure STORE --metrics "
    "lines` measures it"
)


@pytest.mark.parametrize("lines", [None, "it failed: boom"])
def test_a_metric_whose_companion_has_no_number_has_no_column_there_and_a_note(lines):
    lacking = {"plain": 1.0, "colours": 2.0, **({"lines": number("lines", lines, failed=True)} if lines else {})}
    table = one_table(cell(lacking), cell({"colours": 2.0, "lines": 70.0}, dataset="dog"), metrics=["plain", "colours"])
    assert headings(table) == ["cat Plain ↓", "dog Colours ↓", "dog Lines F1 (%) ↑"]
    assert [note for note in table.notes if "without" in note] == [f"{WITHHELD}."]


def test_a_table_without_any_column_for_want_of_a_companion_says_why():
    table = one_table(cell({"colours": 2.0, "plain": 1.0}), metrics=["colours"])
    assert headings(table) == ["cat status"]
    assert texts(table) == {"SGA": ["-"]}
    assert table.notes == [f"{WITHHELD}."]


def test_the_csv_has_what_tables_withhold():
    assert for_pandas(framed(cell({"colours": 2.0})))["colours"].tolist() == [2.0]


def test_a_comparison_shows_no_metric_without_its_companion():
    def compared(numbers, metrics):
        return comparisons(framed(cell(numbers), cell(numbers, "SCFT")), "sga", "scft", metrics=metrics)

    (found,) = compared({"colours": 2.0, "plain": 1.0, "lines": 70.0}, ["colours"])
    assert [line.label for line in sheet(found).lines] == ["Colours ↓", "Lines F1 (%) ↑"]
    (found,) = compared({"colours": 2.0, "plain": 1.0}, ["colours", "plain"])
    assert [line.label for line in sheet(found).lines] == ["Plain ↓"]
    assert f"{WITHHELD}." in sheet(found).notes
    with pytest.raises(UserError, match="Colours is not shown without lines"):
        compared({"colours": 2.0, "plain": 1.0}, ["colours"])


def stored(store, *records):
    """The records in a store; a folder has the name of its label and seed."""
    for record in records:
        folder = store / f"{record.label}-{record.seed}".replace(" ", "-")
        folder.mkdir()
        (folder / "cell.json").write_text(record_text(record))
    return store


def test_the_page_shows_no_metric_without_its_companion_and_has_the_column_of_gaps(tmp_path):
    records = [both(25.0, 20.0), cell({"colours": 2.0}, "SCFT")]
    page = collect(stored(tmp_path, *records), pairs=1)
    assert [one["title"] for one in page.views[0].metrics] == ["Signal"]
    (table,) = page.tables
    assert [column["title"] for column in table.columns[:3]] == ["Signal (dB) ↑", "Signal (dB) ↑", f"Signal (dB), {DIFFERENCE}"]
    assert table.groups[:2] == [("cat", 1, False), ("cat, same", 2, False)]
    assert dict(table.rows)["SGA"][2][1] == 5.0  # what the column is sorted by
    assert any(text.startswith(WITHHELD) for text, kind in table.notes if kind == "always")


def test_a_metric_of_one_protocol_has_no_column_under_the_others_and_no_note_about_them():
    why = "it is known where the reference shows a place of the sketch under `references: same` alone"
    crossed = cell({"plain": 1.0, "lines": number("lines", why)})
    table = one_table(crossed, cell({"lines": 70.0}, protocol=SAME), metrics=["plain", "lines"])
    assert headings(table) == ["cat Plain ↓", "cat, same Lines F1 (%) ↑"]
    assert not [note for note in table.notes if "alone" in note or "not measured" in note]


def test_a_protocol_that_has_none_of_the_chosen_metrics_is_left_out_unless_none_has_any():
    records = [cell({"plain": 1.0}), cell({"lines": 70.0}, protocol=SAME)]
    assert headings(one_table(*records, metrics=["lines"])) == ["cat, same Lines F1 (%) ↑"]
    dog = cell({"plain": 2.0}, dataset="dog")
    assert headings(one_table(*records, dog, metrics=["lines"])) == ["cat, same Lines F1 (%) ↑", "dog Lines F1 (%) ↑"]


def test_what_an_original_gains_stands_behind_the_column_of_originals_and_none_is_best():
    table = one_table(both(25.0, 20.0), both(21.5, 22.0, "SCFT"), cell({"signal": 20.0}, "CMFT"))
    assert headings(table) == ["cat Signal (dB) ↑", "cat, same Signal (dB) ↑", f"cat, same Signal (dB), {DIFFERENCE}"]
    assert {label: row[2] for label, row in texts(table).items()} == {"SGA": "+5.00", "SCFT": "-0.50", "CMFT": "-"}
    assert {label: row[2] for label, row in ranks(table).items()} == {"SGA": None, "SCFT": None, "CMFT": None}
    assert ranks(table)["SGA"][1] == 0
    (note,) = [note for note in table.notes if "gains from that" in note]
    assert note.startswith(f"Signal, {DIFFERENCE}: ")


def test_a_gap_is_over_the_seeds_that_were_measured_under_both():
    fourth = [cell({"signal": 90.0}, seed=3), cell({"signal": 10.0}, seed=4, protocol=SAME)]
    table = one_table(*(both(same, 20.0, seed=seed) for seed, same in enumerate([24.0, 25.0, 26.0])), *fourth)
    assert texts(table)["SGA"][2] == "+5.00 ± 1.00 n=3"  # the others have four


def test_with_one_seed_a_gap_has_an_interval_over_the_sketches_that_were_coloured_under_both(tmp_path):
    cross = pd.Series({f"{i}.png": 20.0 + i % 7 for i in range(60)})
    same = cross + [5.0 + 0.1 * (i % 2) for i in range(60)]
    store = stored(tmp_path, both(same.mean(), cross.mean()))
    for scores, place in ((cross, "."), (same, "same")):
        pairs = pd.DataFrame({"sketch": scores.index, "reference": scores.index[::-1], "signal": scores.to_numpy()})
        if place == "same":
            pairs = pairs.assign(reference=pairs["sketch"]).sample(frac=1, random_state=0)  # in another order
        (store / "SGA-0" / place).mkdir(exist_ok=True)
        pairs.to_csv(store / "SGA-0" / place / "pairs.csv", index=False)
    frame = frame_of([Stored("SGA-0", both(same.mean(), cross.mean()))])
    (table,) = tables(frame, store=store)
    low, high = map(float, table.rows["SGA"][2].spread.strip("[]").split(","))
    assert 5.0 < low < 5.05 < high < 5.1  # unpaired, the sketches' own differences would make it 1.5 wide
    assert any("bootstrap interval" in note for note in table.notes)


def test_a_gap_is_between_protocols_that_differ_in_nothing_else_on_the_same_images():
    def found(same, **about):
        return [column.heading.text for column in one_table(cell({"signal": 20.0}, protocol=FIRST_50), same).columns][2:]

    assert found(cell({"signal": 25.0}, protocol=SAME_50)) == [f"cat, same, first 50 pairs Signal (dB), {DIFFERENCE}"]
    assert found(cell({"signal": 25.0}, protocol=SAME)) == []
    assert found(cell({"signal": 25.0}, protocol=SAME_50, test="other images")) == []
    plain = [cell({"plain": 20.0}), cell({"plain": 25.0}, protocol=SAME)]
    assert len(one_table(*plain).columns) == 2  # a metric that says nothing of a gap


def test_tables_with_gaps_are_written_in_every_format_with_all_that_can_stand_in_them(tmp_path):
    gap = METRICS["ssim_global"].model_copy(update={"gap": True})

    def numbers(ssim, signal):
        return {"ssim_global": number("ssim_global", ssim, gap), "signal": signal}

    labels = ("SGA", "SCFT")
    rows = [both(numbers(0.9, 25.0 + seed), numbers(0.8, 20.0), label, seed) for label in labels for seed in range(2)]
    frame = framed(*rows).assign(module_parameters=4e6)
    (table,) = tables(frame, metrics=["ssim_global", "signal"], with_published=True, costs=True, significance=True)
    assert headings(table)[2:6] == [
        "cat, same SSIM ↑",
        f"cat, same SSIM, {DIFFERENCE}",
        "cat, same Signal (dB) ↑",
        f"cat, same Signal (dB), {DIFFERENCE}",
    ]
    assert texts(table)["SGA"][3:7:2] == ["+0.10 ± 0.00", "+5.50 ± 0.71"]
    assert texts(table)["SGA"][6] == "4.00"  # a cost
    assert texts(table)["SGA"][0] == "0.80† ± 0.00 (0.84, -0.04)"
    assert all(len(row) == len(table.columns) for row in table.rows.values())
    for style in ("md", "html"):
        assert DIFFERENCE in render_table(table, style)
    latex = render_table(table, "latex")
    assert MINUS not in latex
    assert "same $-$ cross" in latex
    assert "Overfull" not in typeset(latex, tmp_path)


def noted(*records, title):
    return [note for note in one_table(*records).notes if note.startswith(title)]


def test_floor_and_ceiling_stand_below_the_table_by_dataset_in_the_metrics_own_words():
    lines = METRICS["lines"].model_copy(update={"ceiling_is": "the originals"})
    rows = [
        cell({"lines": number("lines", 60.0, lines, ceiling=71.23)}),
        cell({"lines": number("lines", 60.0, lines, ceiling=80.0)}, dataset="dog"),
    ]
    assert noted(*rows, title="Lines") == ["Lines F1: ceiling, the originals: cat 71.2 %, dog 80.0 %."]


def test_bounds_that_no_words_are_known_of_and_several_of_them_are_one_note():
    record = cell({"plain": number("plain", 2.0, floor=1.0, ceiling=9.0, chance=5.0)})
    assert noted(record, title="Plain") == [
        "Plain: floor: cat 1.0; ceiling: cat 9.0; chance, without a look at the reference: cat 5.0."
    ]
    odd = cell({"plain": number("plain", 2.0, floor="low", ceiling=float("inf"), chance=None)})
    assert noted(odd, title="Plain") == []


def test_the_bounds_of_whole_sets_are_those_of_real_images():
    record = cell({"fid": number("fid", 30.0, floor=5.0, n_floor=400), "ssim_global": 0.8})
    assert noted(record, title="FID") == [
        "FID: N = cat 500 generated images; floor, real training against real test images: cat 5.0 (400 images)."
    ]
    share = METRICS["fid"].model_copy(update={"lower_is_better": False, "unit": "%"})
    record = cell({"fid": number("fid", 60.0, share, ceiling=75.0, n_ceiling=400)})
    assert "; ceiling, real training against real test images: cat 75.0 % (400 images)." in noted(record, title="FID")[0]


def test_what_a_metric_says_of_itself_is_kept_with_its_numbers():
    described = json.loads(record_text(cell({"signal": 1.0, "colours": 2.0})))["measurements"][0]["metrics"]
    assert described["signal"]["metric"]["gap"] is True
    assert described["colours"]["metric"]["companion"] == "lines"
