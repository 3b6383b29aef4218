"""Which stage is run next, where requests come one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Owner = TypeVar("Owner")


@dataclass(frozen=True)
class ReadyStage(Generic[Owner]):
    """A stage with waiting rows, which could be run.

    Attributes:
        owner: the line that the stage is in.
        position: its place there.
        rows: how many rows wait.
        limit: how many it takes at a time.
        since: when the oldest came.
        due: when that will have waited long enough; the same clock.
        idle: when it may be run if no stage is due; not after `due`.
    """

    owner: Owner
    position: int
    rows: int
    limit: int
    since: float
    due: float
    idle: float


def next_stage(turns: Sequence[ReadyStage[Owner]], now: float) -> ReadyStage[Owner] | None:
    """The stage to run now; None to wait for more rows.

    A stage is due when its batch is full or its oldest row has waited long enough. Of the stages
    that are due the last of the cascade goes first (its rows have come furthest and make room), the
    longest waiting of several. Where none is due, the last that may be run at idle times.

    >>> first = ReadyStage("line", 0, rows=9, limit=16, since=0.0, due=2.0, idle=2.0)
    >>> later = ReadyStage("line", 1, rows=4, limit=16, since=0.5, due=9.0, idle=0.5)
    >>> chosen([first], now=1.0) is None
    True
    >>> [chosen([first, later], now).position for now in (1.0, 2.0, 9.0)]
    [1, 0, 1]
    """
    due = [turn for turn in turns if turn.rows >= turn.limit or turn.due <= now]
    ready = due or [turn for turn in turns if turn.idle <= now]
    return max(ready, key=lambda turn: (turn.position, -turn.since), default=None)
