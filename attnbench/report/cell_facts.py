"""What the page shows of single cells: the command that reproduces each, its provenance, and what went wrong."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from attnbench.cells.record import DIVERGED, FAILED, FINISHED, RUNNING, ModuleRecord, PicturesRecord, Record
from attnbench.console import duration
from attnbench.errors import UserError
from attnbench.execute.board import figures, where
from attnbench.plugins import split_options
from attnbench.store.job import Job, read_job
from attnbench.store.progress import Progress, read_progress
from attnbench.tables.columns import titles
from attnbench.tables.formats import Entry
from attnbench.tables.rows import NOT_TRAINED

_SKIPPED = 20  # at most so many of the images left out of a dataset are named


def command_of(record: Record, folder: Path) -> tuple[str, str]:
    """The command line that reproduces a cell, or continues an unfinished one; and a remark on the command, or "".

    A finished cell is never run twice in its store, so the command reproduces it in another store, `again`. Options that
    `--modules` cannot express go into a grid file, which a first line writes. Pictures that were made elsewhere have none.
    """
    if record.pictures:
        return "", f"These pictures were {NOT_TRAINED}: no command makes them again."
    job = _job(folder)
    if record.status != FINISHED and job:
        retry = ["--retry-failed"] if record.status in (FAILED, DIVERGED) else []
        return shlex.join(["attnbench", "cell", str(folder), *retry]), ""
    recipe = folder / "recipe.yaml"
    # Without that file, the recipe's text on the page, saved under this name, does the same.
    parts = ["attnbench", "run", "--recipe", str(recipe if recipe.is_file() else recipe.name)]
    variant, grid = with_options(record.module), f"{folder.name}.yaml"
    parts += ["--modules", variant] if variant else ["--grid", grid]
    parts += ["--datasets", job.dataset if job else record.dataset.name, "--seeds", str(record.seed)]
    parts += ["--data-root", job.data_root] if job and job.data_root else []
    parts += ["--torch-home", job.torch_home] if job and job.torch_home else []
    parts += ["--skip-corrupt"] if job and job.skip_corrupt else []
    parts += ["-o", "again" if record.status == FINISHED else str(folder.parent)]
    missing = "The images' location is not recorded with this cell: add --data-root, or the dataset's folder and options."
    before = "" if variant else f"printf '%s\\n' {shlex.quote(grid_of(record.module))} > {shlex.quote(grid)}\n"
    return before + shlex.join(parts), "" if job else missing


def with_options(module: ModuleRecord) -> str | None:
    """`sga:stop_gradient=false`, as `--modules` takes it; None if it cannot, since it splits at every comma and colon.

    >>> with_options(ModuleRecord.model_construct(name="sga", given={"stop_gradient": False}))
    'sga:stop_gradient=false'
    >>> with_options(ModuleRecord.model_construct(name="mine", given={"layers": [1, 2]}))
    """
    given = module.given
    text = ":".join([module.name, *(f"{key}={_yaml(value)}" for key, value in given.items())])
    try:
        read = split_options(text, "module")
    except UserError:
        return None
    same = json.dumps(read, default=str) == json.dumps((module.name, given))  # 1, 1.0 and true are equal in Python
    return text if same and "," not in text else None


def grid_of(module: ModuleRecord) -> str:
    """A grid file with this one variant, as `--grid` takes it.

    >>> grid_of(ModuleRecord.model_construct(name="mine", label="Mine", given={"layers": [1, 2]}))
    '{title: Mine, variants: [{module: mine, options: {layers: [1, 2]}, label: Mine}]}'
    """
    variant = {"module": module.name, "options": module.given, "label": module.label}
    return _yaml({"title": module.label, "variants": [variant]})


def _yaml(value: Any) -> str:
    """On one line, unless a text in it has several."""
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf)
    return text.removesuffix("\n").removesuffix("\n...")  # YAML's end mark after a plain text


def _job(folder: Path) -> Job | None:
    """The cell's job.json, which names the images' location; None if it is missing or cannot be read."""
    try:
        return read_job(folder)
    except (UserError, OSError):  # the command without a data root is still right
        return None


def facts(record: Record) -> list[tuple[str, str]]:
    """Module, data, weights, provenance and times of a cell: (name, text)."""
    if record.pictures:
        return _facts_of_pictures(record, record.pictures)
    module, dataset, provenance = record.module, record.dataset, record.provenance
    options = ", ".join(f"{name}={_plain(value)}" for name, value in module.options.items())
    found = [
        ("module", ", ".join(filter(None, [module.target, f"{module.package} {module.version}"]))),
        ("options", options or "none"),
        ("data", f"{dataset.name}: {dataset.train} training images"),
        ("fingerprint", dataset.fingerprint),
        ("identity", record.identity),
        ("steps", f"{record.step}"),
    ]
    if skipped := dataset.skipped:
        named = ", ".join(skipped[:_SKIPPED]) + (f" and {len(skipped) - _SKIPPED} more" * (len(skipped) > _SKIPPED))
        found.append(("left out of the data", named))
    found += [(f"weights {name}", digest) for name, digest in record.weights.items()]
    made_by = {name: getattr(provenance, name) for name in ("device", "threads", "platform", "commit")}
    found += [(name, str(value)) for name, value in made_by.items() if value]
    if provenance.versions:
        found.append(("versions", ", ".join(f"{name} {number}" for name, number in provenance.versions.items() if number)))
    if record.started:
        found.append(("started", record.started))
    if record.ended:
        found.append(("ended", record.ended + _since_start(record)))
    return found


def _facts_of_pictures(record: Record, pictures: PicturesRecord) -> list[tuple[str, str]]:
    sides = f"{pictures.side} px" if pictures.side == pictures.size else f"{pictures.side} px, measured at {pictures.size} px"
    return [
        ("made", ", ".join(filter(None, [NOT_TRAINED, f"{record.module.package} {record.module.version}".strip()]))),
        *([("note", pictures.note)] if pictures.note else []),
        ("pictures", f"{sides}, digest {pictures.digest}"),
        ("data", record.dataset.name),
        ("identity", record.identity),
    ]


def _since_start(record: Record) -> str:
    try:
        started, ended = (datetime.fromisoformat(time or "") for time in (record.started, record.ended))
        return f" ({duration((ended - started).total_seconds())} after its last start)"
    except (TypeError, ValueError):  # missing, not a date, or only one of them with a time zone
        return ""


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{name} {_plain(one)}" for name, one in value.items())
    return str(value).lower() if isinstance(value, bool) else str(value)


def metrics(record: Record) -> list[tuple[str, str, str]]:
    """(title, with the protocol if it is not the usual one; value; what is recorded with it) of each number of a cell."""
    found = []
    for measurement in record.measurements:
        label = measurement.protocol.label
        names = titles(
            {key: one.metric for key, one in measurement.metrics.items()}, [(key, "") for key in measurement.metrics]
        )
        test = f"{measurement.test.images} test images {measurement.test.fingerprint[:8]}"
        for key, number in measurement.metrics.items():
            parts = [f"{name} {_plain(part)}" for name, part in number.parts.items() if name not in ("reason", "failed")]
            value = "-" if number.value is None else f"{number.value:.4f}"
            found.append((", ".join(filter(None, [names[key, ""], label])), value, ", ".join([*parts, test])))
    return found


def troubles(record: Record, stale: str | None) -> list[str]:
    """What is wrong with a cell: a failure, metrics that failed or lack weights, code changed since its training."""
    found = []
    if record.status in (FAILED, DIVERGED):
        why = (record.failure.message if record.failure else "") or "for a reason that was not recorded"
        found.append(why if why.startswith(record.status) else f"{record.status}: {why}")
    for measurement in record.measurements:
        for number in measurement.metrics.values():
            if number.value is None and (number.missing or number.failed):  # not where a metric does not fit the dataset
                title = ", ".join(filter(None, [number.metric.title, measurement.protocol.label]))
                found.append(f"{title} was not measured: {number.reason}")
    if record.status == FINISHED and not record.measurements:
        found.append("not measured: `attnbench measure` measures it")
    if stale and record.status == FINISHED:
        found.append(f"stale: {stale} changed since this was trained; `attnbench run ... --rerun-stale` runs it again")
    return found


def running_cells(cells: Mapping[str, tuple[str, str]], store: Path) -> Iterator[dict[str, Any]]:
    """Progress of the running cells, for the page's board.

    Args:
        cells: folder -> (label, status) of the running cells.
    """
    for folder, (label, status) in cells.items():
        progress = read_progress(store / folder) if status == RUNNING else None
        step, losses, speed, left = figures(progress)
        yield {
            "label": label,
            "step": step,
            "state": losses,
            "speed": speed,
            "left": left,
            "where": where(progress),
            "share": _share(progress),
        }


def _share(progress: Progress | None) -> float:
    """Percentage done: of the training, or of the measurement while the cell is measured."""
    if progress is None:
        return 0.0
    done, total = (progress.done, progress.of) if progress.phase == "measuring" else (progress.step, progress.total)
    return 100 * done / max(total, 1)


def numbers_in(entries: list[Entry]) -> list[float | None]:
    """Sort keys of a column: the number of each entry, None where it has none.

    >>> numbers_in([Entry("29.70", 0, "± 0.10"), Entry("failed"), Entry("-")])
    [29.7, None, None]
    """
    found: list[float | None] = []
    for entry in entries:
        try:
            found.append(float(entry.value))
        except ValueError:
            found.append(None)
    return found
