"""How each branch's gradient agrees with the whole gradient of its input, as counts of cosines.

Paper: arXiv 2207.06095, section 3.3, figures 3, 4, 5 and 10. An input X of a module plays several roles, and the gradient at X
is the sum of the gradients through each, g = sum_r g_r (`probe.branch`). At each of the B n positions,

    cos(g_r, g) = <g_r, g> / (|g_r| |g|),   over the C channels.

Figure 4's g_skip and g_Q are the branches `skip` and `query` of SCFT's first input, g_V and g_K `value` and `key` of its
second. `query` and `key` are *matching* branches: they decide what goes where. All others are *content*. If an input has
several of a kind, their sum is counted as well.

Only counts are kept: of cosines in 200 equal bins on [-1, 1], and exact ones of those above 0.935 and below 0. A branch without
a gradient at a position (a stopped branch has none anywhere) has no cosine there; such positions are counted separately and
left out of the shares above 0.935 and below 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor, nn

from attnbench.config.recipe import Recipe
from attnbench.errors import UserError
from attnbench.method.precision import at_least_float32

GRADIENTS = "gradients.jsonl"  # in a cell's folder
BINS = 200
DOMINANT = 0.935  # a branch dominates above this cosine, according to the paper
MATCHING = ("query", "key")
_ZERO, _NOT_FINITE, _ABOVE, _BELOW, _SLOTS = range(BINS, BINS + 5)  # after the bins in a vector of counts
BranchKey = tuple[str, str]  # input, role


@dataclass(frozen=True)
class Counts:
    """Counts of the cosines between the gradients of one branch of an input and of the whole input.

    Attributes:
        input: `sketch` (f_s), `reference` (f_r), or `inside` if the module splits a tensor that it has computed.
        role: the branch's, or several joined by ` + ` for a sum.
        bins: how many cosines lie in each of the 200 bins.
        zeros: positions where the branch or the whole input has no gradient.
        not_finite: positions where one of the two gradients has an infinite or undefined entry.
        above, below: cosines above 0.935, and below 0.
    """

    input: str
    role: str
    bins: tuple[int, ...]
    zeros: int
    not_finite: int
    above: int
    below: int

    @property
    def kind(self) -> str:
        """`matching` or `content`."""
        return kind_of(self.role.split(" + ")[0])

    @property
    def cosines(self) -> int:
        """The number of positions that have a cosine."""
        return sum(self.bins)

    @property
    def share_above(self) -> float | None:
        return self.above / self.cosines if self.cosines else None

    @property
    def share_below(self) -> float | None:
        return self.below / self.cosines if self.cosines else None

    @property
    def share_zero(self) -> float:
        """`zeros` as a share of all positions."""
        positions = self.cosines + self.zeros + self.not_finite
        return self.zeros / positions if positions else 0.0

    @property
    def key(self) -> BranchKey:
        return self.input, self.role

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.input,
            self.role,
            tuple(a + b for a, b in zip(self.bins, other.bins, strict=True)),
            self.zeros + other.zeros,
            self.not_finite + other.not_finite,
            self.above + other.above,
            self.below + other.below,
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "role": self.role,
            "kind": self.kind,
            "counts": list(self.bins),
            "zeros": self.zeros,
            "not_finite": self.not_finite,
            "above": self.above,
            "below": self.below,
            "share_above": self.share_above,
            "share_below": self.share_below,
        }


def as_json(counts: Iterable[Counts]) -> list[dict[str, Any]]:
    """[{"input": ..., "branches": [...]}, ...]."""
    splits: dict[str, list[dict[str, Any]]] = {}
    for one in counts:
        splits.setdefault(one.input, []).append(one.as_json())
    return [{"input": name, "branches": branches} for name, branches in splits.items()]


def from_json(splits: Sequence[Mapping[str, Any]]) -> list[Counts]:
    """The inverse of `as_json`; raises KeyError, TypeError or ValueError for anything else."""
    names = ("zeros", "not_finite", "above", "below")
    found = [
        Counts(split["input"], branch["role"], tuple(branch["counts"]), *(branch[name] for name in names))
        for split in splits
        for branch in split["branches"]
    ]
    for one in found:
        if len(one.bins) != BINS:
            raise ValueError(f"{len(one.bins)} counts of {one.input} {one.role}, not {BINS}")
        if not all(isinstance(count, int) for count in (*one.bins, one.zeros, one.not_finite, one.above, one.below)):
            raise ValueError(f"counts of {one.input} {one.role} that are not integers")
    return found


def kind_of(role: str) -> str:
    """`matching` for query and key, else `content`."""
    return "matching" if role in MATCHING else "content"


def check_recordable(recipe: Recipe) -> None:
    """Raises UserError if a step cannot be listened to: compiled or captured, its branches are not there to be read."""
    for key, why in (("compile", "fuses the network across the branches"), ("cuda_graph", "replays steps without Python")):
        if getattr(recipe.train, key):
            raise UserError(
                f"--record-gradients does not work with train.{key}=true, which {why}: pass --set train.{key}=false, or use "
                "`attnbench analyze gradients` on the finished cell"
            )


def channel_axis(shape: Sequence[int], channels: int) -> int:
    """The axis of a split tensor that holds a position's vector: the last of tokens (B, n, C), the second of maps (B, C, h, w).

    It is the one of the two with length C; if both or neither have it (tokens with n = C, finer layers with fewer channels),
    the usual one for the number of axes.

    >>> channel_axis((16, 256, 992), 992), channel_axis((16, 992, 16, 16), 992), channel_axis((16, 48, 64, 64), 992)
    (2, 1, 1)
    """
    last = len(shape) - 1
    usual, other = (1, last) if len(shape) > 3 else (last, min(1, last))
    return other if shape[usual] != channels and shape[other] == channels else usual


def count_cosines(branch: Tensor | None, total: Tensor, axis: int) -> Tensor:
    """Counts of the cosines of two gradients of equal shape along an axis, on their device: (204,), int64.

    200 bins, then zeros, not finite, above 0.935, below 0. A branch of None is zero everywhere. Vectors are scaled by their
    largest entry first, so that gradients of 1e-30 also have a direction.
    """
    counts = torch.zeros(_SLOTS, dtype=torch.int64, device=total.device)
    if branch is None:
        counts[_ZERO] = total.numel() // total.shape[axis]
        return counts
    largest = []
    vectors = []
    for gradient in (branch, total):
        wide = at_least_float32(gradient.detach())
        largest.append(torch.linalg.vector_norm(wide, torch.inf, dim=axis))
        vectors.append(wide / largest[-1].unsqueeze(axis))
    norms = [torch.linalg.vector_norm(vector, dim=axis) for vector in vectors]
    cosine = ((vectors[0] * vectors[1]).sum(axis) / (norms[0] * norms[1])).flatten()
    zero = ((largest[0] == 0) | (largest[1] == 0)).flatten()
    bins = ((cosine + 1) * (BINS / 2)).floor().clamp(0, BINS - 1)  # a cosine of 1 goes into the last bin
    slots = bins.nan_to_num(_NOT_FINITE).masked_fill(zero, _ZERO).long()
    counts.scatter_add_(0, slots, torch.ones_like(slots))
    counts[_ABOVE] = (cosine > DOMINANT).sum()
    counts[_BELOW] = (cosine < 0).sum()
    return counts


class GradientCosines:
    """A listener that counts cosines during backward passes, for every split in a module's forward.

    Counts stay on the device until `take`, so nothing waits for a GPU before that. A hook on the module marks the start of each
    forward and identifies the module's inputs; `close` removes the hook.

    Args:
        module: (f_s, f_r) -> f_gen, see `backbone.Colorizer`; not compiled.
        channels: C.

    Attributes:
        totals: the tensors split by the latest forward, in order, without those that need no gradient.
    """

    def __init__(self, module: nn.Module, channels: int):
        self.channels = channels
        self.totals: list[Tensor] = []
        self._counts: dict[BranchKey, Tensor | None] = {}  # in the order of the forward
        self._inputs: dict[int, str] = {}
        self._named: list[str] = []
        self._hook = module.register_forward_pre_hook(self._begin)

    def close(self) -> None:
        self._hook.remove()
        self.totals.clear()

    def take(self) -> list[Counts]:
        """The counts since the last call, in the order of the forward. Waits for the device."""
        counted = {key: counts for key, counts in self._counts.items() if counts is not None}
        self._counts = dict.fromkeys(self._counts)
        if not counted:
            return []
        rows = torch.stack(list(counted.values())).tolist()
        return [Counts(*key, tuple(row[:BINS]), *row[BINS:]) for key, row in zip(counted, rows, strict=True)]

    def branched(self, total: Tensor, branches: dict[str, Tensor]) -> None:
        name = self._name_of(total)
        if not total.requires_grad:
            return
        self.totals.append(total)
        gradients: dict[str, Tensor] = {}
        groups = groups_of(branches)
        for label in groups:
            self._counts.setdefault((name, label), None)
        for role, copy in branches.items():
            copy.register_hook(partial(gradients.__setitem__, role))
        total.register_hook(partial(self._count, name, groups, gradients))  # called after all of the branches' hooks

    def _begin(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.totals.clear()
        self._named.clear()
        self._inputs = {x.untyped_storage().data_ptr(): name for x, name in zip(inputs, ("sketch", "reference"), strict=False)}

    def _name_of(self, total: Tensor) -> str:
        name = self._inputs.get(total.untyped_storage().data_ptr(), "inside")
        self._named.append(name)
        occurrence = self._named.count(name)
        return f"{name} {occurrence}" if occurrence > 1 else name

    def _count(self, name: str, groups: Mapping[str, Sequence[str]], gradients: dict[str, Tensor], total: Tensor) -> None:
        axis = channel_axis(total.shape, self.channels)
        for label, roles in groups.items():
            arrived = [gradients[role] for role in roles if role in gradients]
            branch = reduce(torch.add, map(at_least_float32, arrived)) if arrived else None
            counts, before = count_cosines(branch, total, axis), self._counts.get((name, label))
            self._counts[name, label] = counts if before is None else before + counts
        gradients.clear()  # another backward through the same forward fills it again


def groups_of(roles: Iterable[str]) -> dict[str, list[str]]:
    """Label -> roles summed for it: each role of an input alone, and each kind that has several roles.

    >>> groups_of(["skip", "query"])
    {'skip': ['skip'], 'query': ['query']}
    >>> list(groups_of(["skip", "value", "key"]))
    ['skip', 'value', 'key', 'skip + value']
    """
    roles = list(roles)
    kinds = [[role for role in roles if kind_of(role) == kind] for kind in ("content", "matching")]
    return {role: [role] for role in roles} | {" + ".join(kind): kind for kind in kinds if len(kind) > 1}
