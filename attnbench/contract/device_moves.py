"""Whether a module leaves tensors behind when it moves to another device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from attnbench.contract.messages import Verdict, dtype_name, explain, shape
from attnbench.contract.subject import Subject, call

MOVE = "Make constants from the input (`x.new_zeros`, `device=x.device`), or register them as buffers"


def to_cuda_and_back(subject: Subject) -> Verdict:
    module = subject.build().eval().cpu()
    there, back = torch.device("cuda", torch.cuda.current_device()), torch.device("cpu")
    outs = {}
    for device in (back, there, back):
        try:
            with torch.no_grad():
                outs[device] = call(module.to(device), *(x.to(device) for x in subject.maps()))
        except Exception as error:
            return "failed", f"after a move to {device.type}: {explain(error)}. {MOVE}"
        if outs[device].device != device:
            return "failed", f"after a move to {device.type} the output is on {outs[device].device}. {MOVE}"
    if not outs[there].isfinite().all():
        return "failed", f"the output on {there.type} is not finite"
    return "passed", "moves from the CPU to the GPU and back"


class DevicesMixed(Exception):
    pass


class OneDevice(TorchDispatchMode):
    """Raises where an operation mixes devices in a way that a GPU refuses; the meta device is more lenient than a GPU."""

    _ALLOWED = ("copy", "index")  # explicit moves; indices on the CPU

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        found = {x.device.type for x in tensors if x.dim() > 0 or x.is_meta}  # a CPU scalar may be combined with any device
        if len(found) > 1 and not any(word in str(func) for word in self._ALLOWED):
            name = str(func).split(".")[1]
            stuck = next(x for x in tensors if not x.is_meta)
            raise DevicesMixed(
                f"a {dtype_name(stuck)} tensor {shape(stuck)} stays on the CPU when the module moves, and `{name}` uses it"
            )
        return func(*args, **kwargs)
