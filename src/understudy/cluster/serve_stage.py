"""A later model of a served cascade in a deployment of its own, and the cascade in front of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import ray
import torch

from understudy.cluster.serve_handle import answered
from understudy.cluster.serve_spec import ServeSpec, check_folder, later_models
from understudy.cluster.stage_calls import (
    RemoteStage,
    StageAnswers,
    StageCall,
    StageReply,
    resizing_of,
)
from understudy.malloc import keep_freed_memory
from understudy.nn.split_cascade import SplitCascade, released
from understudy.nn.stage import usable_device
from understudy.serving.request_log import log_json
from understudy.switching import switch_threads_often
from understudy.zoo.saved_cascades import load_cascade

logger = logging.getLogger(__name__)


class StageReplica:
    """One model of a cascade, which answers the rows that replicas in front defer to it.

    Args:
        spec: what is served; decoded from JSON.
        number: the place of the model among the later ones.

    Raises:
        DataError: the folder is not that of the machine that started the application.
    """

    def __init__(self, spec: dict[str, Any], number: int) -> None:
        whole = ServeSpec.from_dict(spec)
        check_folder(whole, "this replica's machine")
        log_json()
        keep_freed_memory()
        switch_threads_often()
        own = whole.stages[number]
        use_cores(replace(whole, cores=own.cores))
        cascade = load_cascade(whole.folder, allow_code=whole.allow_code)
        model = released(cascade, later_models(whole.folder)[number])
        self._answers = StageAnswers(model.to(usable_device(own.device)), max_queue=whole.max_queue)

    async def logits(self, call: StageCall) -> StageReply:
        """The logits of rows that a replica in front has sent together."""
        return await self._answers.logits(call)


class ServeStage:
    """The replicas of a model's deployment, which are `StageReplica`s.

    Args:
        handle: of the deployment.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    async def logits(self, call: StageCall) -> StageReply:
        """The answer of one of them; see `StageReplicas`."""
        found: StageReply = await answered(self._handle.logits, call)
        return found


def split(spec: ServeSpec, handles: Mapping[str, Any]) -> SplitCascade:
    """A cascade whose later models run in deployments of their own; to be called in the event loop.

    Args:
        spec: what is served.
        handles: exit -> the handle of its deployment.
    """
    whole = load_cascade(spec.folder, allow_code=spec.allow_code)
    loop = asyncio.get_running_loop()
    elsewhere = {
        name: RemoteStage(
            ServeStage(handle),
            resizing_of(whole.stages[name]),
            deadline=spec.deadline,
            loop=loop,
        )
        for name, handle in handles.items()
    }
    return SplitCascade(whole, elsewhere).to(usable_device(spec.device))


def use_cores(spec: ServeSpec) -> int:
    """Compute with as many threads as there are cores for this replica; their number."""
    cores = int(ray.get_runtime_context().get_assigned_resources().get("CPU", spec.cores)) or 1
    torch.set_num_threads(cores)
    return cores
