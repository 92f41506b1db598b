"""Which `branch` calls split an input itself, and what gradient they carry together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from attnbench.method.probe import BranchGradients


class Splits(BranchGradients):
    """BranchGradients that finds the splits of an input itself: of the same memory, and not downstream of another split."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[tuple[str, ...]] = []
        self._wholes: list[Tensor] = []
        self._copies: set[Any] = set()
        self._nested: list[bool] = []

    def branched(self, total: Tensor, branches: dict[str, Tensor]) -> None:
        super().branched(total, branches)
        self.names.append(tuple(branches))
        self._wholes.append(total)
        self._nested.append(bool(self._copies & _nodes_behind(total.grad_fn)))
        self._copies.update(copy.grad_fn for copy in branches.values() if copy.grad_fn is not None)

    def of(self, x: Tensor) -> list[int]:
        """Indices of the splits of `x`, or of a view of it."""
        memory = x.untyped_storage().data_ptr()
        same = [whole.untyped_storage().data_ptr() == memory for whole in self._wholes]
        return [i for i, is_x in enumerate(same) if is_x and not self._nested[i]]

    def roles(self, indices: Iterable[int]) -> list[str]:
        return list(dict.fromkeys(role for i in indices for role in self.names[i]))

    def gradient(self, x: Tensor, indices: Iterable[int]) -> Tensor:
        """The sum of the branches' gradients of these splits of `x`, which is contiguous, in the layout of `x`."""
        together = torch.zeros_like(x)
        for i in indices:
            whole = self._wholes[i]
            place = together.as_strided(whole.shape, whole.stride(), whole.storage_offset())
            for role, gradient in self.splits[i].items():
                if role != "total":
                    place.add_(gradient)
        return together


def _nodes_behind(node: Any) -> set[Any]:
    found: set[Any] = set()
    waiting = [node]
    while waiting:
        if (one := waiting.pop()) is not None and one not in found:
            found.add(one)
            waiting += [behind for behind, _ in one.next_functions]
    return found
