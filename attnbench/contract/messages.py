"""Comparison of tensors, and the texts of findings."""

from __future__ import annotations

import re
import sysconfig
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from attnbench.metrics import pictures

FindingStatus = Literal["passed", "failed", "note"]
Verdict = tuple[FindingStatus, str]  # status, reason
_OURS = (Path(__file__).parent, Path(pictures.__file__))  # what runs the author's code, or is called by it
RELATIVE_TOLERANCE = 1e-3  # of the largest entry: far above float32's rounding, far below a wrong result


def close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool((a - b).abs().max() <= RELATIVE_TOLERANCE * b.abs().max().clamp(min=1e-12))


def same(a: Tensor, b: Tensor, device: torch.device) -> bool:
    """Equality, bit for bit; on a GPU, where the order of sums may vary, up to rounding."""
    return torch.equal(a, b) if device.type == "cpu" else close(a, b)


def difference_text(a: Tensor, b: Tensor) -> str:
    if a.shape != b.shape:
        return f"{shape(a)} and {shape(b)}"
    return f"by up to {float((a - b).abs().max()):.1g}, where values reach {float(b.abs().max()):.1g}"


def shape(x: Tensor) -> str:
    return f"({', '.join(map(str, x.shape))})"


def dtype_name(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def listed(names: Iterable[str], most: int = 99) -> str:
    names = [f"`{name}`" for name in names]
    shown = [*names[:most], f"{len(names) - most} more"] if len(names) > most else names
    return " and ".join(filter(None, [", ".join(shown[:-1]), *shown[-1:]]))


def first_sentence(error: BaseException, most: int = 160) -> str:
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text[:most]}{'...' if len(text) > most else ''}"


def explain(error: BaseException, *, name: bool = True) -> str:
    """`TypeError: message (file.py:12)`, at the innermost line of the author's code, not PyTorch's, ours or Python's."""
    text = first_sentence(error, 240)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_authors(frame.filename)]
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return (text if name else text.removeprefix(f"{type(error).__name__}: ")) + where


def compilers_reason(error: Exception) -> str:
    """The first line of a compiler's long message, with the last place in the author's code that the message names."""
    places = [(file, line) for file, line in re.findall(r'File "(.+?)", line (\d+)', str(error)) if _is_authors(file)]
    return first_sentence(error) + (f" ({Path(places[-1][0]).name}:{places[-1][1]})" if places else "")


def _is_authors(file: str) -> bool:
    standard = Path(sysconfig.get_path("stdlib"))
    path = Path(file)
    if file.startswith("<"):
        return False
    if any(path.is_relative_to(place) for place in (Path(torch.__file__).parent, *_OURS)):
        return False
    return "site-packages" in path.parts or not path.is_relative_to(standard)
