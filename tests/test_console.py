"""Messages and progress: shown on stderr a line each, in a terminal or not, once; results stay alone on stdout."""

from __future__ import annotations

import io
import logging
import re
import threading
from collections.abc import Iterator

import pytest

from attnbench.console import PLAIN_INTERVAL, log, messages_shown, progress, warn, warnings_noted


def test_messages_are_shown_as_they_are_and_only_in_the_block(capsys: pytest.CaptureFixture[str]) -> None:
    with messages_shown():
        log.info("cell [bold]x[/bold] 12:30 /path/to/a " + "long " * 60 + "line")
        log.warning("left out")
    log.info("not shown")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "cell [bold]x[/bold] 12:30 /path/to/a " + "long " * 60 + "line\nleft out\n"


def test_a_program_with_handlers_of_its_own_keeps_them(capsys: pytest.CaptureFixture[str]) -> None:
    with messages_shown(unless_handled=True):
        log.warning("for the program")  # pytest's handlers are there
    assert capsys.readouterr().err == ""


def test_warnings_are_noted_once_and_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    with messages_shown(), warnings_noted() as noted:
        for _ in range(2):
            warn("damaged")
            log.info("step")
        warn("missing")
    warn("later")
    assert noted == ["damaged", "missing"]
    assert capsys.readouterr().err == "damaged\nstep\nstep\nmissing\n"


def test_warnings_are_noted_whatever_the_program_does_with_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "disabled", True)
    with warnings_noted() as noted:
        warn("damaged")
    assert noted == ["damaged"]


def test_another_threads_warnings_are_not_noted(capsys: pytest.CaptureFixture[str]) -> None:
    with messages_shown(), warnings_noted() as noted:
        other = threading.Thread(target=warn, args=("of another page",))
        other.start()
        other.join()
    assert noted == []
    assert capsys.readouterr().err == "of another page\n"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """stderr as a terminal, and what is written to it."""
    from rich.console import Console

    from attnbench import console

    written = io.StringIO()
    monkeypatch.setattr(console, "screen", lambda: shown)
    shown = Console(file=written, force_terminal=True, width=100, highlight=False, soft_wrap=True)
    yield written


def test_in_a_terminal_progress_is_a_bar_with_its_figures_and_messages_stay_whole_above_it(terminal: io.StringIO) -> None:
    with messages_shown(), progress("colouring") as update:
        update(3, 9, loss=0.5)
        log.info("a message in between")
        update(9, 9, loss=0.25)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    assert "a message in between\n" in text
    assert re.search(r"colouring .*9/9.*loss 0\.25", text)


def test_nothing_is_drawn_where_a_program_has_not_asked_for_it(terminal: io.StringIO) -> None:
    with progress("colouring") as update:
        update(9, 9)
    with messages_shown(unless_handled=True), progress("colouring") as update:  # pytest's handlers are there
        update(9, 9)
    assert terminal.getvalue() == ""


def test_progress_without_a_terminal_is_a_line_now_and_then_and_one_at_the_end(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("attnbench.console.time.monotonic", lambda: clock[0])
    with caplog.at_level(logging.INFO, "attnbench"), progress("colouring") as update:
        update(1, 9)
        clock[0] += PLAIN_INTERVAL
        update(2, 9, loss=0.5)
        update(3, 9)
        update(9, 9)
    assert caplog.messages == ["  colouring: 2/9 loss 0.5", "  colouring: 9/9"]
