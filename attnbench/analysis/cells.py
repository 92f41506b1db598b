"""The cells that an analysis is about: their records, their trained networks, their images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attnbench import plugins
from attnbench.backbone import Colorizer
from attnbench.console import Reporter
from attnbench.data.images import PreparedDataset, prepare
from attnbench.errors import UserError
from attnbench.execute.job import read_job
from attnbench.execute.planning import default_data_root
from attnbench.grid import Origin, Variant, make_variant
from attnbench.recipe import Recipe
from attnbench.store import Say, each_record, load, read_record


@dataclass(frozen=True)
class AnalysedCell:
    """A cell's folder, what it is, and where its images may be.

    Attributes:
        data_root: looked in before the folder that the cell's run used.
        label: for figures; with the folder's name where another cell that is analysed with it would have the same.
    """

    path: Path
    record: Mapping[str, Any]
    data_root: Path | None
    label: str

    @cached_property
    def recipe(self) -> Recipe:
        return Recipe.model_validate(self.record["recipe"]["values"])

    @cached_property
    def variant(self) -> Variant:
        """Raises UserError: the module is not installed here."""
        module = self.record["module"]
        return make_variant(module["name"], module["given"], module["label"])

    def dataset(self, reporter: Reporter) -> PreparedDataset:
        """The very images that the cell was trained on and measured with.

        Raises:
            UserError: they are not here, cannot be decoded, or are others.
        """
        job, wanted = read_job(self.path), self.record["dataset"]
        root = self.data_root or (Path(job["data_root"]) if job.get("data_root") else None) or default_data_root()
        text = job.get("dataset") or _text_of(wanted["name"], root)
        try:
            found = Origin.of(text, root).find()
        except UserError as error:
            raise UserError(f"the images of '{self.path}' are not here: {error}") from None
        skips = bool(job.get("skip_corrupt") or wanted["skipped"])
        dataset = prepare(found, self.recipe.data, skip_corrupt=skips, progress=reporter.progress)
        if dataset.fingerprint != wanted["fingerprint"]:
            raise UserError(
                f"the images of '{self.path}' are not here: '{dataset.name}' in {dataset.source} is not what it was trained on "
                f"({len(dataset.train)} + {len(dataset.test)} images, then {wanted['train']} + {wanted['test']}): pass the "
                "--data-root that holds those"
            )
        return dataset

    def generator(self, device: torch.device) -> Colorizer:
        """The trained generator, in eval mode, as `store.load` gives it; raises UserError also for a damaged file."""
        try:
            return load(self.path, str(device))
        except UserError:
            raise
        except Exception as error:  # safetensors and torch raise whatever the damaged bytes lead them to
            raise unusable(self.path / "generator.safetensors", error) from error

    def checkpoint(self) -> dict[str, Any] | None:
        """What checkpoint.pt holds, or None where there is none. The file stays as it is.

        Raises:
            UserError: it is damaged.
        """
        path = self.path / "checkpoint.pt"
        if not path.is_file():
            return None
        try:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            if not {"generator", "discriminator", "step"} <= set(state):
                raise ValueError("it is not a cell's checkpoint")
        except Exception as error:  # torch.load raises whatever the damaged bytes lead it to
            raise unusable(path, error) from error
        return dict(state)


def find_cells(folders: Iterable[Path], say: Say, *, data_root: Path | None = None) -> list[AnalysedCell]:
    """The cells in these folders, each a cell or a store, whose every cell that has been trained is meant.

    Raises:
        UserError: a folder is neither, or a store without a trained cell.
    """
    found: dict[Path, AnalysedCell] = {}
    for folder in folders:
        for cell in _cells_in(folder, say, data_root):
            found.setdefault(cell.path.resolve(), cell)
    several = Counter(cell.label for cell in found.values())
    return [
        replace(cell, label=f"{cell.label} ({cell.path.name})") if several[cell.label] > 1 else cell for cell in found.values()
    ]


def _cells_in(folder: Path, say: Say, data_root: Path | None) -> Iterator[AnalysedCell]:
    if not folder.is_dir():
        raise UserError(f"there is no folder '{folder}': name cells of a results folder, or the folder itself")
    if (folder / "cell.json").is_file():
        try:
            record = read_record(folder / "cell.json")
        except ValueError as error:
            raise UserError(f"'{folder / 'cell.json'}' is damaged ({error}): `attnbench run` for this cell mends it") from None
        yield AnalysedCell(folder, record, data_root, _label(record))
        return
    any_trained = False
    for record in each_record(folder, say):
        path = folder / record["folder"]
        if (path / "generator.safetensors").is_file() or (path / "checkpoint.pt").is_file():
            any_trained = True
            yield AnalysedCell(path, record, data_root, _label(record))
        else:
            say(f"{path} is left out: it is not trained yet")
    if not any_trained:
        raise UserError(f"no cell in '{folder}' is trained: `attnbench run -o {folder} ...` goes on with them")


def _label(record: Mapping[str, Any]) -> str:
    return f"{record['module']['label']} on {record['dataset']['name']}, seed {record['seed']}"


def features(generator: Colorizer, sketch: Tensor, reference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """f_s, f_r and f_gen, (B, C, h, w) each, of one forward."""
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def note(module: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append((inputs[0], inputs[1], output))

    handle = generator.module.register_forward_hook(note)
    try:
        generator(sketch, reference)
    finally:
        handle.remove()
    return seen[0]


def _text_of(name: str, root: Path | None) -> str:
    """A data set by its name alone: the plug-in's, or the folder of that name under the data root."""
    if name in {plugin.name for plugin in plugins.installed(plugins.DATASETS)} or root is None:
        return name
    return f"{name}={root / name}"


def unusable(path: Path, error: Exception) -> UserError:
    """The error for a file of weights that cannot be loaded."""
    reason = " ".join(str(error).split())[:100]
    return UserError(
        f"'{path}' is damaged, or of another version of its module ({reason}): copy it anew, or set it aside and let "
        "`attnbench run` make the cell again"
    )
