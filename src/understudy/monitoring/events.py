"""What happens to a watch. Its state follows from its events alone: they can be replayed."""

from __future__ import annotations

from typing import NamedTuple

from understudy.monitoring.decisions import Decision
from understudy.monitoring.shift_test import Cells
from understudy.monitoring.watch_state import WatchState

After = tuple[WatchState, Decision | None]


class Observed(NamedTuple):
    """Confidences of a stage, by their cells; see `WatchState.observed`."""

    time: float
    stream: int
    first: bool
    cells: Cells

    def apply(self, state: WatchState) -> After:
        """The state afterwards, and what was decided."""
        return state.observed(self.stream, self.cells, first=self.first, time=self.time)


class Shadowed(NamedTuple):
    """Both answers to a request of a watched point whose shadow was drawn."""

    time: float
    point: int
    answer: int
    reference: int

    def apply(self, state: WatchState) -> After:
        """The state afterwards, and what was decided."""
        return state.with_shadow(self.point, self.answer, self.reference, time=self.time)


class Labelled(NamedTuple):
    """The label of a request; -1 as the point for none that is watched, as the reference's answer
    for a request whose shadow was not drawn."""

    time: float
    point: int
    label: int
    answer: int
    reference: int

    def apply(self, state: WatchState) -> After:
        """The state afterwards, and what was decided."""
        reference = None if self.reference < 0 else self.reference
        return state.with_label(self.point, self.label, self.answer, reference, time=self.time)


class PointChosen(NamedTuple):
    """Someone chose an operating point."""

    time: float
    point: str
    reason: str

    def apply(self, state: WatchState) -> After:
        """The state afterwards, and what was decided."""
        return state.at(self.point, reason=self.reason, time=self.time)


class WatchReset(NamedTuple):
    """Someone looked, and the watch begins again."""

    time: float
    point: str
    to_traffic: bool
    reason: str

    def apply(self, state: WatchState) -> After:
        """The state afterwards, and what was decided."""
        return state.reset(
            self.point, to_traffic=self.to_traffic, reason=self.reason, time=self.time
        )


Event = Observed | Shadowed | Labelled | PointChosen | WatchReset


def row_count(event: Event) -> int:
    """How many rows an event is of."""
    return len(event.cells) if isinstance(event, Observed) else 1
