"""What the user sees while a command runs: messages and progress, on stderr. Results go to stdout.

Every message goes through the logger `attnbench`. The command line shows them (`messages_shown`); a program that uses
attnbench as a library configures it like any other logger.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

log = logging.getLogger("attnbench")

PLAIN_INTERVAL = 20.0  # seconds between lines where there is no terminal


@cache
def screen() -> Console:
    """The rich console on stderr, shared by messages, bars and boards, so that lines appear above the live display."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


class _ScreenHandler(logging.Handler):
    """Prints one message per line, unformatted. rich is imported with the first message: most commands have none."""

    def emit(self, record: logging.LogRecord) -> None:
        screen().print(record.getMessage(), markup=False)


_shown = 0  # blocks of `messages_shown` that this process is in
_noted: ContextVar[list[str] | None] = ContextVar("noted", default=None)  # of `warnings_noted`, in each thread
_told_once: set[str] = set()  # by `warn`, in this process


@contextmanager
def messages_shown(*, unless_handled: bool = False) -> Iterator[None]:
    """In the block, messages, bars and boards are shown on stderr.

    Args:
        unless_handled: leave messages to the handlers that the program has set up, if there are any; nothing is drawn then.
    """
    global _shown
    if unless_handled and log.hasHandlers():
        yield
        return
    handler, level = _ScreenHandler(), log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    _shown += 1
    try:
        yield
    finally:
        _shown -= 1
        log.removeHandler(handler)
        log.setLevel(level)


def draws() -> bool:
    """Whether bars and boards are drawn: messages are shown, and in a terminal."""
    return _shown > 0 and screen().is_terminal


def warn(message: str, *, once: bool = False) -> None:
    """Log a warning. In a block of `warnings_noted` it is noted too, and one that comes again is dropped.

    Args:
        once: log it the first time in this process alone; every block notes it.
    """
    noted = _noted.get()
    if noted is not None:
        if message in noted:
            return
        noted.append(message)
    if once:
        if message in _told_once:
            return
        _told_once.add(message)
    log.warning(message)


@contextmanager
def warnings_noted() -> Iterator[list[str]]:
    """In the block, collects what this thread warns of by `warn`, whatever becomes of the log."""
    noted: list[str] = []
    token = _noted.set(noted)
    try:
        yield noted
    finally:
        _noted.reset(token)


@contextmanager
def progress(label: str, *, start: int = 0) -> Iterator[Callable[..., None]]:
    """Yields `update(done, total, **figures)`: in a terminal a bar followed by the figures, elsewhere an occasional line."""
    if not draws():
        yield _PlainProgress(label)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}", style="dim"),
    )
    with Progress(*columns, console=screen(), transient=True) as bars:
        task = bars.add_task(label, total=None, completed=start, figures="")

        def update(done: int, total: int, **figures: float) -> None:
            bars.update(task, completed=done, total=total, figures=_figures_text(figures))

        yield update


class _PlainProgress:
    """An occasional line, and one at the end."""

    def __init__(self, label: str):
        self.label, self.last = label, time.monotonic()

    def __call__(self, done: int, total: int, **figures: float) -> None:
        now = time.monotonic()
        if done == total or now - self.last >= PLAIN_INTERVAL:
            self.last = now
            log.info(f"  {self.label}: {done}/{total} {_figures_text(figures)}".rstrip())


def _figures_text(figures: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.3g}" for name, value in figures.items())


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
