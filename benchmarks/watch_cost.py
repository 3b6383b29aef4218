"""What the watch costs a request, in CPU time of its thread: confidences, coins, shadows, a file.

python benchmarks/watch_cost.py [--json --record]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import thread_time
from typing import Any

import numpy as np

import harness
from understudy.monitoring.history import History
from understudy.monitoring.settings import WatchSettings
from understudy.monitoring.watch import Watch

sys.path.insert(0, str(harness.ROOT / "tests"))
from watched_cascade import POINTS, watch_of

ROUNDS = 5
REQUESTS = 6_400
BATCH = 64
MOST = 10.0  # microseconds of CPU a request, in batches of 64, shadows apart


def main() -> None:
    harness.main(
        measure, claim=f"the watch costs a request at most {MOST:g} us of CPU in batches of {BATCH}"
    )


def measure(_: argparse.Namespace) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    observed = {size: best(lambda size=size: observe(rng, size)) for size in (1, 16, BATCH, 256)}
    found = {
        **{f"confidences in batches of {size}": cost for size, cost in observed.items()},
        "drawing a shadow": best(draw),
        "keeping an answer": best(answer),
        "judging a shadow": best(shadow),
        "a label": best(label),
    }
    per_request = observed[BATCH] + found["drawing a shadow"] + found["keeping an answer"]
    return {
        "met": per_request <= MOST,
        "microseconds": {name: round(cost, 2) for name, cost in found.items()},
        "microseconds_per_request": round(per_request, 2),
        "file_microseconds_per_request": round(best(flush), 2),
    }


def best(cost: Callable[[], float]) -> float:
    """The least of some rounds: the machine has other work."""
    return min(cost() for _ in range(ROUNDS))


def each(work: Callable[[int], object], times: int) -> float:
    """Microseconds of CPU of one call."""
    started = thread_time()
    for number in range(times):
        work(number)
    return 1e6 * (thread_time() - started) / times


def observe(rng: np.random.Generator, size: int) -> float:
    watch, batches = watch_of(), rng.random((REQUESTS // size, size)).astype(np.float32)
    return each(lambda number: watch.observe("drop-1", 0, batches[number]), len(batches)) / size


def draw() -> float:
    watch = watch_of()
    return each(lambda number: watch.draw(f"a-{number}", "drop-1"), REQUESTS)


def answer() -> float:
    watch = watch_of()
    return each(lambda number: watch.answered(f"a-{number}", "drop-1", 1), REQUESTS)


def shadow() -> float:
    watch = watch_of(WatchSettings(share=1.0, raised_share=1.0))
    tickets = [watch.draw(f"a-{number}", "drop-1") for number in range(1_000)]
    drawn = [ticket for ticket in tickets if ticket is not None]
    return each(lambda number: watch.shadowed(drawn[number], 0, 0), len(drawn))


def label() -> float:
    watch = watch_of()
    for number in range(1_000):
        watch.answered(f"a-{number}", "drop-1", 1)
    return each(lambda number: watch.feedback([(f"a-{number}", 1)]), 1_000)


def flush() -> float:
    """Writing a second at full load, per request."""
    with (
        tempfile.TemporaryDirectory() as folder,
        History(Path(folder) / "watch.db", every=1e6) as history,
    ):
        watch = history.watch(POINTS, WatchSettings(), point="drop-1")
        history.flush()
        traffic(watch, 1_500)
        return each(lambda _: history.flush(), 1) / 1_500


def traffic(watch: Watch, requests: int) -> None:
    rng = np.random.default_rng(1)
    for start in range(0, requests, 32):
        watch.observe("drop-1", 0, rng.random(32))
        watch.observe("drop-1", 1, rng.random(5))
        for number in range(start, start + 32):
            ticket = watch.draw(f"a-{number}", "drop-1")
            watch.answered(f"a-{number}", "drop-1", 1)
            if ticket is not None:
                watch.shadowed(ticket, 1, 1)


if __name__ == "__main__":
    main()
