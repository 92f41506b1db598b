"""What a module says while it colours: once on the screen, kept with the measurement, and below the numbers of a table."""

import json

import pytest
from runs import attnbench, tiny

from attnbench import console, results, warn
from attnbench_baselines.oracle import UNKNOWN


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch):
    """Whatever other tests were told in this process."""
    monkeypatch.setattr(console, "_told_once", set())


def test_what_is_said_once_is_logged_once_and_noted_in_every_block(caplog):
    for _ in range(2):
        with console.warnings_noted() as noted:
            warn("no light", once=True)
            warn("no light", once=True)
        assert noted == ["no light"]
    assert [record.getMessage() for record in caplog.records] == ["no light"]


@pytest.fixture
def store(tmp_path):
    """The oracle and a module that has nothing to say, measured under `cross` and `same`."""
    ran = attnbench(*tiny(tmp_path, modules="oracle,none", evaluation__references="[cross,same]", evaluation__metrics="[ssim]"))
    assert ran.code == 0, ran.err
    assert ran.err.count(UNKNOWN) == 1  # not for each picture, nor for each sample grid
    assert f"[1] {UNKNOWN}" in " ".join(ran.out.split())
    return tmp_path


def test_it_is_a_footnote_of_the_numbers_that_it_is_about(store):
    frame = results(store).set_index(["module", "protocol"])["said"]
    assert frame["oracle", ""] == UNKNOWN
    assert frame.drop(index=("oracle", "")).isna().all()
    (row,) = (line for line in attnbench("table", store, "--format", "md").out.splitlines() if line.startswith("| Oracle"))
    assert row.count("[1]") == 1


def test_it_is_kept_where_another_metric_is_measured_from_the_kept_pictures(store):
    added = attnbench("measure", store, "--metrics", "psnr", "--device", "cpu")
    assert added.code == 0, added.err
    said = {
        (record["module"]["name"], measurement["protocol"]["references"]): measurement.get("said", [])
        for record in (json.loads(path.read_text()) for path in store.glob("*/cell.json"))
        for measurement in record["measurements"]
    }
    assert said == {("oracle", "cross"): [UNKNOWN], ("oracle", "same"): [], ("none", "cross"): [], ("none", "same"): []}
