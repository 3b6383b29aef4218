"""Which stage is run next, and when: of requests, and of those in the background."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from understudy.runtime.lanes import PolicyLane, Traffic

FIRST_MAX_WAIT = 0.002
"""Seconds that requests wait at the first stage by default."""

IDLE_SHARE = 1 / 8
"""The share of its max wait after which the first stage is run if no stage is due."""

RETURN_TIME = 0.00025
"""Seconds in which clients that have just been answered may send their next request, before
deferred rows are run on an idle machine."""

BACKGROUND_MAX_WAIT = 1.0
"""Seconds that rows in the background wait before they take their turn among the others."""

BACKGROUND_SHARE = 1 / 4
"""The share of the time that rows in the background take at most while others wait."""

QUIET_TIME = 0.002
"""Seconds without an answer after which an idle machine runs rows in the background."""


@dataclass(frozen=True)
class ReadyStage:
    """A stage with waiting rows, which could be run.

    Attributes:
        lane: the lane that the stage is in.
        position: its position in the policy.
        rows: the number of rows that wait.
        limit: the number of rows that it takes at a time.
        since: when the oldest row began to wait.
        due: when the oldest row has waited for its max wait; the same clock.
        idle: when the stage may be run if no stage is due; not after `due`.
        background: whether the rows are in the background.
    """

    lane: PolicyLane
    position: int
    rows: int
    limit: int
    since: float
    due: float
    idle: float
    background: bool = False

    @property
    def full(self) -> bool:
        """Whether as many rows wait as it takes at a time."""
        return self.rows >= self.limit


def ready_stages(
    traffic: Traffic, *, max_wait: Callable[[str], float | None], at_once: bool
) -> list[ReadyStage]:
    """All stages with waiting rows, and when each may be run.

    Where the thread is idle, a stage does not wait for rows that are not expected: the first stage
    once no request has arrived for a while, later stages once no request waits for the first.

    Args:
        traffic: the requests.
        max_wait: stage -> seconds that its oldest row waits, None for the default: 2 ms at the
            first stage; at later ones the time of a recent batch, so that waiting at most about
            doubles the time that the stage costs a row.
        at_once: whether nothing is waited for, because no further request can arrive.
    """
    stages, metrics = [], traffic.metrics
    for lane, position, rows, since in _waiting(traffic):
        name = lane.pipeline.runners[position].name
        wait = max_wait(name)
        if wait is None:
            wait = metrics.batch_seconds(name) if position else FIRST_MAX_WAIT
        due = idle = since if at_once else since + wait
        if position == 0:
            idle = min(due, lane.latest + IDLE_SHARE * (due - since))
        elif not lane.pending:
            idle = min(due, max(since, traffic.delivered) + RETURN_TIME)
        stages.append(ReadyStage(lane, position, rows, metrics.limit(name), since, due, idle))
    return stages


def background_stages(
    traffic: Traffic, *, busy: bool, quiet: float, rested: float
) -> list[ReadyStage]:
    """All stages with rows that wait in the background, and when each may be run.

    Where no other rows wait, once no other request was answered for a while. Else when their batch
    is full and no other stage may be run, or in turn with the others when the oldest has waited for
    `BACKGROUND_MAX_WAIT`; both after a rest, so that the others keep most of the time.

    Args:
        traffic: the requests in the background.
        busy: whether other rows wait.
        quiet: when no other request has been answered for a while.
        rested: when the next batch may be run while other rows wait.
    """
    stages = []
    for lane, position, rows, since in _waiting(traffic):
        limit = traffic.metrics.limit(lane.pipeline.runners[position].name)
        due = max(since + BACKGROUND_MAX_WAIT, rested)
        idle = due
        if not busy:
            idle = min(due, quiet)
        elif rows >= limit:
            idle = rested
        stages.append(ReadyStage(lane, position, rows, limit, since, due, idle, background=True))
    return stages


def next_stage(stages: Sequence[ReadyStage], now: float) -> ReadyStage | None:
    """The stage to run now; None to wait for more rows.

    A stage is due when its batch is full or its oldest row has waited for the max wait; one in the
    background by its time alone. Of the stages that are due the last of the cascade is run first
    (its rows hold the most memory), the longest waiting of several. Where no stage is due, the last
    that may be run at idle times, and those in the background after all others.

    >>> from unittest.mock import Mock
    >>> lane = Mock(PolicyLane)
    >>> first = ReadyStage(lane, 0, rows=9, limit=16, since=0.0, due=2.0, idle=2.0)
    >>> later = ReadyStage(lane, 1, rows=4, limit=16, since=0.5, due=9.0, idle=0.5)
    >>> next_stage([first], now=1.0) is None
    True
    >>> [next_stage([first, later], now).position for now in (1.0, 2.0, 9.0)]
    [1, 0, 1]
    """
    due = [one for one in stages if one.due <= now or (one.full and not one.background)]
    idle = [one for one in stages if one.idle <= now]
    ready = due or [one for one in idle if not one.background] or idle
    return max(ready, key=lambda stage: (stage.position, -stage.since), default=None)


def _waiting(traffic: Traffic) -> Iterator[tuple[PolicyLane, int, int, float]]:
    """Lane and position of all stages with waiting rows, how many wait, and since when."""
    for lane in traffic.lanes:
        for position in range(len(lane.pipeline.runners)):
            rows, since = lane.waiting(position)
            if rows:
                yield lane, position, rows, since
