"""The checks: what a metric promises, one function each.

As with modules, what the metric's author must fix is `failed`, what the author may want to know is a `note`.
"""

from __future__ import annotations

import json
import math
import pickle
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from pydantic import ValidationError

from attnbench import weights
from attnbench.contract.messages import Verdict, listed
from attnbench.contract.metric_subject import MetricSubject, parameters, values_of, without
from attnbench.contract.options import documented, named, without_default
from attnbench.contract.probe_pictures import COUNT, TARGETS, distorted, plain
from attnbench.contract.report import Broken, NotChecked
from attnbench.errors import NotMeasurable
from attnbench.metrics.measure import Number
from attnbench.metrics.metric import Score
from attnbench.metrics.pictures import USABLE, Pictures

ROUNDING = 1e-4  # of the largest value: what float32 loses in a deep network, far below a wrong result
SUMMED = 1e-6  # what a number for the set loses if the same features are summed in another order
GIVEN = ("wanted", "sketch", "reference", "answers", "parts", "reference_parts")  # tensors beside the generated pictures
PLAIN = (bool, int, float, str, list, dict, type(None))


def constructor(subject: MetricSubject) -> Verdict:
    """Options by keyword, which have plain defaults and are documented."""
    options = named(parameters(subject.construct))
    if bare := without_default(options):
        return "failed", f"no default for {listed(bare)}: a metric must be buildable by its name alone"
    if odd := [option.name for option in options if not isinstance(option.default, PLAIN)]:
        return "failed", f"the default of {listed(odd)} is no plain value, as a command line and a record can hold it"
    subject.construct()
    subject.construct(**subject.given)
    return documented(subject.construct, options)


def descriptor(subject: MetricSubject) -> Verdict:
    """It says what tables need: title, direction, digits, and whether each picture has a score; and nothing unheard of."""
    try:
        metric = subject.metric()
    except ValidationError as errors:
        raise Broken(_what_is_wrong(errors)) from None
    said = metric.descriptor
    if not said.title.strip() or "\n" in said.title:
        return "failed", f"`title` is {said.title!r}: it must be one line, the heading of a column"
    if unknown := [name for name in metric.uses if name not in USABLE]:
        return "failed", f"`uses` names {listed(unknown)}; pictures have {listed(USABLE)}"
    if not isinstance(smallest := metric.smallest, int) or isinstance(smallest, bool) or smallest < 1:
        return "failed", f"`smallest` is {smallest!r}: it must be a side in pixels, a whole number from 1 up"
    _declared_range(subject)
    options = {option.name for option in named(parameters(subject.construct))}
    if unknown := [option for option in subject.said("settings", {}).values() if option not in options]:
        return "failed", f"`settings` names the options {listed(unknown)}, which the constructor does not have"
    if unknown := [option for option in subject.said("added_options", ()) if option not in options]:
        return "failed", f"`added_options` names {listed(unknown)}, which the constructor does not have"
    if unknown := [name for name in metric.needs if name not in {**weights.catalogue(), **subject.networks()}]:
        return "failed", f"`needs` names {listed(unknown)}, which `networks()` does not list"
    digits = f"{said.decimals} decimal{'s' * (said.decimals != 1)}"
    return "passed", f"{said.heading}, {digits}, {'a score for each picture' if said.per_image else 'one number for the set'}"


def pretrained(subject: MetricSubject) -> Verdict:
    """It names all networks that it uses, so that it has no number, and a reason, where their weights are missing."""
    needs = subject.metric().needs
    if (found := _number_with(subject, ())).missing not in (None, *needs):
        return "failed", f"it uses the weights `{found.missing}`, which `needs` does not name"
    if not needs:
        return "passed", "needs none"
    if found.value is not None or not found.reason:
        return "failed", f"without {listed(needs)} there is still a number"
    if (found := _number_with(subject, needs)).missing not in (None, *needs):
        return "failed", f"it uses the weights `{found.missing}`, which `needs` does not name beside {listed(needs)}"
    return "passed", f"without {listed(needs)} no number, and the reason"


def numbers(subject: MetricSubject) -> Verdict:
    """As many finite numbers as it says; and plain values beside them."""
    pictures = subject.pictures()
    try:
        with torch.no_grad():
            found = subject.metric().scorer.measure(pictures)
    except (weights.MissingWeights, NotMeasurable) as reason:
        raise NotChecked(str(reason)) from None
    try:
        json.dumps(dict(found.details) if isinstance(found, Score) else {})
    except TypeError as error:
        return "failed", f"`details` of its score are no plain values: {error}"
    values = subject.values(subject.pictures(), "ordinary pictures")
    written = subject.metric().descriptor.written
    if not subject.metric().descriptor.per_image:
        return "passed", f"one finite number: {written(values[0])}"
    return "passed", f"{len(values)} finite scores, from {written(values.min())} to {written(values.max())}"


def in_range(subject: MetricSubject) -> Verdict:
    """All numbers lie in the range that it declares, whatever the pictures."""
    low, high = _declared_range(subject) or (None, None)
    uses = subject.metric().uses
    right = subject.probes.target(next((name for name in TARGETS if name in uses), "wanted"))
    sets = {"ordinary": subject.probes.ordinary, "right": right, **distorted(right), **plain(right)}
    found = {kind: subject.number(subject.pictures(generated)) for kind, generated in sets.items()}
    values = {kind: values_of(number) for kind, number in found.items() if number.value is not None}
    together = np.concatenate(list(values.values()))
    slack = ROUNDING * np.abs(together).max()
    for kind, some in values.items():
        if (low is not None and some.min() < low - slack) or (high is not None and some.max() > high + slack):
            return "failed", f"{kind} pictures score {some.min():.6g} to {some.max():.6g}, outside of {_span(low, high)}"
    if silent := [kind for kind in found if kind not in values]:
        return "note", f"no number for {_joined(silent)} pictures"
    if _declared_range(subject) is None:
        return "note", "none declared: range = (low, high) in the class, None for no bound, lets it be checked"
    return "passed", f"{together.min():.6g} to {together.max():.6g}, in {_span(low, high)}"


def direction(subject: MetricSubject) -> Verdict:
    """The right pictures have its best number, and blurred, noisy and recoloured ones have none that is better."""
    uses = subject.metric().uses
    targets = [name for name in TARGETS if name in uses]
    if not targets:
        raise NotChecked(f"of what it uses ({listed(uses) or 'nothing'}) no pictures are known to be the best")
    verdicts = [_best_at(subject, name) for name in targets]
    return next((verdict for verdict in verdicts if verdict[0] != "failed"), verdicts[0])


def _best_at(subject: MetricSubject, name: str) -> Verdict:
    target, said = subject.probes.target(name), subject.metric().descriptor
    right = subject.number(subject.pictures(target))
    if right.value is None:
        return "note", f"pictures equal to `{TARGETS[name]}` have no number: {right.reason}"
    others = {kind: float(subject.values(subject.pictures(x), kind).mean()) for kind, x in distorted(target).items()}
    slack = ROUNDING * max(abs(value) for value in (right.value, *others.values()))
    way, sign = ("lower", 1) if said.lower_is_better else ("higher", -1)
    better = {kind: sign * (right.value - value) for kind, value in others.items()}
    for kind, by in better.items():
        if by > slack:
            told = f"{kind} pictures score {others[kind]:.6g}, those equal to `{TARGETS[name]}` {right.value:.6g}"
            return "failed", f"{told}, though {way} is said to be better"
    if all(by >= -slack for by in better.values()):
        return "failed", f"it does not tell {_joined(others)} pictures from those equal to `{TARGETS[name]}`: {right.value:.6g}"
    best = (_declared_range(subject) or (None, None))[0 if said.lower_is_better else 1]
    if best is not None and abs(right.value - best) > slack:
        return "failed", f"pictures equal to `{TARGETS[name]}` score {right.value:.6g}, not {best:g}, the best of its range"
    worse = ", ".join(f"{kind} {said.written(value)}" for kind, value in others.items())
    return "passed", f"pictures equal to `{TARGETS[name]}` score {said.written(right.value)}, {worse}"


def batch(subject: MetricSubject) -> Verdict:
    """A picture's score does not depend on which pictures are measured with it."""
    if not subject.metric().descriptor.per_image:
        return "passed", "of no meaning: one number for the set"
    together = subject.values(subject.pictures(), "all at once")
    for size, where in ((1, "one by one"), (7, "in sevens")):
        starts = range(0, COUNT, size)
        parts = [subject.values(subject.pictures(rows=range(i, min(i + size, COUNT))), where) for i in starts]
        if not _close(np.concatenate(parts), together):
            return "failed", f"measured {where}, pictures have other scores than all at once {_apart(parts, together)}"
    return "passed", "the same scores all at once, one by one, and in sevens"


def order(subject: MetricSubject) -> Verdict:
    """Scores follow their pictures; a number for the set does not depend on the order."""
    values = subject.values(subject.pictures(), "in order")
    rows = [(5 * row + 3) % COUNT for row in range(COUNT)]  # each once, since 5 and COUNT have no divisor in common
    mixed = subject.values(subject.pictures(rows=rows), "in another order")
    one = not subject.metric().descriptor.per_image
    expected = values if one else values[rows]
    if not _close(mixed, expected, SUMMED if one and subject.device.type == "cpu" else ROUNDING):
        return "failed", f"in another order the numbers are others {_apart([mixed], expected)}"
    return "passed", "of no influence"


def repeat(subject: MetricSubject) -> Verdict:
    """Measuring again gives the same, whatever was measured before, and whatever random numbers were drawn."""
    metric, pictures = subject.metric(), subject.pictures()
    torch.manual_seed(1)
    np.random.seed(1)
    first = subject.values(pictures, "measured once", metric)
    for where, again, by in (("with the same pictures", pictures, metric), ("afresh", subject.pictures(), subject.metric())):
        if not _close(subject.values(again, f"measured twice, {where}", by), first):
            return "failed", f"measured twice, {where}, the numbers differ: draw no random numbers, and keep nothing but `once`"
    return "passed", "the same numbers"


def inputs(subject: MetricSubject) -> Verdict:
    """It does not write into what it is given. attnbench gives every metric tensors of its own; other callers may not."""
    uses = subject.metric().uses
    given = _tensors(pictures := subject.pictures())
    before = {name: tensor.clone() for name, tensor in given.items()}
    with torch.no_grad():
        subject.metric().scorer.measure(pictures)
    if changed := [name for name, tensor in _tensors(pictures).items() if not torch.equal(tensor, before[name])]:
        return "failed", f"it writes into {listed(changed)}: replace the in-place operation (`add_`, `+=`, ...)"
    return "passed", f"{listed(('generated', *uses))} not written into"


def uses(subject: MetricSubject) -> Verdict:
    """It takes nothing that `uses` does not name, and has no number where something of it is lacking."""
    used, pictures = subject.metric().uses, subject.pictures()
    values = subject.values(pictures, "with everything")
    unnamed = {name: f"`uses` does not name `{name}`" for name in USABLE if name not in used}
    alone = subject.values(without(pictures, unnamed), "with nothing but what `uses` names")
    if not _close(alone, values):
        return "failed", f"without {listed(unnamed)}, which `uses` does not name, the numbers are others"
    for name in used:
        lacking = subject.number(without(pictures, {name: f"no {name}"}))
        if lacking.value is not None or lacking.reason != f"no {name}":
            return "failed", f"where `{name}` is lacking, it does not say so"
    return "passed", f"{listed(('generated', *used))}, and nothing else"


def symmetric(subject: MetricSubject) -> Verdict:
    """If it says that it is symmetric: the pictures and the originals may change places."""
    if not subject.said("symmetric", False):
        return "passed", "not declared"
    if "wanted" not in subject.metric().uses:
        return "failed", "`symmetric` says that `generated` and `wanted` may change places, but `uses` does not name `wanted`"
    pictures = subject.pictures()
    generated, wanted = pictures.generated, pictures.wanted
    available = {**pictures.available, "wanted": lambda: generated}
    swapped = replace(pictures, generated=wanted, available=available, _made={})
    values = subject.values(pictures, "ordinary pictures")
    if not _close(there := subject.values(swapped, "in each other's place"), values):
        return "failed", f"declared, but with pictures and originals in each other's place it differs {_apart([there], values)}"
    return "passed", "pictures and originals may change places"


def random_state(subject: MetricSubject) -> Verdict:
    """The global random numbers are left alone. Never a failure: attnbench draws from generators of its own."""
    torch.manual_seed(2**31)  # a seed that nobody else sets
    before = _random_state()
    subject.values(subject.pictures(), "ordinary pictures")
    if _random_state() != before:
        return "note", "draws from the global random numbers, or sets their seed: give it a generator of its own"
    return "passed", "global random numbers left alone"


def devices(subject: MetricSubject) -> Verdict:
    """It computes where `pictures.device` says, and that gives the numbers of a CPU."""
    values = subject.values(subject.pictures(), f"on {subject.device}")
    if subject.device.type == "cpu":
        return "passed", "cpu; where there is a GPU, --device cuda compares it with the CPU"
    reference = subject.values(replace(subject.pictures(), device=torch.device("cpu")), "on cpu")
    if not _close(values, reference, 10 * ROUNDING):
        return "failed", f"on {subject.device} the numbers are others than on the CPU {_apart([values], reference)}"
    return "passed", f"{subject.device}, with the numbers of the CPU"


METRIC_CHECKS: Mapping[str, Callable[[MetricSubject], Verdict]] = {
    "constructor": constructor,
    "descriptor": descriptor,
    "weights": pretrained,
    "numbers": numbers,
    "range": in_range,
    "direction": direction,
    "batch": batch,
    "order": order,
    "repeat": repeat,
    "inputs": inputs,
    "uses": uses,
    "symmetric": symmetric,
    "random": random_state,
    "devices": devices,
}


def _number_with(subject: MetricSubject, granted: Sequence[str]) -> Number:
    """What it makes of ordinary pictures where no other weights than these can be found."""
    find = weights.find_or_download

    def found(name: str) -> Path:
        if name in granted:
            return find(name)
        raise weights.MissingWeights(name, f"weights '{name}' are missing")

    with patch.object(weights, "find_or_download", found):
        return subject.number(subject.pictures())


def _random_state() -> bytes:
    return pickle.dumps((random.getstate(), np.random.get_state(), torch.get_rng_state().tolist()))


def _what_is_wrong(errors: ValidationError) -> str:
    first = errors.errors()[0]
    field = ".".join(map(str, first["loc"]))
    return f"it has no `{field}`" if first["type"] == "missing" else f"its `{field}`: {first['msg']}"


def _declared_range(subject: MetricSubject) -> tuple[float | None, float | None] | None:
    """Raises Broken if it is not two numbers, the lower one first; None is no bound."""
    declared = subject.said("range")
    if declared is None:
        return None
    ends = tuple(declared) if isinstance(declared, Sequence) else ()
    numbers_ = [end for end in ends if end is not None]
    if len(ends) != 2 or not all(_is_number(end) for end in numbers_) or (len(numbers_) == 2 and ends[0] >= ends[1]):
        raise Broken(f"`range` is {declared!r}: it must be (low, high), None for no bound")
    return ends[0], ends[1]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _span(low: float | None, high: float | None) -> str:
    return f"{'(-inf' if low is None else f'[{low:g}'}, {'inf)' if high is None else f'{high:g}]'}"


def _tensors(pictures: Pictures) -> dict[str, torch.Tensor]:
    """Everything that a metric may take."""
    real = pictures.real.dataset
    found = {name: getattr(pictures, name) for name in ("generated", *GIVEN)}
    return {**found, "real.dataset.test": real.test.images, "real.dataset.train": real.train.images}


def _close(a: np.ndarray, b: np.ndarray, tolerance: float = ROUNDING) -> bool:
    return a.shape == b.shape and bool(np.abs(a - b).max() <= tolerance * max(float(np.abs(b).max()), 1e-12))


def _apart(parts: Sequence[np.ndarray], values: np.ndarray) -> str:
    a = np.concatenate(parts)
    return f"(by up to {np.abs(a - values).max():.1g}, where values reach {np.abs(values).max():.1g})"


def _joined(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
