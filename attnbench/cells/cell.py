"""A cell: a variant on a dataset with a seed, under one recipe.

Its identity is a hash of everything that can change the trained network, and of nothing else: how it is measured is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from attnbench import weights
from attnbench.cells.identity import IDENTITY_VERSION, identity_of
from attnbench.cells.record import FORMAT, WAITING, DatasetRecord, ModuleRecord, Provenance, RecipeRecord, Record, cell_label
from attnbench.cells.variant import Variant
from attnbench.config.recipe import Recipe, digest
from attnbench.data.images import PreparedDataset
from attnbench.data.origin import Origin


@dataclass(frozen=True)
class Cell:
    """The unit of work, of storage, of resuming and of failure."""

    variant: Variant
    dataset: PreparedDataset
    origin: Origin
    seed: int
    recipe: Recipe
    recipe_name: str

    @property
    def training_weights(self) -> dict[str, str]:
        """Pretrained weights that training uses: name -> SHA-256 of the file."""
        names = ["vgg19"] if self.recipe.needs_perceptual_network else []
        return {name: weights.file_digest(weights.find_or_download(name)) for name in names}

    @cached_property
    def identity(self) -> str:
        return identity_of(
            recipe=self.recipe.training,
            module=self.variant.module,
            options=self.variant.options,
            fingerprint=self.dataset.fingerprints["train"],
            seed=self.seed,
            weights=self.training_weights,
        )

    @property
    def folder_name(self) -> str:
        return f"{self.variant.module}-{self.dataset.name}-seed{self.seed}-{self.identity[:10]}"

    @property
    def label(self) -> str:
        return cell_label(self.variant.label, self.dataset.name, self.seed)

    def new_record(self) -> Record:
        """The record of the cell before it runs."""
        variant, dataset, values = self.variant, self.dataset, self.recipe.training
        return Record(
            format=FORMAT,
            identity=self.identity,
            identity_version=IDENTITY_VERSION,
            status=WAITING,
            module=ModuleRecord(
                name=variant.module,
                label=variant.label,
                given=dict(variant.given),
                options=dict(variant.options),
                **variant.provenance,
            ),
            dataset=DatasetRecord(
                name=dataset.name,
                fingerprint=dataset.fingerprints["train"],
                train=len(dataset.train),
                side=dataset.side,
                skipped=dataset.skipped,
            ),
            seed=self.seed,
            recipe=RecipeRecord(name=self.recipe_name, digest=digest(values), values=values),
            weights=self.training_weights,
            step=0,
            provenance=Provenance(),
        )
