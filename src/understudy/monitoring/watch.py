"""The watch: what is seen of a cascade that runs, and what is decided from it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from understudy.monitoring.answer_log import AnswerLog, LoggedAnswer
from understudy.monitoring.decisions import Decision
from understudy.monitoring.events import (
    Event,
    Labelled,
    Observed,
    PointChosen,
    Shadowed,
    WatchReset,
)
from understudy.monitoring.settings import WatchSettings
from understudy.monitoring.snapshot import Series, snapshot_of
from understudy.monitoring.watch_state import WatchState
from understudy.monitoring.watched_points import watched_points
from understudy.operating_point import REFERENCE, OperatingPoint

_COINS = 4096  # drawn at a time
_MOST_DECISIONS = 1000
_MOST_WAITING = 10_000  # shadows that are in flight; older ones are given up


@dataclass(frozen=True)
class ShadowTicket:
    """A request that the reference answers too. It ends in `Watch.shadowed` or `Watch.lost`.

    Attributes:
        number: tickets are numbered in the order of arrival, in which they are judged.
        request_id: of the request.
        point: the number of the watched point that answers it.

    >>> ShadowTicket(number=1, request_id="a-7", point=0).request_id
    'a-7'
    """

    number: int
    request_id: str
    point: int


@dataclass(frozen=True)
class Feedback:
    """What became of labels that came later.

    Attributes:
        counted: how many were counted.
        repeated: how many were of requests whose label was counted before: these are ignored.
        unknown: the ids of requests that are not known, or no longer.
        decisions: what was decided.
    """

    counted: int
    repeated: int
    unknown: tuple[str, ...]
    decisions: tuple[Decision, ...] = field(default=())


@dataclass(slots=True)
class _Drawn:
    """A shadow that is not judged yet.

    Attributes:
        ticket: of the request.
        reset: the number of resets before it was drawn.
        ended: whether both answers are known, or will never be.
        answers: the cascade's and the reference's; None until they are known, or for ever.
        logged: the answer, once it is known.
        label: that came in the meantime.
    """

    ticket: ShadowTicket
    reset: int
    ended: bool = False
    answers: tuple[int, int] | None = None
    logged: LoggedAnswer | None = None
    label: int | None = None


class Recorded(NamedTuple):
    """What has happened to a watch since the last time.

    Attributes:
        before, after: its state before and after.
        events: what happened.
        decisions: what was decided.
        answers: those that are to be kept.
    """

    before: WatchState
    after: WatchState
    events: list[Event]
    decisions: list[Decision]
    answers: dict[str, LoggedAnswer]


class Watch:
    """Watches a cascade that runs; its methods may be called from any thread.

    Every request draws whether it is shadowed, before its answer is known (`draw`); every stage
    that is run reports its confidences (`observe`); shadows and labels follow. What is decided
    comes back as decisions, which the caller carries out: after a `fall-back` and after a
    `warning`, `point` and `share` have changed here already.

    Args:
        state: to begin with; see `WatchState.start`.
        answers: the answers that labels refer to.
        decisions: earlier ones.
        clock: seconds since the epoch.
        coins: random numbers for the shadows; by default nobody can foresee them.

    >>> from understudy.baseline import StageBaseline
    >>> from understudy.monitoring.settings import WatchSettings
    >>> from understudy.monitoring.watched_points import Watched, WatchedPoint
    >>> tiny = StageBaseline("tiny", edges=(0.5, 0.9), counts=(100, 200, 700))
    >>> watched = Watched((WatchedPoint("drop-1", 1.0, 1000, 20, (0, -1)),), (tiny,), first=1)
    >>> watch = Watch(WatchState.start(watched, WatchSettings(), "drop-1"))
    >>> watch.share, [one.kind for one in watch.observe("drop-1", 0, np.full(60, 0.3))]
    (0.05, ['warning'])
    >>> watch.share
    0.5
    """

    def __init__(
        self,
        state: WatchState,
        *,
        answers: AnswerLog | None = None,
        decisions: Iterable[Decision] = (),
        clock: Callable[[], float] = time.time,
        coins: np.random.Generator | None = None,
    ) -> None:
        self._state = state
        self._answers = answers or AnswerLog()
        self._decisions = deque(decisions, maxlen=_MOST_DECISIONS)
        self._clock = clock
        self._generator = coins or np.random.default_rng()
        self._coins: list[float] = []
        self._tickets = 0
        self._drawn: dict[str, _Drawn] = {}  # those not yet judged, the oldest first
        self._recorded: Recorded | None = None
        self._on_decision: Callable[[], object] = lambda: None
        self._lock = Lock()
        self._series = Series()

    @staticmethod
    def of(
        points: Iterable[OperatingPoint], settings: WatchSettings, *, point: str = REFERENCE
    ) -> Watch:
        """A watch of the operating points of a cascade, which is kept in memory alone.

        Args:
            points: of the cascade.
            settings: of the operator.
            point: the name of the operating point in use.

        Raises:
            PolicyError: a point has no baseline, or there is none of that name.
        """
        return Watch(WatchState.start(watched_points(points), settings, point))

    @property
    def state(self) -> WatchState:
        """All that is known now."""
        return self._state

    @property
    def point(self) -> str:
        """The name of the operating point that should be in use."""
        return self._state.point

    @property
    def share(self) -> float:
        """The share of the requests that is shadowed now."""
        return self._state.share

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """The last decisions, the oldest first."""
        with self._lock:
            return tuple(self._decisions)

    def draw(self, request_id: str, point: str) -> ShadowTicket | None:
        """Draw whether the reference answers a request too; called before it is answered.

        A request that the reference answers anyway costs nothing: give its answer twice.

        Args:
            request_id: of the request.
            point: the operating point that answers it.

        Returns:
            A ticket for `shadowed` or `lost`; None for most requests, and for the reference.
        """
        number = self._state.watched.number(point)
        if number < 0:
            return None
        with self._lock:
            if not self._coins:
                self._coins = self._generator.random(_COINS).tolist()
            if self._coins.pop() >= self._state.share:
                return None
            ticket = ShadowTicket(self._tickets, request_id, number)
            self._tickets += 1
            self._drawn[request_id] = _Drawn(ticket, self._state.resets)
        return ticket

    def observe(self, point: str, stage: int, confidence: npt.ArrayLike) -> tuple[Decision, ...]:
        """The confidences of a stage of an operating point, in the order of arrival.

        Args:
            point: the name of the operating point.
            stage: its stage, from 0 on.
            confidence: (n,).
        """
        watched = self._state.watched
        number = watched.number(point)
        values = np.atleast_1d(np.asarray(confidence, np.float32))
        if number < 0 or not len(values):
            return ()
        stream = watched.points[number].streams[stage]
        cells = watched.streams[stream].cells(values) if stream >= 0 else np.zeros(len(values))
        with self._lock:
            event = Observed(self._clock(), stream, stage == 0, cells.astype(np.uint8))
            return self._after(event)

    def answered(self, request_id: str, point: str, answer: int) -> None:
        """A request was answered: `feedback` may refer to it. Called before `shadowed`."""
        number = self._state.watched.number(point)
        with self._lock:
            kept = LoggedAnswer(number, int(answer), reset=self._state.resets)
            self._answers.add(request_id, kept)
            if request_id in self._drawn:
                self._drawn[request_id].logged = kept

    def shadowed(self, ticket: ShadowTicket, answer: int, reference: int) -> tuple[Decision, ...]:
        """The cascade's answer to a request whose shadow was drawn, and the reference's.

        Shadows are judged in the order in which they were drawn: one that is early waits for those
        before it, because early ones differ less.
        """
        with self._lock:
            return self._end(ticket, (int(answer), int(reference)))

    def lost(self, ticket: ShadowTicket) -> tuple[Decision, ...]:
        """A request whose shadow was drawn was not answered, or not by the reference."""
        with self._lock:
            return self._end(ticket, None)

    def feedback(self, labels: Iterable[tuple[str, int]]) -> Feedback:
        """Labels that came later, by the id of the request; each request is counted once.

        A label that comes before the shadow of its request is judged with it; one of a request from
        before the last reset counts for the accuracy alone.
        """
        counted, repeated = 0, 0
        unknown: list[str] = []
        decisions: list[Decision] = []
        with self._lock:
            for request_id, label in labels:
                drawn = self._drawn.get(request_id)
                logged = self._answers.get(request_id) if drawn is None else drawn.logged
                if logged is None:
                    unknown.append(request_id)
                elif logged.labelled or (drawn is not None and drawn.label is not None):
                    repeated += 1
                else:
                    counted += 1
                    if drawn is not None:
                        drawn.label = int(label)
                    else:
                        decisions += self._label(request_id, logged, int(label))
        return Feedback(counted, repeated, tuple(unknown), tuple(decisions))

    def choose_point(self, point: str, *, reason: str = "chosen") -> tuple[Decision, ...]:
        """Someone chose an operating point.

        Raises:
            PolicyError: there is no such operating point.
        """
        with self._lock:
            self._state.watched.number(point)
            return self._after(PointChosen(self._clock(), point, reason))

    def reset(
        self,
        *,
        point: str | None = None,
        to_traffic: bool = False,
        reason: str = "reset",
    ) -> tuple[Decision, ...]:
        """Begin again, with all levels whole: someone has looked at what was decided.

        Args:
            point: the operating point from now on; by default the one in use.
            to_traffic: compare confidences with the traffic since the warning from now on, because
                it was found to be in order, and no longer with the certify samples.
            reason: a sentence for the record.

        Raises:
            PolicyError: there is no such operating point.
        """
        with self._lock:
            chosen = self._state.point if point is None else point
            self._state.watched.number(chosen)
            return self._after(WatchReset(self._clock(), chosen, to_traffic, reason))

    def snapshot(self) -> dict[str, Any]:
        """What is known now, as plain JSON; evidence is the decimal logarithm of a capital."""
        with self._lock:
            state, decisions = self._state, tuple(self._decisions)
            return snapshot_of(state, decisions, self._series)

    def record(self, decided: Callable[[], object] = lambda: None) -> None:
        """Remember from now on what happens, for `taken`; `decided` is called at a decision."""
        with self._lock:
            self._on_decision = decided
            self._recorded = Recorded(self._state, self._state, [], [], {})

    def taken(self, answers: Callable[[], dict[str, LoggedAnswer]]) -> Recorded:
        """What has happened since `record` or the last call, with the answers at this moment."""
        with self._lock:
            found = self._recorded or Recorded(self._state, self._state, [], [], {})
            self._recorded = Recorded(self._state, self._state, [], [], {})
            return found._replace(after=self._state, answers=answers())

    def _after(self, event: Event) -> tuple[Decision, ...]:
        self._state, decision = event.apply(self._state)
        if self._recorded is not None:
            self._recorded.events.append(event)
        self._series.note(event.time, self._state)
        if decision is None:
            return ()
        if self._recorded is not None:
            self._recorded.decisions.append(decision)
        self._decisions.append(decision)
        self._on_decision()
        return (decision,)

    def _end(self, ticket: ShadowTicket, answers: tuple[int, int] | None) -> tuple[Decision, ...]:
        """A shadow has ended: those that no earlier one holds up are judged."""
        drawn = self._drawn.get(ticket.request_id)
        if drawn is None or drawn.ended or drawn.ticket != ticket:
            return ()
        drawn.ended, drawn.answers = True, answers
        decisions: list[Decision] = []
        while self._drawn:
            request_id, oldest = next(iter(self._drawn.items()))
            if not oldest.ended and len(self._drawn) <= _MOST_WAITING:
                break
            del self._drawn[request_id]
            decisions += self._judge(oldest)
        return tuple(decisions)

    def _judge(self, drawn: _Drawn) -> tuple[Decision, ...]:
        """Judge a shadow, unless it was lost or drawn before a reset, and the label that waits."""
        ticket, answers, logged = drawn.ticket, drawn.answers, drawn.logged
        decisions: tuple[Decision, ...] = ()
        if answers is not None and drawn.reset == self._state.resets:
            if logged is not None:
                logged.reference = answers[1]
                self._answers.changed(ticket.request_id, logged)
            decisions = self._after(Shadowed(self._clock(), ticket.point, *answers))
        if drawn.label is not None and logged is not None:
            decisions += self._label(ticket.request_id, logged, drawn.label)
        return decisions

    def _label(self, request_id: str, logged: LoggedAnswer, label: int) -> tuple[Decision, ...]:
        logged.labelled = True
        self._answers.changed(request_id, logged)
        point = logged.point if logged.reset == self._state.resets else -1
        event = Labelled(self._clock(), point, label, logged.answer, logged.reference)
        return self._after(event)
