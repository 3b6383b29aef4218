"""Processes that share the scoring of one table: together they make the bytes that one makes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import pytest
import torch

import digit_nets
from command_line import Run
from joined_runs import at_once
from progress import InterruptedRunError, RecordedProgress, after
from table_files import content
from understudy.errors import DataError, ModelError, UnderstudyError
from understudy.locks import InUse
from understudy.nn.stage import Stage
from understudy.scores import ScoreTable
from understudy.scoring import joined, joined_probing
from understudy.scoring.members import WorkProcess
from understudy.scoring.new_sources import NewSources
from understudy.scoring.on_disk import score_into
from understudy.scoring.plan import plan_of, settings_of
from understudy.scoring.shard_scorer import ScoredShard, ShardScorer
from understudy.zoo.models import load_stages

MODELS = {"tiny": "py:digit_nets:tiny", "big": "py:digit_nets:big"}
TESTS = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the table that one process makes alone."""
    return alone(tmp_path_factory.mktemp("alone") / "table")


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (joined, joined_probing):
        monkeypatch.setattr(module, "PAUSE", 0.01)


@pytest.fixture(autouse=True)
def one_model_is_made_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are drawn from the generator of the process, which threads share."""
    lock = Lock()

    def load(*arguments: Any, **more: Any) -> dict[str, Stage]:
        with lock:
            return load_stages(*arguments, **more)

    for module in ("sources", "new_sources"):
        monkeypatch.setattr(f"understudy.scoring.{module}.load_stages", load)


def scored(path: Path, **more: Any) -> ScoreTable:
    settings = {"batch": 32, "measure_batches": (), "models": MODELS, "join": True, **more}
    models = settings.pop("models")
    return score_into(path, models, settings.pop("data", "digits:heldout"), **settings)


def alone(path: Path, **more: Any) -> dict[str, bytes]:
    scored(path, join=False, **more)
    return content(path)


def interrupted(path: Path, shards: int = 2, **more: Any) -> None:
    """A process that ends when it has kept so many shards."""
    kept: list[int] = []
    keep = joined.JoinedScoring.keep

    def stop(scoring: joined.JoinedScoring, shard: ScoredShard) -> None:
        keep(scoring, shard)
        kept.append(shard.shard)
        if len(kept) == shards:
            raise InterruptedRunError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(joined.JoinedScoring, "keep", stop)
        with pytest.raises(InterruptedRunError):
            scored(path, **more)


def beside(work: Callable[..., ScoreTable], *arguments: Any, **more: Any) -> Future[ScoreTable]:
    (found,) = at_once(partial(work, *arguments, **more))
    return found


def command(
    table: Path, *words: str, batch: int = 16, models: Mapping[str, str] = MODELS
) -> list[str]:
    specs = [f"{name}={spec}" for name, spec in models.items()]
    score = [sys.executable, "-m", "understudy", "score", *specs, "--data", "digits:heldout"]
    fixed = ["--into", str(table), "--batch", str(batch), "--threads", "1"]
    return [*score, *fixed, "--measure", "none", "--json", *words]


def started(words: list[str], **environment: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        words,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_one_or_several_make_the_bytes_of_one_that_works_alone(
    tmp_path: Path, expected: dict[str, bytes]
) -> None:
    scored(tmp_path / "one")
    assert content(tmp_path / "one") == expected
    tables = [one.result() for one in at_once(*[partial(scored, tmp_path / "four")] * 4)]
    assert content(tmp_path / "four") == expected
    assert {table.hash for table in tables} == {tables[0].hash}
    assert {path.name for path in tmp_path.iterdir()} == {"one", "four"}
    scored(tmp_path / "four"), "nothing is left to do"


def test_every_shard_is_scored_once_by_one_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[tuple[int, int]] = []
    keep = joined.JoinedScoring.keep

    def count(scoring: joined.JoinedScoring, shard: ScoredShard) -> None:
        kept.append((id(scoring), shard.shard))
        keep(scoring, shard)

    monkeypatch.setattr(joined.JoinedScoring, "keep", count)
    for one in at_once(*[partial(scored, tmp_path / "table")] * 3):
        one.result()
    assert sorted(shard for _, shard in kept) == list(range(4))


def test_sources_that_are_not_in_memory_together_are_scored_at_a_time(
    tmp_path: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those who come take the group where nobody is."""
    monkeypatch.setattr("understudy.scoring.measuring.MEMORY", 1)
    calls = RecordedProgress()

    def second(name: str, *_: object) -> None:
        if not calls.calls:
            calls("second", 0, 0)
            first_of_it = RecordedProgress(lambda found: found[-1][0] == "big")
            with pytest.raises(InterruptedRunError):
                beside(scored, tmp_path / "table", on_progress=first_of_it).result()

    scored(tmp_path / "table", on_progress=second)
    assert calls.calls
    assert content(tmp_path / "table") == expected


def test_a_run_alone_is_joined_later_and_the_other_way_round(
    tmp_path: Path, expected: dict[str, bytes]
) -> None:
    with pytest.raises(InterruptedRunError):
        scored(tmp_path / "later", join=False, on_progress=after(16))
    assert list((tmp_path / "later.partial").glob("*/*.parquet"))
    scored(tmp_path / "later")
    interrupted(tmp_path / "earlier")
    scored(tmp_path / "earlier", join=False)
    assert content(tmp_path / "later") == content(tmp_path / "earlier") == expected


def test_who_works_alone_and_who_joins_keep_out_of_each_others_way(tmp_path: Path) -> None:
    refusals: list[BaseException | None] = []

    def other(join: bool) -> Callable[..., None]:
        def start(*_: object) -> None:
            if len(refusals) < 1 + join:
                refusals.append(beside(scored, tmp_path / str(join), join=not join).exception())

        return start

    for join in (False, True):
        scored(tmp_path / str(join), join=join, on_progress=other(join))
    assert all(isinstance(error, InUse) for error in refusals)
    assert "of one that works alone: wait until it ends, or start it again with --join" in str(
        refusals[0]
    )
    assert "join too, with --join, or wait until it ends" in str(refusals[1])


def test_an_error_is_one_process_s_and_the_others_go_on(
    tmp_path: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the disk of one machine is full."""
    failed: list[int] = []
    keep = joined.JoinedScoring.keep

    def fail_once(scoring: joined.JoinedScoring, shard: ScoredShard) -> None:
        if not failed:
            failed.append(shard.shard)
            raise UnderstudyError("'x' cannot be written (No space left on device): make room")
        keep(scoring, shard)

    monkeypatch.setattr(joined.JoinedScoring, "keep", fail_once)
    ended = at_once(*[partial(scored, tmp_path / "table")] * 3)
    assert [type(one.exception()) for one in ended].count(UnderstudyError) == 1
    assert content(tmp_path / "table") == expected


def test_what_cannot_be_scored_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UnderstudyError, match="logits are finite"):
        scored(tmp_path / "table", models={"poisoned": "py:digit_nets:poisoned"}, batch=2048)
    assert list(tmp_path.iterdir()) == []


def test_who_takes_over_the_table_writes_it(
    tmp_path: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("understudy.scoring.on_disk._added", after(1))
        with pytest.raises(InterruptedRunError):
            scored(tmp_path / "table")
    assert not (tmp_path / "table").exists()
    scored(tmp_path / "table")
    assert content(tmp_path / "table") == expected


def test_who_comes_when_the_table_is_being_written_scores_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has seen no table yet, and others write it before this one opens the folder."""

    def late(*arguments: Any, **more: Any) -> dict[str, Any]:
        with monkeypatch.context() as patch:
            patch.setattr("understudy.scoring.on_disk.plan_of", plan_of)
            beside(scored, tmp_path / "table").result()
        monkeypatch.setattr(NewSources, "probe", None)
        monkeypatch.setattr(ShardScorer, "score", None)
        return plan_of(*arguments, **more)

    monkeypatch.setattr("understudy.scoring.on_disk.plan_of", late)
    assert scored(tmp_path / "table").names == ("tiny", "big")
    assert [path.name for path in tmp_path.iterdir()] == ["table"]


def test_a_damaged_shard_is_scored_again(tmp_path: Path, expected: dict[str, bytes]) -> None:
    interrupted(tmp_path / "table")
    file = next((tmp_path / "table.partial").glob("*/*.parquet"))
    file.write_bytes(file.read_bytes()[:-100] + bytes(100))
    scored(tmp_path / "table")
    assert content(tmp_path / "table") == expected


def test_sizes_that_fall_in_one_process_are_those_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory runs out in the midst of it, and all shards are scored in halves."""
    models = {"mock": "py:digit_nets:mock_of_full_device"}
    monkeypatch.setattr(digit_nets.MockOfFullDevice, "full", True)
    expected = alone(tmp_path / "alone", models=models)
    monkeypatch.setattr(digit_nets.MockOfFullDevice, "full", False)

    keep = joined.JoinedScoring.keep

    def fill(scoring: joined.JoinedScoring, shard: ScoredShard) -> None:
        keep(scoring, shard)
        digit_nets.MockOfFullDevice.full = True

    monkeypatch.setattr(joined.JoinedScoring, "keep", fill)
    work = partial(scored, tmp_path / "table", models=models)
    for one in at_once(work, work):
        one.result()
    assert content(tmp_path / "table") == expected


def test_another_plan_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(tmp_path / "table")
    changes: dict[str, dict[str, Any]] = {
        "has another for models": {"models": {**MODELS, "big": "py:digit_nets:tiny"}},
        "has another for data": {"data": "digits:"},
        "has another for batch": {"batch": 16},
        "threads of PyTorch as it began with, .*: give --threads": {"threads": 3},
        "has another for logits": {"keep_logits": False},
        "has another for split": {"split": {"tune": 0.4, "certify": 0.6}},
        "has another for measure_batches": {"measure_batches": (1,)},
        "has another for strict": {"strict": True},
    }
    for message, change in changes.items():
        with pytest.raises(DataError, match=message):
            scored(tmp_path / "table", **change)
    with monkeypatch.context() as patch:
        patch.setattr("understudy.scoring.plan.library_versions", lambda: {"torch": "1.0"})
        with pytest.raises(DataError, match=r"another for libraries .* use the same arguments"):
            scored(tmp_path / "table")
    scored(tmp_path / "table")


@pytest.mark.parametrize("known", [True, False])
def test_the_threads_of_those_who_are_joined_are_adopted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """Also where those have begun while this one looked at its models."""
    own = torch.get_num_threads()
    other = 1 if own > 1 else 2
    interrupted(tmp_path / "table", threads=other)
    if not known:
        monkeypatch.setattr("understudy.scoring.on_disk.plan_with", lambda *_: None)
    table = scored(tmp_path / "table")
    assert [run["threads"] for run in table.provenance["runs"]] == [other]
    assert torch.get_num_threads() == own


def test_the_number_of_a_process_chooses_its_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is none here, as the error says, which names the one that was chosen."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("SLURM_LOCALID", "6")
    with pytest.raises(ModelError, match="device 'cuda:2' cannot be used"):
        scored(tmp_path / "table")
    scored(tmp_path / "table", join=False)
    scored(tmp_path / "other", device="cpu")


def test_of_a_gpu_its_name_belongs_to_the_plan_and_its_number_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = {"cuda:0": "NVIDIA H200", "cuda:1": "NVIDIA H200", "cuda:2": "Tesla T4"}
    monkeypatch.setattr(torch.cuda, "get_device_name", names.__getitem__)
    first, second, third = (settings_of(32, device) for device in names)
    assert first == second
    assert (first["device"], first["device_name"]) == ("cuda", "NVIDIA H200")
    assert first != third


def test_who_sees_no_other_process_where_there_are_some_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scored(tmp_path / "quiet")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "8")
    assert not caplog.messages
    scored(tmp_path / "table")
    (remark,) = caplog.messages
    assert "though there are some (SLURM_ARRAY_TASK_COUNT=8)" in remark


def test_the_command(tmp_path: Path, run: Run) -> None:
    words = command(tmp_path / "table", "--join")[3:]
    assert run(*words).json["scored"] == ["tiny", "big"]
    again = run(*words)
    assert again.json["scored"] == []
    assert "nothing to do" in again.stderr
    assert run(*words, "--threads", "0").exit_code == 2


@pytest.mark.slow
def test_kills_at_any_moment_lose_a_shard_at_most(tmp_path: Path) -> None:
    """Of three processes one is killed at each of some moments; the others end."""
    expected = alone(tmp_path / "alone", threads=1, batch=16)
    for number, seconds in enumerate((2.5, 4.5)):
        table = tmp_path / f"table{number}"
        processes = [started(command(table, "--join")) for _ in range(3)]
        time.sleep(seconds)
        processes[number].send_signal(signal.SIGKILL)
        ended = [process.communicate(timeout=120) for process in processes]
        for process, (stdout, stderr) in zip(processes, ended, strict=True):
            assert process.returncode in (0, -signal.SIGKILL), stderr
            if process.returncode == 0:
                assert json.loads(stdout)["exits"] == ["tiny", "big"]
        assert content(table) == expected


@pytest.mark.slow
def test_a_process_killed_while_it_probes_a_model_is_replaced(tmp_path: Path) -> None:
    models = {f"net{number}": "py:digit_nets:sluggish" for number in range(4)}
    expected = alone(tmp_path / "alone", models=models, threads=1, batch=16)
    table, folder = tmp_path / "table", tmp_path / "table.partial"

    def being_probed() -> list[str]:
        """The processes that are at it."""
        claims = sorted(folder.glob("joined/probe_claims/*"))
        open_ = [one for one in claims if not (folder / "probes" / f"{one.stem}.json").exists()]
        return [name for one in open_ if (name := one.read_text())]

    processes = [started(command(table, "--join", models=models)) for _ in range(3)]
    while not (names := being_probed()):
        time.sleep(0.05)
    owner = WorkProcess.from_dict(
        json.loads((folder / "joined" / "processes" / f"{names[0]}.json").read_text())
    )
    os.kill(owner.pid, signal.SIGKILL)
    for process in processes:
        _, stderr = process.communicate(timeout=120)
        assert process.returncode in (0, -signal.SIGKILL), stderr
    assert sorted(process.returncode for process in processes) == [-signal.SIGKILL, 0, 0]
    assert content(table) == expected


@pytest.mark.slow
def test_a_full_disk_of_one_process_stops_that_one(tmp_path: Path) -> None:
    """Its files end at so few bytes that it cannot write a shard."""
    expected = alone(tmp_path / "alone", threads=1, batch=16)
    limited = (
        "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n"
        "sys.argv = ['understudy', *sys.argv[1:]]\n"
        "runpy.run_module('understudy', run_name='__main__')"
    )
    words = command(tmp_path / "table", "--join")
    full = started([sys.executable, "-c", limited, *words[3:]])
    _, stderr = full.communicate(timeout=120)
    assert full.returncode == 2
    assert stderr.startswith("error: ")
    assert "cannot be written (File too large)" in stderr
    other = started(words)
    other.communicate(timeout=120)
    assert other.returncode == 0
    assert content(tmp_path / "table") == expected
    assert WorkProcess.current().is_here
