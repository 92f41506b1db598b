"""Tests have the kinds that their fixtures give them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import KINDS


def test_every_fixture_that_gives_a_kind_exists() -> None:
    text = "\n".join(file.read_text() for file in Path(__file__).parent.glob("*.py"))
    fixtures = set(re.findall(r"^@pytest\.fixture.*\ndef (\w+)\(", text, re.MULTILINE))
    assert {name for names in KINDS.values() for name in names} <= fixtures


def test_a_test_whose_fixtures_do_not_say_so_cannot_start_an_interpreter() -> None:
    with pytest.raises(pytest.fail.Exception, match="let it take the fixture"):
        subprocess.run([sys.executable, "-c", "pass"], check=True)


def test_a_test_whose_fixtures_say_so_can_and_is_of_that_kind(request: pytest.FixtureRequest, workers: None) -> None:
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    assert [mark.name for mark in request.node.iter_markers() if mark.name in KINDS] == ["process"]
