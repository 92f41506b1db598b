"""The next batch is made while a GPU works on the step before it."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from attnbench.data.batches import Batch


class BatchesAhead:
    """Batches, in their order, each made when the one before it has been taken.

    On a GPU they are made on a stream of their own: what the caller asked of the GPU in between goes on meanwhile, and what it
    asks afterwards waits for the batch. On a CPU there is nothing to overlap, and none is made before it is asked for.
    """

    def __init__(self, batches: Iterator[Batch], device: torch.device):
        self._batches = batches
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)
            self._stream.wait_stream(torch.cuda.current_stream(device))  # which may still be copying the images
        self._device = device
        self._following: Batch | None = None

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        batch = self._following or self._make()
        self._following = None
        if batch is None:
            raise StopIteration
        if self._stream is not None:
            ours = torch.cuda.current_stream(self._device)
            ours.wait_stream(self._stream)
            for tensor in batch.tensors().values():
                tensor.record_stream(ours)  # else its memory is used again before it has been read
        return batch

    def prepare(self) -> None:
        """Begin the next batch: to be called when the step on this one has been asked of the GPU."""
        if self._stream is not None and self._following is None:
            self._following = self._make()

    def _make(self) -> Batch | None:
        with torch.cuda.stream(self._stream):  # no effect without one
            return next(self._batches, None)
