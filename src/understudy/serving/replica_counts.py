"""What one replica of a service does and has done, as another replica is told it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from understudy.serving.latest_answers import LatestAnswer
from understudy.serving.traffic import TrafficCounts


@dataclass(frozen=True, eq=False)
class ReplicaCounts:
    """What one replica does and has done.

    Attributes:
        name: of the replica; empty for a server that runs alone.
        pid: of its process, on its machine.
        operating_point: that answers.
        ready: whether it takes requests.
        in_flight: images.
        traffic: its counts.
        rows, seconds: exit -> rows that it has run on, and for how long.
        watch: a snapshot; None without a watch.
        shadows: result -> how many.
        latest: the latest answers of each exit, without their images.
    """

    name: str
    pid: int
    operating_point: str | None
    ready: bool
    in_flight: int
    traffic: TrafficCounts
    rows: Mapping[str, int]
    seconds: Mapping[str, float]
    watch: Mapping[str, Any] | None
    shadows: Mapping[str, int] | None
    latest: Sequence[LatestAnswer]
