"""Metrics of Prometheus, made from the counts of a service when they are asked for.

Names and units follow Prometheus: seconds, `_total` for what only rises.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from understudy.serving.service import Service
from understudy.serving.service_status import costs
from understudy.serving.traffic import EDGES, LATENCY_BUCKETS

CONTENT_TYPE = CONTENT_TYPE_LATEST
_REASONS = {
    "rejected": "REJECTED",
    "late": "DEADLINE",
    "failed": "BACKEND",
    "cancelled": "CANCELED",
}
_STAGE_COUNTS = (
    ("rows", "Rows that a stage has run on"),
    ("batches", "Batches that a stage has run on"),
    ("seconds", "Seconds that a stage has computed"),
    ("nan", "Rows whose logits were NaN"),
    ("failed", "Rows that a stage left without an answer"),
    ("out_of_memory", "Batches that were halved because memory ran out"),
)


def text_of(replicas: Sequence[Sequence[Metric]]) -> bytes:
    """The metrics of all replicas of a service in the text format of Prometheus."""
    joined: dict[str, Metric] = {}
    for families in replicas:
        for family in families:
            if family.name in joined:
                joined[family.name].samples.extend(family.samples)
            else:
                joined[family.name] = family
    registry = CollectorRegistry()
    registry.register(_Families(list(joined.values())))
    return generate_latest(registry)


class _Families(Collector):
    """Metrics that are there."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        """All of them."""
        return self._families


class ServiceMetrics:
    """The metrics of one service. It counts nothing itself, so that a request costs nothing for it.

    Args:
        service: what is measured.
        replica: the value of a label of that name, for one of several replicas; empty for none.
    """

    def __init__(self, service: Service, replica: str = "") -> None:
        self._service, self._replica = service, replica

    def families(self) -> list[Metric]:
        """All metrics, in families of one name."""
        found = [*self._requests(), *self._exits(), *self._points(), *self._watch()]
        if self._replica:
            for family in found:
                for sample in family.samples:
                    sample.labels["replica"] = self._replica
        return found

    def _requests(self) -> Iterator[Metric]:
        service, traffic = self._service, self._service.traffic
        model = service.settings.name, service.settings.version
        yield _counter(
            "inference_request_success",
            "Requests that were answered",
            {model: traffic.requests},
            "model",
            "version",
        )
        failures = {(*model, _REASONS[how]): count for how, count in traffic.failures.items()}
        labels = ("model", "version", "reason")
        yield _counter("inference_request_failure", "Requests without an answer", failures, *labels)
        yield _histogram(traffic.latencies, traffic.seconds_total, model)
        yield _gauge("inference_in_flight", "Images in flight", {(): service.in_flight})
        yield _gauge(
            "inference_max_queue", "Images in flight at most", {(): service.settings.max_queue}
        )
        yield _gauge("ready", "Whether requests are taken", {(): int(service.ready)})

    def _exits(self) -> Iterator[Metric]:
        service = self._service
        counts = service.traffic.answered
        answered: dict[tuple[str, ...], float] = {}
        for policy, row in zip(service.policies.all, counts.tolist(), strict=True):
            for exit, count in zip(service.cascade.exits, row, strict=True):
                if count or exit in policy.policy.exits:
                    answered[policy.name or "", exit] = count
        labels = ("operating_point", "exit")
        yield _counter("inference_count", "Images that an exit has answered", answered, *labels)
        groups = {"online": service.executor.stats, "background": service.executor.background_stats}
        for name, text in _STAGE_COUNTS:
            values = {
                (exit, kind): value
                for kind, stats in groups.items()
                for exit, value in getattr(stats, name).items()
            }
            yield _counter(f"stage_{name}", text, values, "exit", "traffic")
        totals = costs(service)
        cost = {(unit,): total[1] for unit, total in totals.items()}
        instead = {(unit,): total[2] for unit, total in totals.items()}
        yield _counter("inference_cost", "Cost of the images that were answered", cost, "unit")
        text = "What they would have cost by the reference"
        yield _counter("inference_reference_cost", text, instead, "unit")

    def _points(self) -> Iterator[Metric]:
        service = self._service
        points = {
            (one.name or "", service.chosen_by): int(one is service.current)
            for one in service.policies.all
        }
        text = "Whether an operating point answers"
        yield _gauge("operating_point", text, points, "operating_point", "chosen_by")
        switches = {(): service.switches}
        yield _counter("operating_point_switches", "Changes of the operating point", switches)

    def _watch(self) -> Iterator[Metric]:
        watching = self._service.watching
        if watching is None:
            return
        found = watching.watch.snapshot()
        states = ("watching", "warned", "fallen back")
        state = {(one.replace(" ", "_"),): int(one == found["state"]) for one in states}
        yield _gauge("watch_state", "The state of the watch", state, "state")
        yield _gauge(
            "watch_shadow_share", "Share of the requests that is shadowed",
            {(): found["shadow_share"]},
        )  # fmt: skip
        shadows = {(how,): count for how, count in watching.shadows.items()}
        yield _counter("watch_shadow", "Shadows, by what became of them", shadows, "result")
        evidence, threshold = {}, {}
        for test in ("shift", "agreement", "labels"):
            one = found[test]
            if one is not None and one["evidence"] is not None:
                evidence[(test,)] = one["evidence"]
                threshold[(test,)] = one["threshold"]
        text = "Decimal logarithm of the capital against what is tested"
        yield _gauge("watch_evidence", text, evidence, "test")
        yield _gauge("watch_threshold", "Evidence at which it is decided", threshold, "test")


Values = Mapping[Any, float]  # by the values of the labels


def _counter(name: str, text: str, values: Values, *labels: str) -> Metric:
    return _family(CounterMetricFamily, name, text, values, labels)


def _gauge(name: str, text: str, values: Values, *labels: str) -> Metric:
    return _family(GaugeMetricFamily, name, text, values, labels)


def _family(kind: Any, name: str, text: str, values: Values, labels: tuple[str, ...]) -> Metric:
    family: Metric = kind(f"understudy_{name}", text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)  # type: ignore[attr-defined]
    return family


def _histogram(cells: np.ndarray, total: float, model: tuple[str, str]) -> Metric:
    """The latencies of requests in the buckets of OpenTelemetry."""
    seen = np.cumsum(cells)
    buckets = [(f"{edge:g}", float(seen[EDGES.index(edge)])) for edge in LATENCY_BUCKETS]
    name, text = "understudy_inference_request_duration_seconds", "Seconds from request to answer"
    family = HistogramMetricFamily(name, text, labels=("model", "version"))
    family.add_metric(model, [*buckets, ("+Inf", float(seen[-1]))], sum_value=total)
    return family
