"""Models are run on some images once before they are scored, by whichever process, and kept."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import pytest

from joined_runs import at_once
from progress import InterruptedRunError, RecordedProgress
from table_files import content
from understudy.errors import DataError, ModelError, UnderstudyError
from understudy.nn.preprocess import Preprocess
from understudy.nn.stage import Stage
from understudy.scores import ScoreTable
from understudy.scoring import joined, joined_probing
from understudy.scoring.job import ScoringJob
from understudy.scoring.new_sources import NewSources
from understudy.scoring.on_disk import score_into
from understudy.scoring.probing import Probe
from understudy.scoring.shard_scorer import ScoredShard, ShardScorer
from understudy.zoo.models import load_stages

SIX = {f"net{number}": "py:digit_nets:tiny" for number in range(6)}
TWO = {"tiny": "py:digit_nets:tiny", "big": "py:digit_nets:big"}


@pytest.fixture(autouse=True)
def probed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of all sources that are probed, in order; pauses are short.

    One model is made at a time: weights are drawn from the generator of the process, which threads
    share.
    """
    names: list[str] = []
    probe, lock = NewSources.probe, Lock()

    def load(*arguments: Any, **more: Any) -> dict[str, Stage]:
        with lock:
            return load_stages(*arguments, **more)

    def count(models: NewSources, name: str) -> Probe:
        names.append(name)
        return probe(models, name)

    monkeypatch.setattr(NewSources, "probe", count)
    for place in ("sources", "new_sources"):
        monkeypatch.setattr(f"understudy.scoring.{place}.load_stages", load)
    for module in (joined, joined_probing):
        monkeypatch.setattr(module, "PAUSE", 0.01)
    return names


def scored(path: Path, models: dict[str, str] = TWO, **more: Any) -> ScoreTable:
    settings = {"batch": 32, "measure_batches": (), **more}
    return score_into(path, models, "digits:heldout", **settings)


def test_each_model_is_probed_once_by_three_processes(tmp_path: Path, probed: list[str]) -> None:
    scored(tmp_path / "alone", SIX)
    assert Counter(probed) == dict.fromkeys(SIX, 1)
    probed.clear()
    for one in at_once(*[partial(scored, tmp_path / "table", SIX, join=True)] * 3):
        assert one.result().names == tuple(SIX)
    assert Counter(probed) == dict.fromkeys(SIX, 1)
    assert content(tmp_path / "table") == content(tmp_path / "alone")
    assert {path.name for path in tmp_path.iterdir()} == {"alone", "table"}


def test_what_an_ended_process_was_probing_is_probed_by_another(
    tmp_path: Path, probed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = NewSources.probe
    ended: list[BaseException | None] = []

    def end(models: NewSources, name: str) -> Probe:
        if not ended:
            ended.append(None)
            (other,) = at_once(partial(scored, tmp_path / "table", join=True))
            ended.append(other.exception())
        elif len(ended) == 1:
            probed.append(f"{name} at the end")
            raise InterruptedRunError
        return probe(models, name)

    monkeypatch.setattr(NewSources, "probe", end)
    scored(tmp_path / "table", join=True)
    assert isinstance(ended[1], InterruptedRunError)
    assert probed == ["big at the end", "tiny", "big"]
    scored(tmp_path / "alone")
    assert content(tmp_path / "table") == content(tmp_path / "alone")


def test_a_model_that_cannot_be_scored_is_one_sentence_in_every_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ShardScorer, "score", None)
    refusals = {
        "did you mean 'tiny'": TWO | {"other": "py:digit_nets:tinny"},
        "same classes, found": TWO | {"seven": "py:digit_nets:seven"},
        "C = 3": {"pixels": "py:digit_nets:pixels"} | TWO,
    }
    for message, models in refusals.items():
        work = partial(scored, tmp_path / "table", models, join=True)
        for one in at_once(work, work, work):
            with pytest.raises((ModelError, DataError), match=message):
                one.result()
        assert list(tmp_path.iterdir()) == []


def test_an_error_of_one_process_leaves_its_model_to_the_others(
    tmp_path: Path, probed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the files of a model are missing on one machine."""
    probe = NewSources.probe
    failed: list[str] = []

    def fail_once(models: NewSources, name: str) -> Probe:
        if not failed:
            failed.append(name)
            raise ModelError("a checkpoint is a file, it is not there")
        return probe(models, name)

    monkeypatch.setattr(NewSources, "probe", fail_once)
    ended = at_once(*[partial(scored, tmp_path / "table", SIX, join=True)] * 3)
    assert [type(one.exception()) for one in ended].count(ModelError) == 1
    assert Counter(probed) == dict.fromkeys(SIX, 1)
    assert (tmp_path / "table").is_dir()


def interrupted(path: Path, *, join: bool = False) -> Path:
    """The folder of a run that ends when it has kept two shards."""
    kept: list[int] = []
    keep = ScoringJob.keep

    def stop(job: ScoringJob, shard: ScoredShard) -> None:
        keep(job, shard)
        kept.append(shard.shard)
        if len(kept) == 2:
            raise InterruptedRunError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScoringJob, "keep", stop)
        with pytest.raises(InterruptedRunError):
            scored(path, join=join)
    return path.with_name(f"{path.name}.partial")


@pytest.mark.parametrize(("first", "then"), [(False, False), (False, True), (True, False)])
def test_a_run_that_goes_on_probes_nothing_again(
    tmp_path: Path, probed: list[str], first: bool, then: bool
) -> None:
    interrupted(tmp_path / "table", join=first)
    probed.clear()
    scored(tmp_path / "table", join=then)
    assert probed == []
    scored(tmp_path / "alone")
    assert content(tmp_path / "table") == content(tmp_path / "alone")


@pytest.mark.parametrize("join", [False, True])
def test_a_damaged_file_is_made_anew(tmp_path: Path, probed: list[str], join: bool) -> None:
    file = interrupted(tmp_path / "table") / "probes" / "001.json"
    probed.clear()
    file.write_text(file.read_text().replace('"classes": 10', '"classes": 11'))
    scored(tmp_path / "table", join=join)
    assert probed == ["big"]


def test_models_that_changed_while_their_file_was_lost_are_refused(tmp_path: Path) -> None:
    """What was found is in the plan as well, so that nothing is mixed."""
    folder = interrupted(tmp_path / "table")
    file = folder / "manifest.json"
    data = json.loads(file.read_text())
    data["further"]["weights"]["big"] = "0" * 64
    file.write_text(json.dumps(data))
    with pytest.raises(DataError, match="another for weights"):
        scored(tmp_path / "table")


def test_the_order_of_models_is_part_of_a_run(tmp_path: Path) -> None:
    """Exits are kept under their numbers."""
    interrupted(tmp_path / "table")
    with pytest.raises(DataError, match=r"another for order \(\['tiny', 'big'\], now \['big'"):
        scored(tmp_path / "table", dict(reversed(TWO.items())))


def test_another_model_on_another_machine_is_refused_when_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others: dict[str, tuple[Callable[[Stage], Stage], str]] = {
        "weights": (
            lambda stage: load_stages("py:digit_nets:restless", "net")["net"],
            r"same weights whenever it is loaded, .* has not at 'tiny' \(hash",
        ),
        "preprocessing": (
            lambda stage: Stage(
                stage.model, preprocess=Preprocess((8, 8), (0.4,), (0.5,)), origin=stage.origin
            ),
            "the same wherever it is loaded, .* is not at 'tiny', its preprocess is .* and was",
        ),
    }
    for change, message in others.values():

        def load(spec: str, name: str, change: Any = change, **more: Any) -> dict[str, Stage]:
            return {one: change(stage) for one, stage in load_stages(spec, name, **more).items()}

        with monkeypatch.context() as patch:
            patch.setattr("understudy.scoring.sources.load_stages", load)
            with pytest.raises(ModelError, match=message):
                scored(tmp_path / "table", join=True)
        assert list(tmp_path.iterdir()) == []


def test_many_models_show_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("understudy.scoring.probing._MANY", 2)
    for join in (False, True):
        log = RecordedProgress()
        scored(tmp_path / str(join), join=join, on_progress=log)
        found = [done for name, done in log.steps if name == "probing models"]
        assert (found == sorted(found), found[-1]) == (True, 2)


def test_what_was_found_is_stored_strictly(tmp_path: Path) -> None:
    interrupted(tmp_path / "table")
    file = tmp_path / "table.partial" / "probes" / "000.json"
    found = Probe.load(file)
    found.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == file.read_bytes()
    assert (found.classes, found.macs, len(found.resizings)) == (10, {"tiny": 640.0}, 1)
    with pytest.raises(UnderstudyError, match=r"a whole number at \$.classes"):
        Probe.from_dict({**found.to_dict(), "classes": "10"})
