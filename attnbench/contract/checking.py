"""Holding a module to its contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from attnbench.contract.cost_table import compare_costs
from attnbench.contract.promises import CHECKS
from attnbench.contract.report import Finding, Report, run_check, run_checks
from attnbench.contract.subject import Constructor, Subject, find_subject
from attnbench.errors import UserError


def check(
    module: str | Constructor,
    channels: int = 992,
    *,
    size: int = 16,
    device: str | torch.device | None = None,
    options: Mapping[str, Any] | None = None,
    costs: bool = True,
) -> Report:
    """Hold a module to the contract.

    Args:
        module: a class or factory `(channels, *, options...) -> nn.Module`; or text as on the command line: a registered name
            (`sga:stop_gradient=false`) or an import path (`my_package:MyAttention:heads=4`).
        channels: C, of the feature maps; 992 in the official recipe.
        size: the largest height and width to try, at which costs are measured; 16 in the official recipe.
        device: PyTorch's name of a device; None: the first GPU, or else the CPU.
        options: for the constructor, in addition to those in the text.
        costs: measure the costs of the module and of the registered baselines.

    Raises:
        UserError: unknown module, option or device; channels or size below 1.
    """
    if channels < 1 or size < 1:
        raise UserError(f"channels = {channels}, size = {size}: both must be 1 or more")
    subject = find_subject(module, channels, size=size, device=device, options=options)
    findings = run_checks(CHECKS, subject, _is_the_end)
    rows = compare_costs(subject) if costs and not any(_is_the_end(finding) for finding in findings) else []
    return Report(subject.name, f"{channels} channels, {size} x {size}, {subject.device}", findings, rows)


def examine(name: str, subject: Subject) -> Finding:
    """Run one check; restores the random state and the modes of the process afterwards."""
    return run_check(name, CHECKS[name], subject)


def _is_the_end(finding: Finding) -> bool:
    """Whether all later checks would repeat this error."""
    return finding.raised and finding.name in ("constructor", "shapes")
