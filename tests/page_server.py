"""A stand-in for a service behind the page: a status that tests change, on a port of its own."""

from __future__ import annotations

import asyncio
import math
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import uvicorn
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from understudy.serving.page_routes import page_routes
from understudy.serving.request_errors import RequestError
from understudy.serving.request_guard import check_allowed
from understudy.serving.service import Service
from understudy.serving.settings import ServingSettings

CLASSES = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
START = 1_760_000_000.0  # epoch seconds of the first figure


def points(count: int, reference: str = "resnet56") -> list[dict[str, Any]]:
    """Certified points from cheap to dear, and the reference."""
    drops = [3.0 * (count - 1 - k) / max(count - 1, 1) for k in range(count - 1)]
    found = [
        {
            "name": f"drop-{drop:g}",
            "max_drop": drop,
            "delta": 0.05 / count,
            "cost": 125e6 * (1 - 0.72 * (drop / 3) ** 0.4),
            "unit": "MACs",
            "saving": 0.72 * (drop / 3) ** 0.4,
            "policy": f"resnet8 ≥ {0.99 - drop / 10:.3f} → {reference}",
        }
        for drop in (round(drop, 3) for drop in drops)
    ]
    whole = {"name": "reference", "max_drop": 0.0, "delta": 0.0, "cost": 125e6, "unit": "MACs"}
    return [*found, {**whole, "saving": 0.0, "policy": reference}]


def empty(
    exits: Sequence[str] = ("resnet8", "resnet20", "resnet56"), count: int = 5
) -> dict[str, Any]:
    """The status of a server that nobody has asked yet."""
    stages = [{"exit": one, "confidence": "max_softmax", "threshold": 0.9} for one in exits]
    stages[-1]["threshold"] = None
    none = {"mean": None, "reference": None, "saving": None, "saved": 0}
    shift = {"stages": [{"exit": e, "requests": 0, "evidence": 0.0} for e in exits[:-1]]}
    return {
        "model": {"name": "cifar10", "version": "1", "backend": "onnx", "classes": list(CLASSES)},
        "uptime_s": 3.2,
        "ready": True,
        "token_required": False,
        "policy": {"text": " → ".join(exits), "stages": stages},
        "operating_point": points(count, exits[-1])[min(2, count - 1)]["name"],
        "chosen_by": "start",
        "operating_points": points(count, exits[-1]),
        "requests": {
            "answered": 0,
            "rejected": 0,
            "late": 0,
            "failed": 0,
            "cancelled": 0,
            "in_flight": 0,
            "max_queue": 128,
        },
        "exits": [
            {"name": e, "answered": 0, "share": None, "rows": 0, "seconds": 0.0} for e in exits
        ],
        "savings": {"MACs": none, "ms@64": none},
        "money": None,
        "latency": {"p50": None, "p95": None, "p99": None},
        "series": {
            "t": [],
            "throughput": [],
            "exits": {e: [] for e in exits},
            "p50": [],
            "p95": [],
            "p99": [],
            "saving": [],
        },
        "watch": {
            "state": "watching",
            "shadow_share": 0.05,
            "alpha": 0.01,
            "requests": 0,
            "shift": {
                **shift,
                "evidence": 0.0,
                "threshold": 2.0,
                "series": {"t": [], "evidence": []},
            },
            "agreement": {
                "shadowed": 0,
                "disagreements": 0,
                "rate": None,
                "interval": None,
                "baseline": 0.031,
                "budget": 0.041,
                "evidence": 0.0,
                "threshold": 2.0,
            },
            "labels": None,
            "decisions": [],
        },
        "latest": [],
    }


def busy(
    exits: Sequence[str] = ("resnet8", "resnet20", "resnet56"), count: int = 5, seconds: int = 300
) -> dict[str, Any]:
    """The status after a long run."""
    found = empty(exits, count)
    rng = np.random.default_rng(0)
    shares = np.array([0.6**k for k in range(len(exits))])
    shares /= shares.sum()
    rate = 820 + 120 * np.sin(np.arange(seconds) / 30) + rng.normal(0, 25, seconds)
    by_exit = {
        e: np.round(rate * s * rng.uniform(0.9, 1.1, seconds)).tolist()
        for e, s in zip(exits, shares, strict=True)
    }
    p50 = 0.011 + rng.uniform(0, 0.002, seconds)
    saving = 0.55 + 0.02 * np.sin(np.arange(seconds) / 20) + rng.normal(0, 0.01, seconds)
    times = [START + k for k in range(seconds)]
    answered = 12_204_331
    found["uptime_s"] = 15_480.0
    found["chosen_by"] = "operator"
    found["requests"] |= {
        "answered": answered,
        "rejected": 1204,
        "late": 3,
        "failed": 2,
        "cancelled": 31,
        "in_flight": 17,
    }
    found["exits"] = [
        {
            "name": e,
            "answered": round(s * answered),
            "share": s,
            "rows": round(s * answered * 1.4),
            "seconds": 3000.0 * (k + 1),
        }
        for k, (e, s) in enumerate(zip(exits, shares.tolist(), strict=True))
    ]
    found["savings"] = {
        "MACs": {
            "mean": 55.2e6,
            "reference": 125.5e6,
            "saving": 0.5602,
            "saved": 70.3e6 * answered,
        },
        "ms@64": {"mean": 0.61, "reference": 1.32, "saving": 0.5379, "saved": 0.71 * answered},
    }
    found["shadows"] = {"answered": 610_210, "dropped": 3}
    found["money"] = {"price": 0.02, "unit": "per 1,000 images of resnet56", "saved": 136.7}
    found["latency"] = {"p50": 0.0112, "p95": 0.0264, "p99": 0.0391}
    found["series"] = {
        "t": times,
        "throughput": rate.tolist(),
        "exits": by_exit,
        "p50": p50.tolist(),
        "p95": (2.2 * p50).tolist(),
        "p99": (3.3 * p50 + rng.uniform(0, 0.01, seconds)).tolist(),
        "saving": saving.tolist(),
    }
    watch = found["watch"]
    evidence = np.cumsum(rng.normal(-0.002, 0.05, 60)).clip(-0.5, 1.2)
    stages = [
        {"exit": e, "requests": answered, "evidence": 0.2 * k} for k, e in enumerate(exits[:-1])
    ]
    watch["shift"] |= {
        "stages": stages,
        "evidence": 0.31,
        "series": {"t": times[::5], "evidence": evidence.tolist()[: len(times[::5])]},
    }
    watch["agreement"] |= {
        "shadowed": 610_210,
        "disagreements": 19_120,
        "rate": 0.0313,
        "interval": [0.0309, 0.0318],
        "evidence": -0.4,
    }
    watch["agreement"]["pairs"] = [
        {"answer": 3, "reference": 5, "count": 4021},
        {"answer": 5, "reference": 3, "count": 3980},
    ]
    watch["requests"] = answered
    watch["labels"] = {
        "labelled": 1200,
        "accuracy": 0.913,
        "compared": 61,
        "gap": 0.004,
        "budget": 0.015,
        "evidence": -0.1,
        "threshold": 2.3,
    }
    watch["decisions"] = [
        {
            "time": START - 7000,
            "kind": "operating-point",
            "reason": "set by an operator",
            "from": "drop-0.75",
            "to": "drop-1.5",
        },
    ]
    found["latest"] = [
        {
            "request_id": f"a1b2-{k}-{n}",
            "exit": e,
            "prediction": n,
            "class": CLASSES[n],
            "confidence": 0.93 - 0.05 * n,
        }
        for k, e in enumerate(exits)
        for n in range(8)
    ]
    return found


def fallen_back(status: dict[str, Any]) -> dict[str, Any]:
    """The same after the watch judged the promise broken."""
    watch = status["watch"]
    watch |= {"state": "fallen back", "shadow_share": 0.5, "agreement": None}
    watch["shift"]["evidence"] = 14.2
    watch["labels"] |= {"compared": 0, "gap": None, "budget": None, "threshold": None}
    watch["decisions"] += [
        {
            "time": START + 40,
            "kind": "warning",
            "reason": "the confidences of resnet8 differ from those of the certify split",
            "from": None,
            "to": None,
        },
        {
            "time": START + 92,
            "kind": "fall-back",
            "reason": "71 of 912 shadowed images differ from the reference, 4.1 % are allowed",
            "from": status["operating_point"],
            "to": "reference",
        },
    ]
    return status | {"operating_point": "reference", "chosen_by": "watch"}


@dataclass
class StandIn:
    """Replays a status; changes the operating point when asked with the right token.

    Attributes:
        status: what GET /status answers.
        token: what changes need, or None.
        delay: seconds until an operating point is set.
        changes: names that were asked for, in order.
        url: of the page, below a mount path.
    """

    status: dict[str, Any]
    token: str | None = None
    delay: float = 0.0
    changes: list[str] = field(default_factory=list)
    url: str = ""

    @property
    def settings(self) -> ServingSettings:
        return ServingSettings(token=self.token)

    def latest_image(self, request_id: str) -> NDArray[np.uint8] | None:
        """The picture of one of the latest images."""
        if not any(one["request_id"] == request_id for one in self.status["latest"]):
            return None
        at = np.indices((32, 32))
        phase = sum(map(ord, request_id))
        waves = [
            127 + 120 * np.sin((at[0] * (c + 1) + at[1] * (3 - c) + phase) / 9) for c in range(3)
        ]
        return np.stack(waves).astype(np.uint8)

    async def read(self, request: Request) -> JSONResponse:
        return JSONResponse(_finite({**self.status, "token_required": self.token is not None}))

    async def choose(self, request: Request) -> JSONResponse:
        check_allowed(request.scope, self.token)
        if request.headers.get("content-type") != "application/json":
            return JSONResponse({"error": "send application/json"}, status_code=415)
        name = (await request.json())["name"]
        self.changes.append(name)
        await asyncio.sleep(self.delay)
        self.status |= {"operating_point": name, "chosen_by": "operator"}
        return JSONResponse({"name": name})

    async def reset(self, request: Request) -> JSONResponse:
        check_allowed(request.scope, self.token)
        watch = self.status["watch"]
        watch["state"] = "watching"
        point = self.status["operating_point"]
        reason = "to the traffic" if (await request.json())["to_traffic"] else "by an operator"
        decision = {"time": START + 99, "kind": "reset", "reason": reason}
        watch["decisions"].append({**decision, "from": point, "to": point})
        return JSONResponse({"state": "watching"})

    def app(self) -> Starlette:
        routes = [
            *page_routes(cast(Service, self)),
            Route("/status", self.read),
            Route("/operating-point", self.choose, methods=["PUT"]),
            Route("/watch/reset", self.reset, methods=["POST"]),
        ]
        handlers: Any = {RequestError: refused}
        return Starlette(routes=[Mount("/below", routes=routes)], exception_handlers=handlers)


async def refused(request: Request, error: RequestError) -> JSONResponse:
    """The error as a server shows it."""
    return JSONResponse({"error": str(error)}, status_code=error.status)


@contextmanager
def served(stand_in: StandIn) -> Iterator[StandIn]:
    """The stand-in on a free port, in a thread."""
    with listening(stand_in.app()) as url:
        stand_in.url = f"{url}below/"
        yield stand_in


@contextmanager
def listening(app: Any) -> Iterator[str]:
    """The address of an app on a free port, in a thread."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.should_exit = True
        thread.join()


def _finite(value: Any) -> Any:
    """Plain JSON: no NaN."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
