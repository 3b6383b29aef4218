"""A replica of a served cascade: the app of `understudy serve` as a deployment of Ray Serve."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from understudy.cluster.serve_calls import CallReply, RequestCall, Room
from understudy.cluster.serve_proxy import MARK
from understudy.cluster.serve_spec import ServeSpec, check_folder
from understudy.malloc import keep_freed_memory
from understudy.serving.asgi import ServingApp
from understudy.serving.bodies import Message, Receive, Scope, Send
from understudy.serving.direct_inference import DirectInference
from understudy.serving.open_inference_routes import Reply
from understudy.serving.replicas import Replica
from understudy.serving.request_log import log_json
from understudy.serving.service import Service
from understudy.switching import switch_threads_often
from understudy.zoo.runnables import load_runnable

logger = logging.getLogger(__name__)

PEERS_ANSWER = 5.0
"""Seconds that other replicas have to answer."""

AGREE = (1.0, 2.0, 4.0, 8.0)
"""Seconds between the first times that a replica asks the others what to answer by; the last of
them is that between all further ones."""


class ServePeers:
    """The other replicas of a deployment.

    Args:
        name: of this one.
        deployment, application: where they are.
    """

    def __init__(self, name: str, deployment: str, application: str) -> None:
        self.name = name
        self._place = deployment, application
        self._handle: Any = None

    async def ask(self, method: str, *values: Any) -> list[Any]:
        """What each of them answers."""
        if self._handle is None:
            deployment, application = self._place
            self._handle = await asyncio.to_thread(
                serve.get_deployment_handle, deployment, application
            )
        try:
            answers = await asyncio.wait_for(self._answers(method, values), PEERS_ANSWER)
        except (RayError, RayServeException, TimeoutError):
            return []  # none runs, or none answers
        found: list[Any] = []
        for one in answers:
            if isinstance(one, tuple):
                found.extend(one)
            else:
                logger.warning("a replica did not answer", extra={"reason": str(one)[:200]})
        return found

    async def _answers(self, method: str, values: Sequence[Any]) -> list[Any]:
        asked = self._handle.broadcast("from_peer", self.name, method, values)
        answers: list[Any] = await asked.results_async(return_exceptions=True)
        return answers


class MarkedApp:
    """The app of a replica as a proxy of Serve asks it: its answers say that they are ours.

    Args:
        app: of the replica.
    """

    def __init__(self, app: ServingApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, with a mark."""

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (MARK, b"1")]
            await send(message)

        await self._app(scope, receive, marked)


class CascadeReplica:
    """A cascade with one executor, on the cores that Ray has given to it.

    Args:
        spec: what is served; decoded from JSON.

    Raises:
        DataError: the folder is not that of the machine that started the application.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        context = serve.get_replica_context()
        self._spec = ServeSpec.from_dict(spec)
        self._declared: dict[str, Any] = {}
        check_folder(self._spec, "this replica's machine")
        log_json()
        keep_freed_memory()
        switch_threads_often()
        cascade = _loaded(self._spec)
        name = context.replica_id.unique_id
        self._peers = ServePeers(name, context.deployment, context.app_name)
        self._app = ServingApp(Service(cascade, self._spec.settings()), self._peers)
        self._service = self._app.service
        self._service.fell_back = partial(self._later, self._agree)
        self._replica = Replica(self._service, name)
        self._tasks: set[asyncio.Task[None]] = set()

    def __serve_build_asgi_app__(self) -> Any:
        """The app, which marks its answers for the proxy."""
        return MarkedApp(self._app)

    async def reconfigure(self, wish: dict[str, Any]) -> None:
        """Answer by the operating point of `user_config`, where that has changed.

        Args:
            wish: one of `name`, `max_drop` and `cost`, or nothing.

        Raises:
            PolicyError: no certified point fits.
        """
        first, before = not self._tasks, self._declared
        self._declared = dict(wish)
        if first:
            await self._agree()
            self._later(self._agree_from_now_on)
        told = self._service.choice.number > 0
        if wish and wish != before and not (first and told):
            self._service.set_operating_point(wish)
            await self._agree()

    async def answer_calls(self, calls: Sequence[RequestCall]) -> list[CallReply]:
        """Answer requests that a proxy has sent together."""
        return await asyncio.gather(*(self._answer(call) for call in calls))

    async def room(self) -> Room:
        """What this replica takes."""
        settings = self._service.settings
        return Room(settings.max_queue, settings.deadline)

    async def drain(self) -> None:
        """Be not ready any more, but go on answering."""
        self._service.ready = False

    async def from_peer(self, name: str, method: str, values: Sequence[Any]) -> tuple[Any, ...]:
        """What another replica asks; nothing where it is this one."""
        if name == self._peers.name:
            return ()
        return (self._replica.answer(method, *values),)

    async def _answer(self, call: RequestCall) -> CallReply:
        app = self._app
        if call.method == "POST" and call.path == call.root_path + app.infer_path:
            connection = _Connection()
            direct = DirectInference.of(app, connection, call.headers)
            if direct is not None:
                if direct.add(call.body) and direct.start():
                    return await connection.reply
                direct.leave()
        return await _through_asgi(app, call)

    async def _agree(self) -> None:
        """Let the others answer by what this replica was told, or the other way round."""
        for choice in await self._peers.ask("adopt", self._service.choice):
            self._service.adopt(choice)

    async def _agree_from_now_on(self) -> None:
        """Agree now and then: one that has just started may be unknown to the others."""
        for seconds in AGREE:
            await asyncio.sleep(seconds)
            await self._agree()
        while True:
            await asyncio.sleep(AGREE[-1])
            await self._agree()

    def _later(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Connection:
    """Where a direct request leaves its reply."""

    def __init__(self) -> None:
        self.reply: asyncio.Future[CallReply] = asyncio.get_running_loop().create_future()

    def send_reply(self, reply: Reply, *, number: str, keep_alive: bool) -> None:  # noqa: ARG002
        """Keep it."""
        if not self.reply.done():
            headers = [(key.encode(), value.encode()) for key, value in reply.headers.items()]
            headers.append((b"x-request-id", number.encode()))
            headers.append((b"content-length", b"%d" % len(reply.body)))
            self.reply.set_result(CallReply(reply.status, headers, reply.body))


def _loaded(spec: ServeSpec) -> Any:
    """The cascade, which computes with as many threads as there are cores for this replica."""
    cores = int(ray.get_runtime_context().get_assigned_resources().get("CPU", spec.cores)) or 1
    from understudy.onnx.bundle import is_onnx_bundle

    if not is_onnx_bundle(spec.folder):
        import torch

        torch.set_num_threads(cores)
    return load_runnable(spec.folder, spec.device, allow_code=spec.allow_code, threads=cores)


async def _through_asgi(app: ServingApp, call: RequestCall) -> CallReply:
    """The answer of the app to a request whose body is there."""
    status, headers, parts = 500, list[tuple[bytes, bytes]](), list[bytes]()
    bodies = iter([call.body])

    async def receive() -> Message:
        for body in bodies:
            return {"type": "http.request", "body": body, "more_body": False}
        await asyncio.Event().wait()  # a proxy tells nothing of clients that go away
        raise AssertionError

    async def send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
            headers.extend(message["headers"])
        else:
            parts.append(message.get("body", b""))

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": call.method,
        "scheme": "http",
        "path": call.path,
        "raw_path": call.path.encode(),
        "query_string": call.query,
        "root_path": call.root_path,
        "headers": list(call.headers),
        "server": call.server,
        "client": None,
        "state": {},
    }
    await app(scope, receive, send)
    return CallReply(status, headers, b"".join(parts))
