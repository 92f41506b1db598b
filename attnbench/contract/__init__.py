"""The contract of a correspondence module, as checks that any module can be held to.

    constructor  (channels, *, options...)         every option with a default, and documented
    forward      (sketch, reference) -> f_gen      (B, C, h, w) twice -> (B, C, h, w), for every B, h and w

promises.py has the checks, one function each; checking.py runs them and collects the findings; subject.py finds and runs the
module.

>>> from attnbench_baselines.scft import SCFT
>>> check(SCFT, channels=8, size=4, device="cpu", costs=False).passed
True
"""

from attnbench.contract.checking import Finding, Report, check

__all__ = ["Finding", "Report", "check"]
