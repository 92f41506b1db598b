"""What an analysis leaves in `<cell>/analysis/` or `<store>/analysis/`: a figure, its numbers, and its texts for a report."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from attnbench.analysis.analysed_cells import AnalysedCell
from attnbench.files import replacing, write_text
from attnbench.store.folder import ANALYSIS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito's, without yellow
DPI = 200
_STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "pdf.fonttype": 42,  # TrueType: publishers refuse matplotlib's default, Type 3
    "svg.fonttype": "none",
}


@dataclass(frozen=True)
class Section:
    """A figure with its numbers.

    Attributes:
        name: of its files, without suffix.
        title, caption, alt: plain text, for a report; alt describes the figure to readers who cannot see it.
        table: the contents of the CSV file.
    """

    name: str
    title: str
    caption: str
    alt: str
    figure: Figure
    table: pd.DataFrame


@contextmanager
def paper_style() -> Iterator[None]:
    """Sizes, lines and fonts for print, of figures that are drawn in the block."""
    from matplotlib import rc_context

    with rc_context(_STYLE):
        yield


def write_section(base: Path, section: Section) -> list[Path]:
    """`<base>/analysis/<name>.png`, `.pdf`, `.csv`, `.json`, in this order. Returns their paths."""
    folder = base / ANALYSIS
    folder.mkdir(exist_ok=True)
    files = [folder / f"{section.name}.{suffix}" for suffix in ("png", "pdf", "csv", "json")]
    for file in files[:2]:
        with replacing(file) as draft, paper_style():
            section.figure.savefig(draft, format=file.suffix[1:], dpi=DPI)
    write_text(files[2], section.table.to_csv(index=False))
    texts = {"title": section.title, "caption": section.caption, "alt": section.alt}
    write_text(files[3], json.dumps(texts, indent=1, ensure_ascii=False) + "\n")
    return files


def by_store(cells: Sequence[AnalysedCell]) -> dict[Path, list[AnalysedCell]]:
    """The stores that several of the cells belong to, with these cells."""
    groups: dict[Path, list[AnalysedCell]] = {}
    for cell in cells:
        groups.setdefault(cell.path.absolute().parent, []).append(cell)
    return {store: inside for store, inside in groups.items() if len(inside) > 1}


def colours_of(names: Sequence[str]) -> dict[str, Any]:
    """A different colour for each name: from `COLOURS`, or from a rainbow if those are too few."""
    from matplotlib import colormaps

    if len(names) <= len(COLOURS):
        return dict(zip(names, COLOURS, strict=False))
    rainbow = colormaps["turbo"]
    return {name: rainbow((place + 0.5) / len(names)) for place, name in enumerate(names)}


def short_list(items: Sequence[str], most: int = 3) -> str:
    """The first few, and how many more there are.

    >>> short_list(["a", "b", "c"], 2)
    'a; b; and 1 more in the CSV'
    """
    more = [f"and {len(items) - most} more in the CSV"] if len(items) > most else []
    return "; ".join([*items[:most], *more])


def table_text(frame: pd.DataFrame, most: int = 60) -> str:
    """A table for a terminal. Repeated values of the first column are blank; rows after the first `most` are only counted."""
    shown = frame.head(most).copy()
    first = shown.columns[0]
    shown[first] = shown[first].mask(shown[first] == shown[first].shift(), "")
    text: str = shown.to_markdown(index=False, tablefmt="simple", disable_numparse=True)
    return text + (f"\n... and {len(frame) - most} more rows in the CSV files" if len(frame) > most else "")


def percent(share: float | None) -> str:
    """A share as text.

    >>> percent(0.30571), percent(None)
    ('30.6 %', 'none')
    """
    return "none" if share is None or pd.isna(share) else f"{100 * share:.1f} %"
