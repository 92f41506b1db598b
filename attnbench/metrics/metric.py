"""Metrics: plug-ins of the group `attnbench.metrics`, with options, as modules have.

A metric is a class that says all that is known of it:

    class Mine:
        \"\"\"What it measures, its source and range, what it can and cannot see.\"\"\"

        title, unit, decimals, lower_is_better = "Mine", "dB", 2, False
        per_image = True        # a score for each picture; False: one number for the whole set
        needs = ()              # names of pretrained networks; `net-{size}` names one by an option
        uses = ("wanted",)      # what of `Pictures` it cannot do without, besides `generated`
        smallest = 1            # side in pixels below which pictures have no number

        def __init__(self, *, size=3): ...

        def measure(self, pictures): ...     # (N,) numbers, or one; or `Score`, with what belongs to it

An option that a metric gets when numbers of it are stored already goes into `added_options`: at its default it is not stored
among a number's options, so that the earlier numbers, which are the same, go on to count as measured.

`networks()` lists the `Weights` that `needs` may name; `settings` maps keys of a recipe's `evaluation` to options, as
`{"net_size": "size"}`; `note` is a remark for model cards; `packages` are those whose versions are recorded with a number.

A metric that a copy of the reference would win names in `companion` one that the copy would lose: this is measured with it, and
no table shows the first without it. With `gap = True`, tables show how much higher a number is where the reference is the
sketch's own original. `floor`, `ceiling`, `original`, `chance` and `trivial` among a score's details stand below tables;
`floor_is` and `ceiling_is` say of what they are the numbers.

What `attnbench check-metric` holds it to, if it says so: `range = (low, high)`, None for no bound; `symmetric = True`, where
`generated` and `wanted` may change places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import ValidationError

from attnbench import plugins
from attnbench.config.recipe import Evaluation
from attnbench.errors import UserError
from attnbench.metrics.descriptor import Descriptor, key_of
from attnbench.metrics.pictures import USABLE, Pictures
from attnbench.plugins import as_default, check_names, options_of, split_options


@dataclass(frozen=True)
class Score:
    """What a metric found.

    Attributes:
        value: one number; or (N,), one for each picture.
        details: plain values that belong to it, such as the number of real images.
    """

    value: Any
    details: Mapping[str, Any] = field(default_factory=dict)


_SAID = [name for name in Descriptor.model_fields if name not in ("name", "options", "truth", "package", "version")]
_TRUTH = frozenset({"answers", "parts", "reference_parts"})  # what only some datasets know


class Scorer(Protocol):
    """An instance of a metric's class."""

    title: str
    lower_is_better: bool
    per_image: bool

    def measure(self, pictures: Pictures) -> Any: ...


@dataclass(frozen=True)
class Metric:
    """A metric with options.

    Attributes:
        key: its name in records and tables, see `key_of`.
        given: the options that differ from their defaults.
        needs: names of the pretrained networks that it uses, as `attnbench weights` has them.
        uses: what of `Pictures` it cannot do without.
        packages: those whose versions are recorded with its numbers.
        smallest: side in pixels below which pictures have no number.
    """

    key: str
    given: Mapping[str, Any]
    scorer: Scorer
    descriptor: Descriptor
    needs: tuple[str, ...]
    uses: tuple[str, ...]
    packages: tuple[str, ...]
    smallest: int = 1


def parse_metric(text: str, settings: Mapping[str, Any] | None = None) -> Metric:
    """`fid`, or `fid:dims=768`.

    Args:
        settings: keys of a recipe's `evaluation` that metrics take as options; options in `text` win.

    Raises:
        UserError: no such metric or option, a value that its constructor refuses, a class that is not a metric.
    """
    name, options = split_options(text, "metric")
    plugin = plugins.find(plugins.METRICS, name)
    loaded = plugin.load()
    where = f"metric '{name}'"
    accepted = options_of(loaded, name, first=False)
    taken = {option: settings[key] for key, option in getattr(loaded, "settings", {}).items() if settings and key in settings}
    options = {**taken, **options}
    check_names(options, accepted, where)
    typed = {key: as_default(key, options[key], default, where) for key, default in accepted.items() if key in options}
    given = {key: value for key, value in typed.items() if value != accepted[key]}
    try:
        metric = metric_of(loaded, name, given, package=plugin.package, version=plugin.version)
    except ValidationError as errors:
        raise _not_a_metric(plugin, errors) from None
    except Exception as error:  # a third party's constructor may raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{where} cannot be made with {given}: {reason}") from error
    if len(metric.descriptor.title.splitlines()) > 1:
        raise UserError(f"{where}: its `title` must be one line")
    for used in metric.uses:
        if used not in USABLE:
            raise UserError(f"{where}: `uses` names '{used}': pictures have {', '.join(USABLE)}")
    return metric


def metric_of(
    loaded: Callable[..., Any], name: str, given: Mapping[str, Any], *, package: str = "", version: str = ""
) -> Metric:
    """A metric's class with the options that differ from their defaults.

    Raises:
        pydantic.ValidationError: what it says of itself is incomplete, or of another type.
        Exception: whatever its constructor raises.
    """
    scorer = loaded(**given)
    defaults = options_of(loaded, name, first=False)
    options = {**defaults, **given}
    added = getattr(scorer, "added_options", ())
    stored = {option: value for option, value in options.items() if option not in added or value != defaults[option]}
    uses = tuple(getattr(scorer, "uses", ("wanted",)))
    said = {field_: getattr(scorer, field_) for field_ in _SAID if hasattr(scorer, field_)}
    truth = not _TRUTH.isdisjoint(uses)
    described = {**said, "name": name, "options": stored, "truth": truth, "package": package, "version": version}
    return Metric(
        key=key_of(name, given),
        given=given,
        scorer=scorer,
        descriptor=Descriptor.model_validate(described, strict=True),
        needs=tuple(network.format(**options) for network in getattr(scorer, "needs", ())),
        uses=uses,
        packages=tuple(getattr(scorer, "packages", ())),
        smallest=getattr(scorer, "smallest", 1),
    )


def metrics_of(evaluation: Evaluation) -> list[Metric]:
    """The metrics that a recipe asks for, in its order, then their companions.

    Raises:
        UserError: as `parse_metric`; or one is named twice.
    """
    return parse_metrics(evaluation.metrics, evaluation.settings)


def parse_metrics(texts: Iterable[str], settings: Mapping[str, Any] | None = None) -> list[Metric]:
    """Metrics in the order of the texts, then the companions that they lack.

    Raises:
        UserError: as `parse_metric`; or one is named twice.
    """
    found: dict[str, Metric] = {}
    added: dict[str, Metric] = {}
    for text in texts:
        metric = parse_metric(text, settings)
        if metric.key in found:
            raise UserError(f"metric '{metric.key}' is named twice")
        found[metric.key] = metric
    for metric in found.values():
        for companion in _companions(metric, {one.descriptor.name for one in found.values()}, settings):
            added.setdefault(companion.descriptor.name, companion)
    return [*found.values(), *added.values()]


def _companions(metric: Metric, have: AbstractSet[str], settings: Mapping[str, Any] | None) -> list[Metric]:
    """The companion that a metric lacks, and the companion's, and so on."""
    name = metric.descriptor.companion
    if not name or name in have:
        return []
    try:
        companion = parse_metric(name, settings)
    except UserError as error:
        raise UserError(f"metric '{metric.key}' is never shown without its companion '{name}': {error}") from None
    return [companion, *_companions(companion, have | {name}, settings)]


def networks_needed(metrics: Iterable[Metric]) -> list[str]:
    """The pretrained networks that metrics need, each once."""
    return list(dict.fromkeys(name for metric in metrics for name in metric.needs))


def _not_a_metric(plugin: plugins.Plugin, errors: ValidationError) -> UserError:
    first = errors.errors()[0]
    name = ".".join(map(str, first["loc"]))
    problem = f"it has no `{name}`" if first["type"] == "missing" else f"its `{name}`: {first['msg']}"
    return UserError(
        f"metric '{plugin.name}' of package {plugin.package} ('{plugin.target}') is not a metric: {problem}; "
        f"`attnbench check-metric {plugin.name}` says what else"
    )
