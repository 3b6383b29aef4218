"""What `serve --ray` does: replicas of a cascade on a cluster, until a signal ends it."""

from __future__ import annotations

import logging
import os
import re
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from understudy.app.cli import terminal
from understudy.display import percent
from understudy.extras import needing

if TYPE_CHECKING:
    from understudy.cluster.serve_session import ServedApplication
    from understudy.cluster.serve_spec import ServeSpec, StageSpec
    from understudy.serving.settings import ServingSettings

logger = logging.getLogger(__name__)

MOST_REPLICAS = 10_000
_REPLICAS = re.compile(r"([1-9]\d*)(?:-([1-9]\d*))?")
_LOOK = 5.0  # seconds between two looks whether the cluster is there


def replicas_in(text: str) -> tuple[tuple[int, int], ...]:
    """The fewest and the most replicas of `--replicas`, per deployment.

    >>> replicas_in("2"), replicas_in("4,1-3")
    (((2, 2),), ((4, 4), (1, 3)))

    Raises:
        UsageError: no number, and no range of numbers.
    """
    return tuple(_range_in(part, text) for part in text.split(","))


def _range_in(part: str, text: str) -> tuple[int, int]:
    found = _REPLICAS.fullmatch(part.strip())
    fewest = int(found[1]) if found else 0
    most = int(found[2] or found[1]) if found else 0
    if not 0 < fewest <= most <= MOST_REPLICAS:
        raise terminal.UsageError(
            f"--replicas is a number, or a range such as 1-4 to scale in, found {text!r}: with "
            "--split-stages one of them per stage, such as 4,1-3"
        )
    return fewest, most


def serve_on_ray(
    cascade: Path,
    settings: ServingSettings,
    *,
    address: str,
    replicas: str | None,
    split_stages: bool,
    host: str,
    port: int,
    max_drop: float | None,
    device: str | None,
    allow_code: tuple[str, ...],
    as_json: bool,
) -> None:
    """Serve a cascade on the cluster at an address, or on one of this machine's own."""
    with needing("`understudy serve --ray`", extra="ray"):
        from understudy.cluster.connection import ADDRESS, connected
        from understudy.cluster.serve_session import check_port, served
    ranges = _ranges(cascade, replicas, split_stages=split_stages)
    if not (address or os.environ.get(ADDRESS)):
        check_port(host, port)  # before Ray is started for it
    signal.signal(signal.SIGTERM, _stop)  # what has been started ends, too
    with ExitStack() as stack:
        with terminal.waiting("connecting to Ray"):
            stack.enter_context(connected(address or None))
        spec = _spec(cascade, settings, ranges, max_drop, device, allow_code)
        with terminal.progress("replicas") as advance:
            entered = served(spec, host=host, port=port, on_progress=advance)
            application = stack.enter_context(entered)
        _warn(host, application)
        found = application.status()
        facts, view = _facts(application, found), _view(application, found)
        terminal.answer(view, facts, as_json=as_json)
        _until_stopped(application.drain)


def _ranges(
    cascade: Path, replicas: str | None, *, split_stages: bool
) -> tuple[tuple[int, int], ...]:
    """The replicas of each deployment; one by default."""
    from understudy.cluster.serve_spec import later_models

    given = None if replicas is None else replicas_in(replicas)
    if not split_stages:
        return given or ((1, 1),)
    models = ("the first stages", *later_models(cascade))
    if given is not None and len(given) != len(models):
        raise terminal.UsageError(
            f"--replicas has a number per stage ({', '.join(models)}), found {replicas!r}: give "
            f"{len(models)} of them, such as {','.join('1' * len(models))}"
        )
    return given or ((1, 1),) * len(models)


def _spec(
    cascade: Path,
    settings: ServingSettings,
    ranges: tuple[tuple[int, int], ...],
    max_drop: float | None,
    device: str | None,
    allow_code: tuple[str, ...],
) -> ServeSpec:
    """What each replica is told; where it computes follows from what the cluster has."""
    from understudy.cluster.serve_session import cores_of, gpus_of
    from understudy.cluster.serve_spec import ServeSpec, StageSpec

    (fewest, most), *later = ranges
    in_all, behind = sum(most for _, most in ranges), sum(most for _, most in later)
    cores = _threads() or cores_of(in_all)
    gpus = gpus_of(in_all, device)
    later_gpus = gpus_of(behind, device) if later else 0.0
    return ServeSpec(
        cascade=str(cascade),
        name=settings.name,
        replicas=fewest,
        max_replicas=most,
        cores=cores,
        gpus=gpus,
        stages=tuple(StageSpec(few, many, cores, later_gpus, device) for few, many in later),
        max_drop=max_drop,
        max_queue=settings.max_queue,
        deadline=settings.deadline,
        price=settings.price,
        shadow=settings.shadow,
        alpha=settings.alpha,
        logged=settings.logged,
        token=settings.token,
        device=device,
        allow_code=allow_code,
    )


def _threads() -> int | None:
    """The threads that the environment names, if any."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) > 0 else None


def _warn(host: str, application: ServedApplication) -> None:
    from understudy.serving.request_guard import is_loopback
    from understudy.serving.settings import TOKEN

    if application.spec.token is None and not is_loopback(host):
        terminal.note(
            f"{host} is reached from other machines, and no token is set: everybody who reaches it "
            f"may change the operating point; set {TOKEN} or --token-file"
        )
    if not application.calls:
        terminal.note(
            f"Ray Serve runs on this cluster already and answers at port {application.port}, with "
            "its own proxies: they are slower, and a request whose replica dies gets 500; end that "
            "Serve, or start it with the variables of docs/serving.md"
        )


def _facts(application: ServedApplication, status: dict[str, Any]) -> dict[str, Any]:
    """What is served, as JSON."""
    spec = application.spec
    return {
        "url": application.url,
        "model": spec.model,
        "policy": status["policy"]["text"],
        "operating_point": status["operating_point"],
        "chosen_by": status["chosen_by"],
        "operating_points": status["operating_points"],
        "token_required": status["token_required"],
        "pid": os.getpid(),
        "replicas": application.replicas(),
        "max_replicas": spec.most,
        "cores": spec.cores,
        "gpus": spec.gpus,
        "stages": application.stages(),
        "calls": application.calls,
    }


def _view(application: ServedApplication, status: dict[str, Any]) -> str:
    """What is served, for people."""
    spec, url, stages = application.spec, application.url, application.stages()
    name = status["operating_point"]
    policy = status["policy"]["text"] + ("" if name is None else f" ({name})")
    lines = [
        f"{spec.model} answers at {url}: {_size(spec)}",
        *(f"{exit}: {_size(own)}" for exit, own in zip(stages, spec.stages, strict=True)),
        f"policy: {policy}",
    ]
    point = next((one for one in status["operating_points"] if one["name"] == name), None)
    if point is not None and point["saving"]:
        lines.append(
            f"saves {percent(point['saving'])} of the {point['unit']}; drop at most "
            f"{point['max_drop']:g} points, with probability {1 - point['delta']:.3g}"
        )
    lines.append(f"page: {url}/   metrics: {url}/metrics   stop: Ctrl-C")
    return "\n".join(lines)


def _size(own: ServeSpec | StageSpec) -> str:
    """How many replicas a deployment has, and what each of them."""
    range_text = f" to {own.most}" if own.most > own.replicas else ""
    cores = "1 core" if own.cores == 1 else f"{own.cores} cores"
    replicas = "replica" if own.most == 1 else "replicas"
    gpus = f" and {own.gpus:g} GPU" if own.gpus else ""
    each = " each" if own.gpus or own.most > 1 else ""
    return f"{own.replicas}{range_text} {replicas} on Ray with {cores}{gpus}{each}"


def _stop(number: int, _: Any) -> None:  # noqa: ARG001
    raise KeyboardInterrupt


def _until_stopped(drain: Callable[[], None]) -> None:
    """Wait for a signal; after SIGTERM drain, as the server of one process does.

    Raises:
        ClusterError: the cluster has gone meanwhile.
    """
    from understudy.cluster.serve_session import check_alive
    from understudy.serving.server import DRAIN

    told, signals = threading.Event(), list[int]()

    def stop(number: int, _: Any) -> None:
        signals.append(number)
        told.set()

    before = {one: signal.signal(one, stop) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        while not told.wait(_LOOK):
            check_alive()
        if signals[0] == signal.SIGTERM:
            told.clear()
            drain()
            told.wait(DRAIN)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
