"""SGA's attention with the map never held, beside the plain three lines: time and memory against the number of tokens.

    python benchmarks/attention.py                          # n = 256, 1024, 4096
    python benchmarks/attention.py --tokens 256 16384 --rounds 1 --json results/bench

One image, C = 992, float32, forward and backward with the gradient stopped at the map, in turns. Memory is the most that
tensors made on the way take at once. `difference` is the largest of output and gradient, relative to the plain one's largest
value.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from attnbench import Attention
from attnbench.bench.measure import alternate, second_run
from attnbench.cells.provenance import device_name, now, provenance
from attnbench.training.costs import peak_bytes

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def plain(source: Tensor, message: Tensor, value: Tensor) -> Tensor:
    with torch.no_grad():
        attention = F.normalize((source @ message.mT).softmax(-1), p=1, dim=-2, eps=1e-12)
    return attention @ value


def streamed(source: Tensor, message: Tensor, value: Tensor) -> Tensor:
    return Attention(source, message, double_norm=True, stop_gradient=True).apply(value)


def inputs(tokens: int, channels: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Features whose logits are of order one, so that many tokens share the attention; the values take a gradient."""
    drawn = torch.Generator().manual_seed(0)
    source, message, value = (torch.randn(1, tokens, channels, generator=drawn).to(device) for _ in range(3))
    return source / channels**0.25, message / channels**0.25, value.requires_grad_()


def measure(tokens: int, channels: int, rounds: int, device: torch.device) -> dict[str, Any]:
    source, message, value = inputs(tokens, channels, device)
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def work(name: str, attend: Attend) -> Callable[[], None]:
        def once() -> None:
            value.grad = None
            out = attend(source, message, value)
            out.sum().backward()
            assert value.grad is not None
            found[name] = out.detach(), value.grad

        return once

    works = {name: work(name, attend) for name, attend in (("plain", plain), ("streamed", streamed))}
    row: dict[str, Any] = {"tokens": tokens}
    for name, once in works.items():
        found.clear()
        value.grad = None
        row[f"{name}_mb"] = peak_bytes(once, device) / 1e6
    seconds = alternate({name: partial(second_run, once, device) for name, once in works.items()}, rounds)
    row |= {f"{name}_ms": 1e3 * median(taken) for name, taken in seconds.items()}
    pairs = zip(found["streamed"], found["plain"], strict=True)
    row["difference"] = max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)
    return row


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[256, 1024, 4096])
    parser.add_argument("--channels", type=int, default=992)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", help="[default: the first GPU, or the CPU]")
    parser.add_argument("--json", type=Path, help="a folder for attention-<device>.json")
    asked = parser.parse_args(arguments)
    device = torch.device(asked.device or ("cuda:0" if torch.cuda.is_available() else "cpu"))
    rows = []
    sys.stdout.write("      n   plain ms  streamed ms   plain MB  streamed MB  share  difference\n")
    for tokens in asked.tokens:
        row = measure(tokens, asked.channels, asked.rounds, device)
        rows.append(row)
        share = row["streamed_mb"] / row["plain_mb"]
        said = "{tokens:7,d} {plain_ms:10,.1f} {streamed_ms:12,.1f} {plain_mb:10,.1f} {streamed_mb:12,.1f} "
        said += "{share:6.3f} {difference:11.1e}\n"
        sys.stdout.write(said.format(**row, share=share))
        sys.stdout.flush()
    if asked.json:
        name = re.sub(r"[^a-z0-9]+", "-", f"attention {device_name(device)}".lower()).strip("-")
        report = {"channels": asked.channels, "rounds": asked.rounds, "rows": rows}
        report |= {"provenance": provenance(device).model_dump(), "ended": now()}
        asked.json.mkdir(parents=True, exist_ok=True)
        (asked.json / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
