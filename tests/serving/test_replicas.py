"""Replicas of one service: what is asked of one holds for all, and is told of all."""

from __future__ import annotations

import asyncio
import json
import pickle
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from online_requests import run_async
from served_cascades import random_images, served_cascade
from understudy.serving import ServingApp, ServingSettings
from understudy.serving.replicas import Replica
from understudy.serving.service import ServedChoice, Service
from understudy.serving.traffic import SECONDS, TrafficCounts

IMAGES = random_images(40, seed=5)


class InProcess:
    """The other replicas of one that are in this process; what they say is pickled as it would be
    between machines."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.others: list[Replica] = []

    async def ask(self, method: str, *values: Any) -> list[Any]:
        told = _sent(values)
        return [_sent(one.answer(method, *told)) for one in self.others]


def _sent(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))  # noqa: S301


@asynccontextmanager
async def replicas(count: int) -> AsyncIterator[list[tuple[httpx.AsyncClient, ServingApp]]]:
    """Some replicas of a served cascade, each with a client."""
    settings = ServingSettings(shadow=0.0)
    peers = [InProcess(f"r{number}") for number in range(count)]
    apps = [ServingApp(Service(served_cascade(), settings), one) for one in peers]
    told = [Replica(app.service, one.name) for app, one in zip(apps, peers, strict=True)]
    for one in peers:
        one.others = [other for other in told if other.name != one.name]
    async with AsyncExitStack() as stack:
        found = []
        for app in apps:
            await stack.enter_async_context(app.service)
            transport = httpx.ASGITransport(app)
            client = httpx.AsyncClient(transport=transport, base_url="http://localhost")
            found.append((await stack.enter_async_context(client), app))
        yield found


def with_replicas(
    count: int, work: Callable[[list[tuple[httpx.AsyncClient, ServingApp]]], Awaitable[None]]
) -> None:
    async def run() -> None:
        async with replicas(count) as found:
            await work(found)

    run_async(run())


def test_an_operating_point_is_chosen_for_all() -> None:
    async def work(found: list[tuple[httpx.AsyncClient, ServingApp]]) -> None:
        for client, wish in zip(
            [client for client, _ in found], ("reference", "drop-0.5", "drop-1"), strict=True
        ):
            told = await client.put("/operating-point", json={"name": wish})
            assert told.json()["operating_point"] == wish
            for other, app in found:
                assert (await other.get("/operating-point")).json()["operating_point"] == wish
                served = await app.service.answer(IMAGES[0])
                assert served.operating_point == wish
        numbers = {app.service.choice for _, app in found}
        assert len(numbers) == 1

    with_replicas(3, work)


def test_of_two_choices_the_later_one_holds() -> None:
    """Whatever the order in which replicas hear of them."""

    async def work(found: list[tuple[httpx.AsyncClient, ServingApp]]) -> None:
        services = [app.service for _, app in found]
        early, late = ServedChoice(1, 2, 2, "operator"), ServedChoice(2, 1, 1, "operator")
        for service, order in zip(services, ((early, late), (late, early)), strict=True):
            for choice in order:
                service.adopt(choice)
        assert [service.choice for service in services] == [late, late]
        assert services[0].current.number == services[1].current.number == 1

    with_replicas(2, work)


def test_a_fall_back_of_one_watch_is_adopted_and_reset_by_all() -> None:
    async def work(found: list[tuple[httpx.AsyncClient, ServingApp]]) -> None:
        (first, one), (_, other) = found
        point = one.service.policies.named("reference")
        assert point is not None
        fallen = one.service.choice._replace(
            number=5, policy=one.service.policies.of(point).number, by="watch"
        )
        for app in (one, other):
            app.service.adopt(fallen)
        assert other.service.chosen_by == "watch"
        assert other.service.chosen is not other.service.current
        assert (await first.post("/watch/reset", json={})).status_code == 200
        for app in (one, other):
            assert app.service.current.name == "drop-1"
            assert app.service.watched().watch.snapshot()["decisions"][-1]["kind"] == "reset"

    with_replicas(2, work)


def test_figures_are_of_all_replicas() -> None:
    async def work(found: list[tuple[httpx.AsyncClient, ServingApp]]) -> None:
        for (_, app), count in zip(found, (10, 7), strict=True):
            for image in IMAGES[:count]:
                await app.service.answer(image)
        seen = [(await client.get("/status")).json() for client, _ in found]
        for status in seen:
            assert status["requests"]["answered"] == 17
            assert sum(one["answered"] for one in status["exits"]) == 17
            assert status["requests"]["max_queue"] == 2 * 96
            assert [one["name"] for one in status["replicas"]] == ["r0", "r1"]
            assert [one["answered"] for one in status["replicas"]] == [10, 7]
            assert status["watch"]["requests"] == 17
        text = (await found[0][0].get("/metrics")).text
        families = list(text_string_to_metric_families(text))
        assert len({one.name for one in families}) == len(families)
        counts = {
            sample.labels["replica"]: sample.value
            for family in families
            for sample in family.samples
            if sample.name == "understudy_inference_request_success_total"
        }
        assert counts == {"r0": 10, "r1": 7}

    with_replicas(2, work)


def test_labels_and_images_are_found_at_the_replica_that_answered() -> None:
    async def work(found: list[tuple[httpx.AsyncClient, ServingApp]]) -> None:
        (first, one), (_, other) = found
        answers = [await app.service.answer(IMAGES[3]) for app in (one, other)]
        labels = [{"request_id": a.request_id, "label": 1} for a in answers]
        labels.append({"request_id": "strange", "label": 1})
        told = (await first.post("/feedback", content=json.dumps(labels), headers=JSON)).json()
        assert told == {
            "counted": 2, "repeated": 0, "unknown": ["strange"], "unknown_count": 1,
        }  # fmt: skip
        again = (await first.post("/feedback", content=json.dumps(labels), headers=JSON)).json()
        assert (again["counted"], again["repeated"]) == (0, 2)
        picture = await first.get(f"/latest/{answers[1].request_id}.png")
        assert picture.status_code == 200
        assert (await first.get("/latest/strange.png")).status_code == 404

    with_replicas(2, work)


def test_a_server_alone_has_no_replicas() -> None:
    async def work(found: list[tuple[httpx.AsyncClient, ServingApp]]) -> None:
        [(_, app)] = found
        alone = ServingApp(app.service)
        transport = httpx.ASGITransport(alone)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            assert (await client.get("/status")).json()["replicas"] == []
            assert "replica=" not in (await client.get("/metrics")).text
            await asyncio.sleep(0)

    with_replicas(1, work)


def test_counts_of_two_clocks_are_added_second_by_second() -> None:
    times = {"here": 1000.0, "there": 50.0}
    here, there = (
        TrafficCounts(1, ["tiny"], clock=lambda name=name: times[name])  # type: ignore[misc]
        for name in ("here", "there")
    )
    for second in range(3):
        for name, counts in (("here", here), ("there", there)):
            for _ in range(second + 1):
                counts.answer(0, 0, cost=1.0, reference=9.0)
                counts.done(0.01)
            times[name] += 1
    assert there.series()["throughput"] == here.series()["throughput"] == [1, 2, 3]
    both = here.with_others([there])
    assert both.series()["throughput"] == [2, 4, 6]
    assert both.requests == 12
    assert np.array_equal(both.latencies, here.latencies + there.latencies)
    assert len(both.series()["t"]) <= SECONDS


JSON = {"content-type": "application/json"}
