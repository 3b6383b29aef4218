"""`understudy serve --ray`: replicas in processes of Ray, asked over HTTP."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from command_line import Run
from ray_nodes import ray_nodes
from ray_requests import IMAGES, OPTIONS, ask, ask_all, check, status
from served_cascades import saved_cascade
from server_processes import TESTS, ServerProcess, command, server_process
from understudy.cluster.serve_spec import ServeSpec, check_folder, digest_of
from understudy.errors import DataError, UnderstudyError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a cascade."""
    found = tmp_path_factory.mktemp("ray")
    saved_cascade(found / "cascade")
    return found


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ServerProcess]:
    """A cascade with two replicas on a Ray of its own."""
    words = (folder / "cascade", "--ray", "--replicas", "2", *OPTIONS)
    with server_process(*words, folder=folder) as found:
        yield found
        assert found.stop(signal.SIGINT, within=60) == 0
        assert "Traceback" not in found.log.read_text()


@pytest.mark.slow
def test_replicas_answer_as_the_cascade(server: ServerProcess) -> None:
    assert server.facts["replicas"] == 2
    assert server.facts["calls"] is True
    answers = ask_all(server.url)
    assert {one.status for one in answers} == {200}
    check(answers)
    found = status(server)
    assert found["requests"]["answered"] >= len(IMAGES)
    assert all(one["answered"] for one in found["replicas"])


@pytest.mark.slow
def test_a_point_is_set_at_all_replicas_and_kept_by_one_that_is_killed(
    server: ServerProcess,
) -> None:
    for name in ("drop-0.5", "reference"):
        told = httpx.put(f"{server.url}/operating-point", json={"name": name}, timeout=30)
        assert told.json()["operating_point"] == name
        assert {one.point for one in ask_all(server.url)} == {name}
    before = {one["name"]: one["pid"] for one in status(server)["replicas"]}
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(ask_all, server.url, 8)
        time.sleep(0.3)
        os.kill(min(before.values()), signal.SIGKILL)
        answers = asked.result()
    assert {one.status for one in answers} <= {200, 503}
    assert sum(one.status == 200 for one in answers) > len(answers) // 2
    check([one for one in answers if one.status == 200])
    end = time.monotonic() + 60
    while len(status(server)["replicas"]) < 2 and time.monotonic() < end:
        time.sleep(0.2)
    found = status(server)["replicas"]
    assert len(found) == 2
    assert {one["operating_point"] for one in found} == {"reference"}
    assert {one["name"] for one in found} != set(before)


@pytest.mark.slow
def test_errors_are_those_of_a_server(server: ServerProcess) -> None:
    assert server.get("/nowhere").status_code == 404
    wrong = httpx.post(
        f"{server.url}/classify", content=b"x", headers={"content-type": "image/png"}
    )
    assert wrong.status_code == 400
    assert "error" in wrong.json()
    refused = httpx.put(f"{server.url}/operating-point", json={"name": "no such"})
    assert refused.status_code == 400


@pytest.mark.slow
def test_a_cluster_is_left_as_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TESTS), prepend=os.pathsep)
    with ray_nodes(cores=1) as nodes:
        words = [folder / "cascade", "--ray", nodes.address, *OPTIONS]
        assert refusal(*words, "--replicas", "3", folder=folder).startswith(
            "error: replicas need 3 x 1 cores, this cluster has room for 1 of them (1 cores)"
        )
        with server_process(*words, folder=folder) as found:
            assert ask(found.url, 0).status == 200
            assert found.stop(signal.SIGINT, within=60) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(found.url)


def refusal(*words: object, folder: Path) -> str:
    """The sentence on stderr."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        command(*words),
        check=False,
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    [sentence] = ended.stderr.splitlines()
    return sentence


def test_options_that_do_not_go_together(tmp_path: Path, run: Run) -> None:
    for words, sentence in (
        (("--replicas", "2"), "--replicas are those of a cluster: add --ray"),
        (("--ray", "--state", "x.db"), "--state keeps the watch of one server, on Ray each"),
        (("--ray", "--replicas", "3-1"), "--replicas is a number, or a range such as 1-4"),
    ):
        ended = run("serve", tmp_path, *words)
        assert ended.exit_code == 2
        assert ended.stderr.startswith(f"error: {sentence}")


def test_another_folder_is_refused(tmp_path: Path) -> None:
    saved_cascade(tmp_path / "cascade")
    digest = digest_of(tmp_path / "cascade")
    spec = ServeSpec(str(tmp_path / "cascade"), digest=digest)
    check_folder(spec, "10.0.0.7")
    weights = next((tmp_path / "cascade").rglob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match=r"10\.0\.0\.7 has another at"):
        check_folder(spec, "10.0.0.7")
    with pytest.raises(UnderstudyError, match="does not exist"):
        check_folder(ServeSpec(str(tmp_path / "no such")), "10.0.0.7")


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"replica": 2}, "an application has"),
        ({"replicas": 0}, "replicas is 1 or more, found 0"),
        ({"replicas": 3, "max_replicas": 2}, "max_replicas is at least replicas"),
        ({"cores": "two"}, "an application has a whole number at"),
    ],
)
def test_arguments_of_an_application_are_checked(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        ServeSpec.from_dict({"cascade": "digits", **wrong})


def test_the_level_of_the_watch_is_divided(tmp_path: Path) -> None:
    saved_cascade(tmp_path / "cascade")
    spec = ServeSpec(str(tmp_path / "cascade"), replicas=1, max_replicas=4, alpha=0.02)
    assert spec.settings().alpha == 0.005
    assert ServeSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
