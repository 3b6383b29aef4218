"""The history of a watch: what happened, kept in a file, so that the watch goes on after a restart
and every decision can be replayed.

SQLite with a write-ahead log. Once a second, and at once after a decision, a thread of its own
writes what has happened since, in one transaction: a block of events, the decisions that followed
from them, and the answers that labels may refer to. The state is not written beside them and so
cannot contradict them: it follows from the last checkpoint and the events after it. A process that
is killed loses what was not written yet, about a second; after a power cut it may be a few more
(`synchronous=NORMAL`). The file is whole in either case.

Blocks form segments, each of which begins with a checkpoint. The oldest segments are removed when
there are too many rows, but not those of the last 100 decisions, and the decisions of a segment go
with it. So every decision in the file can be replayed from it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from threading import Event as Signal
from threading import Lock, Thread
from types import TracebackType
from typing import NamedTuple, Self

from understudy.errors import UnderstudyError, listed
from understudy.locks import locked
from understudy.monitoring.answer_log import MOST_ANSWERS, AnswerLog, LoggedAnswer
from understudy.monitoring.decisions import Decision
from understudy.monitoring.events import Event, row_count
from understudy.monitoring.history_file import Block, HistoryFile, replayed
from understudy.monitoring.settings import WatchSettings
from understudy.monitoring.watch import Watch
from understudy.monitoring.watch_state import WatchState
from understudy.monitoring.watched_points import watched_points
from understudy.operating_point import REFERENCE, OperatingPoint

logger = logging.getLogger(__name__)

KEPT_ROWS = 20_000_000
KEPT_DECISIONS = 100
KEPT_ANSWERS = 1_000_000
_SEGMENT_ROWS = 200_000
_SEGMENT_BLOCKS = 600
_UNWRITTEN_ROWS = 5_000_000  # while the disk is full; then the events are given up
_SHORTEST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0  # seconds between attempts while none can be written
_FIXED = ("alpha", "margin", "seed")  # on which decisions rest


class Replay(NamedTuple):
    """What follows from the events of a history.

    Attributes:
        decisions: those that follow.
        stored: those that were made.
    """

    decisions: tuple[Decision, ...]
    stored: tuple[Decision, ...]

    @property
    def same(self) -> bool:
        """Whether they are the same, to the last bit of every number."""
        return self.decisions == self.stored


def replay(path: str | Path) -> Replay:
    """Decide again all that a history holds.

    >>> from tempfile import TemporaryDirectory
    >>> from understudy.operating_point import OperatingPoint
    >>> from understudy.policy import Policy
    >>> points = [OperatingPoint(Policy.single("big"), 0.0, 0.0, 9.0, "MACs")]
    >>> with TemporaryDirectory() as folder:
    ...     with History(f"{folder}/watch.db") as history:
    ...         watch = history.watch(points, WatchSettings())
    ...     replay(f"{folder}/watch.db").same
    True

    Raises:
        UnderstudyError: there is no such file, it is something else, or it is damaged.
    """
    made: list[Decision] = []
    stored: list[Decision] = []
    with closing(HistoryFile(Path(path), write=False)) as file:
        for segment in file.segments():
            made += replayed(segment.checkpoint, segment.events)[1]
            stored += segment.decisions
    return Replay(tuple(made), tuple(stored))


class StoredAnswers(AnswerLog):
    """Answers that a history keeps; those that are not yet written are in memory."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = HistoryFile(path, write=False)  # reads while another connection writes
        self._unwritten: dict[str, LoggedAnswer] = {}
        self._taken: dict[str, LoggedAnswer] = {}

    def add(self, request_id: str, answer: LoggedAnswer) -> None:
        """Keep an answer."""
        self._unwritten[request_id] = answer

    def get(self, request_id: str) -> LoggedAnswer | None:
        """The answer to a request, where it is still known."""
        known = self._unwritten.get(request_id) or self._taken.get(request_id)
        return known or self._file.answer(request_id)

    def changed(self, request_id: str, answer: LoggedAnswer) -> None:
        """An answer that was got has been changed."""
        self._unwritten[request_id] = answer

    def take(self) -> dict[str, LoggedAnswer]:
        """All that is to be written, as it is now; the oldest are given up where they are many."""
        self._taken |= self._unwritten
        self._unwritten = {}
        for request_id in list(islice(self._taken, max(len(self._taken) - MOST_ANSWERS, 0))):
            del self._taken[request_id]
        return {key: replace(answer) for key, answer in self._taken.items()}

    def written(self) -> None:
        """What was taken has been written."""
        self._taken = {}

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class History:
    """Keeps a watch in a file, from a thread of its own, until it is closed.

    One process at a time has a history open.

    Args:
        path: the file; it is made where it is missing, readable by its owner alone.
        every: seconds between two transactions.

    >>> from tempfile import TemporaryDirectory
    >>> from understudy.operating_point import OperatingPoint
    >>> from understudy.policy import Policy
    >>> points = [OperatingPoint(Policy.single("big"), 0.0, 0.0, 9.0, "MACs")]
    >>> with TemporaryDirectory() as folder, History(f"{folder}/watch.db") as history:
    ...     watch = history.watch(points, WatchSettings())
    ...     watch.point
    'reference'

    Raises:
        InUse: another process has it open.
        UnderstudyError: the file is something else, damaged, of a newer version, or cannot be
            written.
    """

    def __init__(self, path: str | Path, *, every: float = 1.0) -> None:
        self.path = Path(path)
        self._every, self._writing = every, Lock()
        self._kept: _Kept | None = None
        self._closing, self._wake = Signal(), Signal()
        self._thread = Thread(target=self._run, name="understudy-history", daemon=True)
        with ExitStack() as stack:
            if not self.path.absolute().parent.is_dir():
                raise UnderstudyError(
                    f"a history is written into a folder, {str(self.path.parent)!r} is none: make "
                    "it"
                )
            stack.enter_context(locked(self.path, wait=False))
            self._file = HistoryFile(self.path, write=True)
            stack.callback(self._file.close)
            self._open = stack.pop_all()

    def watch(
        self,
        points: Iterable[OperatingPoint],
        settings: WatchSettings,
        *,
        point: str = REFERENCE,
        clock: Callable[[], float] = time.time,
    ) -> Watch:
        """The watch that the file holds, as it was, or a new one; from now on it is kept.

        Args:
            points: of the cascade.
            settings: of the operator. Shares may differ from those of the file.
            point: the operating point in use, for a new watch; an old one has its own
                (`watch.point`), which may be one that it fell back to.
            clock: seconds since the epoch.

        Raises:
            PolicyError: a point has no baseline, or there is none of that name.
            UnderstudyError: the file is of other operating points or of another level.
        """
        watched = watched_points(points)
        state, decisions = WatchState.start(watched, settings, point), self._file.decisions()
        for segment in self._file.segments(last=True):
            before = replayed(segment.checkpoint, segment.events)[0]
            self._check(before, state)
            state = replace(before, settings=settings)
        answers = StoredAnswers(self.path)
        self._open.callback(answers.close)
        watch = Watch(state, answers=answers, decisions=decisions, clock=clock)
        self._kept = _Kept(self._file, watch, answers, self._wake.set)
        self._thread.start()
        return watch

    def flush(self) -> None:
        """Write what has happened since the last time; it happens by itself once a second and after
        a decision.

        Raises:
            UnderstudyError: it cannot be written; it will be tried again.
        """
        with self._writing:
            if self._kept is not None:
                self._kept.flush()

    def close(self) -> None:
        """Write the rest and close the file. More than once is no error.

        Raises:
            UnderstudyError: the rest cannot be written.
        """
        if self._closing.is_set():
            return
        self._closing.set()
        self._wake.set()
        with self._open:
            if self._kept is not None:
                self._thread.join()
                self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self) -> None:
        wait, pause = self._every, _SHORTEST_PAUSE
        while True:
            self._wake.wait(wait)
            self._wake.clear()
            if self._closing.is_set():
                return
            try:
                self.flush()
            except Exception as error:  # noqa: BLE001
                if pause == _SHORTEST_PAUSE:
                    logger.error("%s; it is tried again, at least once a minute", error)
                wait, pause = pause, min(2 * pause, _LONGEST_PAUSE)
            else:
                wait, pause = self._every, _SHORTEST_PAUSE

    def _check(self, before: WatchState, now: WatchState) -> None:
        """Refuse a file whose decisions rest on something else."""
        if before.watched != now.watched:
            names = listed(point.name for point in before.watched.points) or "none"
            raise UnderstudyError(
                f"a history is of the operating points of one cascade, {str(self.path)!r} is of "
                f"another one's ({names}): give another file"
            )
        for name in _FIXED:
            older, newer = getattr(before.settings, name), getattr(now.settings, name)
            if older != newer:
                raise UnderstudyError(
                    f"a watch keeps its {name}, {str(self.path)!r} was begun with {older:g}, found "
                    f"{newer:g}: give {older:g}, or another file"
                )


class _Kept:
    """A watch that is written into a file."""

    def __init__(
        self,
        file: HistoryFile,
        watch: Watch,
        answers: StoredAnswers,
        decided: Callable[[], object],
    ) -> None:
        self._file, self._watch, self._answers = file, watch, answers
        self._checkpoint: WatchState | None = watch.state  # to be written, where one is due
        self._events: list[Event] = []
        self._decisions: list[Decision] = []
        self._rows = self._blocks = 0  # since the last checkpoint
        watch.record(decided)

    def flush(self) -> None:
        taken = self._watch.taken(self._answers.take)
        if self._checkpoint is None and not self._events and self._is_long():
            self._checkpoint = taken.before
        self._events += taken.events
        self._decisions += taken.decisions
        if not (self._events or taken.answers or self._checkpoint):
            return
        if sum(map(row_count, self._events)) > _UNWRITTEN_ROWS:
            logger.error("what happened while nothing could be written is not in the history")
            self._checkpoint, self._events, self._decisions = taken.after, [], []
        self._file.write(Block(self._checkpoint, self._events, self._decisions, taken.answers))
        self._answers.written()
        if self._checkpoint is not None:
            self._rows = self._blocks = 0
            self._file.prune(rows=KEPT_ROWS, decisions=KEPT_DECISIONS, answers=KEPT_ANSWERS)
        self._rows += sum(map(row_count, self._events))
        self._blocks += 1
        self._checkpoint, self._events, self._decisions = None, [], []

    def _is_long(self) -> bool:
        return self._rows > _SEGMENT_ROWS or self._blocks >= _SEGMENT_BLOCKS
