"""The threads that OpenMP keeps for whoever computed: they are in the way of the next who does."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

SOFT = 1


def release_threads() -> bool:
    """Let go of the threads that OpenMP keeps for the calling thread, and say whether it did.

    OpenMP gives every thread that computes a team of its own. With a second team there are more
    threads than cores, and then GNU's OpenMP lets all of them sleep between two loops: a small
    network took 1.8 times as long in a second thread on two cores, as long as the first kept its
    team. The team comes back when the calling thread computes again.

    >>> release_threads() in (True, False)
    True
    """
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8")
        found = re.search(r"/\S*/lib(?:gomp|omp|iomp5)\b[^/\s]*\.so\S*", maps)
        if found is None:
            return False
        return bool(ctypes.CDLL(found[0]).omp_pause_resource_all(SOFT) == 0)
    except (OSError, AttributeError):
        return False
