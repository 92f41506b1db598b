"""Grids as data: the paper's three, the two that go beyond it, custom ones, and the labels of variants."""

import json

import pandas as pd
import pytest
import yaml
from runs import HEADS, attnbench, overrides, record, tiny
from test_tables import cell, one_table, texts

from attnbench.cells.grid import check_grid
from attnbench.cells.variant import make_variant, parse_variant
from attnbench.config.grid_files import GridFile, built_in_grids, load_grid
from attnbench.errors import UserError
from attnbench.tables.compile import tables
from attnbench.tables.published import published


@pytest.mark.parametrize(("name", "table"), [("comparison", 2), ("ablation", 3), ("scft-stopgrad", 1)])
def test_a_grid_has_the_papers_rows_in_its_order(name, table):
    paper = published().query("table == @table")
    rows = paper[["label", "module", "options"]].drop_duplicates()
    entries = load_grid(name).variants
    by_label = {row.label: (row.module, json.loads(row.options)) for row in rows.itertuples()}
    assert {entry.label: (entry.module, entry.options) for entry in entries} == by_label
    assert [entry.label for entry in entries] == list(rows["label"])
    assert list(load_grid(name).datasets) == list(paper["dataset"].drop_duplicates())


def test_the_stop_gradients_grid_has_every_module_with_a_map_as_published_and_the_other_way_round():
    """SGA stops and the others do not; each pair differs in nothing else."""
    published = {entry.module: entry for entry in load_grid("comparison").variants}
    entries = load_grid("stop-gradient").variants
    assert {entry.module for entry in entries} == {"cocosnet", "scft", "unite", "cmft", "sga", "mha"}
    for one, other in zip(entries[::2], entries[1::2], strict=True):
        assert one.module == other.module
        stops = [make_variant(entry.module, entry.options).options["stop_gradient"] for entry in (one, other)]
        assert stops == [False, True]  # without it above, with it below
        (default,) = (entry for entry in (one, other) if not entry.options)
        assert default.module not in published or default.label == published[default.module].label


def test_the_reference_rows_stand_around_the_papers_six():
    labels = [entry.label for entry in load_grid("reference-rows").variants]
    assert [label for label in labels if label in {entry.label for entry in load_grid("comparison").variants}] == [
        entry.label for entry in load_grid("comparison").variants
    ]
    modules = {entry.module for entry in load_grid("reference-rows").variants}
    assert modules - {entry.module for entry in load_grid("comparison").variants} == {"none", "adain", "mha", "linear"}


@pytest.mark.parametrize("name", built_in_grids())
def test_every_variant_of_a_grid_can_be_built(name):
    checked = check_grid([], [HEADS], "demo", grid=name, overrides=overrides())
    assert [variant.label for variant in checked.variants] == [entry.label for entry in load_grid(name).variants]


def test_options_on_the_command_line_are_the_same_variant_as_in_the_grid():
    (entry,) = (entry for entry in load_grid("ablation").variants if entry.label == "SGA w/o double-norm")
    from_file, typed = make_variant(entry.module, entry.options, entry.label), parse_variant("sga:double_norm=false")
    assert (from_file.label, from_file.options, from_file.given) == (typed.label, typed.options, typed.given)


def test_an_option_at_its_default_is_the_same_variant():
    assert parse_variant("sga:stop_gradient=true").label == "SGA"
    with pytest.raises(UserError, match="module 'SGA' is asked for twice"):
        check_grid(["sga", "sga:stop_gradient=true"], [HEADS], "demo", overrides=overrides())


def test_options_come_in_one_order_however_they_are_typed():
    a, b = (
        parse_variant("sga:stop_gradient=false:double_norm=false"),
        parse_variant("sga:double_norm=false:stop_gradient=false"),
    )
    assert a.label == b.label == "SGA (stop_gradient=false, double_norm=false)"


def test_modules_on_the_command_line_come_behind_the_grids():
    checked = check_grid(["scft"], [HEADS], "demo", grid="ablation", overrides=overrides())
    assert [variant.label for variant in checked.variants][-2:] == ["SGA w/o self-SGA", "SCFT"]


def test_a_custom_grid_names_rows_and_datasets(tmp_path):
    file = tmp_path / "mine.yaml"
    variants = [{"module": "scft", "label": "Ours"}, {"module": "sga", "options": {"exact_norm": True}}]
    file.write_text(yaml.safe_dump({"title": "Mine", "datasets": [HEADS], "variants": variants}))
    store = tmp_path / "store"
    arguments = tiny(store, train__steps=1)
    arguments[arguments.index("-m") : arguments.index("-o")] = ["--grid", str(file)]
    run = attnbench(*arguments)
    assert run.code == 0, run.err
    assert sorted(record(folder)["module"]["label"] for folder in store.iterdir()) == ["Ours", "SGA (exact_norm=true)"]
    shown = attnbench("table", store, "--grid", file)
    assert shown.code == 0, shown.err
    assert shown.out.index("Ours") < shown.out.index("SGA (exact_norm=true)")
    assert attnbench("table", store, "--grid", file, "--format", "csv").out.count("\n") == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: x\nvariants: [{modul: sga}]", "unknown key 'variants.0.modul': did you mean 'variants.module'?"),
        ("title: x\nvariants: []", "variants = []"),
        ("variants: [{module: sga}]", "'title' is missing"),
        ("title: x\nvariants: [{module: sgaa}]", "unknown module 'sgaa': did you mean 'sga'?"),
        ("title: x\nvariants: [{module: sga, options: {stop: 1}}]", "module 'sga': unknown option 'stop': did you mean"),
        ("title: x\nvariants: [{module: sga, options: {stop_gradient: flase}}]", "stop_gradient=flase: expected true or false"),
        ("title: x\nvariants: [{module: cmft, options: {levels: 1.5}}]", "levels=1.5: expected a whole number"),
        ("title: x\nvariants: [{module: sga, options: {stop_gradient: 2020-01-01}}]", "2020"),
        ('title: x\n"1": y\nvariants: [{module: sga}]', "unknown key '1'"),
        ("title: x\nvariants: [{module: cmft, options: {levels: 9}}]", "levels=9: the encoders have 5"),
        ("[", "is not valid YAML"),
    ],
)
def test_a_grid_that_is_wrong_is_refused_in_one_line(tmp_path, text, message):
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    refused = attnbench("run", "--grid", file, "-d", HEADS, "-o", tmp_path / "store")
    assert refused.code == 2
    assert message in refused.err
    assert refused.err.count("\n") == 1
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("command", [("run", "-d", HEADS), ("table",)])
def test_an_unknown_grid_is_refused_with_the_nearest_name(command):
    refused = attnbench(*command, "--grid", "ablations")
    assert refused.code == 2
    assert "unknown grid 'ablations': did you mean 'ablation'?" in refused.err


def test_a_grids_table_has_all_its_rows_and_no_others():
    table = one_table(
        cell("SGA", options="{}"),
        cell("old name", module="sga", options='{"stop_gradient": false}', fid=40.0),
        cell("SCFT"),
        grid=load_grid("ablation"),
    )
    assert texts(table) == {
        "SGA": ["30.00", "0.800"],
        "SGA w/o stop-gradient": ["40.00", "0.800"],
        "SGA w/o double-norm": ["-", "-"],
        "SGA w/o self-SGA": ["-", "-"],
    }


def test_a_grids_table_has_the_papers_numbers_where_ours_are_missing():
    table = one_table(cell("SGA"), grid=load_grid("ablation"), with_published=True)
    assert texts(table)["SGA w/o double-norm"] == ["- (34.42)", "- (0.811)"]
    assert texts(table)["SGA"] == ["30.00 (34.35, -4.35)", "0.800 (0.843, -0.043)"]


def test_a_grids_datasets_come_in_its_order():
    table = one_table(cell("SGA", "cat"), cell("SGA", "mine"), cell("SGA", "anime"), grid=load_grid("ablation"))
    assert list(dict.fromkeys(column.setting.dataset for column in table.columns)) == ["anime", "cat", "mine"]


def test_a_default_typed_in_a_grid_or_by_an_older_version_is_the_default():
    grid = GridFile(title="x", variants=({"module": "sga", "options": {"stop_gradient": True}},))
    everything = '{"double_norm": true, "stop_gradient": true}'
    old = cell("SGA (stop_gradient=true)", module="sga", options='{"stop_gradient": true}', all_options=everything, fid=20.0)
    new = cell("SGA", seed=1, all_options=everything)
    assert texts(one_table(old, new)) == {"SGA": ["25.00 ± 7.07", "0.800 ± 0.000"]}
    assert texts(one_table(old, new, grid=grid)) == {"SGA": ["25.00 ± 7.07", "0.800 ± 0.000"]}


@pytest.mark.parametrize("grid", [None, load_grid("ablation")])
def test_a_default_that_changed_makes_another_row(grid):
    before = cell("SGA", all_options='{"slope": 0.1}', fid=20.0)
    after = cell("SGA", all_options='{"slope": 0.2}')
    rows = {label: fields[0] for label, fields in texts(one_table(before, after, grid=grid)).items()}
    assert (rows["SGA [slope=0.1]"], rows["SGA [slope=0.2]"]) == ("20.00", "30.00")


def test_an_option_that_is_new_makes_another_row():
    before, after = cell("SGA", all_options="{}", fid=20.0), cell("SGA", all_options='{"slope": 0.2}')
    rows = {label: fields[0] for label, fields in texts(one_table(before, after)).items()}
    assert rows == {"SGA [no slope]": "20.00", "SGA [slope=0.2]": "30.00"}


def test_the_terminal_shows_what_distinguishes_rows(monkeypatch, capsys):
    frame = pd.DataFrame([cell("Attention", module="mine"), cell("Attention", module="yours")])
    monkeypatch.setattr("attnbench.store.frame.results", lambda *_: frame)
    shown = attnbench("table", "anywhere").out
    assert "Attention [mine]" in shown
    assert "Attention [yours]" in shown


def test_a_grid_without_datasets_asks_for_them(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("title: x\nvariants: [{module: sga}]")
    assert "names no datasets: add --datasets" in attnbench("run", "--grid", file, "-o", tmp_path / "store").err


def test_a_grid_that_is_not_text_is_refused(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_bytes(b"\xff\xfe\x00")
    refused = attnbench("run", "--grid", file, "-d", HEADS)
    assert refused.code == 2
    assert f"grid file '{file}' cannot be read" in refused.err


def test_a_csv_of_a_grid_without_any_cell_is_refused(monkeypatch):
    monkeypatch.setattr("attnbench.store.frame.results", lambda *_: pd.DataFrame([cell("SGA")]))
    refused = attnbench("table", "anywhere", "--grid", "scft-stopgrad", "--format", "csv")
    assert (refused.code, refused.out) == (2, "")


def test_a_grid_without_any_cell_is_refused():
    with pytest.raises(UserError, match="no cell of the grid 'Table 1"):
        tables(pd.DataFrame([cell("SGA")]), grid=load_grid("scft-stopgrad"))


def test_rows_without_a_grid_come_in_the_papers_order():
    labels = ["SPADE", "CoCosNet", "SCFT", "UNITE", "CMFT", "SGA"]
    cells = [cell(label) for label in reversed(labels)]
    variant = cell("SGA w/o self-SGA", module="sga", options='{"self_attention": false}')
    assert list(texts(one_table(cell("Another"), variant, *cells))) == [*labels, "SGA w/o self-SGA", "Another"]


def test_two_modules_of_one_label_have_rows_of_their_own():
    rows = texts(one_table(cell("Attention", module="mine", fid=10.0), cell("Attention", module="yours", fid=20.0)))
    assert {label: texts[0] for label, texts in rows.items()} == {"Attention [mine]": "10.00", "Attention [yours]": "20.00"}


def test_the_table_says_which_package_a_module_of_another_package_is_from():
    table = one_table(cell("SGA"), cell("AdaIN", package="others", version="1.2"))
    assert "From other packages: AdaIN (others 1.2)." in table.notes


def test_list_shows_the_grids():
    assert "Table 3: ablation of SGA" in attnbench("list").out
