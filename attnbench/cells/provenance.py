"""Where a number comes from: versions, commit, device."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from attnbench.cells.record import Provenance
from attnbench.metrics.protocol import VERSION

if TYPE_CHECKING:
    import torch

CELLS_ON_DEVICE = "ATTNBENCH_CELLS_ON_DEVICE"  # set by a runner for the processes of its cells: how many share the device
_PACKAGES = ("attnbench", "torch", "torchvision", "timm", "numpy", "pillow")


def provenance(device: torch.device, packages: Sequence[str] = ()) -> Provenance:
    """Of what runs here now, with the versions of the usual packages and of `packages`."""
    import torch

    return Provenance(
        versions={"python": platform.python_version(), **{name: _version(name) for name in (*_PACKAGES, *packages)}},
        protocol=VERSION,
        commit=commit(),
        device=device_name(device),
        threads=torch.get_num_threads(),
        platform=platform.platform(terse=True),
        **_sharing(),
    )


def _sharing() -> dict[str, int]:
    """`cells_on_device`, if the runner has said that there are several."""
    said = os.environ.get(CELLS_ON_DEVICE, "")
    return {"cells_on_device": int(said)} if said.isdecimal() and int(said) > 1 else {}


def device_name(device: torch.device) -> str:
    """For example `NVIDIA H200`, or the CPU's architecture and thread count."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()}, {torch.get_num_threads()} threads)"


@cache
def commit() -> str | None:
    """The git commit of this checkout, or of the one that the installed package was built from, `-dirty` if that has changes.

    None if the package was built outside a checkout, or where git is missing.
    """
    package = Path(__file__).resolve().parents[1]
    return _of_checkout(package.parent) or _of_build(package)


def _of_checkout(root: Path) -> str | None:
    if not (root / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=root, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() or None


def _of_build(package: Path) -> str | None:
    """What setup.py has written into a wheel."""
    carried = package / "COMMIT"
    return (carried.read_text().strip() or None) if carried.is_file() else None


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
