"""A store of thousands of cells is read in a few times what json.load takes, and a grid of thousands is planned in seconds.

Processor time, which a busy machine changes less than the clock's; bounds are wide. benchmarks/scale.py measures what they are.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from runs import HEADS, Python, attnbench, overrides

from attnbench.cells.grid import check_grid
from attnbench.execute.run import cells_of
from attnbench.execute.state import state_of
from attnbench.store.folder import CellFolder
from attnbench.store.frame import results

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "scale.py"
CELLS = 1000


def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scale", BENCHMARK)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    benchmark().make_store(folder, CELLS)
    return folder


def test_the_made_up_cells_are_cells(store: Path) -> None:
    frame = results(store)
    assert len(frame) == frame["identity"].nunique() == CELLS
    assert frame["stale"].isna().all()
    assert frame.groupby(["dataset", "seed"]).size().eq(10).all()


def test_reading_a_store_and_printing_its_table_takes_a_few_times_what_json_load_takes(
    store: Path, seconds: Callable[..., float]
) -> None:
    def bare() -> None:
        for file in store.glob("*/cell.json"):
            with file.open() as opened:
                json.load(opened)

    def table() -> None:
        assert attnbench("table", store).code == 0

    results(store)  # imports
    table()
    reading = seconds(bare)
    assert seconds(lambda: results(store)) < 4 * reading  # 1.4 to 1.7 measured
    assert seconds(table) < 8 * reading  # 2.8 to 3.3, with what does not grow with the store


def test_planning_a_hundred_times_as_many_cells_takes_less_than_twenty_times_as_long(
    tmp_path: Path, seconds: Callable[..., float]
) -> None:
    def look(count: int) -> None:
        checked = check_grid(["sga", "scft"], [HEADS], "demo", overrides=overrides(), seeds=range(count // 2))
        cells = cells_of(checked)
        assert len({cell.folder_name for cell in cells}) == count
        assert all(str(state_of(CellFolder(tmp_path / cell.folder_name))) == "new" for cell in cells)

    look(2)  # decodes the images
    assert seconds(lambda: look(20_000)) < 20 * seconds(lambda: look(200))  # the grid's own check is most of the second


def test_a_grid_of_thousands_of_seeds_is_checked_like_one_of_a_few(seconds: Callable[..., float]) -> None:
    def check(seeds: int) -> None:
        check_grid(["sga"], [HEADS], "demo", overrides=overrides(), seeds=range(seeds))

    check(1)
    assert seconds(lambda: check(20_000)) < 3 * seconds(lambda: check(200))


@pytest.mark.parametrize("arguments", [["--help"], ["table", "STORE"], ["merge", "STORE", "elsewhere"]])
def test_what_does_not_train_does_not_import_torch(arguments: list[str], store: Path, tmp_path: Path, python: Python) -> None:
    code = "import atexit, sys; from attnbench.cli import main; names = ('torch', 'pandas', 'attnbench.tables'); "
    code += "atexit.register(lambda: print([name for name in names if name in sys.modules], file=sys.stderr)); main()"
    given = [str(store) if argument == "STORE" else argument for argument in arguments]
    ended = python("-c", code, *given, cwd=tmp_path)
    wanted = ["pandas", "attnbench.tables"] if arguments[0] == "table" else []
    assert ended.stderr.splitlines()[-1] == str(wanted)
