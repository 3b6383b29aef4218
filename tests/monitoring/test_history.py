"""The history: it goes on after a restart, replays every decision, and refuses what it is not."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.errors import UnderstudyError
from understudy.locks import InUse
from understudy.monitoring import history as history_module
from understudy.monitoring.event_codec import pack_events, unpack_events
from understudy.monitoring.events import (
    Event,
    Labelled,
    Observed,
    PointChosen,
    Shadowed,
    WatchReset,
)
from understudy.monitoring.history import History, replay
from understudy.monitoring.history_file import HistoryFile
from understudy.monitoring.settings import WatchSettings
from understudy.monitoring.watch import Watch
from watched_cascade import POINTS, clock, live, point_of

SETTINGS = WatchSettings(share=0.5, raised_share=0.5)
NEVER = 1000.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "watch.db"


def opened(history: History, chosen: WatchSettings = SETTINGS) -> Watch:
    return history.watch(POINTS, chosen, point="drop-1", clock=clock())


def falling(watch: Watch, *, requests: int = 1500) -> None:
    """A shift that warns, and disagreement that falls back."""
    live(watch, requests, differing=0.15, confidence=lambda rng, n: rng.random(n) ** 2, labels=True)


def same_state(first: Watch, second: Watch) -> bool:
    return first.state.to_dict() == second.state.to_dict()


TIMES = st.floats(0, 2e9)
SMALL = st.integers(-1, 300)
EVENTS = st.lists(
    st.one_of(
        st.builds(
            Observed,
            TIMES,
            SMALL,
            st.booleans(),
            st.binary(max_size=20).map(lambda one: np.frombuffer(one, np.uint8)),
        ),
        st.builds(Shadowed, TIMES, SMALL, SMALL, SMALL),
        st.builds(Labelled, TIMES, SMALL, SMALL, SMALL, SMALL),
        st.builds(PointChosen, TIMES, st.text(), st.text()),
        st.builds(WatchReset, TIMES, st.text(), st.booleans(), st.text()),
    ),
    max_size=20,
)


@settings(max_examples=25)
@given(EVENTS)
def test_events_are_packed_and_unpacked(events: list[Event]) -> None:
    found = unpack_events(pack_events(events))
    assert [type(one) for one in found] == [type(one) for one in events]
    plain = [[value.tolist() if isinstance(value, np.ndarray) else value for value in one]
             for many in (found, events) for one in many]  # fmt: skip
    assert plain[: len(events)] == plain[len(events) :]


@given(st.binary(max_size=40))
def test_other_bytes_are_no_events(data: bytes) -> None:
    with pytest.raises(ValueError, match="no events"):
        unpack_events(data)


def test_a_watch_goes_on_after_a_restart(path: Path) -> None:
    with History(path, every=NEVER) as history:
        before = opened(history)
        falling(before)
        decisions = before.decisions
        assert [one.kind for one in decisions] == ["warning", "fall-back"]
    with History(path, every=NEVER) as history:
        watch = opened(history)
        assert same_state(watch, before)
        assert watch.decisions == decisions
        assert watch.point == "drop-0.5"
        assert watch.feedback([("1-0", 0)]).repeated == 1, "its label came before the restart"
        watch.answered("before", "drop-1", 1)
        watch.reset(point="drop-1", reason="looked at")
    with History(path, every=NEVER) as history:
        watch = opened(history)
        assert watch.feedback([("before", 1)]).counted == 1
        assert watch.state.promises[0].labelled == 0, "it was answered before the reset"
    found = replay(path)
    assert found.same
    assert found.decisions[:2] == decisions
    assert [one.kind for one in found.decisions] == ["warning", "fall-back", "reset"]


def test_what_was_flushed_is_there_and_nothing_else(path: Path) -> None:
    with History(path, every=NEVER) as history:
        watch, rng = opened(history), np.random.default_rng(0)
        watch.observe("drop-1", 0, rng.random(100))
        watch.answered("a", "drop-1", np.int64(3))  # type: ignore[arg-type]
        history.flush()
        watch.observe("drop-1", 0, rng.random(50))
        watch.answered("b", "drop-1", 3)
        copy = path.with_name("copy.db")
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
    with History(copy, every=NEVER) as history:
        watch = opened(history)
        assert watch.state.requests == 100
        assert watch.feedback([("a", 3), ("b", 3)]).unknown == ("b",)


def test_a_decision_is_written_at_once(path: Path) -> None:
    """A server that is killed a moment later does not go back to the point that it left."""
    with History(path, every=NEVER) as history:
        falling(opened(history))
        end = time.monotonic() + 30
        while len(replay(path).stored) < 2 and time.monotonic() < end:
            time.sleep(0.001)
        assert [one.kind for one in replay(path).stored] == ["warning", "fall-back"]


def test_a_damaged_decision_is_not_replayed(path: Path) -> None:
    with History(path, every=NEVER) as history:
        falling(opened(history))
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE decisions SET decision = replace(decision, 'drop-0.5', 'drop-1')")
    assert not replay(path).same


def test_a_replay_sees_one_moment_whatever_is_written_meanwhile(path: Path) -> None:
    with History(path, every=NEVER) as history:
        watch = opened(history)
        watch.choose_point("drop-0.5")
        history.flush()
        with closing(HistoryFile(path, write=False)) as reader:
            segments = reader.segments()
            first = next(segments)
            watch.choose_point("drop-1")
            history.flush()
            assert not list(segments)
            assert len(reader.decisions()) == 2
    assert len(first.events) == len(first.decisions) == 1
    with History(path, every=NEVER) as history, closing(HistoryFile(path, write=False)) as reader:
        opened(history)
        history.flush()
        segments = reader.segments()
        next(segments)
        with closing(sqlite3.connect(path)) as database, database:
            database.execute("DELETE FROM blocks")
        assert len(list(segments)) == 1, "as it was"


def test_answers_that_cannot_be_written_do_not_fill_the_memory(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_module, "MOST_ANSWERS", 5)
    with History(path, every=NEVER) as history:
        watch = opened(history)
        for number in range(8):
            watch.answered(str(number), "drop-1", 1)
            if number == 3:
                with monkeypatch.context() as full:
                    full.setattr(HistoryFile, "write", no_room)
                    with pytest.raises(UnderstudyError, match="full"):
                        history.flush()
        history.flush()
        assert watch.feedback([(str(k), 1) for k in range(8)]).unknown == ("0", "1", "2")


def no_room(*_: object) -> None:
    raise UnderstudyError("the disk is full")


def test_the_file_stays_small_and_all_its_decisions_can_be_replayed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (
        ("KEPT_ROWS", 2000), ("KEPT_DECISIONS", 1), ("KEPT_ANSWERS", 50), ("_SEGMENT_ROWS", 300)
    ):  # fmt: skip
        monkeypatch.setattr(history_module, name, value)
    with History(path, every=NEVER) as history:
        watch = opened(history)
        for round_ in range(40):
            if round_ in (3, 20):
                watch.choose_point("drop-0.5" if round_ == 3 else "drop-1")
            watch.observe(watch.point, 0, np.linspace(0, 1, 200))
            watch.answered(f"request {round_}", "drop-1", 1)
            watch.answered(f"another {round_}", "drop-1", 1)
            history.flush()
        last = watch
    found = replay(path)
    assert found.same
    assert [one.after for one in found.decisions] == ["drop-1"], "the older one is gone"
    with closing(sqlite3.connect(path)) as database, database:
        rows = database.execute("SELECT sum(row_count) FROM blocks").fetchone()[0]
        assert rows < 3500
        assert database.execute("SELECT count(*) FROM answers").fetchone()[0] < 60
    with History(path, every=NEVER) as history:
        watch = opened(history)
        assert same_state(watch, last)
        assert watch.feedback([("request 0", 1), ("request 39", 1)]).unknown == ("request 0",)


def test_shares_may_change_and_levels_may_not(path: Path) -> None:
    with History(path, every=NEVER) as history:
        falling(opened(history), requests=100)
    with History(path, every=NEVER) as history:
        assert opened(history, WatchSettings(share=0.1)).state.settings.share == 0.1
    with History(path, every=NEVER) as history, pytest.raises(UnderstudyError, match=r"give 0\.01"):
        opened(history, WatchSettings(alpha=0.05))
    assert replay(path).same


def test_another_cascade_needs_another_file(path: Path) -> None:
    with History(path, every=NEVER) as history:
        opened(history)
    with History(path, every=NEVER) as history, pytest.raises(UnderstudyError, match=r"drop-0\.5"):
        history.watch([point_of(2.0, 0.3)], SETTINGS)


def test_a_history_is_readable_by_its_owner_alone(path: Path) -> None:
    with History(path, every=NEVER) as history:
        falling(opened(history), requests=100)
        history.flush()
        modes = {one.name: one.stat().st_mode & 0o777 for one in path.parent.glob("watch.db*")}
    assert len(modes) == 3, "the write-ahead log too"
    assert set(modes.values()) == {0o600}


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE mine (x)")


def text(path: Path) -> None:
    path.write_text("no database at all, but long enough to be read as one" * 20)


def newer(path: Path) -> None:
    with History(path):
        pass
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("PRAGMA user_version = 99")


def cut(path: Path) -> None:
    with History(path, every=NEVER) as history:
        falling(opened(history))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize("spoil", [foreign, text, newer, cut])
def test_other_files_are_refused_in_a_sentence(path: Path, spoil: object) -> None:
    spoil(path)  # type: ignore[operator]
    before = path.read_bytes()
    for attempt in (History, replay):
        with pytest.raises(UnderstudyError, match=r"give another file|upgrade") as caught:
            attempt(path)
        assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


def test_a_missing_file_is_not_made_by_a_replay(path: Path) -> None:
    with pytest.raises(UnderstudyError, match="does not exist"):
        replay(path)
    assert not path.exists()
    with pytest.raises(UnderstudyError, match="is none: make it"):
        History(path / "below.db")


def test_a_disk_that_is_full_holds_nothing_up(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What could not be written is written later; if it is too much, the history has a gap."""
    with History(path, every=NEVER) as history:
        watch = opened(history)
        history.flush()
        blocker = sqlite3.connect(path, isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        watch.choose_point("drop-0.5")
        with pytest.raises(UnderstudyError, match="locked"):
            history.flush()
        blocker.execute("ROLLBACK")
        blocker.close()
        watch.observe("drop-0.5", 0, np.linspace(0, 1, 100))
        history.flush()
        monkeypatch.setattr(history_module, "_UNWRITTEN_ROWS", 10)
        watch.observe("drop-0.5", 0, np.linspace(0, 1, 100))
        with caplog.at_level(logging.ERROR):
            history.flush()
        assert "not in the history" in caplog.text
        watch.choose_point("drop-1")
    found = replay(path)
    assert found.same
    chosen = [one.after for one in found.decisions if one.kind == "operating-point"]
    assert chosen == ["drop-0.5", "drop-1"]
    with History(path, every=NEVER) as history:
        assert same_state(opened(history), watch)


WRITER = """
import sys
import numpy as np
sys.path.insert(0, {tests!r})
from understudy.monitoring.history import History
from watched_cascade import POINTS
from understudy.monitoring.history_file import HistoryFile
from understudy.monitoring.settings import WatchSettings
with History({path!r}, every=0.005) as history:
    watch = history.watch(POINTS, WatchSettings(share=0.5, raised_for=50), point="drop-1")
    print(watch.state.requests, flush=True)
    rng, number = np.random.default_rng(), watch.state.requests
    while True:
        watch.observe("drop-1", 0, rng.random(20) ** 2)
        for _ in range(20):
            number += 1
            ticket = watch.draw(str(number), "drop-1")
            watch.answered(str(number), "drop-1", 1)
            if ticket is not None:
                watch.shadowed(ticket, int(rng.random() < 0.02), 0)
            watch.feedback([(str(number), 0)])
        if rng.random() < 0.02:
            watch.reset(reason="again")
"""


def writer(path: Path) -> subprocess.Popen[str]:
    code = WRITER.format(tests=str(Path(__file__).parent.parent), path=str(path))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_a_second_server_is_refused(path: Path) -> None:
    process = writer(path)
    try:
        with pytest.raises(InUse, match="one process at a time"):
            History(path)
    finally:
        process.kill()
        process.communicate()
    with History(path) as history:
        assert history.path == path


@pytest.mark.slow
def test_killed_writers_leave_histories_that_agree_with_themselves(path: Path) -> None:
    """The counts of the state are those of its events, of its answers, and of its decisions."""
    rng = np.random.default_rng(0)
    for killed in range(1, 13):
        process = writer(path)
        try:
            process.wait(float(rng.uniform(0.05, 0.6)))
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        found = replay(path)
        assert found.same
        with closing(sqlite3.connect(path)) as database, database:
            labelled = database.execute("SELECT sum(labelled) FROM answers").fetchone()[0] or 0
        with History(path, every=NEVER) as history:
            state = history.watch(POINTS, WatchSettings(share=0.5, raised_for=50)).state
        assert state.labelled == labelled
        assert 0 <= state.requests - state.labelled <= 20 * killed, "a batch is labelled one by one"
    assert len(found.decisions) > 10
