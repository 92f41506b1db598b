"""The report as one self-contained HTML file, with style, scripts, numbers and pictures embedded."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from attnbench.cells.provenance import now
from attnbench.errors import UserError
from attnbench.files import replacing
from attnbench.report.cell_facts import running_cells
from attnbench.report.collect import PageData, collect
from attnbench.report.pair_grid import BUDGET, fit
from attnbench.store.reading import each_record

NAME = "report.html"  # in the store, by default
_STATUS_MARKS = {"finished": "●", "running": "◐", "waiting": "○", "interrupted": "◌", "failed": "✕", "diverged": "✕"}


def write_report(store: Path, target: Path | None = None, *, pairs: int) -> Path:
    """Write the page of a store, and return its path.

    Args:
        target: the file; by default `report.html` in the store.
        pairs: number of pairs of a dataset that are shown whatever their scores.

    Raises:
        UserError: there is no such store, no cell in it can be read, or the file cannot be written.
    """
    if target is None:
        next(each_record(store))  # a missing store is the error to report first
        target = store / NAME
    if target.is_dir():
        raise UserError(f"'{target}' is a folder: name a file with -o, such as {target / NAME}")
    with _writing(target), TemporaryFile(dir=target.parent):  # a large page takes a minute: better to fail before
        pass
    text = render(collect(store, pairs=pairs))
    with _writing(target), replacing(target) as draft:
        draft.write_text(text, encoding="utf-8")
    return target


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"'{target}' cannot be written: {error.strerror}: choose another file with -o") from None


def render(report: PageData, live: str | None = None) -> str:
    """The page.

    Args:
        live: the server's name for this state of the store; with it, the page polls the server for a newer one.
    """
    analyses = [one for one in report.figures if one.shown]
    used = sum(len(figure.data) for one in analyses for figure in one.shown)
    pictures, scaled_to = fit(report.albums, BUDGET - used)
    albums = [*pictures, *([figure.data for figure in one.shown] for one in analyses)]
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            report=report,
            name=report.store.absolute().name,
            live=live,
            scaled_to=scaled_to,
            marks=_STATUS_MARKS,
            style=Markup(_own("page.css")),
            script=Markup(_own("page.js")),
            plotly=Markup(_plotly()),
            data=script_json(_shown(report)),
            texts=script_json([table.texts for table in report.tables]),
            albums=[script_json([base64.b64encode(data).decode("ascii") for data in album]) for album in albums],
            analyses=analyses,
            unshown=[one for one in report.figures if not one.shown],
            running=list(running_cells(report.running, report.store)),
            made=now(),
            version=version("attnbench"),
        )
    )


def _shown(report: PageData) -> dict[str, Any]:
    """What the page's script reads. Views of one dataset, under several protocols, share their curves."""
    logs: list[dict[str, Any]] = []
    views = []
    for view in report.views:
        log = {name: getattr(view, name) for name in ("curves", "epochs")}
        if log not in logs:
            logs.append(log)
        views.append({**{name: value for name, value in vars(view).items() if name not in log}, "log": logs.index(log)})
    return {"variants": report.variants, "views": views, "logs": logs}


def render_running(report: PageData) -> str:
    """The board of the running cells alone, for open pages."""
    running = list(running_cells(report.running, report.store))
    return _environment().get_template("page.running.html.j2").render(running=running)


def script_json(value: Any) -> Markup:
    """JSON that is safe in a script element: nothing in it ends the element or begins a comment.

    >>> script_json("</script><!--")
    Markup('"\\\\u003c/script>\\\\u003c!--"')
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    return Markup(text.replace("<", "\\u003c"))


def _plural(items: Sequence[Any] | int, one: str, many: str | None = None) -> str:
    """`1 cell`, `2 cells`."""
    count = items if isinstance(items, int) else len(items)
    return f"{count} {one if count == 1 else many or one + 's'}"


@cache
def _environment() -> Environment:
    loader = PackageLoader("attnbench", "report")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["plural"] = _plural
    return environment


@cache
def _own(name: str) -> str:
    return resources.files("attnbench.report").joinpath(name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())
