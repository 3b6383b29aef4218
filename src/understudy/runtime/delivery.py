"""What becomes of the rows of a lane goes to their requests, and to an observer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np

from understudy.runtime.lanes import Outcome, Traffic
from understudy.runtime.pipeline import answered_and_failed
from understudy.runtime.protocol import (
    Answer,
    Array,
    NoFurtherStage,
    NotANumber,
    RequestFailed,
    RunnerOutput,
    StageFailed,
    StageRunner,
    cause_of,
)

logger = logging.getLogger(__name__)

Observer = Callable[[tuple[StageRunner, ...], StageRunner, Array], object]
"""Takes the stages that requests go through, the one that has run, and the confidences (n,)
float32 of its rows in the order of their arrival."""


class Delivery:
    """The sink of the pipeline of one policy: answers, logits and errors go to the requests.

    Args:
        traffic: has the requests by the ids of their rows.
        runners: the stages of the policy.
        observer: is called in the thread that computes after each batch of a stage, behind the
            delivery of the answers; what it raises is logged.
    """

    def __init__(
        self,
        traffic: Traffic,
        runners: tuple[StageRunner, ...],
        observer: Observer | None,
    ) -> None:
        self._traffic, self._runners, self._observer = traffic, runners, observer

    def visited(self, runner: StageRunner, ids: Array, output: RunnerOutput) -> None:
        """Deliver the answers of a stage."""
        rows, _ = answered_and_failed(output)
        if len(rows):
            numbers = ids[rows].tolist()
            columns = output.prediction[rows].tolist(), output.confidence[rows].tolist()
            answers = [Answer(top, sure, runner.name) for top, sure in zip(*columns, strict=True)]
            outcomes = self._with_logits(runner, rows, output, numbers, answers)
            self._traffic.deliver(zip(numbers, outcomes, strict=True))
        if self._observer is not None:
            self._observe(self._observer, runner, output.confidence)

    def failed(self, runner: StageRunner, ids: Array, error: Exception) -> None:
        """Deliver errors, a separate one to each request."""
        self._traffic.deliver([(number, _failure(runner, error)) for number in ids.tolist()])

    def active(self, ids: Array) -> Array | None:
        """The positions of requests that were not cancelled."""
        requests = self._traffic.requests
        kept = [place for place, number in enumerate(ids.tolist()) if number in requests]
        return None if len(kept) == len(ids) else np.array(kept, np.int64)

    def _with_logits(
        self,
        runner: StageRunner,
        rows: Array,
        output: RunnerOutput,
        numbers: Sequence[int],
        answers: Sequence[Answer],
    ) -> Sequence[Outcome]:
        """The answers, with their logits where these were asked for, or the error of copying them.

        Args:
            runner: the stage that answered.
            rows: the rows of its output that have answers.
            output: the output of the stage.
            numbers: the requests of these rows.
            answers: to these requests.
        """
        requests = self._traffic.requests
        asked = [
            place
            for place, number in enumerate(numbers)
            if (request := requests.get(number)) is not None and request.call.logits
        ]
        if not asked:
            return answers
        outcomes = list[Outcome](answers)
        try:
            logits = runner.host_logits(output.logits, rows[asked])
        except Exception as error:  # noqa: BLE001
            for place in asked:
                outcomes[place] = _failure(runner, error)
        else:
            for place, row in zip(asked, logits, strict=True):
                outcomes[place] = answers[place].with_logits(row)
        return outcomes

    def _observe(self, observer: Observer, runner: StageRunner, confidence: Array) -> None:
        try:
            observer(self._runners, runner, confidence)
        except Exception:
            logger.exception("an observer returns, it raised after the stage %r", runner.name)


def _failure(runner: StageRunner, error: Exception) -> RequestFailed:
    """The error of a request that a stage could not answer."""
    if isinstance(error, NotANumber | NoFurtherStage):
        return RequestFailed(str(error))
    failed = RequestFailed(
        str(error)
        if isinstance(error, StageFailed)
        else f"every sample is answered or says why not, the stage {runner.name!r} raised on this "
        f"one: {cause_of(error)}; mend the sample or the stage"
    )
    failed.__cause__ = error
    return failed
