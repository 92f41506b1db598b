"""The cells of an analysis: their records, trained networks and images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from attnbench import weights
from attnbench.cells.identity import was_trained_on
from attnbench.cells.record import Record
from attnbench.cells.variant import Variant, make_variant
from attnbench.config.recipe import Recipe, digest
from attnbench.console import warn
from attnbench.data.images import PreparedDataset
from attnbench.errors import UserError
from attnbench.execute.cell_images import images_of
from attnbench.method.backbone import Colorizer
from attnbench.metrics.protocol import Protocol
from attnbench.store.generators import generator_folder, load, recorded_recipe
from attnbench.store.job import read_job
from attnbench.store.reading import each_record, read_record

Ready = TypeVar("Ready")
Found = TypeVar("Found")


@dataclass(frozen=True)
class AnalysedCell:
    """A cell's folder and record, and its labels among the cells that are analysed together.

    Attributes:
        data_root: searched before the data root of the cell's run.
        label: for figures; includes the folder's name if several cells have the same label.
        variant_label, dataset_label: cells that share both differ in their seeds alone. The first is the module's label, with
            the recipe if it has several; the second is the dataset's name, with the fingerprint if several share the name.
    """

    path: Path
    record: Record
    data_root: Path | None
    label: str
    variant_label: str
    dataset_label: str

    @property
    def columns(self) -> dict[str, Any]:
        """The cell's columns in the tables of analyses."""
        return {
            "cell": self.label,
            "variant": self.variant_label,
            "dataset": self.dataset_label,
            "seed": self.record.seed,
        }

    @cached_property
    def recipe(self) -> Recipe:
        return recorded_recipe(self.path, self.record)

    @property
    def protocol(self) -> Protocol:
        """The first protocol that it was measured under with references from the test set; the usual one without any."""
        found = [one.protocol for one in self.record.measurements if one.protocol.references == "cross"]
        return found[0] if found else Protocol()

    @cached_property
    def variant(self) -> Variant:
        """Raises UserError: the module is not installed here."""
        module = self.record.module
        return make_variant(module.name, module.given, module.label)

    def dataset(self) -> PreparedDataset:
        """The images that the cell was trained on and measured with.

        Raises:
            UserError: they are missing, cannot be decoded, or differ from those of the cell.
        """
        dataset, wanted = images_of(self.path, self.record, self.recipe.data, self.data_root), self.record.dataset
        if not was_trained_on(self.record, dataset):
            raise UserError(
                f"the images of '{self.path}' are missing: '{dataset.name}' in {dataset.source} differs from what it was "
                f"trained on (here {len(dataset.train)} training images, then {wanted.train}): pass the --data-root that "
                "holds the original"
            )
        return dataset

    def check_generator(self) -> None:
        """Check that `generator` can load the trained network, as far as possible without reading its weights.

        Raises:
            UserError: it is not trained, its module is not installed, or its file is truncated.
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
        """The contents of checkpoint.pt, or None if there is no such file. The file is not changed.

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
        except Exception as error:  # torch.load may raise anything on damaged bytes
            raise unusable(path, error) from error
        return dict(state)

    @contextmanager
    def weights_of_run(self, name: str) -> Iterator[None]:
        """In the block, pretrained weights that are missing here are found where the cell's run found them."""
        here, job = torch.hub.get_dir(), read_job(self.path)
        home = job.torch_home if job else None
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
) -> Iterator[tuple[AnalysedCell, Found]]:
    """The results of `analyse`, cell by cell, after `check` has run on all cells; `analyse` gets what `check` returned.

    Of several cells, those for which either raises a UserError are left out, with a warning.

    Raises:
        UserError: the only cell, or each of several, fails.
    """

    def leave_out(cell: AnalysedCell, error: UserError) -> None:
        if len(cells) == 1:
            raise error
        warn(f"{cell.label} is left out: {error}")

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
        raise UserError(f"none of the {len(cells)} cells can be analysed: see the warnings above")


def find_cells(folders: Sequence[Path], *, data_root: Path | None = None) -> list[AnalysedCell]:
    """The cells in these folders, each of which is a cell or a store; a store stands for all its trained cells.

    Raises:
        UserError: a folder is neither, a store has no trained cell, or no cell can be read.
    """
    found: dict[Path, tuple[Path, Record]] = {}
    for folder in folders:
        for path, record in _cells_in(folder, alone=len(folders) == 1):
            found.setdefault(path.resolve(), (path, record))
    if not found:
        raise UserError("none of these cells can be read: see the warnings above")
    records = [record for _, record in found.values()]
    labels = distinct_names(
        [record.label for record in records],
        [path.name for path, _ in found.values()],
    )
    variants = distinct_names(
        [record.module.label for record in records],
        [f"{one.recipe.name} {digest([one.module.given, one.recipe.digest])[:6]}" for one in records],
    )
    datasets = distinct_names(
        [record.dataset.name for record in records], [record.dataset.fingerprint[:6] for record in records]
    )
    return [
        AnalysedCell(path, record, data_root, *named)
        for (path, record), *named in zip(found.values(), labels, variants, datasets, strict=True)
    ]


def distinct_names(names: Sequence[str], more: Sequence[str]) -> list[str]:
    """The names, each followed by its text of `more` where equal names differ in it.

    >>> distinct_names(["a", "a", "b", "b"], ["x", "y", "z", "z"])
    ['a (x)', 'a (y)', 'b', 'b']
    """
    several = Counter(name for name, _ in set(zip(names, more, strict=True)))
    return [f"{name} ({which})" if several[name] > 1 else name for name, which in zip(names, more, strict=True)]


def _cells_in(folder: Path, *, alone: bool) -> Iterator[tuple[Path, Record]]:
    if not folder.is_dir():
        raise UserError(f"there is no folder '{folder}': name cells of a results folder, or the folder itself")
    if (folder / "cell.json").is_file():
        try:
            yield folder, read_record(folder / "cell.json")
        except ValueError as error:
            why = f"'{folder / 'cell.json'}' is damaged ({error}): `attnbench run` for this cell repairs it"
            if alone:
                raise UserError(why) from None
            warn(f"left out: {why}")
        return
    any_trained = False
    for inner, record in each_record(folder):
        path = folder / inner
        if (path / "generator.safetensors").is_file() or (path / "checkpoint.pt").is_file():
            any_trained = True
            yield path, record
        else:
            other = "its pictures were made elsewhere, and there is no network to look into"
            warn(f"{path} is left out: {other if record.pictures else 'it is not trained yet'}")
    if not any_trained:
        raise UserError(f"no cell in '{folder}' is trained: `attnbench run -o {folder} ...` trains the cells")


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


def unusable(path: Path, error: Exception) -> UserError:
    """The error for a file of weights that cannot be loaded."""
    reason = " ".join(str(error).split())[:100]
    return UserError(
        f"'{path}' is damaged, or from another version of its module ({reason}): copy it again, or move it away and let "
        "`attnbench run` run the cell again"
    )
