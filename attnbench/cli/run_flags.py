"""The flags of `attnbench run`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class ExecutorName(StrEnum):
    """Where cells run."""

    local = "local"
    slurm = "slurm"
    inline = "inline"
    commands = "commands"


class PicturesChoice(StrEnum):
    """How test pictures are kept."""

    lossless = "lossless"
    small = "small"
    none = "none"


SLURM = "With --executor slurm"

Modules = Annotated[
    str, typer.Option("--modules", "-m", help="Modules, comma-separated; options as `sga:stop_gradient=false`.")
]
Datasets = Annotated[
    str,
    typer.Option("--datasets", "-d", help="Datasets, comma-separated: names, `name=folder`, `synthetic:train=200`."),
]
GridChoice = Annotated[
    str | None,
    typer.Option("--grid", "-g", help="A built-in grid or a YAML file: its variants, and its datasets without --datasets."),
]
RecipeChoice = Annotated[str, typer.Option("--recipe", "-r", help="A built-in recipe or a YAML file.")]
Seeds = Annotated[str, typer.Option("--seeds", help="Seeds, comma-separated.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Results folder.")]
Where = Annotated[
    ExecutorName,
    typer.Option(
        "--executor",
        help="local: a process per cell on this machine; slurm: a cluster; inline: this process, for debuggers; commands: "
        "only plan the cells, and print a command for each, for your own scheduler.",
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        "-j",
        min=1,
        help="Cells at a time, spread over the devices. \\[default: one on a CPU; on each GPU up to 5 small or 2 full ones, as "
        "memory and CPU cores allow; on a cluster as many as it has room for]",
    ),
]
Devices = Annotated[str, typer.Option("--devices", help="cuda:0,cuda:1 or 0,1 or cpu. \\[default: all GPUs, or the CPU]")]
TimeLimit = Annotated[
    float | None,
    typer.Option("--time-limit", min=0.01, help="Minutes a cell may take; one that takes longer is recorded as failed."),
]
CheckpointMinutes = Annotated[float, typer.Option("--checkpoint-minutes", min=0, help="Time between checkpoints.")]
SkipCorrupt = Annotated[
    bool, typer.Option("--skip-corrupt", help="Leave out images that cannot be decoded, instead of refusing.")
]
Limit = Annotated[
    int | None,
    typer.Option("--limit", min=1, help="Measure only the first pairs, so many of them; training is the same. Tables say it."),
]
References = Annotated[
    Path | None,
    typer.Option(
        "--references",
        help="A folder of references from elsewhere, instead of the recipe's; metrics that need a right answer are left out.",
    ),
]
Pictures = Annotated[
    PicturesChoice,
    typer.Option(
        "--pictures",
        help="How test pictures are kept: lossless, so that later metrics can be measured from them; small; or none.",
    ),
]
EvaluationBatch = Annotated[
    int,
    typer.Option("--evaluation-batch", min=1, help="Test pairs that are coloured at once; no number depends on it."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")]
Detach = Annotated[bool, typer.Option("--detach", help="Leave the cells to the cluster, and return.", rich_help_panel=SLURM)]
Partition = Annotated[str | None, typer.Option("--partition", rich_help_panel=SLURM, help="Partition of the cluster.")]
JobTime = Annotated[
    str | None,
    typer.Option(
        "--time",
        rich_help_panel=SLURM,
        help="Time limit of a job: minutes or 8:00:00; a cell that needs longer continues in another job.",
    ),
]
Gpus = Annotated[
    int | None, typer.Option("--gpus", min=0, rich_help_panel=SLURM, help="GPUs per cell; 0 for the CPU. \\[default: 1]")
]
Cpus = Annotated[int | None, typer.Option("--cpus", min=1, rich_help_panel=SLURM, help="CPU cores per cell.")]
Memory = Annotated[str | None, typer.Option("--memory", rich_help_panel=SLURM, help="Memory per cell: 32G.")]
Sbatch = Annotated[
    list[str] | None,
    typer.Option("--slurm", rich_help_panel=SLURM, help="Any other option of sbatch: `--slurm account=lab`. Repeatable."),
]
Setup = Annotated[
    list[str] | None,
    typer.Option("--setup", rich_help_panel=SLURM, help="A shell line to run before a job: `module load cuda`. Repeatable."),
]
