"""What a watch knows, as plain JSON for a page."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from understudy.intervals import Interval, exact_interval, wilson
from understudy.monitoring.decisions import Decision
from understudy.monitoring.promise import Promise
from understudy.monitoring.watch_state import WatchState

_POINTS = 300
_MOST_HITS = 2000  # beyond, the exact interval and Wilson's are the same
_MOST_PAIRS = 10
_SHOWN = 100


class Series:
    """The evidence of shift over time, at most once a second; the last 300 values."""

    def __init__(self) -> None:
        self.values: deque[tuple[float, float]] = deque(maxlen=_POINTS)

    def note(self, time: float, state: WatchState) -> None:
        """Something happened."""
        if not self.values or not 0 <= time - self.values[-1][0] < 1:
            self.values.append((time, shift_evidence(state)))


def shift_evidence(state: WatchState) -> float:
    """The decimal logarithm of the largest capital against "nothing has shifted", each capital
    times the part of the level at which it is tested."""
    return max((_stream_evidence(state, number) for number in range(len(state.shifts))), default=0)


def snapshot_of(state: WatchState, decisions: Sequence[Decision], series: Series) -> dict[str, Any]:
    """The state and the last decisions as plain JSON."""
    number = state.watched.number(state.point)
    promise = state.promises[number] if number >= 0 else None
    return {
        "state": "fallen back" if state.fallen_back else "warned" if state.warned else "watching",
        "operating_point": state.point,
        "shadow_share": state.share,
        "alpha": state.settings.alpha,
        "requests": state.requests,
        "shift": _shift(state, series),
        "agreement": None if promise is None else _agreement(state, promise, number),
        "labels": _labels(state, promise),
        "decisions": [one.to_dict() for one in decisions[-_SHOWN:]],
    }


def _shift(state: WatchState, series: Series) -> dict[str, Any]:
    evidence = shift_evidence(state)
    before = [value for _, value in series.values][:-1]
    return {
        "stages": [
            {"exit": stage.exit, "requests": test.rows, "evidence": _stream_evidence(state, number)}
            for number, (stage, test) in enumerate(
                zip(state.watched.streams, state.shifts, strict=True)
            )
        ],
        "evidence": evidence,
        "threshold": -math.log10(state.settings.alpha),
        "series": {
            "t": [time for time, _ in series.values],
            "evidence": [*before, evidence] if series.values else [],  # the last one as of now
        },
    }


def _stream_evidence(state: WatchState, stream: int) -> float:
    weight = state.watched.weight(stream)
    return (state.shifts[stream].capital.log + math.log(weight)) / math.log(10)


def _agreement(state: WatchState, promise: Promise, number: int) -> dict[str, Any]:
    test, point = promise.agreement, state.watched.points[number]
    most = sorted(promise.pairs.items(), key=lambda item: -item[1])[:_MOST_PAIRS]
    return {
        "shadowed": test.count,
        "disagreements": int(test.total),
        "rate": test.total / test.count if test.count else None,
        "interval": list(_interval(int(test.total), test.count)) if test.count else None,
        "baseline": point.disagreements / point.samples,
        "budget": test.bound,
        "evidence": test.capital.log / math.log(10),
        "threshold": -math.log10(state.agreement_level),
        "pairs": [
            {"answer": answer, "reference": reference, "count": count}
            for (answer, reference), count in most
        ],
    }


def _labels(state: WatchState, promise: Promise | None) -> dict[str, Any] | None:
    if not state.labelled:
        return None
    found: dict[str, Any] = {
        "labelled": state.labelled,
        "accuracy": state.right / state.labelled,
        "compared": 0,
        "gap": None,
        "budget": None,
        "evidence": None,
        "threshold": None,
    }
    if promise is not None:
        test = promise.drop
        found |= {
            "compared": test.count,
            "gap": test.total / test.count if test.count else None,
            "budget": test.bound,
            "evidence": test.capital.log / math.log(10),
            "threshold": -math.log10(state.drop_level),
        }
    return found


@lru_cache(maxsize=16)
def _interval(hits: int, samples: int) -> Interval:
    """The 95 % interval of a share, at this moment."""
    interval = exact_interval if min(hits, samples - hits) <= _MOST_HITS else wilson
    return interval(hits, samples)
