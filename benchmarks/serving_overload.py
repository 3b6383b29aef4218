"""The server under five times its capacity: part of serving.py."""

from __future__ import annotations

import threading
import time
from statistics import median
from typing import Any

from load_client import Job, Phase
from load_records import Records
from our_server import ours
from server_process import Server, loaded, loading
from serving_cascade import Served
from serving_checks import requests_of, tally

CLIENTS, SECONDS = 64, 4.0
OVERLOAD, OVERLOAD_SECONDS, NORMAL = 5.0, 60.0, 0.5
SLOT = 0.25
MOST_P99, MOST_REFUSED_MS, MOST_GROWTH, MOST_RECOVERY = 3.0, 100.0, 1.05, 2.0


def overload(one: Served) -> dict[str, Any]:
    """Five times the capacity for a minute, and half of it before and after."""
    requests = requests_of(one.images)
    with ours(one.folder) as server:
        loaded(server.port, requests, Phase(2.0, clients=CLIENTS))
        full = loaded(server.port, requests, Phase(SECONDS, clients=CLIENTS))
        capacity = full.rate(SECONDS)
        phases = (
            Phase(SECONDS, rate=NORMAL * capacity),
            Phase(OVERLOAD_SECONDS, rate=OVERLOAD * capacity),
            Phase(2 * SECONDS, rate=NORMAL * capacity),
        )
        memory = _Memory(server)
        with loading(Job(server.port, "", "", phases), requests) as client, memory:
            records = client.records()
    ended, rows = tally([records]), records.rows(phase=1)
    accepted, refused = (records.rows(phase=1, status=status) for status in (200, 503))
    p99 = full.quantiles(full.rows(status=200))["p99"]
    recovery = _recovery(records, p99 / 1e3)
    times = round(records.quantiles(accepted)["p99"] / p99, 2)
    quick = records.quantiles(refused)
    growth = memory.growth(records.sent[rows].min() + 10, records.sent[rows].max())
    return {
        "capacity": round(capacity),
        "offered": round(len(rows) / OVERLOAD_SECONDS),
        "accepted_per_second": round(len(accepted) / OVERLOAD_SECONDS),
        "full_load_ms": full.quantiles(full.rows(status=200)),
        "normal_ms": records.quantiles(records.rows(phase=0, status=200)),
        "accepted_ms": records.quantiles(accepted),
        "refused_ms": quick,
        "p99_times": times,
        "statuses": ended.statuses,
        "lost": ended.lost,
        "twice": ended.twice,
        "rss_growth": growth,
        "recovery_s": recovery,
        "met": times <= MOST_P99
        and set(ended.statuses) == {200, 503}
        and quick["p99"] <= MOST_REFUSED_MS
        and ended.twice == 0
        and growth <= MOST_GROWTH
        and recovery <= MOST_RECOVERY,
    }


def _recovery(records: Records, normal: float) -> float:
    """Seconds from the end of the overload to the first second in which all is as before: in each
    quarter of it at most one request in a hundred is refused, or takes longer than is normal at
    full load."""
    rows = records.rows(phase=2)
    begin = records.sent[rows].min()
    bad = (records.status[rows] != 200) | (records.latency[rows] > normal)
    at = (records.sent[rows] - begin) // SLOT
    normal_slots = [bad[at == slot].mean() <= 0.01 for slot in range(int(at.max()))]
    seconds = [all(normal_slots[start : start + 4]) for start in range(len(normal_slots) - 3)]
    return SLOT * seconds.index(True) if True in seconds else float("inf")


class _Memory:
    """Samples the memory of a server while it is entered."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.samples: list[tuple[float, float]] = []
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._sample)

    def _sample(self) -> None:
        while not self.ended.wait(0.5):
            self.samples.append((time.monotonic(), self.server.rss_mb()))

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()

    def growth(self, begin: float, end: float) -> float:
        """How many times the memory of the beginning is held at the end: medians of 5 s."""
        first = median(mb for at, mb in self.samples if begin <= at <= begin + 5)
        last = median(mb for at, mb in self.samples if end - 5 <= at <= end)
        return round(last / first, 4)
