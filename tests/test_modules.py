"""What holds for every module and its variants, and SGA and SCFT against naive loops written from their formulas.

The others have oracles in files of their own.
"""

import json
import math
import os
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from modules import (
    SCFT_OPTIONS,
    SGA_OPTIONS,
    VARIANTS,
    C,
    build,
    cases,
    fill,
    maps,
    name_of,
    pattern,
    run,
    weight_like,
    with_variants,
)
from torch import nn

from attnbench.method.probe import BranchGradients, Observations, listening
from attnbench_baselines.adain import AdaIN
from attnbench_baselines.cmft import CMFT
from attnbench_baselines.cocosnet import CoCosNet
from attnbench_baselines.linear import LinearAttention
from attnbench_baselines.mha import MHA
from attnbench_baselines.none import NoReference
from attnbench_baselines.oracle import Oracle
from attnbench_baselines.scft import SCFT
from attnbench_baselines.sga import SGA
from attnbench_baselines.spade import SPADE
from attnbench_baselines.unite import UNITE

GOLDEN = Path(__file__).parent / "golden" / "modules.json"


def naive_map(x, y, *, double_norm, exact_norm):
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
        attention = naive_map(source[b], message[b], double_norm=block.double_norm, exact_norm=block.exact_norm)
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
        (SPADE, {}, 3_430_464),
        (CoCosNet, {}, 3_938_880),
        (CoCosNet, {"inject": "residual"}, 2 * 254_208),
        (UNITE, {}, 6_098_624),
        (CMFT, {}, 0),
        (CMFT, {"fuse": "concat1x1"}, 1_969_120),
        (NoReference, {}, 0),
        (AdaIN, {}, 0),
        (Oracle, {}, 0),
        (LinearAttention, {}, 2_955_168),
        (MHA, {}, 2 * (4 * 985_056 + 2 * 124 + 3 * 1_984 + 2 * 4 * 992**2 + 5 * 992)),
        (MHA, {"qk_norm": False, "ffn": 0}, 2 * (4 * 985_056 + 2 * 1_984)),
        (MHA, {"heads": 12, "qk_norm": False, "ffn": 0}, 2 * (3 * 996 * 993 + 992 * 997 + 2 * 1_984)),  # twelve of 83
    ],
)
def test_parameter_counts_at_992_channels(module, options, parameters):
    with torch.device("meta"):
        assert sum(p.numel() for p in module(992, **options).parameters()) == parameters


# Where single positions are compared. UNITE, and CoCosNet with 3x3 neighbourhoods or blocks before matching, compare
# neighbourhoods, which a permutation tears apart; SPADE does not match at all.
@cases(
    [
        *((module, options) for module, options in VARIANTS if module in (SGA, SCFT, CMFT, AdaIN, LinearAttention, MHA)),
        *((module, options) for module, options in VARIANTS if module is CoCosNet and options.get("match_kernel") == 1),
    ]
)
def test_moving_the_references_positions_around_changes_nothing(module, options):
    module = build(module, options)
    f_s, f_r = maps()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    shuffled = f_r.flatten(2)[..., order].reshape(f_r.shape)
    assert torch.allclose(run(module, f_s, f_r), run(module, f_s, shuffled), atol=1e-9)


@with_variants()
def test_in_eval_mode_a_samples_result_does_not_depend_on_its_batch(module, options):
    module = build(module, options).eval()
    f_s, f_r = maps(batch=3)
    together = run(module, f_s, f_r)
    for i in range(3):
        assert torch.allclose(run(module, f_s[i : i + 1], f_r[i : i + 1]), together[i : i + 1], atol=1e-9)


@with_variants()
def test_reference_and_sketch_may_differ_in_size(module, options):
    f_s, _ = maps()
    _, f_r = maps(height=2, width=5)
    assert run(build(module, options), f_s, f_r).shape == f_s.shape


def test_sga_columns_sum_to_one_where_they_receive_mass():
    module = build(SGA, {"self_attention": False})
    f_s, f_r = maps()
    x, y = f_s.flatten(2).mT, f_r.flatten(2).mT
    mass = (x @ y.mT).softmax(-1).sum(-2)
    columns = module.cross_sga.attention(x, y).map().sum(-2)
    assert torch.allclose(columns[mass > 1e-12], torch.ones_like(columns[mass > 1e-12]))


def test_sga_leaves_hopeless_columns_near_zero_unless_the_norm_is_exact():
    x = torch.zeros(1, 4, C, dtype=torch.float64)
    x[..., 0] = 10.0
    y = torch.zeros(1, 2, C, dtype=torch.float64)
    y[0, 0, 0] = 10.0  # every logit is 100 for the first position and 0 for the second
    clamped = build(SGA, {}).cross_sga.attention(x, y).map()
    exact = build(SGA, {"exact_norm": True}).cross_sga.attention(x, y).map()
    assert clamped.sum(-2)[0, 1] < 1e-20
    assert torch.allclose(exact.sum(-2), torch.ones(1, 2, dtype=torch.float64))


def test_scale_of_the_features_changes_sgas_map():
    block = build(SGA, {}).cross_sga
    x, y = (m.flatten(2).mT for m in maps())
    assert not torch.allclose(block.attention(x, y).map(), block.attention(2 * x, 2 * y).map())


def gradients(module, options):
    """Gradients at f_s and f_r."""
    f_s, f_r = (m.requires_grad_() for m in maps())
    (build(module, options)(f_s, f_r) * weight_like(f_s)).sum().backward()
    return f_s.grad, f_r.grad


STOPPED = [
    (SGA, {"stop_gradient": True}),
    (SCFT, {"stop_gradient": True}),
    (CMFT, {"stop_gradient": True}),
    (CMFT, {"stop_gradient": True, "normalize": "center_l2"}),
    (CoCosNet, {"stop_gradient": True}),
    (CoCosNet, {"stop_gradient": True, "inject": "residual"}),
    (UNITE, {"stop_gradient": True}),
    (UNITE, {"stop_gradient": True, "cost": "consistent"}),
    (LinearAttention, {"stop_gradient": True}),
    (MHA, {"stop_gradient": True}),
    (MHA, {"stop_gradient": True, "heads": 2, "layers": 2}),
]


@cases(STOPPED)
def test_stop_gradient_is_the_gradient_with_a_constant_map(module, options, monkeypatch):
    """The map is constant where what plays query and key has no gradient."""
    open_ = {**options, "stop_gradient": False}
    stopped, through = gradients(module, options), gradients(module, open_)
    matching = ("query", "key")
    home = sys.modules[module.__module__]
    monkeypatch.setattr(home, "branch", lambda x, *roles: tuple(x.detach() if role in matching else x for role in roles))
    for got, constant, open_gradient in zip(stopped, gradients(module, open_), through, strict=True):
        assert torch.allclose(got, constant)
        assert not torch.allclose(got, open_gradient)


LEARNS_NOTHING = {  # under stop-gradient: the parameters, by what their names contain, of whatever only the map reads
    SGA: [],
    SCFT: ["query", "key"],
    CMFT: [],
    CoCosNet: ["theta", "phi"],
    UNITE: ["theta", "phi"],
    LinearAttention: ["query", "key"],
    MHA: ["query", "key", ".norm."],
}


@cases(STOPPED)
def test_under_stop_gradient_exactly_what_the_map_alone_reads_learns_nothing(module, options):
    built = build(module, options)
    hear_branches(built, *(m.requires_grad_() for m in maps()))
    still = {name for name, p in built.named_parameters() if p.grad is None}
    assert still == {name for name, _ in built.named_parameters() if any(part in name for part in LEARNS_NOTHING[module])}


def hear_branches(module, f_s, f_r):
    """A backward pass of a weighted sum; every split's gradients, role by role."""
    with listening(probe := BranchGradients()):
        result = run(module, f_s, f_r)
        (result * weight_like(result)).sum().backward()
    return probe.splits


def as_split(gradient, split):
    """A map's gradient, (B, C, h, w), in the shape that the module has split: maps, or tokens (B, n, C)."""
    return gradient if next(iter(split.values())).dim() == 4 else gradient.flatten(2).mT


def of_inputs(splits, options):
    """The splits of f_s and of f_r: the first and the second; later layers of cross attention split f_r again."""
    found = [splits[:1], splits[1 :: 4 if "layers" in options else len(splits)]]
    return [mine for mine in found if mine]


def heard_inputs(module, f_s, f_r):
    """Those that the module looks at."""
    return [f_s] if "reference" in getattr(module, "no_gradient", ()) else [f_s, f_r]


@with_variants()
def test_gradients_of_the_branches_add_up_to_autograds(module, options):
    f_s, f_r = (m.requires_grad_() for m in maps())
    splits = hear_branches(build(module, options), f_s, f_r)
    for split in splits:
        total = split.pop("total")
        assert torch.allclose(sum(split.values()), total)
    for mine, whole in zip(of_inputs(splits, options), heard_inputs(module, f_s, f_r), strict=True):
        assert torch.allclose(sum(sum(split.values()) for split in mine), as_split(whole.grad, mine[0]))


@with_variants()
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_under_autocast_gradients_of_the_branches_add_up_just_the_same(module, options, half):
    f_s, f_r = (m.requires_grad_() for m in maps(dtype=torch.float32))
    with torch.autocast("cpu", half):
        splits = hear_branches(build(module, options, torch.float32), f_s, f_r)
    for split in splits:
        total = split.pop("total")
        assert torch.allclose(sum(split.values()).float(), total.float(), rtol=0, atol=float(total.abs().max()) * 1e-2)
    for mine, whole in zip(of_inputs(splits, options), heard_inputs(module, f_s, f_r), strict=True):
        assert all(gradient.dtype == torch.float32 for split in mine for gradient in split.values())
        got = sum(sum(split.values()) for split in mine)
        assert torch.allclose(got, as_split(whole.grad, mine[0]), rtol=1e-4, atol=1e-6)


ROLES = {  # of the sketch, then of the reference: content first, then what is matched
    SGA: [["content", "query"], ["value", "key"]],
    SCFT: [["skip", "query"], ["value", "key"]],
    SPADE: [["content"], ["content"]],
    CoCosNet: [["content", "query"], ["value", "key"]],
    UNITE: [["content", "query"], ["value", "key"]],
    CMFT: [["skip", "query"], ["value", "key"]],
    NoReference: [["skip"]],
    AdaIN: [["content"], ["style"]],
    LinearAttention: [["skip", "query"], ["value", "key"]],
    MHA: [["skip", "query"], ["value", "key"]],
    Oracle: [["skip"], ["value"]],
}


class Roles:
    """A listener that notes which roles each split has."""

    def __init__(self):
        self.splits = []

    def branched(self, total, branches):
        self.splits.append(list(branches))

    def observed(self, name, value):
        pass


@with_variants()
def test_each_input_plays_the_roles_that_the_paper_gives_it(module, options):
    with listening(heard := Roles()):
        run(build(module, options), *maps())
    expected = ROLES[module]
    if options.get("key_source") == "reference_sketch":  # line art is the key
        expected = [expected[0], ["value"], ["key"]]
    if module is MHA or (module is SGA and options.get("self_attention", True)):
        expected = expected * 2 * options.get("layers", 1)
    for _ in range(1, options.get("levels", 1)):
        expected = [*expected, ["query"], *expected[1:]]
    assert heard.splits == expected


@pytest.mark.parametrize("module", ROLES)
def test_a_compiled_module_is_heard_by_whoever_listens_at_the_time(module, compiler):
    module = build(module, {}, torch.float32)
    compiled = torch.compile(module, backend="aot_eager")
    f_s, f_r = (m.requires_grad_() for m in maps(dtype=torch.float32))
    compiled(f_s, f_r).sum().backward()  # compiled while nobody listens
    expected = hear_branches(module, f_s, f_r)
    for _ in range(2):
        f_s.grad = f_r.grad = None
        splits = hear_branches(compiled, f_s, f_r)
        assert [set(split) for split in splits] == [set(split) for split in expected]
        for split, eager in zip(splits, expected, strict=True):
            assert all(torch.allclose(split[role], eager[role], atol=1e-5) for role in eager)
            total = split.pop("total")
            assert torch.allclose(sum(split.values()), total, atol=1e-5)
        for split, whole in zip(splits, (f_s, f_r), strict=False):  # the first two are the inputs'
            assert torch.allclose(sum(split.values()), as_split(whole.grad, split), atol=1e-5)
    heard = [dict(split) for split in splits]
    compiled(f_s, f_r).sum().backward()  # who has stopped listening hears no more
    assert all(split[role] is before[role] for split, before in zip(splits, heard, strict=True) for role in before)
    with listening(seen := Observations()):
        compiled(f_s, f_r)
    with listening(eagerly := Observations()):
        module(f_s, f_r)
    assert [(name, len(values)) for name, values in seen.values.items()] == [
        (name, len(values)) for name, values in eagerly.values.items()
    ]


def nodes(result):
    """How many nodes of each kind the autograd graph of `result` has."""
    seen, ahead = set(), [result.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is not None and node not in seen:
            seen.add(node)
            ahead += [following for following, _ in node.next_functions]
    return Counter(node.name() for node in seen)


@with_variants()
def test_nobody_listening_means_no_node_more_in_the_graph(module, options, monkeypatch):
    built = build(module, options)
    inputs = [m.requires_grad_() for m in maps()]
    unheard = nodes(run(built, *inputs))
    with listening(BranchGradients()):
        heard = nodes(run(built, *inputs))
    home = sys.modules[module.__module__]
    monkeypatch.setattr(home, "branch", lambda x, *roles: (x,) * len(roles))
    monkeypatch.setattr(home, "observe", lambda name, value: value, raising=False)
    assert unheard == nodes(run(built, *inputs))
    assert heard.total() > unheard.total()


@cases([*STOPPED, (CMFT, {"stop_gradient": True, "levels": 2})])
def test_under_stop_gradient_nothing_flows_through_query_and_key(module, options):
    splits = hear_branches(build(module, options), *(m.requires_grad_() for m in maps()))
    assert len(splits) > 1
    assert all("query" not in split and "key" not in split for split in splits)


@cases(STOPPED)
def test_the_stop_changes_no_result(module, options):
    with_it, without = (build(module, {**options, "stop_gradient": stop})(*maps()) for stop in (True, False))
    assert torch.equal(with_it, without)


@with_variants(SGA, SCFT, CoCosNet, UNITE, CMFT, LinearAttention, MHA, Oracle)
def test_attention_can_be_observed(module, options):
    with listening(seen := Observations()):
        run(build(module, options), *maps())
    shapes = [tuple(a.shape) for a in seen.values["attention"]]
    if module is MHA or (module is SGA and options.get("self_attention", True)):
        assert shapes == [(2, 12, 12)] * 2 * options.get("layers", 1)
    elif options.get("levels") == 2:
        assert shapes == [(2, 12, 12), (2, 48, 48)]
    else:
        assert shapes == [(2, 12, 12)]


@with_variants(SGA, SCFT, CoCosNet, UNITE, CMFT, LinearAttention, MHA, Oracle)
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_the_map_stays_float32_under_autocast(module, options, half):
    module = build(module, options, torch.float32)
    f_s, f_r = maps(dtype=torch.float32)
    with torch.autocast("cpu", half), listening(seen := Observations()):
        result = run(module, 100 * f_s, 100 * f_r)
    assert all(a.dtype == torch.float32 and a.isfinite().all() for a in seen.values["attention"])
    assert result.isfinite().all()


def one_position_is_enough(module, options):
    """Statistics of a channel in one sample, and reflection, need more."""
    return options.get("norm") != "instance" and not options.get("pre_blocks")


def hard_inputs(several_positions):
    """Pairs of maps that normalisation, cosines or softmax may trip over."""
    shape = (2, C, 3, 4) if several_positions else (2, C, 1, 1)
    sketch, reference = pattern(shape, 1, torch.float32), pattern(shape, 2, torch.float32)
    zeros, ones = torch.zeros(shape), torch.ones(shape)
    yield from [(zeros, zeros), (ones, ones), (-3 * ones, 7 * ones), (zeros, reference), (sketch, zeros), (sketch, sketch)]
    yield from [(1e4 * sketch, 1e4 * reference), (1e-8 * sketch, 1e-8 * reference)]
    if several_positions:  # else batch norm multiplies the rounding errors of a variance of zero, too far for float16
        yield 1e4 * ones, -1e4 * ones


@with_variants()
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_results_are_finite_whatever_the_features(module, options, precision):
    built = build(module, options, torch.float32)
    for layer in built.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.momentum = 1  # evaluation is with the statistics of the features at hand
    for several_positions in (True, False) if one_position_is_enough(module, options) else (True,):
        for f_s, f_r in hard_inputs(several_positions):
            f_s, f_r = f_s.clone().requires_grad_(), f_r.clone().requires_grad_()
            with torch.autocast("cpu", precision, enabled=precision != torch.float32):
                result = run(built.train(), f_s, f_r)
                assert run(built.eval(), f_s, f_r).isfinite().all()
            assert result.isfinite().all()
            if precision == torch.float32:
                result.sum().backward()
                assert all(x.grad is None or x.grad.isfinite().all() for x in (f_s, f_r, *built.parameters()))


@pytest.mark.parametrize(("module", "options"), [(SPADE, {"norm": "instance"}), (CoCosNet, {"pre_blocks": 1})])
def test_one_position_is_refused_where_its_statistics_would_be_none(module, options):
    with pytest.raises((ValueError, RuntimeError), match="more than 1 spatial element|Padding size"):
        run(build(module, options), *maps(1, 1))


def golden(module, options):
    """Entries and sums of results for parameters and inputs by formula: in train mode, with gradients, then in eval mode."""
    built = fill(build(module, options))
    f_s, f_r = ((2 * pattern((2, C, 3, 4), phase)).requires_grad_() for phase in (50, 60))
    train = run(built, f_s, f_r)
    (train * weight_like(train)).sum().backward()
    tensors = {"train": train, "eval": run(built.eval(), f_s, f_r), "at sketch": f_s.grad, "at reference": f_r.grad}
    if f_r.grad is None:  # where the module does not look at it
        del tensors["at reference"]
    return {name: [*x.flatten()[::29].tolist(), float(x.detach().sum())] for name, x in tensors.items()}


@with_variants()
def test_results_are_what_they_were(module, options):
    """Against tests/golden/modules.json. To write it anew after an intended change: WRITE_GOLDEN=1 pytest -k what_they_were"""
    recorded = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    name, got = name_of(module, options), golden(module, options)
    if os.environ.get("WRITE_GOLDEN"):
        GOLDEN.parent.mkdir(exist_ok=True)
        kept = {name_of(*one): recorded[name_of(*one)] for one in VARIANTS if name_of(*one) in recorded}
        lines = [f"{json.dumps(key)}: {json.dumps(values)}" for key, values in sorted({**kept, name: got}.items())]
        GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
        pytest.skip("written")
    assert got == {key: pytest.approx(values, rel=1e-9, abs=1e-9) for key, values in recorded[name].items()}


def test_exact_norm_without_double_norm_is_refused():
    with pytest.raises(ValueError, match="needs double_norm"):
        SGA(C, double_norm=False, exact_norm=True)


def test_nobody_listening_means_no_copies():
    from attnbench import branch, observe

    x = torch.randn(2, 3)
    assert all(copy is x for copy in branch(x, "skip", "query"))
    assert observe("attention", x) is x


def test_unheard_calls_take_no_share_of_a_step_that_could_be_measured(seconds):
    """Six calls, as many as the module makes, against its forward and backward at the demo's size: 0.6 % was measured."""
    from attnbench import branch, observe

    module = SGA(240)
    f_s, f_r = (torch.randn(8, 240, 8, 8, requires_grad=True) for _ in range(2))

    def calls():
        for _ in range(4):
            branch(f_s, "content", "query")
        for _ in range(2):
            observe("attention", f_s)

    step = seconds(lambda: module(f_s, f_r).sum().backward(), rounds=5)
    unheard = seconds(lambda: [calls() for _ in range(100)], rounds=5) / 100
    assert unheard < step / 50, f"{1e6 * unheard:.2f} us of {1e6 * step:.0f} us"
