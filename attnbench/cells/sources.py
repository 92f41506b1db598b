"""The source code behind a module's numbers: its own file, and those files of its package that it imports.

Files are parsed, not run: neither plug-ins nor torch are imported, so checking a store takes no time. Only code counts:
comments, docstrings and formatting do not. Imports by computed names (`importlib.import_module`), other packages and
attnbench itself are not followed.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path

from attnbench import plugins
from attnbench.cells.record import ModuleRecord
from attnbench.source_code import code_digest, parsed


@dataclass(frozen=True)
class _File:
    """A Python file.

    Attributes:
        code: digest of its code, see `code_digest`.
        content: SHA-256 of its bytes; None for a file in a zip.
        imports: dotted names of the modules in its import statements, at any level of nesting.
    """

    code: str
    content: str | None
    imports: tuple[str, ...]


@cache
def sources_of(target: str) -> dict[str, str] | None:
    """Dotted name -> digest of the code, for the file of an entry point's target and, transitively, the files it imports.

    Only files of the same top-level package count. The result is cached, since code that a process has imported stays the same
    whatever happens to the file; `forget` clears the cache.

    Args:
        target: `package.module:attribute`.

    Returns:
        None if the target's file is not installed here, or has no Python source.
    """
    return {name: file.code for name, file in _files_of(target).items()} or None


def changed_sources(module: ModuleRecord) -> list[str] | None:
    """Dotted names of the files whose code has changed since a record was made; empty if none has.

    Returns:
        None if this cannot be determined: the module is not installed here, or one of the two sides has no source.
    """
    target = _targets().get((module.name, module.package))
    now = sources_of(target) if target else None
    then, content = module.sources, module.source_sha256
    if target is None or now is None or (then is None and content is None):
        return None
    if then is None:
        return [] if content in _contents(target) else [_module_name(target)]
    return [] if then == now else sorted(name for name in {*then, *now} if then.get(name) != now.get(name))


def forget() -> None:
    """Clear the caches: for processes that outlive an edit, such as notebooks."""
    importlib.invalidate_caches()
    for cached in (sources_of, _targets, _contents, _read):
        cached.cache_clear()


@cache
def _targets() -> dict[tuple[str, str], str]:
    """(name, package) of the installed modules -> their targets."""
    return {(plugin.name, plugin.package): plugin.target for plugin in plugins.installed(plugins.MODULES)}


@cache
def _contents(target: str) -> frozenset[str | None]:
    """SHA-256 of the bytes of each of the target's files. An older record has the digest of the file that defines the module,
    which may be any of them, since a package's `__init__` may only re-export it.
    """
    return frozenset(file.content for file in _files_of(target).values())


def _files_of(target: str) -> dict[str, _File]:
    """Dotted name -> file; empty if the target's own file has no source."""
    first = _module_name(target)
    package = first.partition(".")[0]
    found: dict[str, _File] = {}
    waiting = [first]
    while waiting:
        name = waiting.pop()
        if name in found or (file := _read(name)) is None:
            continue
        found[name] = file
        waiting += [other for other in file.imports if other.partition(".")[0] == package]
    return found if first in found else {}


def _module_name(target: str) -> str:
    return target.partition(":")[0].strip()


@cache
def _read(name: str) -> _File | None:
    """A module's file; None if the module is compiled, a folder without `__init__.py`, or not installed here."""
    spec = _find(name)
    get_source = getattr(spec.loader, "get_source", None) if spec else None
    if spec is None or get_source is None or not spec.has_location:
        return None
    try:
        text = get_source(name)
    except (ImportError, SyntaxError, ValueError):  # unreadable, or not in the encoding that it declares
        return None
    if text is None:
        return None
    path = Path(spec.origin or "")
    content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
    return _File(code_digest(text), content, tuple(_imported(text, spec)))


def _imported(text: str, spec: ModuleSpec) -> Iterator[str]:
    """The modules that import statements name. `from a import b` names a.b if that is a module, else a."""
    tree = parsed(text)
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (base := _absolute(node, spec)):
            inner = [f"{base}.{alias.name}" for alias in node.names]
            yield from (name if _is_inside(name, spec) and _find(name) else base for name in inner)


def _is_inside(name: str, spec: ModuleSpec) -> bool:
    return name.partition(".")[0] == spec.name.partition(".")[0]


def _absolute(node: ast.ImportFrom, spec: ModuleSpec) -> str:
    """The absolute dotted name after `from`; empty if it leaves the top-level package."""
    if not node.level:
        return node.module or ""
    package = spec.name if spec.submodule_search_locations is not None else spec.name.rpartition(".")[0]
    parts = package.split(".") if package else []
    parts = parts[: max(len(parts) - node.level + 1, 0)]
    return ".".join([*parts, *([node.module] if node.module else [])]) if parts else ""


def _find(name: str) -> ModuleSpec | None:
    """The spec of a module, as by `importlib.util.find_spec`, but without importing its parent packages."""
    spec, path = None, None
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        spec = _find_in(".".join(parts[:end]), path)
        if spec is None or (end < len(parts) and spec.submodule_search_locations is None):
            return None
        path = spec.submodule_search_locations
    return spec


def _find_in(name: str, path: Sequence[str] | None) -> ModuleSpec | None:
    for finder in sys.meta_path:
        try:
            spec = finder.find_spec(name, path)
        except (ImportError, ValueError, AttributeError):  # a third-party finder, or one of the old protocol
            continue
        except KeyError:  # a folder without `__init__.py`: importlib looks up its parent package, which is not imported
            return _namespace(name, path or ())
        if spec is not None:
            return spec
    return None


def _namespace(name: str, path: Sequence[str]) -> ModuleSpec:
    spec = ModuleSpec(name, None, is_package=True)
    places = (Path(place, name.rpartition(".")[2]) for place in path)
    spec.submodule_search_locations = [str(place) for place in places if place.is_dir()]
    return spec
