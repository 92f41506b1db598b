"""README.md of an exported generator: its model card."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from attnbench.cells.record import MeasurementRecord, MetricRecord, Record
from attnbench.colorization.program import Program
from attnbench.config.recipe import Data, Recipe
from attnbench.metrics.descriptor import BOUNDS
from attnbench.metrics.lacks import is_of_protocol
from attnbench.tables.cost_columns import COSTS

SHEET = "pictures/pairs.png"
UNMEASURED = "its network was not on the machine"
FAILED = "it could not be measured"  # for another reason


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
        metrics=[
            _metric_row(one, number)
            for one in record.measurements
            for number in one.metrics.values()
            if not is_of_protocol(number.reason or "")
        ],
        protocols=_protocols_as_text(record),
        tests="; ".join(
            dict.fromkeys(f"{one.test.images:,}, fingerprint `{one.test.fingerprint[:16]}`" for one in record.measurements)
        ),
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


def _metric_row(measurement: MeasurementRecord, number: MetricRecord) -> dict[str, str]:
    """A number as a row of the card's table."""
    metric, value, recorded = number.metric, number.value, number.parts
    label = measurement.protocol.label
    parts = [f"protocol: {label}"] if label else []
    parts += [", ".join(f"{name}={_as_option(option)}" for name, option in metric.options.items())] if metric.options else []
    parts += [f"weights {name} {digest[:8]}" for name, digest in number.weights.items()]
    if "n_real" in recorded:
        parts.append(f"{recorded.get('n')} generated against {recorded['n_real']} real test images")
    elif "n" in recorded:
        one = recorded["n"] == 1
        parts.append(f"{'mean of ' if metric.per_image and not one else ''}{recorded['n']} {'pair' if one else 'pairs'}")
    parts += _bounds(number)
    if number.source == "small pictures":
        parts.append("from small (lossy) copies of the pictures")
    parts += [metric.note] if metric.note else []
    return {
        "name": metric.heading,
        "value": "not measured" if value is None else f"{value:.4g}",
        "how": "; ".join(parts if value is not None else [*parts[: bool(label)], number.reason or UNMEASURED]),
    }


def _bounds(number: MetricRecord) -> Iterator[str]:
    """What the number can be compared with, as the notes below tables have it: `floor, the originals: 3.21 (200 images)`."""
    for name in BOUNDS:
        value, count = number.parts.get(name), number.parts.get(f"n_{name}")
        if isinstance(value, int | float):
            yield f"{number.metric.bound(name)}: {value:.4g}" + (f" ({count} images)" if isinstance(count, int) else "")


def _protocols_as_text(record: Record) -> str:
    """What each kind of reference means that the generator was measured with."""
    meanings = {
        "cross": "Every test sketch was coloured with another test image as its reference",
        "same": "Under `same`, the reference is the sketch's own original, warped as in training",
        "marked": "Under `marked`, that reference has two coloured discs, and what is measured is where they appear",
        "folder": "Under `references`, the references are pictures from elsewhere",
    }
    used = {one.protocol.references for one in record.measurements}
    return " ".join(f"{text}." for kind, text in meanings.items() if kind in used)


def _sketches_as_text(data: Data) -> str:
    if data.sketch.source == "dataset":
        return "the line art that comes with the dataset"
    where = "at the images' own size" if data.sketch.at == "native" else "at this size"
    sigmas = ", ".join(f"{sigma:g}" for sigma in data.sketch.sigma)
    return f"XDoG line art drawn {where} (sigma {sigmas})"
