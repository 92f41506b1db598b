"""SGA and SCFT against naive loops written from their formulas, and the properties that their papers claim."""

import math

import pytest
import torch
import torch.nn.functional as F

from attnbench.probe import BranchGradients, Observations, listening
from attnbench_baselines.scft import SCFT
from attnbench_baselines.sga import SGA

C = 6
SGA_OPTIONS = [
    {},
    {"stop_gradient": False},
    {"double_norm": False},
    {"self_attention": False},
    {"exact_norm": True},
]
SCFT_OPTIONS = [{}, {"projections": False}, {"stop_gradient": True}, {"stop_gradient": True, "projections": False}]
ALL = [(SGA, options) for options in SGA_OPTIONS] + [(SCFT, options) for options in SCFT_OPTIONS]


def maps(height=3, width=4, batch=2, dtype=torch.float64):
    source = torch.Generator().manual_seed(1)
    return [torch.randn(batch, C, height, width, generator=source, dtype=dtype) for _ in range(2)]


def build(module, options, dtype=torch.float64):
    torch.manual_seed(0)
    return module(C, **options).to(dtype)


def naive_attention(x, y, *, double_norm, exact_norm):
    """Equations 8-10 for one sample, entry by entry; x (n, C), y (m, C)."""
    n, m = len(x), len(y)
    rows = torch.zeros(n, m, dtype=x.dtype)
    for i in range(n):
        weights = [math.exp(float(x[i] @ y[j])) for j in range(m)]
        for j in range(m):
            rows[i, j] = weights[j] / sum(weights)
    if not double_norm:
        return rows
    result = torch.zeros_like(rows)
    for j in range(m):
        mass = sum(float(rows[i, j]) for i in range(n))
        for i in range(n):
            result[i, j] = rows[i, j] / (mass if exact_norm else max(mass, 1e-12))
    return result


@torch.no_grad()
def naive_block(block, source, message):
    """Equation 7 with batch norm and shortcut, from the formula; (B, n, C), (B, m, C)."""
    w_s, w_m = block.project_source, block.project_message
    batch, n, _ = source.shape
    z = torch.zeros_like(source)
    for b in range(batch):
        attention = naive_attention(source[b], message[b], double_norm=block.double_norm, exact_norm=block.exact_norm)
        for i in range(n):
            own = w_s.weight @ source[b, i] + w_s.bias
            z[b, i] = torch.where(own > 0, own, 0.2 * own)
            for j in range(message.shape[1]):
                value = w_m.weight @ message[b, j] + w_m.bias
                z[b, i] += attention[i, j] * torch.where(value > 0, value, 0.2 * value)
    mean, variance = z.mean((0, 1)), z.var((0, 1), correction=0)
    return (z - mean) / (variance + 1e-5).sqrt() * block.norm.weight + block.norm.bias + source


@pytest.mark.parametrize("options", SGA_OPTIONS)
@torch.no_grad()
def test_sga_equals_a_naive_loop_over_its_equations(options):
    module = build(SGA, options)
    f_s, f_r = maps()
    x, y = f_s.flatten(2).mT, f_r.flatten(2).mT
    expected = naive_block(module.cross_sga, x, y)
    if module.self_sga is not None:
        expected = naive_block(module.self_sga, expected, expected)
    assert torch.allclose(module(f_s, f_r), expected.mT.reshape(f_s.shape), atol=1e-9)


@pytest.mark.parametrize("options", SCFT_OPTIONS)
@torch.no_grad()
def test_scft_equals_a_naive_loop_over_its_equation(options):
    module = build(SCFT, options)
    f_s, f_r = maps()
    x, y = f_s.flatten(2).mT, f_r.flatten(2).mT
    expected = x.clone()
    for b in range(len(x)):
        query, key, value = module.query(x[b]), module.key(y[b]), module.value(y[b])
        for i in range(x.shape[1]):
            logits = [float(query[i] @ key[j]) / math.sqrt(C) for j in range(y.shape[1])]
            weights = [math.exp(logit) for logit in logits]
            for j, weight in enumerate(weights):
                expected[b, i] += weight / sum(weights) * value[j]
    assert torch.allclose(module(f_s, f_r), expected.mT.reshape(f_s.shape), atol=1e-9)


@pytest.mark.parametrize(
    ("module", "options", "parameters"),
    [
        (SGA, {}, 3_944_192),
        (SGA, {"self_attention": False}, 1_972_096),
        (SCFT, {}, 2_955_168),
        (SCFT, {"projections": False}, 985_056),
    ],
)
def test_parameter_counts_at_992_channels(module, options, parameters):
    with torch.device("meta"):
        assert sum(p.numel() for p in module(992, **options).parameters()) == parameters


@pytest.mark.parametrize(("module", "options"), ALL)
def test_moving_the_references_positions_around_changes_nothing(module, options):
    module = build(module, options)
    f_s, f_r = maps()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    shuffled = f_r.flatten(2)[..., order].reshape(f_r.shape)
    assert torch.allclose(module(f_s, f_r), module(f_s, shuffled), atol=1e-9)


@pytest.mark.parametrize(("module", "options"), ALL)
def test_in_eval_mode_a_samples_result_does_not_depend_on_its_batch(module, options):
    module = build(module, options).eval()
    f_s, f_r = maps(batch=3)
    together = module(f_s, f_r)
    for i in range(3):
        assert torch.allclose(module(f_s[i : i + 1], f_r[i : i + 1]), together[i : i + 1], atol=1e-9)


@pytest.mark.parametrize(("module", "options"), ALL)
def test_reference_and_sketch_may_differ_in_size(module, options):
    f_s, _ = maps()
    _, f_r = maps(height=2, width=5)
    assert build(module, options)(f_s, f_r).shape == f_s.shape


def test_sga_columns_sum_to_one_where_they_receive_mass():
    module = build(SGA, {"self_attention": False})
    f_s, f_r = maps()
    x, y = f_s.flatten(2).mT, f_r.flatten(2).mT
    mass = (x @ y.mT).softmax(-1).sum(-2)
    columns = module.cross_sga.attention(x, y).sum(-2)
    assert torch.allclose(columns[mass > 1e-12], torch.ones_like(columns[mass > 1e-12]))


def test_sga_leaves_hopeless_columns_near_zero_unless_the_norm_is_exact():
    x = torch.zeros(1, 4, C, dtype=torch.float64)
    x[..., 0] = 10.0
    y = torch.zeros(1, 2, C, dtype=torch.float64)
    y[0, 0, 0] = 10.0  # every logit is 100 for the first position and 0 for the second
    clamped = build(SGA, {}).cross_sga.attention(x, y)
    exact = build(SGA, {"exact_norm": True}).cross_sga.attention(x, y)
    assert clamped.sum(-2)[0, 1] < 1e-20
    assert torch.allclose(exact.sum(-2), torch.ones(1, 2, dtype=torch.float64))


def test_scale_of_the_features_changes_sgas_map():
    block = build(SGA, {}).cross_sga
    x, y = (m.flatten(2).mT for m in maps())
    assert not torch.allclose(block.attention(x, y), block.attention(2 * x, 2 * y))


def gradients(module, options, *, detach_matching):
    """Gradients at f_s and f_r, with the attention map recomputed under autograd or taken as a constant."""
    module = build(module, options)
    f_s, f_r = (m.requires_grad_() for m in maps())
    if detach_matching:
        blocks = [b for b in (getattr(module, "cross_sga", None), getattr(module, "self_sga", None)) if b] or [module]
        for block in blocks:
            attention = block.attention
            block.attention = lambda a, b, attention=attention: attention(a, b).detach()
    weight = torch.linspace(-1, 1, f_s.numel(), dtype=f_s.dtype).view(f_s.shape)
    (module(f_s, f_r) * weight).sum().backward()
    return f_s.grad, f_r.grad


@pytest.mark.parametrize(("module", "blocked"), [(SGA, {}), (SCFT, {"stop_gradient": True})])
def test_stop_gradient_is_the_gradient_with_a_constant_map(module, blocked):
    open_ = {"stop_gradient": False}
    for got, constant, through in zip(
        gradients(module, blocked, detach_matching=False),
        gradients(module, open_, detach_matching=True),
        gradients(module, open_, detach_matching=False),
        strict=True,
    ):
        assert torch.allclose(got, constant)
        assert not torch.allclose(got, through)


def test_stop_gradient_leaves_scfts_projections_without_gradient():
    module = build(SCFT, {"stop_gradient": True})
    module(*maps()).sum().backward()
    assert module.query.weight.grad is None
    assert module.key.bias.grad is None
    assert module.value.weight.grad is not None


@pytest.mark.parametrize(("module", "options"), ALL)
def test_gradients_of_the_branches_add_up_to_autograds(module, options):
    module = build(module, options)
    f_s, f_r = (m.requires_grad_() for m in maps())
    weight = torch.linspace(-1, 1, f_s.numel(), dtype=f_s.dtype).view(f_s.shape)
    with listening(probe := BranchGradients()):
        (module(f_s, f_r) * weight).sum().backward()
    for split in probe.splits:
        total = split.pop("total")
        assert torch.allclose(sum(split.values()), total)
    sketch, reference = probe.splits[:2]
    assert torch.allclose(sum(sketch.values()), f_s.grad.flatten(2).mT)
    assert torch.allclose(sum(reference.values()), f_r.grad.flatten(2).mT)


@pytest.mark.parametrize(("module", "blocked"), [(SGA, {}), (SCFT, {"stop_gradient": True})])
def test_under_stop_gradient_nothing_flows_through_query_and_key(module, blocked):
    module = build(module, blocked)
    f_s, f_r = (m.requires_grad_() for m in maps())
    with listening(probe := BranchGradients()):
        module(f_s, f_r).square().sum().backward()
    assert all("query" not in split and "key" not in split for split in probe.splits)


def test_attention_can_be_observed():
    with listening(seen := Observations()):
        build(SGA, {})(*maps())
    assert [tuple(a.shape) for a in seen.values["attention"]] == [(2, 12, 12)] * 2


@pytest.mark.parametrize(("module", "options"), ALL)
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_the_map_stays_float32_under_autocast(module, options, half):
    module = build(module, options, torch.float32)
    f_s, f_r = maps(dtype=torch.float32)
    with torch.autocast("cpu", half), listening(seen := Observations()):
        result = module(100 * f_s, 100 * f_r)
    assert all(a.dtype == torch.float32 and a.isfinite().all() for a in seen.values["attention"])
    assert result.isfinite().all()


def test_exact_norm_without_double_norm_is_refused():
    with pytest.raises(ValueError, match="needs double_norm"):
        SGA(C, double_norm=False, exact_norm=True)


def test_nobody_listening_means_no_copies():
    from attnbench import branch, observe

    x = torch.randn(2, 3)
    assert all(copy is x for copy in branch(x, "skip", "query"))
    assert observe("attention", x) is x


def test_normalisation_is_torchs():
    """The clamp of the column norm is `F.normalize`'s: it divides by max(sum, eps)."""
    rows = torch.tensor([[[1e-13, 0.5]]])
    assert F.normalize(rows, p=1, dim=-2, eps=1e-12)[0, 0, 0] == pytest.approx(0.1)
