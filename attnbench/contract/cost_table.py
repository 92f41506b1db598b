"""Costs of a module beside those of the built-in ones."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from attnbench import plugins
from attnbench.contract.subject import InContext, Subject, call, forward_backward
from attnbench.contract.traces import undisturbed
from attnbench.errors import UserError
from attnbench.method.backbone import count_parameters
from attnbench.training.costs import median_seconds, peak_bytes


@dataclass(frozen=True)
class ModuleCost:
    """Costs of a module at the report's channels, size and device.

    Attributes:
        parameters: of the module alone.
        gflop: one forward of one image; 1 multiply-add = 2 FLOP; convolutions and matrix products.
        milliseconds: forward and backward of two images in train mode, median.
        peak_mb: peak memory (10^6 bytes) of the tensors made by this forward and backward.
        mine: whether this is the row of the module under check.
    """

    module: str
    parameters: int
    gflop: float
    milliseconds: float
    peak_mb: float
    mine: bool

    @property
    def figures(self) -> list[str]:
        """Parameters, GFLOP, milliseconds and peak MB as text."""
        measured = (self.gflop, self.milliseconds, self.peak_mb)
        return [f"{self.parameters:,}", *(f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in measured)]


def compare_costs(subject: Subject) -> list[ModuleCost]:
    """The module's row, then one for each registered module of this package that can be built and run here."""
    baselines = [plugin for plugin in plugins.installed(plugins.MODULES) if plugin.package == "attnbench"]
    rows = [cost_of(subject, mine=True)]
    for plugin in baselines:
        try:
            construct = plugin.load()
        except UserError:
            continue
        if construct is not subject.construct or subject.options:
            rows.append(
                cost_of(Subject(plugin.name, construct, {}, subject.channels, subject.size, subject.device), mine=False)
            )
    return [row for row in rows if row is not None]


def cost_of(subject: Subject, *, mine: bool) -> ModuleCost | None:
    """Costs of one forward and backward of a module alone; None if it cannot be built or run, for example because its heads do
    not divide the channels.
    """
    with undisturbed():
        try:
            module = subject.build()
            # By products alone: a CPU's fused attention is not among the operations that are counted.
            with FlopCounterMode(display=False) as flops, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
                call(module.eval(), *subject.maps(batch=1))
            module.train()
            given = subject.maps()
            if isinstance(module, InContext):
                module.prepare(*given)
            work = partial(forward_backward, module, given)
            milliseconds = 1e3 * median_seconds(work, 3, subject.device)
            module.zero_grad()
            peak = peak_bytes(work, subject.device)
        except Exception:  # the checks report what is wrong with the module under check
            return None
    return ModuleCost(subject.name, count_parameters(module), flops.get_total_flops() / 1e9, milliseconds, peak / 1e6, mine)
