"""How often the threads of a program take turns in Python."""

from __future__ import annotations

import sys

SWITCH_SECONDS = 0.0003


def switch_threads_often(seconds: float = SWITCH_SECONDS) -> None:
    """Let the threads of this process take turns after so many seconds at most.

    One thread at a time runs Python. A thread that comes back from a matrix product waits until the
    one that runs blocks by itself, or for 5 ms, Python's default. Where the event loop is busy with
    other work, such as parsing requests, the thread of an `Executor` would wait for so long after
    every operation of a model. It concerns the whole process, so it is for programs to decide, not
    for a library: a server does it once at the start.

    >>> before = sys.getswitchinterval()
    >>> switch_threads_often()
    >>> sys.getswitchinterval() < 0.005
    True
    >>> sys.setswitchinterval(before)
    """
    sys.setswitchinterval(seconds)
