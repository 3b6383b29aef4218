"""The verb `watch`: decisions of a history, replayed."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np

from command_line import Run
from understudy.monitoring.history import History
from understudy.monitoring.settings import WatchSettings
from watched_cascade import POINTS, clock


def test_decisions_are_shown_while_the_server_runs_and_checked(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "watch.db"
    with History(path, every=1000) as history:
        watch = history.watch(POINTS, WatchSettings(), point="drop-1", clock=clock())
        watch.observe("drop-1", 0, np.full(100, 0.1))
        watch.choose_point("drop-0.5", reason="the operator's wish")
        history.flush()
        shown = run("watch", path)
        assert shown.exit_code == 0
        assert "warning" in shown.stdout
        assert "to the last bit" in shown.stdout
        data = run("watch", path, "--json").json
    assert data["same"]
    assert [one["kind"] for one in data["decisions"]] == ["warning", "operating-point"]
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("DELETE FROM decisions WHERE number = 1")
    changed = run("watch", path)
    assert changed.exit_code == 1
    assert "do NOT follow" in " ".join(changed.stdout.split())


def test_other_files_are_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    for name, message in (("a.txt", "is no history"), ("no.db", "does not exist"), (".", "folder")):
        ended = run("watch", tmp_path / name)
        assert ended.exit_code == 2
        assert "Traceback" not in ended.stderr
        assert message in ended.stderr
