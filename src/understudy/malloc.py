"""A setting of the C library's allocator."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8
KEEP, PAD = 2**31 - 1, 2**26


def keep_freed_memory() -> bool:
    """Let the C library keep freed memory for this process; whether it does.

    The GNU C library hands large blocks back to the system when they are freed and takes them anew
    for the next layer's output; the page faults of that take about a third of the time of a small
    network on large batches on a CPU. Kept memory counts as used by the process until it ends; all
    threads share it, so that what decoding a photograph took serves the models afterwards. It
    concerns the whole process, so it is for programs to decide, not for a library: the command line
    does it. Other C libraries are left as they are.

    >>> keep_freed_memory() in (True, False)
    True
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    settings = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: KEEP, M_TOP_PAD: PAD, M_ARENA_MAX: 1}
    done = [mallopt(option, value) for option, value in settings.items()]
    return all(done)
