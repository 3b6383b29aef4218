"""The routes of the protocol, in this process: what is answered, and what is refused and how."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Awaitable, Callable
from io import BytesIO
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from array_cascade import CLASSES, SHAPE, array_cascade, image, logits
from infer_messages import infer_request, outputs_in
from understudy.serving.asgi import ServingApp, app
from understudy.serving.open_inference import HEADER_LENGTH
from understudy.serving.open_inference_routes import unsupported_paths
from understudy.serving.openapi import document
from understudy.serving.settings import ServingSettings
from understudy.serving.tensors import Array

SETTINGS = ServingSettings(name="arrays", max_queue=8, max_bytes=20_000)
LONG = [{"name": "logits"}, {"name": "prediction", "parameters": {"classification": 10}}]
INFER = "/v2/models/arrays/infer"
IMAGES = np.stack([image(3), image(5, easy=False, seed=1)])

Client = httpx.AsyncClient
Work = Callable[[Client], Awaitable[Any]]


def served(work: Work, *, settings: ServingSettings = SETTINGS) -> Any:
    """The result of some work with a client of the app."""

    async def run() -> Any:
        asgi = app(array_cascade(), settings=settings)
        async with asgi.service:
            return await work(client_of(asgi))

    return asyncio.run(run())


def client_of(asgi: ServingApp) -> Client:
    """A client of the app, without a network."""
    return Client(transport=httpx.ASGITransport(asgi), base_url="http://localhost")


def got(path: str) -> httpx.Response:
    """The response to GET."""

    async def work(client: Client) -> httpx.Response:
        return await client.get(path)

    response = served(work)
    assert isinstance(response, httpx.Response)
    return response


def inferred(
    body: bytes, headers: dict[str, str], *, path: str = INFER, **settings: Any
) -> httpx.Response:
    """The response to a request of inference."""

    async def work(client: Client) -> httpx.Response:
        return await client.post(path, content=body, headers={"accept-encoding": "", **headers})

    response = served(
        work, settings=ServingSettings(**{"name": "arrays", "max_queue": 8, **settings})
    )
    assert isinstance(response, httpx.Response)
    return response


def outputs_of(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    length = response.headers.get(HEADER_LENGTH)
    return outputs_in(response.content, None if length is None else int(length))


def error_in(response: httpx.Response) -> str:
    """The message of an error, which is all there is."""
    found = response.json()
    assert [*found] == ["error"]
    assert response.headers["content-type"] == "application/json"
    assert isinstance(found["error"], str)
    return found["error"]


def png(pixels: Array) -> bytes:
    file = BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("path", ["/v2", "/v2/"])
def test_server_metadata_without_a_redirect(path: str) -> None:
    found = got(path).json()
    assert found["extensions"] == ["binary_tensor_data", "classification", "statistics"]
    assert {*found} == {"name", "version", "extensions"}


def test_health() -> None:
    async def work(client: Client) -> list[int]:
        asgi = client._transport.app  # type: ignore[attr-defined]
        paths = ["live", "ready"], ["/v2/models/arrays/ready", "/v2/models/arrays/versions/1/ready"]
        urls = [*(f"/v2/health/{one}" for one in paths[0]), *paths[1]]
        before = [(await client.get(url)).status_code for url in urls]
        asgi.service.ready = False
        return before + [(await client.get(url)).status_code for url in urls]

    assert served(work) == [200, 200, 200, 200, 200, 503, 503, 503]


@pytest.mark.parametrize("path", ["/v2/models/arrays", "/v2/models/arrays/versions/1"])
def test_model_metadata(path: str) -> None:
    found = got(path).json()
    assert found["name"] == "arrays"
    assert found["versions"] == ["1"]
    assert found["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, *SHAPE]}]
    assert {"name": "logits", "datatype": "FP32", "shape": [-1, 10]} in found["outputs"]


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("path", [INFER, "/v2/models/arrays/versions/1/infer"])
def test_images_are_answered_together(binary: bool, path: str) -> None:
    body, headers = infer_request(IMAGES, binary=binary, id="7")
    response = inferred(body, headers, path=path)
    outputs = outputs_of(response)
    assert outputs["prediction"].tolist() == [3, 5]
    assert outputs["exit"].tolist() == ["tiny", "big"]
    assert response.json()["id"] == "7"
    assert response.json()["parameters"]["request_id"] == response.headers["x-request-id"]


def test_encoded_images_are_decoded() -> None:
    body, headers = infer_request([png(one) for one in IMAGES])
    assert outputs_of(inferred(body, headers))["prediction"].tolist() == [3, 5]


def test_logits_and_classes() -> None:
    wishes = [
        {"name": "logits", "parameters": {"binary_data": True}},
        {"name": "prediction", "parameters": {"classification": 2}},
        {"name": "request_id"},
    ]
    body, headers = infer_request(IMAGES, outputs=wishes)
    response = inferred(body, headers)
    outputs = outputs_of(response)
    expected = np.stack([logits(3), logits(5, easy=False)])
    np.testing.assert_array_equal(outputs["logits"], expected)
    top = outputs["prediction"][0, 0].split(":")
    assert top[1:] == ["3", CLASSES[3]]
    assert float(top[0]) == pytest.approx(np.exp(8) / (np.exp(8) + 9))
    number = response.headers["x-request-id"]
    assert outputs["request_id"].tolist() == [f"{number}.0", f"{number}.1"]


def test_a_raw_body() -> None:
    response = inferred(IMAGES.tobytes(), {HEADER_LENGTH: "0"})
    assert outputs_of(response)["prediction"].tolist() == [3, 5]
    assert response.headers["content-type"] == "application/octet-stream"


@pytest.mark.parametrize(("name", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_bodies_may_be_compressed(name: str, pack: Callable[[bytes], bytes]) -> None:
    async def work(client: Client) -> httpx.Response:
        body, headers = infer_request(np.concatenate([IMAGES] * 4), outputs=LONG)
        headers |= {"content-encoding": name, "accept-encoding": name}
        return await client.post(INFER, content=pack(body), headers=headers)

    response = served(work)
    assert response.headers["content-encoding"] == name
    assert outputs_of(response)["logits"].shape == (8, 10)


def test_statistics() -> None:
    async def work(client: Client) -> Any:
        body, headers = infer_request(IMAGES)
        for _ in range(3):
            await client.post(INFER, content=body, headers=headers)
        found = [
            (await client.get(path)).json()
            for path in ("/v2/models/arrays/stats", "/v2/models/stats")
        ]
        assert found[0] == found[1]
        return found[0]["model_stats"][0]

    found = served(work)
    assert (found["name"], found["version"]) == ("arrays", "1")
    assert found["inference_count"] == 6
    assert found["inference_stats"]["success"]["count"] == 3
    assert found["inference_stats"]["success"]["ns"] > 0
    assert found["last_inference"] > 1.6e12
    stages = {stage["name"]: stage for stage in found["stages"]}
    assert [stages[name]["answered"] for name in ("tiny", "big")] == [3, 3]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/v2/models/other", 404),
        ("GET", "/v2/models/arrays/", 404),
        ("GET", "/v2/models/arrays/versions/2", 404),
        ("GET", "/v2/models/arrays/versions/2/ready", 404),
        ("POST", "/v2/models/other/infer", 404),
        ("POST", "/v2/models/arrays/versions/01/infer", 404),
        ("GET", INFER, 405),
        ("POST", "/v2", 405),
        ("DELETE", "/v2/models/arrays", 405),
        ("GET", "/v2/systemsharedmemory/status", 501),
        ("POST", "/v2/repository/index", 501),
        ("GET", "/v2/models/arrays/config", 501),
        ("GET", "/v2/logging", 501),
    ],
)
def test_errors_have_one_form(method: str, path: str, status: int) -> None:
    async def work(client: Client) -> httpx.Response:
        return await client.request(method, path)

    response = served(work)
    assert response.status_code == status
    assert error_in(response)
    assert response.headers["x-request-id"]


BODY, HEADERS = infer_request(IMAGES)


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"", {}, 400),
        (b"{}", {}, 400),
        (BODY, {}, 400),
        (BODY, {HEADER_LENGTH: "-1"}, 400),
        (BODY, {HEADER_LENGTH: "1e3"}, 400),
        (BODY, {HEADER_LENGTH: "9" * 30}, 400),
        (BODY, {HEADER_LENGTH: "٣"}, 400),
        (BODY[:-1], HEADERS, 400),
        (BODY + b"x", HEADERS, 400),
        (BODY, {**HEADERS, "content-encoding": "gzip"}, 400),
        (gzip.compress(BODY)[:-9], {**HEADERS, "content-encoding": "gzip"}, 400),
        (gzip.compress(BODY) * 2, {**HEADERS, "content-encoding": "gzip"}, 400),
        (BODY, {**HEADERS, "content-encoding": "br"}, 415),
        (bytes(30_000), {}, 413),
        (gzip.compress(bytes(10**7)), {"content-encoding": "gzip"}, 413),
        (*infer_request(np.stack([image(1)] * 9)), 400),
        (*infer_request(IMAGES[:, :, :4]), 400),
        (*infer_request([png(image(1)), b"no image"]), 400),
        (*infer_request([png(image(1)[:, :4])]), 400),
    ],
)  # fmt: skip
def test_malformed_requests_are_refused(body: bytes, headers: dict[str, str], status: int) -> None:
    raw = {name.encode(): value.encode() for name, value in headers.items()}
    response = inferred(body, raw, max_bytes=20_000)  # type: ignore[arg-type]
    assert response.status_code == status, response.text
    assert error_in(response)


def test_the_image_at_fault_is_named() -> None:
    body, headers = infer_request([png(image(1)), b"no image"])
    assert error_in(inferred(body, headers)).startswith("image 1: ")


def test_two_lengths_are_refused() -> None:
    async def work(client: Client) -> httpx.Response:
        pairs = [(HEADER_LENGTH, HEADERS[HEADER_LENGTH]), (HEADER_LENGTH, "3")]
        return await client.post(INFER, content=BODY, headers=pairs)

    assert served(work).status_code == 400


def test_a_body_that_does_not_arrive_is_given_up() -> None:
    async def work(client: Client) -> httpx.Response:
        async def never() -> Any:
            yield BODY[:10]
            await asyncio.Event().wait()

        asgi = client._transport.app  # type: ignore[attr-defined]
        found: list[dict[str, Any]] = []
        parts = [{"type": "http.request", "body": BODY[:10], "more_body": True}]

        async def receive() -> dict[str, Any]:
            return parts.pop() if parts else await asyncio.Event().wait()  # type: ignore[return-value]

        async def send(message: dict[str, Any]) -> None:
            found.append(message)

        scope = {
            "type": "http", "method": "POST", "path": INFER, "headers": [], "query_string": b"",
            "root_path": "", "http_version": "1.1", "scheme": "http", "server": ("localhost", 80),
        }  # fmt: skip
        await asgi(scope, receive, send)
        return httpx.Response(found[0]["status"], headers=found[0]["headers"])

    settings = ServingSettings(name="arrays", arrival=0.05)
    response = served(work, settings=settings)
    assert response.status_code == 408
    assert response.headers["connection"] == "close"


def test_the_document_has_the_routes_that_exist() -> None:
    described = {
        (path, method.upper())
        for path, methods in document()["paths"].items()
        for method in methods
    }
    asgi = app(array_cascade(), settings=SETTINGS)
    routes = {
        (route.path, method)
        for route in asgi.routes
        for method in (route.methods or {"GET"}) - {"HEAD"}
        if route.path not in unsupported_paths() and not route.path.startswith("/page/")
    }
    assert routes == described
