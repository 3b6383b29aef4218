"""Images that were let in, on their way through the executor and back, with their shadows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from understudy.errors import DataError
from understudy.runtime.executor import Executor
from understudy.runtime.protocol import Answer, ExecutorClosed, class_names_of, is_out_of_memory
from understudy.serving.image_inputs import ImageInputs
from understudy.serving.latest_answers import LatestAnswer, LatestAnswers, thumbnail
from understudy.serving.request_errors import (
    DeadlineExceeded,
    QueueFull,
    RequestError,
    StageError,
)
from understudy.serving.served_answers import Served
from understudy.serving.served_policies import ServedPolicy
from understudy.serving.traffic import TrafficCounts
from understudy.serving.watching import Watching

logger = logging.getLogger(__name__)

Found = list[Served] | Exception
Receiver = Callable[[Found], object]
"""Takes the answers to the images of a request, or why there are none; in the event loop."""


class Execution:
    """Runs the images of requests, compares some with the reference, and counts the answers.

    Args:
        cascade: of any backend.
        executor: of this cascade.
        inputs: knows what images the cascade has answered.
        traffic: counts.
        watching: what shadows are for, if there is a watch.
    """

    def __init__(
        self,
        cascade: Any,
        executor: Executor,
        inputs: ImageInputs,
        traffic: TrafficCounts,
        watching: Watching | None,
    ) -> None:
        self.executor, self.inputs, self.traffic = executor, inputs, traffic
        self.watching = watching
        self.classes = class_names_of(cascade)
        self.latest = LatestAnswers(cascade.exits)
        self._places = {name: place for place, name in enumerate(cascade.exits)}

    def start(
        self,
        images: Sequence[Any],
        policy: ServedPolicy,
        number: str,
        done: Receiver,
        *,
        logits: bool,
        full: bool,
    ) -> Callable[[], None]:
        """Let the images of one request be answered.

        Args:
            images: as `Executor.submit` takes them.
            policy: what answers all of them.
            number: the id of the request.
            done: receives the answers.
            logits: whether the answers have logits.
            full: whether the server has no room for shadows.

        Returns:
            What gives the request up, to be called in the event loop; `done` is not called then.

        Raises:
            QueueFull: the executor is closed.
        """
        several = len(images) > 1
        ids = [f"{number}.{place}" for place in range(len(images))] if several else [number]
        shadows = None
        if self.watching is not None and policy.name is not None:
            shadows = self.watching.shadows_of(ids, policy, full=full)

        def found(outcomes: Sequence[Answer | Exception]) -> Found:
            try:
                served = self._served(images, ids, policy, outcomes)
                if shadows is not None:
                    shadows.answered(images, [one.answer for one in served], self.executor)
            except Exception as error:  # noqa: BLE001
                if shadows is not None:
                    shadows.give_up()
                return error  # which no frame of its traceback keeps, as a variable would
            return served

        def answered(outcomes: Sequence[Answer | Exception]) -> None:
            done(found(outcomes))

        try:
            cancel = self.executor.submit(images, answered, runners=policy.runners, logits=logits)
        except Exception as error:
            if shadows is not None:
                shadows.give_up()
            if isinstance(error, ExecutorClosed):
                raise self._blamed(error, images[0]) from error
            raise

        def give_up() -> None:
            cancel()
            if shadows is not None:
                shadows.give_up()

        return give_up

    def _served(
        self,
        images: Sequence[Any],
        ids: Sequence[str],
        policy: ServedPolicy,
        outcomes: Sequence[Answer | Exception],
    ) -> list[Served]:
        """The answers to the images of a request, counted.

        Raises:
            RequestError: an image without an answer.
        """
        name, costs, classes = policy.name, policy.costs, self.classes
        found = []
        for place, outcome in enumerate(outcomes):
            if not isinstance(outcome, Answer):
                raise self._refusal(outcome, images, ids, place) from outcome
            found.append(Served(outcome, ids[place], name, costs.get(outcome.exit), classes))
        for image, served in zip(images, found, strict=True):
            self._count(image, served, policy)
        return found

    def _refusal(
        self, outcome: Exception, images: Sequence[Any], ids: Sequence[str], place: int
    ) -> RequestError:
        """The error of a request of which one image has no answer."""
        refusal = self._blamed(outcome, images[place])
        if isinstance(refusal, StageError):
            logger.error("stage failed", exc_info=outcome, extra={"request_id": ids[place]})
        if isinstance(outcome.__cause__, QueueFull):
            self.traffic.fail("rejected")
        return refusal if len(images) == 1 else refusal.at(place)

    def _blamed(self, error: Exception, image: Any) -> RequestError:
        """Whose fault it is: the input's where a stage raised on what only it can check."""
        if isinstance(error, ExecutorClosed):
            return QueueFull("a server that stops answers no more, found it stopping")
        cause = error.__cause__
        if isinstance(cause, QueueFull | DeadlineExceeded):  # at a stage that runs elsewhere
            return type(cause)(str(cause))
        foreign = isinstance(cause, Exception) and not is_out_of_memory(cause)
        theirs = isinstance(error, DataError) or isinstance(cause, DataError)
        if theirs or (foreign and self.inputs.is_strange(image)):
            return RequestError(str(error))
        return StageError(str(error))

    def _count(self, image: Any, served: Served, policy: ServedPolicy) -> None:
        answer = served.answer
        place = self._places[answer.exit]
        cost, reference = served.cost, policy.reference_cost
        if cost is None or reference is None:
            cost = reference = 0.0
        self.traffic.answer(policy.number, place, cost=cost, reference=reference)
        self.inputs.answered(image)
        if self.latest.is_due(place):
            fields = (answer.exit, answer.prediction, answer.confidence, served.class_name)
            kept = LatestAnswer(served.request_id, *fields, thumbnail(image))
            self.latest.keep(place, kept)
