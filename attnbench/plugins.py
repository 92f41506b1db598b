"""Entry points -> modules and datasets. There is no other registry: the built-ins are registered like anyone else's.

Nothing is imported until it is asked for, so a plug-in that fails to import affects only runs that ask for it.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import yaml

from attnbench.errors import UserError, unknown

MODULES = "attnbench.modules"
DATASETS = "attnbench.datasets"
METRICS = "attnbench.metrics"
METHODS = "attnbench.methods"

_KIND = {MODULES: "module", DATASETS: "dataset", METRICS: "metric", METHODS: "method"}


@dataclass(frozen=True)
class Plugin:
    """An entry point of an installed package."""

    kind: str
    name: str
    target: str  # "package.module:attribute"
    package: str
    version: str
    entry_point: EntryPoint

    def load(self) -> Callable[..., Any]:
        """Import the target of the entry point.

        Raises:
            UserError: the import fails, with any exception; the message names the package and the error.
        """
        try:
            loaded = self.entry_point.load()
        except Exception as error:  # third-party code may raise anything, and its author needs to see what
            reason = " ".join(str(error).split())
            raise UserError(
                f"{self.kind} '{self.name}' of package {self.package} {self.version} cannot be imported from "
                f"'{self.target}': {type(error).__name__}: {reason}"
            ) from error
        if not callable(loaded):
            raise UserError(f"{self.kind} '{self.name}' of package {self.package}: '{self.target}' is not callable")
        return loaded


def installed(group: str) -> list[Plugin]:
    """All plug-ins of a group, sorted by name; a name that two packages claim appears twice."""
    found = {}
    for point in entry_points(group=group):
        package, version = (point.dist.name, point.dist.version) if point.dist else ("unknown", "unknown")
        # One package may be found twice on the path (a checkout beside its own installation); that is not a conflict.
        found[point.name, package, point.value] = Plugin(_KIND[group], point.name, point.value, package, version, point)
    return [found[key] for key in sorted(found)]


def find(group: str, name: str) -> Plugin:
    """The plug-in with that name.

    Raises:
        UserError: no plug-in has the name (the nearest name is suggested), or two packages claim it (both are named).
    """
    plugins = installed(group)
    matches = [plugin for plugin in plugins if plugin.name == name]
    if not matches:
        raise unknown(_KIND[group], name, {plugin.name for plugin in plugins})
    if len(matches) > 1:
        claims = " and ".join(f"{plugin.package} {plugin.version}" for plugin in matches)
        raise UserError(f"{_KIND[group]} '{name}' is claimed by {claims}: uninstall one of them")
    return matches[0]


def split_options(text: str, kind: str) -> tuple[str, dict[str, Any]]:
    """`name:option=value:...`, values in YAML; `kind` is for messages.

    Raises:
        UserError: a part is not option=value, or has no value.
    """
    name, *assignments = text.split(":")
    options = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or not key or not value.strip():
            raise UserError(f"{kind} '{text}': '{assignment}' is not option=value (for example {name}:option=value)")
        try:
            options[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UserError(f"{kind} '{text}': '{value}' is not a YAML value") from None
    return name.strip(), options


def options_of(loaded: Callable[..., Any], name: str, *, first: bool = True) -> dict[str, Any]:
    """Options and their defaults: all parameters but the first (channels, or the data root), if there is such a `first`."""
    try:
        parameters = list(inspect.signature(loaded).parameters.values())
    except ValueError:  # written in C
        parameters = []
    if first and not parameters:
        raise UserError(f"plug-in '{name}' takes no arguments: a module takes channels first, a dataset its root")
    parameters = parameters[1:] if first else parameters
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {p.name: None if p.default is p.empty else p.default for p in parameters if p.kind not in kinds}


def check_names(options: Iterable[str], accepted: Mapping[str, Any], where: str) -> None:
    for option in options:
        if not accepted:
            raise UserError(f"{where}: unknown option '{option}': it has no options")
        if option not in accepted:
            raise unknown("option", option, accepted, where=where)


def as_default(option: str, value: Any, default: Any, where: str) -> Any:
    """The value, with a whole number converted to float if the default is a float; `where` is for the error.

    Raises:
        UserError: the default is a boolean, a number or a string, and the value has another type.
    """
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    plain = isinstance(value, (bool, int, float, str, list, dict, type(None)))
    if type(default) is float and type(value) is int:
        return float(value)
    if not plain or (type(default) in kinds and type(value) is not type(default)):
        raise UserError(f"{where}: {option}={_typed(value)}: expected {kinds.get(type(default), 'a plain value')}")
    return value


def _typed(value: Any) -> str:
    """A value as it is typed: `null`, not `None`."""
    return json.dumps(value, default=str) if isinstance(value, (bool, int, float, list, dict, type(None))) else str(value)
