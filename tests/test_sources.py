"""A cell whose module's code has changed since is stale; one whose comments have is not."""

from __future__ import annotations

import gc
import hashlib
import json
import sys
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from runs import Python, install

from attnbench.cells import sources
from attnbench.cells.record import ModuleRecord
from attnbench.cells.sources import changed_sources, sources_of
from attnbench.source_code import code_digest
from attnbench.store.frame import results

OWN = "import nothing_that_is_installed\nfrom .layers import Layer\n\nclass Mine(Layer):\n    pass\n"
LAYERS = "from . import cycle\n\ndef scale(x):\n    return 2 * x\n\nclass Layer: ...\n"
FILES = {"__init__": "raise RuntimeError('imported')\n", "mine": OWN, "layers": LAYERS, "cycle": "from . import layers\n"}
RECORD = {"name": "mine", "package": "my_package", "target": "my_package.mine:Mine"}


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    sources.forget()
    yield
    sources.forget()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package whose files cannot be imported: they must be read."""
    install(tmp_path, monkeypatch, "my_package", f"mine = {RECORD['target']}", None)
    folder = tmp_path / "my_package"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / f"{name}.py").write_text(text)
    return folder


def made_now() -> dict[str, Any]:
    return {**RECORD, "sources": sources_of(RECORD["target"])}


def changed(record: dict[str, Any]) -> list[str] | None:
    sources.forget()
    return changed_sources(ModuleRecord.model_construct(**record))


def test_the_files_that_a_module_imports_from_its_package_count_too() -> None:
    named = sources_of("attnbench_baselines.unite:UNITE")
    assert named is not None
    assert set(named) == {f"attnbench_baselines.{name}" for name in ("unite", "cocosnet", "spade")}
    assert set(sources_of("attnbench_baselines.sga:SGA") or ()) == {"attnbench_baselines.sga"}


def test_imports_in_a_circle_are_followed_once_and_nothing_is_imported(package: Path) -> None:
    assert set(made_now()["sources"]) == {"my_package.mine", "my_package.layers", "my_package.cycle"}
    assert "my_package" not in sys.modules


def test_neither_torch_nor_pandas_is_imported(python: Python) -> None:
    code = "import sys; from attnbench.cells.sources import sources_of; assert sources_of('attnbench_baselines.cmft:CMFT'); "
    code += "print([name for name in ('torch', 'pandas', 'attnbench_baselines') if name in sys.modules])"
    assert python("-c", code).stdout == "[]\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("x = 1", "x = 1  # one\n\n"),
        ("def f(a, b):\n    return a + b", 'def f(\n    a,\n    b,\n):\n    """The sum."""\n    return (a + b)'),
        ("class A:\n    x: int = 0", 'class A:\n    x: int = 0\n    """How many."""'),
        ("x = 'a'", 'x = u"a"'),
    ],
)
def test_comments_docstrings_and_formatting_are_no_code(before: str, after: str) -> None:
    assert code_digest(before) == code_digest(after)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("x = 1", "x = 2"),
        ("x = 1", "x = 1.0"),
        ("x = 1", "x = True"),
        ("x = 0", "x = None"),
        ("def f():\n    return", "def f():\n    return None"),
        ("x[1:]", "x[:1]"),
        ("x = a - b", "x = b - a"),
        ("x = 'a'", "x = b'a'"),
        ("def f(a, b): g()", "def f(a, *, b): g()"),
        ("this is no Python", "this is no Python either"),
    ],
)
def test_other_code_is_other_code(before: str, after: str) -> None:
    assert code_digest(before) != code_digest(after)


def test_the_digest_does_not_depend_on_what_only_a_newer_python_has_in_its_trees() -> None:
    """A record made under one version of Python is judged under another: this one's digest is written down."""
    text = 'def f(x, *, y=1.5):\n    return f"{x!r:>{y}}" if x else [*x, -1, b"a", None]\n'
    assert code_digest(text) == "3d68749bb5fd1a14825b79f9e4f731624ae9244f68790f936fcfae2e1b2c7b69"


def test_a_change_in_an_imported_file_is_named(package: Path) -> None:
    record = made_now()
    assert changed(record) == []
    (package / "layers.py").write_text("# a comment\n" + LAYERS)
    assert changed(record) == []
    (package / "layers.py").write_text(LAYERS.replace("2 * x", "3 * x"))
    assert changed(record) == ["my_package.layers"]


def test_a_file_that_is_gone_is_named(package: Path) -> None:
    record = made_now()
    (package / "cycle.py").unlink()
    assert changed(record) == ["my_package", "my_package.cycle"]  # the name must now come from the package itself


def test_a_module_that_moved_to_another_file_is_stale(package: Path, tmp_path: Path) -> None:
    record = made_now()
    (package / "mine.py").rename(package / "ours.py")
    (tmp_path / "my_package-1.2.dist-info" / "entry_points.txt").write_text(
        "[attnbench.modules]\nmine = my_package.ours:Mine\n"
    )
    assert changed(record) == ["my_package.mine", "my_package.ours"]


def test_what_is_read_is_remembered_until_it_is_forgotten(package: Path) -> None:
    record = made_now()
    (package / "layers.py").write_text("")
    assert changed_sources(ModuleRecord.model_construct(**record)) == []
    sources.forget()
    assert changed_sources(ModuleRecord.model_construct(**record)) == ["my_package.cycle", "my_package.layers"]


def test_a_module_that_is_not_installed_cannot_be_judged() -> None:
    assert changed_sources(ModuleRecord.model_construct(**{**RECORD, "sources": {"my_package.mine": "0" * 64}})) is None
    assert (
        changed_sources(ModuleRecord.model_construct(**{**RECORD, "name": "sga", "sources": {}})) is None
    )  # of another package than the one here


def test_a_module_without_source_cannot_be_judged(package: Path) -> None:
    record = made_now()
    (package / "mine.py").unlink()
    (package / "mine.so").write_bytes(b"\x7fELF")
    assert sources_of("my_package.mine:Mine") is not None  # as it was
    assert changed(record) is None
    assert changed({**RECORD, "sources": None}) is None


def test_an_older_record_is_judged_by_the_bytes_of_its_file(package: Path) -> None:
    record = {**RECORD, "source_sha256": hashlib.sha256((package / "mine.py").read_bytes()).hexdigest()}
    assert changed(record) == []
    (package / "mine.py").write_text(OWN + "# a comment\n")
    assert changed(record) == ["my_package.mine"]
    assert changed({**RECORD, "source_sha256": None}) is None


def test_a_package_that_only_passes_its_module_on_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "my_package", "mine = my_package:Mine", None)
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").write_text("from my_package.inner.mine import Mine\n")
    (tmp_path / "my_package" / "inner").mkdir()  # a namespace: no __init__.py
    (tmp_path / "my_package" / "inner" / "mine.py").write_text(
        "from ..shared import *\nfrom ...too_far import x\nclass Mine: ...\n"
    )
    (tmp_path / "my_package" / "shared.py").write_text("not Python at all\n")
    assert set(sources_of("my_package:Mine") or ()) == {"my_package", "my_package.inner.mine", "my_package.shared"}


def test_a_module_in_a_zip_has_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "zipped.zip", "w") as archive:
        archive.writestr("zipped_package/__init__.py", "")
        archive.writestr("zipped_package/mine.py", "x = 1")
    monkeypatch.syspath_prepend(str(tmp_path / "zipped.zip"))
    assert set(sources_of("zipped_package.mine:Mine") or ()) == {"zipped_package.mine"}


def test_the_frame_names_the_stale_files_of_each_cell(package: Path, tmp_path: Path) -> None:
    pattern = next((Path(__file__).parents[1] / "results" / "variants").glob("scft-cat-*/cell.json"))
    record = json.loads(pattern.read_text())
    for name, module in {"same": made_now(), "stale": {**made_now(), "sources": {"my_package.mine": "0"}}}.items():
        (tmp_path / "results" / name).mkdir(parents=True)
        said = {**record, "module": {**record["module"], **module}}
        (tmp_path / "results" / name / "cell.json").write_text(json.dumps(said))
    frame = results(tmp_path / "results").set_index("folder")
    assert frame["stale"].isna().to_dict() == {"same": True, "stale": False}
    assert frame.loc["stale", "stale"] == "my_package.cycle, my_package.layers, my_package.mine"


def test_threads_may_ask_for_digests_at_once() -> None:
    """Images are hashed by several threads, and drawn ones by the code that draws them. A garbage collection in the middle of a
    parse lets another thread on, and Python 3.11's parser is one for all of them.
    """
    text = "".join(f"def f{number}(x):\n    return [x + {number}, (x, {{x: {number}}})]\n" for number in range(300))
    usual = gc.get_threshold()

    def let_others_on(phase: str, info: object) -> None:
        time.sleep(0)

    gc.callbacks.append(let_others_on)
    gc.set_threshold(20)
    try:
        with ThreadPoolExecutor(4) as threads:
            assert len(set(threads.map(lambda _: code_digest(text), range(8)))) == 1
    finally:
        gc.callbacks.remove(let_others_on)
        gc.set_threshold(*usual)
