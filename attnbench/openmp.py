"""How long OpenMP's threads spin while waiting for each other.

PyTorch splits an operation over the cores and waits until every part is done. GNU's OpenMP waits by spinning, up to 300,000
rounds, which is milliseconds, before a thread goes to sleep. On idle cores that saves a wake-up. Next to other
processes it does harm: the spinning thread holds the core that the thread it waits for needs. See docs/where-the-time-goes.md
for measurements.
"""

from __future__ import annotations

import os

SPIN_COUNT = 1000  # libgomp's default for OMP_WAIT_POLICY=active with more threads than cores


def limit_spinning() -> None:
    """Make idle threads sleep early, in this process and its children. Call it before torch is imported.

    The environment variables OMP_WAIT_POLICY and GOMP_SPINCOUNT, if set, are left as they are. No number depends on this.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = str(SPIN_COUNT)
