"""Terminal output of the commands: results as rich tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from attnbench.errors import UserError

if TYPE_CHECKING:
    from attnbench.cells.cell import Cell
    from attnbench.contract.report import Report
    from attnbench.execute.executor import Executor
    from attnbench.store.job import RunOptions
    from attnbench.tables.formats import Sheet
    from attnbench.tables.status import StoreStatus

_LISTED = 20  # cells that are listed one by one


def installed_here() -> None:
    """Print modules, datasets, metrics and methods with their packages; recipes; grids."""
    from importlib.metadata import version

    from attnbench import plugins
    from attnbench.config.grid_files import built_in_grids
    from attnbench.config.recipe import built_in_recipes

    console = Console(highlight=False)
    groups = {"Modules": plugins.MODULES, "Datasets": plugins.DATASETS, "Metrics": plugins.METRICS, "Methods": plugins.METHODS}
    for title, group in groups.items():
        table = _listing(title)
        for plugin in plugins.installed(group):
            try:
                summary = _first_line(plugin.load().__doc__)
            except UserError as error:
                summary = f"broken: {error}"
            table.add_row(plugin.name, f"{plugin.package} {plugin.version}", Text(summary))
        console.print(table)
        console.print()
    table = _listing("Recipes")
    for name, text in sorted(built_in_recipes().items()):
        table.add_row(name, f"attnbench {version('attnbench')}", Text(_first_line(text).removeprefix("# ")))
    console.print(table)
    console.print()
    table = _listing("Grids")
    for name, grid in built_in_grids().items():
        table.add_row(name, f"attnbench {version('attnbench')}", Text(f"{grid.title}, {len(grid.variants)} variants"))
    console.print(table)


def _listing(title: str) -> Table:
    return Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))


def _first_line(text: str | None) -> str:
    return (text or "").strip().split("\n")[0]


def check_report(report: Report) -> None:
    """Print the contract's findings, and a module's costs beside those of others."""
    console = Console(highlight=False)
    styles = {"passed": "green", "failed": "bold red", "note": "yellow"}
    title = Text(f"{report.subject}: {report.setting}")
    findings = Table(title=title, title_justify="left", show_header=False, box=None)
    for finding in report.findings:
        findings.add_row(Text(finding.status, style=styles[finding.status]), finding.name, Text(finding.detail))
    console.print(findings)
    if report.costs:
        costs = Table(box=box.SIMPLE_HEAD)
        costs.add_column("")
        for heading in ("parameters", "GFLOP", "ms", "peak MB"):
            costs.add_column(heading, justify="right")
        for row in report.costs:
            costs.add_row(Text(f"{'>' if row.mine else ' '} {row.module}"), *row.figures, style="bold" if row.mine else "")
        console.print(costs)
        console.print("GFLOP: one forward of one image; ms and peak MB: forward and backward of two", style="dim")
        console.print()
    console.print(report.summary, markup=False, soft_wrap=True, style=styles["passed" if report.passed else "failed"])


def plan(cells: Sequence[Cell], store: Path, executor: Executor, options: RunOptions) -> None:
    """Print what a run would do, cell by cell, and what it needs."""
    from attnbench import weights
    from attnbench.execute.asked import Asked
    from attnbench.execute.disk_space import disk_bytes, picture_bytes
    from attnbench.execute.state import state_of, with_work
    from attnbench.metrics.metric import metrics_of, networks_needed
    from attnbench.store.folder import CellFolder
    from attnbench.training.loop import total_steps

    shown = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("cell", "state", "steps", "disk", "folder"):
        shown.add_column(heading, overflow="fold")
    for cell, (kept, _) in zip(cells, disk_bytes(cells, options.pictures), strict=True):
        steps = total_steps(cell.dataset.train, cell.recipe)
        disk = f"{kept / 1e9:.2f} GB"
        state = state_of(CellFolder(store / cell.folder_name), Asked.of(cell, options))
        shown.add_row(cell.label, f"{state}", str(steps), disk, cell.folder_name)
    console = Console(highlight=False, soft_wrap=True)
    console.print(shown, markup=False)
    for dataset in {cell.dataset.name: cell.dataset for cell in cells}.values():
        console.print(f"{dataset.name}: {len(dataset.train)} + {len(dataset.test)} images, {dataset.source}", markup=False)
    for cell in {cell.dataset.name: cell for cell in cells}.values():
        taken = picture_bytes(cell, options.pictures) / 1e6
        console.print(
            f"test pictures of {cell.dataset.name}: {options.pictures}, about {taken:,.1f} MB for each cell", markup=False
        )
    recipe = cells[0].recipe
    for name in [*(["vgg19"] if recipe.needs_perceptual_network else []), *networks_needed(metrics_of(recipe.evaluation))]:
        found = weights.find(name) or "missing, will be downloaded; if that fails, its metrics stay empty"
        console.print(f"weights {name}: {found}", markup=False)
    console.print(f"cells run {executor.fitted(with_work(cells, store, options)).place}; results folder: {store}", markup=False)


def status(found: StoreStatus) -> None:
    """Print counts per dataset, the running cells, and those that need attention."""
    from attnbench.execute.board import running_table

    console = Console(highlight=False)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("cells")
    for heading in (*found.statuses, "all"):
        table.add_column(heading, justify="right")
    for dataset, counts in found.counts.items():
        table.add_row(Text(dataset), *(str(counts[name] or "-") for name in found.statuses), str(sum(counts.values())))
    console.print(table)
    if found.running:
        console.print()
        console.print(running_table(found.running))
    for trouble in found.troubles:
        console.print()
        console.print(trouble.title, style="bold", markup=False)
        for line in trouble.lines[:_LISTED]:
            console.print(f"  {line}", markup=False, soft_wrap=True)
        if len(trouble.lines) > _LISTED:
            console.print(f"  and {len(trouble.lines) - _LISTED} more")
        console.print(f"  {trouble.remedy}", style="dim", markup=False, soft_wrap=True)


def sheets(found: Sequence[Sheet]) -> None:
    """Print tables, one below the other."""
    from attnbench.tables.formats import show

    console = Console(highlight=False)
    for sheet in found:
        show(sheet, console)


def tables_of(cells: Sequence[Cell], store: Path) -> None:
    """Print the tables of these cells alone, and where to look next."""
    from attnbench.store.frame import results
    from attnbench.tables.compile import tables

    frame = results(store)
    mine = frame[frame["folder"].isin({cell.folder_name for cell in cells})]
    sheets([one.sheet for one in tables(mine, store=store)])
    typer.echo(f"\nSee {store / cells[0].folder_name / 'samples.png'} and the files beside it; `attnbench table {store}`")
