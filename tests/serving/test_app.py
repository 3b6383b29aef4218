"""The app in this process: answers, the operating point, limits, who may change something."""

from __future__ import annotations

import asyncio
import json
from io import BytesIO
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.routing import Mount

from app_clients import Client, with_client
from online_requests import until
from served_cascades import CLASSES, png, random_images, served_cascade
from understudy.serving import ServingApp
from understudy.serving.request_errors import RequestError

IMAGES = random_images(40, seed=3, side=9)
JSON = {"content-type": "application/json"}


def test_an_image_is_classified_as_the_cascade_answers_it() -> None:
    async def work(client: Client, made: ServingApp) -> None:
        cascade = served_cascade()
        for image in IMAGES[:8]:
            response = await client.post(
                "/classify", content=png(image), headers={"content-type": "image/png"}
            )
            found = response.json()
            expected = cascade.answer(torch.from_numpy(image[None]))
            [answer] = found["answers"]
            assert answer["prediction"] == expected.prediction[0]
            assert answer["class"] == CLASSES[answer["prediction"]]
            assert answer["exit"] == expected.exit_names()[0]
            assert answer["confidence"] == pytest.approx(expected.confidence[0], rel=1e-6)
            assert answer["cost"] == {"tiny": 1.0, "big": 10.0}[answer["exit"]]
            assert answer["operating_point"] == found["operating_point"] == "drop-1"
            top = answer["top"]
            assert top[0]["prediction"] == answer["prediction"]
            assert sum(one["probability"] for one in top) == pytest.approx(1)
            assert found["request_id"] == answer["request_id"] == response.headers["x-request-id"]

    with_client(work)


def test_several_files_are_one_request() -> None:
    async def work(client: Client, made: ServingApp) -> None:
        files = [("image", (f"{n}.png", png(image))) for n, image in enumerate(IMAGES[:5])]
        found = (await client.post("/classify", files=files)).json()
        expected = served_cascade().answer(torch.from_numpy(IMAGES[:5]))
        assert [one["prediction"] for one in found["answers"]] == expected.prediction.tolist()
        assert len({one["request_id"] for one in found["answers"]}) == 5
        assert made.service.counts().requests == 1
        assert made.service.counts().images == 5

    with_client(work)


@pytest.mark.parametrize(
    ("content", "headers", "status", "message"),
    [
        (b"", {"content-type": "image/png"}, 400, "found none"),
        (b"no image", {"content-type": "image/png"}, 400, "none of the formats"),
        (png(IMAGES[0])[:60], {"content-type": "image/png"}, 400, "found one that cannot"),
        (b"{}", JSON, 415, "found 'application/json'"),
        (b"x", {"content-type": "multipart/form-data"}, 400, "multipart/form-data, found"),
        (b"x" * 5000, {"content-type": "image/png"}, 413, "at most 4,000 bytes"),
        (png(np.zeros((3, 40, 40), np.uint8)), {}, 400, "at most 1,000 pixels here"),
    ],
)
def test_what_is_no_image_is_refused_in_one_sentence(
    content: bytes, headers: dict[str, str], status: int, message: str
) -> None:
    async def work(client: Client, made: ServingApp) -> None:
        response = await client.post("/classify", content=content, headers=headers)
        assert response.status_code == status
        assert message in response.json()["error"]
        assert list(response.json()) == ["error"]
        assert made.service.in_flight == 0

    with_client(work, max_bytes=4000, max_pixels=1000)


def test_paths_and_methods_that_are_not_there() -> None:
    async def work(client: Client, made: ServingApp) -> None:
        response = await client.get("/nowhere")
        assert (response.status_code, list(response.json())) == (404, ["error"])
        response = await client.put("/classify", content=b"")
        assert (response.status_code, list(response.json())) == (405, ["error"])
        assert response.headers["allow"] == "POST"
        assert response.headers["x-request-id"]

    with_client(work)


def test_the_operating_point_is_chosen_by_name_drop_or_cost() -> None:
    async def work(client: Client, made: ServingApp) -> None:
        first = (await client.get("/operating-point")).json()
        assert first["operating_point"] == "drop-1"
        assert first["chosen_by"] == "start"
        names = [one["name"] for one in first["operating_points"]]
        assert names == ["drop-1", "drop-0.5", "reference"]
        for wish, name in (
            ({"name": "reference"}, "reference"),
            ({"max_drop": 0.6}, "drop-0.5"),
            ({"cost": 1e9}, "reference"),
        ):
            response = await client.put("/operating-point", json=wish)
            assert response.json()["operating_point"] == name
            assert response.json()["chosen_by"] == "operator"
            answer = await made.service.answer(IMAGES[0])
            assert answer.operating_point == name
        for other in ({}, {"name": "x"}, {"max_drop": -1}, {"max_drop": True}, {"cost": 1, "a": 1}):
            response = await client.put("/operating-point", json=other)
            assert response.status_code == 400
        assert made.service.current.name == "reference"

    with_client(work)


def test_every_answer_is_of_one_policy_while_it_is_switched() -> None:
    """Each answer is what the policy that it names gives."""
    cascade = served_cascade()
    expected = {}
    for point in cascade.operating_points:
        cascade.policy = point.policy
        answers = cascade.answer(torch.from_numpy(IMAGES))
        expected[point.name] = list(
            zip(answers.prediction.tolist(), answers.exit_names(), strict=True)
        )

    async def work(client: Client, made: ServingApp) -> None:
        service = made.service
        names = list(expected)
        found: list[tuple[int, Any]] = []

        async def ask(start: int) -> None:
            for number in range(start, start + 100):
                served = await service.answer_all(list(IMAGES[number % 40 :][:3]))
                assert len({one.operating_point for one in served}) == 1
                found.extend((number % 40 + place, one) for place, one in enumerate(served))

        async def switch() -> None:
            for number in range(100):
                service.set_operating_point({"name": names[number % 3]})
                await asyncio.sleep(0.001)

        await asyncio.gather(switch(), *(ask(start) for start in range(6)))
        seen = set()
        for row, served in found:
            seen.add(served.operating_point)
            answer = served.answer
            assert (answer.prediction, answer.exit) == expected[served.operating_point][row]
        assert seen == set(names)

    with_client(work)


def test_a_token_guards_what_changes_something() -> None:
    async def work(client: Client, made: ServingApp) -> None:
        for path, method in (
            ("/operating-point", "PUT"),
            ("/feedback", "POST"),
            ("/watch/reset", "POST"),
        ):
            for given in ("", "Bearer", "Bearer other", "secret", "Bearer b\xe9"):
                headers = [
                    (b"content-type", b"application/json"),
                    (b"authorization", given.encode("latin-1")),
                ]
                response = await client.request(method, path, content=b"{}", headers=headers)
                assert response.status_code == 401, given
                assert response.headers["www-authenticate"] == "Bearer"
                assert "secret" not in response.text
        response = await client.put(
            "/operating-point", json={"max_drop": 0}, headers={"authorization": "bearer secret"}
        )
        assert response.status_code == 200
        response = await client.post(
            "/classify", content=png(IMAGES[0]), headers={"content-type": "image/png"}
        )
        assert response.status_code == 200
        assert "secret" not in json.dumps((await client.get("/status")).json())
        assert "secret" not in repr(made.service.settings)

    with_client(work, token="secret")


def test_web_pages_of_others_change_nothing() -> None:
    async def work(client: Client, made: ServingApp) -> None:
        wish = b'{"name": "reference"}'
        for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
            response = await client.put(
                "/operating-point", content=wish, headers={"content-type": kind}
            )
            assert response.status_code == 415
        assert made.service.current.name == "drop-1"

    with_client(work)


@pytest.mark.parametrize(
    ("server", "host", "status"),
    [
        ("127.0.0.1", "localhost:8000", 200),
        ("::1", "[::1]:8000", 200),
        ("127.0.0.1", "127.0.0.1", 200),
        ("127.0.0.1", "evil.example:8000", 403),
        ("127.0.0.1", "", 403),
        ("10.0.0.7", "cascade.example", 200),
    ],
)
def test_without_a_token_a_loopback_server_is_changed_under_its_own_name(
    server: str, host: str, status: int
) -> None:
    async def work(client: Client, made: ServingApp) -> None:
        sent: list[Any] = []
        scope = {
            **{"type": "http", "method": "PUT", "path": "/operating-point", "root_path": ""},
            "headers": [(b"host", host.encode()), (b"content-type", b"application/json")],
            **{"query_string": b"", "server": (server, 8000)},
        }

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b'{"max_drop": 0}', "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        await made(scope, receive, send)
        assert sent[0]["status"] == status

    with_client(work)


def test_a_full_queue_refuses_at_once() -> None:
    async def work(client: Client, made: ServingApp) -> None:
        files = [("image", ("a.png", png(image))) for image in IMAGES[:3]]
        several = await client.post("/classify", files=files)
        assert several.status_code == 400
        with pytest.raises(RequestError, match="from 1 to 2 images, found 3"):
            await made.service.answer_all(list(IMAGES[:3]))
        responses = await asyncio.gather(
            *(client.post("/classify", files=files[:1]) for _ in range(10))
        )
        codes = sorted(one.status_code for one in responses)
        refused = [one for one in responses if one.status_code == 503]
        assert codes == [200, 200, *[503] * 8]
        assert all(one.headers["retry-after"] == "1" for one in refused)
        assert made.service.in_flight == 0
        found = (await client.get("/status")).json()["requests"]
        assert (found["answered"], found["rejected"]) == (2, 8)

    with_client(work, max_queue=2)


def test_a_request_ends_at_its_deadline() -> None:
    async def work(client: Client, made: ServingApp) -> None:
        response = await client.post("/classify", files={"image": png(IMAGES[0])})
        assert response.status_code == 503
        assert "within 1e-06 s" in response.json()["error"]
        assert made.service.in_flight == 0
        assert (await client.get("/status")).json()["requests"]["late"] == 1

    with_client(work, deadline=1e-6)


def test_a_client_that_goes_away_is_not_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its request is dropped, and its place is free again."""

    async def work(client: Client, made: ServingApp) -> None:
        gone = asyncio.Event()
        body = png(IMAGES[0])
        messages: list[Any] = [{"type": "http.request", "body": body, "more_body": False}]
        sent: list[Any] = []

        async def receive() -> Any:
            if messages:
                return messages.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        def never(*_: Any, **__: Any) -> Any:
            return lambda: None

        monkeypatch.setattr(made.service.executor, "submit", never)
        scope = {
            **{"type": "http", "method": "POST", "path": "/classify", "root_path": ""},
            **{"headers": [(b"content-type", b"image/png")], "query_string": b""},
        }
        task = asyncio.ensure_future(made(scope, receive, send))
        await until(lambda: made.service.in_flight == 1)
        gone.set()
        await task
        assert not sent
        assert made.service.in_flight == 0
        assert made.service.traffic.failures["cancelled"] == 1

    with_client(work)


def test_status_and_metrics_count_alike() -> None:
    async def work(client: Client, made: ServingApp) -> None:
        for image in IMAGES[:20]:
            await made.service.answer(image)
        for _ in range(2):  # the second one switches nothing
            await client.put("/operating-point", json={"name": "reference"})
        await made.service.answer_all(list(IMAGES[:4]))
        found = (await client.get("/status")).json()
        expected = served_cascade().answer(torch.from_numpy(IMAGES[:20])).exit_names()
        answered = {one["name"]: one["answered"] for one in found["exits"]}
        assert answered == {"tiny": expected.count("tiny"), "big": expected.count("big") + 4}
        assert found["requests"]["answered"] == 21
        saved = 24 * 9 - answered["tiny"] - expected.count("big") * 10 - 4 * 9
        assert found["savings"]["MACs"]["saved"] == pytest.approx(saved)
        assert found["money"]["saved"] == pytest.approx(saved / 9 * 2.5 / 1000)
        text = (await client.get("/metrics")).text
        samples = {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        success = "understudy_inference_request_success_total"
        assert samples[success, "cascade", "1"] == 21
        count = "understudy_inference_count_total"
        assert samples[count, "tiny", "drop-1"] == expected.count("tiny")
        assert samples[count, "big", "reference"] == 4
        seconds = "understudy_inference_request_duration_seconds"
        assert samples[f"{seconds}_count", "cascade", "1"] == 21
        assert samples["understudy_operating_point", "operator", "reference"] == 1
        assert samples["understudy_operating_point_switches_total",] == 1
        cost = "understudy_inference_cost_total"
        instead = "understudy_inference_reference_cost_total"
        assert samples[instead, "MACs"] == 24 * 9
        assert samples[instead, "MACs"] - samples[cost, "MACs"] == pytest.approx(saved)
        names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")]
        assert len(names) == len(set(names))  # of a family in two units, too

    with_client(work, price=2.5, shadow=0.0)


def test_the_latest_images_are_kept() -> None:
    async def work(client: Client, made: ServingApp) -> None:
        served = await made.service.answer(IMAGES[0])
        [found] = (await client.get("/status")).json()["latest"]
        assert found["request_id"] == served.request_id
        kept = made.service.latest.find(served.request_id)
        assert kept is not None
        assert kept.pixels is not None
        assert np.array_equal(kept.pixels, IMAGES[0])

    with_client(work)


def test_grey_images_of_colour_cascades_are_colours() -> None:
    async def work(client: Client, made: ServingApp) -> None:
        grey = Image.fromarray(IMAGES[0, 0])
        buffer = BytesIO()
        grey.save(buffer, "PNG")
        found = (await client.post("/classify", files={"a": buffer.getvalue()})).json()
        three = torch.from_numpy(np.stack([IMAGES[:1, 0]] * 3, 1))
        expected = served_cascade().answer(three)
        assert found["answers"][0]["prediction"] == expected.prediction[0]

    with_client(work)


def test_an_app_is_mounted_below_a_path() -> None:
    """In an application of somebody else, whose errors and start are its own."""

    async def work(client: Client, made: ServingApp) -> None:
        outer = Starlette(routes=[Mount("/models/pixels", app=made)])
        transport = httpx.ASGITransport(outer, raise_app_exceptions=False)
        async with Client(transport=transport, base_url="http://localhost/models/pixels") as inner:
            answer = await inner.post("/classify", files={"image": png(IMAGES[0])})
            assert answer.json()["answers"][0]["class"] in CLASSES
            assert (await inner.get("/v2/models/cascade")).json()["name"] == "cascade"
            wish = await inner.put("/operating-point", json={"name": "reference"})
            assert wish.json()["operating_point"] == "reference"
            assert (await inner.get("/openapi.json")).json()["servers"] == [
                {"url": "/models/pixels"}
            ]
            missing = await inner.get("/nowhere")
            assert (missing.status_code, list(missing.json())) == (404, ["error"])

    with_client(work)


def test_a_stage_that_fails_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def work(client: Client, made: ServingApp) -> None:
        await made.service.answer_all(list(IMAGES[:2]))  # so that it is not the images' fault
        big = made.service.cascade.stages["big"]
        big.model.register_forward_hook(lambda *_: 1 / 0)
        await client.put("/operating-point", json={"name": "reference"})
        files = [("image", (f"{n}.png", png(IMAGES[n]))) for n in range(2)]
        response = await client.post("/classify", files=files)
        assert response.status_code == 500
        assert response.json()["error"].startswith("image 0: ")
        [record] = [one for one in caplog.records if one.message == "stage failed"]
        assert vars(record)["request_id"] == response.headers["x-request-id"] + ".0"
        assert record.exc_info is not None

    with_client(work, shadow=0.0)
