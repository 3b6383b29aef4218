"""The colours of the page: told apart without colour vision, too."""

from __future__ import annotations

from collections.abc import Sequence

LINE, PLAN, SINGLE, BUDGET = "#0072b2", "#d55e00", "#555555", "#767676"
RANDOM, ORACLE = "#b07c00", "#007a5a"
INK, GRID, FAINT = "#333333", "#e8e8e8", "#c8c8c8"

_RAMP = ((0.27, 0.0, 0.33), (0.23, 0.32, 0.55), (0.13, 0.57, 0.55), (0.37, 0.79, 0.38))


def colours(names: Sequence[str]) -> dict[str, str]:
    """A colour per exit, from light (cheap) to dark (dear).

    >>> colours(["tiny", "big"])
    {'tiny': '#5ec961', 'big': '#450054'}
    """
    last = len(_RAMP) - 1
    found = {}
    for number, name in enumerate(names):
        at = last * (1 - number / max(len(names) - 1, 1))
        below = min(int(at), last - 1)
        mixed = (
            a + (at - below) * (b - a) for a, b in zip(_RAMP[below], _RAMP[below + 1], strict=True)
        )
        found[name] = "#" + "".join(f"{round(255 * part):02x}" for part in mixed)
    return found
