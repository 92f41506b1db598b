"""Batches of training samples and evaluation inputs, made on the device.

A training sample depends on (seed, epoch, index) alone: not on the module that trains, the number of workers, the device, or
whether the run was interrupted.

Jitter and warp act on images of the recipe's size, which are decoded and resized once; the released code applies them at the
file's own size and resizes afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from attnbench.config.recipe import Data, Sketch, Warp
from attnbench.data.images import ImageSet, draw_sketches
from attnbench.data.jitter import jitter
from attnbench.data.marks import mark_places, with_marks
from attnbench.data.warp import grid_points, middles, official_points, places_shown, tps_offsets, warp
from attnbench.devices import send

_ORDER, _JITTER, _WARP, _SIGMA, _OWN_REFERENCE, _MARKS = range(6)  # independent random streams


@dataclass(frozen=True)
class Batch:
    """target (B, 3, S, S), sketch (B, 1, S, S), reference (B, 3, S, S), all in [-1, 1]; white paper is 1.

    Attributes:
        shows: (B, S, S, 2), what each pixel of a warped reference shows, see `warp.places_shown`; None of other references.
    """

    target: Tensor
    sketch: Tensor
    reference: Tensor
    shows: Tensor | None = None

    @property
    def given(self) -> tuple[Tensor, ...]:
        """What the generator gets: sketch, reference, and what the reference shows, if that is known."""
        return (self.sketch, self.reference, *([] if self.shows is None else [self.shows]))

    def tensors(self) -> dict[str, Tensor]:
        """By name, without what is None."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


def epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order in which an epoch visits `count` images."""
    return np.random.default_rng([_ORDER, seed, epoch]).permutation(count)


def training_batch(
    images: ImageSet, indices: Sequence[int] | np.ndarray, *, seed: int, epoch: int, data: Data, device: torch.device
) -> Batch:
    """Jittered target, line art of the original, and the target warped into its own reference (paper section 3.1)."""

    def rngs(stream: int) -> list[np.random.Generator]:
        return [np.random.default_rng([stream, seed, epoch, int(index)]) for index in indices]

    rows = torch.as_tensor(np.asarray(indices))
    original = _selected(images.images, rows, device)
    target = jitter(original, data.jitter, rngs(_JITTER)).float() / 255
    choice = None
    if data.sketch.sigma_per == "epoch":
        choice = torch.tensor([int(rng.integers(len(data.sketch.sigma))) for rng in rngs(_SIGMA)])
    sketch = _sketches(images, rows, original, data, choice)
    reference, shows = _warped(target, rngs(_WARP), data.warp)
    return Batch(_signed(target), _signed(sketch), _signed(reference), shows)


def pair_batch(
    images: ImageSet,
    pairs: Sequence[tuple[int, int]],
    *,
    data: Data,
    device: torch.device,
    references: ImageSet | None = None,
    warp_seed: int | None = None,
    swapped: Sequence[bool] | None = None,
) -> Batch:
    """The first images of `pairs` as sketches and targets, the second as references; nothing depends on the batch.

    Args:
        references: where the second images are; by default in `images`.
        warp_seed: references are warped as in training, by a warp that depends on this seed and the image's index alone.
        swapped: warped references get two marks; of each pair, whether these have changed their colours.
    """
    first, second = (torch.tensor(column) for column in zip(*pairs, strict=True))
    original = _selected(images.images, first, device)
    reference = _selected((references or images).images, second, device).float() / 255
    shows = None
    if warp_seed is not None:
        reference, shows = _warped(reference, _own_reference(warp_seed, second), data.warp)
        if swapped is not None:
            places = torch.from_numpy(np.stack([own_marks(int(index), data, warp_seed)[0] for index in second]))
            reference = with_marks(reference, send(places, device), send(torch.tensor(swapped), device))
    sketch = _sketches(images, first, original, data, None)
    return Batch(_signed(original.float() / 255), _signed(sketch), _signed(reference), shows)


def own_reference_shows(index: int, data: Data, warp_seed: int) -> np.ndarray:
    """(S, S, 2): the place in the sketch that each pixel of its own warped reference shows, see `warp.places_shown`."""
    offsets = _offsets(_own_reference(warp_seed, [index]), data.warp, data.size, torch.device("cpu"))
    return (middles(data.size, data.size) if offsets is None else places_shown(offsets)[0]).numpy()


@lru_cache(maxsize=4096)
def own_marks(index: int, data: Data, warp_seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the marks of an image's own warped reference are, and where in its sketch they belong: (2, 2) each."""
    return mark_places(own_reference_shows(index, data, warp_seed), np.random.default_rng([_MARKS, warp_seed, index]))


def _own_reference(warp_seed: int, indices: Iterable[int | Tensor]) -> list[np.random.Generator]:
    return [np.random.default_rng([_OWN_REFERENCE, warp_seed, int(index)]) for index in indices]


@torch.no_grad()
def draw_reference(image: Tensor, sketch: Sketch) -> Tensor:
    """Line art (B, 1, S, S) of references (B, 3, S, S), both in [-1, 1], at their own size and with the middle sigma."""
    sigma = float(np.float32(sorted(sketch.sigma)[len(sketch.sigma) // 2]))  # as those of images are kept
    return _signed(draw_sketches((image.float() + 1) / 2, sigma, sketch)).to(image.dtype)


def _selected(stored: Tensor, rows: Tensor, device: torch.device) -> Tensor:
    """Rows of a tensor that is on the device, or on the CPU: on the device."""
    return send(stored[send(rows, stored.device)], device)


def _sketches(images: ImageSet, rows: Tensor, original: Tensor, data: Data, choice: Tensor | None) -> Tensor:
    """(B, 1, S, S) in [0, 1]. `choice` (B,), indices of sigmas, overrides the sigmas set by the images' names."""
    sigmas = torch.tensor(data.sketch.sigma)
    if images.sketches is None:
        sigma = images.sigma[rows] if choice is None else sigmas[choice]
        return draw_sketches(original.float() / 255, sigma, data.sketch)
    if images.sketches.shape[1] == 1:
        column = torch.zeros_like(rows)
    else:
        column = choice if choice is not None else (images.sigma[rows][:, None] == sigmas).int().argmax(1)
    stored = images.sketches.flatten(0, 1)
    return _selected(stored, rows * images.sketches.shape[1] + column, original.device)[:, None].float() / 255


def _warped(target: Tensor, rngs: Sequence[np.random.Generator], recipe: Warp) -> tuple[Tensor, Tensor]:
    """The images warped, and what they show then: (B, 3, S, S), (B, S, S, 2) float32."""
    size, device = target.shape[-1], target.device
    offsets = _offsets(rngs, recipe, size, device)
    if offsets is None:
        return target, send(middles(size, size).float(), device).expand(len(target), -1, -1, -1)
    return warp(target, offsets, border=recipe.border), places_shown(offsets).float()


def _offsets(rngs: Sequence[np.random.Generator], recipe: Warp, size: int, device: torch.device) -> Tensor | None:
    """(B, size, size, 2) as from `tps_offsets`; None without a warp."""
    if recipe.kind == "none":
        return None
    if recipe.kind == "official":
        points = [official_points(rng) for rng in rngs]
    else:
        points = [grid_points(rng, recipe.points, recipe.magnitude) for rng in rngs]
    sources, destinations = (torch.from_numpy(np.stack(column)) for column in zip(*points, strict=True))
    return tps_offsets(sources, destinations, size, size, device)


def _signed(x: Tensor) -> Tensor:
    """[0, 1] -> [-1, 1]."""
    return x * 2 - 1
