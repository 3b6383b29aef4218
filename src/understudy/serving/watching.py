"""The watch at work: confidences and shadows go to it, and its decisions are carried out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import numpy.typing as npt

from understudy.errors import PolicyError, UnderstudyError, listed
from understudy.monitoring.decisions import Decision
from understudy.monitoring.history import History
from understudy.monitoring.settings import WatchSettings
from understudy.monitoring.watch import Feedback, ShadowTicket, Watch
from understudy.monitoring.watched_points import watched_points
from understudy.operating_point import REFERENCE
from understudy.runtime.executor import Executor
from understudy.runtime.protocol import Answer, ExecutorClosed, StageRunner
from understudy.serving.served_policies import ServedPolicies, ServedPolicy
from understudy.serving.settings import ServingSettings

logger = logging.getLogger(__name__)

FALL_BACK = "fall-back"
RAISED_SHARE = 0.5
"""The share of the requests that is shadowed after a warning, where any is."""


def watch_of(
    policies: ServedPolicies, settings: ServingSettings
) -> tuple[Watch, History | None] | None:
    """A watch of the operating points, and the file that keeps it; None, and a line in the log,
    where there can be none.

    Raises:
        UnderstudyError: the file cannot be written, or is of another cascade or another server.
    """
    share = settings.shadow
    chosen = WatchSettings(
        alpha=settings.alpha, share=share, raised_share=max(share, RAISED_SHARE) if share else 0.0
    )
    try:
        _check_comparable([point.name for point in policies.points])
        first = policies.first.name or REFERENCE
        if settings.state is None:
            logger.info("watch is kept in memory", extra={"way_out": "--state FILE"})
            return Watch.of(policies.points, chosen, point=first), None
        watched_points(policies.points)
    except PolicyError as error:
        logger.warning("no watch", extra={"reason": str(error)})
        return None
    history = History(settings.state)
    try:
        return history.watch(policies.points, chosen, point=first), history
    except BaseException:
        history.close()
        raise


def _check_comparable(names: Sequence[str]) -> None:
    if REFERENCE not in names or len(names) < 2:
        way = "search for a certified policy and build it"
        if names and REFERENCE not in names:
            way = "build it again with the model of the reference (--model NAME=SPEC)"
        raise PolicyError(
            "a watch compares certified operating points with the reference, this cascade has "
            f"{listed(names) or 'neither'}: {way}"
        )


def point_before(decisions: Iterable[Decision]) -> str | None:
    """The operating point that somebody chose before the watch fell back from it, as far as it is
    known; None where somebody has decided since, or the watch never did.

    >>> fall = Decision(0.0, "fall-back", "differ", "drop-1", "drop-0.5")
    >>> further = Decision(1.0, "fall-back", "differ", "drop-0.5", "reference")
    >>> point_before([fall, further])
    'drop-1'
    >>> point_before([fall, Decision(2.0, "reset", "reset", "drop-0.5", "drop-1")])
    """
    found = None
    for decision in decisions:
        if decision.kind == FALL_BACK and decision.before != decision.after:
            found = found or decision.before
        elif decision.kind in {"reset", "operating-point"}:
            found = None
    return found


class Watching:
    """Feeds a watch with what a service sees, and tells the service what it decided.

    Args:
        watch: what decides.
        policies: those of the service.
        decided: is called in the event loop with each decision.
        most: how many shadows may be in flight. Further ones are dropped as they are drawn, before
            the answer is known: later it would be those alone that the reference has not answered
            anyway, and what is left would agree too often.
        history: the file that keeps the watch, if any.

    Attributes:
        shadows: how many shadows were answered, by the reference itself or besides, and dropped.
    """

    def __init__(
        self,
        watch: Watch,
        policies: ServedPolicies,
        decided: Callable[[Decision], None],
        *,
        most: int,
        history: History | None = None,
    ) -> None:
        self.watch, self._history = watch, history
        self.shadows = {"answered": 0, "dropped": 0}
        self._decided, self._most = decided, most
        self._in_flight = 0
        self._points = {id(one.runners): one for one in policies.all if one.name is not None}
        reference = policies.named(REFERENCE)
        self._reference = None if reference is None else policies.of(reference)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    def of(
        cls,
        policies: ServedPolicies,
        settings: ServingSettings,
        decided: Callable[[Decision], None],
    ) -> Self | None:
        """The watch of a server by its settings; None where there can be none. As `watch_of`."""
        found = watch_of(policies, settings)
        if found is None:
            return None
        watch, history = found
        return cls(watch, policies, decided, most=settings.max_queue, history=history)

    def observe(
        self, runners: tuple[StageRunner, ...], runner: StageRunner, confidence: npt.NDArray[Any]
    ) -> None:
        """A stage has run; called in the thread of the executor."""
        policy = self._points.get(id(runners))
        if policy is None or policy.name is None:
            return
        decisions = self.watch.observe(policy.name, runners.index(runner), confidence)
        if decisions and self._loop is not None:
            self._loop.call_soon_threadsafe(self._carry_out, decisions)

    def shadows_of(self, ids: Sequence[str], policy: ServedPolicy, *, full: bool) -> Shadows:
        """The shadows of the images of a request, drawn before they are answered.

        Args:
            ids: of the images.
            policy: what answers them, an operating point.
            full: whether the server has no room for more; then shadows are dropped.
        """
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        name = policy.name
        assert name is not None
        tickets = [self.watch.draw(one, name) for one in ids]
        self._in_flight += sum(ticket is not None for ticket in tickets)
        if full or self._in_flight > self._most:
            for ticket in tickets:
                self.lost(ticket)
            tickets = [None] * len(tickets)
        return Shadows(self, ids, name, tickets)

    def compare(self, ticket: ShadowTicket, answer: Answer, image: Any, executor: Executor) -> None:
        """Compare an answer with that of the reference, which is asked for in the background unless
        it has answered."""
        assert self._reference is not None
        if answer.exit == self._reference.policy.exits[-1]:
            self._compared(ticket, answer.prediction, answer.prediction)
            return
        work = self._shadow(ticket, answer.prediction, image, executor)
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def lost(self, ticket: ShadowTicket | None) -> None:
        """A request whose shadow was drawn has none."""
        if ticket is not None:
            self._in_flight -= 1
            self.shadows["dropped"] += 1
            self._carry_out(self.watch.lost(ticket))

    def feedback(self, labels: Sequence[tuple[str, int]]) -> Feedback:
        """Labels that came later, by the id of the request."""
        found = self.watch.feedback(labels)
        self._carry_out(found.decisions)
        return found

    def close(self) -> None:
        """Keep what is known, and give up shadows in flight."""
        for task in self._tasks:
            task.cancel()
        if self._history is not None:
            self._history.close()

    async def _shadow(
        self, ticket: ShadowTicket, prediction: int, image: Any, executor: Executor
    ) -> None:
        assert self._reference is not None
        runners = self._reference.runners
        try:
            found = await executor.answer(image, runners=runners, background=True)
        except ExecutorClosed:
            return  # nor is what was drawn later judged, of which too much would agree
        except UnderstudyError:
            self.lost(ticket)
        else:
            self._compared(ticket, prediction, found.prediction)

    def _compared(self, ticket: ShadowTicket, answer: int, reference: int) -> None:
        self._in_flight -= 1
        self.shadows["answered"] += 1
        self._carry_out(self.watch.shadowed(ticket, answer, reference))

    def _carry_out(self, decisions: Iterable[Decision]) -> None:
        for decision in decisions:
            self._decided(decision)


class Shadows:
    """The shadows of one request, which is answered or given up.

    Args:
        watching: what they are for.
        ids: of the images.
        point: the name of the operating point that answers.
        tickets: one per image, None for most.
    """

    __slots__ = ("_ids", "_point", "_tickets", "_watching")

    def __init__(
        self,
        watching: Watching,
        ids: Sequence[str],
        point: str,
        tickets: list[ShadowTicket | None],
    ) -> None:
        self._watching, self._ids, self._point = watching, ids, point
        self._tickets = tickets

    def answered(
        self, images: Sequence[Any], answers: Sequence[Answer], executor: Executor
    ) -> None:
        """The images have their answers."""
        watching, tickets, self._tickets = self._watching, self._tickets, []
        for request_id, answer in zip(self._ids, answers, strict=True):
            watching.watch.answered(request_id, self._point, answer.prediction)
        for ticket, image, answer in zip(tickets, images, answers, strict=True):
            if ticket is not None:
                watching.compare(ticket, answer, image, executor)

    def give_up(self) -> None:
        """The images have no answers: their shadows are lost, unless they had them before."""
        tickets, self._tickets = self._tickets, []
        for ticket in tickets:
            self._watching.lost(ticket)
