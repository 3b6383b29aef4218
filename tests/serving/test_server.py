"""The server in a process of its own: how it starts, drains and ends, and what it refuses."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
import torch

from command_line import Run, refused
from online_requests import run_async
from served_cascades import png, random_images, served_cascade
from server_processes import ServerProcess, server_process
from understudy.app.cli.serve import serve
from understudy.serving import ServingSettings, app
from understudy.serving.server import CannotListen, DrainingServer, listening_socket

IMAGES = random_images(6, seed=5, side=9)
CODE = ("--allow-code", "digit_nets")
CHUNKED = b"POST /classify HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def server(
    cascade_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    with server_process(cascade_folder, *CODE, folder=tmp_path_factory.mktemp("server")) as found:
        yield found


def test_a_server_says_where_it_is_and_what_it_serves(server: ServerProcess) -> None:
    assert server.url.startswith("http://127.0.0.1:")
    assert server.facts["model"] == "pixels"
    assert server.facts["operating_point"] == "drop-1"
    assert server.get("/v2/health/ready").status_code == 200
    assert server.get("/").status_code == 200


def test_files_are_answered_as_by_run(
    server: ServerProcess, cascade_folder: Path, run: Run, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = tmp_path / "images" / "any"
    folder.mkdir(parents=True)
    for number, image in enumerate(random_images(12, seed=9, side=33)):
        (folder / f"{number:02}.png").write_bytes(png(image))
    monkeypatch.chdir(tmp_path)
    done = run("run", cascade_folder, "--data", f"folder:{folder}", *CODE, "--out", "a.csv")
    assert done.exit_code == 0, done.stderr
    rows = [line.split(",") for line in (tmp_path / "a.csv").read_text().splitlines()]
    head, *rows = rows
    files = [("i", (file.name, file.read_bytes())) for file in sorted(folder.iterdir())]
    found = httpx.post(f"{server.url}/classify", files=files).json()["answers"]
    for row, answer in zip(rows, found, strict=True):
        given = dict(zip(head, row, strict=True))
        assert int(given["prediction"]) == answer["prediction"]
        assert given["exit"] == answer["exit"]
        assert float(given["confidence"]) == pytest.approx(answer["confidence"], rel=1e-6)


def test_what_is_no_http_is_refused_as_json(server: ServerProcess) -> None:
    place = urlsplit(server.url)
    for sent, status in (
        (b"\x16\x03\x01 nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"x: " + b"y" * 200_000 + b"\r\n\r\n", 431),
        (CHUNKED + b"0\r\n" + b"x: " + b"y" * 200_000, 431),  # a trailer without an end
        (CHUNKED + b"0\r\n" + b"x: y\r\n" * 40_000, 431),  # trailers without an end
    ):
        with socket.create_connection((place.hostname, place.port or 0), timeout=10) as client:
            client.sendall(sent)
            found = b""
            while piece := client.recv(65536):
                found += piece
        head, _, body = found.partition(b"\r\n\r\n")
        assert f" {status} ".encode() in head.splitlines()[0]
        assert list(json.loads(body)) == ["error"]
    assert server.get("/v2/health/live").status_code == 200


def test_a_client_that_goes_away_frees_its_place(server: ServerProcess) -> None:
    place = urlsplit(server.url)
    for _ in range(20):
        client = socket.create_connection((place.hostname, place.port or 0), timeout=10)
        client.sendall(
            b"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
            b"Content-Length: 1000\r\n\r\nhalf"
        )
        client.close()
    deadline = time.monotonic() + 20
    while server.get("/status").json()["requests"]["in_flight"]:
        assert time.monotonic() < deadline
    assert server.get("/status").json()["requests"]["failed"] == 0


@pytest.mark.slow
def test_a_stopped_server_answers_what_it_has(cascade_folder: Path, tmp_path: Path) -> None:
    """After SIGTERM: not ready, but answering; then it ends with the exit code 0."""
    with server_process(cascade_folder, *CODE, folder=tmp_path) as server:
        begun = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        while server.get("/v2/health/ready").status_code == 200:
            assert time.monotonic() - begun < 5
        assert server.get("/v2/health/live").status_code == 200
        files = {"image": png(IMAGES[0])}
        assert httpx.post(f"{server.url}/classify", files=files).status_code == 200
        assert server.process.wait(30) == 0
        assert 4 < time.monotonic() - begun < 30
        messages = [one["message"] for one in server.records()]
        assert "draining" in messages


@pytest.mark.slow
def test_ctrl_c_stops_at_once_and_answers_what_is_in_flight(
    cascade_folder: Path, tmp_path: Path
) -> None:
    with server_process(cascade_folder, *CODE, folder=tmp_path) as server:
        answers: list[int] = []

        def ask() -> None:
            with httpx.Client() as client:
                for _ in range(50):
                    try:
                        files = [("i", ("a.png", png(image))) for image in IMAGES]
                        answers.append(
                            client.post(f"{server.url}/classify", files=files).status_code
                        )
                    except httpx.TransportError:
                        return

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        while len(answers) < 8:
            time.sleep(0.01)
        assert server.stop(signal.SIGINT) == 0
        for thread in threads:
            thread.join(30)
        assert set(answers) <= {200, 503}


@pytest.mark.slow
def test_a_token_is_nowhere_to_be_seen(cascade_folder: Path, tmp_path: Path) -> None:
    token = "a-very-secret-token"
    with server_process(
        *(cascade_folder, *CODE, "--log-share", "1"),
        folder=tmp_path,
        environment={"UNDERSTUDY_TOKEN": token},
    ) as server:
        wish = {"name": "reference"}
        assert httpx.put(f"{server.url}/operating-point", json=wish).status_code == 401
        headers = {"authorization": f"Bearer {token}"}
        found = httpx.put(f"{server.url}/operating-point", json=wish, headers=headers)
        assert found.json()["operating_point"] == "reference"
        shown = json.dumps(server.facts) + server.get("/status").text + server.get("/metrics").text
        assert server.stop(signal.SIGINT) == 0
        assert token not in shown + server.log.read_text()
        messages = [one["message"] for one in server.records()]
        assert messages.index("serving") < messages.index("request")
        assert messages[-1] == "stopped"
        assert len(messages) == len(server.log.read_text().splitlines())  # every line is JSON
        [switched] = [one for one in server.records() if one["message"] == "operating point"]
        assert (switched["from"], switched["to"]) == ("drop-1", "reference")
        logged = [one for one in server.records() if one["message"] == "request"]
        assert {one["status"] for one in logged} >= {200, 401}
        assert all(one["request_id"] for one in logged)


def test_a_port_that_is_taken_while_the_models_load_is_said_to_be() -> None:
    served = app(served_cascade())
    with listening_socket("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with listening_socket("127.0.0.1", port) as second:
            first.listen()
            with pytest.raises(CannotListen, match=f"port {port} was taken meanwhile"):
                DrainingServer(served, second, lambda: None).serve_until_stopped()
    run_async(served.service.close())


def test_mistakes_are_one_sentence(
    run: Run, cascade_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused(
            run("serve", cascade_folder, *CODE, "--port", port),
            f"'127.0.0.1' port {port} cannot be bound (Address already in use)",
        )
    refused(
        run("serve", cascade_folder, *CODE, "--host", "no.such.host.invalid"), "cannot be bound"
    )
    refused(run("serve", cascade_folder, *CODE, "--token-file", tmp_path / "no"), "cannot be read")
    (tmp_path / "empty").write_text("\n")
    refused(run("serve", cascade_folder, *CODE, "--token-file", tmp_path / "empty"), "is empty")
    (tmp_path / "two").write_text("two words\n")
    refused(run("serve", cascade_folder, *CODE, "--token-file", tmp_path / "two"), "one word")
    monkeypatch.setenv("UNDERSTUDY_TOKEN", " \n")
    refused(run("serve", cascade_folder, *CODE), "UNDERSTUDY_TOKEN is the token that changes need")
    monkeypatch.delenv("UNDERSTUDY_TOKEN")
    refused(run("serve", cascade_folder, *CODE, "--shadow", "1.5"), "shadow is a share from 0 to 1")
    refused(run("serve", cascade_folder, *CODE, "--deadline", "0"), "deadline is some seconds")
    refused(run("serve", tmp_path / "no"), "does not exist")
    refused(run("serve", cascade_folder, *CODE, "--max-drop", "-3"), "no certified operating point")


ALONE = """
import asyncio, sys
import numpy as np
from understudy.onnx import load_onnx
from understudy.serving import app, ServingSettings

async def main():
    cascade = load_onnx(sys.argv[1])
    served = app(cascade, settings=ServingSettings())
    async with served.service as service:
        image = np.zeros(cascade.images.shape, np.uint8)
        print((await service.answer(image)).answer.exit)
    loaded = {"torch", "torchvision", "safetensors"} & set(sys.modules)
    assert not loaded, loaded

asyncio.run(main())
"""


@pytest.mark.slow
def test_an_exported_cascade_is_served_without_torch(tmp_path: Path) -> None:
    from understudy.onnx.export import export_onnx

    cascade = served_cascade()
    export_onnx(cascade, tmp_path / "onnx", image=torch.zeros(3, 9, 9, dtype=torch.uint8))
    ran = subprocess.run(
        [sys.executable, "-c", ALONE, tmp_path / "onnx"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() in cascade.exits
    with server_process(tmp_path / "onnx", folder=tmp_path) as server:
        expected = cascade.answer(torch.from_numpy(IMAGES))
        files = [("i", ("a.png", png(image))) for image in IMAGES]
        found = httpx.post(f"{server.url}/classify", files=files).json()["answers"]
        assert [one["prediction"] for one in found] == expected.prediction.tolist()
        assert [one["exit"] for one in found] == expected.exit_names()
        other = httpx.post(
            f"{server.url}/classify", files={"i": png(np.zeros((3, 8, 9), np.uint8))}
        )
        assert other.status_code == 400
        assert "images are uint8 (3, 9, 9), found 8 x 9 pixels" in other.json()["error"]


@pytest.mark.parametrize("option", ["max_queue", "deadline", "price", "shadow", "alpha", "state"])
def test_the_command_has_the_defaults_of_the_settings(option: str) -> None:
    """They stand in both, because the command line does not import the server for its help."""
    assert signature(serve).parameters[option].default == getattr(ServingSettings(), option)
