"""UNITE against a naive loop over the formulas of its transport, which it computes in a simplified form."""

import math

import pytest
import torch
import torch.nn.functional as F
from modules import (
    UNITE_OPTIONS,
    C,
    build,
    cases,
    maps,
    naive_conv,
    naive_modulation,
    naive_pono,
    naive_vectors,
    naive_warp,
    softmax,
    weight_like,
    with_variants,
)

from attnbench.method.probe import Observations, listening
from attnbench_baselines import unite
from attnbench_baselines.cocosnet import unit_vectors
from attnbench_baselines.unite import UNITE, sinkhorn

EPSILON = 0.025
SCHEDULE = [7, 0.025, 7, 3.5, 1.75, 0.875, 0.4375, 0.21875, 0.109375, 0.0546875, 0.02734375]


def naive_softmin(costs, h, eps):
    """-eps log sum_j exp(h_j - costs_j / eps)."""
    exponents = [h_j - cost / eps for h_j, cost in zip(h, costs, strict=True)]
    top = max(exponents)
    return -eps * (top + math.log(sum(math.exp(exponent - top) for exponent in exponents)))


def naive_update(costs, potential, log_mass, eps, reach):
    damping = 1 if reach is None else 1 / (1 + eps / reach)
    h = [m + p / eps for m, p in zip(log_mass, potential, strict=True)]
    return [damping * naive_softmin(row, h, eps) for row in costs]


def naive_iteration(cost, log_a, log_b, reach):
    """f and g of one sample after the schedule, both always updated from the old ones and averaged; cost: rows of numbers."""
    transposed = [list(column) for column in zip(*cost, strict=True)]
    f = naive_update(cost, [0] * len(log_b), log_b, SCHEDULE[0], reach)
    g = naive_update(transposed, [0] * len(log_a), log_a, SCHEDULE[0], reach)
    for eps in SCHEDULE:
        f_new = naive_update(cost, g, log_b, eps, reach)
        g_new = naive_update(transposed, f, log_a, eps, reach)
        f = [(old + new) / 2 for old, new in zip(f, f_new, strict=True)]
        g = [(old + new) / 2 for old, new in zip(g, g_new, strict=True)]
    return f, g


def naive_potentials(cost, log_a, log_b, reach):
    """f and g of one sample, after one more update that is not averaged."""
    transposed = [list(column) for column in zip(*cost, strict=True)]
    f, g = naive_iteration(cost, log_a, log_b, reach)
    return naive_update(cost, g, log_b, SCHEDULE[-1], reach), naive_update(transposed, f, log_a, SCHEDULE[-1], reach)


@torch.no_grad()
def naive_masses(module, sketch, reference):
    """log a and log b of one sample."""
    u = naive_vectors(naive_conv(sketch, module.theta_mass), 1)
    v = naive_vectors(naive_conv(reference, module.phi_mass), 1)
    a = softmax([float(one @ (sum(v) / len(v))) for one in u])
    b = softmax([float(one @ (sum(u) / len(u))) for one in v])
    return [math.log(mass) for mass in a], [math.log(mass) for mass in b]


def naive_plan(module, sketch, reference, *, cost="released", reach=None, stop_gradient=False):
    """The transport plan T (n, m) of one sample, before its rows are normalised; the released one has b along the rows."""
    queries = naive_vectors(naive_conv(sketch, module.theta), 3)
    keys = naive_vectors(naive_conv(reference, module.phi), 3)
    log_a, log_b = naive_masses(module, sketch, reference)
    plain = [[1 - float(query @ key) for key in keys] for query in queries]
    inside = [[math.sqrt(max(c, 1e-6)) for c in row] for row in plain] if cost == "released" else plain
    f, g = naive_potentials(inside, log_a, log_b, reach)
    mass = [[log_b[i % len(log_b)] if cost == "released" else b for b in log_b] for i in range(len(log_a))]
    logits = [[(f[i] + g[j] - c) / EPSILON + log_a[i] + mass[i][j] for j, c in enumerate(row)] for i, row in enumerate(plain)]
    return torch.tensor(logits, dtype=torch.float64).exp()


def naive_confidence(module, sketch, reference):
    queries = naive_vectors(naive_conv(sketch, module.theta_confidence), 1)
    keys = naive_vectors(naive_conv(reference, module.phi_confidence), 1)
    best = [max(float(query @ key) for key in keys) for query in queries]
    logits = [10 * (one - sum(best) / len(best)) for one in best]
    return torch.tensor([1 / (1 + math.exp(-logit)) for logit in logits], dtype=torch.float64).view(sketch.shape[1:])


@with_variants(UNITE)
@pytest.mark.parametrize("size", [(3, 4), (2, 5)], ids=["same size", "another size"])
@torch.no_grad()
def test_unite_equals_a_naive_loop_over_its_equations(module, options, size):
    """The module normalises rows in closed form; the loop computes the whole plan, in which f and a do not cancel yet."""
    module = build(module, options)
    f_s, _ = maps()
    _, f_r = maps(*size)
    with listening(seen := Observations()):
        got = module(f_s, f_r)
    (attention,), (confidence,) = seen.values["attention"], seen.values["confidence"]
    for b in range(len(f_s)):
        plan = naive_plan(module, f_s[b], f_r[b], **options)
        plan = plan / plan.sum(1, keepdim=True)
        assert torch.allclose(attention[b], plan, atol=1e-9)
        sure = naive_confidence(module, f_s[b], f_r[b])
        assert torch.allclose(confidence[b, 0], sure, atol=1e-9)
        own = naive_conv(f_s[b], module.hidden_sketch).clamp(min=0)
        other = naive_conv(naive_warp(plan, f_r[b], f_s.shape[2:]), module.hidden_warped).clamp(min=0)
        hidden = (1 - sure) * own + sure * other
        assert torch.allclose(got[b], naive_modulation(module.modulation, naive_pono(f_s[b]), hidden), atol=1e-9)


def test_the_annealing_takes_eleven_steps_and_ends_just_above_the_plans_epsilon():
    schedule = unite.annealing(unite.DIAMETER, unite.EPSILON)
    assert schedule == SCHEDULE
    assert len(schedule) == 11
    assert 0.025 <= schedule[-1] < 0.05


def problem(n=4, m=5, seed=0):
    """A cost (1, n, m) in [0, 1], log a (1, n), log b (1, m)."""
    source = torch.Generator().manual_seed(seed)
    draw = [torch.rand(1, *shape, generator=source, dtype=torch.float64) for shape in [(n, m), (n,), (m,)]]
    return draw[0], draw[1].log_softmax(-1), draw[2].log_softmax(-1)


def transport(cost, log_a, log_b, eps, reach):
    f, g = sinkhorn(cost, log_a, log_b, [eps] * 1000, reach)
    return ((f[:, :, None] + g[:, None, :] - cost) / eps + log_a[:, :, None] + log_b[:, None, :]).exp()


def test_a_long_balanced_iteration_gives_a_plan_with_the_masses_as_marginals():
    cost, log_a, log_b = problem()
    plan = transport(cost, log_a, log_b, 0.1, None)
    assert torch.allclose(plan.sum(2), log_a.exp(), atol=1e-9)
    assert torch.allclose(plan.sum(1), log_b.exp(), atol=1e-9)


def divergence(p, q):
    """KL of measures whose masses may differ."""
    return (p * (p / q).log() - p + q).sum()


def objective(plan, cost, log_a, log_b, eps, reach):
    """<C, T> + eps KL(T | a b^T) + rho KL(T 1 | a) + rho KL(T^T 1 | b)."""
    a, b = log_a.exp(), log_b.exp()
    entropy = eps * divergence(plan, a[:, :, None] * b[:, None, :])
    return (cost * plan).sum() + entropy + reach * (divergence(plan.sum(2), a) + divergence(plan.sum(1), b))


@pytest.mark.parametrize("reach", [0.05, 0.5, 5.0])
def test_a_long_relaxed_iteration_gives_the_minimiser_of_the_relaxed_objective(reach):
    """The objective is convex: where it is flat it has its minimum."""
    cost, log_a, log_b = problem()
    plan = transport(cost, log_a, log_b, 0.1, reach).requires_grad_()
    least = objective(plan, cost, log_a, log_b, 0.1, reach)
    (slope,) = torch.autograd.grad(least, plan)
    assert slope.abs().max() < 1e-9
    for seed in range(20):
        nudge = torch.randn(plan.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        assert objective(plan * (0.1 * nudge).exp(), cost, log_a, log_b, 0.1, reach) > least
    assert not torch.allclose(plan.sum(2), log_a.exp(), atol=1e-4)  # else it would be the balanced plan


@pytest.mark.parametrize(("cost", "keeps"), [("released", False), ("consistent", True)])
@torch.no_grad()
def test_the_plan_of_the_consistent_cost_has_its_marginals_and_that_of_the_released_one_has_not(cost, keeps):
    module = build(UNITE, {"cost": cost})
    f_s, f_r = (m[:1] + 1 for m in maps(4, 4))  # mostly positive, as features are
    query, key = unit_vectors(module.theta(f_s), 3), unit_vectors(module.phi(f_r), 3)
    log_a, log_b = unite.log_masses(unit_vectors(module.theta_mass(f_s)), unit_vectors(module.phi_mass(f_r)))
    plain = 1 - query @ key.mT
    inside = plain.sqrt() if cost == "released" else plain
    _, g = sinkhorn(inside, log_a, log_b, SCHEDULE)
    f = unite.softmin(inside, log_b + g / SCHEDULE[-1], SCHEDULE[-1])
    g = module.reference_potential(query, key, log_a, log_b)
    plan = ((f[:, :, None] + g[:, None, :] - plain) / EPSILON + log_a[:, :, None] + log_b[:, None, :]).exp()
    missed = (plan.sum(2) - log_a.exp()).abs().sum(), (plan.sum(1) - log_b.exp()).abs().sum()
    assert (max(missed) < 0.05) == keeps
    assert (abs(plan.sum() - 1) < 0.05) == keeps
    assert keeps or min(missed) > 0.3


def vectors(x, kernel):
    """`naive_vectors`, differentiable; (B, n, D)."""
    x = F.unfold(x, kernel, padding=kernel // 2).mT
    x = x - x.mean(-1, keepdim=True)
    return x / x.norm(dim=-1, keepdim=True)


def differentiable_plan(module, f_s, f_r, *, cost="released", reach=None, through_g=True):
    """T^ with the gradient that the released code has: g's last update is differentiable in the reference's vectors alone,
    all that comes before it is a constant. Without `through_g` the whole of g is."""
    query, key = vectors(module.theta(f_s), 3), vectors(module.phi(f_r), 3)
    u, v = vectors(module.theta_mass(f_s), 1), vectors(module.phi_mass(f_r), 1)
    log_b = torch.einsum("bjd,bd->bj", v, u.mean(1)).log_softmax(-1)
    plain = 1 - torch.einsum("bid,bjd->bij", query.detach(), key)
    inside = plain.sqrt() if cost == "released" else plain
    last = SCHEDULE[-1]
    g = []
    for b in range(len(f_s)):
        masses = naive_masses(module, f_s[b], f_r[b])
        f, _ = naive_iteration(inside[b].tolist(), *masses, reach)
        h = torch.tensor([m + p / last for m, p in zip(masses[0], f, strict=True)], dtype=torch.float64)
        g.append((1 if reach is None else 1 / (1 + last / reach)) * -last * (h[:, None] - inside[b] / last).logsumexp(0))
    g = torch.stack(g) if through_g else torch.stack(g).detach()
    logits = (torch.einsum("bid,bjd->bij", query, key) + g[:, None]) / EPSILON
    return (logits if cost == "released" else logits + log_b[:, None]).softmax(-1)


def gradients_of(module, plan, *inputs):
    """Gradients of a weighted sum of the plan at the module's projections and the inputs; None where there is none."""
    weights = {name: parameter for name, parameter in module.named_parameters() if name.endswith("weight")}
    loss = (plan * weight_like(plan)).sum()
    results = torch.autograd.grad(loss, [*weights.values(), *inputs], allow_unused=True)
    return dict(zip([*weights, "sketch", "reference"], results, strict=True))


@cases([(UNITE, options) for options in UNITE_OPTIONS if "stop_gradient" not in options])
def test_gradients_pass_through_the_last_update_of_g_alone_and_there_to_the_reference_alone(module, options):
    module = build(module, options)
    f_s, f_r = (m.requires_grad_() for m in maps())
    got = gradients_of(module, module.plan(f_s, f_r), f_s, f_r)
    expected = gradients_of(module, differentiable_plan(module, f_s, f_r, **options), f_s, f_r)
    constant = gradients_of(module, differentiable_plan(module, f_s, f_r, **options, through_g=False), f_s, f_r)
    masses = ["theta_mass.weight", "phi_mass.weight"] if options.get("cost") == "consistent" else []
    learned = {"theta.weight", "phi.weight", *masses, "sketch", "reference"}
    assert {name for name, gradient in got.items() if gradient is not None} == learned
    for name in learned:
        assert torch.allclose(got[name], expected[name], rtol=1e-6, atol=1e-9)
    for name in ("theta.weight", *masses, "sketch"):  # g has no part in theirs
        assert torch.allclose(got[name], constant[name], rtol=1e-6, atol=1e-9)
    for name in ("phi.weight", "reference"):
        assert not torch.allclose(got[name], constant[name], rtol=1e-2)


@pytest.mark.parametrize("cost", ["released", "consistent"])
def test_the_masses_change_the_plan_and_only_the_references_of_the_consistent_cost_have_a_gradient(cost, monkeypatch):
    module = build(UNITE, {"cost": cost})
    f_s, f_r = maps()
    log_a = torch.linspace(-1, 1, 24, dtype=torch.float64).view(2, 12).log_softmax(-1).requires_grad_()
    log_b = torch.linspace(1, -1, 24, dtype=torch.float64).view(2, 12).log_softmax(-1).requires_grad_()
    monkeypatch.setattr(unite, "log_masses", lambda u, v: (log_a, log_b))
    plan = module.plan(f_s, f_r)
    at_a, at_b = torch.autograd.grad((plan * weight_like(plan)).sum(), (log_a, log_b), allow_unused=True)
    assert at_a is None
    assert at_b is None if cost == "released" else at_b.abs().max() > 1e-3
    for masses in ((log_a.roll(1, -1), log_b), (log_a, log_b.roll(1, -1))):  # through g
        monkeypatch.setattr(unite, "log_masses", lambda u, v, masses=masses: masses)
        assert not torch.allclose(module.plan(f_s, f_r), plan)


@pytest.mark.parametrize("enabled", [True, False])
def test_the_autograd_mode_is_after_the_call_what_it_was_before(enabled):
    module = build(UNITE, {})
    with torch.set_grad_enabled(enabled):
        result = module(*maps())
        assert torch.is_grad_enabled() == enabled
        assert result.requires_grad == enabled


@torch.no_grad()
def test_rows_of_the_plan_sum_to_one_and_the_confidence_is_a_half_where_all_positions_match_alike():
    module = build(UNITE, {})
    f_s, f_r = maps()
    with listening(seen := Observations()):
        module(f_s[..., :1, :1].expand_as(f_s), f_r)
    assert torch.allclose(seen.values["attention"][0].sum(-1), torch.ones(2, 12, dtype=torch.float64))
    assert torch.allclose(seen.values["confidence"][0], torch.full((2, 1, 3, 4), 0.5, dtype=torch.float64))


@pytest.mark.parametrize(
    ("options", "expected"), [({"cost": "paper"}, "released or consistent"), ({"reach": 0.0}, "above 0, or null")]
)
def test_an_impossible_option_of_unite_names_what_is_possible(options, expected):
    with pytest.raises(ValueError, match=expected):
        UNITE(C, **options)
