"""Variants: a module with options and the label of its row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from attnbench import plugins
from attnbench.cells.sources import sources_of
from attnbench.config.grid_files import label_of, titled
from attnbench.errors import UserError
from attnbench.plugins import check_names, options_of, split_options
from attnbench.training.state import ModuleFactory


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


def _construct(loaded: Callable[..., Any], name: str, options: Mapping[str, Any], channels: int) -> nn.Module:
    try:
        module = loaded(channels, **options)
    except Exception as error:  # a stranger's constructor may raise anything, and its author needs to read what
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"module '{name}' cannot be built for {channels} channels with {dict(options)}: {reason}") from error
    if not isinstance(module, nn.Module):
        raise UserError(f"module '{name}' gives a {type(module).__name__}, not a torch.nn.Module")
    return module


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
