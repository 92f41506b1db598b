"""What the page says of single cells: how each is made again, where it comes from, and in words what went wrong."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from attnbench.cells.record import DIVERGED, FAILED, FINISHED, RUNNING
from attnbench.console import duration
from attnbench.errors import UserError
from attnbench.execute.board import figures, where
from attnbench.metrics.known import METRIC_NAMES
from attnbench.plugins import split_options
from attnbench.report.curves import titled
from attnbench.store.progress import Progress, read_progress
from attnbench.tables.formats import Entry

_SKIPPED = 20  # images left out of a data set that are named


def command_of(record: Mapping[str, Any], store: Path) -> tuple[str, str]:
    """The command line that makes a cell again, or that goes on with it where it is not finished; and what to know of it.

    A finished cell is never run twice in its store, so the command makes it in another, `again`. Options that `--modules`
    cannot express come in a grid's file, which a first line writes.
    """
    folder, job = store / record["folder"], _job(store / record["folder"])
    if record["status"] != FINISHED and job:
        retry = ["--retry-failed"] if record["status"] in (FAILED, DIVERGED) else []
        return shlex.join(["attnbench", "cell", str(folder), *retry]), ""
    recipe = folder / "recipe.yaml"
    # Without that file the page's text of the recipe, saved under this name, does the same.
    parts = ["attnbench", "run", "--recipe", str(recipe if recipe.is_file() else recipe.name)]
    variant, grid = with_options(record["module"]), f"{folder.name}.yaml"
    parts += ["--modules", variant] if variant else ["--grid", grid]
    parts += ["--datasets", job.get("dataset") or record["dataset"]["name"], "--seeds", str(record["seed"])]
    parts += ["--data-root", job["data_root"]] if job.get("data_root") else []
    parts += ["--torch-home", job["torch_home"]] if job.get("torch_home") else []
    parts += ["--skip-corrupt"] if job.get("skip_corrupt") else []
    parts += ["-o", "again" if record["status"] == FINISHED else str(store)]
    missing = "Where the images were is not recorded with this cell: add --data-root, or what the data set was given."
    before = "" if variant else f"printf '%s\\n' {shlex.quote(grid_of(record['module']))} > {shlex.quote(grid)}\n"
    return before + shlex.join(parts), "" if job else missing


def with_options(module: Mapping[str, Any]) -> str | None:
    """`sga:stop_gradient=false`, as `--modules` takes it; None where it cannot: it splits at every comma and colon.

    >>> with_options({"name": "sga", "given": {"stop_gradient": False}})
    'sga:stop_gradient=false'
    >>> with_options({"name": "mine", "given": {"layers": [1, 2]}})
    """
    given = module["given"]
    text = ":".join([module["name"], *(f"{key}={_yaml(value)}" for key, value in given.items())])
    try:
        read = split_options(text, "module")
    except UserError:
        return None
    same = json.dumps(read, default=str) == json.dumps((module["name"], given))  # 1, 1.0 and true are equal in Python
    return text if same and "," not in text else None


def grid_of(module: Mapping[str, Any]) -> str:
    """A grid's file with this one variant, as `--grid` takes it.

    >>> grid_of({"name": "mine", "label": "Mine", "given": {"layers": [1, 2]}})
    '{title: Mine, variants: [{module: mine, options: {layers: [1, 2]}, label: Mine}]}'
    """
    variant = {"module": module["name"], "options": module["given"], "label": module["label"]}
    return _yaml({"title": module["label"], "variants": [variant]})


def _yaml(value: Any) -> str:
    """On one line, unless a text in it has several."""
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf)
    return text.removesuffix("\n").removesuffix("\n...")  # which marks the end behind a text


def _job(folder: Path) -> dict[str, Any]:
    """What job.json says of where the images are; empty where there is none that can be read."""
    from attnbench.store.job import read_job

    try:
        return read_job(folder)
    except (UserError, OSError):  # the command without a data root is still right
        return {}


def facts(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Module, data, weights, provenance and times of a cell: (name, text)."""
    module, dataset, provenance = record["module"], record["dataset"], record.get("provenance") or {}
    options = ", ".join(f"{name}={_plain(value)}" for name, value in module["options"].items())
    found = [
        ("module", f"{module['target']}, {module['package']} {module['version']}"),
        ("options", options or "none"),
        ("data", f"{dataset['name']}: {dataset['train']} training and {dataset['test']} test images"),
        ("fingerprint", dataset["fingerprint"]),
        ("identity", record["identity"]),
        ("steps", f"{record.get('step', 0)}"),
    ]
    if skipped := dataset.get("skipped"):
        named = ", ".join(map(str, skipped[:_SKIPPED])) + (f" and {len(skipped) - _SKIPPED} more" * (len(skipped) > _SKIPPED))
        found.append(("left out of the data", named))
    found += [(f"weights {name}", digest) for name, digest in record["weights"].items()]
    found += [(name, str(provenance[name])) for name in ("device", "threads", "platform", "commit") if provenance.get(name)]
    if versions := provenance.get("versions"):
        found.append(("versions", ", ".join(f"{name} {number}" for name, number in versions.items() if number)))
    if record.get("started"):
        found.append(("started", record["started"]))
    if record.get("ended"):
        found.append(("ended", record["ended"] + _duration(record)))
    return found


def _duration(record: Mapping[str, Any]) -> str:
    try:
        seconds = (datetime.fromisoformat(record["ended"]) - datetime.fromisoformat(record["started"])).total_seconds()
    except (KeyError, TypeError, ValueError):
        return ""
    return f" ({duration(seconds)} after its last start)"


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def metrics(record: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(name, value, protocol) of each metric of a cell."""
    found = []
    for name, measured in (record.get("metrics") or {}).items():
        value = measured.get("value")
        protocol = [f"{key} {_plain(part)}" for key, part in measured.items() if key not in ("value", "reason")]
        found.append((titled(name, measured), _number(value), ", ".join(protocol)))
    return found


def _number(value: Any) -> str:
    """Four decimals; what is no number as it is.

    >>> _number(0.5), _number(None), _number("much")
    ('0.5000', '-', 'much')
    """
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, (int, float)) else str(value)


def troubles(record: Mapping[str, Any], stale: str | None) -> list[str]:
    """In words, what is wrong with a cell: failures, metrics without a number, code that changed since."""
    found = []
    if record["status"] in (FAILED, DIVERGED):
        why = (record.get("failure") or {}).get("message") or "for a reason that was not recorded"
        found.append(why if why.startswith(record["status"]) else f"{record['status']}: {why}")
    for name, measured in (record.get("metrics") or {}).items():
        if measured.get("value") is None and measured.get("reason"):
            found.append(f"{METRIC_NAMES.get(name, name)} was not measured: {measured['reason']}")
    if stale and record["status"] == FINISHED:
        found.append(f"stale: {stale} changed since this was trained; `attnbench run ... --rerun-stale` runs it again")
    return found


def running_cells(cells: Mapping[str, tuple[str, str]], store: Path) -> Iterator[dict[str, Any]]:
    """How far the running cells are, for the page's board.

    Args:
        cells: folder -> (label, status) of the cells that run.
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
    """How much is done, in percent: of the training, or of the measurement while it is measured."""
    if progress is None:
        return 0.0
    done, total = (progress.done, progress.of) if progress.phase == "measuring" else (progress.step, progress.total)
    return 100 * done / max(total, 1)


def numbers_in(entries: list[Entry]) -> list[float | None]:
    """What a column is sorted by: the number of each entry, None where it has none.

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
