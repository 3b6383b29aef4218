"""A cascade of two stages as a watch sees it: simulated confidences and answers."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from understudy.baseline import Baseline, StageBaseline
from understudy.monitoring.settings import WatchSettings
from understudy.monitoring.watch import Watch
from understudy.monitoring.watch_state import WatchState
from understudy.monitoring.watched_points import watched_points
from understudy.operating_point import OperatingPoint
from understudy.policy import Policy

EDGES = tuple((np.arange(1, 40) / 40).tolist())
CERTIFY = 4000


def point_of(
    max_drop: float, threshold: float, *, disagreements: int = 80, seed: int = 0
) -> OperatingPoint:
    """An operating point whose confidences were uniform on the certify samples."""
    rng = np.random.default_rng(seed)
    tiny, big = rng.random(CERTIFY), rng.random(CERTIFY)
    stages = tuple(
        StageBaseline(name, EDGES, tuple(np.histogram(values, [0, *EDGES, 1])[0].tolist()))
        for name, values in (("tiny", tiny), ("big", big[tiny < threshold]))
    )
    baseline = Baseline(
        reference="big",
        samples=CERTIFY,
        disagreements=disagreements,
        stages=stages,
        costs={"MACs": {"tiny": 1.0, "big": 10.0}},
        reference_costs={"MACs": 9.0},
    )
    policy = Policy.pair("tiny", "big", threshold)
    return OperatingPoint(policy, max_drop, 0.05, 2.0, "MACs", None, baseline)


POINTS = (
    point_of(1.0, 0.5),
    point_of(0.5, 0.75, disagreements=40),
    OperatingPoint(Policy.single("big"), 0.0, 0.0, 9.0, "MACs"),
)


def clock() -> Callable[[], float]:
    """A clock that goes on by a tenth of a second whenever it is read."""
    ticks = itertools.count()
    return lambda: 1000 + next(ticks) / 10


def watch_of(settings: WatchSettings | None = None, *, seed: int = 0) -> Watch:
    """A watch of the points, at the loosest one."""
    state = WatchState.start(watched_points(POINTS), settings or WatchSettings(), "drop-1")
    return Watch(state, clock=clock(), coins=np.random.default_rng(seed))


def live(
    watch: Watch,
    requests: int,
    *,
    differing: float,
    confidence: Callable[[np.random.Generator, int], np.ndarray] = lambda rng, n: rng.random(n),
    seed: int = 1,
    batch: int = 25,
    labels: bool = False,
) -> int:
    """Traffic until it ends or the watch falls back; the requests there were.

    Args:
        watch: the watch.
        requests: how many.
        differing: of the answers, from the reference's; the reference is always right.
        confidence: of both stages.
        seed, batch: of the traffic.
        labels: whether labels come at once.
    """
    rng = np.random.default_rng(seed)
    for start in range(0, requests, batch):
        point = watch.point
        if point == "reference":
            return start
        ids = [f"{seed}-{start + k}" for k in range(batch)]
        tickets = [watch.draw(one, point) for one in ids]
        watch.observe(point, 0, confidence(rng, batch))
        watch.observe(point, 1, confidence(rng, batch // 2))
        answers = (rng.random(batch) < differing).astype(int).tolist()
        for one, ticket, answer in zip(ids, tickets, answers, strict=True):
            watch.answered(one, point, answer)
            if ticket is not None:
                watch.shadowed(ticket, answer, 0)
        if labels:
            watch.feedback([(one, 0) for one in ids])
        if any(one.kind == "fall-back" for one in watch.decisions):
            return start + batch
    return requests
