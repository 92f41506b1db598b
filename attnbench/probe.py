"""Two optional calls by which the inside of any module can be seen. Both are the identity, and free while nobody listens.

x_skip, x_query = branch(x, "skip", "query")    # a probe reads the gradient of each branch apart
observe("attention", a)                         # a probe reads the tensor
observe("attention", make)                      # a probe reads the tensor that make() returns
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, overload

from torch import Tensor


class Listener(Protocol):
    def branched(self, total: Tensor, branches: dict[str, Tensor]) -> None:
        """`total` was split into `branches`: equal in value, each with a gradient of its own."""

    def observed(self, name: str, value: Tensor) -> None: ...


_listeners: list[Listener] = []


def branch(x: Tensor, *roles: str) -> tuple[Tensor, ...]:
    """One copy of `x` for each of the roles that it plays (spec of roles: `skip`, `query`, `key`, `value`, `content`, ...).

    The copies are `x` itself unless a probe listens; then each is an identity node, so that the gradients of the roles, which
    add up to the gradient at `x`, can be read one by one.
    """
    if not _listeners:
        return (x,) * len(roles)
    total = x.view_as(x)  # a node of its own: the gradient here is this split's, even where x is split again elsewhere
    copies = {role: total.view_as(total) for role in roles}
    for listener in _listeners:
        listener.branched(total, copies)
    return tuple(copies.values())


@overload
def observe(name: str, value: Tensor) -> Tensor: ...
@overload
def observe(name: str, value: Callable[[], Tensor]) -> None: ...
def observe(name: str, value: Tensor | Callable[[], Tensor]) -> Tensor | None:
    """Show `value` to whoever listens, and return it. A function is called, once, if somebody listens, and not returned."""
    if _listeners:
        shown = value if isinstance(value, Tensor) else value()
        for listener in _listeners:
            listener.observed(name, shown)
    return value if isinstance(value, Tensor) else None


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Let `listener` hear every `branch` and `observe` inside the block."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


class Observations:
    """A listener that keeps what modules observe, by name, detached.

    >>> import torch
    >>> with listening(seen := Observations()):
    ...     _ = observe("attention", torch.eye(2))
    >>> list(seen.values)
    ['attention']
    """

    def __init__(self) -> None:
        self.values: dict[str, list[Tensor]] = {}

    def branched(self, total: Tensor, branches: dict[str, Tensor]) -> None:
        """Gradients are not this listener's concern."""

    def observed(self, name: str, value: Tensor) -> None:
        self.values.setdefault(name, []).append(value.detach())


class BranchGradients:
    """A listener that keeps the gradient of every branch, and of the whole, as `backward` passes.

    `splits[i]` maps the roles of the i-th `branch` call, and `"total"`, to gradients of the shape of the split tensor. A role
    through which no gradient flows is absent.
    """

    def __init__(self) -> None:
        self.splits: list[dict[str, Tensor]] = []

    def branched(self, total: Tensor, branches: dict[str, Tensor]) -> None:
        gradients: dict[str, Tensor] = {}
        self.splits.append(gradients)
        for role, tensor in {**branches, "total": total}.items():
            if tensor.requires_grad:
                tensor.register_hook(_keep(gradients, role))

    def observed(self, name: str, value: Tensor) -> None:
        """Values are not this listener's concern."""


def _keep(gradients: dict[str, Tensor], role: str) -> Callable[[Tensor], None]:
    def hook(gradient: Tensor) -> None:
        gradients[role] = gradient.detach()

    return hook
