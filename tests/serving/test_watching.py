"""The watch at work in a service: it warns, falls back, is reset, and is kept over a restart."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from app_clients import Client, with_client
from online_requests import run_async, until
from served_cascades import random_images, served_cascade
from understudy.scores import Array
from understudy.serving import ServingApp, ServingSettings, app
from understudy.serving.request_errors import RequestError
from understudy.serving.routes import labels_in
from understudy.serving.service import Service


@cache
def disputed() -> Array:
    """Images that the first stage answers at every operating point, and otherwise than `big`."""
    images = random_images(4000, seed=11)
    cascade = served_cascade()
    cascade.set_operating_point(name="drop-0.5")
    answers = cascade.answer(torch.from_numpy(images))
    first = np.array(answers.exit_names()) == "tiny"
    cascade.set_operating_point(name="reference")
    other = cascade.answer(torch.from_numpy(images)).prediction != answers.prediction
    found: Array = images[first & other]
    assert len(found) > 20
    return found


async def send_until_decided(service: Service, images: Array, most: int = 400) -> None:
    """Send images, some at a time, until the watch has fallen back."""
    assert service.watching is not None
    shadows = service.watching.shadows
    for start in range(0, most, 40):
        rows = np.arange(start, start + 40) % len(images)
        before = sum(shadows.values())
        await service.answer_all(list(images[rows]))
        await until(lambda: sum(shadows.values()) == before + 40)  # noqa: B023
        if service.chosen_by == "watch":
            return
    raise AssertionError("the watch did not fall back")


def test_a_broken_promise_falls_back_until_the_reset() -> None:
    async def work(client: Client, made: ServingApp) -> None:
        service = made.service
        await send_until_decided(service, disputed())
        found = (await client.get("/status")).json()
        assert found["chosen_by"] == "watch"
        assert found["operating_point"] in {"drop-0.5", "reference"}
        assert found["watch"]["state"] == "fallen back"
        assert {one["kind"] for one in found["watch"]["decisions"]} >= {"fall-back"}
        text = (await client.get("/metrics")).text
        assert 'understudy_watch_state{state="fallen_back"} 1.0' in text
        assert 'understudy_watch_shadow_total{result="dropped"} 0.0' in text
        response = await client.post("/watch/reset", json={})
        assert response.json()["state"] == "watching"
        found = (await client.get("/status")).json()
        assert (found["operating_point"], found["chosen_by"]) == ("drop-1", "operator")

    with_client(work, shadow=1.0)


def test_a_shift_warns_and_never_falls_back() -> None:
    async def work(client: Client, made: ServingApp) -> None:
        service = made.service
        dark = np.zeros((1, 3, 4, 4), np.uint8)
        for _ in range(200):
            await service.answer(dark[0])
        found = (await client.get("/status")).json()
        assert found["watch"]["state"] == "warned"
        assert found["operating_point"] == "drop-1"
        assert found["shadows"] == {"answered": 0, "dropped": 0}

    with_client(work, shadow=0.0)


def test_labels_that_come_later_are_counted_once() -> None:
    async def work(client: Client, made: ServingApp) -> None:
        served = await made.service.answer_all(list(random_images(3)))
        labels: list[dict[str, Any]] = [
            {"request_id": served[0].request_id, "label": 1},
            {"request_id": served[1].request_id, "label": "dog"},
            {"request_id": "unknown", "label": 0},
        ]
        found = (await client.post("/feedback", json=labels)).json()
        assert found == {"counted": 2, "repeated": 0, "unknown": ["unknown"], "unknown_count": 1}
        again = (await client.post("/feedback", json=labels[:1])).json()
        assert again["repeated"] == 1
        cow = {"request_id": "a", "label": "cow"}
        wrongs: list[Any] = [{}, [{"request_id": "a"}], [cow], [3]]
        for wrong in wrongs:
            assert (await client.post("/feedback", json=wrong)).status_code == 400

    with_client(work)


def test_classes_that_share_a_name_are_labelled_by_number() -> None:
    """ImageNet has two cranes."""
    names = ["crane", "dog", "crane"]
    found = labels_in([{"request_id": "a", "label": 2}, {"request_id": "a", "label": "dog"}], names)
    assert found == [("a", 2), ("a", 1)]
    with pytest.raises(RequestError, match="a name of its own"):
        labels_in([{"request_id": "a", "label": "crane"}], names)


def test_a_full_server_drops_shadows() -> None:
    async def work(client: Client, made: ServingApp) -> None:
        await made.service.answer_all(list(random_images(4)))
        found = (await client.get("/status")).json()
        assert found["shadows"] == {"answered": 0, "dropped": 4}
        assert found["requests"]["answered"] == 1

    with_client(work, shadow=1.0, max_queue=4)


def test_shadows_are_dropped_before_the_answer_is_known() -> None:
    """Dropped later, it would be those that the reference does not answer anyway."""

    async def work(client: Client, made: ServingApp) -> None:
        watching, policy = made.service.watching, made.service.current
        assert watching is not None
        first = watching.shadows_of(["a", "b", "c"], policy, full=False)
        watching.shadows_of(["d", "e"], policy, full=False)
        assert watching.shadows == {"answered": 0, "dropped": 2}
        first.give_up()
        first.give_up()
        assert watching.shadows["dropped"] == 5
        watching.shadows_of(["f", "g"], policy, full=False)
        assert watching.shadows["dropped"] == 5

    with_client(work, shadow=1.0, max_queue=4)


def test_another_point_that_is_judged_broken_switches_nothing() -> None:
    async def work(client: Client, made: ServingApp) -> None:
        service, images = made.service, disputed()
        watching, loose = service.watching, service.current
        assert watching is not None
        rows = [images[k % len(images)] for k in range(100)]
        late = [await service.executor.answer(torch.from_numpy(image)) for image in rows]
        shadows = watching.shadows_of([f"late {k}" for k in range(100)], loose, full=False)
        service.set_operating_point({"name": "drop-0.5"})
        switches = service.switches
        shadows.answered(rows, late, service.executor)
        await until(lambda: watching.shadows["answered"] == 100)
        assert [one.kind for one in watching.watch.decisions][-1] == "fall-back"
        assert (service.chosen_by, service.switches) == ("operator", switches)

    with_client(work, shadow=1.0, max_queue=128)


def test_a_cascade_without_baselines_is_served_without_a_watch() -> None:
    async def work(client: Client, made: ServingApp) -> None:
        await made.service.answer(random_images(1)[0])
        assert (await client.get("/status")).json()["watch"] is None
        response = await client.post("/watch/reset", json={})
        assert response.status_code == 501

    cascade = served_cascade()
    cascade.operating_points = ()
    with_client(work, cascade=cascade)


def test_what_was_decided_is_kept_over_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "watch.db"

    async def first() -> None:
        made = app(served_cascade(), settings=ServingSettings(shadow=1.0, state=file))
        async with made.service as service:
            await send_until_decided(service, disputed())

    async def second() -> str | None:
        made = app(served_cascade(), settings=ServingSettings(shadow=1.0, state=file))
        async with made.service as service:
            assert service.chosen_by == "watch"
            name: str | None = service.current.name
            service.reset_watch()
            assert service.current.name == "drop-1"
        return name

    run_async(first())
    assert run_async(second()) in {"drop-0.5", "reference"}
    third = app(served_cascade(), settings=ServingSettings(shadow=1.0, state=file))
    assert third.service.current.name == "drop-1"
    run_async(third.service.close())


@pytest.mark.parametrize("chosen", ["drop-0.5", "reference"])
def test_what_the_operator_chose_is_kept_over_a_restart(tmp_path: Path, chosen: str) -> None:
    async def work(client: Client, made: ServingApp) -> None:
        made.service.set_operating_point({"name": chosen})

    with_client(work, state=tmp_path / "watch.db")
    again = app(served_cascade(), settings=ServingSettings(state=tmp_path / "watch.db"))
    assert (again.service.current.name, again.service.chosen_by) == (chosen, "operator")
    run_async(again.service.close())


def test_what_the_operator_says_at_the_start_goes_before_what_was_kept(tmp_path: Path) -> None:
    settings = ServingSettings(state=tmp_path / "watch.db")

    async def work(client: Client, made: ServingApp) -> None:
        made.service.set_operating_point({"name": "drop-0.5"})

    with_client(work, state=tmp_path / "watch.db")
    service = app(served_cascade(), settings=settings).service
    service.start_within(1.0)
    assert (service.current.name, service.chosen_by) == ("drop-1", "operator")
    run_async(service.close())
    again = app(served_cascade(), settings=settings).service
    assert again.current.name == "drop-1"
    run_async(again.close())


def test_a_reset_after_a_restart_returns_to_what_the_operator_had_chosen(tmp_path: Path) -> None:
    file = tmp_path / "watch.db"

    async def fall_back() -> None:
        made = app(served_cascade(), settings=ServingSettings(shadow=1.0, state=file))
        async with made.service as service:
            service.set_operating_point({"name": "drop-0.5"})
            await send_until_decided(service, disputed())
            assert service.current.name == "reference"

    async def reset() -> None:
        made = app(served_cascade(), settings=ServingSettings(shadow=1.0, state=file))
        async with made.service as service:
            service.start_within(1.0)
            assert (service.current.name, service.chosen_by) == ("reference", "watch")
        made = app(served_cascade(), settings=ServingSettings(shadow=1.0, state=file))
        async with made.service as service:
            service.reset_watch()
            assert service.current.name == "drop-0.5"

    run_async(fall_back())
    run_async(reset())


def test_without_the_reference_it_is_said_why_there_is_no_watch(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cascade = served_cascade()
    cascade.operating_points = cascade.operating_points[:2]
    with caplog.at_level("WARNING"):
        made = app(cascade)
    assert made.service.watching is None
    assert "build it again with the model of the reference" in str(vars(caplog.records[-1]))
    run_async(made.service.close())
