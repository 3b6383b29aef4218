"""The files of examples/cluster: they fit their schedulers, the image and the commands."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from doc_pages import ROOT, read
from manifests import Manifest, documents, kuberay_faults, pod_templates, ray_cluster
from test_docs import check_command
from understudy.app.cli.serve import TOKEN

FOLDER = ROOT / "examples" / "cluster"
SLURM = FOLDER / "score.slurm"
MANIFESTS = [
    pytest.param(one, id=f"{path.name}:{one['kind']}")
    for path in sorted(FOLDER.glob("*.yaml"))
    for one in documents(path)
]
KUBERNETES = "1.37"


def test_shellcheck_finds_nothing_in_the_slurm_script() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    found = subprocess.run(["shellcheck", SLURM], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


def run_slurm_script(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the script in place of Slurm; `understudy` writes its words, one per line."""
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    program = folder / "bin" / "understudy"
    program.parent.mkdir(exist_ok=True)
    program.write_text("#!/bin/bash\nprintf '%s\\n' \"$@\"\n")
    program.chmod(0o755)
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", SLURM, *words],
        cwd=folder,
        env={**os.environ, "PATH": path, "SLURM_CPUS_PER_TASK": "4"},
        capture_output=True,
        text=True,
        check=False,
    )


def slurm_command(folder: Path) -> list[str]:
    """The words of the command that the script runs for two models."""
    models = folder / "models.txt"
    models.write_text("# small ones\na=timm:resnet18\n\n  # large ones\nb=timm:resnet50?classes=9")
    ran = run_slurm_script(folder, "models.txt", "folder:val images/", "table")
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


def test_the_slurm_script_reads_models_from_a_file(tmp_path: Path) -> None:
    words = slurm_command(tmp_path)
    assert words[:3] == ["score", "a=timm:resnet18", "b=timm:resnet50?classes=9"]
    assert words[3:] == [
        *("--data", "folder:val images/", "--into", "table"),
        *("--join", "--threads", "4"),
    ]


def test_the_slurm_script_runs_a_command_that_exists(tmp_path: Path) -> None:
    check_command(slurm_command(tmp_path), complete=True, where="score.slurm")


def test_the_slurm_script_names_what_is_missing(tmp_path: Path) -> None:
    ran = run_slurm_script(tmp_path, "models.txt")
    assert ran.returncode == 2
    assert ran.stderr.startswith("usage: sbatch score.slurm MODELS.txt DATA TABLE")
    ran = run_slurm_script(tmp_path, "none.txt", "folder:val", "table")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "none.txt" in ran.stderr


def of_kubernetes(manifest: Manifest) -> list[dict[str, Any]]:
    """The parts of a manifest that are of Kubernetes itself."""
    if not str(manifest["apiVersion"]).startswith("ray.io/"):
        return [dict(manifest)]
    templates = pod_templates(manifest)
    return [{"apiVersion": "v1", "kind": "PodTemplate", "template": one} for one in templates]


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_manifests_fit_the_schemas_of_kubernetes(manifest: Manifest) -> None:
    schemas = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is missing")
    for part in of_kubernetes(manifest):
        schemas.validate(part, KUBERNETES, strict=True)


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_manifests_fit_the_types_of_kuberay(manifest: Manifest) -> None:
    if str(manifest["apiVersion"]).startswith("ray.io/"):
        assert manifest["apiVersion"] == "ray.io/v1"
        assert kuberay_faults(manifest) == []


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_pods_mount_what_they_have_and_run_an_image_of_ours(manifest: Manifest) -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    claims = {
        one["metadata"]["name"]
        for path in FOLDER.glob("*.yaml")
        for one in documents(path)
        if one["kind"] == "PersistentVolumeClaim"
    }
    for template in pod_templates(manifest):
        spec = template["spec"]
        [container] = spec["containers"]
        image, _, tag = container["image"].partition(":")
        assert f"-t {image} ." in dockerfile
        assert tag == "latest"
        volumes = {volume["name"]: volume for volume in spec.get("volumes", ())}
        assert {mount["name"] for mount in container.get("volumeMounts", ())} == set(volumes)
        for volume in volumes.values():
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            assert claim is None or claim in claims
        assert spec["securityContext"]["runAsNonRoot"]
        resources = container["resources"]
        assert resources["requests"]["memory"] == resources["limits"]["memory"]


def scoring_job() -> Manifest:
    [found] = [one for one in documents(FOLDER / "score-job.yaml") if one["kind"] == "Job"]
    return found


def words_of(option: str, words: list[str]) -> str:
    """The value of an option."""
    return words[words.index(option) + 1]


def test_the_job_runs_a_command_that_exists_on_the_cores_that_a_pod_has() -> None:
    [container] = scoring_job()["spec"]["template"]["spec"]["containers"]
    words = [*container["command"], *container["args"]]
    assert words[0] == "understudy"
    check_command(words[1:], complete=True, where="score-job.yaml")
    assert "--join" in words
    assert words_of("--threads", words) == container["resources"]["requests"]["cpu"]
    [place] = {mount["mountPath"] for mount in container["volumeMounts"]} - {"/tmp"}
    assert Path(words_of("--into", words)).is_relative_to(place)


def test_the_job_of_ray_runs_a_command_that_exists_on_the_cores_of_its_workers() -> None:
    [job] = documents(FOLDER / "rayjob.yaml")
    words = shlex.split(job["spec"]["entrypoint"])
    assert words[0] == "understudy"
    check_command(words[1:], complete=True, where="rayjob.yaml")
    assert "--ray" in words
    [workers] = ray_cluster(job)["workerGroupSpecs"]
    [container] = workers["template"]["spec"]["containers"]
    assert words_of("--threads", words) == container["resources"]["requests"]["cpu"]


def test_a_pod_of_the_job_that_cannot_be_mended_is_not_started_again() -> None:
    spec = scoring_job()["spec"]
    [container] = spec["template"]["spec"]["containers"]
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # what the policy needs
    ignored, failed = spec["podFailurePolicy"]["rules"]
    assert ignored["action"] == "Ignore"
    assert ignored["onPodConditions"] == [{"type": "DisruptionTarget"}]
    codes = failed["onExitCodes"]
    assert failed["action"] == "FailIndex"
    assert codes["containerName"] == container["name"]
    assert codes["values"] == [2]


def serve_config() -> dict[str, Any]:
    [service] = documents(FOLDER / "rayservice.yaml")
    found = yaml.safe_load(service["spec"]["serveConfigV2"])
    assert isinstance(found, dict)
    return found


@pytest.mark.slow
def test_the_service_of_ray_is_a_configuration_of_serve_and_builds_ours() -> None:
    schema = pytest.importorskip("ray.serve.schema", reason="the extra ray is missing")
    config = schema.ServeDeploySchema.model_validate(serve_config())
    [application] = config.applications
    module, _, name = application.import_path.partition(":")
    assert callable(getattr(import_module(module), name))
    proxy = import_module("understudy.cluster.serve_proxy")
    [service] = documents(FOLDER / "rayservice.yaml")
    for template in pod_templates(service):
        [container] = template["spec"]["containers"]
        set_to = {one["name"]: one.get("value") for one in container["env"]}
        assert proxy.ENVIRONMENT.items() <= set_to.items()
        assert TOKEN in set_to
    spec = import_module("understudy.cluster.serve_spec").ServeSpec.from_dict(application.args)
    [workers] = ray_cluster(service)["workerGroupSpecs"]
    [container] = workers["template"]["spec"]["containers"]
    a_node = int(container["resources"]["requests"]["cpu"]) // spec.cores
    assert spec.most <= workers["maxReplicas"] * a_node
    assert Path(spec.cascade).is_relative_to("/shared")


def sentences() -> str:
    """All texts of the code that scores and serves."""
    source = ROOT / "src" / "understudy"
    files = [*source.glob("*.py")]
    for folder in ("scoring", "cluster", "app/cli"):
        files += (source / folder).glob("*.py")
    return "\n".join(
        node.value
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def test_the_page_quotes_what_is_printed() -> None:
    quotes = [
        piece
        for line in read("docs/cluster.md").splitlines()
        if line.startswith("|")
        for quote in re.findall(r'"([^"]+)"', line)
        for piece in re.split(r"…|%d|\(No space left on device\)", quote)
    ]
    assert len(quotes) > 20
    printed = " ".join(sentences().split())
    for quote in quotes:
        assert len(quote) < 12 or quote.strip() in printed, quote


def test_the_page_has_the_tables_of_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    tables = import_module("cost_tables")
    record = json.loads(tables.RECORD.read_text())
    assert tables.filled(read("docs/cluster.md"), record) == read("docs/cluster.md")
