"""A cascade as an application of Ray Serve, for `serve run`, `serve deploy` and KubeRay too."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ray import serve
from ray.serve.config import AutoscalingConfig

from understudy.cluster.serve_replica import CascadeReplica
from understudy.cluster.serve_spec import ServeSpec, StageSpec, check_stages, digest_of
from understudy.cluster.serve_stage import StageReplica

DEPLOYMENT = "Cascade"
"""The name of the deployment of a served cascade, by which a configuration refers to it."""

STAGE = "Stage-{}"
"""The names of the deployments of its later models, from 1 on."""

TARGET = 2
"""Calls in flight per replica that Serve scales to: a proxy has at most four."""

CONSTRUCTIONS = 2
"""Replicas in turn that may fail to start."""

_IN_LOOP = {
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",  # the executor has a thread of its own
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
}


def build(args: dict[str, Any]) -> serve.Application:
    """A cascade as an application; the builder that a configuration names as its import path:
    ``understudy.cluster.serve_app:build``.

    Args:
        args: the fields of `ServeSpec`; ``cascade`` alone is needed.

    Raises:
        DataError: an argument that is unknown or of another type, or more or fewer stages than the
            cascade has later models.
        UnderstudyError: there is no cascade in the folder.
    """
    spec = ServeSpec.from_dict(args)
    spec = replace(spec, cascade=str(spec.folder.resolve()))
    if not spec.digest:
        spec = replace(spec, digest=digest_of(spec.folder))
    later = range(len(check_stages(spec)))
    stages = [stage_deployment_of(spec, n).bind(spec.to_dict(), n) for n in later]
    return deployment_of(spec).bind(spec.to_dict(), *stages)


def deployment_of(spec: ServeSpec) -> serve.Deployment:
    """The deployment of a served cascade.

    A replica refuses what finds no room by itself, so Serve hands on all that it gets and lets
    nothing wait but for a moment.
    """
    return serve.deployment(
        serve.ingress()(CascadeReplica),
        name=DEPLOYMENT,
        user_config={} if spec.max_drop is None else {"max_drop": spec.max_drop},
        backpressure_config={"status_code": 503, "retry_after_s": 1},
        **_options(spec, spec),
    )


def stage_deployment_of(spec: ServeSpec, number: int) -> serve.Deployment:
    """The deployment of a later model of a served cascade."""
    return serve.deployment(
        StageReplica, name=STAGE.format(number + 1), **_options(spec, spec.stages[number])
    )


def _options(spec: ServeSpec, own: ServeSpec | StageSpec) -> dict[str, Any]:
    """Those of a deployment: how it scales, what finds room, and where it runs."""
    scaled = own.most > own.replicas
    scaling = AutoscalingConfig(
        min_replicas=own.replicas, max_replicas=own.most, target_ongoing_requests=TARGET
    )
    return {
        "num_replicas": None if scaled else own.replicas,
        "autoscaling_config": scaling if scaled else None,
        "max_ongoing_requests": 2 * spec.max_queue,
        "max_queued_requests": spec.max_queue,
        "max_constructor_retry_count": CONSTRUCTIONS,
        "graceful_shutdown_timeout_s": spec.deadline + 5,
        "logging_config": {"enable_access_log": False},
        "ray_actor_options": {
            "num_cpus": own.cores,
            "num_gpus": own.gpus,
            "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(own.cores), **_IN_LOOP}},
        },
    }
