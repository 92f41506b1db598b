"""A training step captured once as a CUDA graph, and replayed: a thousand launches become one.

A replay runs the same kernels on the same memory. So batches are copied into tensors that stay, losses out of tensors that
stay, and whatever changes from step to step has to be on the device: learning rates are tensors (`state.assemble`), and random
numbers follow the seed that is set before each step. What a module's Python code decides is decided once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from attnbench.data.batches import Batch
from attnbench.errors import UserError

WARM_UP = 3  # steps before the capture: compilers, libraries and optimisers set themselves up in the first ones
Step = Callable[[Batch], dict[str, Tensor]]
Work = Callable[[], None]


class Recorder(Protocol):
    """Where a step runs."""

    def run(self, work: Work) -> None:
        """Run it as it is."""

    def capture(self, work: Work) -> Work:
        """Capture it without running it; returns what runs it."""


class GraphedStep:
    """A step, as a function of its batch: run as it is at first, then captured and replayed.

    Args:
        step: returns its losses, scalars on the device.
        recorder: runs and captures it.
    """

    def __init__(self, step: Step, recorder: Recorder):
        self._step, self._recorder = step, recorder
        self._warm_up = WARM_UP
        self._batch: Batch | None = None
        self._losses: dict[str, Tensor] = {}
        self._replay: Work | None = None

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        self._keep(batch)
        if self._warm_up:
            self._warm_up -= 1
            self._recorder.run(self._work)
        else:
            self._replay = self._replay or self._recorder.capture(self._work)
            self._replay()
        copies = torch.stack(list(self._losses.values())).unbind()
        return dict(zip(self._losses, copies, strict=True))

    def _work(self) -> None:
        assert self._batch is not None
        self._losses = self._step(self._batch)

    def _keep(self, batch: Batch) -> None:
        """Copy the batch into the tensors that the step reads."""
        given = batch.tensors()
        if self._batch is None:
            self._batch = Batch(**{name: tensor.clone() for name, tensor in given.items()})
        for name, tensor in self._batch.tensors().items():
            tensor.copy_(given[name])


class CUDARecorder:
    """Runs and captures work on one stream of a GPU, for which the current stream waits."""

    def __init__(self, device: torch.device):
        self._device = device
        self._stream = torch.cuda.Stream(device)

    def run(self, work: Work) -> None:
        ours = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(ours)
        with torch.cuda.stream(self._stream):
            work()
        ours.wait_stream(self._stream)

    def capture(self, work: Work) -> Work:
        """Capture work that has run before.

        Raises:
            UserError: something in it cannot be captured; most often, it waits for the GPU. Random numbers on the GPU may be
                of no use to this process afterwards.
        """
        graph, ours = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._device)
        try:
            with torch.cuda.graph(graph, stream=self._stream):
                work()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            torch.cuda.set_stream(ours)  # a capture that failed does not leave its stream
            why = str(error.__context__ or error).splitlines()[0]  # the error of what failed, not of the end of the capture
            raise UserError(f"a step cannot be captured as a CUDA graph ({why}): pass --set train.cuda_graph=false") from error
        return graph.replay
