"""A cell: a variant on a dataset with a seed, under one recipe.

Its identity is a hash of all that can change its numbers, and of nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from attnbench import weights
from attnbench.cells.identity import identity_of
from attnbench.cells.variant import Variant
from attnbench.config.recipe import Recipe
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
        """Pretrained networks that training uses -> SHA-256 of their files."""
        names = ["vgg19"] if self.recipe.needs_perceptual_network else []
        return {name: weights.file_digest(weights.find_or_download(name)) for name in names}

    @cached_property
    def identity(self) -> str:
        return identity_of(
            recipe=_values(self.recipe),
            module=self.variant.module,
            options=self.variant.options,
            fingerprint=self.dataset.fingerprint,
            seed=self.seed,
            weights=self.training_weights,
        )

    @property
    def folder_name(self) -> str:
        return f"{self.variant.module}-{self.dataset.name}-seed{self.seed}-{self.identity[:10]}"

    @property
    def label(self) -> str:
        return f"{self.variant.label} on {self.dataset.name}, seed {self.seed}"


@lru_cache(maxsize=8)
def _values(recipe: Recipe) -> dict[str, Any]:
    """Every key of a recipe in JSON's types: once a recipe, not once a cell."""
    return recipe.model_dump(mode="json")
