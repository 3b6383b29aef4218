"""How kernels are compiled: without the interpreter's lock, kept on disk where possible.

Modules of kernels are imported on first use, because importing Numba is slow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """The function, compiled on first call; from the cache on disk if a folder can be written."""
    kernel: Function
    try:
        kernel = numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no folder for the cache can be written
        kernel = numba.njit(nogil=True)(function)
    return kernel
