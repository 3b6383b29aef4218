"""Ways of doing the same on a device, timed in turns."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

import torch

Way = Callable[[], object]
Seconds = Mapping[str, Sequence[float]]
"""Way -> its seconds, round by round."""

WARM = 3  # a graph that is recorded on the device runs from its third call on
LEAST = 3  # rounds


def seconds(way: Way, device: torch.device) -> float:
    """How long it takes until all its work on the device has finished."""
    _finish(device)
    start = perf_counter()
    way()
    _finish(device)
    return perf_counter() - start


def timed(
    ways: Mapping[str, Way], device: torch.device, *, rounds: int, limit: float = 60.0
) -> dict[str, list[float]]:
    """The seconds of each, once per round, in alternating order, after some runs to warm up.

    Args:
        ways: by name.
        device: where they compute.
        rounds: how many.
        limit: seconds after which three rounds have to do.
    """
    for way in ways.values():
        for _ in range(WARM):
            way()
    found: dict[str, list[float]] = {name: [] for name in ways}
    start = perf_counter()
    for number in range(rounds):
        if number >= LEAST and perf_counter() - start > limit:
            break
        for name in list(ways)[:: 1 if number % 2 else -1]:
            found[name].append(seconds(ways[name], device))
    return found


def spread(values: Sequence[float]) -> dict[str, Any]:
    """The median of some rounds, their range, and how many they are."""
    return {
        "median": statistics.median(values),
        "low": min(values),
        "high": max(values),
        "rounds": len(values),
    }


def times_as_fast(found: Seconds, way: str, other: str) -> dict[str, Any]:
    """How many times as fast one way is as another, round by round."""
    return spread([b / a for a, b in zip(found[way], found[other], strict=True)])


def rates(found: Seconds, images: int) -> dict[str, float]:
    """Images per second of each way, by its median round."""
    return {name: images / statistics.median(values) for name, values in found.items()}


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
