"""docs/protocol.md says what the code does: its version, constants, keys, metrics and commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from attnbench import plugins
from attnbench.cells.provenance import provenance
from attnbench.config.recipe import Recipe, digest, load_recipe, metric_settings
from attnbench.metrics.metric import parse_metric
from attnbench.metrics.protocol import VERSION

TEXT = (Path(__file__).parents[1] / "docs" / "protocol.md").read_text()
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if line.startswith("| ")]


def test_its_version_is_the_one_that_is_recorded_with_numbers() -> None:
    import torch

    assert f"Protocol version {VERSION}, of " in TEXT
    (latest, *_) = [row[0] for row in ROWS if re.fullmatch(r"\d+", row[0])][-1:]
    assert int(latest) == VERSION
    assert provenance(torch.device("cpu")).protocol == VERSION


def value_of(key: str) -> object:
    found: object = load_recipe("official")
    for part in key.split("."):
        if part in metric_settings():
            return metric_settings()[part]
        found = getattr(found, part)
    return found


CONSTANTS = [  # the text in the column of values, and what the recipe has
    ("data.size", "256 x 256", 256),
    ("data.sketch.sigma", "0.3, 0.4 or 0.5", (0.3, 0.4, 0.5)),
    ("backbone.residual_blocks", "4 of", 4),
    ("loss.adversarial", "weight 1", 1),
    ("loss.reconstruction", "weight 30", 30),
    ("loss.perceptual", "weight 0.01", 0.01),
    ("loss.style", "weight 50", 50),
    ("train.betas", "0.5 and 0.999", (0.5, 0.999)),
    ("train.lr_generator", "1e-4", 1e-4),
    ("train.lr_discriminator", "2e-4", 2e-4),
    ("train.schedule", "constant", "constant"),
    ("train.epochs", "40 epochs", 40),
    ("train.batch_size", "16", 16),
    ("train.generator_forwards", "1,", 1),
    ("evaluation.fid_dims", "2048", 2048),
    ("evaluation.lpips_network", "AlexNet", "alex"),
    ("evaluation.pair_seed", "0,", 0),
]


@pytest.mark.parametrize(("key", "written", "value"), CONSTANTS, ids=[case[0] for case in CONSTANTS])
def test_its_constants_are_those_of_the_recipe(key: str, written: str, value: object) -> None:
    (row,) = [row for row in ROWS if len(row) == 4 and f"`{key}`" in row[2]]
    assert written in row[1]
    assert value_of(key) == value


def test_the_keys_that_it_names_are_keys_of_the_recipe() -> None:
    keys = set(re.findall(r"`((?:data|backbone|loss|train|evaluation)\.[a-z_.]+[a-z_])`", TEXT))
    assert len(keys) > 30
    for key in keys - {"data.sketch.*"}:
        value_of(key)


def test_the_digest_of_the_official_recipe_is_its_own() -> None:
    assert f"`{digest(Recipe().training)[:8]}..." in TEXT
    assert f"`official` ({digest(Recipe().training)[:8]})" in TEXT


def test_every_metric_has_its_row_and_each_row_is_a_metric() -> None:
    rows = [re.findall(r"`([^`]+)`", row[0])[0] for row in ROWS if len(row) == 5 and row[0].startswith("`")]
    metrics = [row for row in rows if row.partition(":")[0] in {plugin.name for plugin in plugins.installed(plugins.METRICS)}]
    ours = {plugin.name for plugin in plugins.installed(plugins.METRICS) if plugin.package == "attnbench"}
    assert ours <= set(metrics)
    for key in metrics:
        (row,) = [row for row in ROWS if len(row) == 5 and row[0].startswith(f"`{key}`")]
        assert ("↓" in row[0]) == parse_metric(key).descriptor.lower_is_better


def test_its_commands_name_metrics_datasets_methods_and_protocols_that_there_are() -> None:
    lines = [line.strip() for line in TEXT.splitlines() if line.startswith("    attnbench ")]
    assert len(lines) > 10
    for line in lines:
        for metrics in re.findall(r"--metrics (\S+)", line):
            for key in metrics.split(","):
                if key != "...":
                    parse_metric(key)
        for method in re.findall(r"--method (\S+)", line):
            plugins.find(plugins.METHODS, method)
        for override in re.findall(r"--set (\S+)", line):
            load_recipe("official", [override])


def test_the_files_that_it_names_exist() -> None:
    root = Path(__file__).parents[1]
    named = set(re.findall(r"`((?:attnbench|baselines|configs|docs|tests|results)/[a-z_/.0-9-]+\.[a-z0-9]+)`", TEXT))
    named |= {f"attnbench/{one}" for one in re.findall(r"`((?:training|data|metrics)/[a-z_]+\.py)`", TEXT)}
    assert len(named) > 15
    assert [one for one in sorted(named) if not (root / one).is_file()] == []
