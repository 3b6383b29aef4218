"""Answers by the id of their request, so that labels that come later find them."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

MOST_ANSWERS = 100_000


@dataclass(slots=True)
class LoggedAnswer:
    """What a label is compared with.

    Attributes:
        point: the number of the watched point that answered; -1 for another.
        answer: the class.
        reference: the reference's class where the shadow was drawn and has run; else -1.
        labelled: whether its label has been counted.
        reset: the number of resets before it.
    """

    point: int
    answer: int
    reference: int = -1
    labelled: bool = False
    reset: int = 0


class AnswerLog:
    """The last answers, in memory; the oldest are forgotten.

    >>> log = AnswerLog(most=1)
    >>> log.add("a", LoggedAnswer(0, 7))
    >>> log.add("b", LoggedAnswer(0, 8))
    >>> log.get("a"), log.get("b").answer
    (None, 8)
    """

    def __init__(self, *, most: int = MOST_ANSWERS) -> None:
        self._answers: OrderedDict[str, LoggedAnswer] = OrderedDict()
        self._most = most

    def add(self, request_id: str, answer: LoggedAnswer) -> None:
        """Keep an answer."""
        self._answers[request_id] = answer
        if len(self._answers) > self._most:
            self._answers.popitem(last=False)

    def get(self, request_id: str) -> LoggedAnswer | None:
        """The answer to a request, where it is still known."""
        return self._answers.get(request_id)

    def changed(self, request_id: str, answer: LoggedAnswer) -> None:
        """An answer that was got has been changed."""
