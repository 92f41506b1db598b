"""Running the checks, and reporting their findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from attnbench.contract.cost_table import ModuleCost, compare_costs
from attnbench.contract.messages import FindingStatus, explain
from attnbench.contract.promises import CHECKS
from attnbench.contract.subject import Constructor, Subject, find_subject
from attnbench.contract.traces import undisturbed
from attnbench.errors import UserError
from attnbench.method.precision import tf32


@dataclass(frozen=True)
class Finding:
    """What one check found. `raised`: the module's own code stopped the check with an exception."""

    name: str
    status: FindingStatus
    detail: str
    raised: bool = False


@dataclass(frozen=True)
class Report:
    """The findings of all checks (passed, failed, notes) and the costs."""

    module: str
    channels: int
    size: int
    device: str
    findings: Sequence[Finding]
    costs: Sequence[ModuleCost]

    @property
    def passed(self) -> bool:
        return not self.failures

    @property
    def failures(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.status == "failed"]

    @property
    def summary(self) -> str:
        """One line: the number of findings by status."""
        counts = {status: sum(f.status == status for f in self.findings) for status in ("passed", "failed", "note")}
        notes = f", {counts['note']} note{'s' if counts['note'] > 1 else ''}" if counts["note"] else ""
        verdict = "keeps the contract" if self.passed else "does not keep the contract"
        return f"{self.module} {verdict}: {counts['passed']} passed, {counts['failed']} failed{notes}"

    def raise_if_failed(self) -> None:
        """For tests.

        Raises:
            AssertionError: a check failed; the message lists the failures.
        """
        if self.failures:
            raise AssertionError("\n".join([self.summary, *(f"  {f.name}: {f.detail}" for f in self.failures)]))

    def __str__(self) -> str:
        width = max((len(finding.name) for finding in self.findings), default=0)
        findings = [f"  {f.status:6}  {f.name:{width}}  {f.detail}" for f in self.findings]
        costs = ["  {}: {} parameters, {} GFLOP, {} ms, {} MB".format(c.module, *c.figures) for c in self.costs]
        return "\n".join([self.summary, *findings, *([f"costs, {self.setting}:", *costs] if costs else [])])

    @property
    def setting(self) -> str:
        return f"{self.channels} channels, {self.size} x {self.size}, {self.device}"


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
    findings: list[Finding] = []
    stopped = ""
    for name in CHECKS:
        if stopped:
            findings.append(Finding(name, "note", f"not checked, since {stopped} failed"))
            continue
        findings.append(examine(name, subject))
        if findings[-1].raised and name in ("constructor", "shapes"):  # all later checks would repeat this error
            stopped = name
    rows = compare_costs(subject) if costs and not stopped else []
    return Report(subject.name, channels, size, str(subject.device), findings, rows)


def examine(name: str, subject: Subject) -> Finding:
    """Run one check; restores the random state and the modes of the process afterwards."""
    with undisturbed(), tf32(False):  # TF32 rounds more coarsely than the tolerance of comparisons
        try:
            return Finding(name, *CHECKS[name](subject))
        except Exception as error:  # the module's code may raise anything, and its author needs to know what and where
            return Finding(name, "failed", explain(error), raised=True)
