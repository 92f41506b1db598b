"""Holding a metric to its contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from attnbench.contract.metric_promises import METRIC_CHECKS
from attnbench.contract.metric_subject import Constructor, listed_networks, metric_under_check
from attnbench.contract.probe_pictures import COUNT
from attnbench.contract.report import Finding, Report, run_checks


def check_metric(
    metric: str | Constructor,
    *,
    device: str | torch.device | None = None,
    options: Mapping[str, Any] | None = None,
) -> Report:
    """Hold a metric to its contract, with a dozen pictures that are drawn for it, as small as it allows.

    Args:
        metric: a class `(*, options...)`; or text as on the command line: a registered name (`my_metric:block=4`) or an import
            path (`my_package:MyMetric:block=4`).
        device: PyTorch's name of a device; None: the first GPU, or else the CPU.
        options: for the constructor, in addition to those in the text.

    Raises:
        UserError: unknown metric, option or device.
    """
    with metric_under_check(metric, device=device, options=options) as subject:
        with listed_networks(subject):
            findings = run_checks(METRIC_CHECKS, subject, _is_the_end)
        side = subject.probes.side
    return Report(subject.name, f"{COUNT} pictures, {side} x {side}, {subject.device}", findings)


def _is_the_end(finding: Finding) -> bool:
    """Whether no later check can measure anything."""
    if finding.name == "constructor":
        return finding.raised
    return finding.name in ("descriptor", "numbers") and finding.status != "passed"
