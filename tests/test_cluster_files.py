"""The files of examples/cluster: they fit their schedulers, the image and the commands."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from doc_pages import ROOT
from manifests import Manifest, documents, kuberay_faults, pod_templates

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
