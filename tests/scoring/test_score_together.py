"""Several runs into one table: the exits of all are there, and nothing is left that blocks."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from progress import InterruptedRunError, after
from understudy.errors import DataError
from understudy.locks import InUse
from understudy.looks import log_look, logged_looks
from understudy.scores import ScoreTable
from understudy.scoring.on_disk import score_into
from understudy.scoring.shards import Shards

NETS = {"tiny": "py:digit_nets:tiny", "big": "py:digit_nets:big"}


def scored(path: Path, *names: str, **more: Any) -> ScoreTable:
    models = {name: NETS.get(name, NETS["tiny"]) for name in names}
    return score_into(path, models, "digits:heldout", batch=32, measure_batches=(), **more)


def beside(work: Callable[..., ScoreTable], *arguments: Any, **more: Any) -> Future[ScoreTable]:
    """Runs something in a thread that holds no locks, to its end."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(Context().run, partial(work, *arguments, **more))


def test_four_runs_at_once_bring_all_their_exits(tmp_path: Path) -> None:
    """Each starts the next one while it scores itself, and ends behind it."""
    started: list[str] = []

    def run(name: str) -> ScoreTable:
        def start_next(*_: object) -> None:
            if name == started[-1] and len(started) < 4:
                beside(run, "abcd"[len(started)]).result()

        started.append(name)
        return scored(tmp_path / "table", name, on_progress=start_next)

    assert sorted(run("a").names) == started == ["a", "b", "c", "d"]
    assert [path.name for path in tmp_path.iterdir()] == ["table"]


def test_the_same_command_twice_at_once_is_refused_and_blocks_nothing(tmp_path: Path) -> None:
    refused: list[Exception] = []

    def again(*_: object) -> None:
        if not refused:
            error = beside(scored, tmp_path / "table", "tiny").exception()
            assert isinstance(error, InUse)
            refused.append(error)

    scored(tmp_path / "table", "tiny", on_progress=again)
    assert "wait until it ends" in str(refused[0])
    assert [path.name for path in tmp_path.iterdir()] == ["table"]
    assert scored(tmp_path / "table", "big").names == ("tiny", "big")


def test_unfinished_work_blocks_no_other_models(tmp_path: Path) -> None:
    with pytest.raises(InterruptedRunError):
        scored(tmp_path / "table", "tiny", on_progress=after(12))
    with pytest.raises(DataError, match="has another for models"):
        scored(tmp_path / "table", "tiny", "big")
    assert scored(tmp_path / "table", "big").names == ("big",)
    assert scored(tmp_path / "table", "tiny").names == ("big", "tiny")
    assert [path.name for path in tmp_path.iterdir()] == ["table"]


def test_a_run_that_was_killed_behind_its_table_ends_when_it_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Shards, "remove", lambda shards: None)
        whole = scored(tmp_path / "table", "tiny")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["table", "table.partial"]
    assert scored(tmp_path / "table", "tiny").hash == whole.hash
    assert [path.name for path in tmp_path.iterdir()] == ["table"]


def test_looks_at_once_have_numbers_of_their_own(tmp_path: Path) -> None:
    table = scored(tmp_path / "table", "tiny")
    ids = table.on("certify").ids

    def look(number: int) -> int:
        return log_look(tmp_path / "table", ids, why=f"search {number}")

    with ThreadPoolExecutor(4) as pool:
        numbers = list(pool.map(look, range(12)))
    assert sorted(numbers) == list(range(1, 13))
    assert sorted(line["look"] for line in logged_looks(tmp_path / "table")) == sorted(numbers)
