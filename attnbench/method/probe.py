"""Two optional calls that expose the inside of any module. Both are the identity, and free without a listener.

x_skip, x_query = branch(x, "skip", "query")    # a probe reads each branch's gradient separately
observe("attention", a)                         # a probe reads the tensor
observe("attention", make)                      # a probe reads the tensor that make() returns
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, overload

from torch import Tensor


class BranchListener(Protocol):
    def branched(self, total: Tensor, branches: dict[str, Tensor]) -> None:
        """`total` was split into `branches`: equal in value, each with a gradient of its own."""


class Observer(Protocol):
    def observed(self, name: str, value: Tensor) -> None: ...


Listener = BranchListener | Observer  # or both
_branch_listeners: list[BranchListener] = []
_observers: list[Observer] = []


def branch(x: Tensor, *roles: str) -> tuple[Tensor, ...]:
    """One copy of `x` for each of its roles (`skip`, `query`, `key`, `value`, `content`, ...).

    The copies are `x` itself unless a probe listens; then each is an identity node, so that the gradients of the roles, which
    add up to the gradient at `x`, can be read separately.
    """
    if not _branch_listeners:
        return (x,) * len(roles)
    total = x.view_as(x)  # a separate node: its gradient is this split's alone, even if x is split again elsewhere
    copies = {role: total.view_as(total) for role in roles}
    for listener in _branch_listeners:
        listener.branched(total, copies)
    return tuple(copies.values())


@overload
def observe(name: str, value: Tensor) -> Tensor: ...


@overload
def observe(name: str, value: Callable[[], Tensor]) -> None: ...


def observe(name: str, value: Tensor | Callable[[], Tensor]) -> Tensor | None:
    """Pass `value` to all observers and return it. A function is called, once, if there are any; None is returned."""
    if _observers:
        shown = value if isinstance(value, Tensor) else value()
        for observer in _observers:
            observer.observed(name, shown)
    return value if isinstance(value, Tensor) else None


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Notify `listener` of every `branch` and `observe` call inside the block, whichever of the two it has a method for."""
    registries: list[tuple[list[Any], str]] = [(_branch_listeners, "branched"), (_observers, "observed")]
    joined = [listeners for listeners, method in registries if hasattr(listener, method)]
    for listeners in joined:
        listeners.append(listener)
    try:
        yield
    finally:
        for listeners in joined:
            listeners.remove(listener)


class Silent:
    """A listener that records nothing; branches are split as they are for one that does.

    Floating-point sums depend on their order. If the roles of an input use it several times each, its gradient is summed role
    by role when branches are split, and use by use when they are not: the last bits differ.
    """

    def branched(self, total: Tensor, branches: dict[str, Tensor]) -> None:
        """Nothing to record."""


class Observations:
    """A listener that keeps the tensors that modules observe, by name, detached.

    >>> import torch
    >>> with listening(seen := Observations()):
    ...     _ = observe("attention", torch.eye(2))
    >>> list(seen.values)
    ['attention']
    """

    def __init__(self) -> None:
        self.values: dict[str, list[Tensor]] = {}

    def observed(self, name: str, value: Tensor) -> None:
        self.values.setdefault(name, []).append(value.detach())


class BranchGradients:
    """A listener that keeps the gradients of every branch and of the split tensor during `backward`.

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


def _keep(gradients: dict[str, Tensor], role: str) -> Callable[[Tensor], None]:
    def hook(gradient: Tensor) -> None:
        gradients[role] = gradient.detach()

    return hook
