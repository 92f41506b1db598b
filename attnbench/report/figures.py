"""The figures of earlier analyses as the page shows them, as many as it has room for."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image

from attnbench.console import warn
from attnbench.store.folder import ANALYSIS

BUDGET = 8_000_000  # bytes of figures in a page, of `pair_grid.BUDGET` for all pictures
_WIDE, _HIGH = 1240, 3720  # pixels: a figure is shown at most 620 wide, and screens may have two pixels for one
_QUALITY = 80
_LONGEST = 1500  # characters of a caption


@dataclass(frozen=True)
class Figure:
    """A figure as the page shows it.

    Attributes:
        data: a WebP file of `width` x `height` pixels.
    """

    title: str
    caption: str
    alt: str
    data: bytes
    width: int
    height: int


@dataclass(frozen=True)
class Analysed:
    """A cell, or the store, with its figures.

    Attributes:
        folder: the cell's folder in the store; empty for the store.
        label: the cell's label; empty for the store.
        shown: its figures; empty where the page has no room for them.
        files: the PNG files.
    """

    folder: str
    label: str
    shown: list[Figure]
    files: list[Path]


def find_figures(store: Path, cells: Mapping[str, str], budget: int = BUDGET) -> list[Analysed]:
    """The figures of the store, then of its cells in order; once they exceed the budget, the others are only named.

    Warns of damaged files.

    Args:
        cells: folder -> label.
        budget: bytes.
    """
    found: list[Analysed] = []
    used, room = 0, True
    for folder, label in {"": "", **cells}.items():
        inside = store / folder / ANALYSIS
        files = sorted(inside.glob("*.png")) if inside.is_dir() else []
        shown = _shown(files) if room else []
        used += sum(len(figure.data) for figure in shown)
        room = room and used <= budget
        if shown or (files and not room):
            found.append(Analysed(folder, label, shown if room else [], files))
    return found


def _shown(files: Sequence[Path]) -> list[Figure]:
    found = []
    with ThreadPoolExecutor() as threads:
        made = list(threads.map(_read, files))
    for file, picture in zip(files, made, strict=True):
        if isinstance(picture, str):
            warn(f"{file} is left out: {picture}")
            continue
        texts = _texts_of(file.with_suffix(".json"))
        title = texts.get("title") or file.stem.replace("_", " ")
        caption = texts.get("caption", "")
        found.append(Figure(title, caption, texts.get("alt") or caption or title, *picture))
    return found


def _read(file: Path) -> tuple[bytes, int, int] | str:
    """The figure as a WebP file with its width and height, or why there is none."""
    try:
        status = file.stat()
        return _scaled(file, status.st_mtime_ns, status.st_size)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # SyntaxError: Pillow's, for PNG files
        return f"it cannot be read as a picture ({error})"


@lru_cache(maxsize=1024)  # for `--serve`, which makes the page again and again
def _scaled(file: Path, modified: int, size: int) -> tuple[bytes, int, int]:
    """`modified` and `size` are the file's, so that the cache notices a new version."""
    with Image.open(file, formats=["PNG"]) as image:
        whole = image.convert("RGBA")
    figure = Image.new("RGB", whole.size, "white")
    figure.paste(whole, mask=whole)
    figure.thumbnail((_WIDE, _HIGH), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    figure.save(buffer, "WEBP", quality=_QUALITY, method=2)
    return buffer.getvalue(), *figure.size


def _texts_of(file: Path) -> dict[str, str]:
    """title, caption, alt of a figure, cut where they are very long; empty where they are missing or damaged."""
    try:
        texts = json.loads(file.read_text())
        return {name: _cut(str(texts[name]), file) for name in ("title", "caption", "alt") if texts.get(name)}
    except FileNotFoundError:
        return {}
    except (AttributeError, OSError, ValueError) as error:
        warn(f"{file} is damaged ({error}): its figure is shown without title and caption")
        return {}


def _cut(text: str, file: Path) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} … (the rest is in {file.name})"
