"""Where models run."""

from __future__ import annotations

import torch

from understudy.errors import ModelError


def usable_device(name: str | None) -> str:
    """The device, as torch names it; by default an NVIDIA GPU if there is one, else the CPU.

    >>> usable_device("cpu")
    'cpu'

    Raises:
        ModelError: it cannot be used on this machine.
    """
    chosen = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(
            f"device {chosen!r} cannot be used ({str(error).splitlines()[0]}): try 'cpu'"
        ) from error
    return chosen
