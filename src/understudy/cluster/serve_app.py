"""A cascade as an application of Ray Serve, for `serve run`, `serve deploy` and KubeRay too."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ray import serve
from ray.serve.config import AutoscalingConfig

from understudy.cluster.serve_replica import CascadeReplica
from understudy.cluster.serve_spec import ServeSpec, digest_of

DEPLOYMENT = "Cascade"
"""The name of the deployment of a served cascade, by which a configuration refers to it."""

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
        DataError: an argument that is unknown or of another type.
        UnderstudyError: there is no cascade in the folder.
    """
    spec = ServeSpec.from_dict(args)
    spec = replace(spec, cascade=str(spec.folder.resolve()))
    if not spec.digest:
        spec = replace(spec, digest=digest_of(spec.folder))
    return deployment_of(spec).bind(spec.to_dict())


def deployment_of(spec: ServeSpec) -> serve.Deployment:
    """The deployment of a served cascade.

    A replica refuses what finds no room by itself, so Serve hands on all that it gets and lets
    nothing wait but for a moment.
    """
    scaled = spec.most > spec.replicas
    scaling = AutoscalingConfig(
        min_replicas=spec.replicas, max_replicas=spec.most, target_ongoing_requests=TARGET
    )
    return serve.deployment(
        serve.ingress()(CascadeReplica),
        name=DEPLOYMENT,
        num_replicas=None if scaled else spec.replicas,
        autoscaling_config=scaling if scaled else None,
        user_config={} if spec.max_drop is None else {"max_drop": spec.max_drop},
        max_ongoing_requests=2 * spec.max_queue,
        max_queued_requests=spec.max_queue,
        backpressure_config={"status_code": 503, "retry_after_s": 1},
        max_constructor_retry_count=CONSTRUCTIONS,
        graceful_shutdown_timeout_s=spec.deadline + 5,
        logging_config={"enable_access_log": False},
        ray_actor_options={
            "num_cpus": spec.cores,
            "num_gpus": spec.gpus,
            "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(spec.cores), **_IN_LOOP}},
        },
    )
