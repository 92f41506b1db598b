"""UNITE: the reference's features brought to the sketch by optimal transport between learned masses.

Paper: "Unbalanced Feature Transport for Exemplar-based Image Translation", CVPR 2021, arXiv 2106.10482, sections 3.1 and 3.2.
With q, k the unit vectors of 3x3 neighbourhoods of theta f_s and phi f_r (as in cocosnet.py), and with u, v and r, s those of
single positions under two more pairs of 1x1 convolutions C -> 256:

    a = softmax_i(u_i . mean_j v_j),  b = softmax_j(v_j . mean_i u_i)      (B, n), (B, m): learned masses
    T = argmin <cost, T> + eps KL(T | a b^T),  T 1 = a,  T^T 1 = b         (B, n, m): Sinkhorn's iteration; potentials f, g
    W = T^ f_r,  T^ = T over its rows' sums                                (B, C, h, w): the reference, transported
    h = (1 - conf) ReLU(conv3x3(f_s)) + conf ReLU(conv3x3(W))              (B, 128, h, w)
        conf_i = sigmoid(10 (c_i - mean c)),  c_i = max_j r_i . s_j        (B, 1, h, w): where the match can be trusted
    out = PONO(f_s) (1 + gamma(h)) + beta(h)                               (B, C, h, w): gamma, beta as in spade.py

Division by the rows' sums cancels a_i and f_i: T^ = softmax_j((q_i . k_j + g_j) / eps + log b_j). UNITE's map is cosine
attention with a bias for each position of the reference, and this is what is computed.

The defaults are the UNITE row of the comparison (Table 2), and what the authors' code computes. It differs from their paper:

- The code broadcasts b along the rows of the plan, where it cancels with a: T^ = softmax_j((q_i . k_j + g_j) / eps). The masses
  reach T^ through the iteration alone, where no gradient flows: their four convolutions keep their initial weights.
- The cost is sqrt(1 - cos) in the iteration but 1 - cos in the plan, whose marginals are then not a and b, nor its mass 1.
- The paper's transport is unbalanced: rho KL holds the marginals near a and b. The code's is balanced, and unbalanced only in
  that the masses differ from position to position. `reach=rho` is the paper's; its value of rho could not be verified.
- Gradients pass through the last iteration alone, where g's reaches the reference's vectors only.
- eps is annealed by halves from the diameter of the features' bounding box to the last value above 0.025; the plan has 0.025.

`cost=consistent` has 1 - cos in both places, and log b in T^, as the paper has them: b gets a gradient then, a gets none.
`stop_gradient=true` is SGA's question to this module: neither T^ nor conf, which is a map's maximum, passes a gradient, and all
six convolutions before them keep their initial values.

The code measures that diameter over the batch (6.5 to 7.9 at full size), so that a sample's result depends on its neighbours.
Here it is 7, which gives the code's eleven iterations. More choices of ours, since SGA's authors published no code of their
UNITE row: h reads f_s where UNITE has the segmentation; the mix with a self-attention map, which some of UNITE's layers have,
is left out, as are its additional losses; padding is zero, as in SPADE.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnbench import branch, no_autocast, observe

from .cocosnet import WIDTH, unit_vectors
from .spade import HIDDEN, Modulation, PositionNorm

DIAMETER = 7.0  # of the features: where the annealing of eps starts
EPSILON = 0.025
GAIN = 10.0  # of the confidence
COST_FLOOR = 1e-6  # the square root's slope at zero is infinite


class UNITE(nn.Module):
    """UNITE, CVPR 2021: the reference transported to the sketch, with learned masses, modulates the sketch features.

    (B, C, h, w), (B, C, h, w) -> (B, C, h, w).

    Args:
        channels: C.
        cost: `released`, sqrt(1 - cos) in Sinkhorn's iteration and 1 - cos in the plan, without b; `consistent`, 1 - cos in
            both, and b in the plan.
        reach: rho, the weight of the KL that holds the marginals; null holds them exactly.
        stop_gradient: block the gradient through the plan and the confidence.
    """

    def __init__(
        self,
        channels: int,
        *,
        cost: Literal["released", "consistent"] = "released",
        reach: float | None = None,
        stop_gradient: bool = False,
    ):
        super().__init__()
        if cost not in ("released", "consistent"):
            raise ValueError(f"cost={cost!r}: expected released or consistent")
        if reach is not None and not reach > 0:
            raise ValueError(f"reach={reach!r}: expected a number above 0, or null")
        self.cost = cost
        self.reach = reach
        self.stop_gradient = stop_gradient
        self.theta, self.phi = _projection(channels), _projection(channels)
        self.theta_mass, self.phi_mass = _projection(channels), _projection(channels)
        self.theta_confidence, self.phi_confidence = _projection(channels), _projection(channels)
        self.normalize = PositionNorm()
        self.hidden_sketch = nn.Conv2d(channels, HIDDEN, 3, padding=1)
        self.hidden_warped = nn.Conv2d(channels, HIDDEN, 3, padding=1)
        self.modulation = Modulation(channels)

    def forward(self, sketch: Tensor, reference: Tensor) -> Tensor:
        sketch, sketch_matching = branch(sketch, "content", "query")
        reference, reference_matching = branch(reference, "value", "key")
        plan = self.plan(sketch_matching, reference_matching)
        confidence = self.confidence(sketch_matching, reference_matching)
        if self.stop_gradient:
            plan, confidence = plan.detach(), confidence.detach()
        observe("attention", plan)
        observe("confidence", confidence)
        tokens = reference.flatten(2).mT  # (B, m, C)
        warped = (plan.to(tokens.dtype) @ tokens).mT.reshape(sketch.shape).to(sketch.dtype)
        hidden = torch.lerp(
            F.relu(self.hidden_sketch(sketch)).to(sketch.dtype), F.relu(self.hidden_warped(warped)).to(sketch.dtype), confidence
        )
        return self.modulation(self.normalize(sketch), hidden)

    def plan(self, sketch: Tensor, reference: Tensor) -> Tensor:
        """T^, (B, n, m), rows sum to one; from (B, C, h, w) maps, in float32 whatever the precision around it."""
        query, key = self.theta(sketch), self.phi(reference)
        query_mass, key_mass = self.theta_mass(sketch), self.phi_mass(reference)
        with no_autocast(sketch):
            query, key = unit_vectors(query, 3), unit_vectors(key, 3)
            log_a, log_b = log_masses(unit_vectors(query_mass), unit_vectors(key_mass))
            g = self.reference_potential(query.detach(), key, log_a.detach(), log_b.detach())
            logits = (query @ key.mT + g[:, None, :]) / EPSILON
            return (logits if self.cost == "released" else logits + log_b[:, None, :]).softmax(-1)

    def reference_potential(self, query: Tensor, key: Tensor, log_a: Tensor, log_b: Tensor) -> Tensor:
        """g, (B, m): Sinkhorn's iteration, and one more update, through which alone a gradient passes."""
        schedule = annealing(DIAMETER, EPSILON)
        cosine = query @ key.mT
        cost = (1 - cosine).clamp_min(COST_FLOOR).sqrt() if self.cost == "released" else 1 - cosine
        f, _ = sinkhorn(cost.detach(), log_a, log_b, schedule, self.reach)
        last = schedule[-1]
        return damping(last, self.reach) * softmin(cost.mT, log_a + f / last, last)

    def confidence(self, sketch: Tensor, reference: Tensor) -> Tensor:
        """conf, (B, 1, h, w) in [0, 1]: how well each position of the sketch is matched, against the mean position."""
        query, key = self.theta_confidence(sketch), self.phi_confidence(reference)
        with no_autocast(sketch):
            best = (unit_vectors(query) @ unit_vectors(key).mT).amax(-1)  # (B, n)
            confidence = torch.sigmoid(GAIN * (best - best.mean(-1, keepdim=True)))
        return confidence.view(-1, 1, *sketch.shape[-2:]).to(sketch.dtype)


def log_masses(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """log a (B, n), log b (B, m), from unit vectors (B, n, D), (B, m, D): by likeness to the mean of the other side."""
    log_a = (query @ key.mean(1, keepdim=True).mT).squeeze(-1).log_softmax(-1)
    log_b = (key @ query.mean(1, keepdim=True).mT).squeeze(-1).log_softmax(-1)
    return log_a, log_b


@torch.no_grad()
def sinkhorn(
    cost: Tensor, log_a: Tensor, log_b: Tensor, schedule: Sequence[float], reach: float | None = None
) -> tuple[Tensor, Tensor]:
    """Potentials f (B, n), g (B, m) of entropic transport, in the log domain: updates of both at once, averaged with what was,
    one for each eps (Feydy et al., "Interpolating between Optimal Transport and MMD using Sinkhorn Divergences", AISTATS 2019).

    Args:
        cost: (B, n, m); log_a (B, n), log_b (B, m): logarithms of the masses.
        schedule: eps of each iteration.
        reach: rho, or None for exact marginals.

    At the fixed point for one eps, T = exp((f_i + g_j - cost_ij) / eps) a_i b_j is the transport plan.
    """
    first = schedule[0]
    f = damping(first, reach) * softmin(cost, log_b, first)
    g = damping(first, reach) * softmin(cost.mT, log_a, first)
    for eps in schedule:
        f_new = damping(eps, reach) * softmin(cost, log_b + g / eps, eps)
        g_new = damping(eps, reach) * softmin(cost.mT, log_a + f / eps, eps)
        f, g = (f + f_new) / 2, (g + g_new) / 2
    return f, g


def softmin(cost: Tensor, h: Tensor, eps: float) -> Tensor:
    """-eps log sum_j exp(h_j - cost_ij / eps): (B, n, m), (B, m) -> (B, n)."""
    return -eps * (h[:, None, :] - cost / eps).logsumexp(-1)


def damping(eps: float, reach: float | None) -> float:
    """lambda, by which updates are multiplied: 1 / (1 + eps / rho), 1 for exact marginals."""
    return 1.0 if reach is None else 1 / (1 + eps / reach)


def annealing(diameter: float, eps: float) -> list[float]:
    """The authors' order: d, eps, d, d/2, d/4, ... down to the last value of at least eps."""
    halvings = math.floor(math.log2(diameter / eps))
    return [diameter, eps, *(diameter / 2**k for k in range(halvings + 1))]


def _projection(channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, WIDTH, 1)
