"""README.md of an exported generator: its model card."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from attnbench.colorization.program import Program
from attnbench.config.recipe import Data, Recipe
from attnbench.metrics.known import LOWER_IS_BETTER, METRIC_NAMES

SHEET = "pictures/pairs.png"


UNMEASURED = "its network was not on the machine"


_EXPLAINED = {"ssim_global": "one window, the whole grey image", "ssim": "11 x 11 Gaussian window"}


_COSTS: Sequence[tuple[str, str, Callable[[float], str]]] = (
    ("generator_parameters", "parameters", lambda value: f"{value:,}"),
    ("module_parameters", "of which the module's", lambda value: f"{value:,}"),
    ("generator_gflop", "GFLOP for a picture", lambda value: f"{value:.3g}"),
    ("train_seconds", "training took", lambda value: f"{value / 60:,.1f} minutes"),
    ("images_per_second", "images a second in training", lambda value: f"{value:.3g}"),
)


def model_card(record: Mapping[str, Any], folder: str, shown: str, program: Program | None) -> str:
    """README.md: what the generator is, how to use it, how good it is, how it was made, and what it is not for.

    Args:
        record: see `public_record`.
        folder: its name.
        shown: how many test pairs pictures/pairs.png shows, in words; empty if there is none.
    """
    module, costs, provenance = record["module"], record["costs"], record["provenance"]
    recipe, versions = Recipe.model_validate(record["recipe"]["values"]), provenance["versions"]
    environment = Environment(
        loader=PackageLoader("attnbench", "colorization"),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("model_card.md.j2").render(
        front_matter=_front_matter(module["name"]),
        record=record,
        label=module["label"],
        options=", ".join(f"`{name}={_as_option(value)}`" for name, value in module["given"].items()),
        folder=folder,
        version=versions.get("attnbench") or "",
        needs="" if module["package"] == "attnbench" else f" and {module['package']} {module['version']}, which has the module",
        pictures=SHEET if shown else "",
        shown=shown,
        program=program,
        metrics=[_metric_row(name, metric) for name, metric in record["metrics"].items()],
        evaluation=recipe.evaluation,
        data=recipe.data,
        train=recipe.train,
        sketches=_sketches_in_words(recipe.data),
        passes=record["step"] * recipe.train.batch_size / record["dataset"]["train"],
        costs=[(name, how(costs[key])) for key, name, how in _COSTS if costs.get(key) is not None],
        provenance=[
            ("device", provenance.get("device", "not known")),
            ("software", ", ".join(f"{name} {version}" for name, version in versions.items() if version) or "not known"),
            ("attnbench's commit", provenance.get("commit") or "not known"),
            ("date", str(record.get("ended", "not known"))[:10]),
        ],
    )


def _as_option(value: Any) -> str:
    """As on the command line: `false`, not `False`."""
    return json.dumps(value).strip('"')


def _front_matter(module: str) -> str:
    tags = ["attnbench", "image-to-image", "line-art-colorization", "reference-based", module]
    return yaml.safe_dump(
        {"library_name": "attnbench", "pipeline_tag": "image-to-image", "tags": tags}, sort_keys=False
    ).rstrip()


def _metric_row(name: str, metric: Mapping[str, Any]) -> dict[str, str]:
    """A metric for the card's table."""
    value = metric["value"]
    parts = [f"Inception features of width {metric['dims']}"] if "dims" in metric else []
    parts += [f"network {metric['network']}"] if "network" in metric else []
    if "n_real" in metric:
        parts.append(f"{metric['n']} generated against {metric['n_real']} real test images ({metric['real_size']} size)")
        parts.append(f"{metric['n_floor']} real training images against the same: {metric['floor']:.4g}")
    elif "n" in metric:
        parts.append(f"mean of {metric['n']} pairs")
    if name in _EXPLAINED:
        parts.append(_EXPLAINED[name])
    return {
        "name": METRIC_NAMES.get(name, name),
        "arrow": "↓" if name in LOWER_IS_BETTER else "↑",
        "value": "not measured" if value is None else f"{value:.4g}",
        "how": "; ".join(parts) if value is not None else metric.get("reason", UNMEASURED),
    }


def _sketches_in_words(data: Data) -> str:
    if data.sketch.source == "dataset":
        return "the line art that comes with the data set"
    where = "at the images' own size" if data.sketch.at == "native" else "at this size"
    sigmas = ", ".join(f"{sigma:g}" for sigma in data.sketch.sigma)
    return f"XDoG line art drawn {where} (sigma {sigmas})"
