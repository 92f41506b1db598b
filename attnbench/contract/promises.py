"""The checks: what a module promises, one function each.

Each function tests one promise and returns a status and a message. What a module's author must fix is `failed`; what the author
may want to know, such as a graph break in `torch.compile`, is a `note`. An exception that the module raises is a finding too.
"""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from attnbench.contract.device_moves import MOVE, DevicesMixed, OneDevice, to_cuda_and_back
from attnbench.contract.messages import (
    Verdict,
    close,
    compilers_reason,
    difference_text,
    dtype_name,
    explain,
    first_sentence,
    listed,
    same,
    shape,
)
from attnbench.contract.options import documented, named, without_default
from attnbench.contract.splits import Splits
from attnbench.contract.subject import INPUTS, InContext, Subject, call, forward_backward, objective
from attnbench.contract.traces import eager_random_numbers, quiet_compiler
from attnbench.method.probe import Observations, listening

HUGE = 1e4  # beyond the features of any healthy network; still finite in half precision


def constructor(subject: Subject) -> Verdict:
    """`channels` first, then options that have defaults and are documented."""
    first, *options = inspect.signature(subject.construct).parameters.values()
    if first.kind not in (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD) or "channels" in [p.name for p in options]:
        return "failed", f"the first parameter is `{first.name}`; it must be `channels`, given by position"
    if bare := without_default(named(options)):
        return "failed", f"no default for {listed(bare)}: a module must be buildable from `channels` alone"
    subject.construct(subject.channels)
    subject.build()
    return documented(subject.construct, named(options))


def shapes(subject: Subject) -> Verdict:
    """The output is one tensor of the sketch's shape and the input's dtype."""
    for module, mode in modes(subject):
        sketch, reference = subject.maps()
        with torch.no_grad():
            out = call(module, sketch, reference)
        if out.shape != sketch.shape:
            return "failed", f"in {mode} mode {shape(sketch)} becomes {shape(out)}; the output must have the sketch's shape"
        if out.dtype != sketch.dtype:
            return "failed", f"in {mode} mode float32 becomes {dtype_name(out)}; the output must have the input's dtype"
    return "passed", f"{shape(sketch)} twice -> {shape(sketch)}, float32"


def sizes(subject: Subject) -> Verdict:
    """Any height and width; two samples in train mode, one in eval mode. Failing on maps with a side of 1 is only a note: they
    cannot be mirrored, a single position has no variance, and the backbone's maps are larger."""
    s = subject.size
    tried = sorted({(1, min(3, s)), (min(5, s), min(3, s)), (max(s // 2, 1), s), (max(s - 1, 1), max(s - 1, 1)), (1, 1)})
    refused = ""
    for module, mode in modes(subject):
        batch = 2 if mode == "train" else 1
        for height, width in tried:
            sketch, reference = subject.maps(height, width, batch=batch)
            where = f"at {height} x {width}, batch of {batch}, {mode} mode"
            try:
                with torch.no_grad():
                    out = call(module, sketch, reference)
            except Exception as error:
                if min(height, width) > 1:
                    return "failed", f"{where}: {explain(error)}"
                refused = f"{where}: {explain(error)}"
                continue
            if out.shape != sketch.shape:
                return "failed", f"{where}: {shape(sketch)} becomes {shape(out)}"
    if refused:
        return "note", f"needs maps of 2 x 2 or more: {refused}"
    return "passed", ", ".join(f"{height} x {width}" for height, width in tried)


def inputs(subject: Subject) -> Verdict:
    """Forward does not write into its inputs, which the backbone uses too."""
    for module, mode in modes(subject):
        given = subject.maps()
        with torch.no_grad():
            call(module, *given)
        for name, before, after in zip(INPUTS, subject.maps(), given, strict=True):
            if not torch.equal(before, after):
                return (
                    "failed",
                    f"in {mode} mode forward writes into `{name}`: replace the in-place operation (`add_`, `+=`, ...)",
                )
    return "passed", "not written into"


def gradients(subject: Subject) -> Verdict:
    """Both inputs get a gradient, which trains the encoders, unless the module declares that it stops one."""
    module = subject.build().train()
    declared = getattr(module, "no_gradient", ())
    declared = (declared,) if isinstance(declared, str) else tuple(declared)
    if wrong := [name for name in declared if name not in INPUTS]:
        return "failed", f"`no_gradient` names {listed(wrong)}; it may name `sketch` and `reference`"
    received = dict(zip(INPUTS, forward_backward(module, subject.maps())[1], strict=True))
    for name, gradient in received.items():
        if gradient is not None and not gradient.isfinite().all():
            return "failed", f"the gradient at `{name}` is not finite"
        arrives = gradient is not None and bool(gradient.count_nonzero())
        if arrives and name in declared:
            return "failed", f"`no_gradient` declares `{name}`, but a gradient reaches it: remove it from the declaration"
        if not arrives and name not in declared:
            return "failed", (
                f"no gradient reaches `{name}`, so its encoder would learn nothing from this module; if that is intended, "
                f'declare it in the class: no_gradient = ("{name}",)'
            )
    reached = [name for name in INPUTS if name not in declared]
    text = f"reach {listed(reached)}" if reached else "reach neither input"
    text += f"; declared stopped at {listed(declared)}" if declared else ""
    own = module.module if isinstance(module, InContext) else module
    frozen = [name for name, p in own.named_parameters() if p.grad is None or not p.grad.count_nonzero()]
    return "passed", text + (f"; none reaches the parameters {listed(frozen, most=6)}" if frozen else "")


def samples(subject: Subject) -> Verdict:
    """In eval mode, a sample's result does not depend on the rest of its batch."""
    module = subject.build()
    for moment in ("", " after a training forward"):
        with torch.no_grad():
            together = call(module.eval(), *subject.maps(batch=3)).split(1)
            for i, among in enumerate(together):
                alone = call(module, *(x[i : i + 1] for x in subject.maps(batch=3)))
                if not close(alone, among):
                    return "failed", (
                        f"in eval mode{moment}, the results of sample {i + 1} of 3 alone and in the batch differ "
                        f"({difference_text(alone, among)}): normalise within the sample, or by running statistics"
                    )
            call(module.train(), *subject.maps())
    return "passed", "in eval mode each gives the same result alone and in a batch of 3"


def finite(subject: Subject, *, dtype: torch.dtype) -> Verdict:
    """No overflow, no 0/0: outputs on ordinary and on degenerate inputs, gradients on ordinary ones.

    Half precisions run under autocast with half inputs, as the backbone's convolutions give them.
    """
    wrong: dict[str, list[str]] = {}
    for module, mode in modes(subject):
        for name, given in _inputs_of_all_kinds(subject):
            with _autocast(subject.device, dtype):
                given = [x.to(dtype) for x in given]
                if name != "ordinary" or mode == "eval":
                    with torch.no_grad():
                        tensors: list[Tensor | None] = [call(module, *given)]
                else:
                    out, grads = forward_backward(module, given)
                    tensors = [out, *grads, *(p.grad for p in module.parameters())]
            if not tensors[0].isfinite().all():  # type: ignore[union-attr]
                wrong.setdefault(f"the output on {name} inputs", []).append(mode)
            elif not all(t.isfinite().all() for t in tensors if t is not None):
                wrong.setdefault(f"a gradient on {name} inputs", []).append(mode)
    if not wrong:
        return "passed", "finite on ordinary, constant, zero, huge and one-position inputs"
    what = "; ".join(f"{name} ({' and '.join(modes)} mode)" for name, modes in wrong.items())
    if dtype == torch.float32:
        return "failed", f"not finite: {what}. Add an epsilon to divisors and norms; use `softmax` rather than `exp`"
    return "failed", (
        f"not finite: {what}. Compute similarities, softmax and norms in float32: "
        "`with attnbench.no_autocast(x): ... attnbench.at_least_float32(x)`"
    )


def determinism(subject: Subject) -> Verdict:
    """Results are a function of weights, inputs and, in train mode (dropout), the global seed."""
    weights, again = subject.build().state_dict(), subject.build().state_dict()
    for name, value in weights.items():
        if isinstance(value, Tensor) and not torch.equal(value, again[name]):
            return "failed", (
                f"two builds with the same seed differ in `{name}`: draw initial weights from torch's global generator"
            )
    module = subject.build().eval()
    with torch.no_grad():
        first, second = (call(module, *subject.maps()) for _ in range(2))
        if not same(first, second, subject.device):
            return "failed", (
                f"in eval mode the same inputs give different outputs ({difference_text(first, second)}): draw no random "
                "numbers there"
            )
        first, second = (call(subject.build().train(), *subject.maps()) for _ in range(2))
        if not same(first, second, subject.device):
            return "failed", (
                f"in train mode the same inputs and seed give different outputs ({difference_text(first, second)}): draw "
                "random numbers from torch's global generator"
            )
    return "passed", "the same seed gives the same weights and outputs"


def state_dict(subject: Subject) -> Verdict:
    """A checkpoint consists of tensors and plain values, and holds everything that the output depends on."""
    module = subject.build()
    with torch.no_grad():
        call(module.train(), *subject.maps())  # so that its buffers differ from those of a fresh module
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    try:
        state = torch.load(file, weights_only=True)
    except Exception as error:
        reason = first_sentence(error)
        return "failed", f"holds more than tensors and plain values, so torch.load(weights_only=True) refuses it: {reason}"
    fresh = subject.build(seed=1)
    try:
        fresh.load_state_dict(state)
    except RuntimeError as error:
        return "failed", f"a fresh module cannot load it: {' '.join(str(error).split())}"
    with torch.no_grad():
        before, after = (call(m.eval(), *subject.maps()) for m in (module, fresh))
    if not close(after, before):
        return "failed", (
            f"a fresh module that loads it gives a different output ({difference_text(after, before)}): something that it "
            "depends on is neither a parameter nor a persistent buffer"
        )
    return "passed", f"{len(state)} entries, saved and loaded back"


def compiles(subject: Subject) -> Verdict:
    """A compiled module agrees with eager mode, if possible as one graph. Never a failure: training can use eager mode."""
    backend = "inductor" if subject.device.type == "cuda" else "aot_eager"
    how = f"backend {backend}" + ("" if backend == "inductor" else ": traced, no code generated on the CPU")
    expected = _everything(subject.build().train(), subject)
    broken = ""
    for whole in (True, False):
        module = subject.build().train()
        try:
            with quiet_compiler(), eager_random_numbers(backend):
                got = _everything(torch.compile(module, backend=backend, fullgraph=whole), subject)
        except Exception as error:
            broken = compilers_reason(error)
            if not whole:
                return "note", f"fails ({how}): {broken}"
            continue
        finally:
            torch._dynamo.reset()
        if not all(close(a, b) for a, b in zip(got, expected, strict=True)):
            return "note", f"outputs or gradients differ from those of eager mode ({how})"
        break
    return ("note", f"works in pieces ({how}); the graph breaks: {broken}") if broken else ("passed", f"one graph ({how})")


def exports(subject: Subject) -> Verdict:
    """torch.export of the eval-mode module agrees with it. Never a failure: the benchmark does not need it."""
    module = subject.build().eval()
    with torch.no_grad():
        expected = call(module, *subject.maps())
        try:
            with quiet_compiler():
                exported = torch.export.export(module, tuple(subject.maps())).module()
                got = exported(*subject.maps())
        except Exception as error:
            return "note", f"fails: {compilers_reason(error)}"
        finally:
            torch._dynamo.reset()
    return ("passed", "agrees with the module") if close(got, expected) else ("note", "its output differs from the module's")


def devices(subject: Subject) -> Verdict:
    """`.to(device)` moves all that forward uses."""
    if torch.cuda.is_available():
        return to_cuda_and_back(subject)
    module = subject.build().eval().to("meta")
    try:
        with torch.no_grad(), OneDevice():
            out = call(module, *(x.to("meta") for x in subject.maps()))
    except DevicesMixed as error:
        return "failed", f"{explain(error, name=False)}. {MOVE}"
    except Exception as error:  # meta tensors have shapes but no values
        return "note", f"cannot be checked without a GPU, because forward reads values of tensors: {explain(error)}"
    if out.device.type != "meta":
        return "failed", f"the output is on the {out.device.type} whatever the device of the inputs. {MOVE}"
    return "passed", "moves to another device (here, without a GPU: `meta`)"


def float64(subject: Subject) -> Verdict:
    """`.double()` converts all that forward uses."""
    module = subject.build().eval().double()
    try:
        with torch.no_grad():
            out = call(module, *(x.double() for x in subject.maps()))
    except Exception as error:
        return "failed", f"fails after .double(): {explain(error)}. {_CONVERT}"
    if out.dtype != torch.float64:
        return "failed", f"after .double() float64 becomes {dtype_name(out)}. {_CONVERT}"
    return "passed", "float64 in, float64 out, after .double()"


def probes(subject: Subject) -> Verdict:
    """What `branch` and `observe` show of the module, and whether the branches' gradients add up to the whole gradient."""
    module = subject.build().train()
    leaves = [x.requires_grad_() for x in subject.maps()]
    given = [leaf.clone() for leaf in leaves]
    with listening(splits := Splits()), listening(seen := Observations()):
        out = call(module, *given)
        if out.requires_grad:
            objective(out).backward()
    if not splits.splits and not seen.values:
        return "note", (
            "calls neither attnbench.branch nor attnbench.observe, so gradient analyses and attention maps leave it out; "
            'for example x_skip, x_query = branch(x, "skip", "query") and observe("attention", a)'
        )
    texts = []
    shown = set()
    for name, x, leaf in zip(INPUTS, given, leaves, strict=True):
        indices = splits.of(x)
        shown.update(indices)
        if not indices:
            continue
        branched = splits.gradient(x, indices)
        whole = torch.zeros_like(x) if leaf.grad is None else leaf.grad
        if not close(branched, whole):
            return "failed", (
                f"the branches of `{name}` ({listed(splits.roles(indices))}) do not add up to the gradient that autograd "
                f"finds at `{name}` ({difference_text(branched, whole)}): every use of `{name}` must go through a branch"
            )
        texts.append(f"{name} = {' + '.join(splits.roles(indices))}")
    rest = [i for i in range(len(splits.splits)) if i not in shown]
    for i in rest:
        parts = [value for role, value in splits.splits[i].items() if role != "total"]
        total = splits.splits[i].get("total")
        if parts and total is not None and not close(torch.stack(parts).sum(0), total):
            return "failed", f"the gradients of the branches {listed(splits.names[i])} do not add up to that of the whole"
    texts += [f"inside: {' + '.join(splits.roles(rest))}"] if rest else []
    texts = texts or ["no `branch`, so gradient analyses leave it out"]
    observed = [f"{name} {shape(values[0])}" for name, values in seen.values.items()]
    texts.append(f"observed: {', '.join(observed)}" if observed else "no `observe`, so attention maps leave it out")
    return "passed", "; ".join(texts)


CHECKS: Mapping[str, Callable[[Subject], Verdict]] = {
    "constructor": constructor,
    "shapes": shapes,
    "sizes": sizes,
    "inputs": inputs,
    "gradients": gradients,
    "samples": samples,
    "float32": partial(finite, dtype=torch.float32),
    "bfloat16": partial(finite, dtype=torch.bfloat16),
    "float16": partial(finite, dtype=torch.float16),
    "float64": float64,
    "determinism": determinism,
    "state_dict": state_dict,
    "devices": devices,
    "compile": compiles,
    "export": exports,
    "probes": probes,
}

_CONVERT = "Make constants from the input (`x.new_zeros`, `dtype=x.dtype`), or register them as buffers"


def modes(subject: Subject) -> Iterator[tuple[nn.Module, str]]:
    """One module, first in train mode, then in eval mode."""
    module = subject.build()
    for mode in ("train", "eval"):
        yield module.train(mode == "train"), mode


def _everything(module: Callable[..., Any], subject: Subject) -> list[Tensor]:
    """Output and input gradients, zeros for a missing gradient."""
    given = subject.maps()
    torch.manual_seed(0)  # for dropout
    out, grads = forward_backward(module, given)
    return [out, *(torch.zeros_like(x) if grad is None else grad for x, grad in zip(given, grads, strict=True))]


def _inputs_of_all_kinds(subject: Subject) -> Iterator[tuple[str, list[Tensor]]]:
    ordinary = subject.maps()
    yield "ordinary", ordinary
    half = max(subject.size // 2, 1)
    small = subject.maps(half, half) if _takes(subject, half) else ordinary  # half precisions are slow on a CPU
    yield "constant", [torch.ones_like(x) for x in small]
    yield "zero", [torch.zeros_like(x) for x in small]
    yield "huge (1e4)", [HUGE * x / x.abs().amax() for x in small]
    if _takes(subject, 1):
        yield "one-position", subject.maps(1, 1)


def _takes(subject: Subject, side: int) -> bool:
    """Whether the module runs at this height and width; if not, `sizes` reports it and the other checks need not."""
    try:
        with torch.no_grad():
            call(subject.build(), *subject.maps(side, side))
    except Exception:
        return False
    return True


def _autocast(device: torch.device, dtype: torch.dtype) -> Any:
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)
