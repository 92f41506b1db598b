"""How long OpenMP's threads spin while they wait for each other.

PyTorch splits an operation over the cores and waits until every part is done. GNU's OpenMP waits by spinning, up to 300,000
rounds, which is milliseconds, before a thread goes to sleep. On idle cores that saves a wake-up. Beside other processes
it is a trap: the spinning thread holds the core that the thread it waits for needs. docs/where-the-time-goes.md measures it.
"""

from __future__ import annotations

import os

SPIN_COUNT = 1000  # libgomp's own for OMP_WAIT_POLICY=active with more threads than cores


def limit_spinning() -> None:
    """Make idle threads sleep early, in this process and in those it starts. To be called before torch is imported.

    The environment variables OMP_WAIT_POLICY and GOMP_SPINCOUNT, if set, are left as they are. No number depends on this.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = str(SPIN_COUNT)
