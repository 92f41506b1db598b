"""Attention with memory linear in the number of tokens: of a large map, only some rows exist at a time.

With queries Q (B, n, C), keys K (B, m, C) and values V (B, m, D), the map in at least float32:

    A  = softmax_j(Q_i . K_j / temperature)         (B, n, m)
    A^ = A_ij / max(sum_k A_kj, 1e-12)              (B, n, m)   double_norm; exact_norm: without the clamp, in the log domain
    A^ V                                            (B, n, D)

    attention = Attention(query, key, double_norm=True)
    observe("attention", attention.map)             # a large map is made in full only for an observer
    gathered = attention.apply(value)

A map of up to 256 x 256 entries is made at once, as written above. A larger one is made 64 rows at a time, anew in every pass:
one pass for the column sums if columns are normalised (in the log domain, preceded by one for the column maxima) and one for
the product. No part of it is kept for backward, which makes one pass for V and one more for Q and K. There, with G = dO V^T,
the gradient at A^, and s_j = sum_i A^_ij G_ij = V_j . dV_j (0 for columns that are clamped or not normalised),

    dV = A^^T dO,   E = A^ * (G - s),   dL = E - A rowsum(E),   dQ = dL K / temperature,   dK = dL^T Q / temperature

The price is time, one product Q K^T per pass, and the lack of second derivatives.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from attnbench.method.precision import at_least_float32, no_autocast

SIDE = 256  # maps of up to SIDE x SIDE entries are made at once
ROWS = 64  # rows of a larger map made at a time
EPS = 1e-12  # lower bound on a column's sum


class Attention:
    """An attention map, (B, n, m); `apply` multiplies it with values.

    Args:
        query: (B, n, C).
        key: (B, m, C).
        temperature: divisor of the logits.
        double_norm: normalise the map's columns after its rows; columns with a sum below 1e-12 stay below a sum of one.
        exact_norm: normalise columns to a sum of one however small their sums, with or without `double_norm`.
        stop_gradient: block the gradient through the map.
    """

    def __init__(
        self,
        query: Tensor,
        key: Tensor,
        *,
        temperature: float = 1.0,
        double_norm: bool = False,
        exact_norm: bool = False,
        stop_gradient: bool = False,
    ):
        self.query, self.key = (at_least_float32(x.detach() if stop_gradient else x) for x in (query, key))
        self.temperature = temperature
        self.double_norm = double_norm
        self.exact_norm = exact_norm
        self._whole = self._make_whole() if query.shape[1] * key.shape[1] <= SIDE**2 else None

    def map(self) -> Tensor:
        """The map, (B, n, m), in at least float32. A large one is made at each call, and has no gradient."""
        if self._whole is not None:
            return self._whole
        with torch.no_grad():
            return self._make_whole()

    def apply(self, value: Tensor) -> Tensor:
        """A^ V, (B, n, D), for V (B, m, D): in the type of V or, under autocast, in the type of any matrix product."""
        if self._whole is not None:
            return self._whole.to(value.dtype) @ value
        options = (self.temperature, self.double_norm, self.exact_norm)
        return _Product.apply(self.query, self.key, _cast_for_product(value), *options)

    def _make_whole(self) -> Tensor:
        with no_autocast(self.query):
            logits = _logits(self.query, self.key, self.temperature)
            if self.exact_norm:
                return logits.log_softmax(-1).softmax(-2)
            rows = logits.softmax(-1)
            return F.normalize(rows, p=1, dim=-2, eps=EPS) if self.double_norm else rows


class _Product(torch.autograd.Function):
    """A^ V for a large map, by the equations in the header."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, temperature: float, double_norm: bool, exact_norm: bool
    ) -> Tensor:
        highest = mass = None
        with no_autocast(query):
            if exact_norm:
                highest = query.new_full((len(key), 1, key.shape[1]), -torch.inf)
                for block in query.split(ROWS, 1):
                    log_rows = _logits(block, key, temperature).log_softmax(-1)
                    highest = torch.maximum(highest, log_rows.amax(-2, keepdim=True))
            if double_norm or exact_norm:
                mass = query.new_zeros(len(key), 1, key.shape[1])
                for block in query.split(ROWS, 1):
                    mass += _weights(_logits(block, key, temperature), highest, None).sum(-2, keepdim=True)
            product = value.new_empty(*query.shape[:2], value.shape[-1])
            for block, rows in zip(query.split(ROWS, 1), product.split(ROWS, 1), strict=True):
                rows.copy_(_weights(_logits(block, key, temperature), highest, mass).to(value.dtype) @ value)
        ctx.save_for_backward(query, key, value, highest, mass)
        ctx.temperature = temperature
        return product

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, highest, mass = ctx.saved_tensors
        temperature = ctx.temperature
        with no_autocast(query):
            wide = torch.promote_types(query.dtype, value.dtype)
            blocks = list(zip(query.split(ROWS, 1), gradient.split(ROWS, 1), strict=True))
            values = value.to(wide)
            to_value = torch.zeros_like(values)
            for block, arriving in blocks:
                weights = _weights(_logits(block, key, temperature), highest, mass).to(wide)
                to_value.baddbmm_(weights.mT, arriving.to(wide))
            if not any(ctx.needs_input_grad[:2]):
                return None, None, to_value.to(value.dtype), None, None, None
            shared = None if mass is None else (values * to_value).sum(-1)[:, None].where(mass >= EPS, 0)  # (B, 1, m)
            to_query, to_key = torch.empty_like(query), torch.zeros_like(key)
            for (block, arriving), rows in zip(blocks, to_query.split(ROWS, 1), strict=True):
                logits = _logits(block, key, temperature)
                to_map = arriving.to(wide) @ values.mT
                if shared is not None:
                    to_map = to_map - shared
                weighted = _weights(logits, highest, mass) * to_map.to(query.dtype)
                to_logits = (weighted - logits.softmax(-1) * weighted.sum(-1, keepdim=True)) / temperature
                rows.copy_(to_logits @ key)
                to_key.baddbmm_(to_logits.mT, block)
            return to_query, to_key, to_value.to(value.dtype), None, None, None


def _logits(query: Tensor, key: Tensor, temperature: float) -> Tensor:
    logits = query @ key.mT
    return logits if temperature == 1 else logits / temperature


def _weights(logits: Tensor, highest: Tensor | None, mass: Tensor | None) -> Tensor:
    """Rows of A^, (B, r, m), from rows of logits.

    Args:
        highest: logarithms of each column's largest weight, (B, 1, m): the shift of a softmax over columns.
        mass: each column's sum, relative to `highest` if that is given, (B, 1, m).
    """
    rows = logits.softmax(-1) if highest is None else (logits.log_softmax(-1) - highest).exp()
    return rows if mass is None else rows / mass.clamp_min(EPS)


def _cast_for_product(value: Tensor) -> Tensor:
    """`value` in the type of a matrix product's factors under autocast, which does not cast inputs of autograd functions."""
    device = value.device.type
    if value.dtype == torch.float64 or not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return value
    return value.to(torch.get_autocast_dtype(device))
