"""Running a grid: the code shared by `attnbench run` and `attnbench.run`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnbench import weights
from attnbench.cells.cell import Cell
from attnbench.cells.grid import Grid, check_grid
from attnbench.config.recipe import is_set, limited
from attnbench.console import messages_shown, warn
from attnbench.data.images import prepare
from attnbench.data.origin import default_data_root
from attnbench.errors import CellsFailed, UserError, unknown
from attnbench.execute.asked import Asked
from attnbench.execute.commands import Commands
from attnbench.execute.disk_space import check_space
from attnbench.execute.executor import Executor, Outcome
from attnbench.execute.inline import Inline
from attnbench.execute.local import Local
from attnbench.execute.migrate import migrate_for
from attnbench.execute.slurm import Slurm
from attnbench.execute.state import with_work
from attnbench.metrics.measure import check_metrics
from attnbench.store.folder import open_store
from attnbench.store.frame import results
from attnbench.store.job import RunOptions, run_options
from attnbench.training.gradient_cosines import check_recordable
from attnbench.training.logs import check_logger

if TYPE_CHECKING:
    import pandas as pd

EXECUTORS: Mapping[str, type[Executor]] = {kind.name: kind for kind in (Local, Slurm, Inline, Commands)}


@dataclass(frozen=True)
class RunRequest:
    """What one command asks for.

    Attributes:
        modules, datasets, recipe, grid, overrides, seeds, data_root: see `check_grid`.
        store: the results folder.
        torch_home: the folder with pretrained weights; by default `$TORCH_HOME`.
        skip_corrupt: leave out images that cannot be decoded, instead of refusing.
        executor: where cells run.
        options: how they run.
    """

    modules: Sequence[str] = ()
    datasets: Sequence[str] = ()
    recipe: str | Path = "official"
    grid: str | Path | None = None
    overrides: Sequence[str] = ()
    seeds: Sequence[int] = (0,)
    store: Path = Path("results")
    data_root: Path | None = None
    torch_home: Path | None = None
    skip_corrupt: bool = False
    executor: Executor = field(default_factory=Local)
    options: RunOptions = field(default_factory=RunOptions)

    def measured_by(self, grid: Grid) -> RunOptions:
        """The options, with the evaluation of the grid's recipe."""
        return self.options.model_copy(update={"evaluation": grid.recipe.evaluation})


def check_request(request: RunRequest) -> Grid:
    """Look everything up; no image is decoded, nothing is written.

    Raises:
        UserError: anything that the user can fix.
    """
    request.executor.check(request.options)
    check_logger(request.options.log_to)
    weights.use_torch_home(request.torch_home)
    grid = check_grid(
        request.modules,
        request.datasets,
        request.recipe,
        grid=request.grid,
        overrides=request.overrides,
        seeds=request.seeds,
        data_root=request.data_root or default_data_root(),
    )
    if request.options.record_gradients:
        check_recordable(grid.recipe)
    _check_metrics(grid, request)
    return grid


def _check_metrics(grid: Grid, request: RunRequest) -> None:
    """Refuse metrics that were asked for by name and can measure none of the datasets, and references that cannot be used."""
    asked = Asked.of_options(request.measured_by(grid), grid.recipe.data)
    named = is_set(request.overrides, "evaluation.metrics")  # of a recipe's own, some may have no number on these datasets
    check_metrics(asked.metrics, grid.datasets, asked.protocols, named=named)


def cells_of(grid: Grid, *, skip_corrupt: bool = False) -> list[Cell]:
    """Decode the images, and list the cells.

    Raises:
        UserError: images that cannot be decoded (`skip_corrupt` leaves them out); weights that training needs are missing.
    """
    if grid.recipe.needs_perceptual_network:
        try:
            weights.find_or_download("vgg19")
        except weights.MissingWeights as missing:
            raise UserError(f"the perceptual and style losses need a network: {missing}") from None
    prepared = []
    for dataset in grid.datasets:
        prepared.append(prepare(dataset, grid.recipe.data, skip_corrupt=skip_corrupt))
        for name in prepared[-1].skipped:
            warn(f"left out, cannot be decoded: {dataset.name}/{name}")
    return grid.cells(prepared, skip_corrupt=skip_corrupt)


def run_request(request: RunRequest) -> tuple[list[Cell], Outcome]:
    """Run the cells that are not finished. Returns all cells, and the outcome.

    Raises:
        UserError: anything that the user can fix, before any work starts.
        KeyboardInterrupt, Interrupted, DiskFull: as `Executor.run`.
    """
    grid = check_request(request)
    store = open_store(request.store)
    cells = cells_of(grid, skip_corrupt=request.skip_corrupt)
    options = request.measured_by(grid)
    migrate_for(store, {id(cell.dataset): cell.dataset for cell in cells}.values())
    executor = request.executor.fitted(with_work(cells, store, options))
    check_space(cells, store, options.pictures, at_once=executor.at_once(cells))
    return cells, executor.run(cells, store, options)


def make_executor(name: str, flags: Mapping[str, Any]) -> Executor:
    """The executor with that name.

    Args:
        flags: flag -> value, as on the command line; None or False for those not given.

    Raises:
        UserError: no such executor, or a flag that it does not take.
    """
    if name not in EXECUTORS:
        raise unknown("executor", name, EXECUTORS)
    kind = EXECUTORS[name]
    options = {}
    for flag, value in flags.items():
        if value is None or value is False:
            continue
        if flag in kind.refusals:
            raise UserError(f"{flag} does not apply to --executor {name}: {kind.refusals[flag]}")
        if flag not in kind.flags:
            takers = " or ".join(other.name for other in EXECUTORS.values() if flag in other.flags)
            raise UserError(f"{flag} needs --executor {takers}")
        options[kind.flags[flag]] = [value] if flag in ("--devices", "--setup") and isinstance(value, str) else value
    return kind(**options)


def run(
    modules: Sequence[str] | str = (),
    datasets: Sequence[str] | str = (),
    recipe: str | Path = "official",
    *,
    grid: str | Path | None = None,
    overrides: Sequence[str] | str = (),
    seeds: Sequence[int] | int = (0,),
    store: str | Path = "results",
    data_root: str | Path | None = None,
    torch_home: str | Path | None = None,
    skip_corrupt: bool = False,
    executor: str = "local",
    checkpoint_minutes: float = 10.0,
    time_limit: float | None = None,
    retry_failed: bool = False,
    rerun_stale: bool = False,
    record_gradients: bool = False,
    log_to: str | None = None,
    limit: int | None = None,
    references: str | Path | None = None,
    pictures: str = "lossless",
    evaluation_batch: int = 16,
    raise_on_failure: bool = True,
    **executor_options: Any,
) -> pd.DataFrame:
    """Train and evaluate every module on every dataset; cells that are finished are not run again.

    Args:
        modules: one or several, as on the command line, for example `["sga", "scft:stop_gradient=true"]`.
        datasets: `["cat", "synthetic", "mine=path/to/folder"]`.
        recipe: a built-in name or a YAML file; overrides: `["train.epochs=1"]`.
        grid: a built-in grid or a YAML file: its variants come before `modules`, its datasets where `datasets` is empty.
        torch_home: the folder with pretrained weights; by default `$TORCH_HOME`.
        skip_corrupt: leave out images that cannot be decoded, instead of refusing.
        executor: `local` (a process for each cell), `slurm`, `inline` (this process) or `commands` (only plan the cells).
        checkpoint_minutes: minutes between checkpoints.
        time_limit: minutes that a cell may take; one that takes longer is recorded as failed.
        retry_failed: run failed and diverged cells again.
        rerun_stale: run cells again if their module's code has changed since; the old ones are kept.
        record_gradients: keep the cosines of the branches' gradients, every epoch, for `attnbench analyze gradients`.
        log_to: where losses and sample pictures are logged besides the cell's own files: `tensorboard`, or nowhere.
        limit: measure only the first pairs, so many of them; training is the same.
        references: a folder of references from elsewhere, instead of the recipe's.
        pictures: how test pictures are kept: `lossless` (metrics can be measured from them later), `small` or `none`.
        evaluation_batch: test pairs that are coloured at once; no number depends on it.
        raise_on_failure: whether cells that fail raise an error once all have been run. The frame has them either way.
        executor_options: as on the command line, with underscores. `devices` (`["cuda:0", "cuda:1"]`; by default all GPUs, or
            the CPU) for all but `slurm`; `jobs` (cells at a time) for `local` and `slurm`; `partition`, `time`, `gpus`, `cpus`,
            `memory`, `setup`, `detach` and `slurm` (`{"account": "lab"}`) for `slurm`.

    Returns:
        The store as a frame, see `attnbench.results`. For `commands`, `frame.attrs["commands"]` are the command lines.

    Raises:
        UserError: bad input, before any work starts.
        CellsFailed: cells have failed, and `raise_on_failure` is set.
    """
    flags = {name.removeprefix("--").replace("-", "_"): name for kind in EXECUTORS.values() for name in kind.flags}
    for name in executor_options:
        if name not in flags:
            raise TypeError(f"run() got an unexpected keyword argument '{name}' (of executors: {', '.join(sorted(flags))})")
    request = RunRequest(
        modules=[modules] if isinstance(modules, str) else modules,
        datasets=[datasets] if isinstance(datasets, str) else datasets,
        recipe=recipe,
        grid=grid,
        overrides=limited([overrides] if isinstance(overrides, str) else overrides, limit, references),
        seeds=[seeds] if isinstance(seeds, int) else seeds,
        store=Path(store),
        data_root=Path(data_root) if data_root is not None else None,
        torch_home=Path(torch_home) if torch_home is not None else None,
        skip_corrupt=skip_corrupt,
        executor=make_executor(executor, {flags[name]: value for name, value in executor_options.items()}),
        options=run_options(
            checkpoint_minutes=checkpoint_minutes,
            retry_failed=retry_failed,
            rerun_stale=rerun_stale,
            record_gradients=record_gradients,
            log_to=log_to,
            time_limit_minutes=time_limit,
            references=references,
            pictures=pictures,
            evaluation_batch=evaluation_batch,
        ),
    )
    with messages_shown(unless_handled=True):
        cells, outcome = run_request(request)
        if outcome.failed:
            failure = CellsFailed(outcome.failed, len(cells), request.store)
            if raise_on_failure:
                raise failure
            warn(str(failure))
        frame = results(store)
    frame.attrs["commands"] = outcome.commands
    return frame
