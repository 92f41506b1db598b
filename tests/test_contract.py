"""The contract: every registered module keeps it, and for each promise a module that breaks it gets a clear message."""

from __future__ import annotations

import io
import os
import random
import sys
import textwrap
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from modules import VARIANTS
from runs import attnbench
from torch import nn

from attnbench import branch, check, observe, plugins
from attnbench.contract.checking import examine
from attnbench.contract.cost_table import compare_costs
from attnbench.contract.promises import CHECKS
from attnbench.contract.subject import find_subject
from attnbench.errors import UserError
from attnbench.method.backbone import feature_channels
from attnbench.training.costs import LiveMemory

C = feature_channels(2, 4)
COMPILERS = ("compile", "export")  # slow
REGISTERED = sorted({plugin.name for plugin in plugins.installed(plugins.MODULES)})


def finding(name, module, channels=6, size=4, **options):
    return examine(name, find_subject(module, channels, size=size, device="cpu", options=options))


def broken(module, **options):
    """The names of the checks that fail, without those of compilers, which never fail."""
    return {name for name in CHECKS if name not in COMPILERS and finding(name, module, **options).status == "failed"}


@pytest.mark.parametrize("name", REGISTERED)
def test_every_registered_module_keeps_the_contract(name):
    subject = find_subject(name, C, size=4, device="cpu")
    findings = [examine(check, subject) for check in CHECKS if check not in COMPILERS]
    assert [(f.name, f.detail) for f in findings if f.status == "failed"] == []


@pytest.mark.parametrize("check", COMPILERS)
@pytest.mark.parametrize("name", REGISTERED)
def test_every_registered_module_compiles_as_one_graph_and_exports(name, check, compiler):
    found = finding(check, name, C)
    assert found.status == "passed", found.detail


@pytest.mark.parametrize(("module", "options"), VARIANTS, ids=str)
def test_every_variant_keeps_the_contract(module, options):
    subject = find_subject(module, C, size=4, device="cpu", options=options)
    findings = [examine(check, subject) for check in CHECKS if check not in (*COMPILERS, "float32", "bfloat16", "float16")]
    assert [(f.name, f.detail) for f in findings if f.status == "failed"] == []


@pytest.mark.parametrize("channels", [1, 2, 5, 62])
def test_a_module_with_a_context_is_given_one_whatever_its_channels(channels):
    assert finding("gradients", "cmft", channels).status == "passed"


def test_what_a_context_takes_is_not_counted_as_the_modules():
    cost = compare_costs(find_subject("cmft", C, size=8, device="cpu"))[0]
    attention, maps = 4 * 2 * 64 * 64, 4 * 2 * C * 64  # bytes of each tensor of one batch
    assert attention < 1e6 * cost.peak_mb < 4 * attention + 12 * maps


def test_a_module_that_needs_more_than_one_position_gets_a_note():
    found = finding("sizes", "spade:norm=instance", C)
    assert found.status == "note"
    assert found.detail.startswith("needs maps of 2 x 2 or more: at 1 x 1")


class Mix(nn.Module):
    """Channel mixing with dropout, batch norm and a shortcut.

    Args:
        rate: of the dropout.
    """

    def __init__(self, channels, *, rate=0.1):
        super().__init__()
        self.mix = nn.Conv2d(2 * channels, channels, 1)
        self.norm = nn.BatchNorm2d(channels)
        self.dropout = nn.Dropout(rate)

    def forward(self, sketch, reference):
        return self.dropout(self.norm(self.mix(torch.cat([sketch, reference], 1)))) + sketch


class Good(Mix):
    """Mix, visible from outside."""

    def forward(self, sketch, reference):
        skip, content = branch(sketch, "skip", "content")
        mixed = self.mix(torch.cat([content, *branch(reference, "content")], 1))
        return self.dropout(self.norm(observe("mixed", mixed))) + skip


def test_a_good_module_passes_every_check(compiler):
    report = check(Good, 6, size=4, device="cpu", costs=False)
    assert [f.name for f in report.findings if f.status == "passed"] == list(CHECKS)
    assert report.passed
    assert report.summary == f"Good keeps the contract: {len(CHECKS)} passed, 0 failed"
    report.raise_if_failed()


# Modules that break one promise


class NoDefault(Mix):
    """Needs `rate`."""

    def __init__(self, channels, *, rate):
        super().__init__(channels, rate=rate)


class OptionsFirst(Mix):
    """`rate` comes first."""

    def __init__(self, rate=0.1, channels=6):
        super().__init__(6, rate=0.1)


class Undocumented(Mix):
    """An option more."""

    def __init__(self, channels, *, heads=8):
        super().__init__(channels)


def no_docstring(channels):
    return Mix(channels)


class Tokens(Mix):
    """Forgets to put the tokens back into a map."""

    def forward(self, sketch, reference):
        return super().forward(sketch, reference).flatten(2).mT


class Widens(Mix):
    """Gives float64 for float32."""

    def forward(self, sketch, reference):
        return super().forward(sketch, reference).double()


class EvenOnly(Mix):
    """Halves and doubles the map."""

    def forward(self, sketch, reference):
        mixed = super().forward(sketch, reference)
        return F.interpolate(F.avg_pool2d(mixed, 2), scale_factor=2.0)


class WritesIntoReference(Mix):
    """Normalises in place."""

    def forward(self, sketch, reference):
        return super().forward(sketch, reference.mul_(0.5))


class Detaches(Mix):
    """Takes the reference without its gradient."""

    def forward(self, sketch, reference):
        return super().forward(sketch, reference.detach())


class DetachesAndDeclares(Detaches):
    """Takes the reference without its gradient."""

    no_gradient = ("reference",)


class DeclaresWrongly(Mix):
    """Declares a stop-gradient that it does not have."""

    no_gradient = ("reference",)


class Misspells(Mix):
    """Declares an input that does not exist."""

    no_gradient = ("refrence",)


class CentresByTheBatch(Mix):
    """Centres by the batch, always."""

    def forward(self, sketch, reference):
        return super().forward(sketch - sketch.mean((0, 2, 3), keepdim=True), reference)


class DividesByNorm(Mix):
    """Divides by a norm that may be 0."""

    def forward(self, sketch, reference):
        return super().forward(sketch, reference) + reference / reference.norm(dim=1, keepdim=True)


class OverflowsInHalf(Mix):
    """Similarities in the input's dtype: 1e8 overflows float16."""

    def forward(self, sketch, reference):
        return super().forward(sketch, reference) + (sketch * reference).softmax(1)


class HiddenFloat32(Mix):
    """Calculates in float32 in any case."""

    def forward(self, sketch, reference):
        return super().forward(sketch, reference).float()


class OtherRandomness(Mix):
    """Draws its dropout from numpy's random numbers."""

    def forward(self, sketch, reference):
        noise = np.random.rand() if self.training else 1.0
        return noise * super().forward(sketch, reference)


class OtherInitialWeights(Mix):
    """Initialises from Python's random numbers."""

    def __init__(self, channels):
        super().__init__(channels)
        nn.init.constant_(self.mix.bias, random.random())


class UnsavedState(Mix):
    """Depends on a random vector that is not in checkpoints."""

    def __init__(self, channels):
        super().__init__(channels)
        self.register_buffer("scale", torch.rand(1, channels, 1, 1), persistent=False)

    def forward(self, sketch, reference):
        return self.scale * super().forward(sketch, reference)


class Pickles(Mix):
    """Has an object in its checkpoint."""

    def get_extra_state(self):
        return Mix

    def set_extra_state(self, state):
        pass


class StaysBehind(Mix):
    """Keeps a table where no `.to` reaches it."""

    def __init__(self, channels):
        super().__init__(channels)
        self.table = torch.linspace(0, 1, channels, dtype=torch.float32).view(1, -1, 1, 1)

    def forward(self, sketch, reference):
        return super().forward(sketch, reference) + self.table.to(sketch.dtype)


class PastTheBranch(Good):
    """Uses the sketch once more, past its branches."""

    def forward(self, sketch, reference):
        return super().forward(sketch, reference) + sketch


BROKEN = [
    (NoDefault, {"rate": 0.1}, {"constructor"}, "no default for `rate`"),
    (OptionsFirst, {}, {"constructor"}, "the first parameter is `rate`; it must be `channels`"),
    (Undocumented, {}, {"constructor"}, "the docstring says nothing about `heads`"),
    (no_docstring, {}, {"constructor"}, "there is no docstring"),
    (Tokens, {}, {"shapes", "sizes"}, "(2, 6, 4, 4) becomes (2, 16, 6)"),
    (Widens, {}, {"shapes"}, "float32 becomes float64"),
    (EvenOnly, {}, {"sizes"}, "at 3 x 3, batch of 2, train mode: (2, 6, 3, 3) becomes (2, 6, 2, 2)"),
    (WritesIntoReference, {}, {"inputs"}, "writes into `reference`"),
    (Detaches, {}, {"gradients"}, 'no_gradient = ("reference",)'),
    (DeclaresWrongly, {}, {"gradients"}, "a gradient reaches it"),
    (Misspells, {}, {"gradients"}, "`no_gradient` names `refrence`"),
    (CentresByTheBatch, {}, {"samples"}, "the results of sample 1 of 3 alone and in the batch differ"),
    (DividesByNorm, {}, {"float32", "bfloat16", "float16"}, "the output on zero inputs (train and eval mode)"),
    (OverflowsInHalf, {}, {"float16"}, "attnbench.at_least_float32"),
    (HiddenFloat32, {}, {"float64"}, "float64 becomes float32"),
    (OtherRandomness, {}, {"determinism"}, "in train mode the same inputs and seed give different outputs"),
    (OtherInitialWeights, {}, {"determinism"}, "differ in `mix.bias`: draw initial weights from torch's"),
    (UnsavedState, {}, {"state_dict"}, "neither a parameter nor a persistent buffer"),
    (Pickles, {}, {"state_dict"}, "weights_only=True"),
    (StaysBehind, {}, {"devices"}, "a float32 tensor (1, 6, 1, 1) stays on the CPU when the module moves"),
    (PastTheBranch, {}, {"probes"}, "the branches of `sketch` (`skip` and `content`) do not add up to the gradient"),
]


@pytest.mark.parametrize(("module", "options", "checks", "message"), BROKEN, ids=[case[0].__name__ for case in BROKEN])
def test_a_module_that_breaks_a_promise_fails_that_check_alone_with_a_reason(module, options, checks, message):
    assert broken(module, **options) == checks
    details = {finding(name, module, **options).detail for name in checks}
    assert any(message in detail for detail in details), details


def test_every_check_but_the_compilers_can_fail():
    assert set().union(*(checks for _, _, checks, _ in BROKEN)) == set(CHECKS) - set(COMPILERS)


def test_a_gradient_that_is_declared_stopped_is_not_a_failure():
    found = finding("gradients", DetachesAndDeclares)
    assert found.status == "passed"
    assert "declared stopped at `reference`" in found.detail


def test_parameters_without_a_gradient_are_named():
    found = finding("gradients", "scft:stop_gradient=true")
    assert found.status == "passed"
    assert "`query.weight`, `query.bias`, `key.weight` and `key.bias`" in found.detail


class Raises(nn.Module):
    """Has a bug."""

    def __init__(self, channels):
        super().__init__()

    def forward(self, sketch, reference):
        return sketch @ reference.flatten(2)  # the line that is named


def test_what_a_module_raises_is_a_finding_with_the_authors_line():
    report = check(Raises, 6, size=4, device="cpu", costs=False)
    failure, *others = report.failures
    line = next(
        i for i, text in enumerate(Path(__file__).read_text().splitlines(), 1) if text.endswith("# the line that is named")
    )
    assert not others
    assert failure.name == "shapes"
    assert failure.detail.startswith("RuntimeError: ")
    assert failure.detail.endswith(f"(test_contract.py:{line})")
    assert {f.detail for f in report.findings[2:]} == {"not checked, since shapes failed"}
    with pytest.raises(AssertionError, match="Raises does not keep the contract.*\n.*shapes: RuntimeError"):
        report.raise_if_failed()


class Several(Mix):
    """Returns a pair."""

    def forward(self, sketch, reference):
        return sketch, reference


def test_a_forward_that_does_not_return_a_tensor_is_named():
    assert "forward returns a tuple, not one tensor" in finding("shapes", Several).detail


class ReadsValues(Mix):
    """Reads values of tensors."""

    def forward(self, sketch, reference):
        mixed = super().forward(sketch, reference)
        return mixed if mixed.max() > 1e6 else 2 * mixed


class Plain(nn.Module):
    """A difference, without branches or observed values."""

    def __init__(self, channels):
        super().__init__()

    def forward(self, sketch, reference):
        return sketch - reference


@pytest.mark.parametrize(
    ("name", "module", "message"),
    [
        ("devices", ReadsValues, "reads values of tensors"),
        ("probes", Plain, "calls neither attnbench.branch nor attnbench.observe"),
    ],
)
def test_what_does_not_need_fixing_is_a_note(name, module, message):
    found = finding(name, module)
    assert found.status == "note"
    assert message in found.detail


@pytest.mark.parametrize(
    ("name", "message"), [("compile", "works in pieces (backend aot_eager"), ("export", "test_contract.py:")]
)
def test_what_a_compiler_cannot_take_as_one_graph_is_a_note(name, message, compiler):
    found = finding(name, ReadsValues)
    assert found.status == "note"
    assert message in found.detail


class SplitsTwice(nn.Module):
    """Splits the tokens of the sketch, then one of the copies again, and the reference in two halves."""

    def __init__(self, channels):
        super().__init__()

    def forward(self, sketch, reference):
        skip, query = branch(sketch.flatten(2).mT, "skip", "query")
        one, two = branch(query, "one", "two")
        left, right = (branch(half, "value", "key") for half in reference.flatten(2).mT.chunk(2, -1))
        value, key = (torch.cat(pair, -1) for pair in zip(left, right, strict=True))
        return (skip + one.square() * two + value * key).mT.reshape(sketch.shape)


def test_branches_of_views_of_parts_and_of_branches_add_up():
    found = finding("probes", SplitsTwice)
    assert found.status == "passed", found.detail
    assert found.detail.startswith("sketch = skip + query; reference = value + key; inside: one + two")


def test_a_check_leaves_no_trace(compiler):
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    for name in CHECKS:
        finding(name, OtherRandomness)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), np.random.get_state()[1].tolist())
    assert torch.is_grad_enabled()
    assert not torch.is_autocast_enabled("cpu")


# Finding a module


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The name of a package in the current folder, with `Good` and `Bad` in it."""
    code = """
    from torch import nn

    SIDE = 4

    class Good(nn.Module):
        '''A weighted sum; `weight` is the sketch's.'''

        def __init__(self, channels, *, weight=0.5):
            super().__init__()
            self.weight = weight

        def forward(self, sketch, reference):
            return self.weight * sketch + (1 - self.weight) * reference

    class Bad(Good):
        def forward(self, sketch, reference):
            return sketch
    """
    (tmp_path / "package_here.py").write_text(textwrap.dedent(code))
    (tmp_path / "package_broken.py").write_text("import no_such_package\n")
    monkeypatch.chdir(tmp_path)
    yield "package_here"
    sys.modules.pop("package_here", None)


def command(*arguments):
    return attnbench("check", *arguments, "--channels", "6", "--size", "4", "--device", "cpu")


def test_the_command_checks_an_import_path_with_options_and_compares_costs(package, compiler):
    path = list(sys.path)
    outcome = command(f"{package}:Good:weight=0.25")
    assert outcome.code == 0, outcome
    assert sys.path == path
    assert outcome.err == ""
    assert "package_here:Good:weight=0.25: 6 channels, 4 x 4, cpu" in outcome.out
    assert "note    probes" in outcome.out
    assert "keeps the contract" in outcome.out
    rows = [line.split()[:2] for line in outcome.out.splitlines()]
    assert [">", "package_here:Good:weight=0.25"] in rows
    assert any(row and row[0] == "sga" for row in rows)
    assert all(len(line) <= 80 or "keeps the contract" in line for line in outcome.out.splitlines())


def test_the_command_exits_with_1_if_something_failed(package, compiler):
    outcome = command(f"{package}:Bad", "--no-costs")
    assert outcome.code == 1
    assert "failed  gradients" in outcome.out
    assert "does not keep the contract" in outcome.out
    assert "GFLOP" not in outcome.out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sgaa", "unknown module 'sgaa': did you mean 'sga'"),
        ("sga:stop_gradent=false", "did you mean 'stop_gradient'"),
        ("sga:stop_gradient", "'stop_gradient' is not option=value"),
        ("package_here:Goood", "unknown attribute 'Goood': did you mean 'Good'? (known: Bad, Good)"),
        ("package_here:Good:wait=1", "unknown option 'wait': did you mean 'weight'"),
        ("package_here:SIDE", "is of type int, not a class or a factory"),
        (
            "package_broken:Good",
            "cannot be imported: ModuleNotFoundError: No module named 'no_such_package' (package_broken.py:1)",
        ),
        ("package_nowhere:Good", "No module named 'package_nowhere'"),
    ],
)
def test_a_module_that_does_not_exist_is_one_line_and_exit_code_2(text, message, package):
    outcome = command(text)
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.count("\n") == 1
    assert message in outcome.err


def test_wrong_arguments_are_refused():
    with pytest.raises(UserError, match="channels = 0"):
        check(Good, 0)
    with pytest.raises(UserError, match="not a int"):
        check(3)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="unknown option 'heads'"):
        check(Good, 6, options={"heads": 2})
    with pytest.raises(UserError, match="device 'abacus'"):
        check(Good, 6, device="abacus")


def test_the_commands_help_explains_each_option():
    import typer.main

    from attnbench.cli import app

    assert attnbench("check", "--help").code == 0
    assert all(p.help for p in typer.main.get_command(app).commands["check"].params)  # type: ignore[attr-defined]


def test_two_lines_test_a_strangers_module(package, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])  # which pytest adds to
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    test = tmp_path / "test_mine.py"
    test.write_text(
        "from attnbench.testing import module_test\n"
        f'test_good = module_test("{package}:Good", channels=6, size=4, options=dict(weight=0.25))\n'
        f'test_bad = module_test("{package}:Bad", channels=6, size=4)\n'
    )
    options = ["-q", "-W", "error", "-p", "no:cacheprovider", "-p", "no:xdist", "--rootdir", str(tmp_path), "-c", os.devnull]
    with redirect_stdout(io.StringIO()) as out:
        code = pytest.main([*options, "-k", "not compile and not export", str(test)])
    sys.modules.pop("test_mine")
    text = out.getvalue()
    assert code == pytest.ExitCode.TESTS_FAILED, text
    assert "FAILED test_mine.py::test_bad[gradients]" in text
    assert "no gradient reaches `reference`, so its encoder would learn nothing" in text
    assert f"1 failed, {2 * (len(CHECKS) - len(COMPILERS)) - 1} passed" in text


# Costs


class Squares(nn.Module):
    """reference^2 + sketch, for counting by hand."""

    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, channels))

    def forward(self, sketch, reference):
        return (self.weight @ reference.flatten(2)).view_as(sketch) + sketch


def costs_of(module):
    return compare_costs(find_subject(module, 6, size=4, device="cpu"))


def test_costs_are_those_counted_by_hand():
    first, *others = costs_of(Squares)
    assert first.mine
    assert not any(row.mine for row in others)
    assert {"sga", "scft"} <= {row.module for row in others}
    assert first.parameters == 36
    assert first.gflop == pytest.approx(2 * 6 * 6 * 16 / 1e9)
    assert first.milliseconds > 0
    assert first.peak_mb >= 3 * 2 * 6 * 16 * 4 / 1e6  # the product, the sum and a gradient


class Fused(nn.Module):
    """Attention of PyTorch's own, which has a kernel of its own on a CPU."""

    def __init__(self, channels):
        super().__init__()

    def forward(self, sketch, reference):
        x, y = sketch.flatten(2).mT, reference.flatten(2).mT
        return nn.functional.scaled_dot_product_attention(x, y, y).mT.reshape(sketch.shape)


def test_operations_of_fused_attention_are_counted():
    assert costs_of(Fused)[0].gflop == pytest.approx(2 * 2 * 16 * 16 * 6 / 1e9)  # Q K^T and A V


def test_a_registered_module_is_its_own_row_among_the_others_and_a_variant_of_it_is_beside_it():
    assert [row.module for row in costs_of("sga") if row.module.startswith("sga")] == ["sga"]
    names = [row.module for row in costs_of("sga:stop_gradient=false")]
    assert names[0] == "sga:stop_gradient=false"
    assert "sga" in names[1:]


def test_live_memory_counts_what_is_alive_at_once():
    before = torch.ones(1000)
    with LiveMemory() as memory:
        view = before.view(10, 100)  # no new memory
        assert memory.live == 0
        first = view + 1  # 4000
        second = first * 2  # 8000
        del first  # 4000
        second.add_(1)
        third = second.double()  # 12000
        del second, third
    assert (memory.peak, memory.live) == (12_000, 0)


def test_live_memory_counts_what_autograd_keeps():
    x = torch.ones(1000, requires_grad=True)
    with LiveMemory() as memory:
        y = x.exp().sin().sum()  # exp keeps its result for backward, and sin its input: the same; sin's result is freed
        assert memory.live == 4000 + 4
        assert memory.peak == 8000 + 4
        y.backward()
        del y
        assert memory.live == 4000  # the gradient
    assert x.grad is not None


def test_live_memory_is_the_same_every_time():
    module = Good(6)
    peaks = set()
    for _ in range(3):
        with LiveMemory() as memory:
            module(torch.ones(2, 6, 4, 4), torch.ones(2, 6, 4, 4)).sum().backward()
        module.zero_grad()
        peaks.add(memory.peak)
    assert len(peaks) == 1


def test_what_live_memory_counted_may_outlive_it():
    with LiveMemory() as memory:
        x = torch.ones(10)
    assert memory.live == 40
    del x
    assert memory.live == 0
