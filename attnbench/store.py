"""The store: a results folder with one folder a cell.

    results/sga-cat-seed0-1a2b3c4d5e/
        cell.json                status, metrics with their protocol, costs, provenance; written last
        recipe.yaml              the resolved recipe: `--recipe` takes it
        losses.jsonl             a line a step
        gradients.jsonl          a line an epoch: cosines of the module's branches, if they were recorded
        pairs.csv                test pairs with their scores
        samples.png, samples/    sketch, reference, generated, original
        pictures.zip             the same of every test pair
        generator.safetensors    the trained generator
        analysis/                figures and tables of `attnbench analyze`
        checkpoint.pt            everything that training needs to go on; checkpoint.previous.pt is the one before

Every file is written beside its place and moved there, so a file that is there is whole. Folders can be copied between stores.
"""

from __future__ import annotations

import gc
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from io import FileIO
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json  # twice as fast as json.loads, and equal keys of many records share their memory

from attnbench import sources
from attnbench.errors import UserError
from attnbench.provenance import now

if TYPE_CHECKING:
    import pandas as pd

    from attnbench.backbone import Colorizer
    from attnbench.recipe import Recipe

FORMAT = 1
WAITING, RUNNING, INTERRUPTED = "waiting", "running", "interrupted"
FINISHED, FAILED, DIVERGED = "finished", "failed", "diverged"

SUPERSEDED = ".superseded"  # folder in a store, for what was replaced
ANALYSIS = "analysis"  # folder of figures, in a cell and in the store

Say = Callable[[str], None]


class CellFolder:
    """One cell on disk."""

    def __init__(self, path: Path):
        self.path = path

    @property
    def record_file(self) -> Path:
        return self.path / "cell.json"

    def record(self, say: Say | None = None) -> dict[str, Any] | None:
        """What cell.json holds, or None. A damaged file is set aside, and `say` told; without `say` it stays as it is."""
        if not self.record_file.is_file():
            return None
        try:
            return read_record(self.record_file)
        except ValueError as error:
            if say is None:
                return None
            aside = _set_aside(self.record_file)
            say(f"{self.record_file} is damaged ({error}): set aside as {aside.name}; the cell goes on from its checkpoint")
            return None

    def write_record(self, record: dict[str, Any], *, sync: bool = True) -> None:
        write_text(self.record_file, json.dumps(record, indent=1, allow_nan=False) + "\n", sync=sync)

    def write_checkpoint(self, state: dict[str, Any]) -> None:
        """Keep the one before as well: a disk that fails while this one is written costs a few minutes, not the run."""
        import torch

        current, previous = self.path / "checkpoint.pt", self.path / "checkpoint.previous.pt"
        with replacing(current) as draft:
            with draft.open("wb") as file:  # given a path, torch would hide why it could not write
                torch.save(state, file)
            if current.is_file():
                current.replace(previous)

    def read_checkpoint(self, say: Say = lambda line: None) -> dict[str, Any] | None:
        """The newest checkpoint that can be read, or None. Damaged ones are set aside, and `say` told."""
        import torch

        for name in ("checkpoint.pt", "checkpoint.previous.pt"):
            path = self.path / name
            if not path.is_file():
                continue
            try:
                state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=False)
                return state
            except Exception as error:  # torch.load raises whatever the damaged bytes lead it to
                aside = _set_aside(path)
                reason = str(error).split("\n")[0][:100]
                say(f"{path} is damaged ({reason}): set aside as {aside.name}; using the one before, or starting again")
        return None

    def drop_previous_checkpoint(self) -> None:
        (self.path / "checkpoint.previous.pt").unlink(missing_ok=True)

    @property
    def step(self) -> int:
        """Of the newest checkpoint, by the record; 0 without one."""
        return int((self.record() or {}).get("step", 0))

    def fail(self, reason: str, traceback: str | None = None) -> None:
        """Record that the cell failed, where its own process could not. A finished one stays."""
        patience = time.monotonic() + 10
        with self.locked(wait=True, stop=lambda: time.monotonic() > patience) as ours:  # somebody may be looking
            record = self.record()
            if ours and record and record["status"] != FINISHED:
                failure = {"message": reason, "traceback": traceback}
                self.write_record({**record, "status": FAILED, "failure": failure, "ended": now()})

    def set_aside(self) -> Path:
        """Move what the cell has, but for lock, job and log, to `<store>/.superseded/<name>-<k>`. Hold it meanwhile."""
        number = 1
        while (aside := self.path.parent / SUPERSEDED / f"{self.path.name}-{number}").exists():
            number += 1
        aside.mkdir(parents=True)
        for path in list(self.path.iterdir()):
            if path.name not in (".lock", "job.json", "cell.log"):  # the log is open, by the process that runs it now
                path.replace(aside / path.name)
        return aside

    def is_held(self) -> bool:
        """Whether another process has the cell in work."""
        from filelock import FileLock, Timeout

        if not (self.path / ".lock").is_file():
            return False
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
        return False

    @contextmanager
    def locked(self, *, wait: bool, stop: Callable[[], bool] = lambda: False) -> Iterator[bool]:
        """Hold the cell, if need be after a wait until `stop`: yields whether it is ours. A process that dies lets go of it."""
        from filelock import FileLock, Timeout

        lock = FileLock(self.path / ".lock")
        while True:
            try:
                lock.acquire(timeout=0)
                break
            except Timeout:
                if not wait or stop():
                    yield False
                    return
                time.sleep(0.2)
        try:
            for draft in self.path.rglob(".*.draft"):  # of a process that was killed while it wrote
                if not draft.name.startswith((".job.json.", ".progress.json.")):  # these are written without the lock
                    draft.unlink(missing_ok=True)
            yield True
        finally:
            lock.release()


def open_store(path: Path) -> Path:
    """Make the results folder, and see that it can be written to.

    Raises:
        UserError: it cannot.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        check_writable(path / "cell")
    except OSError as error:
        raise UserError(f"results folder '{path}' cannot be written to: {error.strerror}: choose another with -o") from None
    return path


def check_path(path: Path) -> None:
    """See that the system can look for a path, there or not.

    Raises:
        UserError: it cannot: a name that is too long, links that lead in a circle, a folder that is closed.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise UserError(f"'{path}' cannot be used: {error.strerror}: choose another") from None


def check_writable(path: Path) -> None:
    """See that a file or folder can be made where there may be none yet, by a draft that is gone again.

    Raises:
        OSError: it cannot.
    """
    with suppress(FileNotFoundError):
        draft_of(path).lstat()  # the longest name that will be written
    parent = next(parent for parent in path.absolute().parents if parent.exists())
    with tempfile.TemporaryFile(dir=parent) as probe:
        probe.write(b"attnbench")
        probe.flush()


def read_record(file: str | Path) -> dict[str, Any]:
    """A cell.json.

    Raises:
        ValueError: it is not one.
        UserError: it was written by a newer attnbench.
    """
    with FileIO(file) as raw:  # a Path or a buffered file takes as long as the reading, in stores of thousands
        record = from_json(raw.readall())
    version = record.get("format", 0) if isinstance(record, dict) else None
    if isinstance(version, int) and version > FORMAT:
        raise UserError(f"'{file}' is of format {version}, from a newer attnbench: upgrade this one")
    if not isinstance(version, int) or not all(isinstance(record.get(name), str) for name in ("identity", "status")):
        raise ValueError("it is not a cell's record")
    return record


def records(store: Path, say: Say = lambda line: None) -> list[dict[str, Any]]:
    """Every readable cell.json in a store, with its `folder`, see `each_record`."""
    return list(each_record(store, say))


def each_record(store: Path, say: Say = lambda line: None) -> Iterator[dict[str, Any]]:
    """One cell.json after the other, with its `folder` in the store, at any depth but not in cells or hidden folders.

    `say` hears of those that are damaged or from a newer attnbench; they stay as they are.

    Raises:
        UserError: there is no such folder, or no cell in it.
    """
    if not store.is_dir():
        raise UserError(f"there is no results folder '{store}': `attnbench run -o {store} ...` makes one")
    found = 0
    for record in chain(_record_of(str(store), ".", say) or (), _records_in(str(store), "", say)):
        found += 1
        yield record
    if not found:
        raise UserError(f"no cells in '{store}': `attnbench run -o {store} ...` makes them")


def _records_in(folder: str, prefix: str, say: Say) -> Iterator[dict[str, Any]]:
    """Of the folders in a folder, by name, and of those in them that are no cells: what is in a cell is its own affair."""
    try:
        with os.scandir(folder) as entries:
            inner = sorted((entry.name, entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        say(f"{folder} is left out: {error}")
        return
    for name, path in inner:
        if (record := _record_of(path, prefix + name, say)) is not None:
            yield from record
        elif not Path(path).is_symlink():  # it may lead in a circle
            yield from _records_in(path, f"{prefix}{name}/", say)


def _record_of(cell: str, name: str, say: Say) -> list[dict[str, Any]] | None:
    """A cell's record, or none that can be read, which `say` hears of; None where there is no cell."""
    file = f"{cell}/cell.json"
    try:
        return [{**read_record(file), "folder": name}]
    except FileNotFoundError:
        return None
    except (ValueError, OSError, UserError) as error:
        say(f"{file} is left out: {error}")
        return []


def results(store: str | Path = "results", say: Say = lambda line: None) -> pd.DataFrame:
    """A store as one frame, a row a cell.

    Columns: folder, identity, status, stale (files of the module whose code has changed since, comma-separated), label,
    module, options (JSON; all_options has the defaults as well), dataset, seed, recipe, recipe_digest, recipe_metrics, package,
    version, every metric and `<metric>.<part of its protocol>`, `best.<...>`, costs, device. What a cell lacks is missing.

    Raises:
        UserError: there is no such folder, or no cell in it.
    """
    import pandas as pd

    sources.forget()
    rows: list[dict[str, Any]] = []
    modules: dict[str, dict[str, Any]] = {}
    with without_collector():
        for record in each_record(Path(store), say):
            try:
                rows.append(row_of(record, modules))
            except (AttributeError, KeyError, TypeError) as error:
                say(f"{Path(store, record['folder'], 'cell.json')} is left out: it is not a cell's record ({error!r})")
    if not rows:
        raise UserError(f"no cell in '{store}' can be read: `attnbench run -o {store} ...` makes them")
    return pd.DataFrame(rows)


@contextmanager
def without_collector() -> Iterator[None]:
    """Thousands of rows hold no cycles; looking for some among them, again and again, takes a fifth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def load(cell: str | Path, device: str = "cpu") -> Colorizer:
    """The trained generator of a finished cell, or of an exported one, in eval mode.

    `generator(sketch, reference)` maps tensors, see `backbone.Colorizer`; `attnbench.colorize` takes pictures of any size.
    `recipe_of(generator)` is the recipe that it was trained under, `side_of(generator)` its images' size before that.

    Args:
        cell: the folder, or the `generator.safetensors` or `cell.json` in it.

    Raises:
        UserError: there is no trained generator, its module is not installed, or a file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from attnbench import plugins
    from attnbench.grid import make_variant
    from attnbench.train import build_generator

    path, record = generator_folder(cell)
    recipe, module = recorded_recipe(path, record), record["module"]
    if module["name"] not in {plugin.name for plugin in plugins.installed(plugins.MODULES)}:
        raise UserError(
            f"'{path}' needs module '{module['name']}' of {module['package']} {module['version']}, which is not installed "
            "here: pip install that package"
        )
    variant = make_variant(module["name"], module["given"])
    generator = build_generator(variant.factory, recipe, record["seed"])
    weights = path / "generator.safetensors"
    try:
        generator.load_state_dict(load_file(weights))
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"'{weights}' is damaged ({error}): copy it again from where it was trained, or delete the folder and run it again"
        ) from None
    except RuntimeError as error:  # of load_state_dict: other names or shapes
        why = " ".join(str(error).split("\n", 1)[-1].split())[:200]
        raise UserError(
            f"'{weights}' does not fit module '{variant.module}' as it is installed here ({variant.provenance['package']} "
            f"{variant.provenance['version']}), nor the recipe beside it: {why}"
        ) from None
    generator.recipe = recipe  # type: ignore[assignment]  # modules keep other attributes than tensors and modules as well
    generator.side = record["dataset"].get("side")
    return generator.to(device).eval()


def recipe_of(generator: Colorizer) -> Recipe:
    """The recipe under which a generator was trained.

    Raises:
        UserError: it is not one that `load` has made.
    """
    from attnbench.recipe import Recipe

    recipe = getattr(generator, "recipe", None)
    if not isinstance(recipe, Recipe):
        raise UserError("this generator does not say under which recipe it was trained: use the one that attnbench.load gives")
    return recipe


def side_of(generator: Colorizer) -> int | None:
    """The shorter side, in pixels, of the images that a generator was trained on, as they were in their files: the median.

    None where the cell's record does not say it: those from before attnbench wrote it.
    """
    side = getattr(generator, "side", None)
    return side if isinstance(side, int) else None


def recorded_recipe(cell: Path, record: dict[str, Any]) -> Recipe:
    """The recipe in the record of a cell's folder.

    Raises:
        UserError: it is none that this attnbench knows.
    """
    from attnbench.config_files import validated
    from attnbench.recipe import Recipe

    return validated(Recipe, record["recipe"]["values"], f"the recipe in '{cell / 'cell.json'}'")


def generator_folder(cell: str | Path) -> tuple[Path, dict[str, Any]]:
    """Where a trained generator lies, and its record, which has all that a record of one has; for what `load` takes.

    Raises:
        UserError: it is no cell, or one without a trained generator; the cells of a results folder are named.
    """
    path, expected = Path(cell), "name a finished cell's folder, or an exported one's"
    check_path(path)
    if path.name in ("generator.safetensors", "cell.json") and not path.is_dir():
        path = path.parent
    if not path.is_dir():
        raise UserError(f"there is no cell '{cell}': {expected}" if not path.exists() else f"'{cell}' is a file: {expected}")
    record = CellFolder(path).record()
    if record is None and (path / "cell.json").is_file():
        raise UserError(f"'{path / 'cell.json'}' is damaged: copy the cell's folder again from where it was trained")
    if (path / "generator.safetensors").is_file():
        if record is None:
            raise UserError(f"'{path}' holds no cell.json, the record of its generator: {expected}")
        _check_record(record, path / "cell.json")
        return path, record
    if record is not None and record["status"] != FINISHED:
        raise UserError(
            f"'{path}' is not finished ({record['status']}), it holds no trained generator yet (generator.safetensors): finish "
            f"it with `attnbench run`, or {expected}"
        )
    if record is not None:
        raise UserError(
            f"'{path}' has a cell's numbers but not its trained generator (generator.safetensors): copy it from where the cell "
            f"was trained, or {expected}"
        )
    found = [file.parent for file in sorted(path.glob("*/generator.safetensors"))]
    inside = f" ({', '.join(str(one) for one in found[:3])}{', ...' if len(found) > 3 else ''})" if found else ""
    raise UserError(f"'{path}' holds no trained generator (generator.safetensors, cell.json): {expected}{inside}")


_PARTS: Mapping[str, type] = {
    "seed": int,
    "step": int,
    "module": dict, "module.name": str, "module.label": str, "module.given": dict, "module.options": dict,
    "module.package": str, "module.version": str,
    "dataset": dict, "dataset.name": str, "dataset.fingerprint": str, "dataset.train": int, "dataset.test": int,
    "recipe": dict, "recipe.name": str, "recipe.digest": str, "recipe.values": dict,
    "weights": dict,
    "provenance": dict, "provenance.versions": dict,
    "metrics": dict,
    "costs": dict,
}  # fmt: skip


def _check_record(record: dict[str, Any], file: Path) -> None:
    """See that the record of a trained generator has its parts.

    Raises:
        UserError: one is missing, or of another kind.
    """
    for name, kind in _PARTS.items():
        *above, key = name.split(".")
        value = (record[above[0]] if above else record).get(key)
        if not isinstance(value, kind):
            raise UserError(
                f"'{file}' is not a cell's record ({name} is {json.dumps(value)[:40]}): copy the cell's folder again from "
                "where it was trained"
            )


def draft_of(path: Path) -> Path:
    """The file beside `path` in which this process writes it, until it is whole."""
    return path.with_name(f".{path.name}.{os.getpid()}.draft")


@contextmanager
def replacing(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """A draft beside `path` that takes its place when the block ends well, and is removed when it does not.

    With `sync` it is on the disk before that: it outlives the machine's crash.
    """
    draft = draft_of(path)
    try:
        yield draft
        if sync:
            with draft.open("rb") as file:
                os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_text(path: Path, text: str, *, sync: bool = True) -> None:
    with replacing(path, sync=sync) as draft:
        draft.write_text(text)


def _set_aside(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged{number}")).exists():
        number += 1
    path.replace(aside)
    return aside


def row_of(record: dict[str, Any], modules: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A cell's row in `results`; `modules` remembers what rows say of their modules, for a reading of many.

    Raises:
        AttributeError, KeyError, TypeError: a part of the record is missing or of another kind.
    """
    module, dataset = record["module"], record["dataset"]
    row = {
        "folder": record["folder"],
        "identity": record["identity"],
        "status": record["status"],
        **_columns_of_module(module, modules),
        "dataset": dataset["name"],
        "fingerprint": dataset["fingerprint"],
        "test_images": dataset["test"],
        "seed": record["seed"],
        "recipe": record["recipe"]["name"],
        "recipe_digest": record["recipe"]["digest"],
        "recipe_metrics": ",".join(record["recipe"]["values"]["evaluation"]["metrics"]),
        "train_weights": " ".join(f"{name}={digest}" for name, digest in sorted(record["weights"].items())),
        "failure": (record.get("failure") or {}).get("message"),
        "device": record["provenance"].get("device"),
        **record.get("costs", {}),
    }
    for prefix, metrics in (("", record.get("metrics")), ("best.", (record.get("best") or {}).get("metrics"))):
        for name, metric in (metrics or {}).items():
            for part, value in metric.items():
                row[prefix + name if part == "value" else f"{prefix}{name}.{part}"] = value
    return row


def _columns_of_module(module: dict[str, Any], known: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What a row says of its module; `known` remembers it, since most cells have the module of another."""
    key = repr(module)
    if key not in known:
        known[key] = {
            "stale": ", ".join(sources.changed_sources(module) or ()) or None,
            "label": module["label"],
            "module": module["name"],
            "options": json.dumps(module["given"], sort_keys=True),
            "all_options": json.dumps(module["options"], sort_keys=True),
            "package": module["package"],
            "version": module["version"],
        }
    return known[key]
