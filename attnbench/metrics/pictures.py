"""What a metric is given: coloured pictures, and whatever the dataset knows of them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from attnbench.config.recipe import digest
from attnbench.data.images import PreparedDataset
from attnbench.errors import NotMeasurable
from attnbench.files import replacing
from attnbench.method.attention_maps import ShownMap
from attnbench.metrics.lacks import LACKING

Made = TypeVar("Made")
# What a metric may name in `uses`.
USABLE = ("wanted", "sketch", "reference", "draw", "real", "answers", "parts", "reference_parts", "shows", "maps", "marks")
EachMap = Callable[[int, Sequence[ShownMap]], None]  # the first of the pairs, and their maps, a batch of them each

# On a CPU few enough that a layer of the Inception stays below 32 MB: above that, glibc
# requests the memory of every tensor anew from the system, and page faults add a third to the time.
CHUNK = {"cpu": 4, "cuda": 32}


def at_once(device: torch.device) -> int:
    """How many pictures a metric takes at once."""
    return CHUNK.get(device.type, 16)


@dataclass(frozen=True)
class RealImages:
    """The real images of a dataset.

    Attributes:
        size: of the generated pictures, in pixels.
        seed: of the protocol, for random subsets.
        has_train: whether the training images are those of the dataset that is measured; else only the test images count.
    """

    dataset: PreparedDataset
    size: int
    seed: int
    cache: Path
    has_train: bool = True

    def kept(self, key: Any, make: Callable[[], np.ndarray]) -> np.ndarray:
        """An array that depends on real images and `key` alone: made once, then read from the cache.

        Args:
            key: plain values, the images' fingerprint among them.
        """
        file = self.cache / "features" / f"{digest(key)}.npy"
        if file.is_file():
            return np.asarray(np.load(file))
        made = make()
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file, sync=False) as draft, draft.open("wb") as opened:
            np.save(opened, made)
        return made


@dataclass(frozen=True, eq=False)
class Pictures:
    """N coloured pictures, with what belongs to them. All tensors are uint8, on the CPU, in the order of the pairs.

    What the protocol or the dataset does not have raises `NotMeasurable`, with the reason.

    Attributes:
        generated: (N, 3, S, S).
        names: (sketch, reference) of each, names of images.
        device: where a metric should compute.
        available: name in `USABLE` -> what makes it, on first use.
        lacking: name in `USABLE` -> why there is none.
    """

    generated: Tensor
    names: Sequence[tuple[str, str]]
    device: torch.device
    available: Mapping[str, Callable[[], Any]] = field(default_factory=dict)
    lacking: Mapping[str, str] = field(default_factory=dict)
    part_names: Sequence[str] = ()
    _made: dict[Hashable, Any] = field(default_factory=dict, repr=False)
    _own: dict[str, Any] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.generated)

    @property
    def wanted(self) -> Tensor:
        """(N, 3, S, S): the sketches' own colour images."""
        return self._get("wanted")

    @property
    def sketch(self) -> Tensor:
        """(N, 1, S, S): the line art that was coloured; white paper is 255."""
        return self._get("sketch")

    @property
    def reference(self) -> Tensor:
        """(N, 3, S, S): the pictures whose colours were to be taken."""
        return self._get("reference")

    @property
    def draw(self) -> Callable[[Tensor, Sequence[int]], Tensor]:
        """Line art of any images as the recipe draws it, see `line_art.drawn_by`."""
        return self._get("draw")

    @property
    def real(self) -> RealImages:
        """The dataset's real images."""
        return self._get("real")

    @property
    def answers(self) -> Tensor:
        """(N, 3, S, S): the right colouring of each sketch in the colours of its reference, where the dataset knows it."""
        return self._get("answers")

    @property
    def parts(self) -> Tensor:
        """(N, S, S): which part each pixel of the sketch shows, an index into `part_names`, where the dataset knows it."""
        return self._get("parts")

    @property
    def reference_parts(self) -> Tensor:
        """(N, S, S): the same of each reference, before any warp."""
        return self._get("reference_parts")

    @property
    def shows(self) -> Callable[[int], np.ndarray]:
        """Pair -> (S, S, 2): the place in the sketch that each pixel of its own warped reference shows, (x, y) in shares of the
        sides; outside of [0, 1] beyond the sketch's edge."""
        return self._get("shows")

    @property
    def maps(self) -> Callable[[EachMap], None]:
        """Colours the pairs once more, in their order, and passes on the attention maps that the module shows, by batches."""
        return self._get("maps")

    @property
    def marks(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each pair, where its magenta mark is in the reference, and where in the sketch it belongs: (N, 2) each, (x, y) in
        shares of the sides. Pairs 2 i and 2 i + 1 are of one sketch and one reference, whose two marks, magenta and green, have
        changed colours."""
        return self._get("marks")

    def batches(self, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """The tensors, in order, a few pictures at a time, on the device."""
        for parts in zip(*(tensor.split(at_once(self.device)) for tensor in tensors), strict=True):
            yield tuple(part.to(self.device) for part in parts)

    def scores(self, function: Callable[..., Tensor], *tensors: Tensor) -> np.ndarray:
        """(N,) float64: a function of batches of the tensors, (b, ...) each, to (b,)."""
        found = [function(*batch) for batch in self.batches(*tensors)]
        return torch.cat(found).cpu().double().numpy()

    def once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What several metrics share: made by the first that asks for `key`."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def for_one_metric(self) -> Pictures:
        """The same with tensors of its own: a metric that writes into its inputs changes no other's, and no stored picture."""
        return replace(self, generated=self.generated.clone(), _own={})

    def why_lacking(self, uses: Sequence[str]) -> str | None:
        """Why one of `uses` is not there; None if all are."""
        return next((self._reason(name) for name in uses if name not in self.available), None)

    def _get(self, name: str) -> Any:
        if name not in self.available:
            raise NotMeasurable(self._reason(name))
        if name not in self._own:
            made = self.once(("given", name), self.available[name])
            self._own[name] = made.clone() if isinstance(made, Tensor) else made
        return self._own[name]

    def _reason(self, name: str) -> str:
        return self.lacking.get(name, f"there are no {LACKING[name]} for these pictures")
