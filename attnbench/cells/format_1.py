"""Records of format 1, in which the evaluation was a part of the cell: read as cells with one measurement each.

Nothing is lost: the keys of `evaluation` are kept in `recipe.evaluation`, and the identity stays what it was
(`identity_version` 1), since the fingerprint of the training images alone is not known from the record. `attnbench migrate`
finds it where the images are.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from attnbench import plugins
from attnbench.config.recipe import digest
from attnbench.errors import UserError
from attnbench.metrics.descriptor import Descriptor
from attnbench.metrics.metric import Metric, parse_metric
from attnbench.metrics.protocol import Protocol, measurement_identity, number_identity
from attnbench.plugins import options_of

_EVALUATION = "evaluation"
LATER = ("metrics", "best")  # parts that have another shape now


def from_format_1(values: Mapping[str, Any]) -> dict[str, Any]:
    """The plain values of a record of format 1, or 0, as those of the present format."""
    recipe, dataset = dict(values["recipe"]), dict(values["dataset"])
    everything = dict(recipe["values"])
    evaluation = everything.pop(_EVALUATION, None)
    asked = evaluation if isinstance(evaluation, dict) else {}
    protocol = Protocol(**{name: asked[name] for name in ("pairing", "pair_seed", "format") if name in asked})
    test = {"fingerprint": dataset["fingerprint"], "images": dataset.pop("test", 0)}
    identity = measurement_identity(values["identity"], test["fingerprint"], protocol)
    found: dict[str, Any] = {
        **{name: value for name, value in values.items() if name not in LATER},
        "format": 2,
        "identity_version": 1,
        "dataset": dataset,
        "recipe": {
            **recipe,
            "name": _without_evaluation(recipe["name"]),
            "values": everything,
            "digest": digest(everything),
            _EVALUATION: evaluation,
        },
    }
    if numbers := values.get("metrics"):
        found["measurements"] = [
            {
                "identity": identity,
                "protocol": protocol.model_dump(mode="json"),
                "test": test,
                "folder": ".",
                "pictures": "small",
                "metrics": metrics_from_format_1(numbers, asked, identity),
            }
        ]
    if isinstance(best := values.get("best"), dict):
        metrics = metrics_from_format_1(best.get("metrics", {}), asked, identity)
        found["best"] = {**best, "by": next(iter(metrics), ""), "measurement": identity, "metrics": metrics}
    return found


def _without_evaluation(name: str) -> str:
    """
    >>> _without_evaluation("demo with train.steps=3, evaluation.pair_seed=1"), _without_evaluation("demo")
    ('demo with train.steps=3', 'demo')
    """
    stem, _, changes = name.partition(" with ")
    kept = [change for change in changes.split(", ") if change and not change.startswith(f"{_EVALUATION}.")]
    return f"{stem} with {', '.join(kept)}" if kept else stem


def metrics_from_format_1(numbers: Any, evaluation: Mapping[str, Any], measurement: str) -> dict[str, Any]:
    """Numbers by metric, described: by today's key, with the options that were parts of the protocol then."""
    if not isinstance(numbers, dict):
        return {"it": numbers}  # refused as not a record
    found = {}
    for name, number in numbers.items():
        if not isinstance(number, dict):
            found[name] = number
            continue
        metric = _metric(name, number, evaluation)
        rest = {part: value for part, value in number.items() if part not in (*_options_of(name), "weights")}
        digest_ = number.get("weights")
        used = {network: str(digest_) for network in metric.needs} if metric and digest_ else {}
        descriptor = metric.descriptor if metric else _unknown(name)
        found[metric.key if metric else name] = {
            **rest,
            "metric": descriptor.model_dump(mode="json"),
            "weights": used,
            "identity": number_identity(measurement, name, descriptor.options, used),
            "source": "generator",
        }
    return found


def _metric(name: str, number: Mapping[str, Any], evaluation: Mapping[str, Any]) -> Metric | None:
    """The metric with the options under which the number was made; None if it is not installed here."""
    text = ":".join([name, *(f"{option}={number[option]}" for option in _options_of(name) if number.get(option) is not None)])
    settings = {key: value for key, value in evaluation.items() if isinstance(value, (str, int, float))}
    return _parsed(text, tuple(sorted(settings.items(), key=str)))


@cache
def _parsed(text: str, settings: tuple[tuple[str, Any], ...]) -> Metric | None:
    try:
        return parse_metric(text, dict(settings))
    except UserError:
        return None


@cache
def _options_of(name: str) -> list[str]:
    try:
        return list(options_of(plugins.find(plugins.METRICS, name).load(), name, first=False))
    except UserError:
        return []


def _unknown(name: str) -> Descriptor:
    return Descriptor(name=name, title=name, lower_is_better=False, per_image=False, package="not installed here")
