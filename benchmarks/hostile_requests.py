"""10,000 hostile requests: the server refuses them, and stays what it was.

    python benchmarks/hostile_requests.py [--requests 10000] [--json] [--record]

A real server (`understudy serve`) of a small cascade that resizes images gets requests that
schemathesis makes from its OpenAPI document, right ones and wrong ones, and those of
hostile_messages.py: bytes that are changed, cut off or compressed, huge sizes, image bombs, odd
framing, clients that go away, and beside all of them slow clients that send a byte a second, or
nothing more. Every tenth of ours is honest and must be answered.

Measured: statuses by kind of attack; what is wrong (a status from 500 other than 501 and 503, no
answer, an error in another form, a response that the document does not describe); resident memory
after the first half and in the end; whether the server answers afterwards as it did before.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.request import urlopen

import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.specs.openapi.checks import response_schema_conformance

import harness
import hostile_nets
from hostile_client import ALLOWED, Reply, all_sent, faults, summary
from hostile_messages import Attack, Target, attacks, infer, slow, valid

FROM_DOCUMENT = 0.3
"""The share of requests that are made from the document."""

EXAMPLES = 20
"""Requests of one operation, one after another."""

SLOW = 60
CLIENTS = 16
GROWTH_MB = 32.0
"""Resident memory that may be added between the middle and the end."""

CONCLUSION = "no fault of the server, memory flat, and it answers afterwards"


class Server(NamedTuple):
    """The server, where it listens, and what it prints."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        return host, int(port)

    def memory(self, name: str = "VmRSS") -> float:
        """MB of memory that it holds (VmRSS), or has held at most (VmHWM)."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1000

    def get(self, path: str) -> Any:
        with urlopen(self.url + path, timeout=30) as response:
            return json.load(response)


@contextmanager
def served() -> Iterator[Server]:
    """The small cascade behind `understudy serve`, in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder, log = Path(name) / "cascade", Path(name) / "log"
        hostile_nets.save(folder)
        source = os.pathsep.join([str(harness.ROOT / "src"), str(Path(__file__).parent)])
        command = [sys.executable, "-m", "understudy", "serve", str(folder), "--port", "0"]
        command += ["--json", "--allow-code", "hostile_nets"]
        with (
            log.open("wb") as errors,
            subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"},
            ) as process,
        ):
            assert process.stdout is not None
            try:
                yield Server(process, _url(process.stdout), log)
            finally:
                process.send_signal(signal.SIGINT)
                process.wait(30)


def _url(printed: IO[bytes]) -> str:
    """The URL in what a server prints once it has started."""
    text = b""
    while line := printed.readline():
        text += line
        with suppress(ValueError):
            found: str = json.loads(text)["url"]
            return found
    sys.exit("the server does not start")


def from_document(server: Server, count: int) -> tuple[Counter[str], Counter[str]]:
    """Requests made from the document: statuses, and what is wrong."""
    schema = schemathesis.openapi.from_dict(server.get("/openapi.json"))
    operations = [one.ok() for one in schema.get_all_operations()]
    statuses: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    for number in itertools.count():
        for operation, mode in itertools.product(operations, GenerationMode):
            with suppress(Unsatisfiable):  # it has nothing that could be wrong
                _send(server, operation, mode, number, statuses=statuses, wrong=wrong)
            if statuses.total() >= count:
                return statuses, wrong
    raise AssertionError


def _send(
    server: Server,
    operation: Any,
    mode: GenerationMode,
    number: int,
    *,
    statuses: Counter[str],
    wrong: Counter[str],
) -> None:
    """Send some requests of one operation, and count what comes back."""

    @seed(number)
    @settings(
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case: Any) -> None:
        response = case.call(base_url=server.url)
        status = response.status_code
        statuses[str(status)] += 1
        if status >= 500 and status not in ALLOWED:
            wrong[f"{operation.label}: status {status}"] += 1
        try:
            case.validate_response(response, checks=[response_schema_conformance])
        except (Failure, FailureGroup) as error:
            wrong[f"{operation.label}: {str(error).splitlines()[0]}"] += 1

    send()


def normal(server: Server, target: Target) -> tuple[dict[str, int], float]:
    """The statuses of 200 honest requests one by one, and the median of their times in ms."""
    r = random.Random(1)
    one = Attack("honest", (infer(target, *valid(target, r)),))
    replies = asyncio.run(all_sent([one] * 200, server.address, clients=1))
    times = sorted(reply.seconds for reply in replies)
    return dict(Counter(str(reply.status) for reply in replies)), times[len(times) // 2] * 1000


def _logged(text: str) -> Counter[str]:
    """The last lines of the tracebacks in a log."""
    found = [line for line in text.splitlines() if "Traceback" in line]
    return Counter("logged: " + line.rpartition("Traceback")[2][-300:] for line in found)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    ours = round(arguments.requests * (1 - FROM_DOCUMENT)) - SLOW
    replies: list[Reply] = []
    with served() as server:
        target = Target(":".join(map(str, server.address)), "cascade", hostile_nets.SHAPE)
        memory = {"start": server.memory()}
        before, quick = normal(server, target)
        started = time.perf_counter()
        statuses, wrong = from_document(server, arguments.requests - ours - SLOW)
        memory["after those of the document"] = server.memory()
        found, r = attacks(target, ours, 0), random.Random(0)
        for half, name in (
            (found[: ours // 2], "after one half"),
            (found[ours // 2 :], "after both"),
        ):
            beside = [slow(target, r) for _ in range(SLOW // 2)]
            replies += asyncio.run(all_sent([*beside, *half], server.address, clients=CLIENTS))
            time.sleep(1)
            memory[name] = server.memory()
        seconds = time.perf_counter() - started
        after, late = normal(server, target)
        state = server.get("/status")["requests"]
        memory["at most"] = server.memory("VmHWM")
        logged = server.log.read_text(errors="replace")
        alive = server.process.poll() is None
    wrong.update(faults(replies))
    wrong.update(_logged(logged))
    slowest = max(one.seconds for one in replies if one.attack.pause)
    growth = memory["after both"] - memory["after one half"]
    return {
        "requests": len(replies) + sum(statuses.values()),
        "seconds": round(seconds, 1),
        "statuses": {"from the document": dict(sorted(statuses.items())), **summary(replies)},
        "wrong": {name: count for name, count in wrong.items() if count},
        "slow clients are closed after at most, s": round(slowest, 1),
        "memory, MB": {name: round(value, 1) for name, value in memory.items()},
        "alive": alive,
        "requests afterwards": {"statuses": after, "median ms": round(late, 2)},
        "requests before": {"statuses": before, "median ms": round(quick, 2)},
        "in flight afterwards": state["in_flight"],
        "met": bool(
            alive
            and not +wrong
            and growth <= GROWTH_MB
            and after == before == {"200": 200}
            and state["in_flight"] == 0
        ),
    }


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--requests", type=int, default=10_000)


if __name__ == "__main__":
    harness.main(measure, claim=CONCLUSION, options=options)
