"""A cluster is joined, or one sentence says why it cannot be, at once."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from command_line import Run
from ray_nodes import RayNodes
from understudy.cluster.connection import ClusterError, connected

HEADERS = "ray._private.authentication.http_token_authentication.get_auth_headers_if_auth_enabled"


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a program that accepts connections, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def closed() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def talking() -> Iterator[str]:
    """The address of a program that is no Ray."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                client.sendall(b"HTTP/1.0 404 Not Found\r\n\r\n")
                client.close()

        threading.Thread(target=answer, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def guarded() -> Iterator[str]:
    """The address of a program that refuses all calls, as a head does those without its token."""

    def refuse(_: Any, context: grpc.ServicerContext) -> None:
        context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")

    methods = {"CheckAlive": grpc.unary_unary_rpc_method_handler(refuse)}
    guard = grpc.method_handlers_generic_handler("ray.rpc.NodeInfoGcsService", methods)
    server = grpc.server(ThreadPoolExecutor(1), handlers=[guard])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def refused(address: str | None) -> str:
    with pytest.raises(ClusterError) as caught, connected(address):
        pass
    return str(caught.value)


def test_an_address_where_nobody_listens(closed: str) -> None:
    assert refused(closed) == (
        f"a Ray cluster answers at its address, none does at '{closed}' (Connection refused): "
        "start one with `ray start --head`, or correct the address"
    )


def test_a_program_that_is_no_ray(talking: str) -> None:
    assert f"what listens at '{talking}' is none" in refused(talking)


def test_a_cluster_that_asks_for_a_token(guarded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sentence = refused(guarded)
    assert "a cluster that asks for a token is joined with it, " in sentence
    assert f"'{guarded}' refuses to be joined without: set RAY_AUTH_MODE=token, " in sentence
    monkeypatch.setattr(HEADERS, lambda _: {"authorization": "Bearer other"})
    assert f"'{guarded}' refuses the one given here: " in refused(guarded)


@pytest.mark.slow  # waits for the end of its patience
def test_a_program_that_says_nothing(silent: str) -> None:
    assert f"what listens at '{silent}' is none" in refused(silent)


def test_the_address_of_the_environment(closed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", closed)
    assert f"none does at '{closed}' (RAY_ADDRESS)" in refused(None)


@pytest.mark.parametrize("address", ["head", "ray://head:10001", "head:port", ":6379"])
def test_what_is_no_address(address: str) -> None:
    assert f"a Ray cluster's address reads HOST:PORT, found '{address}'" in refused(address)


def test_a_ray_of_its_own_that_does_not_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / ("long" * 40)))
    assert refused(None).startswith("Ray starts on this machine, it did not (")


def test_the_command_says_so_in_one_sentence(run: Run, closed: str, tmp_path: Path) -> None:
    ended = run(
        *("score", "tiny=torchvision:resnet18", "--data", "digits:", "--into", tmp_path / "table"),
        *("--ray", closed, "--json"),
    )
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert ended.stderr.count("\n") == 1
    assert "(Connection refused)" in ended.stderr
    assert not (tmp_path / "table.partial").exists()


@pytest.mark.slow
def test_a_node_with_other_libraries_is_named(nodes: RayNodes, tmp_path: Path) -> None:
    other = tmp_path / "numpy-1.0.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 1.0.0\n")
    with nodes.added(cores=1, python_path=tmp_path):
        assert "every node has the same libraries," in (sentence := refused(nodes.address))
        assert "has numpy 1.0.0, here it is " in sentence
    with connected(nodes.address):
        pass


@pytest.mark.slow
def test_a_node_without_understudy_is_named(nodes: RayNodes, tmp_path: Path) -> None:
    (tmp_path / "understudy.py").write_text("raise ImportError('there is none')")
    with nodes.added(cores=1, python_path=tmp_path):
        assert "every node has understudy installed, it cannot" in refused(nodes.address)
