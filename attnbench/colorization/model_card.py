"""README.md of an exported generator: its model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from attnbench.cells.record import MetricRecord, Record
from attnbench.colorization.program import Program
from attnbench.config.recipe import Data, Recipe
from attnbench.metrics.known import METRICS, lower_is_better, title_of
from attnbench.tables.cost_columns import COSTS

SHEET = "pictures/pairs.png"
UNMEASURED = "its network was not on the machine"


def model_card(record: Record, folder: str, shown: str, program: Program | None) -> str:
    """README.md: what the generator is, how to use it, how good it is, how it was made, and what it is not for.

    Args:
        record: see `public_record`.
        folder: the exported folder's name.
        shown: how many test pairs pictures/pairs.png shows, as text (`8 of the 500`); empty if there is no such file.
    """
    module, costs, provenance = record.module, record.costs, record.provenance
    recipe, versions = Recipe.model_validate(record.recipe.values), provenance.versions
    environment = Environment(
        loader=PackageLoader("attnbench", "colorization"),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("model_card.md.j2").render(
        front_matter=_front_matter(module.name),
        record=record,
        label=module.label,
        options=", ".join(f"`{name}={_as_option(value)}`" for name, value in module.given.items()),
        folder=folder,
        version=versions.get("attnbench") or "",
        needs="" if module.package == "attnbench" else f" and {module.package} {module.version}, which has the module",
        pictures=SHEET if shown else "",
        shown=shown,
        program=program,
        metrics=[_metric_row(name, metric) for name, metric in record.metrics.items()],
        evaluation=recipe.evaluation,
        data=recipe.data,
        train=recipe.train,
        sketches=_sketches_as_text(recipe.data),
        passes=record.step * recipe.train.batch_size / record.dataset.train,
        costs=_cost_rows(costs),
        provenance=[
            ("device", provenance.device or "not known"),
            ("software", ", ".join(f"{name} {version}" for name, version in versions.items() if version) or "not known"),
            ("attnbench's commit", provenance.commit or "not known"),
            ("date", (record.ended or "not known")[:10]),
        ],
    )


def _cost_rows(costs: Mapping[str, float]) -> list[tuple[str, str]]:
    rows = [(cost.description, cost.written(costs[cost.name])) for cost in COSTS if cost.name in costs]
    if "train_seconds" in costs:
        rows.append(("training took", f"{costs['train_seconds'] / 60:,.1f} minutes"))
    return rows


def _as_option(value: Any) -> str:
    """A value as written on the command line: `false`, not `False`."""
    return json.dumps(value).strip('"')


def _front_matter(module: str) -> str:
    tags = ["attnbench", "image-to-image", "line-art-colorization", "reference-based", module]
    return yaml.safe_dump(
        {"library_name": "attnbench", "pipeline_tag": "image-to-image", "tags": tags}, sort_keys=False
    ).rstrip()


def _metric_row(name: str, metric: MetricRecord) -> dict[str, str]:
    """A metric as a row of the card's table."""
    value, recorded = metric.value, metric.parts
    parts = [f"Inception features of width {recorded['dims']}"] if "dims" in recorded else []
    parts += [f"network {recorded['network']}"] if "network" in recorded else []
    if "n_real" in recorded:
        size = recorded.get("real_size", "unknown")
        parts.append(f"{recorded.get('n')} generated against {recorded['n_real']} real test images ({size} size)")
        if recorded.get("floor") is not None:
            parts.append(f"{recorded.get('n_floor')} real training images against the same: {recorded['floor']:.4g}")
    elif "n" in recorded:
        parts.append(f"mean of {recorded['n']} pairs")
    if name in METRICS and METRICS[name].note:
        parts.append(METRICS[name].note)
    return {
        "name": title_of(name),
        "arrow": "↓" if lower_is_better(name) else "↑",
        "value": "not measured" if value is None else f"{value:.4g}",
        "how": "; ".join(parts) if value is not None else metric.reason or UNMEASURED,
    }


def _sketches_as_text(data: Data) -> str:
    if data.sketch.source == "dataset":
        return "the line art that comes with the dataset"
    where = "at the images' own size" if data.sketch.at == "native" else "at this size"
    sigmas = ", ".join(f"{sigma:g}" for sigma in data.sketch.sigma)
    return f"XDoG line art drawn {where} (sigma {sigmas})"
