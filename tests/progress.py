"""Progress that records its calls, and interrupts the work at one of them."""

from __future__ import annotations

from collections.abc import Callable

Call = tuple[str, int, int]


class InterruptedRunError(Exception):
    """Stands for Ctrl-C, a full disk or a power cut."""


class RecordedProgress:
    """Called with the name of the work, how much of it is done, and how much there is.

    Args:
        stop: whether to raise `InterruptedRunError`, from all calls so far.
    """

    def __init__(self, stop: Callable[[list[Call]], bool] = lambda calls: False) -> None:
        self.calls: list[Call] = []
        self._stop = stop

    def __call__(self, name: str, done: int, total: int) -> None:
        self.calls.append((name, done, total))
        if self._stop(self.calls):
            raise InterruptedRunError

    @property
    def steps(self) -> list[tuple[str, int]]:
        """The names and how much was done."""
        return [(name, done) for name, done, _ in self.calls]


def after(count: int) -> RecordedProgress:
    """Interrupts at a call by its number."""
    return RecordedProgress(lambda calls: len(calls) == count)


def at(name: str, done: int) -> RecordedProgress:
    """Interrupts when so much of some work is done."""
    return RecordedProgress(lambda calls: calls[-1][:2] == (name, done))
