"""Variants: a module with options and a label."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from attnbench import plugins
from attnbench.cells.sources import sources_of
from attnbench.config.grid_files import paper_label, title_with_options
from attnbench.errors import UserError
from attnbench.plugins import as_default, check_names, options_of, split_options
from attnbench.training.state import ModuleFactory


@dataclass(frozen=True)
class Variant:
    """A module with options, and the label of its row in tables.

    Attributes:
        options: every option of the constructor with its value, defaults included.
        given: the options that differ from their defaults, in the constructor's order.
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
        UserError: no such module or option, a value whose type differs from its default's, a module that cannot be imported.
    """
    return make_variant(*split_options(text, "module"))


def make_variant(name: str, options: Mapping[str, Any], label: str | None = None) -> Variant:
    """A module by name, with options for its constructor; raises as `parse_variant` does.

    `label` defaults to the one in the paper's tables, or to the name of the class with the options.
    """
    plugin = plugins.find(plugins.MODULES, name)
    loaded = plugin.load()
    accepted = options_of(loaded, name)
    check_names(options, accepted, f"module '{name}'")
    typed = {
        key: as_default(key, options[key], default, f"module '{name}'") for key, default in accepted.items() if key in options
    }
    given = {key: value for key, value in typed.items() if value != accepted[key]}
    factory = partial(_construct, loaded, name, given)
    return Variant(
        module=name,
        options={key: _json(value) for key, value in {**accepted, **given}.items()},
        given=given,
        label=label or paper_label(name, given) or title_with_options(getattr(loaded, "__name__", name), given),
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
    except Exception as error:  # a third-party constructor may raise anything, and its author needs to see what
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"module '{name}' cannot be built for {channels} channels with {dict(options)}: {reason}") from error
    if not isinstance(module, nn.Module):
        raise UserError(f"module '{name}' gives a {type(module).__name__}, not a torch.nn.Module")
    return module


def _json(value: Any) -> Any:
    """Plain values unchanged; others as their `repr`."""
    return value if isinstance(value, (bool, int, float, str, list, dict, type(None))) else repr(value)
