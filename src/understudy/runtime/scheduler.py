"""Requests in front of the stages of a policy, and which stage is run next."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from understudy.runtime.metrics import Metrics
from understudy.runtime.pipeline import BufferedPipeline
from understudy.runtime.protocol import Answer

FIRST_MAX_WAIT = 0.002
"""Seconds that requests wait at the first stage by default."""

IDLE_SHARE = 1 / 8
"""The share of its max wait after which the first stage is run if no stage is due."""

RETURN_TIME = 0.00025
"""Seconds in which clients that have just been answered may send their next request, before
deferred rows are run on an idle machine."""


@dataclass(eq=False, slots=True)
class Request:
    """One sample, and the future that receives its answer."""

    id: int
    image: Any
    future: asyncio.Future[Answer]
    lane: PolicyLane
    since: float
    logits: bool = False


@dataclass(eq=False)
class PolicyLane:
    """The pipeline of one policy, and the requests that wait for its first stage, in order."""

    pipeline: BufferedPipeline
    pending: dict[int, Request] = field(default_factory=dict)

    @property
    def latest(self) -> float:
        """When the last of the requests arrived that wait for the first stage."""
        return next(reversed(self.pending.values())).since

    def waiting(self, position: int) -> tuple[int, float]:
        """The number of rows that wait for a stage, and when the oldest began to wait."""
        if position == 0 and self.pending:
            return len(self.pending), next(iter(self.pending.values())).since
        buffer = self.pipeline.buffers[position]
        return buffer.count, buffer.since


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
    """

    lane: PolicyLane
    position: int
    rows: int
    limit: int
    since: float
    due: float
    idle: float


def ready_stages(
    lanes: Sequence[PolicyLane],
    *,
    metrics: Metrics,
    max_wait: Callable[[str], float | None],
    delivered: float,
    at_once: bool,
) -> list[ReadyStage]:
    """All stages with waiting rows, and when each may be run.

    Where the thread is idle, a stage does not wait for rows that are not expected: the first stage
    once no request has arrived for a while, later stages once no request waits for the first.

    Args:
        lanes: the pipelines of the policies in use.
        metrics: the sizes and the recent times of batches.
        max_wait: stage -> seconds that its oldest row waits, None for the default: 2 ms at the
            first stage; at later ones the time of a recent batch, so that waiting at most about
            doubles the time that the stage costs a row.
        delivered: when answers were delivered last.
        at_once: whether nothing is waited for, because no further request can arrive.
    """
    stages = []
    for lane in lanes:
        for position, runner in enumerate(lane.pipeline.runners):
            rows, since = lane.waiting(position)
            if not rows:
                continue
            wait = max_wait(runner.name)
            if wait is None:
                wait = metrics.batch_seconds(runner.name) if position else FIRST_MAX_WAIT
            due = idle = since if at_once else since + wait
            if position == 0:
                idle = min(due, lane.latest + IDLE_SHARE * (due - since))
            elif not lane.pending:
                idle = min(due, max(since, delivered) + RETURN_TIME)
            limit = metrics.limit(runner.name)
            stages.append(ReadyStage(lane, position, rows, limit, since, due, idle))
    return stages


def next_stage(stages: Sequence[ReadyStage], now: float) -> ReadyStage | None:
    """The stage to run now; None to wait for more rows.

    A stage is due when its batch is full or its oldest row has waited for the max wait. Of the
    stages that are due the last of the cascade is run first (its rows hold the most memory), the
    longest waiting of several. Where no stage is due, the last that may be run at idle times.

    >>> from unittest.mock import Mock
    >>> lane = Mock(PolicyLane)
    >>> first = ReadyStage(lane, 0, rows=9, limit=16, since=0.0, due=2.0, idle=2.0)
    >>> later = ReadyStage(lane, 1, rows=4, limit=16, since=0.5, due=9.0, idle=0.5)
    >>> next_stage([first], now=1.0) is None
    True
    >>> [next_stage([first, later], now).position for now in (1.0, 2.0, 9.0)]
    [1, 0, 1]
    """
    due = [stage for stage in stages if stage.rows >= stage.limit or stage.due <= now]
    ready = due or [stage for stage in stages if stage.idle <= now]
    return max(ready, key=lambda stage: (stage.position, -stage.since), default=None)
