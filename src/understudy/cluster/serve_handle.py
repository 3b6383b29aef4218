"""The replicas behind a handle of Ray Serve, as a proxy calls them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from understudy.cluster.serve_calls import CallReply, ReplicaGone, RequestCall, Room
from understudy.serving.request_errors import QueueFull


class ServeReplicas:
    """The replicas of a deployment, which are `CascadeReplica`s.

    Args:
        handle: of the deployment.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    @classmethod
    def of(cls, application: str) -> Self:
        """Those of an application of this cluster."""
        return cls(serve.get_app_handle(application))

    async def answer_calls(self, calls: Sequence[RequestCall]) -> Sequence[CallReply]:
        """The answers of one replica, which Serve chooses by how busy they are."""
        try:
            found: Sequence[CallReply] = await self._handle.answer_calls.remote(calls)
        except (BackPressureError, DeploymentUnavailableError) as error:
            raise QueueFull(
                "a request needs a replica, found none with room: try again later"
            ) from error
        except RayTaskError:
            raise
        except RayError as error:
            raise ReplicaGone(type(error).__name__) from error
        return found

    async def rooms(self) -> Sequence[Room]:
        """What each replica takes; of those that answer."""
        try:
            asked = self._handle.broadcast("room").results_async(return_exceptions=True)
            return [one for one in await asked if isinstance(one, Room)]
        except (RayError, DeploymentUnavailableError):
            return []
