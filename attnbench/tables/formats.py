"""Tables as text: for a terminal, as Markdown, LaTeX and HTML.

A `Sheet` fixes what a table says; each function below writes it in one format.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING
from unicodedata import lookup

from attnbench.errors import unknown

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

FORMATS = ("text", "md", "latex", "csv", "html")
DAGGER, MINUS = "†", "\N{MINUS SIGN}"
_TEXT_WIDTH = 345  # points: the text of LaTeX's article class


@dataclass(frozen=True)
class Entry:
    """The content of one field of a table.

    Attributes:
        value: a number, a status or a dash.
        rank: 0 for the best of its column, 1 for the second.
        spread: shown with the number: `± 2.00`, `[0.52, 0.57]`, `n=2`.
        marks: references to the notes: `†`, directly after the value, and `[1]`.
        paper: `(34.35, -4.35)`, the published number and the difference from it.
    """

    value: str
    rank: int | None = None
    spread: str = ""
    marks: tuple[str, ...] = ()
    paper: str = ""

    @property
    def parts(self) -> tuple[str, str, str, str]:
        """Value, dagger, spread with footnotes, published number."""
        footnotes = [mark for mark in self.marks if mark != DAGGER]
        return self.value, DAGGER * (DAGGER in self.marks), " ".join(filter(None, [self.spread, *footnotes])), self.paper

    @property
    def text(self) -> str:
        value, dagger, *beside = self.parts
        return " ".join(filter(None, [value + dagger, *beside]))


@dataclass(frozen=True)
class Heading:
    """A column's title, and the name of the group that it forms with its neighbours."""

    group: str
    title: str

    @property
    def text(self) -> str:
        return f"{self.group} {self.title}".strip()


@dataclass(frozen=True)
class Line:
    """A row; adjacent lines of one section are shown under its name."""

    label: str
    entries: Sequence[Entry]
    section: str = ""


@dataclass(frozen=True)
class Sheet:
    """A table as it is printed, with its caption and notes."""

    headings: Sequence[Heading]
    lines: Sequence[Line]
    caption: str
    notes: Sequence[str] = field(default_factory=list)

    def sections(self) -> list[tuple[str, list[Line]]]:
        return [(name, list(lines)) for name, lines in groupby(self.lines, key=lambda line: line.section)]


def written(sheet: Sheet, style: str) -> str:
    """As `md`, `latex` or `html` text.

    Raises:
        UserError: unknown format.
    """
    writers: dict[str, Callable[[Sheet], str]] = {"md": _markdown, "latex": _latex, "html": _html}
    if style not in writers:
        raise unknown("format", style, FORMATS)
    return writers[style](sheet)


def _markdown(sheet: Sheet) -> str:
    from tabulate import tabulate

    def entry(entry: Entry) -> str:
        value = {0: "**{}**", 1: "<u>{}</u>", None: "{}"}[entry.rank].format(entry.value)
        return _escape_markdown(entry.text).replace(_escape_markdown(entry.value), value, 1)

    body: list[list[str]] = []
    for section, lines in sheet.sections():
        if section:
            body.append([f"*{_escape_markdown(section)}*", *("" for _ in sheet.headings)])
        body += [[_escape_markdown(line.label), *map(entry, line.entries)] for line in lines]
    head = ["", *(_escape_markdown(heading.text) for heading in sheet.headings)]
    align = ("left", *("right" for _ in sheet.headings))
    table = tabulate(body, head, tablefmt="pipe", colalign=align, disable_numparse=True)
    return "\n\n".join([table, *map(_escape_markdown, [sheet.caption, *sheet.notes])]) + "\n"


def _escape_markdown(text: str) -> str:
    return _escape_html(text).replace("|", r"\|").replace("*", r"\*")


def _latex(sheet: Sheet) -> str:
    """Needs only booktabs. Spreads and published numbers go below their value, columns too wide for a page into new tables."""
    joined = min((True, False), key=lambda joined: len(_latex_panels(sheet, joined)))
    panels = _latex_panels(sheet, joined)
    notes = [rf"{_escape_latex(note)}\par" for note in sheet.notes]
    lines = []
    for columns in panels:
        groups = ", ".join(dict.fromkeys(sheet.headings[column].group for column in columns))
        caption = f"{groups[:1].upper()}{groups[1:]}. {sheet.caption}" if len(panels) > 1 else sheet.caption
        lines += [r"\begin{table}", r"\centering", rf"\caption{{{_escape_latex(caption)}}}"]
        lines += [r"\footnotesize", r"\setlength{\tabcolsep}{3pt}", *_latex_panel(sheet, columns, joined)]
        if notes and columns is panels[-1]:
            lines += [r"\par\smallskip", r"\begin{minipage}{\linewidth}\footnotesize\raggedright", *notes, r"\end{minipage}"]
        lines.append(r"\end{table}")
    return "\n".join(lines) + "\n"


def _latex_panels(sheet: Sheet, joined: bool) -> list[list[int]]:
    """The columns of each table: as many groups side by side as fit the text of an article."""
    widths = [
        max(
            *(_latex_points(part) for part in _latex_title(heading)),
            *(_latex_points(entry.value) + 4 * len(entry.marks) for entry in entries),
            *(0.8 * _latex_points(part) for entry in entries for part in _latex_below(entry, joined)),
        )
        for heading, *entries in zip(sheet.headings, *(line.entries for line in sheet.lines), strict=True)
    ]
    left = max(_latex_points(line.label) for line in sheet.lines)
    panels: list[list[int]] = []
    for _, group in groupby(range(len(widths)), key=lambda column: sheet.headings[column].group):
        columns = list(group)
        together = [*panels[-1], *columns] if panels else []
        if together and left + sum(widths[column] + 6 for column in together) <= _TEXT_WIDTH:
            panels[-1] = together
        else:
            panels.append(columns)
    return panels


def _latex_points(text: str) -> float:
    """Approximate width of a text at 8 pt."""
    return 4.2 * len(text)


def _latex_panel(sheet: Sheet, columns: Sequence[int], joined: bool) -> list[str]:
    lines = [rf"\begin{{tabular}}{{@{{}}l{'r' * len(columns)}@{{}}}}", r"\toprule"]
    lines += _latex_head([sheet.headings[column] for column in columns])
    for place, (section, body) in enumerate(sheet.sections()):
        lines.append(r"\addlinespace" if place else r"\midrule")
        if section:
            lines.append(rf"\multicolumn{{{len(columns) + 1}}}{{@{{}}l}}{{\textit{{{_escape_latex(section)}}}}} \\")
        for line in body:
            entries = (_latex_entry(line.entries[column], joined) for column in columns)
            lines.append(" & ".join([_escape_latex(line.label), *entries]) + r" \\")
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def _latex_head(headings: Sequence[Heading]) -> list[str]:
    """Titles below the names of their groups, with a rule under each group."""
    titles = " & ".join(["", *map(_latex_heading, headings)]) + r" \\"
    if not any(heading.group for heading in headings):
        return [titles]
    groups, lines, start = [""], [], 2
    for name, members in groupby(headings, key=lambda heading: heading.group):
        count = len(list(members))
        groups.append(rf"\multicolumn{{{count}}}{{c}}{{{_escape_latex(name)}}}")
        lines.append(rf"\cmidrule(lr){{{start}-{start + count - 1}}}" if name else "")
        start += count
    return [" & ".join(groups) + r" \\", "".join(lines), titles]


def _latex_heading(heading: Heading) -> str:
    body = r" \\ ".join(map(_escape_latex, _latex_title(heading)))
    return rf"\multicolumn{{1}}{{c}}{{\begin{{tabular}}[t]{{@{{}}c@{{}}}}{body}\end{{tabular}}}}"


def _latex_title(heading: Heading) -> list[str]:
    """`Title ↑` above `(what is in parentheses)`."""
    name, parenthesis, rest = heading.title.partition(" (")
    inside, closing, arrow = rest.partition(")")
    return [name + arrow, parenthesis.strip() + inside + closing] if parenthesis else [heading.title]


def _latex_entry(entry: Entry, joined: bool) -> str:
    value = {0: r"\textbf{{{}}}", 1: r"\underline{{{}}}", None: "{}"}[entry.rank].format(_escape_latex(entry.value))
    value += "".join(rf"\textsuperscript{{{_escape_latex(mark.strip('[]'))}}}" for mark in entry.marks)
    below = [rf"\scriptsize {_escape_latex(part)}" for part in _latex_below(entry, joined)]
    return r"\begin{tabular}[t]{@{}r@{}}" + r" \\ ".join([value, *below]) + r"\end{tabular}" if below else value


def _latex_below(entry: Entry, joined: bool) -> list[str]:
    """Lines below a value: spread, number of seeds, published number, and the difference, `joined` to it or on its own line."""
    published, comma, difference = entry.paper.partition(", ")
    paper = [entry.paper] if joined or not comma else [f"{published})", difference.rstrip(")")]
    return [part for part in (*re.split(r" (?=n=)", entry.spread), *paper) if part]


# Those that LaTeX has a command for, as in the titles of metrics; Unicode spells lambda without its b.
_CAPITALS = ("Gamma", "Delta", "Theta", "Lambda", "Xi", "Pi", "Sigma", "Upsilon", "Phi", "Psi", "Omega")
_SMALL = (
    *("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu", "xi"),
    *("pi", "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega"),
)
_GREEK = {
    lookup(f"GREEK {case} LETTER {name.upper().replace('LAMBDA', 'LAMDA')}"): rf"$\{name}$"
    for case, names in (("CAPITAL", _CAPITALS), ("SMALL", _SMALL))
    for name in names
}


def _escape_latex(text: str) -> str:
    replacements: dict[str, str | int | None] = {
        "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
        "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "↓": r"$\downarrow$", "↑": r"$\uparrow$", "±": r"$\pm$",
        "<": r"$<$", ">": r"$>$", "≥": r"$\geq$", MINUS: "$-$", DAGGER: r"\dag{}", **_GREEK,
    }  # fmt: skip
    return re.sub(r"(?<![\w-])-(?=\d)", "$-$", text.translate(str.maketrans(replacements)))  # a minus sign, not a hyphen


def _html(sheet: Sheet) -> str:
    marks = {0: "<b>{}</b>", 1: "<u>{}</u>", None: "{}"}

    def entry(entry: Entry) -> str:
        notes = "".join(f"<sup>{_escape_html(mark)}</sup>" for mark in entry.marks)
        rest = "".join(f" {_escape_html(part)}" for part in (entry.spread, entry.paper) if part)
        return f"<td>{marks[entry.rank].format(_escape_html(entry.value))}{notes}{rest}</td>"

    groups = [(name, len(list(members))) for name, members in groupby(sheet.headings, key=lambda heading: heading.group)]
    head = "".join(f'<th colspan="{count}">{_escape_html(name)}</th>' for name, count in groups)
    titles = "".join(f"<th>{_escape_html(heading.title)}</th>" for heading in sheet.headings)
    caption = "<br>".join(_escape_html(line) for line in [sheet.caption, *sheet.notes])
    body = []
    for section, lines in sheet.sections():
        if section:
            body.append(f'<tr><th colspan="{len(sheet.headings) + 1}">{_escape_html(section)}</th></tr>')
        body += [f"<tr><th>{_escape_html(line.label)}</th>{''.join(map(entry, line.entries))}</tr>" for line in lines]
    parts = [
        "<table>",
        f"<caption>{caption}</caption>",
        f"<thead><tr><th></th>{head}</tr>",
        f"<tr><th></th>{titles}</tr></thead>",
    ]
    return "\n".join([*parts, "<tbody>", *body, "</tbody>", "</table>"]) + "\n"


def _escape_html(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def show(sheet: Sheet, console: Console) -> None:
    """Print to a terminal: one table if the console is wide enough, else one per group, below each other."""
    for block in _blocks(sheet, console):
        console.print()
        console.print(_rich(sheet, block))
    console.print()
    for text in (sheet.caption, *sheet.notes):
        console.print(text, markup=False, style="dim")


def _blocks(sheet: Sheet, console: Console) -> list[list[int]]:
    """Columns printed side by side: all of them, else those of a group, else as many of a group as fit."""
    every = list(range(len(sheet.headings)))
    if _width(sheet, every, console) <= console.width:
        return [every]
    blocks: list[list[int]] = []
    for _, group in groupby(every, key=lambda column: sheet.headings[column].group):
        block: list[int] = []
        for column in group:
            if block and _width(sheet, [*block, column], console) > console.width:
                blocks.append(block)
                block = []
            block.append(column)
        blocks.append(block)
    return blocks


def _width(sheet: Sheet, columns: Sequence[int], console: Console) -> int:
    """Width in characters of a table of these columns; long row labels may wrap."""
    from rich.measure import Measurement

    return Measurement.get(console, console.options.update(max_width=10_000), _rich(sheet, columns, label_width=24)).maximum


def _rich(sheet: Sheet, columns: Sequence[int], label_width: int | None = None) -> RichTable:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    headings = [sheet.headings[column] for column in columns]
    groups = {heading.group for heading in headings}
    alone = groups.pop() if len(groups) == 1 else None  # the name of an only group becomes the title
    shown = RichTable(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        title=Text(alone, style="bold") if alone else None,
        title_justify="left",
        title_style="",
    )
    shown.add_column("", max_width=label_width)
    titles = [heading.title if alone is not None else f"{heading.group}\n{heading.title}" for heading in headings]
    for title in titles:
        shown.add_column(Text(title, justify="right"), no_wrap=True)
    styles = {0: "bold", 1: "underline", None: ""}
    widths = {column: _part_widths(line.entries[column] for line in sheet.lines) for column in columns}
    for section, lines in sheet.sections():
        if section:
            shown.add_row(Text(section, style="italic"))
        for line in lines:
            entries = [line.entries[column] for column in columns]
            shown.add_row(
                Text(line.label),
                *(
                    _aligned(entry, widths[column], max(map(len, title.split("\n"))), styles[entry.rank])
                    for entry, column, title in zip(entries, columns, titles, strict=True)
                ),
            )
    return shown


def _part_widths(entries: Iterable[Entry]) -> list[int]:
    """The maximum length of each part over a column's entries."""
    return [max(map(len, parts)) for parts in zip(*(entry.parts for entry in entries), strict=True)]


def _aligned(entry: Entry, widths: Sequence[int], least: int, style: str) -> Text:
    """The entry's parts, aligned with those of the column's other entries and padded on the left to `least` characters."""
    from rich.text import Text

    value, dagger, *rest = entry.parts
    before = " " * (widths[0] - len(value))
    beside = "".join(f" {part:<{width}}" for part, width in zip(rest, widths[2:], strict=True) if width)
    text = Text.assemble(before, (value, style), f"{dagger:<{widths[1]}}", beside)
    text.pad_left(max(0, least - len(text)))
    return text
