"""The state of a service as plain JSON, for its page and for scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from operator import attrgetter, itemgetter
from typing import Any

import numpy as np

from understudy.operating_point import REFERENCE
from understudy.serving.replica_counts import ReplicaCounts
from understudy.serving.service import Service
from understudy.serving.traffic import TrafficCounts, plain

SEVEREST = ("fallen back", "warned", "watching")
"""The states of a watch, the most serious first."""

BACKENDS = {"nn": "pytorch", "onnx": "onnxruntime", "callables": "python"}
"""Package of a cascade -> what runs it."""


def status(
    service: Service, own: ReplicaCounts, others: Sequence[ReplicaCounts] = ()
) -> dict[str, Any]:
    """What the server does and has done. All figures are since it started, if not said otherwise.

    `savings` and `money` count the images whose cost is known. Latencies are those of requests in
    the last minute, in seconds; series go back 300 seconds.

    Args:
        service: that is asked.
        own: its counts.
        others: those of the other replicas of the service. Figures are of all together, the watch
            is that of the replica whose state is the most serious.
    """
    settings = service.settings
    all_counts = sorted([own, *others], key=attrgetter("name"))
    traffic = service.traffic
    if others:
        traffic = traffic.with_others([one.traffic for one in others])
    found = savings(service, traffic)
    shadows = [one.shadows for one in all_counts if one.shadows is not None]
    p50, p95, p99 = plain(traffic.recent_quantiles())
    return {
        "model": {
            "name": settings.name,
            "version": settings.version,
            "backend": backend_of(service.cascade),
            "classes": None if service.classes is None else list(service.classes),
        },
        "uptime_s": traffic.uptime,
        "ready": any(one.ready for one in all_counts),
        "token_required": settings.token is not None,
        "policy": _policy(service),
        **operating_points(service),
        "requests": {
            "answered": traffic.requests,
            **traffic.failures,
            "in_flight": sum(one.in_flight for one in all_counts),
            "max_queue": settings.max_queue * len(all_counts),
        },
        "exits": _exits(traffic, all_counts),
        "savings": found,
        "money": _money(service, found),
        "latency": {"p50": p50, "p95": p95, "p99": p99},
        "series": traffic.series(),
        "watch": _watch(all_counts),
        "shadows": {how: sum(one[how] for one in shadows) for how in shadows[0]}
        if shadows
        else None,
        "replicas": [_replica(one) for one in all_counts] if others or own.name else [],
        "latest": [
            {
                "request_id": one.request_id,
                "exit": one.exit,
                "prediction": one.prediction,
                "class": one.name,
                "confidence": one.confidence,
            }
            for replica in all_counts
            for one in replica.latest
        ],
    }


def operating_points(service: Service) -> dict[str, Any]:
    """The operating point that answers, who chose it, and all that may be chosen."""
    policies = service.policies
    reference = policies.named(REFERENCE)
    return {
        "operating_point": service.current.name,
        "chosen_by": service.chosen_by,
        "operating_points": [
            {
                "name": point.name,
                "max_drop": point.max_drop,
                "delta": point.delta,
                "cost": point.cost,
                "unit": point.unit,
                "saving": None if reference is None else 1 - point.cost / reference.cost,
                "policy": point.policy.describe(),
            }
            for point in policies.points
        ],
    }


def costs(
    service: Service, traffic: TrafficCounts | None = None
) -> dict[str, tuple[float, float, float]]:
    """Unit -> how many images were answered whose cost is known, what they cost, and what they
    would have cost by the reference."""
    exits = service.cascade.exits
    totals: dict[str, tuple[float, float, float]] = {}
    answered = (traffic or service.traffic).answered.tolist()
    for policy, counts in zip(service.policies.all, answered, strict=True):
        for unit, (by_exit, reference) in policy.known_costs.items():
            images, cost, instead = totals.get(unit, (0.0, 0.0, 0.0))
            for name, count in zip(exits, counts, strict=True):
                if name in by_exit:
                    images += count
                    cost += count * by_exit[name]
                    instead += count * reference
            totals[unit] = images, cost, instead
    return totals


def savings(service: Service, traffic: TrafficCounts | None = None) -> dict[str, dict[str, float]]:
    """Unit -> what an image cost in the mean and what it costs the reference, and the saving: as a
    share, and in all."""
    return {
        unit: {
            "mean": cost / images,
            "reference": reference / images,
            "saving": 1 - cost / reference if reference else 0.0,
            "saved": reference - cost,
        }
        for unit, (images, cost, reference) in costs(service, traffic).items()
        if images
    }


def backend_of(cascade: Any) -> str:
    """What runs a cascade: `pytorch`, `onnxruntime` or `python`."""
    package = [*type(cascade).__module__.split("."), ""][1]
    return BACKENDS.get(package, "python")


def _policy(service: Service) -> dict[str, Any]:
    policy = service.current.policy
    return {
        "text": policy.describe(),
        "stages": [
            {
                "exit": stage.exit,
                "confidence": stage.confidence,
                "threshold": _finite(stage.threshold),
            }
            for stage in policy.stages
        ],
    }


def _watch(replicas: Sequence[ReplicaCounts]) -> dict[str, Any] | None:
    """The watch that has seen the most serious, with the decisions and requests of all."""
    found = [(one.name, one.watch) for one in replicas if one.watch is not None]
    if not found:
        return None
    seen = [watch for _, watch in found]
    _, worst = min(found, key=lambda one: (SEVEREST.index(one[1]["state"]), one[0]))
    decisions = sorted(chain(*(one["decisions"] for one in seen)), key=itemgetter("time"))
    return {**worst, "requests": sum(one["requests"] for one in seen), "decisions": decisions}


def _replica(counts: ReplicaCounts) -> dict[str, Any]:
    return {
        "name": counts.name,
        "pid": counts.pid,
        "ready": counts.ready,
        "uptime_s": counts.traffic.uptime,
        "answered": counts.traffic.requests,
        "in_flight": counts.in_flight,
        "operating_point": counts.operating_point,
        "watch": None if counts.watch is None else counts.watch["state"],
    }


def _exits(traffic: TrafficCounts, replicas: Sequence[ReplicaCounts]) -> list[dict[str, Any]]:
    counts = traffic.answered.sum(0).tolist()
    total = max(1, sum(counts))
    return [
        {
            "name": name,
            "answered": count,
            "share": count / total,
            "rows": sum(one.rows[name] for one in replicas),
            "seconds": sum(one.seconds[name] for one in replicas),
        }
        for name, count in zip(traffic.exits, counts, strict=True)
    ]


def _money(service: Service, found: Mapping[str, Mapping[str, float]]) -> dict[str, Any] | None:
    """What was saved, where the price of the reference's answers is known: of each image the share
    of the price that it saved, in the unit of the operating points."""
    price, points = service.settings.price, service.policies.points
    if price is None or not points:
        return None
    totals = found.get(points[0].unit)
    images = 0.0 if totals is None else totals["saved"] / totals["reference"]
    return {
        "price": price,
        "unit": f"per 1,000 images of {service.policies.reference}",
        "saved": price * images / 1000,
    }


def _finite(threshold: float | None) -> float | None:
    """A threshold as JSON has it: None where all samples are accepted, or none."""
    return threshold if threshold is not None and np.isfinite(threshold) else None
