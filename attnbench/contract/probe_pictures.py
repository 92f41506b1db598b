"""Made-up pictures for metrics under check: a tiny dataset of drawn heads, right pictures and distorted ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from attnbench.config.recipe import Data
from attnbench.contract.distortions import blurred, noisy
from attnbench.contract.traces import no_progress_lines
from attnbench.data.images import PreparedDataset, prepare
from attnbench.data.layouts import synthetic
from attnbench.metrics.generate import PairSet
from attnbench.metrics.measure import pictures_of
from attnbench.metrics.pictures import Pictures
from attnbench.metrics.protocol import Protocol

COUNT, SIZE = 12, 64
TARGETS = {"answers": "answers", "wanted": "wanted", "real": "wanted"}  # what a metric uses -> the best pictures there can be


@dataclass(frozen=True)
class Probes:
    """The pairs of a small dataset that knows all that a dataset can know.

    Attributes:
        cache: a folder for features of real images.
        side: of the pictures, S, in pixels.
    """

    pairs: PairSet
    dataset: PreparedDataset
    cache: Path
    side: int = SIZE

    def pictures(self, generated: Tensor, device: torch.device, rows: Sequence[int] | None = None) -> Pictures:
        """Generated pictures with all that belongs to them. Calls give equal values in new memory.

        Args:
            generated: (COUNT, 3, S, S) uint8.
            rows: of the pairs, those to take, in this order; None: all.
        """
        rows = range(COUNT) if rows is None else rows
        pairs = replace(self.pairs, pairs=[self.pairs.pairs[row] for row in rows])
        return pictures_of(generated[list(rows)].clone(), pairs, self.dataset, device, cache=self.cache)

    @property
    def ordinary(self) -> Tensor:
        """Pictures as a middling generator makes them, each in its own way."""
        kinds = list(distorted(self.pairs.wanted()).values())
        return torch.stack([kinds[row % len(kinds)][row] for row in range(COUNT)])

    def target(self, name: str) -> Tensor:
        """The best pictures for a metric that uses `name`, a key of TARGETS."""
        found: Tensor = getattr(self.pictures(self.pairs.wanted(), torch.device("cpu")), TARGETS[name])
        return found


@contextmanager
def probe_pictures(side: int = SIZE) -> Iterator[Probes]:
    """The probes, of so many pixels a side, which live as long as the block."""
    data = Data(size=side)
    with TemporaryDirectory(prefix="attnbench-check-") as folder:
        with no_progress_lines():
            dataset = prepare(synthetic(train=COUNT, test=COUNT, size=side), data, cache=Path(folder))
        yield Probes(PairSet.of(dataset.test, Protocol(), data), dataset, Path(folder), side)


def distorted(images: Tensor) -> dict[str, Tensor]:
    """(N, 3, S, S) uint8, three times over: blurred, noisy and in other colours."""
    return {"blurred": blurred(images, 1.5), "noisy": noisy(images, 25), "recoloured": images.roll(1, 1)}


def plain(images: Tensor) -> dict[str, Tensor]:
    """Pictures of one colour, which a generator that failed gives."""
    return {"black": torch.zeros_like(images), "white": torch.full_like(images, 255)}
