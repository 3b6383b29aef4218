"""Pages as they run: Chromium without a window, steered over its own protocol (CDP)."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from chromium import NAMES

PATIENCE = 20.0  # seconds for what a busy machine does at last


@contextmanager
def chromium(folder: Path) -> Iterator[Page]:
    """A page of a browser of its own, empty. Skips the test where there is no Chromium."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no browser to open pages in: none of {', '.join(NAMES)} is installed")
    profile = folder / "profile"
    switches = ("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0")
    with subprocess.Popen(
        [program, *switches, f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            port, path = _address(profile / "DevToolsActivePort")
            with connect(f"ws://127.0.0.1:{port}{path}", max_size=None, compression=None) as socket:
                yield Page(socket)
        finally:
            process.terminate()


def _address(file: Path) -> list[str]:
    """The port and the path of the protocol, once the browser has written them."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        lines = file.read_text().splitlines() if file.exists() else []
        if len(lines) == 2:
            return lines
        time.sleep(0.02)
    raise TimeoutError(f"no browser within {PATIENCE:g} s: no file {file}")


class Page:
    """A page, what it logs, and the hands and eyes of a visitor.

    Attributes:
        errors: uncaught errors and errors in the console; those of the network too.
    """

    def __init__(self, socket: ClientConnection) -> None:
        self.errors: list[str] = []
        self._socket, self._numbers, self._session = socket, itertools.count(1), None
        [target] = [t for t in self.send("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        attached = self.send("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """What the browser answers to a command."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._socket.send(json.dumps(message))
        while True:
            found = json.loads(self._socket.recv(timeout=PATIENCE))
            if found.get("id") == number:
                assert "error" not in found, (method, found["error"])
                result: dict[str, Any] = found["result"]
                return result
            self._note(found)

    def _note(self, event: dict[str, Any]) -> None:
        method, params = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Runtime.consoleAPICalled" and params["type"] in {"error", "assert"}:
            self.errors.append(json.dumps(params["args"]))

    def open(self, url: str, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Go to a page in a window of a size, on light or on dark ground."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send("Page.navigate", url="about:blank")
        self.send("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """The value of an expression in the page, awaited."""
        found = self.send(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, script: str) -> None:
        """Wait for an expression to be true."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if self.run(f"Boolean({script})"):
                return
            time.sleep(0.05)
        raise AssertionError(f"not within {PATIENCE:g} s: {script}")

    def text(self, selector: str) -> str:
        """The text of an element as it is shown."""
        found: str = self.run(f"document.querySelector({json.dumps(selector)}).innerText")
        return found

    def violations(self, axe: str) -> Any:
        """What axe-core, whose script is given, finds in the page: impact, rule and elements."""
        self.run(axe + ";0")
        return self.run(
            "axe.run().then(result => result.violations.map(one => [one.impact, one.id, "
            "one.nodes.slice(0, 3).map(node => node.html + ' ' + node.failureSummary)]))"
        )

    def key(self, key: str) -> None:
        """Press a key, such as `ArrowRight`."""
        codes = {"Enter": 13, "Escape": 27, "Tab": 9, "End": 35, "Home": 36}
        codes |= {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
        for kind in ("rawKeyDown", "keyUp"):
            code = codes[key]
            self.send(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code
            )

    def drag(
        self, start: tuple[float, float], *, to: tuple[float, float], hold: bool = False
    ) -> None:
        """Press the pointer at a place of the window, move it, and let go unless held."""
        self._pointer("mousePressed", *start)
        for step in (0.3, 0.7, 1.0):
            self._pointer(
                "mouseMoved", *(a + step * (b - a) for a, b in zip(start, to, strict=True))
            )
        if not hold:
            self._pointer("mouseReleased", *to)

    def _pointer(self, kind: str, x: float, y: float) -> None:
        self.send(
            "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1
        )

    def screenshot(self) -> bytes:
        """The whole page as PNG."""
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self.send("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        return base64.b64decode(shot["data"])
