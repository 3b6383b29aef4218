"""Runs that work side by side in one process, as several processes would."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context

from understudy.scores import ScoreTable


def at_once(*work: Callable[[], ScoreTable]) -> list[Future[ScoreTable]]:
    """Runs each in a thread that holds no locks, to its end."""
    with ThreadPoolExecutor(len(work)) as pool:
        return [pool.submit(Context().run, one) for one in work]
