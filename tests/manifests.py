"""Manifests of Kubernetes and KubeRay: their documents, their pods, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

Manifest = Mapping[str, Any]

_CLUSTER = frozenset(
    {
        *("headGroupSpec", "workerGroupSpecs", "rayVersion", "enableInTreeAutoscaling"),
        *("autoscalerOptions", "headServiceAnnotations", "suspend", "gcsFaultToleranceOptions"),
        *("authOptions", "managedBy", "upgradeStrategy"),
    }
)
_HEAD = frozenset({"serviceType", "headService", "enableIngress", "rayStartParams", "template"})
_WORKERS = frozenset(
    {
        *("groupName", "replicas", "minReplicas", "maxReplicas", "numOfHosts", "rayStartParams"),
        *("template", "scaleStrategy", "idleTimeoutSeconds", "suspend"),
    }
)
_SPECS = {
    "RayCluster": _CLUSTER,
    "RayJob": frozenset(
        {
            *("activeDeadlineSeconds", "backoffLimit", "rayClusterSpec", "submitterPodTemplate"),
            *("metadata", "clusterSelector", "submitterConfig", "managedBy", "deletionStrategy"),
            *("entrypoint", "runtimeEnvYAML", "jobId", "submissionMode", "entrypointResources"),
            *("entrypointNumCpus", "entrypointNumGpus", "ttlSecondsAfterFinished", "suspend"),
            "shutdownAfterJobFinishes",
        }
    ),
    "RayService": frozenset(
        {"serveConfigV2", "rayClusterConfig", "serveService", "upgradeStrategy"}
        | {"excludeHeadPodFromServeSvc"}
    ),
}
"""Kind -> the fields of its spec: apis/ray/v1/*_types.go of ray-project/kuberay, of 1.4 to 1.6."""


def documents(path: Path) -> list[Manifest]:
    """The documents of a YAML file."""
    return [found for found in yaml.safe_load_all(path.read_text()) if found]


def ray_cluster(manifest: Manifest) -> Manifest:
    """The Ray cluster within a manifest of KubeRay."""
    spec = manifest["spec"]
    found = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
    assert isinstance(found, dict)
    return found


def kuberay_faults(manifest: Manifest) -> list[str]:
    """Fields that KubeRay does not know or misses, outside of the templates of pods."""
    cluster, kind = ray_cluster(manifest), str(manifest["kind"])
    groups = cluster.get("workerGroupSpecs", [])
    return [
        *_fields(kind, manifest["spec"], _SPECS[kind], ()),
        *_fields("the cluster", cluster, _CLUSTER, ("headGroupSpec", "rayVersion")),
        *_fields("the head", cluster["headGroupSpec"], _HEAD, ("rayStartParams", "template")),
        *(
            fault
            for group in groups
            for fault in _fields(
                "a group", group, _WORKERS, ("groupName", "rayStartParams", "template")
            )
        ),
        *(
            f"rayStartParams {name} is no text"
            for group in (cluster["headGroupSpec"], *groups)
            for name, value in group["rayStartParams"].items()
            if not isinstance(value, str)
        ),
    ]


def _fields(
    where: str, found: Manifest, known: frozenset[str], needed: tuple[str, ...]
) -> Iterator[str]:
    yield from (f"{where} has no field {name}" for name in found.keys() - known)
    yield from (f"{where} lacks {name}" for name in needed if name not in found)


def pod_templates(manifest: Manifest) -> list[Manifest]:
    """The templates of pods within a manifest."""
    if not str(manifest["apiVersion"]).startswith("ray.io/"):
        return [manifest["spec"]["template"]] if manifest["kind"] == "Job" else []
    cluster = ray_cluster(manifest)
    return [
        group["template"]
        for group in (cluster["headGroupSpec"], *cluster.get("workerGroupSpecs", []))
    ]
