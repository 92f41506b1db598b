"""Measuring: metrics on pictures. A metric that fails has no value, and says why; the others stand."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attnbench import weights
from attnbench.data.images import PreparedDataset, cache_folder
from attnbench.data.layouts import Dataset
from attnbench.devices import is_out_of_memory
from attnbench.errors import Interrupted, NotMeasurable, UserError
from attnbench.method.precision import tf32
from attnbench.metrics.descriptor import Descriptor
from attnbench.metrics.generate import PairSet, show_maps
from attnbench.metrics.ground_truth import answers_of, parts_of
from attnbench.metrics.lacks import (
    FROM_ELSEWHERE,
    LACKING,
    MARKED,
    NO_NETWORK,
    OF_MARKED,
    OF_PROTOCOL,
    has_no,
    is_of_protocol,
    too_small,
)
from attnbench.metrics.line_art import drawn_by
from attnbench.metrics.metric import Metric, Score
from attnbench.metrics.pictures import USABLE, Pictures, RealImages, at_once
from attnbench.metrics.protocol import Protocol

# What every number has; what a metric adds goes by other names.
_TAKEN = frozenset(
    {"n", "value", "reason", "missing", "failed", "metric", "weights", "identity", "source", "measured", "provenance"}
)


@dataclass(frozen=True)
class Number:
    """What a metric gave for a set of pictures.

    Attributes:
        value: the mean over the pictures of a metric that scores each; None if there is none.
        reason: why there is no value.
        missing: the pretrained weights that were missing.
        failed: whether the metric raised an error, or gave something else than numbers.
        details: what belongs to it, see `Score`; `n`, the number of pictures, among it.
        weights: name -> SHA-256 of the file, of the networks that it used.
        scores: (N,) of a metric that scores each picture.
    """

    descriptor: Descriptor
    value: float | None
    reason: str | None = None
    missing: str | None = None
    failed: bool = False
    details: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    scores: np.ndarray | None = None


@torch.no_grad()
@tf32(False)  # a measurement does not depend on the recipe's `train.tf32`
def measure(pictures: Pictures, metrics: Sequence[Metric]) -> dict[str, Number]:
    """The numbers of the metrics, by key, in their order."""
    return {metric.key: _measured(pictures, metric) for metric in metrics}


def _measured(pictures: Pictures, metric: Metric) -> Number:
    descriptor = metric.descriptor
    if (why := pictures.why_lacking(metric.uses)) is not None:
        return Number(descriptor, None, reason=why)
    used: dict[str, str] = {}
    try:
        _check_side(pictures, metric)
        for name in metric.needs:
            used[name] = weights.file_digest(weights.find_or_download(name))
        found = metric.scorer.measure(pictures.for_one_metric())
        value, details, scores = _checked(found, descriptor, len(pictures))
    except weights.MissingWeights as missing:
        return Number(descriptor, None, reason=str(missing), missing=missing.name)
    except NotMeasurable as why_not:
        return Number(descriptor, None, reason=str(why_not), weights=used)
    except Interrupted:
        raise
    except (Exception, SystemExit) as error:  # whatever a third party's metric raises, even exit(), affects only its number
        text = " ".join(f"{type(error).__name__}: {error}".split())
        if is_out_of_memory(error):
            text = f"the memory of {pictures.device} does not suffice"
        return Number(descriptor, None, reason=f"it failed: {text}", failed=True, weights=used)
    reason = None if value is not None else _not_finite(scores)
    return Number(descriptor, value, reason, failed=value is None, details=details, weights=used, scores=scores)


def _check_side(pictures: Pictures, metric: Metric) -> None:
    """Raises NotMeasurable where the pictures are too small for the metric."""
    if (side := min(pictures.generated.shape[-2:])) < metric.smallest:
        raise NotMeasurable(too_small(side, metric.smallest))


def _checked(found: Any, descriptor: Descriptor, count: int) -> tuple[float | None, dict[str, Any], np.ndarray | None]:
    """Value, details, and scores of each picture.

    Raises:
        ValueError: it is not as many numbers as the descriptor says.
    """
    score = found if isinstance(found, Score) else Score(found)
    given = score.value.detach().cpu() if isinstance(score.value, Tensor) else score.value
    numbers = np.asarray(given)
    if numbers.dtype.kind not in "fiu":
        raise ValueError(f"it gave {type(score.value).__name__} with values of type {numbers.dtype}, not numbers")
    values = numbers.astype(float)
    expected = (count,) if descriptor.per_image else ()
    if values.shape != expected:
        wanted = f"{count} scores, one for each picture" if descriptor.per_image else "one number"
        raise ValueError(f"it gave numbers of shape {values.shape}, not {wanted}")
    details = {"n": count, **_plain_details(score.details)}
    value = float(values.mean())
    scores = values if descriptor.per_image else None
    return value if np.isfinite(value) else None, details, scores


def _plain_details(details: Mapping[str, Any]) -> dict[str, Any]:
    """Details as JSON has them.

    Raises:
        ValueError: a name that a number has already, or a value that JSON does not have.
    """
    plain = {name: value.item() if hasattr(value, "item") else value for name, value in details.items()}
    if taken := _TAKEN.intersection(plain):
        raise ValueError(f"its details have the names {', '.join(sorted(taken))}, which every number has")
    try:
        json.dumps(plain, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"its details are no plain values: {error}") from None
    return plain


def _not_finite(scores: np.ndarray | None) -> str:
    if scores is None:
        return "it is not a finite number"
    return f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores are not finite numbers"


def check_metrics(
    metrics: Sequence[Metric],
    datasets: Sequence[Dataset | PreparedDataset],
    protocols: Sequence[Protocol],
    *,
    named: bool,
) -> None:
    """Refuse metrics that were asked for by name and cannot be measured, see `check_uses`; a recipe's own, if none of them can.

    Raises:
        UserError: of the first that cannot be measured.
    """
    errors = []
    for metric in metrics:
        try:
            check_uses(metric, datasets, protocols)
        except UserError as error:
            errors.append(error)
    if errors and (named or len(errors) == len(metrics)):
        raise errors[0]


def check_uses(metric: Metric, datasets: Sequence[Dataset | PreparedDataset], protocols: Sequence[Protocol]) -> None:
    """Refuse a metric that needs what none of the datasets, or of the protocols, has. Where one has it, the others say so.

    Raises:
        UserError: none of them has it.
    """
    reasons = [
        next((why for what, why in lacking_of(kind).items() if what in metric.uses and is_of_protocol(why)), None)
        for kind in dict.fromkeys(protocol.references for protocol in protocols)
    ]
    if reasons and all(reasons):
        only = {kind for what, (kind, _) in OF_PROTOCOL.items() if what in metric.uses}
        remedy = f": --set evaluation.references={only.pop()}" if only else ""
        raise UserError(f"metric '{metric.key}' cannot be measured here: {reasons[0]}{remedy}")
    has: dict[str, Callable[[Dataset | PreparedDataset], bool]] = {
        "answers": lambda one: one.answer is not None,
        "parts": lambda one: one.parts is not None,
        "reference_parts": lambda one: one.parts is not None,
    }
    for what in metric.uses:
        if what in has and not any(has[what](dataset) for dataset in datasets):
            names = ", ".join(dataset.name for dataset in datasets)
            raise UserError(
                f"metric '{metric.key}' needs {LACKING[what]}, which no dataset here has ({names}): leave it out, or "
                "measure it on a dataset that has them"
            )


def pictures_of(
    generated: Tensor,
    pairs: PairSet,
    dataset: PreparedDataset,
    device: torch.device,
    *,
    has_train: bool = True,
    cache: Path | None = None,
    generator: Callable[[], nn.Module] | None = None,
    no_network: str = NO_NETWORK,
) -> Pictures:
    """Generated pictures with all that the dataset knows of them.

    Args:
        generated: (N, 3, S, S) uint8 on the CPU, in the order of the pairs.
        has_train: as of `RealImages`.
        cache: where features of real images are kept; by default the user's cache folder.
        generator: what gives the network that made the pictures, if it is at hand; else `no_network` says why not.
    """
    size = generated.shape[-1]
    available: dict[str, Callable[[], Any]] = {
        "wanted": pairs.wanted,
        "sketch": pairs.sketches,
        "reference": pairs.reference_images,
        "draw": lambda: drawn_by(pairs.data.sketch, [sketch for sketch, _ in pairs.names]),
        "real": lambda: RealImages(dataset, size, pairs.protocol.pair_seed, cache or cache_folder(), has_train),
        "answers": lambda: answers_of(pairs, dataset, size),
        "parts": lambda: parts_of([sketch for sketch, _ in pairs.pairs], dataset, size),
        "reference_parts": lambda: parts_of([reference for _, reference in pairs.pairs], dataset, size),
        "shows": lambda: pairs.known.shows,
        "marks": pairs.known.marks,
    }
    if generator is not None:
        available["maps"] = lambda: partial(show_maps, generator(), pairs, device, at_once(device))
    lacking = lacking_of(pairs.protocol.references)
    if generator is None:
        lacking.setdefault("maps", no_network)
    if dataset.answer is None:
        lacking.setdefault("answers", has_no(dataset.name, "answers"))
    if dataset.parts is None:
        lacking.setdefault("parts", has_no(dataset.name, "parts"))
        lacking.setdefault("reference_parts", has_no(dataset.name, "parts"))
    there = {name: make for name, make in available.items() if name not in lacking}
    return Pictures(generated, pairs.names, device, there, lacking, dataset.part_names)


def lacking_of(references: str) -> dict[str, str]:
    """What pictures lack under a protocol with such references, whatever the dataset: name in `USABLE` -> why."""
    lacking = {what: why for what, (only, why) in OF_PROTOCOL.items() if only != references}
    if references == "marked":  # in such pictures nothing is to be seen but where the marks are
        others = (what for what in USABLE if what not in OF_MARKED and what not in OF_PROTOCOL)
        lacking |= dict.fromkeys(others, MARKED + "the pictures should look like nothing else")
    if references == "folder":
        unseen = FROM_ELSEWHERE + "no test image shows what the pictures should look like"
        lacking |= {"wanted": unseen, "answers": unseen}
        lacking["real"] = FROM_ELSEWHERE + "the pictures should not look like the test images"
        lacking["reference_parts"] = FROM_ELSEWHERE + "there are no maps of their parts"
    return lacking
