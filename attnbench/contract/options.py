"""What the constructors of modules and metrics have in common: options with defaults, which the docstring explains."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from inspect import Parameter
from typing import Any

from attnbench.contract.messages import Verdict, listed


def named(parameters: Sequence[Parameter]) -> list[Parameter]:
    return [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def without_default(options: Sequence[Parameter]) -> list[str]:
    return [option.name for option in options if option.default is option.empty]


def documented(construct: Callable[..., Any], options: Sequence[Parameter]) -> Verdict:
    """Whether there is a docstring that mentions every option."""
    text = _documentation(construct)
    if not text:
        return (
            "failed",
            "there is no docstring: its first line is what `attnbench list` shows, and it must explain every option",
        )
    if silent := [option.name for option in options if not re.search(rf"\b{option.name}\b", text)]:
        return "failed", f"the docstring says nothing about {listed(silent)}"
    if not options:
        return "passed", "no options"
    return "passed", f"options {listed(option.name for option in options)}, all with defaults, all documented"


def _documentation(construct: Callable[..., Any]) -> str:
    """The docstring of a factory, or those of a class, its constructor and its bases, except PyTorch's."""
    while isinstance(construct, partial):
        construct = construct.func
    if not isinstance(construct, type):
        return construct.__doc__ or ""
    own = [c for c in construct.__mro__ if c is not object and not c.__module__.startswith("torch.")]
    texts = [text for c in own for text in (c.__doc__, getattr(vars(c).get("__init__"), "__doc__", None)) if text]
    return "\n".join(texts)
