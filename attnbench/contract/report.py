"""Running checks, and their findings as a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from attnbench.contract.messages import FindingStatus, Verdict, explain
from attnbench.contract.traces import undisturbed
from attnbench.method.precision import tf32

if TYPE_CHECKING:
    from attnbench.contract.cost_table import ModuleCost

Checked = TypeVar("Checked")


class Broken(Exception):
    """The promise under check is broken; the message says how."""


class NotChecked(Exception):
    """The promise cannot be checked here; the message says why."""


@dataclass(frozen=True)
class Finding:
    """What one check found. `raised`: the author's own code stopped the check with an exception."""

    name: str
    status: FindingStatus
    detail: str
    raised: bool = False


@dataclass(frozen=True)
class Report:
    """The findings of all checks (passed, failed, notes).

    Attributes:
        subject: the module or metric.
        setting: at which sizes and on which device it was checked.
        costs: of a module, if they were measured.
    """

    subject: str
    setting: str
    findings: Sequence[Finding]
    costs: Sequence[ModuleCost] = ()

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
        return f"{self.subject} {verdict}: {counts['passed']} passed, {counts['failed']} failed{notes}"

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


def run_check(name: str, check: Callable[[Checked], Verdict], subject: Checked) -> Finding:
    """Run one check; restores the random state and the modes of the process afterwards."""
    with undisturbed(), tf32(False):  # TF32 rounds more coarsely than the tolerance of comparisons
        try:
            return Finding(name, *check(subject))
        except Broken as broken:
            return Finding(name, "failed", str(broken))
        except NotChecked as reason:
            return Finding(name, "note", f"not checked: {reason}")
        except (Exception, SystemExit) as error:  # the author's code may raise anything, and needs to know what and where
            return Finding(name, "failed", explain(error), raised=True)


def run_checks(
    checks: Mapping[str, Callable[[Checked], Verdict]], subject: Checked, is_the_end: Callable[[Finding], bool]
) -> list[Finding]:
    """Run all checks, in order.

    Args:
        is_the_end: whether no later check makes sense after a finding; they are then notes.
    """
    findings: list[Finding] = []
    stopped = ""
    for name, check in checks.items():
        if stopped:
            findings.append(Finding(name, "note", f"not checked, since {stopped}"))
            continue
        findings.append(finding := run_check(name, check, subject))
        if is_the_end(finding):
            stopped = f"{name} {'failed' if finding.status == 'failed' else 'could not be checked'}"
    return findings
