"""Errors. The message of one that the user can fix is a single line that names the problem and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """Bad input. The message is one line that names the problem and the remedy; the command line prints it and exits with 2."""


class DiskFull(UserError):
    """A file in the store could not be written. Everything saved before is intact."""

    def __init__(self, store: object):
        super().__init__(
            f"the disk of '{store}' is full: everything up to the cells' last checkpoints is kept; free some space and run the "
            "same command again"
        )


class CellsFailed(Exception):
    """Cells of a grid failed. All others have been run, and the failures are recorded in the store.

    Attributes:
        failed: labels of the failed cells.
    """

    def __init__(self, failed: Sequence[str], cells: int, store: object):
        named = ", ".join(failed[:5]) + (", ..." if len(failed) > 5 else "")
        super().__init__(f"{len(failed)} of {cells} cells failed: {named}; `attnbench status {store}` shows why")
        self.failed = failed


class NotMeasurable(Exception):
    """A metric has no meaning for these pictures, or lacks what it needs; the message says why, and stands in its place."""


class Diverged(Exception):
    """A loss or a weight stopped being finite."""

    def __init__(self, step: int, what: str):
        super().__init__(f"diverged at step {step}: {what} is not finite")
        self.step = step


class Interrupted(Exception):
    """The user, or the system, asked to stop; the state is saved."""

    def __init__(self, step: int):
        super().__init__(f"stopped after step {step}")
        self.step = step


def unknown(kind: str, name: str, known: Iterable[str], *, where: str = "") -> UserError:
    """The error for an unknown name: it suggests the nearest known name, if one is near, and lists all of them.

    >>> str(unknown("module", "sgaa", ["scft", "sga"]))
    "unknown module 'sgaa': did you mean 'sga'? (known: scft, sga)"
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5) or [other for other in known if other.startswith(name)]
    hint = f": did you mean '{near[0]}'?" if near else ""
    choices = f"(known: {', '.join(known)})" if known else "(none installed)"
    return UserError(f"{where + ': ' if where else ''}unknown {kind} '{name}'{hint} {choices}")
