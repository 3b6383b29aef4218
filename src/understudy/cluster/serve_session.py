"""A cascade served on a cluster for as long as a command runs."""

from __future__ import annotations

import json
import logging
import re
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from understudy.cluster.connection import ClusterError, cause_of
from understudy.cluster.serve_app import DEPLOYMENT, STAGE, build
from understudy.cluster.serve_proxy import DOOR, ENVIRONMENT
from understudy.cluster.serve_spec import ServeSpec, check_folder, check_stages, digest_of
from understudy.errors import brief
from understudy.progress_bars import Advance

logger = logging.getLogger(__name__)

STARTED = 600.0
"""Seconds in which the replicas of a cascade start, at most."""

ANSWERED = 30.0
"""Seconds in which a proxy answers that has been started."""

_POLL = 0.2
_QUIET = {"log_level": "ERROR", "enable_access_log": False}
_FAILED = {"DEPLOY_FAILED", "UNHEALTHY"}
_SENTENCE = re.compile(r"(?:understudy\.[\w.]+|\w+(?:Error|Exception)): (.+)")


@dataclass(frozen=True)
class ServedApplication:
    """A cascade that is served on a cluster.

    Attributes:
        spec: what is served.
        host, port: where the proxies listen, on each node that has one.
        calls: whether the proxies hand requests on as calls (`ProxyDoor`).
    """

    spec: ServeSpec
    host: str
    port: int
    calls: bool

    @property
    def url(self) -> str:
        """Where it answers on this machine."""
        shown = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{shown}:{self.port}"

    def replicas(self) -> int:
        """How many replicas of the first stages run, which are those of all where none is split."""
        return _running(self.spec.model, DEPLOYMENT)

    def stages(self) -> dict[str, int]:
        """The exits with deployments of their own, and how many replicas of each run."""
        names = check_stages(self.spec)
        places = map(STAGE.format, range(1, len(names) + 1))
        return {n: _running(self.spec.model, place) for n, place in zip(names, places, strict=True)}

    def status(self) -> dict[str, Any]:
        """What GET `/status` answers; asked directly, whatever HTTP proxy the environment names.

        Raises:
            ClusterError: it does not answer.
        """
        try:
            status, body = _response(self.host, self.port, "/status", seconds=ANSWERED)
            if status != HTTPStatus.OK:
                raise HTTPException(f"status {status}")
            found: dict[str, Any] = json.loads(body)
        except (OSError, HTTPException, ValueError) as error:
            raise ClusterError(
                f"a served cascade answers at {self.url}, it does not ({brief(error)}): look at "
                "the logs of Ray Serve"
            ) from error
        return found

    def drain(self) -> None:
        """Be not ready any more, but go on answering, while others stop sending."""
        handle = serve.get_deployment_handle(DEPLOYMENT, self.spec.model)
        with suppress(RayError, RayServeException, TimeoutError):
            handle.broadcast("drain").results(timeout_s=2.0, return_exceptions=True)


@contextmanager
def served(
    spec: ServeSpec, *, host: str, port: int, on_progress: Advance
) -> Iterator[ServedApplication]:
    """A cascade that is served while the block runs, on the Ray that is connected.

    Args:
        spec: what is served.
        host, port: where the proxies listen; those of a Serve that runs already stay.
        on_progress: is told how many replicas run.

    Raises:
        ClusterError: the cluster has no room, a node has not the folder, an application of that
            name runs there, or the replicas do not start.
    """
    quiet_logs()
    spec = replace(spec, cascade=str(spec.folder.resolve()), digest=digest_of(spec.folder))
    check_room(spec, _worker_nodes())
    _check_folders(spec)
    before = serve.status()
    if spec.model in before.applications:
        raise ClusterError(
            f"an application has a name of its own, {spec.model!r} is served on this cluster "
            "already: end it, or give another --name"
        )
    try:
        _start(host, port, running=bool(before.proxies))
        host, port = _listening()
        _deploy(spec, on_progress)
        calls = _answers(_reached(host), port)
        yield ServedApplication(spec, _reached(host), port, calls)
    finally:
        with suppress(RayError, RayServeException):
            if before.proxies:
                serve.delete(spec.model)
            else:
                serve.shutdown()


def cores_of(replicas: int, nodes: Sequence[Mapping[str, float]] | None = None) -> int:
    """The most cores that each of some replicas can have.

    Args:
        replicas: how many.
        nodes: their resources, as Ray counts them; by default those of the cluster.

    >>> cores_of(3, [{"CPU": 8.0}, {"CPU": 4.0}])
    4
    >>> cores_of(4, [{"CPU": 2.0}])
    1
    """
    nodes = _worker_nodes() if nodes is None else nodes
    cores = [int(node.get("CPU", 0)) for node in nodes]
    fitting = [n for n in range(1, max(cores, default=0) + 1) if _fit(n, cores) >= replicas]
    return max(fitting, default=1)


def gpus_of(replicas: int, device: str | None) -> float:
    """The GPUs of each replica: one where the device is a GPU, or is left open and each can have
    one."""
    if device is not None:
        return float(device.partition(":")[0] != "cpu")
    return float(sum(int(node.get("GPU", 0)) for node in _worker_nodes()) >= replicas)


def check_alive() -> None:
    """Look whether the cluster is there.

    Raises:
        ClusterError: it is not.
    """
    try:
        serve.status()
    except (RayError, RayServeException, OSError) as error:
        raise ClusterError(
            f"a served cascade needs its cluster, it has gone ({cause_of(error)}): start it again"
        ) from error


def check_room(spec: ServeSpec, nodes: Sequence[Mapping[str, float]]) -> None:
    """Refuse replicas that do not fit on the nodes.

    >>> check_room(ServeSpec("digits", replicas=3), [{"CPU": 2.0}])
    Traceback (most recent call last):
    understudy.cluster.connection.ClusterError: replicas need 3 x 1 cores, this cluster has room \
for 2 of them (2 cores): give fewer --replicas, or add nodes

    Raises:
        ClusterError: they do not.
    """
    cores = [int(node.get("CPU", 0)) for node in nodes]
    left = list(cores)
    for own in spec.deployments:
        fitting = _fit(own.cores, left)
        if fitting < own.replicas:
            room = "this cluster has" if own is spec else "the stages before them leave"
            raise ClusterError(
                f"replicas need {own.replicas} x {own.cores} cores, {room} room for {fitting} of "
                f"them ({sum(left)} cores): give fewer --replicas, or add nodes"
            )
        _take(own.replicas, own.cores, left)


def _fit(size: int, cores: Sequence[int]) -> int:
    """How many replicas of a size fit."""
    return sum(node // size for node in cores)


def _take(replicas: int, size: int, left: list[int]) -> None:
    """Take the cores of some replicas from what is left on the nodes, where they fit best."""
    for _ in range(replicas):
        left[left.index(min(n for n in left if n >= size))] -= size


def _worker_nodes() -> list[Mapping[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _check_folders(spec: ServeSpec) -> None:
    """Refuse a cluster on which another node has no such cascade, or another one."""
    check = ray.remote(num_cpus=0, max_retries=1)(check_folder)
    here = ray.get_runtime_context().get_node_id()
    asked = []
    for node in ray.nodes():
        if not node["Alive"] or node["NodeID"] == here or node["Resources"].get("CPU", 0) < 1:
            continue
        place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        name = node["NodeManagerAddress"]
        asked.append((name, check.options(scheduling_strategy=place).remote(spec, name)))
    for name, answer in asked:
        try:
            ray.get(answer)
        except RayError as error:
            raise ClusterError(
                f"every node reads the cascade at {spec.cascade!r}, {name} does not "
                f"({cause_of(error)}): put it where all nodes read it, such as a shared folder"
            ) from error


def _start(host: str, port: int, *, running: bool) -> None:
    """Start Serve, with our door in its proxies, where it does not run."""
    if running:
        return
    check_port(host, port)
    serve.start(
        http_options={"host": host, "port": port or _free_port()},
        controller_options={"runtime_env": {"env_vars": dict(ENVIRONMENT)}},
        logging_config=_QUIET,
    )


def quiet_logs() -> None:
    """Keep what Serve notes to itself; its files have it."""
    for name in ("ray.serve", "ray"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def check_port(host: str, port: int) -> None:
    """Refuse a port of this machine that is taken.

    Raises:
        CannotListen: it is.
    """
    from understudy.serving.server import listening_socket

    listening_socket(host, port).close()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("", 0))
        port: int = found.getsockname()[1]
    return port


def _listening() -> tuple[str, int]:
    """Where the proxies listen."""
    from ray.serve.context import _get_global_client

    options = _get_global_client().http_config
    return options.host or "127.0.0.1", options.port


def _reached(host: str) -> str:
    """The address of this machine at which what listens at a host is reached."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _deploy(spec: ServeSpec, on_progress: Advance) -> None:
    """Start the replicas, and wait for them."""
    target = serve.RunTarget(build(spec.to_dict()), name=spec.model, route_prefix="/")
    try:
        serve.run_many([target], wait_for_applications_running=False)
    except (RayError, RayServeException) as error:
        raise ClusterError(
            f"Ray Serve takes an application at /, it refused this one ({cause_of(error)}): end "
            "what is in its way, or serve on another cluster"
        ) from error
    end, wanted = time.monotonic() + STARTED, sum(own.replicas for own in spec.deployments)
    while time.monotonic() < end:
        found = serve.status().applications.get(spec.model)
        on_progress("replicas", _running(spec.model), wanted)
        if found is not None and found.status == "RUNNING":
            return
        if found is not None and found.status in _FAILED:
            texts = [found.message, *(one.message for one in found.deployments.values())]
            raise ClusterError(f"a replica of {spec.model!r} does not start: {reason_in(texts)}")
        time.sleep(_POLL)
    raise ClusterError(
        f"{wanted} replicas of {spec.model!r} start within {STARTED:g} seconds, "
        f"{_running(spec.model)} did: look at `ray status` for what the cluster lacks"
    )


def reason_in(messages: Sequence[str]) -> str:
    """The sentence of the error in what Serve says of a deployment that failed.

    >>> reason_in(["failed 3 times:\\n  File x\\nunderstudy.errors.DataError: no folder\\n"])
    'no folder'
    """
    for text in reversed(messages):
        found = _SENTENCE.findall(text)
        if found:
            return str(found[-1])
    return " ".join(" ".join(messages).split())[:300]


def _running(name: str, deployment: str | None = None) -> int:
    """How many replicas of an application run, or of one of its deployments."""
    found = serve.status().applications.get(name)
    if found is None:
        return 0
    own = [one for key, one in found.deployments.items() if deployment in (None, key)]
    return sum(int(one.replica_states.get("RUNNING", 0)) for one in own)


def _answers(host: str, port: int) -> bool:
    """Whether the proxy here answers by calls, once it answers."""
    end = time.monotonic() + ANSWERED
    while time.monotonic() < end:
        if _get(host, port, "/v2/health/ready") == 200:
            return _get(host, port, DOOR) == 200
        time.sleep(_POLL)
    raise ClusterError(
        f"a proxy of Ray Serve answers at {host} port {port} within {ANSWERED:g} seconds, none "
        "does: is the port free on all nodes?"
    )


def _get(host: str, port: int, path: str) -> int:
    try:
        return _response(host, port, path, seconds=5)[0]
    except (OSError, HTTPException):
        return 0


def _response(host: str, port: int, path: str, *, seconds: float) -> tuple[int, bytes]:
    """The status and the body of an answer."""
    connection: Any = HTTPConnection(host, port, timeout=seconds)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return int(response.status), response.read()
    finally:
        connection.close()
