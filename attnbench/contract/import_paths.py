"""Classes and factories by import path: what is in the current folder can be checked before it is installed."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce
from importlib import util
from pathlib import Path
from typing import Any

from attnbench import plugins
from attnbench.contract.messages import explain
from attnbench.errors import UserError, unknown


def imported(text: str, group: str, kind: str) -> tuple[Callable[..., Any], dict[str, Any]] | None:
    """Constructor and options of `my_package:MyAttention:heads=4`; None if the text names a plug-in of the group.

    Args:
        kind: what plug-ins of the group are, for messages.

    Raises:
        UserError: the package cannot be imported, or has nothing of that name that can be called.
    """
    head, *rest = text.split(":")
    registered = {plugin.name for plugin in plugins.installed(group)}
    if (
        not rest or "=" in rest[0] or (head in registered and not _is_importable(head))
    ):  # a package and its plug-in may share a name
        return None
    _, options = plugins.split_options(":".join(rest), kind)
    return _import(head, rest[0], kind), options


def _import(path: str, attribute: str, kind: str) -> Callable[..., Any]:
    where = f"{kind} '{path}:{attribute}'"
    with _current_folder_importable():
        try:
            package = importlib.import_module(path)
        except Exception as error:  # the author's code may raise anything, and its author needs to know what
            raise UserError(f"{where}: '{path}' cannot be imported: {explain(error)}") from error
    try:
        found = reduce(getattr, attribute.split("."), package)
    except AttributeError:
        known = [name for name, value in vars(package).items() if getattr(value, "__module__", "") == path and callable(value)]
        raise unknown("attribute", attribute, known, where=f"'{path}'") from None
    if not callable(found):
        raise UserError(f"{where} is of type {type(found).__name__}, not a class or a factory")
    return found


def _is_importable(path: str) -> bool:
    with _current_folder_importable():
        try:
            spec = util.find_spec(path)
            return spec is not None and spec.origin is not None  # a folder without code has no origin
        except (ImportError, ValueError):  # raised for a parent package
            return False


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    """Put the current folder on `sys.path`, as `python -m` does and a console script does not."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(here)
