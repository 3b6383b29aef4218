"""The Dockerfile and the manifest fit the server: its options, paths and port."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from doc_pages import ROOT
from test_docs import check_command
from understudy.app.cli.serve import TOKEN
from understudy.serving.openapi import document

DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
MANIFEST: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "kserve.yaml").read_text())
PORT = 8000


def words_of(instruction: str) -> list[str]:
    """The words of the first instruction of a name that is written as JSON: the server's."""
    found = re.findall(rf"^{instruction} (\[.*\])$", DOCKERFILE, re.MULTILINE)
    words: list[str] = json.loads(found[0])
    return words


def container() -> dict[str, Any]:
    [found] = MANIFEST["spec"]["predictor"]["containers"]
    assert isinstance(found, dict)
    return found


def test_the_image_starts_the_server() -> None:
    program, *verb = words_of("ENTRYPOINT")
    assert program == "understudy"
    check_command([*verb, *words_of("CMD")], complete=True, where="deploy/Dockerfile")
    assert f"EXPOSE {PORT}" in DOCKERFILE
    assert re.search(r"^USER [1-9]\d*", DOCKERFILE, re.MULTILINE)


def test_the_image_copies_what_exists_and_its_health_is_a_path() -> None:
    copied = re.findall(r"^COPY (?!--)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    for name in " ".join(copied).split():
        assert (ROOT / name).exists(), name
        assert f"!{name}" in (ROOT / "deploy" / "Dockerfile.dockerignore").read_text()
    [path] = re.findall(rf"127\.0\.0\.1:{PORT}(/[\w/]+)", DOCKERFILE)
    assert path in document()["paths"]


def test_images_and_extras_are_those_of_the_package() -> None:
    installed = re.findall(r"'\.\[([\w,]+)\]'", DOCKERFILE)
    assert sorted(installed) == ["ray,zoo", "serve,onnx", "serve,zoo"]
    assert container()["image"].partition(":")[0] in DOCKERFILE


def test_the_manifest_fits_the_server() -> None:
    one = container()
    check_command(["serve", *one["args"]], complete=True, where="deploy/kserve.yaml")
    paths = document()["paths"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        found = one[probe]["httpGet"]
        assert found["path"] in paths
        assert found["port"] == one["ports"][0]["containerPort"] == PORT
    assert TOKEN in {variable["name"] for variable in one["env"]}
    mounted = {mount["mountPath"] for mount in one["volumeMounts"]}
    state = Path(one["args"][one["args"].index("--state") + 1])
    assert str(state.parent) in mounted
    assert {m["name"] for m in one["volumeMounts"]} == {
        volume["name"] for volume in MANIFEST["spec"]["predictor"]["volumes"]
    }
    annotations = MANIFEST["metadata"]["annotations"]
    assert annotations["prometheus.io/path"] in paths
    assert annotations["prometheus.io/port"] == str(PORT)


def test_a_pod_may_end_in_the_time_that_it_needs() -> None:
    from understudy.serving.server import DRAIN, FINISH

    assert MANIFEST["spec"]["predictor"]["terminationGracePeriodSeconds"] > DRAIN + FINISH + 5
