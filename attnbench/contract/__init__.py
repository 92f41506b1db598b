"""The contracts of correspondence modules and of metrics, as checks that anyone's can be held to.

A module:

    constructor  (channels, *, options...)         every option with a default, and documented
    forward      (sketch, reference) -> f_gen      (B, C, h, w) twice -> (B, C, h, w), for every B, h and w

A metric, which says of itself what `attnbench.metrics.metric` lists:

    constructor  (*, options...)
    measure      (pictures) -> numbers             (N,), one for each picture; or one for the set

promises.py and metric_promises.py have the checks, one function each; checking.py and metric_checking.py run them; report.py
collects the findings; subject.py and metric_subject.py find and run what is checked.

>>> from attnbench_baselines.scft import SCFT
>>> check(SCFT, channels=8, size=4, device="cpu", costs=False).passed
True
"""

from attnbench.contract.checking import check
from attnbench.contract.metric_checking import check_metric
from attnbench.contract.report import Finding, Report

__all__ = ["Finding", "Report", "check", "check_metric"]
