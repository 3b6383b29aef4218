"""The state of a service as plain JSON, for its page and for scripts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from understudy.operating_point import REFERENCE
from understudy.serving.service import Service
from understudy.serving.traffic import plain

BACKENDS = {"nn": "pytorch", "onnx": "onnxruntime", "callables": "python"}
"""Package of a cascade -> what runs it."""


def status(service: Service) -> dict[str, Any]:
    """What the server does and has done. All figures are since it started, if not said otherwise.

    `savings` and `money` count the images whose cost is known. Latencies are those of requests in
    the last minute, in seconds; series go back 300 seconds.
    """
    traffic, settings = service.traffic, service.settings
    found = savings(service)
    p50, p95, p99 = plain(traffic.recent_quantiles())
    return {
        "model": {
            "name": settings.name,
            "version": settings.version,
            "backend": backend_of(service.cascade),
            "classes": None if service.classes is None else list(service.classes),
        },
        "uptime_s": traffic.uptime,
        "ready": service.ready,
        "token_required": settings.token is not None,
        "policy": _policy(service),
        **operating_points(service),
        "requests": {
            "answered": traffic.requests,
            **traffic.failures,
            "in_flight": service.in_flight,
            "max_queue": settings.max_queue,
        },
        "exits": _exits(service),
        "savings": found,
        "money": _money(service, found),
        "latency": {"p50": p50, "p95": p95, "p99": p99},
        "series": traffic.series(),
        "watch": None if service.watching is None else service.watching.watch.snapshot(),
        "shadows": None if service.watching is None else service.watching.shadows,
        "latest": [
            {
                "request_id": one.request_id,
                "exit": one.exit,
                "prediction": one.prediction,
                "class": one.name,
                "confidence": one.confidence,
            }
            for one in service.latest
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


def costs(service: Service) -> dict[str, tuple[float, float, float]]:
    """Unit -> how many images were answered whose cost is known, what they cost, and what they
    would have cost by the reference."""
    exits = service.cascade.exits
    totals: dict[str, tuple[float, float, float]] = {}
    for policy, counts in zip(service.policies.all, service.traffic.answered.tolist(), strict=True):
        for unit, (by_exit, reference) in policy.known_costs.items():
            images, cost, instead = totals.get(unit, (0.0, 0.0, 0.0))
            for name, count in zip(exits, counts, strict=True):
                if name in by_exit:
                    images += count
                    cost += count * by_exit[name]
                    instead += count * reference
            totals[unit] = images, cost, instead
    return totals


def savings(service: Service) -> dict[str, dict[str, float]]:
    """Unit -> what an image cost in the mean and what it costs the reference, and the saving: as a
    share, and in all."""
    return {
        unit: {
            "mean": cost / images,
            "reference": reference / images,
            "saving": 1 - cost / reference if reference else 0.0,
            "saved": reference - cost,
        }
        for unit, (images, cost, reference) in costs(service).items()
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


def _exits(service: Service) -> list[dict[str, Any]]:
    counts = service.traffic.answered.sum(0).tolist()
    stats, total = service.executor.stats, max(1, sum(counts))
    return [
        {
            "name": name,
            "answered": count,
            "share": count / total,
            "rows": stats.rows[name],
            "seconds": stats.seconds[name],
        }
        for name, count in zip(service.cascade.exits, counts, strict=True)
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
