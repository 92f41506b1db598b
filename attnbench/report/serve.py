"""`attnbench report --serve`: the page on this machine, made anew when the store has changed."""

from __future__ import annotations

import errno
import hashlib
import html
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from attnbench.console import Say
from attnbench.errors import UserError
from attnbench.report.collect import Report, collect
from attnbench.report.page import render, render_running
from attnbench.store.folder import ANALYSIS

HOST = "127.0.0.1"
_WATCHED = ("cell.json", "evaluations.jsonl", "pairs.csv", "pictures.zip")
_GROWS = "losses.jsonl"  # with every step: curves that grow make a new page only so often
_CURVES_EVERY = 30  # seconds
_FAILED = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="3"><title>attnbench</title>
<link rel="icon" href="data:,">
<style>:root {{ color-scheme: light dark }} body {{ font: 14px/1.5 system-ui; margin: 3rem auto; max-width: 75ch }}</style>
<p>The page cannot be made: {why}</p><p>It comes back when the store can be read again.</p></html>
"""


def serve(store: Path, port: int, *, pairs: int, say: Say, ready: Callable[[str], None]) -> None:
    """Show the page until Ctrl-C.

    Args:
        port: on 127.0.0.1; 0 for any that is free.
        pairs, say: see `collect`.
        ready: hears the page's address once it can be opened.

    Raises:
        UserError: the port is in use, there is no such store, no cell in it that can be read.
    """
    try:
        server = _Server(port)
    except OSError as error:
        why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be opened ({error.strerror})"
        raise UserError(f"port {port} {why}: choose another with --port, or any free one with --port 0") from None
    with server:
        try:
            server.site = Site(store, pairs, say)
            ready(f"http://{HOST}:{server.server_port}/")
            server.serve_forever()
        except KeyboardInterrupt:  # how one ends it
            return


class Site:
    """A store's page, kept until the store changes.

    Raises:
        UserError: there is no such store, or no cell in it that can be read.
    """

    def __init__(self, store: Path, pairs: int, say: Say):
        self.store, self.pairs, self.say = store, pairs, say
        self._lock = threading.Lock()
        self._version = version_of(store)
        self._answer = self._made()

    def _made(self) -> tuple[int, bytes]:
        self._report: Report = collect(self.store, pairs=self.pairs, say=self.say)
        return 200, render(self._report, live=self._version).encode()

    def page(self) -> tuple[int, bytes]:
        """An HTTP status and a page: 200 and the store's, or 503 and one that says why there is none and asks again."""
        with self._lock:  # of two readers, one waits for what the other has made
            if (version := version_of(self.store)) != self._version:
                self._version = version
                try:
                    self._answer = self._made()
                except Exception as error:  # whatever the store holds, the page comes back when that is put right
                    why = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
                    self.say(f"the page cannot be made: {why}")
                    self._answer = 503, _FAILED.format(why=html.escape(why)).encode()
            return self._answer

    def live(self) -> bytes:
        """What open pages ask for: the store's version, and the board of the running cells."""
        return json.dumps({"version": version_of(self.store), "running": render_running(self._report)}).encode()


def version_of(store: Path) -> str:
    """Changes when a cell starts, ends, saves or is measured, or an analysis is added; and now and then while one trains."""
    digest = hashlib.sha256()
    for path, every in _watched_files(store):
        try:
            status = path.stat()
        except OSError:  # moved away since it was listed
            continue
        moment = status.st_mtime_ns if every == 0 else int(status.st_mtime) // every
        digest.update(f"{path}\0{moment}\0{status.st_size if every == 0 else ''}\n".encode())
    return digest.hexdigest()[:16]


def _watched_files(store: Path) -> Iterator[tuple[Path, int]]:
    """(file, seconds within which changes are one)."""
    for folder, inner, files in os.walk(store):
        is_cell, is_analysis = "cell.json" in files, Path(folder).name == ANALYSIS
        inner[:] = sorted(name for name in inner if not name.startswith(".") and (not is_cell or name == ANALYSIS))
        for name in sorted(files):
            if (is_cell and name in _WATCHED) or (is_analysis and name.endswith((".png", ".json"))):
                yield Path(folder, name), 0
            elif is_cell and name == _GROWS:
                yield Path(folder, name), _CURVES_EVERY


def is_own(host: str) -> bool:
    """Whether a request's Host is a name of this machine for itself: a page of another site could have its name lead here.

    Any port will do, since an SSH tunnel may have another end.

    >>> is_own("localhost:8765"), is_own("[::1]:80"), is_own("evil.example:8765")
    (True, True, False)
    """
    return re.fullmatch(r"(localhost|127\.0\.0\.1|\[::1\])(:\d+)?", host, re.IGNORECASE) is not None


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if not is_own(self.headers.get("Host", "")):
            self.send_error(403, explain=f"Open http://{HOST}:{self.server.server_port}/")
        elif path == "/":
            self._send(*self.server.site.page(), "text/html; charset=utf-8")
        elif path == "/live":
            self._send(200, self.server.site.live(), "application/json")
        else:
            self.send_error(404)

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """A line a poll is nothing to read."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    site: Site

    def __init__(self, port: int):
        super().__init__((HOST, port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that closes a page in the middle of an answer is no error; anything else is shown."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)
