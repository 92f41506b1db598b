"""Colouring the pairs of a protocol with a trained generator."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from attnbench.config.recipe import Data
from attnbench.console import log
from attnbench.data.batches import Batch, own_marks, own_reference_shows, pair_batch
from attnbench.data.images import ImageSet
from attnbench.devices import is_out_of_memory
from attnbench.method.attention_maps import Maps, ShownMap
from attnbench.method.compiling import uncompiled
from attnbench.method.precision import tf32
from attnbench.method.probe import listening
from attnbench.metrics.protocol import Pairs, Protocol

BATCH = 16  # pairs that a generator colours at once, by default: a setting of the machine, no number depends on it


@dataclass(frozen=True)
class KnownPairs:
    """What is known of pairs without their images, where references are the sketches' own originals, warped."""

    pairs: Pairs
    protocol: Protocol
    data: Data

    def shows(self, pair: int) -> np.ndarray:
        """(S, S, 2): the place in the sketch that each pixel of its reference shows, see `warp.places_shown`."""
        return own_reference_shows(self.pairs[pair][1], self.data, self._seed)

    def marks(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each pair, where its magenta mark is in the reference, and where in the sketch it belongs: (N, 2) each, (x, y)."""
        both = [own_marks(reference, self.data, self._seed) for _, reference in self.pairs]
        magenta = [int(self.protocol.swapped(place)) for place in range(len(both))]  # which of a pair's two discs it is
        there, here = zip(*((there[i], here[i]) for (there, here), i in zip(both, magenta, strict=True)), strict=True)
        return np.stack(there), np.stack(here)

    @property
    def _seed(self) -> int:
        seed = self.protocol.warp_seed
        assert seed is not None  # of other references nothing is known
        return seed


@dataclass(frozen=True)
class PairSet:
    """The pairs of a protocol on a test set.

    Attributes:
        images: the test set.
        references: where references are; by default in `images`.
    """

    images: ImageSet
    pairs: Pairs
    protocol: Protocol
    data: Data
    references: ImageSet | None = None

    @classmethod
    def of(cls, images: ImageSet, protocol: Protocol, data: Data, references: ImageSet | None = None) -> PairSet:
        pairs = protocol.pairs(len(images), len(references) if references is not None else None)
        return cls(images, pairs, protocol, data, references)

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def names(self) -> list[tuple[str, str]]:
        """(sketch, reference) of each pair, names of images; no two pairs have the same."""
        theirs = (self.references or self.images).names
        named = [(self.images.names[sketch], theirs[reference]) for sketch, reference in self.pairs]
        return [(a, f"{b}, marks swapped" if self.protocol.swapped(place) else b) for place, (a, b) in enumerate(named)]

    @property
    def known(self) -> KnownPairs:
        return KnownPairs(self.pairs, self.protocol, self.data)

    def first(self, count: int) -> PairSet:
        return PairSet(self.images, self.pairs[:count], self.protocol, self.data, self.references)

    def batch(self, start: int, size: int, device: torch.device) -> Batch:
        mine = self.pairs[start : start + size]
        swapped = [self.protocol.swapped(start + place) for place in range(len(mine))]
        return pair_batch(
            self.images,
            mine,
            data=self.data,
            device=device,
            references=self.references,
            warp_seed=self.protocol.warp_seed,
            swapped=swapped if self.protocol.marked else None,
        )

    def batches(self, size: int = BATCH) -> Iterator[Batch]:
        """All pairs, on the CPU."""
        for start in range(0, len(self.pairs), size):
            yield self.batch(start, size, torch.device("cpu"))

    def wanted(self) -> Tensor:
        """(N, 3, S, S) uint8: the sketches' own colour images."""
        return self.images.images[torch.tensor([sketch for sketch, _ in self.pairs])]

    def sketches(self) -> Tensor:
        """(N, 1, S, S) uint8."""
        return torch.cat([to_bytes(batch.sketch) for batch in self.batches()])

    def reference_images(self) -> Tensor:
        """(N, 3, S, S) uint8."""
        return torch.cat([to_bytes(batch.reference) for batch in self.batches()])


@torch.no_grad()
@tf32(False)  # a measurement does not depend on the recipe's `train.tf32`
@uncompiled()  # a network that training has compiled would be compiled anew for these batches
def generate(
    generator: nn.Module,
    pairs: PairSet,
    device: torch.device,
    *,
    batch: int = BATCH,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Colour every pair in eval mode and float32: (N, 3, S, S) uint8 on the CPU, as read from files of the protocol's format.

    Args:
        batch: pairs at once; halved, with a warning, while the device's memory does not suffice.
    """
    was_training = generator.training
    generator.eval()
    results: list[Tensor] = []
    start = 0
    try:
        while start < len(pairs):
            try:
                inputs = pairs.batch(start, batch, device)
                results.append(to_bytes(generator(*inputs.given)).cpu())
                suffices = True
            except (RuntimeError, MemoryError) as error:
                if batch == 1 or not is_out_of_memory(error):
                    raise
                suffices = False
            if not suffices:  # not in the handler, whose traceback holds the memory of the forward that failed
                log.warning(
                    f"the memory of {device} does not suffice to colour {batch} pairs at once: going on with {batch // 2}"
                )
                batch //= 2
                torch.cuda.empty_cache()
                continue
            start += batch
            if progress:
                progress(min(start, len(pairs)), len(pairs))
    finally:
        generator.train(was_training)
    generated = torch.cat(results)
    return through_jpeg(generated, 75) if pairs.protocol.format == "jpeg75" else generated


@torch.no_grad()
@tf32(False)
@uncompiled()
def show_maps(
    generator: nn.Module, pairs: PairSet, device: torch.device, batch: int, each: Callable[[int, Sequence[ShownMap]], None]
) -> None:
    """Colour every pair in eval mode and float32, and pass on the attention maps that the module shows.

    Args:
        each: gets the place of the first pair of a batch, and the batch's maps.
    """
    was_training = generator.training
    generator.eval()
    try:
        for start in range(0, len(pairs), batch):
            inputs = pairs.batch(start, batch, device)
            with listening(seen := Maps()):
                generator(*inputs.given)
            each(start, seen.shown)
    finally:
        generator.train(was_training)


def to_bytes(images: Tensor) -> Tensor:
    """[-1, 1] -> 0..255, rounded."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def through_jpeg(images: Tensor, quality: int) -> Tensor:
    """The images after a round trip through JPEG of this quality."""
    decoded = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=quality)
        decoded.append(torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1))
    return torch.stack(decoded)
