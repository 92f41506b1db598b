"""Protocols: which pairs of sketch and reference are coloured, and how pictures are compared.

Under `cross`, every test sketch is coloured with another test image as its reference. A generated image is compared with the
sketch's own colour image, as in the paper's released code, so even a perfect colouring, which has the reference's colours,
does not reach an SSIM of 1. Under `same`, the reference is the sketch's own original, warped: what training does. A method
that takes colours from where they are gains from it, and so does one that copies them by position. Under `marked`, two
coloured discs are painted into that warped original, and each pair comes twice, the discs' colours swapped: where the two
results differ is where the method takes the discs to be.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from attnbench.config.recipe import Evaluation, digest

Pairs = list[tuple[int, int]]  # (index of the sketch, index of the reference)
VERSION = 1  # of docs/protocol.md, which says when it rises; recorded with every number
OFFICIAL_BATCH = 16  # of the released code, not `train.batch_size`


class Protocol(BaseModel):
    """How pictures are made and compared, whatever the metrics. Equal protocols on equal test images give comparable numbers.

    Attributes:
        references: `cross`, `same`, `marked`, or `folder`: pictures from elsewhere.
        pairing, pair_seed, limit, format: as in a recipe's `evaluation`; `pairing` is `derangement` but for `cross`.
        folder: what a folder of references is called; its content is `folder_digest`.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    references: Literal["cross", "same", "marked", "folder"] = "cross"
    pairing: Literal["derangement", "official"] = "derangement"
    pair_seed: int = Field(0, ge=0)
    limit: int | None = None
    format: Literal["png", "jpeg75"] = "png"
    folder: str | None = None
    folder_digest: str | None = None

    def pairs(self, count: int, references: int | None = None) -> Pairs:
        """The pairs to colour: a function of the number of test images and the protocol, the same for all methods.

        Args:
            count: test images.
            references: pictures in the folder of references.
        """
        every = self._all_pairs(count, references)
        if self.limit is None:
            return every
        return every[: 2 * self.limit if self.marked else self.limit]

    def _all_pairs(self, count: int, references: int | None) -> Pairs:
        """`derangement`: a random cycle through all images (Sattolo's algorithm), so that each is a sketch once and a
        reference once, never its own reference. `official`: a random order, cut into batches of 16, the incomplete one
        dropped; each sketch takes the next image of its batch. References of a folder are taken in turn, in a random order.
        Under `marked` each pair comes twice, one after the other, and a limit counts it once.
        """
        if self.warped:
            return [(index, index) for index in range(count) for _ in range(2 if self.marked else 1)]
        rng = np.random.default_rng(self.pair_seed)
        if self.references == "folder":
            order = [int(i) for i in rng.permutation(references or 0)]
            return [(index, order[index % len(order)]) for index in range(count)]
        if self.pairing == "official":
            order = [int(i) for i in rng.permutation(count)]
            size = min(OFFICIAL_BATCH, count)
            batches = [order[i : i + size] for i in range(0, count - size + 1, size)]
            return [(batch[i], batch[(i + 1) % size]) for batch in batches for i in range(size)]
        cycle = list(range(count))
        for i in range(count - 1, 0, -1):
            j = int(rng.integers(i))
            cycle[i], cycle[j] = cycle[j], cycle[i]
        return list(enumerate(cycle))

    def on(self, count: int) -> Protocol:
        """The protocol on so many test images: a limit that leaves out nothing is none."""
        return self.model_copy(update={"limit": None}) if self.limit is not None and self.limit >= count else self

    @property
    def warped(self) -> bool:
        """Whether references are the sketches' own originals, warped."""
        return self.references in ("same", "marked")

    @property
    def marked(self) -> bool:
        return self.references == "marked"

    def swapped(self, place: int) -> bool:
        """Whether the marks of the pair at this place have changed colours: in every other picture."""
        return self.marked and place % 2 == 1

    @property
    def warp_seed(self) -> int | None:
        """The seed of the references' warps, and of their marks; None if they are not warped."""
        return self.pair_seed if self.warped else None

    @property
    def values(self) -> dict[str, Any]:
        """What its identity covers, as plain values."""
        return self.model_dump(mode="json", exclude={"folder"}, exclude_none=True)

    @property
    def label(self) -> str:
        """What differs from the usual protocol, for headings; empty for the usual one.

        >>> Protocol().label, Protocol(references="same", limit=50).label
        ('', 'same, first 50 pairs')
        """
        parts = {
            self.references: self.warped,
            f"references {self.folder} {(self.folder_digest or '')[:6]}": self.references == "folder",
            "official pairs": self.pairing == "official",
            f"pair seed {self.pair_seed}": self.pair_seed != 0,
            "first pair" if self.limit == 1 else f"first {self.limit} pairs": self.limit is not None,
            "JPEG 75": self.format == "jpeg75",
        }
        return ", ".join(text for text, shown in parts.items() if shown)

    @property
    def slug(self) -> str:
        """`cross`, `same-first-50-pairs`: for the names of folders."""
        text = self.label if self.references != "cross" else f"cross {self.label}"
        return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-")


def protocols_of(evaluation: Evaluation) -> list[Protocol]:
    """The protocols that a recipe asks for: one for each kind of reference."""
    shared = {"pair_seed": evaluation.pair_seed, "limit": evaluation.limit, "format": evaluation.format}
    pairing = {"cross": evaluation.pairing}
    return [Protocol(references=kind, pairing=pairing.get(kind, "derangement"), **shared) for kind in evaluation.references]


def measurement_identity(subject: str, test: str, protocol: Protocol) -> str:
    """What a measurement is of: SHA-256, in hex.

    Args:
        subject: a cell's identity, or the digest of a folder of pictures.
        test: the fingerprint of the test images.
    """
    return digest({"subject": subject, "test": test, "protocol": protocol.values})


def number_identity(measurement: str, metric: str, options: Mapping[str, Any], weights: Mapping[str, str]) -> str:
    """What a number is: its measurement, the metric with all options, and the weights of its networks, in one SHA-256."""
    return digest({"measurement": measurement, "metric": metric, "options": dict(options), "weights": dict(weights)})
