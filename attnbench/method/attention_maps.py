"""The attention maps that a module shows while it colours, each between sketch and reference or of the sketch to itself."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ShownMap:
    """A map that a module passed to `observe("attention", map)`.

    Attributes:
        name: `cross` or `self`, numbered where there are several.
        within: whether it covers the sketch's own grid: its query and its key are branches of one tensor.
        weights: (B, n, m), n positions of the sketch, m of the reference, or n again; of several heads, the mean. Rows need not
            sum to one.
    """

    name: str
    within: bool
    weights: Tensor


class Maps:
    """A listener that keeps the attention maps of one forward.

    It also holds the latest tensors that were split, since freed memory may be reused by another tensor.
    """

    def __init__(self) -> None:
        self.shown: list[ShownMap] = []
        self._query: Tensor | None = None
        self._key: Tensor | None = None

    def branched(self, total: Tensor, branches: dict[str, Tensor]) -> None:
        self._query = total if "query" in branches else self._query
        self._key = total if "key" in branches else self._key

    def observed(self, name: str, value: Tensor) -> None:
        if name != "attention":
            return
        weights = value.detach()
        if weights.dim() == 4:  # heads
            weights = weights.mean(1)
        within = self._query is not None and self._key is not None and overlap(self._query, self._key)
        kind = "self" if within else "cross"
        before = sum(one.within == within for one in self.shown)
        self.shown.append(ShownMap(f"{kind} {before + 1}" if before else kind, within, weights))


def overlap(a: Tensor, b: Tensor) -> bool:
    """Whether the memory of two live tensors overlaps: views of one tensor do, unless they are cut along its first axis.

    >>> import torch
    >>> both = torch.zeros(2, 6, 4)
    >>> overlap(both.mT, both.flatten(1)), overlap(both[:1], both[1:])
    (True, False)
    """
    (first_a, last_a), (first_b, last_b) = map(_addresses, (a, b))
    return first_a <= last_b and first_b <= last_a


def _addresses(x: Tensor) -> tuple[int, int]:
    """The addresses of the first and the last entry."""
    steps = sum((count - 1) * stride for count, stride in zip(x.shape, x.stride(), strict=True))
    return x.data_ptr(), x.data_ptr() + steps * x.element_size()
