"""The recipe: everything that is held fixed while modules are compared.

The defaults below *are* the `official` recipe: what the paper's released code does, except for the departures listed in
`configs/official.yaml`, where every key is written out. A recipe file holds only the keys that it changes. Unknown keys and
out-of-range values are errors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from attnbench import plugins
from attnbench.config.yaml_files import built_in_files, read_mapping, validated
from attnbench.errors import UserError, unknown


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Sketch(_Section):
    """How line art is made from a colour image: XDoG (paper section 4.1; Winnemoeller et al. 2012)."""

    source: Literal["xdog", "dataset"] = "xdog"
    """`dataset` reads the line art shipped with the dataset (anime: stage 0; AFHQ: the sibling folder `<class>_sketch`)."""
    at: Literal["native", "target"] = "native"
    """`native`: drawn at the image's own size, then resized like shipped sketches; `target`: at `data.size`, stays binary."""
    sigma: tuple[Annotated[float, Field(gt=0, le=20)], ...] = Field((0.3, 0.4, 0.5), min_length=1)
    """Standard deviations of the narrower Gaussian in pixels; one is drawn per image."""
    sigma_per: Literal["image", "epoch"] = "image"
    """`image`: fixed by a hash of the file name; `epoch`: redrawn every epoch (test sketches keep the fixed one)."""
    p: float = Field(19.0, ge=0)
    k: float = Field(4.5, gt=1)
    epsilon: float = 0.01
    phi: float = Field(1e9, gt=0)


class Warp(_Section):
    """The thin-plate spline that turns the target into its own reference (paper section 3.1)."""

    kind: Literal["official", "grid", "none"] = "official"
    """`official`: two points on the diagonal move along it; `grid`: a `points` x `points` lattice moves freely."""
    points: int = Field(3, ge=2, le=16)
    magnitude: float = Field(0.1, ge=0, le=1)
    """`grid` only: the largest displacement of a point along an axis, as a share of the image's side."""
    border: Literal["constant", "replicate", "reflect"] = "constant"
    """Padding outside the image; `constant` is black."""


class Data(_Section):
    """Images, their augmentation and their line art."""

    size: int = Field(256, ge=16, le=4096)
    """Side of the square images, in pixels."""
    jitter: Literal["official", "channel_shift", "color_jitter", "none"] = "official"
    """`official` is what the released code computes: a dither of at most one grey level, no change of colour."""
    sketch: Sketch = Sketch()
    warp: Warp = Warp()


class Backbone(_Section):
    """The shared colorization network (SCFT's, as the released code builds it)."""

    width: int = Field(16, ge=1, le=256)
    """Channels of the encoders' first level; each level doubles them."""
    levels: int = Field(5, ge=2, le=8)
    """Number of encoder resolutions; the bottleneck's side is 1/2^(levels-1) of the image's."""
    residual_blocks: int = Field(4, ge=0, le=64)
    discriminator_width: int = Field(16, ge=1, le=256)
    discriminator_layers: int = Field(4, ge=1, le=8)


class Loss(_Section):
    """Weights of the generator's losses (paper eq. 5) and the choices within them."""

    adversarial: float = Field(1.0, ge=0)
    reconstruction: float = Field(30.0, ge=0)
    perceptual: float = Field(0.01, ge=0)
    style: float = Field(50.0, ge=0)
    gram: Literal["joint", "per_sample"] = "joint"
    """`joint`: one Gram matrix over a batch, as released; its loss falls as 1/batch. `per_sample`: the usual definition."""
    gram_tf32: bool = False
    """Products of Gram matrices in TF32 on GPUs that support it: ten bits, which bfloat16's activations hardly exceed."""
    imagenet_normalization: bool = False
    """Normalise the perceptual network's input with ImageNet's mean and deviation; the released code does not."""


class Train(_Section):
    """Optimisation and its budget."""

    epochs: int = Field(40, ge=1)
    steps: int | None = Field(None, ge=1)
    """Stop after this many steps; overrides `epochs`."""
    batch_size: int = Field(16, ge=2)
    lr_generator: float = Field(1e-4, gt=0)
    lr_discriminator: float = Field(2e-4, gt=0)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.5, 0.999)
    schedule: Literal["constant", "linear"] = "constant"
    """`linear`: constant for the first half, then linear decay to zero."""
    generator_forwards: Literal[1, 2] = 1
    """Generator forwards per step. The released code makes two equal ones; one, with the batch norms' momentum raised from
    0.1 to 0.19, gives the same losses, gradients and running statistics, if the module uses each norm once in a forward."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """`bfloat16` trains under autocast; similarities, softmax and losses stay in float32."""
    tf32: bool = True
    """Convolutions in TF32 on GPUs that support it, which is PyTorch's default; matrix products stay in float32."""
    channels_last: bool = False
    compile: bool = False
    """Networks part by part, and the losses, through `torch.compile`."""
    cuda_graph: bool = False
    """On a GPU, replay a step that was captured once: for modules that do the same in every step."""


@cache
def _official_metrics() -> tuple[str, ...]:
    """The metrics of the `official` recipe, whose file lists them: this package's code names none."""
    return tuple(yaml.safe_load(built_in_files()["official"])["evaluation"]["metrics"])


class Evaluation(_Section):
    """How trained generators are measured. No key of it trains anything anew.

    Besides the keys below, installed metrics declare keys of their own, which set their options for the whole recipe.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    metrics: tuple[str, ...] = Field(default_factory=_official_metrics, min_length=1)
    """Names, with options as `name:option=value`. `attnbench list` shows them."""
    when: Literal["last", "each_epoch"] = "last"
    """`each_epoch` measures after every epoch too, and reports the best epoch, by the first of the metrics, beside the last."""
    references: tuple[Literal["cross", "same", "marked"], ...] = ("cross",)
    """`cross`: another test image; `same`: the sketch's own original under the recipe's warp, as in training; `marked`: this
    with two coloured discs, each pair twice, the second time with their colours swapped. Or several of them."""
    pairing: Literal["derangement", "official"] = "derangement"
    """Of `cross`. `derangement`: every test sketch once, never with its own image. `official`: shift by one within shuffled
    batches of 16, incomplete batch dropped."""
    pair_seed: int = Field(0, ge=0)
    limit: int | None = Field(None, ge=1)
    """Measure only the first pairs, so many of them."""
    format: Literal["png", "jpeg75"] = "png"
    """File format that a generated image is converted to before it is measured."""

    @field_validator("references", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="before")
    @classmethod
    def _metrics_declare_keys(cls, values: Any) -> Any:
        """Refuse keys that no metric declares; leave out those at their defaults, so that equal recipes are equal."""
        others = set(values) - set(cls.model_fields) if isinstance(values, dict) else set()
        if not others:
            return values
        declared = metric_settings()
        for key in others:
            if key not in declared:
                raise ValueError(str(unknown("key", key, [*cls.model_fields, *declared], where="evaluation")))
        return {key: value for key, value in values.items() if key not in others or value != declared[key]}

    @model_validator(mode="after")
    def _named_once(self) -> Evaluation:
        if not self.references:
            raise ValueError("references is empty: expected cross, same, marked, or several of them")
        for key, names in (("metrics", self.metrics), ("references", self.references)):
            if twice := sorted(name for name in set(names) if names.count(name) > 1):
                raise ValueError(f"{key} has '{twice[0]}' twice: name it once")
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """The keys that metrics declare, see `metrics.metric`."""
        return dict(self.model_extra or {})


def metric_settings() -> dict[str, Any]:
    """Keys of `evaluation` that installed metrics declare, with their defaults. One that cannot be imported declares none."""
    found: dict[str, Any] = {}
    for plugin in plugins.installed(plugins.METRICS):
        try:
            loaded = plugin.load()
        except UserError:
            continue
        if declared := getattr(loaded, "settings", None):
            defaults = plugins.options_of(loaded, plugin.name, first=False)
            found |= {key: defaults.get(option) for key, option in declared.items()}
    return found


_ADDED = (("loss", "gram_tf32"), ("train", "cuda_graph"))  # keys that format 2 did not have from the start


class Recipe(_Section):
    """Everything that is held fixed. `Recipe()` is `official`."""

    data: Data = Data()
    backbone: Backbone = Backbone()
    loss: Loss = Loss()
    train: Train = Train()
    evaluation: Evaluation = Field(default_factory=Evaluation)

    @model_validator(mode="after")
    def _sizes_fit(self) -> Recipe:
        if self.data.size < 2 ** (levels := self.backbone.levels):
            raise ValueError(
                f"data.size = {self.data.size} leaves no bottleneck: backbone.levels = {levels} needs {2**levels} pixels"
            )
        if self.data.size < 2 ** (layers := self.backbone.discriminator_layers):
            raise ValueError(f"data.size = {self.data.size} is too small for backbone.discriminator_layers = {layers}")
        return self

    @cached_property
    def training(self) -> dict[str, Any]:
        """All keys that training depends on, as JSON types: everything but `evaluation`.

        Keys that were added later are left out at their defaults, so that older cells are still those of the same recipe.
        """
        values = self.model_dump(mode="json", exclude={"evaluation"})
        for section, key in _ADDED:
            if values[section][key] == getattr(self, section).__class__.model_fields[key].default:
                del values[section][key]
        return values

    @property
    def needs_perceptual_network(self) -> bool:
        return self.loss.perceptual > 0 or self.loss.style > 0

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def digest(value: Any) -> str:
    """Hex SHA-256 of plain values, independent of the order of their keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def built_in_recipes() -> dict[str, str]:
    """Name -> YAML text of the recipes that come with the package (the files of `configs/`)."""
    return built_in_files()


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a built-in recipe by name, or a YAML file by path, and apply `section.key=value` overrides.

    Raises:
        UserError: an unknown recipe or key, a value of the wrong type or out of range.
    """
    values = read_mapping("recipe", name_or_path, built_in_recipes())
    for override in overrides:
        _set(values, override)
    return validated(Recipe, values, f"recipe '{name_or_path}'")


def limited(overrides: Sequence[str], limit: int | None, references: object = None) -> list[str]:
    """The overrides, with `--limit` among them.

    Raises:
        UserError: they say the same as `--limit`, or as `--references`.
    """
    given = {"limit": limit, "references": references}
    for override in overrides:
        key = override.partition("=")[0].strip().removeprefix("evaluation.")
        if given.get(key) is not None:
            raise UserError(f"--set {override} and --{key} say the same thing: leave one of them out")
    return [*overrides, *([] if limit is None else [f"evaluation.limit={limit}"])]


def is_set(overrides: Iterable[str], key: str) -> bool:
    """Whether one of `section.key=value` overrides sets a key, alone or with its whole section.

    >>> [is_set([text], "data.size") for text in ("data.size=64", "data={size: 64}", "data.jitter=none")]
    [True, True, False]
    """
    named = [override.partition("=")[0].strip() for override in overrides]
    return any(key == name or key.startswith(f"{name}.") for name in named)


def changed_evaluation(base: Evaluation, overrides: Sequence[str], metrics: Sequence[str] = ()) -> Evaluation:
    """An evaluation with `evaluation.key=value` overrides, and other metrics if there are any.

    Raises:
        UserError: an unknown key, a value of the wrong type or out of range.
    """
    values: dict[str, Any] = {"evaluation": base.model_dump(mode="json")}
    for override in overrides:
        _set(values, override)
    changed = values["evaluation"] | ({"metrics": list(metrics)} if metrics else {})
    return validated(Evaluation, changed, "evaluation")


def describe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> str:
    """A recipe's name for captions: `official`, or `official with train.epochs=1`. How it is measured is not part of it."""
    name = Path(name_or_path).stem
    overrides = [text for text in overrides if not text.strip().startswith("evaluation.")]
    return f"{name} with {', '.join(overrides)}" if overrides else name


def _set(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {override}: expected section.key=value, for example --set train.epochs=1")
    *sections, last = key.strip().split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise UserError(f"--set {override}: '{section}' is a value, not a section")
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"--set {override}: '{text}' is not a YAML value") from None
