"""Digests of Python code in which comments, docstrings and formatting do not count."""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path
from threading import Lock

_PARSER = Lock()  # Python 3.11 keeps the depth of its parser for all threads together, and raises SystemError when two parse


@cache
def digest_of_file(path: str) -> str:
    """`code_digest` of a Python file, read once per process."""
    return code_digest(Path(path).read_text(encoding="utf-8"))


def code_digest(text: str) -> str:
    """SHA-256 of a file's code: equal for two files that differ only in comments, docstrings and formatting.

    Computed from the syntax tree itself, which changes less between Python versions than the output of `ast.unparse` and
    `ast.dump`. Text that is not Python is hashed unchanged.
    """
    tree = parsed(text)
    try:
        code = text if tree is None else repr(_plain(tree))
    except RecursionError:
        code = text
    return hashlib.sha256(code.encode(errors="surrogatepass")).hexdigest()


def parsed(text: str) -> ast.Module | None:
    """The syntax tree of a file's text; None if it is not Python."""
    try:
        with _PARSER:
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):  # not Python, has null bytes, or is nested too deeply for ast
        return None


def _plain(node: object) -> object:
    """A syntax tree as nested tuples, without empty fields, such as those that only a newer Python has."""
    if isinstance(node, list):
        return tuple(_plain(item) for item in node if not _is_bare_string(item))
    if isinstance(node, ast.Constant):  # without its `kind`, the u of u"", which has no effect
        return "Constant", node.value
    if isinstance(node, ast.JoinedStr):  # Python 3.12 ends some f-strings with an empty string
        node = ast.JoinedStr([part for part in node.values if _plain(part) != ("Constant", "")])
    if not isinstance(node, ast.AST):
        return node
    fields = ((name, _plain(value)) for name, value in ast.iter_fields(node) if not isinstance(value, ast.expr_context))
    return (type(node).__name__, *(field for field in fields if field[1] not in (None, ())))


def _is_bare_string(node: object) -> bool:
    """Whether a statement is only a string: the docstring of a module, a class, a function or an attribute."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
