"""Devices by name, or those of this machine; waiting for them, and sending them tensors without waiting."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from attnbench.errors import UserError


def pick_device(name: str | None) -> torch.device:
    """The named device; by default the first GPU, or the CPU if there is none.

    A GPU becomes the process's current one: a module that makes a tensor on "cuda" gets it there.

    Raises:
        UserError: this machine has no such device.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
        if device.index is not None and device.type == "cuda":
            torch.cuda.set_device(device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device '{name}' cannot be used here: {str(error).splitlines()[0]}") from None
    return device


def pick_devices(names: Sequence[str] = ()) -> list[str]:
    """The named devices (`cuda:0`, or `0` or `cuda` for short), each by one name; by default all GPUs, or the CPU. No device is
    initialised.

    Raises:
        UserError: this machine has no such device.
    """
    count = torch.cuda.device_count()
    if not names:
        return [f"cuda:{index}" for index in range(count)] or ["cpu"]
    devices = []
    for name in names:
        kind, _, index = (f"cuda:{name}" if name.isdecimal() else name).partition(":")
        if kind != "cuda" or not (index or "0").isdecimal():
            device = pick_device(name)
            devices.append("cpu" if device.type == "cpu" else name)
            continue
        devices.append(f"cuda:{int(index or 0)}")
        if int(index or 0) >= count:
            found = f"GPUs found: {count}" if count else "no GPU found"
            raise UserError(f"device '{devices[-1]}' cannot be used here: {found}; --devices cpu runs on the CPU")
    return devices


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device's memory, or the machine's, did not suffice."""
    said = ("can't allocate memory", "ALLOC_FAILED")  # by torch on a CPU, and by NVIDIA's libraries
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in said)
    )


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done all that was asked of it; a CPU has, always."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def send(x: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on the device, without waiting for a GPU: through pinned memory, which PyTorch keeps until it is read."""
    if x.device == device:
        return x
    return (x.pin_memory() if device.type == "cuda" and x.device.type == "cpu" else x).to(device, non_blocking=True)
