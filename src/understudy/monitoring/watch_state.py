"""The state of a watch: a value, and a new one after everything that happens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from understudy.errors import PolicyError
from understudy.json_codec import Stored
from understudy.monitoring.decisions import Decision
from understudy.monitoring.promise import Promise
from understudy.monitoring.settings import WatchSettings
from understudy.monitoring.shift_test import Cells, ShiftTest
from understudy.monitoring.watched_points import Watched
from understudy.operating_point import REFERENCE

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class WatchState(Stored, what="the state of a watch", error=PolicyError):
    """All that a watch knows; every decision follows from it.

    The level `alpha` of false alarms is divided beforehand among all that may raise one, so that
    nothing is spent when the operating point is switched, whoever does it: a quarter goes to the
    bounds of the baselines, half to the tests of the agreement and a quarter to those of the drop,
    each in equal parts for every point. A point is judged broken once; its test goes on where it
    was when the point is used again.

    Attributes:
        watched, settings: what it compares with, and what was chosen.
        point: the operating point in use.
        shifts: the test of each stream of confidences.
        promises: those of the watched points.
        warned: whether the traffic was found to have shifted.
        raised: the requests that are still to be shadowed at the raised share.
        requests, shadowed, labelled, right: what it has seen since it began; `right` of the
            labelled requests were answered with their label.
        resets: how often it began again.
    """

    watched: Watched
    settings: WatchSettings
    point: str
    shifts: tuple[ShiftTest, ...]
    promises: tuple[Promise, ...]
    warned: bool = False
    raised: int = 0
    requests: int = 0
    shadowed: int = 0
    labelled: int = 0
    right: int = 0
    resets: int = 0

    @staticmethod
    def start(watched: Watched, settings: WatchSettings, point: str) -> WatchState:
        """The state before the first request.

        Raises:
            PolicyError: there is no such operating point.
        """
        watched.number(point)
        return WatchState(
            watched,
            settings,
            point,
            tuple(ShiftTest.of(one, stream=n) for n, one in enumerate(watched.streams)),
            tuple(Promise.of(one, watched, settings) for one in watched.points),
        )

    @property
    def share(self) -> float:
        """The share of the requests that is shadowed now: it follows from what was seen before."""
        chosen = self.settings
        raised = self.raised or (self.warned and not chosen.raised_for)
        return max(chosen.raised_share, chosen.share) if raised else chosen.share

    @property
    def fallen_back(self) -> bool:
        """Whether a promise was judged broken since the last reset."""
        return any(promise.broken for promise in self.promises)

    def warning_level(self, stream: int) -> float:
        """The level at which one stream is tested."""
        return self.settings.alpha * self.watched.weight(stream)

    @property
    def agreement_level(self) -> float:
        """The level at which the agreement of one point is tested."""
        return self.settings.alpha / 2 / max(len(self.promises), 1)

    @property
    def drop_level(self) -> float:
        """The level at which the drop of one point is tested."""
        return self.settings.alpha / 4 / max(len(self.promises), 1)

    def observed(
        self, stream: int, cells: Cells, *, first: bool, time: float
    ) -> tuple[WatchState, Decision | None]:
        """After confidences of a stage, given by their cells in the order in which they came.

        Args:
            stream: the number of the stream; -1 for a stage that has none.
            cells: (n,).
            first: whether it is a first stage, where requests are counted.
            time: seconds since the epoch.
        """
        requests = self.requests + (len(cells) if first else 0)
        if stream < 0:
            return replace(self, requests=requests), None
        test = self.shifts[stream].update(cells, seed=self.settings.seed)
        state = replace(self, requests=requests, shifts=_with(self.shifts, stream, test))
        level = self.warning_level(stream)
        if state.warned or test.peak < -math.log(level):
            return state, None
        exit = self.watched.streams[stream].exit
        reason = (
            f"the confidences of {exit!r} are no longer those of the certify samples: p-value "
            f"{test.p_value:.2g}, tested at {level:.2g}, after {test.rows:,} of them"
        )
        state = replace(
            state,
            warned=True,
            raised=self.settings.raised_for,
            shifts=tuple(replace(one, recent=0 * one.recent) for one in state.shifts),
        )
        return state, state.decision(time, "warning", reason, self.point, self.point)

    def with_shadow(
        self, number: int, answer: int, reference: int, *, time: float
    ) -> tuple[WatchState, Decision | None]:
        """After a request of a watched point whose shadow was drawn."""
        promise = self.promises[number].shadowed(answer, reference)
        state = replace(
            self,
            promises=_with(self.promises, number, promise),
            shadowed=self.shadowed + 1,
            raised=max(self.raised - 1, 0),
        )
        test, level = promise.agreement, self.agreement_level
        if promise.broken or test.peak < -math.log(level):
            return state, None
        reason = (
            f"{self.watched.points[number].name!r} and the reference differ in "
            f"{test.total:.0f} of {test.count:,} requests, more than the {100 * test.bound:.2f} % "
            f"allowed: p-value {test.p_value:.2g}, tested at {level:.2g}"
        )
        return state.without(number, reason, time)

    def with_label(
        self, number: int, label: int, answer: int, reference: int | None, *, time: float
    ) -> tuple[WatchState, Decision | None]:
        """After the label of a request; `number` is -1 where no watched point has answered it, and
        `reference` the reference's answer where its shadow was drawn."""
        counts = self.labelled + 1, self.right + int(answer == label)
        if number < 0:
            return replace(self, labelled=counts[0], right=counts[1]), None
        promise = self.promises[number].with_label(label, answer, reference)
        state = replace(
            self,
            promises=_with(self.promises, number, promise),
            labelled=counts[0],
            right=counts[1],
        )
        test, level = promise.drop, self.drop_level
        if promise.broken or test.peak < -math.log(level):
            return state, None
        reason = (
            f"the accuracy of {self.watched.points[number].name!r} lies "
            f"{100 * test.total / test.count:.2f} points below the reference's in {test.count:,} "
            f"labelled requests, more than the {100 * test.bound:g} certified: p-value "
            f"{test.p_value:.2g}, tested at {level:.2g}"
        )
        return state.without(number, reason, time)

    def without(self, number: int, reason: str, time: float) -> tuple[WatchState, Decision | None]:
        """After a promise was judged broken: on to the next safer point whose promise is not."""
        broken = replace(self.promises[number], broken=True)
        state = replace(self, promises=_with(self.promises, number, broken))
        if self.watched.number(self.point) != number:
            return state, state.decision(time, "fall-back", reason, self.point, self.point)
        target = state.safer(number)
        state = replace(state, point=target)
        return state, state.decision(time, "fall-back", reason, self.point, target)

    def safer(self, number: int) -> str:
        """The operating point with the next smaller drop that is not judged broken."""
        points = self.watched.points
        for point, promise in zip(points[number + 1 :], self.promises[number + 1 :], strict=True):
            if point.max_drop < points[number].max_drop and not promise.broken:
                return point.name
        return REFERENCE

    def at(self, point: str, *, reason: str, time: float) -> tuple[WatchState, Decision | None]:
        """After someone has chosen an operating point; no decision where it is in use."""
        self.watched.number(point)
        if point == self.point:
            return self, None
        state = replace(self, point=point)
        return state, state.decision(time, "operating-point", reason, self.point, point)

    def reset(
        self, point: str, *, to_traffic: bool, reason: str, time: float
    ) -> tuple[WatchState, Decision | None]:
        """After someone has looked: all levels are whole again, and all tests begin again.

        Args:
            point: the operating point from now on.
            to_traffic: whether confidences are compared with those since the warning from now on,
                rather than with the certify samples.
            reason: a sentence.
            time: seconds since the epoch.
        """
        fresh = WatchState.start(self.watched, self.settings, point)
        state = replace(
            fresh,
            shifts=tuple(
                old.begun_again(counts=old.recent if to_traffic else new.counts)
                for old, new in zip(self.shifts, fresh.shifts, strict=True)
            ),
            requests=self.requests,
            shadowed=self.shadowed,
            labelled=self.labelled,
            right=self.right,
            resets=self.resets + 1,
        )
        return state, state.decision(time, "reset", reason, self.point, point)

    def decision(self, time: float, kind: str, reason: str, before: str, after: str) -> Decision:
        """A decision at this moment."""
        seen = self.requests, self.shadowed, self.labelled
        return Decision(time, kind, reason, before, after, *seen)


def _with(values: Sequence[T], number: int, value: T) -> tuple[T, ...]:
    """The values with another one at a place."""
    return (*values[:number], value, *values[number + 1 :])
