"""Attention some rows at a time: equal to the formula written out, in memory that grows with the number of tokens alone."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from attnbench import Attention, observe
from attnbench.method import attention
from attnbench.method.probe import Observations, listening
from attnbench.training.costs import LiveMemory
from attnbench_baselines.scft import SCFT
from attnbench_baselines.sga import SGA

NORMS = [{}, {"double_norm": True}, {"exact_norm": True}]
OPTIONS = [
    {**norm, "temperature": temperature, "stop_gradient": stop}
    for norm, temperature, stop in itertools.product(NORMS, [1.0, 0.1], [False, True])
]
SIZES = {"whole": (256, 256), "rows": (300, 270), "one row more": (257, 256), "few keys": (1000, 70)}


def written_out(query, key, *, temperature=1.0, double_norm=False, exact_norm=False, stop_gradient=False):
    """The map by its formula, (B, n, m)."""
    if stop_gradient:
        query, key = query.detach(), key.detach()
    logits = query @ key.mT / temperature
    if exact_norm:
        return logits.log_softmax(-1).softmax(-2)
    rows = logits.softmax(-1)
    return F.normalize(rows, p=1, dim=-2, eps=1e-12) if double_norm else rows


def tokens(n, m, c=8, d=5, batch=2, dtype=torch.float64, scale=1.0):
    """Query, key, value."""
    source = torch.Generator().manual_seed(n)
    shapes = ((batch, n, c), (batch, m, c), (batch, m, d))
    query, key, value = (torch.randn(shape, generator=source, dtype=dtype) for shape in shapes)
    return [x.requires_grad_() for x in (scale * query, scale * key, value)]


def value_and_gradients(product, inputs):
    result = product(*inputs)
    weight = torch.linspace(-1, 1, result.numel(), dtype=result.dtype).view_as(result)
    gradients = torch.autograd.grad((result * weight).sum(), inputs, allow_unused=True)
    return [result.detach(), *gradients]


def assert_close(got, expected, tolerance):
    """Each tensor's largest error, over its largest entry."""
    for a, b in zip(got, expected, strict=True):
        assert (a is None) == (b is None)
        if b is not None:
            assert float((a - b).abs().max()) <= tolerance * float(b.abs().max())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=str)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_product_and_its_gradients_are_those_of_the_formula(options, size, dtype, tolerance):
    inputs = tokens(*SIZES[size], dtype=dtype)
    got = value_and_gradients(lambda q, k, v: Attention(q, k, **options).apply(v), inputs)
    exact_inputs = [x.detach().double().requires_grad_() for x in inputs]
    expected = value_and_gradients(lambda q, k, v: written_out(q, k, **options) @ v, exact_inputs)
    assert all(x is None or x.dtype == dtype for x in got)
    assert_close(got, expected, tolerance)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_map_of_256_tokens_is_the_formula_to_the_last_bit(options):
    inputs = tokens(256, 256, dtype=torch.float32)
    got = value_and_gradients(lambda q, k, v: Attention(q, k, **options).apply(v), inputs)
    expected = value_and_gradients(lambda q, k, v: written_out(q, k, **options) @ v, inputs)
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("options", NORMS, ids=str)
def test_logits_in_the_hundreds_and_columns_without_mass_change_nothing(options):
    """Most columns receive less than 1e-12; those whose sum is lifted to one have gradients in which float64 loses digits."""
    inputs = tokens(300, 270, c=64, scale=4.0)
    logits = inputs[0] @ inputs[1].mT
    assert logits.max() > 400
    assert (logits.softmax(-1).sum(-2) < 1e-12).float().mean() > 0.05
    assert_close(
        value_and_gradients(lambda q, k, v: Attention(q, k, **options).apply(v), inputs),
        value_and_gradients(lambda q, k, v: written_out(q, k, **options) @ v, inputs),
        1e-9,
    )


@pytest.mark.parametrize("options", NORMS, ids=str)
def test_hopeless_float32_logits_give_a_finite_result_and_gradient(options):
    inputs = tokens(300, 270, scale=1e4, dtype=torch.float32)
    assert all(x.isfinite().all() for x in value_and_gradients(lambda q, k, v: Attention(q, k, **options).apply(v), inputs))


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_under_autocast_the_map_is_float32_and_the_product_half(options, half):
    """Also where the value is half a precision already, as a linear layer's is; backward runs outside of autocast."""

    def product(make):
        def multiply(query, key, value):
            with torch.autocast("cpu", half):
                map_ = make(query, key)
                results = [map_.apply(value), map_.apply(value.to(half))]
            assert all(result.dtype == half for result in results)
            return sum(results).float()

        return multiply

    def formula(query, key):
        with torch.autocast("cpu", enabled=False):
            return written_out(query, key, **options).to(half)

    class Formula:
        def __init__(self, query, key):
            self.map = formula(query, key)

        def apply(self, value):
            return self.map.to(value.dtype) @ value

    inputs = tokens(300, 270, dtype=torch.float32)
    got = value_and_gradients(product(lambda q, k: Attention(q, k, **options)), inputs)
    assert_close(got, value_and_gradients(product(Formula), inputs), 2e-2)


def peak(n, options, c=4):
    """Bytes at the most, forward and backward."""
    inputs = tokens(n, n, c, c, batch=1, dtype=torch.float32)
    with LiveMemory() as memory:
        Attention(*inputs[:2], **options).apply(inputs[2]).sum().backward()
    return memory.peak


@pytest.mark.parametrize("options", [{**norm, "stop_gradient": stop} for norm in NORMS for stop in (False, True)], ids=str)
def test_twice_the_tokens_take_twice_the_memory(options):
    small, large = peak(1024, options), peak(2048, options)
    assert large < 2.1 * small
    assert large < 8 * 256 * 2048 * 4, "more than eight blocks of rows at a time"


@pytest.mark.parametrize("module", [SGA, SCFT])
def test_the_memory_of_modules_is_linear_too(module):
    peaks = []
    for side in (32, 64):
        built = module(4)
        f_s, f_r = (torch.randn(1, 4, side, side // 2, requires_grad=True) for _ in range(2))
        with LiveMemory() as memory:
            built(f_s, f_r).sum().backward()
        peaks.append(memory.peak)
    assert peaks[1] < 4.2 * peaks[0]


def test_nothing_is_recorded_where_no_gradient_is_wanted():
    query, key, value = tokens(300, 270)
    with torch.no_grad():
        assert not Attention(query, key, double_norm=True).apply(value).requires_grad
    assert not Attention(query, key, stop_gradient=True).apply(value.detach()).requires_grad


@pytest.mark.parametrize("options", NORMS, ids=str)
def test_shapes_are_known_on_the_meta_device(options):
    query, key, value = (x.detach().to("meta").requires_grad_() for x in tokens(300, 270))
    product = Attention(query, key, **options).apply(value)
    assert product.shape == (2, 300, 5)
    product.sum().backward()
    assert query.grad.shape == query.shape


@pytest.mark.parametrize("options", [{"double_norm": True, "stop_gradient": True}, {"exact_norm": True}], ids=str)
def test_a_compiled_product_is_one_graph_and_equal(options, compiler):
    def product(query, key, value):
        return Attention(query, key, **options).apply(value)

    inputs = tokens(300, 270)
    compiled = torch.compile(product, backend="aot_eager", fullgraph=True)
    assert_close(value_and_gradients(compiled, inputs), value_and_gradients(product, inputs), 1e-12)


@pytest.mark.parametrize("size", [(12, 12), (300, 270)], ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_map_can_be_seen_whatever_its_size(options, size):
    query, key, _ = tokens(*size)
    with listening(seen := Observations()):
        observe("attention", Attention(query, key, **options).map)
    assert_close([seen.values["attention"][0]], [written_out(query, key, **options).detach()], 1e-12)


@pytest.mark.parametrize("module", [SGA, SCFT])
def test_a_large_map_is_made_whole_only_for_a_listener(module, monkeypatch):
    made = []
    whole = Attention._make_whole
    monkeypatch.setattr(attention, "SIDE", 4)
    monkeypatch.setattr(Attention, "_make_whole", lambda self: made.append(self) or whole(self))
    built = module(6)
    f_s, f_r = torch.randn(2, 1, 6, 3, 4)
    built(f_s, f_r)
    assert not made
    with listening(Observations()), listening(seen := Observations()):
        built(f_s, f_r)
    assert len(made) == len(seen.values["attention"])


def test_a_function_that_is_observed_is_called_once_for_all_listeners_and_never_for_none():
    calls = []

    def make():
        calls.append(1)
        return torch.eye(2)

    observe("attention", make)
    assert not calls
    with listening(first := Observations()), listening(second := Observations()):
        observe("attention", make)
    assert len(calls) == 1
    assert torch.equal(first.values["attention"][0], torch.eye(2))
    assert torch.equal(second.values["attention"][0], torch.eye(2))
