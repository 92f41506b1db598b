"""For users who run experiments."""

from __future__ import annotations

from pathlib import Path

import typer

from attnbench.cli.app import app
from attnbench.cli.options import (
    DataRoot,
    LogTo,
    Overrides,
    RecordGradients,
    RerunStale,
    RetryFailed,
    TorchHome,
    assignments,
    split_list,
    whole_numbers,
)
from attnbench.cli.run_flags import (
    CheckpointMinutes,
    Cpus,
    Datasets,
    Detach,
    Devices,
    DryRun,
    EvaluationBatch,
    ExecutorName,
    Gpus,
    GridChoice,
    Jobs,
    JobTime,
    Limit,
    Memory,
    Modules,
    Output,
    Partition,
    Pictures,
    PicturesChoice,
    RecipeChoice,
    References,
    Sbatch,
    Seeds,
    Setup,
    SkipCorrupt,
    TimeLimit,
    Where,
)
from attnbench.errors import UserError

_FIRST_STEPS = """\
attnbench run trains every module on every dataset, measures it, and prints the table.

  attnbench run --recipe demo --modules sga,scft --datasets synthetic
      a first look: cartoon heads drawn here, a few minutes on two CPU cores, nothing to download

  attnbench run --modules sga,scft --datasets anime,cat --data-root ~/data
      the paper's protocol; images in ~/data/anime and ~/data/cat (or ~/data/afhq)

  attnbench run --modules sga,sga:stop_gradient=false --datasets mine=path/to/images --dry-run
      a module with an option, a folder of your own; --dry-run only shows what would be done

Running the same command again does only what is missing. `attnbench run --help` lists every option.
"""


@app.command(
    epilog="""Examples:

`attnbench run --recipe demo --modules sga,scft --datasets synthetic`
`attnbench run --modules sga,scft --datasets anime,cat --data-root ~/data --set train.epochs=1`
`attnbench run --modules sga:stop_gradient=false --datasets mine=path/to/images --seeds 0,1,2`
`attnbench run --grid ablation --datasets cat --data-root ~/data`
`attnbench run --grid comparison --modules mine --datasets cat`, six modules and yours
`attnbench run --grid comparison --seeds 0,1,2,3,4 --jobs 8 --devices 0,1,2,3`, two cells on each of four GPUs
`attnbench run --grid comparison --executor slurm --partition gpu --time 8:00:00`

Exit codes: 0 all cells are finished; 1 some failed or diverged; 2 bad input, or a full disk; 130 interrupted.
"""
)
def run(
    modules: Modules = "",
    datasets: Datasets = "",
    grid: GridChoice = None,
    recipe: RecipeChoice = "official",
    overrides: Overrides = None,
    seeds: Seeds = "0",
    store: Output = Path("results"),
    data_root: DataRoot = None,
    torch_home: TorchHome = None,
    executor: Where = ExecutorName.local,
    jobs: Jobs = None,
    devices: Devices = "",
    time_limit: TimeLimit = None,
    checkpoint_minutes: CheckpointMinutes = 10.0,
    retry_failed: RetryFailed = False,
    rerun_stale: RerunStale = False,
    record_gradients: RecordGradients = False,
    log_to: LogTo = None,
    skip_corrupt: SkipCorrupt = False,
    limit: Limit = None,
    references: References = None,
    pictures: Pictures = PicturesChoice.lossless,
    evaluation_batch: EvaluationBatch = 16,
    dry_run: DryRun = False,
    detach: Detach = False,
    partition: Partition = None,
    time: JobTime = None,
    gpus: Gpus = None,
    cpus: Cpus = None,
    memory: Memory = None,
    slurm: Sbatch = None,
    setup: Setup = None,
) -> None:
    """Train and measure modules on datasets; print the table.

    What is trained is not trained twice, what is measured not measured twice; an interrupted cell continues where it stopped.
    Without arguments: first steps.
    """
    if not modules and not datasets and grid is None:
        typer.echo(_FIRST_STEPS)
        return
    if grid is None and not (modules and datasets):
        missing = "--modules" if not modules else "--datasets"
        raise UserError(f"{missing} is missing: `attnbench list` shows the choices, `attnbench run` alone shows examples")

    from attnbench.cli import show
    from attnbench.config.recipe import limited
    from attnbench.errors import CellsFailed
    from attnbench.execute.run import RunRequest, cells_of, check_request, make_executor, run_request
    from attnbench.store.job import run_options

    request = RunRequest(
        modules=split_list(modules),
        datasets=split_list(datasets),
        recipe=recipe,
        grid=grid,
        overrides=limited(overrides or (), limit, references),
        seeds=whole_numbers(seeds, "--seeds"),
        store=store,
        data_root=data_root,
        torch_home=torch_home,
        skip_corrupt=skip_corrupt,
        executor=make_executor(
            executor,
            {
                "--devices": split_list(devices) or None,
                "--jobs": jobs,
                "--partition": partition,
                "--time": time,
                "--gpus": gpus,
                "--cpus": cpus,
                "--memory": memory,
                "--slurm": assignments(slurm, "--slurm") if slurm else None,
                "--setup": setup,
                "--detach": detach or None,
            },
        ),
        options=run_options(
            checkpoint_minutes=checkpoint_minutes,
            retry_failed=retry_failed,
            rerun_stale=rerun_stale,
            record_gradients=record_gradients,
            log_to=log_to,
            time_limit_minutes=time_limit,
            references=references,
            pictures=pictures.value,
            evaluation_batch=evaluation_batch,
        ),
    )
    if dry_run:
        checked = check_request(request)
        planned = cells_of(checked, skip_corrupt=skip_corrupt)
        show.plan(planned, store, request.executor, request.measured_by(checked))
        return
    cells, outcome = run_request(request)
    for command in outcome.commands:
        typer.echo(command)
    if request.executor.leaves_cells:
        return
    show.tables_of(cells, store)
    if outcome.failed:
        typer.echo(CellsFailed(outcome.failed, len(cells), store))
        raise typer.Exit(1)
