"""Cells: which modules, with which options, on which data sets, with which seeds, under one recipe.

A cell's identity is a hash of all that can change its numbers, and of nothing else.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attnbench import plugins, weights
from attnbench.costs import on_meta
from attnbench.data.images import PreparedDataset
from attnbench.data.layouts import Dataset, folder
from attnbench.errors import UserError, unknown
from attnbench.grid_file import label_of, load_grid, split_options, titled
from attnbench.identity import identity_of
from attnbench.recipe import Recipe, describe, digest, load_recipe
from attnbench.sources import sources_of
from attnbench.train import ModuleFactory, build_generator


@dataclass(frozen=True)
class Variant:
    """A module with options and the label that its row carries.

    Attributes:
        options: every option of the constructor with the value it takes, defaults included.
        given: those of the options that differ from their defaults, in the constructor's order.
    """

    module: str
    options: Mapping[str, Any]
    given: Mapping[str, Any]
    label: str
    provenance: Mapping[str, Any]
    factory: ModuleFactory


@dataclass(frozen=True)
class Origin:
    """Where a data set is on this machine: enough for another process to find it.

    Attributes:
        text: as on the command line, paths absolute.
        root: the data root.
        skip_corrupt: whether images that cannot be decoded are left out.
    """

    text: str
    root: Path | None
    skip_corrupt: bool = False

    @classmethod
    def of(cls, text: str, root: Path | None) -> Origin:
        name, equals, path = text.partition("=")
        if equals and ":" not in name:
            text = f"{name}={Path(path).expanduser().absolute()}"
        return cls(text, root.absolute() if root else None)

    def find(self) -> Dataset:
        """Raises UserError as `parse_dataset` does."""
        return parse_dataset(self.text, self.root)


@dataclass(frozen=True)
class Cell:
    """The unit of work, of storage, of resuming and of failure."""

    variant: Variant
    dataset: PreparedDataset
    origin: Origin
    seed: int
    recipe: Recipe
    recipe_name: str

    @property
    def training_weights(self) -> dict[str, str]:
        """Pretrained networks that training uses -> SHA-256 of their files."""
        names = ["vgg19"] if self.recipe.needs_perceptual_network else []
        return {name: weights.file_digest(weights.find_or_download(name)) for name in names}

    @cached_property
    def identity(self) -> str:
        return identity_of(
            recipe=_values(self.recipe),
            module=self.variant.module,
            options=self.variant.options,
            fingerprint=self.dataset.fingerprint,
            seed=self.seed,
            weights=self.training_weights,
        )

    @property
    def folder_name(self) -> str:
        return f"{self.variant.module}-{self.dataset.name}-seed{self.seed}-{self.identity[:10]}"

    @property
    def label(self) -> str:
        return f"{self.variant.label} on {self.dataset.name}, seed {self.seed}"


@dataclass(frozen=True)
class Grid:
    """The cells that one command asks for; checked, nothing decoded yet."""

    variants: Sequence[Variant]
    datasets: Sequence[Dataset]
    origins: Sequence[Origin]  # of the data sets
    seeds: Sequence[int]
    recipe: Recipe
    recipe_name: str

    def cells(self, prepared: Sequence[PreparedDataset], *, skip_corrupt: bool = False) -> list[Cell]:
        """Every variant on every data set with every seed, data sets outermost.

        Raises:
            UserError: a training set is smaller than a batch.
        """
        for dataset in prepared:
            _check_size(dataset.name, len(dataset.train), self.recipe)
        origins = [replace(origin, skip_corrupt=skip_corrupt) for origin in self.origins]
        return [
            Cell(variant, dataset, origin, seed, self.recipe, self.recipe_name)
            for dataset, origin in zip(prepared, origins, strict=True)
            for seed in self.seeds
            for variant in self.variants
        ]


def check_grid(
    modules: Sequence[str],
    datasets: Sequence[str],
    recipe: str | Path,
    *,
    grid: str | Path | None = None,
    overrides: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    data_root: Path | None = None,
) -> Grid:
    """Look everything up, and refuse what cannot be run.

    Args:
        modules, datasets: as on the command line, see `parse_variant` and `parse_dataset`.
        grid: a built-in grid or a YAML file; its variants come before `modules`, its data sets where `datasets` is empty.
        recipe, overrides: see `load_recipe`.

    Raises:
        UserError: anything that a person can put right.
    """
    file = load_grid(grid) if grid is not None else None
    datasets = datasets or (file.datasets if file else ())
    if file and not datasets:
        raise UserError(f"grid '{grid}' names no datasets: add --datasets")
    if not (modules or file) or not datasets or not seeds:
        raise UserError("a grid needs at least one module, one dataset and one seed")
    if min(seeds) < 0:
        raise UserError(f"seed {min(seeds)}: seeds are 0 or more")
    resolved = load_recipe(recipe, overrides)
    listed_first = file.variants if file else ()
    variants = [make_variant(entry.module, entry.options, entry.label) for entry in listed_first]
    variants += [parse_variant(text) for text in modules]
    for variant in variants:
        _check_runs(variant, resolved)
    origins = [Origin.of(text, data_root) for text in datasets]
    listed = [origin.find() for origin in origins]
    _check_distinct([digest([v.module, v.options]) for v in variants], [v.label for v in variants], "module")
    _check_distinct([d.name for d in listed], [d.name for d in listed], "dataset")
    _check_distinct(seeds, [str(seed) for seed in seeds], "seed")
    for dataset in listed:
        _check_size(dataset.name, len(dataset.train), resolved)
    return Grid(variants, listed, origins, seeds, resolved, describe(recipe, overrides))


def parse_variant(text: str) -> Variant:
    """`sga`, or `sga:stop_gradient=false:double_norm=false`.

    Raises:
        UserError: no such module or option, a value of another type than its default, a module that cannot be imported.
    """
    return make_variant(*split_options(text, "module"))


def make_variant(name: str, options: Mapping[str, Any], label: str | None = None) -> Variant:
    """A module by name, with options for its constructor; raises as `parse_variant` does.

    Without a `label` it has the one of the paper's tables, or its class's name with the options.
    """
    plugin = plugins.find(plugins.MODULES, name)
    loaded = plugin.load()
    accepted = options_of(loaded, name)
    check_names(options, accepted, f"module '{name}'")
    typed = {key: _as_default(key, options[key], default, name) for key, default in accepted.items() if key in options}
    given = {key: value for key, value in typed.items() if value != accepted[key]}
    factory = partial(_construct, loaded, name, given)
    return Variant(
        module=name,
        options={key: _json(value) for key, value in {**accepted, **given}.items()},
        given=given,
        label=label or label_of(name, given) or titled(getattr(loaded, "__name__", name), given),
        provenance={
            "package": plugin.package,
            "version": plugin.version,
            "target": plugin.target,
            "sources": sources_of(plugin.target),
        },
        factory=factory,
    )


def parse_dataset(text: str, root: Path | None) -> Dataset:
    """`cat`, `synthetic:train=200:size=64`, or `name=folder`.

    Raises:
        UserError: no such data set, option or folder; no images.
    """
    head, equals, path = text.partition("=")
    if equals and ":" not in head:
        return folder(head.strip(), Path(path).expanduser())
    name, options = split_options(text, "dataset")
    loaded = plugins.find(plugins.DATASETS, name).load()
    check_names(options, options_of(loaded, name), f"dataset '{name}'")
    dataset = loaded(root, **options)
    if not isinstance(dataset, Dataset):
        raise UserError(f"dataset '{name}' returned a {type(dataset).__name__}, not an attnbench.data.layouts.Dataset")
    return dataset


@lru_cache(maxsize=8)
def _values(recipe: Recipe) -> dict[str, Any]:
    """Every key of a recipe in JSON's types: once a recipe, not once a cell."""
    return recipe.model_dump(mode="json")


def _check_runs(variant: Variant, recipe: Recipe) -> None:
    """Refuse what a constructor refuses, and options that a forward cannot bring together with the recipe's network."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"), torch.no_grad():
        generator = build_generator(on_meta(variant.factory), recipe, seed=0)
        size = recipe.data.size
        try:
            generator(torch.zeros(2, 1, size, size), torch.zeros(2, 3, size, size))
        except ValueError as error:
            raise UserError(
                f"module '{variant.module}' with {dict(variant.given)} cannot run under this recipe: {error}"
            ) from error
        except Exception:  # there are no values on the meta device, which some forwards look at; the first step will tell
            return


def _construct(loaded: Callable[..., Any], name: str, options: Mapping[str, Any], channels: int) -> nn.Module:
    try:
        module = loaded(channels, **options)
    except Exception as error:  # a stranger's constructor may raise anything, and its author needs to read what
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"module '{name}' cannot be built for {channels} channels with {dict(options)}: {reason}") from error
    if not isinstance(module, nn.Module):
        raise UserError(f"module '{name}' gives a {type(module).__name__}, not a torch.nn.Module")
    return module


def options_of(loaded: Callable[..., Any], name: str) -> dict[str, Any]:
    """Options and their defaults: all parameters but the first (channels, or the data root)."""
    try:
        _, *parameters = inspect.signature(loaded).parameters.values()
    except ValueError:
        raise UserError(f"plug-in '{name}' takes no arguments: a module takes channels first, a data set its root") from None
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {p.name: None if p.default is p.empty else p.default for p in parameters if p.kind not in kinds}


def check_names(options: Iterable[str], accepted: Mapping[str, Any], where: str) -> None:
    for option in options:
        if option not in accepted:
            raise unknown("option", option, accepted, where=where)


def _check_size(name: str, count: int, recipe: Recipe) -> None:
    if count < recipe.train.batch_size:
        remedy = f"add images or pass --set train.batch_size={count}" if count >= 2 else "add images"
        raise UserError(
            f"dataset '{name}' has {count} training images, fewer than a batch of {recipe.train.batch_size}: {remedy}"
        )


def _check_distinct(keys: Sequence[Any], shown: Sequence[str], kind: str) -> None:
    seen = set()
    for key, name in zip(keys, shown, strict=True):
        if key in seen:
            raise UserError(f"{kind} '{name}' is asked for twice")
        seen.add(key)


def _as_default(option: str, value: Any, default: Any, module: str) -> Any:
    """The value, a whole number as a float where the default is one.

    Raises:
        UserError: the default is true or false, a number or a text, and the value is not.
    """
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    plain = isinstance(value, (bool, int, float, str, list, dict, type(None)))
    if type(default) is float and type(value) is int:
        return float(value)
    if not plain or (type(default) in kinds and type(value) is not type(default)):
        raise UserError(f"module '{module}': {option}={value}: expected {kinds.get(type(default), 'a plain value')}")
    return value


def _json(value: Any) -> Any:
    """Plain values as they are; others by their representation."""
    return value if isinstance(value, (bool, int, float, str, list, dict, type(None))) else repr(value)
