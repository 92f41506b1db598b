"""A metric under check: found, built and run."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from attnbench import plugins, weights
from attnbench.contract.import_paths import imported
from attnbench.contract.probe_pictures import SIZE, Probes, probe_pictures
from attnbench.contract.report import Broken
from attnbench.contract.subject import computing
from attnbench.contract.traces import undisturbed
from attnbench.errors import UserError
from attnbench.metrics.measure import Number, measure
from attnbench.metrics.metric import Metric, metric_of
from attnbench.metrics.pictures import Pictures
from attnbench.plugins import as_default, check_names, options_of, split_options

Constructor = Callable[..., Any]


@dataclass(frozen=True)
class MetricSubject:
    """A metric under check: how to build it, and the pictures to measure.

    Attributes:
        given: the options that differ from their defaults.
    """

    name: str
    construct: Constructor
    given: Mapping[str, Any]
    device: torch.device
    probes: Probes

    def metric(self) -> Metric:
        """A fresh one, as a table would use it.

        Raises:
            pydantic.ValidationError: what it says of itself is incomplete, or of another type.
        """
        return metric_of(self.construct, getattr(self.construct, "__name__", self.name), self.given)

    def said(self, name: str, default: Any = None) -> Any:
        """What an attribute of the metric says."""
        return getattr(self.construct(**self.given), name, default)

    def networks(self) -> dict[str, weights.Weights]:
        """The pretrained networks that the metric lists, by name."""
        return {network.name: network for network in getattr(self.construct, "networks", tuple)()}

    def pictures(self, generated: Tensor | None = None, rows: Sequence[int] | None = None) -> Pictures:
        """Pictures to measure, by default ordinary ones; calls give equal values in new memory."""
        return self.probes.pictures(self.probes.ordinary if generated is None else generated, self.device, rows)

    def number(self, pictures: Pictures, among: Metric | None = None) -> Number:
        """What `attnbench` makes of the pictures, with a number or without."""
        metric = among or self.metric()
        (number,) = measure(pictures, [metric]).values()
        return number

    def values(self, pictures: Pictures, where: str, among: Metric | None = None) -> np.ndarray:
        """(N,) scores, or (1,).

        Args:
            where: for the message: of which pictures.

        Raises:
            Broken: there are none.
        """
        number = self.number(pictures, among)
        if number.value is None:
            raise Broken(f"{where}: {number.reason}")
        return values_of(number)


@contextmanager
def metric_under_check(
    metric: str | Constructor, *, device: str | torch.device | None = None, options: Mapping[str, Any] | None = None
) -> Iterator[MetricSubject]:
    """Look up the metric, refuse options that it does not have, and draw pictures that are large enough for it, which live as
    long as the block; arguments and errors as for `check_metric`.
    """
    if isinstance(metric, str):
        name, construct, given = _find(metric)
    elif callable(metric):
        name, construct, given = getattr(metric, "__name__", repr(metric)), metric, {}
    else:
        raise UserError(f"a metric is a class or a name, not a {type(metric).__name__}")
    given, accepted, where = {**given, **(options or {})}, options_of(construct, name, first=False), f"metric '{name}'"
    check_names(given, accepted, where)
    typed = {key: as_default(key, given[key], default, where) for key, default in accepted.items() if key in given}
    on = computing(device)
    with probe_pictures(_side(construct, typed)) as probes:
        yield MetricSubject(name, construct, typed, on, probes)


def _side(construct: Constructor, given: Mapping[str, Any]) -> int:
    """Of the pictures to measure: the usual one, or the smallest that has a number if that is more."""
    try:
        with undisturbed():
            smallest = getattr(construct(**given), "smallest", SIZE)
    except (Exception, SystemExit):  # a finding of the checks
        return SIZE
    return max(SIZE, smallest) if isinstance(smallest, int) else SIZE


def _find(text: str) -> tuple[str, Constructor, dict[str, Any]]:
    if (found := imported(text, plugins.METRICS, "metric")) is not None:
        return text, *found
    name, options = split_options(text, "metric")
    return text, plugins.find(plugins.METRICS, name).load(), options


def parameters(construct: Constructor) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(construct).parameters.values())
    except ValueError:  # written in C
        return []


def values_of(number: Number) -> np.ndarray:
    """(N,) scores, or (1,)."""
    return np.array([number.value]) if number.scores is None else number.scores


def without(pictures: Pictures, lacking: Mapping[str, str]) -> Pictures:
    """The same pictures, which lack some of what belonged to them: name -> why."""
    available = {name: make for name, make in pictures.available.items() if name not in lacking}
    return replace(pictures, available=available, lacking={**pictures.lacking, **lacking}, _made={})


@contextmanager
def listed_networks(subject: MetricSubject) -> Iterator[None]:
    """In the block the metric's networks are known to attnbench, whether the metric is installed or not."""
    try:
        own = subject.networks()
    except Exception:  # a finding of the checks
        own = {}
    known = weights.catalogue()
    with patch.object(weights, "catalogue", lambda: {**known, **own}):
        yield
