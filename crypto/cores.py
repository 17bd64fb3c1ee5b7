"""How many processor cores this process may use."""

from __future__ import annotations

import os


def cores() -> int:
    """Return the number of cores that this process may use, at least 1.

    An affinity mask (`taskset`, a container's cpuset) counts where the system has one.
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads() -> int:
    """Return how many threads this process may compute with: OMP_NUM_THREADS, or else one for each core.

    Ray tells an actor its cores through this variable. OpenMP allows a list there, whose first number counts.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return max(1, int(asked)) if asked.isdecimal() else cores()
