"""What a person can put right, said in one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input. The message is one line that names the thing and the remedy; the command line prints it and exits with 2."""


class DiskFull(UserError):
    """A file of a store could not be written. What was saved before is whole."""

    def __init__(self, store: object):
        super().__init__(
            f"the disk of '{store}' is full: what was saved is kept, cells as of their last checkpoints; free some space and "
            "run the same command again"
        )


class Diverged(Exception):
    """A loss or a weight stopped being finite."""

    def __init__(self, step: int, what: str):
        super().__init__(f"diverged at step {step}: {what} is not finite")
        self.step = step


class Interrupted(Exception):
    """The person, or the machine, asked to stop; the state is saved."""

    def __init__(self, step: int):
        super().__init__(f"stopped after step {step}")
        self.step = step


def unknown(kind: str, name: str, known: Iterable[str], *, where: str = "") -> UserError:
    """The error for a name that does not exist: the nearest right name if one is near, and all of them.

    >>> str(unknown("module", "sgaa", ["scft", "sga"]))
    "unknown module 'sgaa': did you mean 'sga'? (known: scft, sga)"
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5) or [other for other in known if other.startswith(name)]
    hint = f": did you mean '{near[0]}'?" if near else ""
    choices = f"(known: {', '.join(known)})" if known else "(none is installed)"
    return UserError(f"{where + ': ' if where else ''}unknown {kind} '{name}'{hint} {choices}")
