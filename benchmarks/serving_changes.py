"""The operating point switched, and the server killed, under load: parts of serving.py."""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from load_client import Job, Phase
from load_records import LOST, Records
from load_requests import Requests
from our_server import WITHOUT_SHADOWS, ours, set_point, status
from server_process import Server, loading
from serving_cascade import Served
from serving_checks import answered, inconsistent, misplaced, requests_of, tally
from understudy.monitoring.history import replay

CLIENTS = 64
SWITCHES, SPACING = 100, 0.08
KILLS, LAST_KILL = 20, 2.5
"""Servers that are killed, and the seconds of load before that, at most."""
MOST_UNKEPT = 2.0
"""Seconds that may be missing in the history of a server that was killed."""


def switching(one: Served) -> dict[str, Any]:
    """The operating point switched a hundred times under load."""
    names = list(one.expected)
    phases = (Phase(2.0 + SWITCHES * SPACING, clients=CLIENTS),)
    draw, switches = random.Random(0), []
    with (
        ours(one.folder, *WITHOUT_SHADOWS) as server,
        loading(Job(server.port, "", "", phases), requests_of(one.images)) as client,
    ):
        time.sleep(1.5)
        last = ""
        for _ in range(SWITCHES):
            last = draw.choice([name for name in names if name != last])
            asked = time.monotonic()
            set_point(server, last)
            switches.append((asked, time.monotonic(), last))
            time.sleep(draw.uniform(0, 2 * SPACING))
        records = client.records()
    ended = tally([records])
    wrong = len(inconsistent(records, dict(one.expected)))
    late = misplaced(records, switches)
    named = [told.operating_point for told in answered(records).values()]
    return {
        "switches": len(switches),
        "statuses": ended.statuses,
        "answers": {name: named.count(name) for name in names},
        "inconsistent": wrong,
        "by_another_point_than_was_set": late,
        "twice": ended.twice,
        "met": set(ended.statuses) == {200} and wrong == late == ended.twice == 0,
    }


def restart(one: Served) -> dict[str, Any]:
    """The server killed at random moments under load, and started again with the same state."""
    draw, requests = random.Random(0), requests_of(one.images)
    runs: list[Records] = []
    counts, kills, replays = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "watch.db"
        for _ in range(KILLS):
            with ours(one.folder, "--state", str(state), kill=True) as server:
                counts.append(_counted(server))
                kills.append(_kill(server, draw.uniform(0, LAST_KILL), requests, runs))
            replays.append(replay(state).same)
        with ours(one.folder, "--state", str(state), kill=True) as server:
            counts.append(_counted(server))
    kept = np.diff(counts).tolist()
    missing = [_missing(run, at, n) for run, at, n in zip(runs, kills, kept, strict=True)]
    ended = tally(runs)
    in_flight = [
        int(((run.status == LOST) & (run.sent <= at)).sum())
        for run, at in zip(runs, kills, strict=True)
    ]
    return {
        "kills": len(runs),
        "statuses": ended.statuses,
        "in_flight_when_killed": in_flight,
        "twice": ended.twice,
        "counted_in_history": kept,
        "more_than_was_sent": sum(n > len(r.number) for n, r in zip(kept, runs, strict=True)),
        "missing_s": round(max(missing), 2),
        "replays_the_same": sum(replays),
        "met": set(ended.statuses) <= {0, 200}
        and max(in_flight) <= CLIENTS
        and ended.twice == 0
        and all(0 <= n <= len(run.number) for n, run in zip(kept, runs, strict=True))
        and max(missing) <= MOST_UNKEPT
        and all(replays),
    }


def _counted(server: Server) -> int:
    """The requests that the watch of a server that was just started knows of."""
    return int(status(server)["watch"]["requests"])


def _kill(server: Server, after: float, requests: Requests, runs: list[Records]) -> float:
    """Kill a server some seconds after its first answers; when that was."""
    first = int(runs[-1].number[-1]) + 1 if runs else 0
    phases = (Phase(after + 3.0, clients=CLIENTS),)
    before = status(server)["requests"]["answered"]
    with loading(Job(server.port, "", "", phases, first, patience=0.0), requests) as client:
        while status(server)["requests"]["answered"] <= before:
            time.sleep(0.01)
        time.sleep(after)
        killed = time.monotonic()
        server.kill()
        runs.append(client.records())
    return killed


def _missing(records: Records, killed: float, kept: int) -> float:
    """Seconds before the end whose answers are not in the history, which has so many."""
    received = np.sort(records.received[records.status == 200])
    return float(killed - received[kept]) if kept < len(received) else 0.0
