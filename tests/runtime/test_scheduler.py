"""Which stage is run next, and when: functions of times alone."""

from __future__ import annotations

import asyncio
import math
from threading import Condition, Lock

import numpy as np
import pytest

from lookup_cascade import LookupCascade, random_table
from sample_rows import chain, images_of
from understudy.runtime.buffer import RowBatch
from understudy.runtime.lanes import Call, PolicyLane, Request, Traffic
from understudy.runtime.metrics import Metrics
from understudy.runtime.offline import OfflineRun
from understudy.runtime.pipeline import BufferedPipeline
from understudy.runtime.places import Admission, Places
from understudy.runtime.scheduler import (
    BACKGROUND_MAX_WAIT,
    FIRST_MAX_WAIT,
    IDLE_SHARE,
    RETURN_TIME,
    ReadyStage,
    background_stages,
    next_stage,
    ready_stages,
)

SIZES = {"tiny": 8, "middle": 8, "big": 8}


def lane_of(metrics: Metrics, arrivals: list[float], deferred: int = 0) -> PolicyLane:
    """Requests that arrived at these times, and rows that wait for the second stage."""
    cascade = LookupCascade(random_table(20), chain())
    sink = OfflineRun(cascade, metrics=metrics, device=Lock())
    lane = PolicyLane(BufferedPipeline(cascade.runners, sink, metrics=metrics, device=Lock()))
    loop = asyncio.new_event_loop()
    call = Call.of(len(arrivals), Admission(loop, Places(1)), print, held=0, logits=False)
    for number, since in enumerate(arrivals):
        lane.pending[number] = Request(number, None, call, number, lane, since)
    loop.close()
    if deferred:
        rows = np.arange(deferred)
        lane.pipeline.buffers[1].add(RowBatch(images_of(rows), {}, rows), rows)
    return lane


def ready(
    lane: PolicyLane,
    metrics: Metrics,
    max_wait: float | None,
    *,
    delivered: float = 0.0,
    at_once: bool = False,
) -> list[ReadyStage]:
    traffic = traffic_of(lane, metrics)
    traffic.delivered = delivered
    return ready_stages(traffic, max_wait=lambda name: max_wait, at_once=at_once)


def traffic_of(lane: PolicyLane, metrics: Metrics) -> Traffic:
    traffic = Traffic(metrics, Condition())
    traffic.lanes.append(lane)
    return traffic


def test_the_first_stage_is_due_after_its_max_wait_and_runs_earlier_when_idle() -> None:
    metrics = Metrics(SIZES)
    (stage,) = ready(lane_of(metrics, [10.0, 10.5]), metrics, 8.0)
    assert (stage.position, stage.rows, stage.since) == (0, 2, 10.0)
    assert stage.due == 18.0
    assert stage.idle == 10.5 + IDLE_SHARE * 8.0


def test_the_default_max_wait_of_the_first_stage() -> None:
    metrics = Metrics(SIZES)
    metrics.add_seconds("tiny", 5.0)
    metrics.add_seconds("tiny", 5.0)
    (stage,) = ready(lane_of(metrics, [10.0]), metrics, None)
    assert stage.due == 10.0 + FIRST_MAX_WAIT


def test_later_stages_wait_for_the_time_of_a_batch_while_requests_arrive() -> None:
    """The smaller of the last two times; nothing before the second batch."""
    metrics = Metrics(SIZES)
    lane = lane_of(metrics, [0.0], deferred=3)
    since = lane.pipeline.buffers[1].since
    expected = {None: 0.0, 0.7: 0.0, 0.5: 0.5, 0.6: 0.5, 0.9: 0.6}
    for seconds, wait in expected.items():
        if seconds is not None:
            metrics.add_seconds("middle", seconds)
        stage = ready(lane, metrics, None)[1]
        assert (stage.position, stage.rows) == (1, 3)
        assert stage.due == stage.idle == pytest.approx(since + wait)


def test_deferred_rows_wait_shortly_when_no_request_is_pending() -> None:
    metrics = Metrics(SIZES)
    lane = lane_of(metrics, [], deferred=3)
    since = lane.pipeline.buffers[1].since
    (stage,) = ready(lane, metrics, 9.0)
    assert stage.due == since + 9.0
    assert stage.idle == since + RETURN_TIME
    (stage,) = ready(lane, metrics, 9.0, delivered=since + 1.0)
    assert stage.idle == since + 1.0 + RETURN_TIME


def test_nothing_waits_when_no_further_request_can_arrive() -> None:
    metrics = Metrics(SIZES)
    lane = lane_of(metrics, [4.0, 5.0], deferred=3)
    first, second = ready(lane, metrics, math.inf, at_once=True)
    assert first.due == 4.0
    assert second.due == second.since


def test_an_infinite_max_wait_is_never_due() -> None:
    metrics = Metrics(SIZES)
    (stage,) = ready(lane_of(metrics, [4.0]), metrics, math.inf)
    assert stage.due == stage.idle == math.inf


# The background.


def in_background(
    arrivals: list[float], *, busy: bool, quiet: float = 0.0, rested: float = 0.0, deferred: int = 0
) -> list[ReadyStage]:
    metrics = Metrics(SIZES)
    traffic = traffic_of(lane_of(metrics, arrivals, deferred), metrics)
    return background_stages(traffic, busy=busy, quiet=quiet, rested=rested)


def test_the_background_runs_when_nothing_else_waits_and_it_is_quiet() -> None:
    (stage,) = in_background([10.0], busy=False, quiet=10.5, rested=100.0)
    assert stage.idle == 10.5
    assert next_stage([stage], 10.4) is None
    assert next_stage([stage], 10.5) is stage


def test_full_batches_of_the_background_run_when_nothing_else_may() -> None:
    metrics = Metrics(SIZES)
    (other,) = ready(lane_of(metrics, [10.0]), metrics, 8.0)
    (stage,) = in_background([10.5] * 8, busy=True, rested=10.8)
    (few,) = in_background([10.5] * 7, busy=True, rested=10.8)
    assert next_stage([other, stage], 10.7) is None
    assert next_stage([other, stage], 10.8) is stage
    assert next_stage([other, few], 10.8) is None
    assert next_stage([other, stage], other.idle) is other


def test_the_background_takes_its_turn_after_its_max_wait_and_a_rest() -> None:
    metrics = Metrics(SIZES)
    (other,) = ready(lane_of(metrics, [10.5] * 8), metrics, 8.0)
    (stage,) = in_background([10.0], busy=True, rested=0.0)
    assert stage.due == 10.0 + BACKGROUND_MAX_WAIT
    assert next_stage([other, stage], 10.9) is other
    assert next_stage([other, stage], 11.0) is stage
    (tired,) = in_background([10.0], busy=True, rested=20.0)
    assert next_stage([other, tired], 19.0) is other
    assert next_stage([other, tired], 20.0) is tired


def test_later_stages_that_are_due_come_before_the_background() -> None:
    metrics = Metrics(SIZES)
    later = ready(lane_of(metrics, [], deferred=8), metrics, 8.0)
    (stage,) = in_background([0.0], busy=True)
    assert next_stage([*later, stage], later[0].since) is later[0]
