"""Devices by name, or the ones that are here."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from attnbench.errors import UserError


def pick_device(name: str | None) -> torch.device:
    """The device of that name, or the first GPU, or the CPU.

    Raises:
        UserError: there is no such device here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device '{name}' cannot be used here: {str(error).splitlines()[0]}") from None
    return device


def pick_devices(names: Sequence[str] = ()) -> list[str]:
    """The devices of those names (`cuda:0`, or `0` for short), or all GPUs, or the CPU. None is put to use.

    Raises:
        UserError: there is no such device here.
    """
    count = torch.cuda.device_count()
    if not names:
        return [f"cuda:{index}" for index in range(count)] or ["cpu"]
    devices = [f"cuda:{name}" if name.isdecimal() else name for name in names]
    for name in devices:
        kind, _, index = name.partition(":")
        if kind != "cuda" or not (index or "0").isdecimal():
            pick_device(name)
        elif int(index or 0) >= count:
            there = f"GPUs here: {count}" if count else "no GPU is here"
            raise UserError(f"device '{name}' cannot be used here: {there}; --devices cpu runs on the processor")
    return devices
