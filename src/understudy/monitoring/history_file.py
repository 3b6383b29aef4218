"""The file of a watch's history: an SQLite database of blocks of events.

blocks      events in order; the first of a segment has a checkpoint, the state before it
decisions   what followed from the events of a block
answers     what labels that come later are compared with
"""

from __future__ import annotations

import json
import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from understudy.errors import UnderstudyError
from understudy.monitoring.answer_log import LoggedAnswer
from understudy.monitoring.decisions import Decision
from understudy.monitoring.event_codec import pack_events, unpack_events
from understudy.monitoring.events import Event, row_count
from understudy.monitoring.watch_state import WatchState

APPLICATION = 0x55535701
VERSION = 1
_SCHEMA = f"""
BEGIN;
CREATE TABLE blocks (
    number INTEGER PRIMARY KEY,
    row_count INTEGER NOT NULL,
    checkpoint BLOB,
    events BLOB NOT NULL
);
CREATE TABLE decisions (
    number INTEGER PRIMARY KEY,
    block INTEGER NOT NULL,
    decision TEXT NOT NULL
);
CREATE TABLE answers (
    number INTEGER PRIMARY KEY,
    request_id TEXT NOT NULL UNIQUE,
    point INTEGER NOT NULL,
    answer INTEGER NOT NULL,
    reference INTEGER NOT NULL,
    labelled INTEGER NOT NULL,
    reset INTEGER NOT NULL
);
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
COMMIT;
"""


class Block(NamedTuple):
    """What is written at a time.

    Attributes:
        checkpoint: the state before the events, where a segment begins.
        events: what happened.
        decisions: what followed from it.
        answers: new answers and changed ones, by request id.
    """

    checkpoint: WatchState | None
    events: Sequence[Event]
    decisions: Sequence[Decision]
    answers: Mapping[str, LoggedAnswer]


class Segment(NamedTuple):
    """A state, and what happened afterwards.

    Attributes:
        checkpoint: the state before the events.
        events: what happened.
        decisions: what was decided then.
    """

    checkpoint: WatchState
    events: list[Event]
    decisions: list[Decision]


class HistoryFile:
    """The open file of a history. Not for several threads at a time.

    Args:
        path: the file; a new one can be read by its owner alone.
        write: whether it is made where it is missing, and written.

    Raises:
        UnderstudyError: the file is something else, damaged, or of a newer version.
    """

    def __init__(self, path: Path, *, write: bool) -> None:
        self.path = path
        if path.is_dir() or not (write or path.exists()):
            found = "is a folder" if path.is_dir() else "does not exist"
            raise UnderstudyError(
                "a history is a file that `understudy serve --state` wrote, "
                f"{str(path)!r} {found}: check the path"
            )
        with self._understood():
            if write:
                os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            self._database = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode={'rw' if write else 'ro'}",
                uri=True,
                timeout=1.0,
                isolation_level=None,
                check_same_thread=False,
            )
        try:
            with self._understood():
                self._check(write=write)
        except BaseException:
            self._database.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def write(self, block: Block) -> None:
        """Write a block, whole or not at all."""
        rows = sum(map(row_count, block.events))
        checkpoint = None if block.checkpoint is None else _packed_state(block.checkpoint)
        with self._understood(), self._transaction():
            if block.events or checkpoint is not None:
                written = self._database.execute(
                    "INSERT INTO blocks (row_count, checkpoint, events) VALUES (?, ?, ?)",
                    (rows, checkpoint, pack_events(block.events)),
                )
                self._database.executemany(
                    "INSERT INTO decisions (block, decision) VALUES (?, ?)",
                    [(written.lastrowid, json.dumps(one.to_dict())) for one in block.decisions],
                )
            self._database.executemany(
                "INSERT INTO answers (request_id, point, answer, reference, labelled, reset) "
                "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (request_id) DO UPDATE SET "
                "reference = excluded.reference, labelled = excluded.labelled",
                [
                    (key, one.point, one.answer, one.reference, one.labelled, one.reset)
                    for key, one in block.answers.items()
                ],
            )

    def prune(self, *, rows: int, decisions: int, answers: int) -> None:
        """Remove what is too old.

        Args:
            rows: of the blocks to keep, at most; but never the last segment.
            decisions: the last ones, whose segments are kept nevertheless.
            answers: to keep.
        """
        with self._understood(), self._transaction():
            query = self._database.execute
            query(
                "DELETE FROM answers WHERE number <= (SELECT max(number) FROM answers) - ?",
                (answers,),
            )
            kept = query(
                "SELECT block FROM decisions ORDER BY number DESC LIMIT ?", (decisions,)
            ).fetchall()
            spared = [number for (number,) in kept]
            excess = query("SELECT coalesce(sum(row_count), 0) FROM blocks").fetchone()[0] - rows
            starts = self._starts()
            for first, end in pairwise(starts):
                if excess <= 0:
                    break
                if any(first <= number < end for number in spared):
                    continue
                span = (first, end)
                among = "WHERE number >= ? AND number < ?"
                excess -= query(f"SELECT sum(row_count) FROM blocks {among}", span).fetchone()[0]
                query(f"DELETE FROM blocks {among}", span)
                query("DELETE FROM decisions WHERE block >= ? AND block < ?", span)

    def segments(self, *, last: bool = False) -> Iterator[Segment]:
        """The segments from the oldest to the newest, or the last one alone, all as they are at
        one moment, whatever another process writes."""
        with self._understood(), self._transaction("BEGIN"):
            starts = self._starts()
            ends = [*starts[1:], 2**62]
            for span in list(zip(starts, ends, strict=False))[-1 if last else 0 :]:
                yield self._segment(*span)

    def decisions(self) -> list[Decision]:
        """All decisions, the oldest first."""
        with self._understood():
            rows = self._database.execute("SELECT decision FROM decisions ORDER BY number")
            return [Decision.from_dict(json.loads(text)) for (text,) in rows]

    def answer(self, request_id: str) -> LoggedAnswer | None:
        """The answer to a request, where it is still there."""
        with self._understood():
            row = self._database.execute(
                "SELECT point, answer, reference, labelled, reset FROM answers "
                "WHERE request_id = ?",
                (request_id,),
            ).fetchone()
        if row is None:
            return None
        point, answer, reference, labelled, reset = row
        return LoggedAnswer(point, answer, reference, bool(labelled), reset)

    def _starts(self) -> list[int]:
        """The first block of each segment."""
        rows = self._database.execute(
            "SELECT number FROM blocks WHERE checkpoint IS NOT NULL ORDER BY number"
        )
        return [number for (number,) in rows]

    def _segment(self, first: int, end: int) -> Segment:
        query, span = self._database.execute, (first, end)
        rows = query(
            "SELECT checkpoint, events FROM blocks WHERE number >= ? AND number < ? "
            "ORDER BY number",
            span,
        ).fetchall()
        decided = query(
            "SELECT decision FROM decisions WHERE block >= ? AND block < ? ORDER BY number", span
        )
        return Segment(
            WatchState.from_dict(json.loads(zlib.decompress(rows[0][0]))),
            [event for _, packed in rows for event in unpack_events(packed)],
            [Decision.from_dict(json.loads(text)) for (text,) in decided],
        )

    def _check(self, *, write: bool) -> None:
        if write:
            new = not self._database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if new and not self._pragma("application_id"):
                self._database.execute("PRAGMA journal_mode = WAL")
                self._database.executescript(_SCHEMA)
        if self._pragma("application_id") != APPLICATION:
            raise UnderstudyError(
                f"{str(self.path)!r} is no history of a watch, its application id is "
                f"{self._pragma('application_id')}: give another file"
            )
        if self._pragma("user_version") > VERSION:
            raise UnderstudyError(
                f"{str(self.path)!r} has version {self._pragma('user_version')} of a history, this "
                f"understudy reads up to {VERSION}: upgrade understudy"
            )
        damage = self._pragma("quick_check(1)")
        if damage != "ok":
            raise sqlite3.DatabaseError(damage)
        if write:
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")

    def _pragma(self, name: str) -> Any:
        return self._database.execute(f"PRAGMA {name}").fetchone()[0]

    @contextmanager
    def _transaction(self, begin: str = "BEGIN IMMEDIATE") -> Iterator[None]:
        self._database.execute(begin)
        try:
            yield
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    @contextmanager
    def _understood(self) -> Iterator[None]:
        """Turn errors of the system and of SQLite into one sentence."""
        try:
            yield
        except UnderstudyError:
            raise
        except (sqlite3.OperationalError, OSError) as error:
            raise UnderstudyError(
                f"the history {str(self.path)!r} cannot be used ({error}): check the path and the "
                "room on the disk"
            ) from error
        except (sqlite3.DatabaseError, zlib.error, ValueError) as error:
            raise UnderstudyError(
                f"{str(self.path)!r} is no history of a watch, or a damaged one ({error}): give "
                "another file"
            ) from error


def replayed(state: WatchState, events: Iterable[Event]) -> tuple[WatchState, list[Decision]]:
    """The state after events, and all that was decided."""
    decisions = []
    for event in events:
        state, decision = event.apply(state)
        if decision is not None:
            decisions.append(decision)
    return state, decisions


def _packed_state(state: WatchState) -> bytes:
    return zlib.compress(json.dumps(state.to_dict(), separators=(",", ":")).encode(), 1)
