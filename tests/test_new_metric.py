"""A metric of one's own: the package that `new-metric` writes, from an empty folder to a column in the table."""

from __future__ import annotations

from pathlib import Path

import pytest
from runs import HEADS, attnbench, install, only_cell, record, tiny, tree
from test_new_module import Venv, refused, row

from attnbench import check_metric
from attnbench.contract.new_metric import METRIC, new_metric
from attnbench.contract.new_package import files


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Venv:
    return Venv(tmp_path_factory.mktemp("fresh") / "venv")


def test_a_new_metric_is_installed_tested_by_its_own_suite_and_gives_a_column(venv: Venv, tmp_path: Path) -> None:
    assert attnbench("new-metric", "my-metric", "--folder", tmp_path).code == 0
    package, store = tmp_path / "my-metric", tmp_path / "results"
    venv.install(package)
    try:
        assert row(venv.attnbench("list"), "my_metric").split()[1:3] == ["my-metric", "0.1.0"]
        assert "my_metric:block=4 keeps the contract" in venv.attnbench("check-metric", "my_metric:block=4")
        suite = venv.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", folder=package)
        assert " passed" in suite
        assert "skipped" not in suite
        assert attnbench(*tiny(store, "sga", train__steps=2)).code == 0
        cell = only_cell(store)
        trained = {name: (cell / name).read_bytes() for name in ("losses.jsonl", "generator.safetensors", "checkpoint.pt")}
        told = venv.attnbench("measure", store, "--metrics", "my_metric,my_metric:block=4")
        told += venv.attnbench("measure", store, "--metrics", "my_metric", "--set", "evaluation.references=same")
        told += venv.attnbench("measure", store, "--metrics", "my_metric", "--limit", "1")
        assert "images/s" not in told  # what training tells
        assert {name: (cell / name).read_bytes() for name in trained} == trained
        assert [one["protocol"]["references"] for one in record(cell)["measurements"]] == ["cross", "same", "cross"]
        scored = ("--dataset", HEADS, "--recipe", "demo", "--set", "data.size=16", "--metrics", "my_metric", "-o", store)
        venv.attnbench("score", "--method", "recolour", *scored)
        shown = venv.attnbench("table", store, "--metrics", "my_metric", "--format", "md")
        for column in ("synthetic MyMetric (grey levels)", "synthetic MyMetric, 4 px (grey levels)"):
            assert column in shown
        for protocol in ("synthetic, same", "synthetic, first pair", "recolour (not trained here)"):
            assert protocol in shown
    finally:
        venv.uninstall("my-metric")


def test_new_metric_prints_the_next_commands(tmp_path: Path) -> None:
    outcome = attnbench("new-metric", "my-metric", "--folder", tmp_path)
    assert outcome.code == 0, outcome
    commands = [line.strip() for line in outcome.out.splitlines() if line.startswith("  ")]
    assert commands == [
        f"pip install -e {tmp_path / 'my-metric'}",
        "attnbench check-metric my_metric",
        "attnbench measure results/ --metrics my_metric",
    ]


def test_new_metric_writes_its_files_and_nothing_beside_them(tmp_path: Path) -> None:
    assert new_metric("my-metric", tmp_path) == tmp_path / "my-metric"
    written = {path: content.decode() for path, (_, content) in tree(tmp_path).items()}
    assert written == {f"my-metric/{path}": text for path, text in files("my-metric", METRIC).items()}
    assert '[project.entry-points."attnbench.metrics"]\nmy_metric = "my_metric:MyMetric"' in written["my-metric/pyproject.toml"]
    assert not any("$" in text for text in written.values())


def test_the_written_metric_keeps_the_contract_before_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(new_metric("metric-of-a-test", tmp_path))
    for options in ("", ":block=3"):
        report = check_metric(f"metric_of_a_test:MetricOfATest{options}", device="cpu")
        assert {finding.status for finding in report.findings} == {"passed"}, str(report)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("my.metric", ["name 'my.metric'", "as in my-metric"]),
        ("ssim", ["package attnbench ", "has a metric 'ssim' already"]),
        ("SSIM-global", ["has a metric 'ssim_global' already"]),
        ("torch", ["an installed module", "torch"]),
    ],
)
def test_a_name_that_cannot_be_used_is_refused_and_nothing_is_written(name: str, parts: list[str], tmp_path: Path) -> None:
    line = refused("new-metric", name, "--folder", tmp_path)
    assert all(part in line for part in parts), line
    assert list(tmp_path.iterdir()) == []


def test_the_name_of_another_packages_metric_is_refused_and_that_of_a_module_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = "name_of_a_module = theirs:Mine\n[attnbench.metrics]\nmy_metric = theirs:Mine"
    install(tmp_path / "site", monkeypatch, "theirs", points, None)
    line = refused("new-metric", "my-metric", "--folder", tmp_path)
    assert "package theirs 1.2 has a metric 'my_metric' already" in line
    assert new_metric("name-of-a-module", tmp_path).is_dir()
