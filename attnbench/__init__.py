"""attnbench: a benchmark of correspondence modules for reference-based line-art colorization.

For authors of modules: `check`, `branch`, `observe`, `Attention`, `at_least_float32`, `no_autocast`, `warn`. For authors of
metrics: `check_metric`, `Pictures`, `Score`, `NotMeasurable`, `Weights`. For those who measure: `run`, `results`, `compare`.
For those who colour pictures: `load`, `colorize`. Names are imported on first use, so that `import attnbench` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attnbench.colorization.coloring import colorize
    from attnbench.console import warn
    from attnbench.contract.checking import check
    from attnbench.contract.metric_checking import check_metric
    from attnbench.errors import CellsFailed, NotMeasurable, UserError
    from attnbench.execute.measure_store import measure
    from attnbench.execute.run import run
    from attnbench.method.attention import Attention
    from attnbench.method.backbone import Context, Encoded
    from attnbench.method.precision import at_least_float32, no_autocast
    from attnbench.method.probe import branch, observe
    from attnbench.metrics.metric import Score
    from attnbench.metrics.pictures import Pictures
    from attnbench.store.frame import results
    from attnbench.store.generators import load
    from attnbench.tables.comparison import compare
    from attnbench.weights import Weights

_HOME = {
    "Attention": "attnbench.method.attention",
    "CellsFailed": "attnbench.errors",
    "Context": "attnbench.method.backbone",
    "Encoded": "attnbench.method.backbone",
    "NotMeasurable": "attnbench.errors",
    "Pictures": "attnbench.metrics.pictures",
    "Score": "attnbench.metrics.metric",
    "UserError": "attnbench.errors",
    "Weights": "attnbench.weights",
    "at_least_float32": "attnbench.method.precision",
    "branch": "attnbench.method.probe",
    "check": "attnbench.contract.checking",
    "check_metric": "attnbench.contract.metric_checking",
    "colorize": "attnbench.colorization.coloring",
    "compare": "attnbench.tables.comparison",
    "load": "attnbench.store.generators",
    "measure": "attnbench.execute.measure_store",
    "no_autocast": "attnbench.method.precision",
    "observe": "attnbench.method.probe",
    "results": "attnbench.store.frame",
    "run": "attnbench.execute.run",
    "warn": "attnbench.console",
}
__all__ = [
    "Attention",
    "CellsFailed",
    "Context",
    "Encoded",
    "NotMeasurable",
    "Pictures",
    "Score",
    "UserError",
    "Weights",
    "at_least_float32",
    "branch",
    "check",
    "check_metric",
    "colorize",
    "compare",
    "load",
    "measure",
    "no_autocast",
    "observe",
    "results",
    "run",
    "warn",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'attnbench' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
