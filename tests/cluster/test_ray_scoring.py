"""Scoring on a local Ray is the plain run's, byte by byte, whatever happens to processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ray_nodes import RayNodes, ray_nodes
from table_files import content
from understudy.cluster.connection import ClusterError, connected
from understudy.cluster.scoring_job import on_ray
from understudy.errors import ModelError
from understudy.progress_bars import Advance
from understudy.scores import ScoreTable
from understudy.scoring.new_sources import NewSources
from understudy.scoring.on_disk import score_into
from understudy.scoring.shards import Shards

pytestmark = pytest.mark.slow

NETS = """
import os, time, torch
from torch import nn
from understudy import Stage

class Net(nn.Module):
    def __init__(self, seed, fails=-1.0, most=0, seconds=0.0):
        super().__init__()
        torch.manual_seed(seed)
        self.linear = nn.Linear(64, 10)
        self.fails, self.most, self.seconds = fails, most, seconds
    def forward(self, images):
        time.sleep(self.seconds)
        if self.most and len(images) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        logits = self.linear(images.flatten(1).float() / 16)
        rows = images.flatten(1).float().sum(1) == self.fails
        return torch.where(rows[:, None], torch.nan, logits)

def tiny(): return Stage(Net(0))
def small(): return Stage(Net(1, seconds=0.02))
def slow(): return Stage(Net(5, seconds=0.3))
def greedy(): return Stage(Net(2, most=8))
def broken(): return Stage(Net(3, fails=FAILS))
def deadly(): return Stage(Deadly())

class Deadly(Net):
    def __init__(self):
        super().__init__(4)
    def forward(self, images):
        import threading
        if threading.current_thread().name == "understudy-score": os._exit(1)
        return super().forward(images)
"""
BATCH = 16
MODELS = {"tiny": "py:ray_nets:tiny", "small": "py:ray_nets:small"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from understudy.zoo.data import open_data

    images = open_data("digits:heldout")
    late = float(images.array(700).sum())
    found = tmp_path_factory.mktemp("ray")
    (found / "ray_nets.py").write_text(NETS.replace("FAILS", f"{late}"))
    return found


@pytest.fixture(autouse=True)
def one_thread(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(folder)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", autouse=True)
def connection(nodes: RayNodes) -> Iterator[None]:
    with connected(nodes.address):
        yield


def scored(
    into: Path, models: dict[str, str] | None = None, *, ray: bool = True, **more: Any
) -> ScoreTable:
    settings = {"batch": BATCH, "measure_batches": (), **more}
    if ray:
        settings["place_of"] = on_ray
    return score_into(into, models or MODELS, "digits:heldout", **settings)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> dict[str, bytes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        scored(tmp_path_factory.mktemp("plain") / "table", ray=False)
        torch.set_num_threads(before)
    return content(next(tmp_path_factory.getbasetemp().glob("plain*/table")))


def after(images: int, do: Callable[[], None]) -> Advance:
    """Calls a function once when so many images are done."""
    done = threading.Event()

    def advance(_: str, count: int, __: int) -> None:
        if count >= images and not done.is_set():
            done.set()
            do()

    return advance


def test_the_table_is_the_plain_run_s(plain: dict[str, bytes], tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    table = scored(
        tmp_path / "table", measure_batches=(4,), on_progress=lambda *one: seen.append(one)
    )
    (sitting,) = table.sittings
    assert (sitting.unit, sitting.threads) == ("ms@4", 1)
    assert content(tmp_path / "table") == plain
    assert [path.name for path in tmp_path.iterdir()] == ["table"]
    images = [one for one in seen if one[0] == "tiny and 1 more"]
    assert (images[0][1:], images[-1][1:]) == ((0, 900), (900, 900))
    assert images == sorted(images)
    assert "measuring ms@4" in {name for name, *_ in seen}


def test_a_killed_process_costs_its_shard_alone(
    nodes: RayNodes, plain: dict[str, bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scored(
        tmp_path / "table",
        on_progress=after(200, lambda: os.kill(nodes.actors[0], signal.SIGKILL)),
    )
    assert content(tmp_path / "table") == plain
    assert len([one for one in caplog.messages if "is scored again" in one]) == 1


def test_a_killed_node_costs_its_shards_alone(
    nodes: RayNodes, plain: dict[str, bytes], tmp_path: Path
) -> None:
    with nodes.added(cores=1) as node:
        scored(tmp_path / "table", on_progress=after(300, lambda: nodes.kill(node)))
    assert content(tmp_path / "table") == plain


def test_work_goes_on_in_a_plain_run(
    nodes: RayNodes, plain: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills up: finished shards are kept, and the plain run scores the others alone."""
    write = Shards.write
    written: list[tuple[str, int]] = []

    def full(shards: Shards, exit: str, shard: int, content: bytes) -> None:
        if len(written) == 4:
            raise OSError(28, "No space left on device", str(shards.folder))
        written.append((exit, shard))
        write(shards, exit, shard, content)

    monkeypatch.setattr(Shards, "write", full)
    with pytest.raises(OSError, match="No space left"):
        scored(tmp_path / "table")
    for _ in range(300):
        if not nodes.actors:
            break
        time.sleep(0.1)
    assert not nodes.actors, "processes outlive a run that failed"
    monkeypatch.setattr(Shards, "write", write)
    seen: list[int] = []
    scored(tmp_path / "table", ray=False, on_progress=lambda _, done, __: seen.append(done))
    assert seen[0] >= BATCH * 8
    assert content(tmp_path / "table") == plain


def test_logits_that_are_not_finite_are_an_error_once(tmp_path: Path) -> None:
    models = MODELS | {"broken": "py:ray_nets:broken"}
    with pytest.raises(ModelError) as here:
        scored(tmp_path / "plain", models, ray=False)
    with pytest.raises(ModelError) as there:
        scored(tmp_path / "table", models)
    assert str(there.value) == str(here.value)
    assert "\n" not in str(there.value)


def test_smaller_batches_are_those_of_the_plain_run(tmp_path: Path) -> None:
    models = {"tiny": "py:ray_nets:tiny", "greedy": "py:ray_nets:greedy"}
    table = scored(tmp_path / "table", models)
    assert table.provenance["runs"][0]["smaller_batches"] == {"greedy": 8}
    scored(tmp_path / "plain", models, ray=False)
    assert content(tmp_path / "table") == content(tmp_path / "plain")


def test_a_model_that_ends_every_process_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"3 ended at shard 0 of deadly: see whether memory"):
        scored(tmp_path / "table", {"deadly": "py:ray_nets:deadly"})


def test_many_models_are_probed_by_actors(
    nodes: RayNodes, plain: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("understudy.cluster.scoring_job.FEW", 2)
    monkeypatch.setattr(NewSources, "probe", None)
    with nodes.added(cores=1):
        scored(tmp_path / "table")
        assert content(tmp_path / "table") == plain
        with pytest.raises(ClusterError, match=r"3 ended at 'deadly': see whether memory"):
            scored(tmp_path / "deadly", MODELS | {"deadly": "py:ray_nets:deadly"})
    assert [path.name for path in tmp_path.iterdir()] == ["table"]


def test_too_few_cores_are_named(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"an actor needs 3 CPU of one node, no node has so"):
        scored(tmp_path / "table", threads=3)


def test_a_head_that_ends_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    """Ray itself would end this process after a minute, with a line of its own."""
    shards = tmp_path / "table.partial" / "000"
    with ray_nodes(cores=1) as other:
        words = ["score", "py:ray_nets:slow", "--data", "digits:heldout", "--batch", "4"]
        more = ["--into", tmp_path / "table", "--ray", other.address, "--threads", "1"]
        command = subprocess.Popen(
            [sys.executable, "-m", "understudy", *words, *map(str, more), "--measure", "none"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])},
            stderr=subprocess.PIPE,
            text=True,
        )
        while command.poll() is None and not list(shards.glob("*.parquet")):
            time.sleep(0.1)
        for process in other.processes("gcs_server"):
            os.kill(process, signal.SIGKILL)
        _, stderr = command.communicate(timeout=120)
    assert command.returncode == 2, stderr
    last = stderr.splitlines()[-1]  # before it a shard may be lost
    assert last.startswith("error: a cluster's head answers as long as work goes on, that of ")
    assert list(shards.glob("*.parquet"))
