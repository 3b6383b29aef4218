"""The connection to Ray: a cluster that is there, or one on this machine for as long as needed."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Thread
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from understudy.errors import UnderstudyError, brief
from understudy.library_versions import library_versions

ADDRESS = "RAY_ADDRESS"  # of the environment, as Ray itself reads it
_REACHED, _JOINED, _ANSWERED = 5, 15, 60  # seconds, after which a port, a cluster, a node is none
_ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}


class ClusterError(UnderstudyError):
    """A cluster cannot be reached, or not work as this machine would."""


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Ray, connected while the block runs: a cluster, or without an address one on this machine.

    Without an address the cluster of the environment's RAY_ADDRESS is joined if that is set. A
    cluster's nodes are checked (`check_nodes`); the connection ends with the block, and with it all
    actors that were made in it. A cluster on this machine is shut down. Where the process is
    connected already, that connection is used, and stays.

    Args:
        address: ``HOST:PORT`` of a cluster that this machine is a node of, or ``auto`` for the one
            that runs here.

    Raises:
        ClusterError: no cluster answers there within 20 seconds, it has another version of Ray or
            Python, or a node of it has not the same libraries; or Ray does not start here.
    """
    if ray.is_initialized():
        yield
        return
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    with _environment(_QUIET), _lines_discarded():
        chosen = address or os.environ.get(ADDRESS)
        try:
            if chosen:
                _join(chosen, named=repr(chosen) if address else f"{chosen!r} ({ADDRESS})")
                check_nodes()
            else:
                _start()
            yield
        finally:
            ray.shutdown()


def check_nodes() -> None:
    """Refuse a cluster whose nodes would not compute what this machine computes.

    Nodes without cores and GPUs for work, as some clusters' head, are left out.

    Raises:
        ClusterError: a node has no `understudy`, other versions of the libraries that scores depend
            on (`library_versions`), or does not answer within a minute.
    """
    nodes = _working_nodes()
    if not nodes:
        raise ClusterError(
            f"work needs a node with cores, this cluster has none ({len(ray.nodes())} nodes): "
            "start one with `ray start --address=HOST:PORT`"
        )
    versions = ray.remote(num_cpus=0, max_retries=0)(library_versions)
    asked = {
        versions.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(number, soft=False)
        ).remote(): number
        for number in nodes
    }
    _, silent = ray.wait(list(asked), num_returns=len(asked), timeout=_ANSWERED)
    for answer, number in asked.items():
        node = nodes[number]
        if answer in silent:
            raise ClusterError(
                f"every node starts a process for work within {_ANSWERED} seconds, {node} does "
                "not: look at `ray status` and its logs"
            )
        try:
            check_versions(ray.get(answer), node)
        except ray.exceptions.RayTaskError as error:
            raise ClusterError(
                f"every node has understudy installed, it cannot be imported on {node} "
                f"({cause_of(error)}): install there what is installed here, with the `ray` extra"
            ) from error
        except ray.exceptions.RayError as error:
            if number in _working_nodes():  # else it has gone meanwhile
                raise ClusterError(
                    f"every node starts a process for work, {node} cannot ({cause_of(error)}): "
                    "look at `ray status` and its logs"
                ) from error


def head_answers() -> bool:
    """Whether the head of the cluster that this process is connected to takes connections."""
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=1).close()
    except OSError:
        return False
    return True


def check_versions(found: Mapping[str, str], node: str) -> None:
    """Refuse libraries of other versions than here.

    Args:
        found: `library_versions` of a node.
        node: its name, for the message.

    >>> check_versions({**library_versions(), "torch": "1.0"}, "10.0.0.7")
    Traceback (most recent call last):
    understudy.cluster.connection.ClusterError: every node has the same libraries, 10.0.0.7 has \
torch 1.0, here it is ...: install the same there

    Raises:
        ClusterError: the message names the first that differs.
    """
    here = library_versions()
    for name in sorted({*found, *here}):
        if found.get(name) != here.get(name):
            raise ClusterError(
                f"every node has the same libraries, {node} has "
                f"{_version_of(name, found)}, here it is {here.get(name, 'missing')}: install the "
                "same there"
            )


def cause_of(error: Exception) -> str:
    """What went wrong on a node, in one line; Ray wraps it in tracebacks."""
    inner = getattr(error, "cause", None)
    if isinstance(inner, Exception):
        return brief(inner)
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return brief(RuntimeError(lines[-1])).partition(": ")[2] if lines else brief(error)


def _version_of(name: str, versions: Mapping[str, str]) -> str:
    return f"{name} {versions[name]}" if name in versions else f"no {name}"


def _working_nodes() -> dict[str, str]:
    """The addresses of the nodes with cores or GPUs for work, by their ids."""
    return {
        node["NodeID"]: node["NodeManagerAddress"]
        for node in ray.nodes()
        if node["Alive"] and max(node["Resources"].get(name, 0) for name in ("CPU", "GPU")) >= 1
    }


def _join(address: str, *, named: str) -> None:
    """Connect to a cluster within some seconds; Ray itself tries for minutes."""
    if address != "auto":
        _reach(address, named=named)
    failed: list[BaseException] = []

    def join() -> None:
        try:
            _init(address)
        except BaseException as error:  # noqa: BLE001
            failed.append(error)

    thread = Thread(target=join, name="understudy-ray", daemon=True)
    with _stderr_discarded():
        thread.start()
        thread.join(_JOINED)
    if thread.is_alive():
        raise ClusterError(
            f"a Ray cluster answers within {_JOINED} seconds, what listens at {named} does not: "
            "give the address that `ray start --head` printed, and the token of its head if it "
            "asks for one"
        )
    if failed:
        raise _refused(failed[0], named) from failed[0]


def _reach(address: str, *, named: str) -> None:
    host, _, port = address.rpartition(":")
    if "//" in address or not host or not port.isdigit():
        raise ClusterError(
            f"a Ray cluster's address reads HOST:PORT, found {named}: give the one that `ray start "
            "--head` printed, and run this on a node of the cluster"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACHED).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"a Ray cluster answers at its address, none does at {named} "
            f"({getattr(error, 'strerror', None) or error}): start one with `ray start --head`, or "
            "correct the address"
        ) from error
    if not _speaks_ray(address, named=named):
        raise ClusterError(
            f"a Ray cluster answers at its address, what listens at {named} is none: give the "
            "address that `ray start --head` printed"
        )


def _speaks_ray(address: str, *, named: str) -> bool:
    """Whether the head of a Ray cluster listens; what asks for TLS may be one.

    Raises:
        ClusterError: it asks for a token, and does not take the one that is given here.
    """
    if os.environ.get("RAY_USE_TLS", "0") != "0":
        return True
    import grpc  # which Ray brings
    from ray._private.authentication.http_token_authentication import (
        get_auth_headers_if_auth_enabled,
    )

    token = tuple(get_auth_headers_if_auth_enabled({}).items())
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(_ALIVE)(b"", timeout=_REACHED, metadata=token)
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.UNAUTHENTICATED:
                return False
            found = "the one given here" if token else "to be joined without"
            raise ClusterError(
                f"a cluster that asks for a token is joined with it, {named} refuses {found}: set "
                "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN where ~/.ray/auth_token is another"
            ) from error
    return True


def _refused(error: BaseException, named: str) -> ClusterError:
    text = " ".join(str(error).split())
    if "Version mismatch" in text:
        return ClusterError(
            "a cluster has the same versions of Ray and Python on all nodes, that at "
            f"{named} has not ({text.partition('Version mismatch: ')[2]}): install the same here"
        )
    return ClusterError(
        f"this machine joins the cluster at {named} as a node of it, it cannot ({text[:300]}): run "
        "this on one of its nodes"
    )


@contextmanager
def _lines_discarded() -> Iterator[None]:
    """Discard what Ray would print of other processes, which `log_to_driver` does not do whole."""
    ray._private.worker._worker_logs_enabled = False
    try:
        yield
    finally:
        ray._private.worker._worker_logs_enabled = True


@contextmanager
def _stderr_discarded() -> Iterator[None]:
    """Discard what native code writes to stderr, such as a line for every attempt to connect."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    sys.stderr.flush()
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _start() -> None:
    """Start Ray on this machine; it gives up after half a minute, on a busy one too."""
    try:
        _init("local", include_dashboard=False)
    except Exception as error:  # Ray raises it as it is
        text = " ".join(str(error).split())
        raise ClusterError(
            f"Ray starts on this machine, it did not ({text[:300]}): try again when it is less "
            "busy, and see whether its temporary folder (RAY_TMPDIR) has room"
        ) from error


def _init(address: str, **more: Any) -> None:
    ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL, **more)


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Variables of the environment for a while; those that a user has set stay."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
