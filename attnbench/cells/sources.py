"""What a module's numbers were made with: its code, and that of the files of its package that it imports.

Found by reading, not by running: neither plug-ins nor torch are imported, so a store is judged in no time. What counts is the
code: comments, docstrings and formatting do not. Imports by computed names (`importlib.import_module`), other packages and
attnbench itself are not followed.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from attnbench import plugins


@dataclass(frozen=True)
class _File:
    """A Python file.

    Attributes:
        code: digest of what it does.
        content: SHA-256 of its bytes; None in a zip.
        imports: dotted names of the modules that its import statements name, wherever those are.
    """

    code: str
    content: str | None
    imports: tuple[str, ...]


@cache
def sources_of(target: str) -> dict[str, str] | None:
    """Dotted name -> digest of its code, for the file of an entry point's target and, transitively, those that it imports.

    Only files of the same top-level package. Remembered, since what a process has imported stays as it was, whatever becomes of
    the file; `forget` reads anew.

    Args:
        target: `package.module:attribute`.

    Returns:
        None where the target's file is not here, or has no Python source.
    """
    return {name: file.code for name, file in _files_of(target).items()} or None


def changed_sources(module: Mapping[str, Any]) -> list[str] | None:
    """Dotted names of the files whose code is not what a record was made with; none if all is as it was.

    Args:
        module: the part of a cell.json of that name. Older records have the SHA-256 of one file's bytes (`source_sha256`).

    Returns:
        None where that cannot be judged: the module is not installed here, or one of the two has no source.
    """
    target = _targets().get((module["name"], module["package"]))
    now = sources_of(target) if target else None
    then, content = module.get("sources"), module.get("source_sha256")
    if target is None or now is None or (then is None and content is None):
        return None
    if then is None:
        return [] if content in _contents(target) else [_module_name(target)]
    return [] if then == now else sorted(name for name in {*then, *now} if then.get(name) != now.get(name))


def forget() -> None:
    """Read anew what is asked for next: for processes that outlive an edit, such as notebooks."""
    importlib.invalidate_caches()
    for remembered in (sources_of, _targets, _contents, _read):
        remembered.cache_clear()


def code_digest(text: str) -> str:
    """SHA-256 of what a file does: equal for two that differ in comments, docstrings and formatting.

    Made of the syntax tree itself, which changes less from one Python to the next than what `ast.unparse` and `ast.dump` make
    of it. Text that is no Python counts as it is.
    """
    tree = _parsed(text)
    try:
        code = text if tree is None else repr(_plain(tree))
    except RecursionError:
        code = text
    return hashlib.sha256(code.encode(errors="surrogatepass")).hexdigest()


def _parsed(text: str) -> ast.Module | None:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):  # it is no Python, has null bytes, or goes deeper than ast does
        return None


def _plain(node: object) -> object:
    """A syntax tree as nested tuples, without what is empty, such as the fields that only a newer Python has."""
    if isinstance(node, list):
        return tuple(_plain(item) for item in node if not _is_text_alone(item))
    if isinstance(node, ast.Constant):  # its `kind`, the u of u"", says nothing
        return "Constant", node.value
    if isinstance(node, ast.JoinedStr):  # Python 3.12 ends some f-strings with an empty text
        node = ast.JoinedStr([part for part in node.values if _plain(part) != ("Constant", "")])
    if not isinstance(node, ast.AST):
        return node
    fields = ((name, _plain(value)) for name, value in ast.iter_fields(node) if not isinstance(value, ast.expr_context))
    return (type(node).__name__, *(field for field in fields if field[1] not in (None, ())))


def _is_text_alone(node: object) -> bool:
    """Whether a statement only says something: the docstring of a module, a class, a function or an attribute."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


@cache
def _targets() -> dict[tuple[str, str], str]:
    """(name, package) of the installed modules -> their targets."""
    return {(plugin.name, plugin.package): plugin.target for plugin in plugins.installed(plugins.MODULES)}


@cache
def _contents(target: str) -> frozenset[str | None]:
    """SHA-256 of the bytes of the target's files. Any of them may be the one that an older record means: the one that defines
    the module, which a package's `__init__` may only pass on.
    """
    return frozenset(file.content for file in _files_of(target).values())


def _files_of(target: str) -> dict[str, _File]:
    """Dotted name -> file; empty where the target's own has no source."""
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
    """A module's file; None where it is compiled, a folder without `__init__.py`, or not here."""
    spec = _find(name)
    get_source = getattr(spec.loader, "get_source", None) if spec else None
    if spec is None or get_source is None or not spec.has_location:
        return None
    try:
        text = get_source(name)
    except (ImportError, SyntaxError, ValueError):  # unreadable, or not in the encoding that it claims
        return None
    if text is None:
        return None
    path = Path(spec.origin or "")
    content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
    return _File(code_digest(text), content, tuple(_imported(text, spec)))


def _imported(text: str, spec: ModuleSpec) -> Iterator[str]:
    """The modules that import statements name. Of `from a import b`, a.b where that is a module, else a."""
    tree = _parsed(text)
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (base := _absolute(node, spec)):
            inner = [f"{base}.{alias.name}" for alias in node.names]
            yield from (name if _is_inside(name, spec) and _find(name) else base for name in inner)


def _is_inside(name: str, spec: ModuleSpec) -> bool:
    return name.partition(".")[0] == spec.name.partition(".")[0]


def _absolute(node: ast.ImportFrom, spec: ModuleSpec) -> str:
    """The dotted name behind `from`; empty where it points out of the top-level package."""
    if not node.level:
        return node.module or ""
    package = spec.name if spec.submodule_search_locations is not None else spec.name.rpartition(".")[0]
    parts = package.split(".") if package else []
    parts = parts[: max(len(parts) - node.level + 1, 0)]
    return ".".join([*parts, *([node.module] if node.module else [])]) if parts else ""


def _find(name: str) -> ModuleSpec | None:
    """Where a module is. As `importlib.util.find_spec`, which however would import the packages around it."""
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
        except (ImportError, ValueError, AttributeError):  # a stranger's finder, or one of the old kind
            continue
        except KeyError:  # a folder without `__init__.py`: importlib asks for the package around it, which is not imported
            return _namespace(name, path or ())
        if spec is not None:
            return spec
    return None


def _namespace(name: str, path: Sequence[str]) -> ModuleSpec:
    spec = ModuleSpec(name, None, is_package=True)
    places = (Path(place, name.rpartition(".")[2]) for place in path)
    spec.submodule_search_locations = [str(place) for place in places if place.is_dir()]
    return spec
