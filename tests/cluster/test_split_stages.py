"""`understudy serve --ray --split-stages`: a large model with replicas of its own."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from command_line import Run
from ray_nodes import RayNodes, ray_nodes
from ray_requests import IMAGES, OPTIONS, ask_all, check, status
from served_cascades import saved_cascade, served_cascade
from server_processes import TESTS, ServerProcess, server_process
from understudy.cluster.connection import ClusterError
from understudy.cluster.serve_session import check_room
from understudy.cluster.serve_spec import ServeSpec, StageSpec
from understudy.policy import Policy
from understudy.zoo.saved_cascades import save_cascade


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayNodes]:
    """A cluster of three cores, by count, whose processes find the models of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(TESTS), prepend=os.pathsep)
        with ray_nodes(cores=3) as found:
            yield found


@pytest.fixture(scope="module")
def server(cluster: RayNodes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A cascade whose large model has two replicas."""
    folder = tmp_path_factory.mktemp("split")
    saved_cascade(folder / "cascade")
    words = (folder / "cascade", "--ray", cluster.address, "--split-stages", "--replicas", "1,2")
    with server_process(*words, *OPTIONS, folder=folder) as found:
        yield found
        assert found.stop(signal.SIGINT, within=60) == 0
        assert "Traceback" not in found.log.read_text()


@pytest.mark.slow
def test_answers_are_those_of_the_cascade_at_every_point(server: ServerProcess) -> None:
    assert server.facts["replicas"] == 1
    assert server.facts["stages"] == {"big": 2}
    for name in ("drop-1", "drop-0.5", "reference"):
        told = httpx.put(f"{server.url}/operating-point", json={"name": name}, timeout=30)
        assert told.status_code == 200
        answers = ask_all(server.url)
        assert {one.status for one in answers} == {200}
        assert {one.point for one in answers} == {name}
        check(answers)
    assert status(server)["requests"]["answered"] >= 3 * len(IMAGES)


@pytest.mark.slow
def test_a_switch_and_a_killed_replica_of_the_large_model_lose_nothing(
    server: ServerProcess, cluster: RayNodes
) -> None:
    stages = cluster.processes("ServeReplica:cascade:Stage-1")
    assert len(stages) == 2
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(ask_all, server.url, 8)
        time.sleep(0.2)
        for name in ("drop-0.5", "reference", "drop-1"):
            httpx.put(f"{server.url}/operating-point", json={"name": name}, timeout=30)
        os.kill(stages[0], signal.SIGKILL)
        answers = asked.result()
    assert {one.status for one in answers} == {200}
    check(answers)


def test_options_that_do_not_go_together(tmp_path: Path, run: Run) -> None:
    saved_cascade(tmp_path / "cascade")
    alone = served_cascade()
    alone.operating_points = ()
    alone.policy = Policy.single("big")
    save_cascade(alone, tmp_path / "alone")
    for words, sentence in (
        (("cascade", "--split-stages"), "--split-stages is for a cluster: add --ray"),
        (("cascade", "--ray", "--replicas", "2,1"), "--replicas has one number where each"),
        (
            ("cascade", "--ray", "--split-stages", "--replicas", "2,1,1"),
            "--replicas has a number per stage (the first stages, big), found '2,1,1': give 2 of",
        ),
        (("alone", "--ray", "--split-stages"), "stages are split where a whole model comes behind"),
    ):
        ended = run("serve", tmp_path / words[0], *words[1:])
        assert ended.exit_code == 2
        assert ended.stderr.startswith(f"error: {sentence}"), ended.stderr


def test_replicas_of_all_stages_find_room_together() -> None:
    spec = ServeSpec("digits", replicas=2, cores=2, stages=(StageSpec(replicas=2, cores=3),))
    check_room(spec, [{"CPU": 4.0}, {"CPU": 6.0}])
    with pytest.raises(ClusterError, match="the stages before them leave room for 1 of them"):
        check_room(spec, [{"CPU": 4.0}, {"CPU": 4.0}])
