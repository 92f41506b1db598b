"""`attnbench report --serve`: the page on this machine, made again when the store changes."""

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

from attnbench.console import warn
from attnbench.errors import UserError
from attnbench.report.collect import PageData, collect
from attnbench.report.page import render, render_running
from attnbench.store.folder import ANALYSIS

HOST = "127.0.0.1"
_WATCHED = ("cell.json", "evaluations.jsonl", "pairs.csv", "pictures.zip")
_GROWS = "losses.jsonl"  # grows with every step, but makes a new page at most every _CURVES_EVERY
_CURVES_EVERY = 30  # seconds
_FAILED = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="3"><title>attnbench</title>
<link rel="icon" href="data:,">
<style>:root {{ color-scheme: light dark }} body {{ font: 14px/1.5 system-ui; margin: 3rem auto; max-width: 75ch }}</style>
<p>The page cannot be made: {why}</p><p>It comes back when the results folder can be read again.</p></html>
"""


def serve(store: Path, port: int, *, pairs: int, ready: Callable[[str], None]) -> None:
    """Show the page until Ctrl-C.

    Args:
        port: port on 127.0.0.1; 0 for any free one.
        pairs: see `collect`.
        ready: called with the page's address once it can be opened.

    Raises:
        UserError: the port is in use, there is no such store, or no cell in it can be read.
    """
    try:
        server = _Server(port)
    except OSError as error:
        why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be opened ({error.strerror})"
        raise UserError(f"port {port} {why}: choose another with --port, or any free one with --port 0") from None
    with server:
        try:
            server.site = Site(store, pairs)
            ready(f"http://{HOST}:{server.server_port}/")
            server.serve_forever()
        except KeyboardInterrupt:  # the way to stop it
            return


class Site:
    """A store's page, kept until the store changes.

    Raises:
        UserError: there is no such store, or no cell in it can be read.
    """

    def __init__(self, store: Path, pairs: int):
        self.store, self.pairs = store, pairs
        self._lock = threading.Lock()
        self._version = version_of(store)
        self._answer = self._made()

    def _made(self) -> tuple[int, bytes]:
        self._report: PageData = collect(self.store, pairs=self.pairs)
        return 200, render(self._report, live=self._version).encode()

    def page(self) -> tuple[int, bytes]:
        """An HTTP status and a page: 200 and the store's, or 503 and one that gives the reason and reloads."""
        with self._lock:  # of two requests, one waits for the page that the other makes
            if (version := version_of(self.store)) != self._version:
                self._version = version
                try:
                    self._answer = self._made()
                except Exception as error:  # whatever is wrong with the store, the page comes back once it is fixed
                    why = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
                    warn(f"the page cannot be made: {why}")
                    self._answer = 503, _FAILED.format(why=html.escape(why)).encode()
            return self._answer

    def live(self) -> bytes:
        """The answer to open pages' polls: the store's version, and the board of the running cells."""
        return json.dumps({"version": version_of(self.store), "running": render_running(self._report)}).encode()


def version_of(store: Path) -> str:
    """A digest that changes when a cell starts, ends, saves or is measured, when an analysis is added, and now and then in
    training.
    """
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
    """(file, seconds within which changes count as one; 0 if all count)."""
    for folder, inner, files in os.walk(store):
        is_cell, is_analysis = "cell.json" in files, Path(folder).name == ANALYSIS
        inner[:] = sorted(name for name in inner if not name.startswith(".") and (not is_cell or name == ANALYSIS))
        for name in sorted(files):
            if (is_cell and name in _WATCHED) or (is_analysis and name.endswith((".png", ".json"))):
                yield Path(folder, name), 0
            elif is_cell and name == _GROWS:
                yield Path(folder, name), _CURVES_EVERY


def is_own(host: str) -> bool:
    """Whether a request's Host is a local name: another site's name may resolve to this machine (DNS rebinding).

    Any port is accepted, since an SSH tunnel may have another port at its other end.

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
        """Log nothing: a line per poll would be noise."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    site: Site

    def __init__(self, port: int):
        super().__init__((HOST, port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore browsers that close a page in the middle of an answer; show any other error."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)
