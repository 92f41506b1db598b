"""A grid from Python: `attnbench.run`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from attnbench.cells.grid import check_grid
from attnbench.console import Reporter
from attnbench.data.origin import default_data_root
from attnbench.devices import pick_devices
from attnbench.execute.disk_space import check_space
from attnbench.execute.local import run_local
from attnbench.execute.planning import plan
from attnbench.execute.worker import CellOptions
from attnbench.store.folder import open_store
from attnbench.store.frame import results
from attnbench.training.gradient_cosines import check_recordable


def run(
    modules: Sequence[str] = (),
    datasets: Sequence[str] = (),
    recipe: str | Path = "official",
    *,
    grid: str | Path | None = None,
    overrides: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    store: str | Path = "results",
    data_root: str | Path | None = None,
    devices: Sequence[str] = (),
    jobs: int | None = None,
    record_gradients: bool = False,
) -> pd.DataFrame:
    """Train and evaluate every module on every data set; cells that are finished are not run again.

    Args:
        modules: as on the command line, for example `["sga", "scft:stop_gradient=true"]`.
        datasets: `["cat", "synthetic", "mine=path/to/folder"]`.
        recipe: a built-in name or a YAML file; overrides: `["train.epochs=1"]`.
        grid: a built-in grid or a YAML file: its variants come before `modules`, its data sets where `datasets` is empty.
        devices: `["cuda:0", "cuda:1"]`; by default all GPUs, or the CPU. A cell runs on one of them, in a process of its own.
        jobs: cells at a time; by default one a device.
        record_gradients: keep the cosines of the branches' gradients, every epoch, for `attnbench analyze gradients`.

    Returns:
        The store as a frame, see `attnbench.results`.

    Raises:
        UserError: bad input, before any work starts.
    """
    root = Path(data_root) if data_root is not None else default_data_root()
    checked = check_grid(modules, datasets, recipe, grid=grid, overrides=overrides, seeds=seeds, data_root=root)
    if record_gradients:
        check_recordable(checked.recipe)
    found, reporter = pick_devices(devices), Reporter()
    folder = open_store(Path(store))
    cells = plan(checked, reporter)
    check_space(cells, folder, jobs or len(found))
    run_local(cells, folder, reporter, CellOptions(record_gradients=record_gradients), devices=found, jobs=jobs)
    return results(store)
