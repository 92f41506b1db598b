"""attnbench: a benchmark of correspondence modules for reference-based line-art colorization.

For authors of modules: `check`, `branch`, `observe`, `Attention`, `at_least_float32`, `no_autocast`. For those who measure:
`run`, `results`, `compare`. For those who colour pictures: `load`, `colorize`. Names are imported when they are first used, so
that `import attnbench` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attnbench.attention import Attention as Attention
    from attnbench.backbone import Context as Context
    from attnbench.backbone import Encoded as Encoded
    from attnbench.colorization import colorize as colorize
    from attnbench.comparison import compare as compare
    from attnbench.contract import check as check
    from attnbench.execute.run import run as run
    from attnbench.precision import at_least_float32 as at_least_float32
    from attnbench.precision import no_autocast as no_autocast
    from attnbench.probe import branch as branch
    from attnbench.probe import observe as observe
    from attnbench.store import load as load
    from attnbench.store import results as results

_HOME = {
    "Attention": "attnbench.attention",
    "Context": "attnbench.backbone",
    "Encoded": "attnbench.backbone",
    "at_least_float32": "attnbench.precision",
    "branch": "attnbench.probe",
    "check": "attnbench.contract",
    "colorize": "attnbench.colorization",
    "compare": "attnbench.comparison",
    "load": "attnbench.store",
    "no_autocast": "attnbench.precision",
    "observe": "attnbench.probe",
    "results": "attnbench.store",
    "run": "attnbench.execute.run",
}
__all__ = [
    "Attention",
    "Context",
    "Encoded",
    "at_least_float32",
    "branch",
    "check",
    "colorize",
    "compare",
    "load",
    "no_autocast",
    "observe",
    "results",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'attnbench' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
