"""What a training step costs on a GPU by the bytes and operations of its layers: counted, with no GPU and nothing computed.

    python benchmarks/step_cost.py                                              # SGA, recipe fast, H100
    python benchmarks/step_cost.py --module scft --set data.size=512 --device h200 --json results/bench

A step runs on fake tensors, which have shapes and no values. Every operation that PyTorch dispatches is noted with the bytes it
reads and writes, its floating-point operations, their precision, and the part of the network it belongs to, forward or
backward. What a GPU runs as several kernels is counted as several: a convolution's bias, the statistics of a batch norm, the
gradients of a convolution at its input, weight and bias. The model is a roofline:

    time of a kernel = max(FLOP / (peak x share reached), bytes / (bandwidth x share reached)) + gap between two kernels

eager: every operation is a kernel. compiled: pointwise operations and reductions that follow each other are one kernel. It
reads once what they take from outside, and writes what is used outside or later in backward. It ends at a product, at the end
of a part, at the turn to backward, and where an operation needs what one of its reductions found. Optimisers stay as they are.

FLOP, bytes and numbers of operations are exact for that model. Times are estimates: the shares and the gap are assumptions, the
same for all layers. Left out: batches (jitter, warp, XDoG); the CPU, which eager mode may wait for; caches, which spare traffic
between small layers; how cuDNN computes a convolution (Winograd, changes of layout); what a compiler computes anew in backward
rather than keep. Of the compiled kernels the bytes are right, but there will be more of them: neighbours may share nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import Adam
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from attnbench.cells.provenance import now, provenance
from attnbench.cells.variant import parse_variant
from attnbench.config.recipe import Recipe, describe, load_recipe
from attnbench.data.batches import Batch
from attnbench.errors import UserError
from attnbench.method.losses import PerceptualFeatures
from attnbench.method.winograd import Conv3x3
from attnbench.training.costs import on_meta
from attnbench.training.loop import train_step
from attnbench.training.state import ModuleFactory, Training, assemble


@dataclass(frozen=True)
class GPU:
    """Peaks: FLOP/s of dense products by precision, and bytes/s of memory."""

    name: str
    flops: dict[str, float]
    bandwidth: float


# Data sheets of NVIDIA's H100 (SXM) and H200 (SXM), without sparsity; float32 is that of the CUDA cores.
_HOPPER = {"bfloat16": 989e12, "tf32": 494e12, "float32": 67e12}
GPUS = {"h100": GPU("H100 SXM", _HOPPER, 3.35e12), "h200": GPU("H200 SXM", _HOPPER, 4.8e12)}

# Assumptions. Tensor cores wait for memory in all but the largest products; the CUDA cores' slower products hardly do.
REACHED = {"bfloat16": 0.6, "tf32": 0.6, "float32": 0.85}
BANDWIDTH_REACHED = 0.7
GAP = 2e-6  # seconds

PARTS = (
    "sketch encoder",
    "reference encoder",
    "module",
    "residual stage",  # with the skip around it
    "decoder",
    "discriminator",
    "VGG19",
    "losses",  # with the products of Gram matrices: whatever is in no network
    "optimisers",
)

# Pointwise or nearly so to a compiler, without PyTorch's tag for it: copies, and windows small enough to be read anew.
_POINTWISE = {"_to_copy", "arange", "cat", "constant_pad_nd", "copy_", "fill_", "full", "leaky_relu_backward", "new_zeros"}
_POINTWISE |= {"ones_like", "stack", "upsample_bilinear2d", "zero_", "zeros", "zeros_like"}
_POINTWISE |= {"_adaptive_avg_pool2d", "_adaptive_avg_pool2d_backward", "avg_pool2d", "avg_pool2d_backward"}
_POINTWISE |= {"max_pool2d_with_indices", "max_pool2d_with_indices_backward"}
_REDUCTIONS = {"_log_softmax", "_log_softmax_backward_data", "_softmax", "_softmax_backward_data"}
_OVERWRITES = {"copy_", "fill_", "zero_"}  # do not read what they change


class Access(NamedTuple):
    """What an operation reads or writes: one state of a piece of memory, which later writes to it replace."""

    storage: int
    version: int
    offset: int
    bytes: int

    @property
    def state(self) -> tuple[int, int]:
        return self.storage, self.version


@dataclass(frozen=True)
class Operation:
    """One kernel of eager mode.

    Attributes:
        kind: product, pointwise, reduction or other.
        precision: of a product's factors, a key of `REACHED`.
    """

    name: str
    kind: str
    part: str
    backward: bool
    precision: str | None
    flop: int
    reads: frozenset[Access]
    writes: frozenset[Access]


class Kernel(NamedTuple):
    """Operations that run as one, with the bytes that this moves."""

    operations: list[Operation]
    bytes: int

    @property
    def flop(self) -> int:
        return sum(operation.flop for operation in self.operations)

    @property
    def part(self) -> str:
        return self.operations[0].part


class Launch(NamedTuple):
    """A kernel as its call tells of it: nothing yet of where in the step it runs, nor of earlier writes to its memory."""

    name: str
    kind: str
    flop: int
    reads: Sequence[Tensor]
    writes: Sequence[Tensor]


def stored_bytes(x: Tensor) -> int:
    """Bytes of memory behind a tensor: repetitions of an expanded one are stored once."""
    elements = math.prod(size for size, stride in zip(x.shape, x.stride(), strict=True) if stride)
    return min(elements * x.element_size(), x.untyped_storage().nbytes())


def launches_of(func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> list[Launch]:
    """The kernels that a GPU runs for an operation that was called; none for views and for memory left as it is."""
    packet, name = func._overloadpacket, func._opname

    def flop(*arguments: Any) -> int:
        return int(flop_registry[packet](*arguments, **kwargs, out_val=out))

    match name:
        case "convolution":
            x, weight, bias = args[:3]
            added = [] if bias is None else [Launch("convolution, bias", "pointwise", 0, [out, bias], [out])]
            return [Launch(name, "product", flop(*args), [x, weight], [out]), *added]
        case "convolution_backward":
            gradient, x, weight = args[:3]
            of_x, of_weight, of_bias = args[-1]
            launches = []
            if of_x:
                count = flop(*args[:-1], [True, False, False])
                launches.append(Launch("convolution, gradient at input", "product", count, [gradient, weight], [out[0]]))
            if of_weight:
                count = flop(*args[:-1], [False, True, False])
                launches.append(Launch("convolution, gradient at weight", "product", count, [gradient, x], [out[1]]))
            if of_bias:
                launches.append(Launch("convolution, gradient at bias", "reduction", 0, [gradient], [out[2]]))
            return launches
        case "native_batch_norm":
            x, scale, shift, *running = args[:5]
            used = out[1:] if args[5] else running
            found = [Launch("batch norm, statistics", "reduction", 0, [x], [*used, *running])] if args[5] else []
            return [*found, Launch("batch norm", "pointwise", 0, [x, *used, scale, shift], [out[0]])]
        case "native_batch_norm_backward":
            gradient, x, scale = args[:3]
            sums = Launch("batch norm, sums of gradients", "reduction", 0, [gradient, x, *args[5:7]], out[1:])
            return [sums, Launch("batch norm, gradient", "pointwise", 0, [gradient, x, *args[5:7], scale, *out[1:]], [out[0]])]
    reads, writes = _accesses(func, args, kwargs, out)
    if not writes or name.startswith(("empty", "new_empty")):
        return []
    return [Launch(name, _kind(func), flop(*args) if packet in flop_registry else 0, reads, writes)]


def _accesses(func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> tuple[list[Tensor], list[Tensor]]:
    reads, writes = [], []
    given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
    for argument in func._schema.arguments:
        tensors = _tensors(given.get(argument.name))
        changed = argument.alias_info is not None and argument.alias_info.is_write
        if changed and argument.name != "grads":  # Adam's, which it changes only if a scaler scaled them
            writes += tensors
        if not (argument.is_out or (changed and func._opname in _OVERWRITES)):
            reads += tensors
    known = {x.untyped_storage()._cdata for x in _tensors((args, kwargs))}
    return reads, writes + [x for x in _tensors(out) if x.untyped_storage()._cdata not in known]


def _tensors(tree: Any) -> list[Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]


def _kind(func: Any) -> str:
    if func._overloadpacket in flop_registry:
        return "product"
    if torch.Tag.pointwise in func.tags or func._opname in _POINTWISE:
        return "pointwise"
    return "reduction" if torch.Tag.reduction in func.tags or func._opname in _REDUCTIONS else "other"


def _precision(launch: Launch, part: str, recipe: Recipe) -> str | None:
    """Of a product. One outside of all networks is of Gram matrices."""
    if launch.kind != "product":
        return None
    if launch.reads[0].dtype in (torch.bfloat16, torch.float16):
        return "bfloat16"  # float16 is as fast
    if launch.name.startswith("convolution"):
        return "tf32" if recipe.train.tf32 else "float32"
    return "tf32" if part == "losses" and recipe.loss.gram_tf32 else "float32"


class Recorder(TorchDispatchMode):
    """Notes the operations that run while it is active. `inside` tells the part they belong to.

    Backward follows the nodes of autograd's graph. A node is numbered when it is made, just before its operation runs forward,
    and belongs where that one does.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self._recipe = recipe
        self.operations: list[Operation] = []
        self.inside = ["losses"]
        self._backward_part = "losses"
        self._part_of_node: dict[int, str] = {}
        self._versions: Counter[int] = Counter()
        self._kept: dict[int, torch.UntypedStorage] = {}  # an address must not be given away again

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        backward = torch._C._current_graph_task_id() != -1
        part = self._part_in_backward() if backward else self._part_in_forward()
        for launch in launches_of(func, args, kwargs or {}, out):
            self.operations.append(self._operation(launch, part, backward))
        return out

    def _part_in_forward(self) -> str:
        self._part_of_node.setdefault(torch.autograd._get_sequence_nr() - 1, self.inside[-1])
        return self.inside[-1]

    def _part_in_backward(self) -> str:
        node = torch._C._current_autograd_node()
        if node is not None:  # where gradients meet there is none, and where they are kept it has no number: as before
            self._backward_part = self._part_of_node.get(node._sequence_nr(), self._backward_part)
        return self._backward_part

    def _operation(self, launch: Launch, part: str, backward: bool) -> Operation:
        reads = frozenset(self._access(x) for x in launch.reads if x is not None)
        changed = [x for x in launch.writes if x is not None]
        self._versions.update({x.untyped_storage()._cdata for x in changed})
        writes = frozenset(self._access(x) for x in changed)
        precision = _precision(launch, part, self._recipe)
        return Operation(launch.name, launch.kind, part, backward, precision, launch.flop, reads, writes)

    def _access(self, x: Tensor) -> Access:
        storage = x.untyped_storage()
        self._kept[storage._cdata] = storage
        return Access(storage._cdata, self._versions[storage._cdata], x.storage_offset(), stored_bytes(x))


@contextmanager
def parts_noted(training: Training, recorder: Recorder) -> Iterator[None]:
    """Tell the recorder which part of the network runs."""

    def enter(part: str) -> Callable[..., None]:
        return lambda *_: recorder.inside.append(part)

    def leave(*_: Any) -> None:
        recorder.inside.pop()

    generator = training.generator
    networks = {
        generator: "residual stage",  # what is in none of its parts: the skip and the concatenation
        generator.sketch_encoder: "sketch encoder",
        generator.reference_encoder: "reference encoder",
        generator.module: "module",
        generator.residual: "residual stage",
        generator.decoder: "decoder",
        training.discriminator: "discriminator",
        training.features: "VGG19",
    }
    hooks = []
    for network, part in networks.items():
        if isinstance(network, nn.Module):
            hooks += [network.register_forward_pre_hook(enter(part)), network.register_forward_hook(leave)]
    for optimizer in (training.optimizer_g, training.optimizer_d):
        hooks += [optimizer.register_step_pre_hook(enter("optimisers")), optimizer.register_step_post_hook(leave)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def record_step(factory: ModuleFactory, recipe: Recipe) -> list[Operation]:
    """The operations of a training step, in their order."""
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"compile": False})})
    size, count = recipe.data.size, recipe.train.batch_size
    with (meta := torch.device("meta")):
        features = PerceptualFeatures() if recipe.needs_perceptual_network else None
        training = assemble(on_meta(factory), recipe, 0, meta, features)
    with FakeTensorMode(allow_non_fake_inputs=True):  # autocast has no meta device
        _on_fake_cpu(training)
        images = (torch.zeros(count, channels, size, size) for channels in (3, 1, 3))
        batch = Batch(*images, shows=torch.zeros(count, size, size, 2))
        train_step(training, batch, recipe)  # the first one also makes the optimisers' state
        with Recorder(recipe) as recorder, parts_noted(training, recorder):
            train_step(training, batch, recipe)
    return recorder.operations


def _on_fake_cpu(training: Training) -> None:
    """Move to fake tensors that say they are on a CPU, and do there as on a GPU: fused Adam, and no Winograd in Python."""
    for network in (training.generator, training.discriminator, training.features):
        if isinstance(network, nn.Module):
            network.to_empty(device="cpu")
    for name, network in (("optimizer_g", training.generator), ("optimizer_d", training.discriminator)):
        options = getattr(training, name).defaults | {"fused": True}
        setattr(training, name, Adam(network.parameters(), **options))
        network.train()
    for layer in training.generator.modules():
        if isinstance(layer, Conv3x3):
            layer.plain = True


def eager_kernels(operations: Sequence[Operation]) -> list[Kernel]:
    return [Kernel([operation], _bytes(operation.reads) + _bytes(operation.writes)) for operation in operations]


def compiled_kernels(operations: Sequence[Operation]) -> list[Kernel]:
    """Chains fused by the rule in the header."""
    chains: list[list[Operation]] = []
    for operation in operations:
        if chains and _joins(chains[-1], operation):
            chains[-1].append(operation)
        else:
            chains.append([operation])
    readers = Counter(state for operation in operations for state in _states(operation.reads))
    last = {storage: version for operation in operations for storage, version in sorted(_states(operation.writes))}
    return [Kernel(chain, _chain_bytes(chain, readers, last)) for chain in chains]


def _joins(chain: Sequence[Operation], operation: Operation) -> bool:
    before = chain[-1]
    fusible = all(one.kind in ("pointwise", "reduction") and one.part != "optimisers" for one in (before, operation))
    if not fusible or (before.part, before.backward) != (operation.part, operation.backward):
        return False
    reduced = {state for one in chain if one.kind == "reduction" for state in _states(one.writes)}
    return not reduced & _states(operation.reads)


def _chain_bytes(chain: Sequence[Operation], readers: Counter[tuple[int, int]], last: dict[int, int]) -> int:
    """Bytes a chain reads from outside and leaves to it: what others read, and what nothing reads or replaces."""
    reads = {access for operation in chain for access in operation.reads}
    writes = {access for operation in chain for access in operation.writes}
    if len(chain) == 1:
        return _bytes(reads) + _bytes(writes)
    own_reads = Counter(state for operation in chain for state in _states(operation.reads))
    made = _states(writes)

    def stays(access: Access) -> bool:
        unread = readers[access.state] == 0 and last[access.storage] == access.version
        return unread or readers[access.state] > own_reads[access.state]

    return _bytes(access for access in reads if access.state not in made) + _bytes(filter(stays, writes))


def _states(accesses: Iterable[Access]) -> set[tuple[int, int]]:
    return {access.state for access in accesses}


def _bytes(accesses: Iterable[Access]) -> int:
    return sum(access.bytes for access in accesses)


def arithmetic_seconds(kernel: Kernel, gpu: GPU) -> float:
    return sum(one.flop / (gpu.flops[one.precision] * REACHED[one.precision]) for one in kernel.operations if one.precision)


def memory_seconds(kernel: Kernel, gpu: GPU) -> float:
    return kernel.bytes / (gpu.bandwidth * BANDWIDTH_REACHED)


def seconds(kernel: Kernel, gpu: GPU) -> float:
    return max(arithmetic_seconds(kernel, gpu), memory_seconds(kernel, gpu)) + GAP


def part_costs(eager: Sequence[Kernel], compiled: Sequence[Kernel], gpu: GPU) -> dict[str, dict[str, float]]:
    """Of each part in which something runs: FLOP, and operations or kernels, bytes and time in both modes."""
    rows: dict[str, dict[str, float]] = {}
    for part in PARTS:
        plain, fused = ([kernel for kernel in kernels if kernel.part == part] for kernels in (eager, compiled))
        if plain:
            rows[part] = {
                "operations": len(plain),
                "gflop": sum(kernel.flop for kernel in plain) / 1e9,
                "eager_gb": sum(kernel.bytes for kernel in plain) / 1e9,
                "eager_ms": 1e3 * sum(seconds(kernel, gpu) for kernel in plain),
                "compiled_kernels": len(fused),
                "compiled_gb": sum(kernel.bytes for kernel in fused) / 1e9,
                "compiled_ms": 1e3 * sum(seconds(kernel, gpu) for kernel in fused),
            }
    return rows


def total(rows: dict[str, dict[str, float]]) -> dict[str, float]:
    sums: Counter[str] = Counter()
    for row in rows.values():
        sums.update(row)
    return dict(sums)


def dearest(eager: Sequence[Kernel], gpu: GPU, count: int = 10) -> list[dict[str, Any]]:
    """The kinds of operations that take the most time: one name in one part, forward or backward, in one precision."""
    kinds: defaultdict[tuple[Any, ...], list[Kernel]] = defaultdict(list)
    for kernel in eager:
        (one,) = kernel.operations
        kinds[one.name, one.part, one.backward, one.precision].append(kernel)
    rows = [
        {
            "name": name,
            "part": part,
            "pass": "backward" if backward else "forward",
            "precision": precision,
            "operations": len(kernels),
            "gflop": sum(kernel.flop for kernel in kernels) / 1e9,
            "gb": sum(kernel.bytes for kernel in kernels) / 1e9,
            "ms": 1e3 * sum(seconds(kernel, gpu) for kernel in kernels),
        }
        for (name, part, backward, precision), kernels in kinds.items()
    ]
    return sorted(rows, key=lambda row: -row["ms"])[:count]


def mode_costs(kernels: Sequence[Kernel], gpu: GPU, batch_size: int) -> dict[str, float]:
    """Of a whole step: milliseconds, by what limits them, images a second, and the share of the peak in bfloat16."""
    bound = [(arithmetic_seconds(kernel, gpu), memory_seconds(kernel, gpu)) for kernel in kernels]
    taken = sum(seconds(kernel, gpu) for kernel in kernels)
    return {
        "ms": 1e3 * taken,
        "arithmetic_ms": 1e3 * sum(arithmetic for arithmetic, memory in bound if arithmetic > memory),
        "memory_ms": 1e3 * sum(memory for arithmetic, memory in bound if arithmetic <= memory),
        "gap_ms": 1e3 * GAP * len(kernels),
        "images_per_second": batch_size / taken,
        "share_of_ceiling": sum(kernel.flop for kernel in kernels) / taken / gpu.flops["bfloat16"],
    }


def report(factory: ModuleFactory, recipe: Recipe, gpu: GPU) -> dict[str, Any]:
    operations = record_step(factory, recipe)
    eager, compiled = eager_kernels(operations), compiled_kernels(operations)
    parts = part_costs(eager, compiled, gpu)
    return {
        "assumptions": {
            **asdict(gpu),
            "share_of_flops_reached": REACHED,
            "share_of_bandwidth_reached": BANDWIDTH_REACHED,
            "gap_seconds": GAP,
        },
        "parts": parts,
        "total": total(parts),
        "dearest": dearest(eager, gpu),
        "eager": mode_costs(eager, gpu, recipe.train.batch_size),
        "compiled": mode_costs(compiled, gpu, recipe.train.batch_size),
    }


def as_text(found: dict[str, Any]) -> str:
    head = f"{'':18} {'':>10} {'':>9} {'eager':>17} {'compiled':>26}\n"
    head += f"{'part':18} {'operations':>10} {'GFLOP':>9} {'GB':>8} {'ms':>8} {'kernels':>9} {'GB':>8} {'ms':>8}\n"
    row = "{part:18} {operations:10,.0f} {gflop:9,.1f} {eager_gb:8.2f} {eager_ms:8.2f} "
    row += "{compiled_kernels:9,.0f} {compiled_gb:8.2f} {compiled_ms:8.2f}\n"
    parts = {**found["parts"], "total": found["total"]}
    table = head + "".join(row.format(part=part, **costs) for part, costs in parts.items())
    kind = "{ms:8.2f} ms {gflop:9,.1f} GFLOP {gb:8.2f} GB {operations:6,d} x {name}, {part}, {pass}{of}\n"
    table += "\ndearest kinds of operations, eager:\n"
    table += "".join(kind.format(of=f", {one['precision']}" if one["precision"] else "", **one) for one in found["dearest"])
    mode = "{name:9} {ms:6.1f} ms (arithmetic {arithmetic_ms:.1f}, memory {memory_ms:.1f}, gaps {gap_ms:.1f}), "
    mode += "{images_per_second:,.0f} images/s, {share_of_ceiling:.1%} of the peak in bfloat16\n"
    return table + "\n" + "".join(mode.format(name=name + ":", **found[name]) for name in ("eager", "compiled"))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--module", default="sga")
    parser.add_argument("--recipe", default="fast")
    parser.add_argument("--set", nargs="*", action="extend", default=[], help="keys of the recipe")
    parser.add_argument("--device", choices=GPUS, default="h100")
    parser.add_argument("--json", type=Path, help="a folder for step-cost-<module>-<recipe>-<device>.json")
    asked = parser.parse_args(arguments)
    try:
        recipe, variant = load_recipe(asked.recipe, asked.set), parse_variant(asked.module)
    except UserError as error:
        parser.error(str(error))
    name, gpu = describe(asked.recipe, asked.set), GPUS[asked.device]
    found = report(variant.factory, recipe, gpu)
    shape = f"{recipe.data.size} px, batches of {recipe.train.batch_size}, {recipe.train.precision}"
    sys.stdout.write(f"{variant.label}, {name}, {gpu.name}: {shape}\n\n{as_text(found)}")
    if asked.json:
        asked.json.mkdir(parents=True, exist_ok=True)
        file = re.sub(r"[^a-z0-9]+", "-", f"step-cost {asked.module} {name} {asked.device}".lower()).strip("-")
        saved = {"module": variant.label, "recipe": asked.recipe, "set": asked.set, "device": asked.device, **found}
        saved |= {"provenance": provenance(torch.device("cpu")).model_dump(), "ended": now()}
        (asked.json / f"{file}.json").write_text(json.dumps(saved, indent=1) + "\n")


if __name__ == "__main__":
    main()
