"""Replicas of one service: what one of them is asked, the others are asked too."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Protocol

from prometheus_client.core import Metric

from understudy.monitoring.watch import Feedback
from understudy.serving.latest_answers import Array
from understudy.serving.replica_counts import ReplicaCounts
from understudy.serving.service import ServedChoice, Service
from understudy.serving.service_metrics import ServiceMetrics


class Peers(Protocol):
    """The other replicas of a service.

    Attributes:
        name: of this replica, unlike that of any other; empty for a server that runs alone.
    """

    name: str

    async def ask(self, method: str, *values: Any) -> list[Any]:
        """What each of them answers to a method of `Replica`; without those that do not."""


class NoPeers:
    """Those of a server that runs alone.

    >>> import asyncio
    >>> asyncio.run(NoPeers().ask("counts"))
    []
    """

    name = ""

    async def ask(self, method: str, *values: Any) -> list[Any]:  # noqa: ARG002
        """Nothing."""
        return []


class Replica:
    """What the other replicas of a service may ask of this one; in its event loop.

    Args:
        service: of this replica.
        name: unlike that of any other.
    """

    METHODS = ("adopt", "reset_watch", "feedback", "latest_image", "counts", "metrics")

    def __init__(self, service: Service, name: str) -> None:
        self.service, self.name = service, name
        self._metrics = ServiceMetrics(service, name)

    def answer(self, method: str, *values: Any) -> Any:
        """What a method gives.

        Raises:
            AttributeError: there is no such method.
        """
        if method not in self.METHODS:
            raise AttributeError(method)
        return getattr(self, method)(*values)

    def adopt(self, choice: ServedChoice) -> ServedChoice:
        """Answer by an operating point that another replica was told, unless this one was told
        another later; what answers now."""
        self.service.adopt(choice)
        return self.service.choice

    def reset_watch(self, choice: ServedChoice, to_traffic: bool) -> None:
        """Reset the watch, as another replica did."""
        self.service.adopt(choice)
        if self.service.watching is not None:
            self.service.reset_watch(to_traffic=to_traffic)

    def feedback(self, labels: Sequence[tuple[str, int]]) -> Feedback:
        """Labels of requests, of which this replica has answered some."""
        watching = self.service.watching
        if watching is None:
            return Feedback(0, 0, tuple(request_id for request_id, _ in labels))
        found = watching.feedback(labels)
        return Feedback(found.counted, found.repeated, found.unknown)

    def latest_image(self, request_id: str) -> Array | None:
        """The image of a recent request that this replica has answered."""
        return self.service.latest_image(request_id)

    def counts(self) -> ReplicaCounts:
        """What this replica does and has done."""
        service = self.service
        stats, watching = service.executor.stats, service.watching
        return ReplicaCounts(
            name=self.name,
            pid=os.getpid(),
            operating_point=service.current.name,
            ready=service.ready,
            in_flight=service.in_flight,
            traffic=service.traffic,
            rows=dict(stats.rows),
            seconds=dict(stats.seconds),
            watch=None if watching is None else watching.watch.snapshot(),
            shadows=None if watching is None else dict(watching.shadows),
            latest=[one._replace(pixels=None) for one in service.latest],
        )

    def metrics(self) -> list[Metric]:
        """Its metrics."""
        return self._metrics.families()


def joined_feedback(parts: Sequence[Feedback]) -> Feedback:
    """What became of labels that several replicas were given, each of which knows its requests.

    >>> joined_feedback([Feedback(1, 0, ("b", "c")), Feedback(1, 0, ("a", "c"))])
    Feedback(counted=2, repeated=0, unknown=('c',), decisions=())
    """
    known = [set(part.unknown) for part in parts]
    unknown = tuple(one for one in parts[0].unknown if all(one in rest for rest in known))
    return Feedback(sum(p.counted for p in parts), sum(p.repeated for p in parts), unknown)
