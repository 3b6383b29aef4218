"""serve: a cascade answers requests over HTTP."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from understudy.app.cli import options, terminal
from understudy.app.cli.serve_on_ray import replicas_in, serve_on_ray
from understudy.display import percent
from understudy.written_places import check_runnable

if TYPE_CHECKING:
    from understudy.serving.asgi import ServingApp
    from understudy.serving.service import Service
    from understudy.serving.settings import ServingSettings

logger = logging.getLogger(__name__)

TOKEN = "UNDERSTUDY_TOKEN"  # as in serving.settings, which help does not load
MOST_QUEUED = 10**6  # images in flight


def serve(
    cascade: options.CascadePath,
    host: Annotated[
        str, options.option("HOST", "The address to listen at; 0.0.0.0 for all of this machine.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")
    ] = 8000,
    name: Annotated[
        str | None,
        options.option("NAME", "The model's name in paths. [dim]Default: that of the folder.[/]"),
    ] = None,
    max_drop: options.WithinDrop = None,
    max_queue: Annotated[
        int,
        typer.Option(
            min=1, max=MOST_QUEUED, help="Images in flight; further ones are refused at once."
        ),
    ] = 96,
    deadline: Annotated[
        float,
        options.option("SECONDS", "Seconds after which a request is given up."),
    ] = 10.0,
    token_file: Annotated[
        Path | None,
        options.option(
            "FILE",
            "A file with the token that changes need. [dim]Default: the token in the environment, "
            f"{TOKEN}, if any.[/]",
        ),
    ] = None,
    price: Annotated[
        float | None,
        options.option(
            "PRICE", "What 1,000 answers of the large model cost, in any currency: shows money."
        ),
    ] = None,
    shadow: Annotated[
        float,
        options.option(
            "SHARE", "The share of requests that the large model answers too, to compare; 0 to 1."
        ),
    ] = 0.05,
    alpha: Annotated[
        float, options.option("CHANCE", "The chance of a false alarm of the watch.")
    ] = 0.01,
    state: Annotated[
        Path | None,
        options.option(
            "FILE",
            "Keep what the watch has seen in this file, over restarts. [dim]Default: it is "
            "forgotten when the server ends.[/]",
        ),
    ] = None,
    log_share: Annotated[
        float, options.option("SHARE", "The share of requests that is logged, from 0 to 1.")
    ] = 0.0,
    ray: options.Ray = None,
    replicas: Annotated[
        str | None,
        options.option(
            "N[-MAX]", "Replicas of the cascade on Ray; a range scales. [dim]Default: 1.[/]"
        ),
    ] = None,
    device: options.Device = None,
    allow_code: options.AllowCode = None,
    as_json: options.Json = False,
) -> None:
    """Serve a cascade over HTTP: the Open Inference Protocol, image files, and a page."""
    _check_ray(ray, replicas, state)
    check_runnable(cascade)
    with terminal.progress("models"):
        from understudy.serving.server import DrainingServer, listening_socket, url_of
        from understudy.serving.settings import ServingSettings

        settings = ServingSettings(
            name=name or cascade.resolve().name,
            max_queue=max_queue,
            deadline=deadline,
            token=_token(token_file),
            price=price,
            shadow=shadow,
            alpha=alpha,
            state=state,
            logged=log_share,
        )
    if ray is not None:
        serve_on_ray(
            cascade,
            settings,
            address=ray,
            replicas=replicas or "1",
            host=host,
            port=port,
            max_drop=max_drop,
            device=device,
            allow_code=tuple(allow_code or ()),
            as_json=as_json,
        )
        return
    with listening_socket(host, port) as listener:
        served = _app(cascade, settings, device, allow_code or (), max_drop)
        url = url_of(listener, host)
        facts, view = _facts(served.service, url), _view(served.service, url)
        _warn(host, settings)

        def show() -> None:
            terminal.answer(view, facts, as_json=as_json)

        DrainingServer(served, listener, show).serve_until_stopped()


def _check_ray(ray: str | None, replicas: str | None, state: Path | None) -> None:
    """Refuse options that do not go together."""
    if ray is None and replicas is not None:
        raise terminal.UsageError("--replicas are those of a cluster: add --ray, or leave it out")
    if ray is not None and state is not None:
        raise terminal.UsageError(
            "--state keeps the watch of one server, on Ray each replica has a watch of its own, "
            "which is not kept: leave it out"
        )
    if replicas is not None:
        replicas_in(replicas)


def _app(
    cascade: Path,
    settings: ServingSettings,
    device: str | None,
    allow_code: Sequence[str],
    max_drop: float | None,
) -> ServingApp:
    """The app for a cascade on disk; what is noted from now on is JSON."""
    with terminal.progress("models"):
        from understudy.app.run_cascade import setting_warnings
        from understudy.serving.asgi import app
        from understudy.serving.request_log import log_json
        from understudy.zoo.runnables import load_runnable, orientation_of

        loaded = load_runnable(cascade, device, allow_code=allow_code)
        if max_drop is not None:
            loaded.set_operating_point(max_drop=max_drop)
        warnings = setting_warnings(cascade, loaded)
        settings = replace(settings, orientation=orientation_of(cascade))
    log_json()
    for message in warnings:
        logger.warning(message)
    made = app(loaded, settings=settings)
    if max_drop is not None:
        made.service.start_within(max_drop)
    return made


def _warn(host: str, settings: ServingSettings) -> None:
    """Say who may change what, where other machines reach the server."""
    from understudy.serving.request_guard import is_loopback

    if settings.token is None and not is_loopback(host):
        logger.warning(
            "%s is reached from other machines, and no token is set: everybody who reaches it "
            "may change the operating point; set %s or --token-file",
            host,
            TOKEN,
        )


def _token(file: Path | None) -> str | None:
    """The token of a file, or of the environment."""
    if file is None:
        given = os.environ.get(TOKEN)
        if given is not None and not given.strip():
            raise terminal.UsageError(
                f"{TOKEN} is the token that changes need, found it empty: set it, or remove it "
                "from the environment"
            )
        return None if given is None else given.strip()
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise terminal.UsageError(
            f"--token-file names a file with the token, {str(file)!r} cannot be read ({reason}): "
            "write the token into it"
        ) from error
    if not token:
        raise terminal.UsageError(
            f"--token-file names a file with the token, {str(file)!r} is empty: write it there"
        )
    return token


def _facts(service: Service, url: str) -> dict[str, Any]:
    """What is served, as JSON."""
    from understudy.serving.service_status import operating_points

    return {
        "url": url,
        "model": service.settings.name,
        "policy": service.current.policy.describe(),
        **operating_points(service),
        "token_required": service.settings.token is not None,
        "pid": os.getpid(),
    }


def _view(service: Service, url: str) -> str:
    """What is served, for people."""
    point = service.current.point
    reference = service.policies.named("reference")
    lines = [f"{service.settings.name} answers at {url}", f"policy: {_policy_text(service)}"]
    if point is not None and reference is not None and point is not reference:
        saving = percent(1 - point.cost / reference.cost)
        lines.append(
            f"saves {saving} of the {point.unit} of {service.policies.reference}; drop at most "
            f"{point.max_drop:g} points, with probability {1 - point.delta:.3g}"
        )
    lines.append(f"page: {url}/   metrics: {url}/metrics   stop: Ctrl-C")
    return "\n".join(lines)


def _policy_text(service: Service) -> str:
    name = service.current.name
    text = service.current.policy.describe()
    return text if name is None else f"{text} ({name})"
