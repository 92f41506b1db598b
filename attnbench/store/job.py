"""job.json: what another process on this machine needs to run a cell, beside the content of cell.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from attnbench.cells.record import PicturesKind
from attnbench.config.recipe import Evaluation
from attnbench.config.yaml_files import validated
from attnbench.errors import UserError
from attnbench.files import write_text


class RunOptions(BaseModel):
    """How a cell is run, and what is measured of it. No option changes a number.

    Attributes:
        evaluation: what is to be measured, and by which protocols.
        references: a folder of references from elsewhere, instead of those that `evaluation` names.
        again: measure again what is measured already.
        evaluation_batch: test pairs that are coloured at once.
        pictures: how test pictures are kept.
        checkpoint_minutes: minutes between checkpoints.
        retry_failed: run it again if it failed or diverged.
        rerun_stale: run it again if the code of its module has changed since.
        record_gradients: record, every epoch, the cosines between the gradients of the module's branches.
        log_to: where losses and sample pictures are logged besides the cell's own files: `tensorboard`, or nowhere.
        time_limit_minutes: minutes that the cell may take in this run before it counts as failed; its runner sees to it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    evaluation: Evaluation = Field(default_factory=Evaluation)
    references: str | None = None
    again: bool = False
    evaluation_batch: int = Field(16, ge=1)
    pictures: PicturesKind = "lossless"
    checkpoint_minutes: float = Field(10.0, ge=0, allow_inf_nan=False)
    retry_failed: bool = False
    rerun_stale: bool = False
    record_gradients: bool = False
    log_to: str | None = None
    time_limit_minutes: float | None = Field(None, gt=0, allow_inf_nan=False)

    @field_validator("log_to", mode="before")
    @classmethod
    def _none_is_nowhere(cls, name: Any) -> Any:
        return None if name == "none" else name

    @field_validator("references", mode="before")
    @classmethod
    def _as_another_process_finds_it(cls, folder: Any) -> Any:
        return str(Path(folder).expanduser().absolute()) if isinstance(folder, (str, Path)) else folder


def run_options(**values: Any) -> RunOptions:
    """The options of a run; raises UserError for values out of range."""
    return validated(RunOptions, values, "options of the run")


class Job(BaseModel):
    """The content of job.json.

    Attributes:
        dataset: as on the command line, paths absolute.
        data_root: the folder that holds the datasets' folders.
        torch_home: the folder with pretrained weights.
        slurm: the id of the SLURM job that runs the cell, or ran it last.
        options: of the run that planned the cell. `attnbench cell` goes by them, but for those that decide to run it again.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    dataset: str
    data_root: str | None = None
    skip_corrupt: bool = False
    torch_home: str | None = None
    slurm: str | None = None
    options: RunOptions = RunOptions()


def write_job(folder: Path, job: Job) -> None:
    write_text(folder / "job.json", job.model_dump_json(indent=1) + "\n", sync=False)


def update_job(folder: Path, **changes: Any) -> None:
    """Change fields of job.json, if it exists."""
    if job := read_job(folder):
        write_job(folder, job.model_copy(update=changes))


def read_job(folder: Path) -> Job | None:
    """The content of job.json, or None if it does not exist.

    Raises:
        UserError: it is damaged.
    """
    file = folder / "job.json"
    try:
        return Job.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as errors:
        first = errors.errors()[0]
        where = ".".join(map(str, first["loc"]))
        why = f"{where}: {first['msg']}" if where else first["msg"]
        raise UserError(f"'{file}' is damaged ({why}): delete it, and `attnbench run` writes it again") from None
