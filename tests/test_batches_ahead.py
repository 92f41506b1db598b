"""Batches that are made while a GPU works: on a stream of their own, in their order, one ahead."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from attnbench.data.batches import Batch
from attnbench.data.batches_ahead import BatchesAhead

GPU = torch.device("cuda")


@dataclass
class Made:
    """A tensor's stand-in: its number, and the streams that it says it is read on."""

    number: int
    read_on: list[str] = field(default_factory=list)

    def record_stream(self, stream: Stream) -> None:
        self.read_on.append(stream.name)


class Stream:
    def __init__(self, name: str, events: list[str]) -> None:
        self.name, self.events = name, events

    def wait_stream(self, other: Stream) -> None:
        self.events.append(f"{self.name} waits for {other.name}")


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the streams of a GPU are asked to do."""
    happened: list[str] = []
    current = [Stream("training", happened)]

    @contextmanager
    def on(stream: Stream | None) -> Iterator[None]:
        current.append(stream or current[-1])
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream("batches", happened))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current[-1])
    monkeypatch.setattr(torch.cuda, "stream", on)
    return happened


def numbered(count: int, events: list[str]) -> Iterator[Any]:
    for number in range(count):
        events.append(f"{torch.cuda.current_stream(GPU).name}: batch {number}")
        yield Batch(*(Made(number) for _ in range(3)))  # type: ignore[arg-type]


def test_each_batch_is_made_once_the_step_before_it_has_been_asked_for(events: list[str]) -> None:
    upcoming = BatchesAhead(numbered(3, events), GPU)
    seen = []
    for batch in upcoming:
        events.append("training: step")
        seen.append(batch.target)
        upcoming.prepare()
    assert [made.number for made in seen] == [0, 1, 2]
    assert all(made.read_on == ["training"] for made in seen)
    assert events == [
        "batches waits for training",  # the images that were copied there
        "batches: batch 0",
        "training waits for batches",
        "training: step",
        "batches: batch 1",
        "training waits for batches",
        "training: step",
        "batches: batch 2",
        "training waits for batches",
        "training: step",
    ]


def test_without_a_gpu_no_batch_is_made_before_it_is_asked_for() -> None:
    made: list[int] = []

    def batches() -> Iterator[Batch]:
        for number in range(2):
            made.append(number)
            yield Batch(*(torch.full((1,), number) for _ in range(3)))

    upcoming = BatchesAhead(batches(), torch.device("cpu"))
    for count, batch in enumerate(upcoming):
        assert int(batch.target) == count
        upcoming.prepare()
        assert made == list(range(count + 1))
