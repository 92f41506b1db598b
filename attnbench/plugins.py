"""Entry points -> modules and data sets. Python's own registry is the only one: the built-ins are entered like anyone's.

Nothing is imported until it is asked for, so a plug-in that fails to import hurts nobody but the run that wants it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from attnbench.errors import UserError, unknown

MODULES = "attnbench.modules"
DATASETS = "attnbench.datasets"

_KIND = {MODULES: "module", DATASETS: "dataset"}


@dataclass(frozen=True)
class Plugin:
    """A name that an installed package offers."""

    kind: str
    name: str
    target: str  # "package.module:attribute"
    package: str
    version: str
    entry_point: EntryPoint

    def load(self) -> Callable[..., Any]:
        """Import what the entry point names.

        Raises:
            UserError: the import fails, whatever it raises; the message names the package and the error.
        """
        try:
            loaded = self.entry_point.load()
        except Exception as error:  # a stranger's code may raise anything, and its author needs to read what
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
        # One package may be found twice on the path (a checkout beside its own installation); that is no conflict.
        found[point.name, package, point.value] = Plugin(_KIND[group], point.name, point.value, package, version, point)
    return [found[key] for key in sorted(found)]


def find(group: str, name: str) -> Plugin:
    """The plug-in of that name.

    Raises:
        UserError: there is none (the nearest name is given), or two packages claim it (both are named).
    """
    plugins = installed(group)
    matches = [plugin for plugin in plugins if plugin.name == name]
    if not matches:
        raise unknown(_KIND[group], name, {plugin.name for plugin in plugins})
    if len(matches) > 1:
        claims = " and ".join(f"{plugin.package} {plugin.version}" for plugin in matches)
        raise UserError(f"{_KIND[group]} '{name}' is claimed by {claims}: uninstall one of them")
    return matches[0]
