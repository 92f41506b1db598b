"""What a person sees while work goes on: bars in a terminal, plain lines elsewhere. Results go to stdout, this to stderr."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PLAIN_INTERVAL = 20.0  # seconds between lines where there is no terminal


def stderr_console() -> Console:
    return Console(stderr=True, highlight=False, soft_wrap=True)


@dataclass
class Reporter:
    """Says lines and shows progress."""

    console: Console = field(default_factory=stderr_console)

    def say(self, line: str) -> None:
        self.console.print(line, markup=False)

    @contextmanager
    def progress(self, label: str, *, start: int = 0) -> Iterator[Callable[..., None]]:
        """Yields `update(done, total, **figures)`; figures are shown behind the bar."""
        if not self.console.is_terminal:
            yield _PlainProgress(self.say, label)
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}", style="dim"),
        )
        with Progress(*columns, console=self.console, transient=True) as bars:
            task = bars.add_task(label, total=None, completed=start, figures="")

            def update(done: int, total: int, **figures: float) -> None:
                bars.update(task, completed=done, total=total, figures=_in_words(figures))

            yield update


class _PlainProgress:
    """A line now and then, and one at the end."""

    def __init__(self, say: Callable[[str], None], label: str):
        self.say, self.label, self.last = say, label, time.monotonic()

    def __call__(self, done: int, total: int, **figures: float) -> None:
        now = time.monotonic()
        if done == total or now - self.last >= PLAIN_INTERVAL:
            self.last = now
            self.say(f"  {self.label}: {done}/{total} {_in_words(figures)}".rstrip())


def _in_words(figures: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.3g}" for name, value in figures.items())


Say = Callable[[str], None]


def duration(seconds: float) -> str:
    """
    >>> duration(38), duration(754), duration(9000), duration(200000)
    ('38 s', '12 min', '2 h 30 min', '2 d 7 h')
    """
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if minutes < 1:
        return f"{seconds:.0f} s"
    if hours < 1:
        return f"{minutes} min"
    if days < 1:
        return f"{hours} h {minutes % 60} min"
    return f"{days} d {hours % 24} h"
