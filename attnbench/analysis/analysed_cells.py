"""The cells that an analysis is about: their records, their trained networks, their images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from attnbench import plugins, weights
from attnbench.cells.variant import Variant, make_variant
from attnbench.config.recipe import Recipe, digest
from attnbench.console import Reporter, Say
from attnbench.data.images import PreparedDataset, prepare
from attnbench.data.origin import Origin, default_data_root
from attnbench.errors import UserError
from attnbench.method.backbone import Colorizer
from attnbench.store.generators import generator_folder, load
from attnbench.store.job import read_job
from attnbench.store.reading import each_record, read_record

Ready = TypeVar("Ready")


Found = TypeVar("Found")


@dataclass(frozen=True)
class AnalysedCell:
    """A cell's folder, what it is, and where its images may be.

    Attributes:
        data_root: looked in before the folder that the cell's run used.
        label: for figures; with the folder's name where another cell that is analysed with it would have the same.
        variant_label, dataset_label: cells that share both differ in their seeds alone. The first is the module's with its
            options, and the recipe where it has several; the second has the fingerprint where several have the name.
    """

    path: Path
    record: Mapping[str, Any]
    data_root: Path | None
    label: str
    variant_label: str
    dataset_label: str

    @property
    def columns(self) -> dict[str, Any]:
        """What the tables of the analyses say of a cell."""
        return {
            "cell": self.label,
            "variant": self.variant_label,
            "dataset": self.dataset_label,
            "seed": self.record["seed"],
        }

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

    def check_generator(self) -> None:
        """Whether `generator` can be made, as far as can be told without the weights.

        Raises:
            UserError: it is not trained, its module is not installed, or its file is cut off.
        """
        generator_folder(self.path)
        _ = self.variant
        file = self.path / "generator.safetensors"
        try:
            with safe_open(file, "pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise unusable(file, error) from error

    def generator(self, device: torch.device) -> Colorizer:
        """The trained generator, in eval mode; raises UserError as `store.load` does."""
        return load(self.path, str(device))

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

    @contextmanager
    def weights_of_run(self, name: str) -> Iterator[None]:
        """In the block, pretrained weights that are not here are found where the cell's run found them."""
        here, home = torch.hub.get_dir(), read_job(self.path).get("torch_home")
        if home and weights.find(name) is None:
            torch.hub.set_dir(str(Path(home) / "hub"))
            if weights.find(name) is None:
                torch.hub.set_dir(here)
        try:
            yield
        finally:
            if torch.hub.get_dir() != here:
                torch.hub.set_dir(here)


def each_usable(
    cells: Sequence[AnalysedCell],
    check: Callable[[AnalysedCell], Ready],
    analyse: Callable[[AnalysedCell, Ready], Found],
    say: Say,
) -> Iterator[tuple[AnalysedCell, Found]]:
    """What `analyse` finds, cell by cell, after `check` has looked at all of them: what it gives is handed to `analyse`.

    Of several cells, those for which one of the two raises a UserError are left out, which `say` hears.

    Raises:
        UserError: the only cell is such a one, or all are.
    """

    def leave_out(cell: AnalysedCell, error: UserError) -> None:
        if len(cells) == 1:
            raise error
        say(f"{cell.label} is left out: {error}")

    ready: list[tuple[AnalysedCell, Ready]] = []
    for cell in cells:
        try:
            ready.append((cell, check(cell)))
        except UserError as error:
            leave_out(cell, error)
    any_found = False
    for cell, checked in ready:
        try:
            found = analyse(cell, checked)
        except UserError as error:
            leave_out(cell, error)
            continue
        any_found = True
        yield cell, found
    if not any_found:
        raise UserError(f"none of the {len(cells)} cells can be analysed: what is wrong with each is said above")


def find_cells(folders: Sequence[Path], say: Say, *, data_root: Path | None = None) -> list[AnalysedCell]:
    """The cells in these folders, each a cell or a store, whose every cell that has been trained is meant.

    Raises:
        UserError: a folder is neither, or a store without a trained cell; no cell can be read.
    """
    found: dict[Path, tuple[Path, Mapping[str, Any]]] = {}
    for folder in folders:
        for path, record in _cells_in(folder, say, alone=len(folders) == 1):
            found.setdefault(path.resolve(), (path, record))
    if not found:
        raise UserError("none of these cells can be read: what is wrong with each is said above")
    records = [record for _, record in found.values()]
    modules = [(record["module"], record["recipe"]) for record in records]
    labels = [f"{record['module']['label']} on {record['dataset']['name']}, seed {record['seed']}" for record in records]
    labels = distinct_names(labels, [path.name for path, _ in found.values()])
    variants = distinct_names(
        [module["label"] for module, _ in modules],
        [f"{recipe['name']} {digest([module['given'], recipe['digest']])[:6]}" for module, recipe in modules],
    )
    sets = [record["dataset"] for record in records]
    datasets = distinct_names([one["name"] for one in sets], [one["fingerprint"][:6] for one in sets])
    return [
        AnalysedCell(path, record, data_root, *words)
        for (path, record), *words in zip(found.values(), labels, variants, datasets, strict=True)
    ]


def distinct_names(names: Sequence[str], more: Sequence[str]) -> list[str]:
    """The names, each with what is more about it where that differs among those that share it.

    >>> distinct_names(["a", "a", "b", "b"], ["x", "y", "z", "z"])
    ['a (x)', 'a (y)', 'b', 'b']
    """
    several = Counter(name for name, _ in set(zip(names, more, strict=True)))
    return [f"{name} ({which})" if several[name] > 1 else name for name, which in zip(names, more, strict=True)]


def _cells_in(folder: Path, say: Say, *, alone: bool) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    if not folder.is_dir():
        raise UserError(f"there is no folder '{folder}': name cells of a results folder, or the folder itself")
    if (folder / "cell.json").is_file():
        try:
            yield folder, read_record(folder / "cell.json")
        except ValueError as error:
            why = f"'{folder / 'cell.json'}' is damaged ({error}): `attnbench run` for this cell mends it"
            if alone:
                raise UserError(why) from None
            say(f"left out: {why}")
        return
    any_trained = False
    for record in each_record(folder, say):
        path = folder / record["folder"]
        if (path / "generator.safetensors").is_file() or (path / "checkpoint.pt").is_file():
            any_trained = True
            yield path, record
        else:
            say(f"{path} is left out: it is not trained yet")
    if not any_trained:
        raise UserError(f"no cell in '{folder}' is trained: `attnbench run -o {folder} ...` goes on with them")


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
