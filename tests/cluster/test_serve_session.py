"""What a command asks of the application that it serves."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from understudy.cluster.connection import ClusterError
from understudy.cluster.serve_session import ServedApplication
from understudy.cluster.serve_spec import ServeSpec


class StatusHandler(BaseHTTPRequestHandler):
    """Answers as a proxy does: `/status` of one application, which may fail."""

    status = 200

    def do_GET(self) -> None:
        body = json.dumps({"path": self.path}).encode()
        self.send_response(self.status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is noted."""


@pytest.fixture
def application(monkeypatch: pytest.MonkeyPatch) -> Iterator[ServedApplication]:
    """An application behind a proxy; the environment names another, which does not answer."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    with HTTPServer(("127.0.0.1", 0), StatusHandler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield ServedApplication(ServeSpec("digits"), "127.0.0.1", server.server_port, calls=True)
        server.shutdown()


def test_the_status_is_asked_directly(application: ServedApplication) -> None:
    assert application.status() == {"path": "/status"}


def test_a_status_that_does_not_come_is_said(
    application: ServedApplication, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StatusHandler, "status", 500)
    with pytest.raises(ClusterError, match=r"answers at http://127\.0\.0\.1:\d+, it does not \("):
        application.status()
