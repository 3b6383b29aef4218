"""The routes of the page at `/`: its files, and the latest images as small pictures."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from understudy.serving.replicas import NoPeers, Peers
from understudy.serving.request_errors import NotFound
from understudy.serving.request_guard import check_allowed
from understudy.serving.service import Service

if TYPE_CHECKING:
    from PIL.Image import Image

TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
POLICY = (
    "default-src 'self'; img-src 'self' blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; object-src 'none'"
)
SIDE = 96  # pixels of the longer side at most
_SAFE = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}


def page_routes(service: Service, peers: Peers | None = None) -> list[Route]:
    """GET `/`, the files of the page below `/page/`, and `/latest/{request_id}.png`.

    The page names all files relative to itself, so that it works under a mount path too.
    """
    others = NoPeers() if peers is None else peers

    async def latest_image(request: Request) -> Response:
        check_allowed(request.scope, service.settings.token)
        request_id = request.path_params["request_id"]
        image = service.latest_image(request_id)
        if image is None:
            found = await others.ask("latest_image", request_id)
            image = next((one for one in found if one is not None), None)
        if image is None:
            raise NotFound(
                f"the latest images of each exit are kept, found none of a request {request_id!r}"
            )
        content = await run_in_threadpool(small_png, image)
        headers = {**_SAFE, "Cache-Control": "no-store", "Content-Security-Policy": POLICY}
        return Response(content, media_type="image/png", headers=headers)

    return [
        *(Route(path, file.response) for path, file in page_files()),
        Route("/latest/{request_id}.png", latest_image),
    ]


@dataclass(frozen=True)
class PageFile:
    """A file that the browser keeps and asks about again: each answer is of the same version."""

    content: bytes
    media_type: str

    @cached_property
    def tag(self) -> str:
        return f'"{hashlib.sha256(self.content).hexdigest()[:32]}"'

    async def response(self, request: Request) -> Response:
        headers = {
            **_SAFE,
            "Content-Security-Policy": POLICY,
            "Cache-Control": "no-cache",
            "ETag": self.tag,
        }
        known = request.headers.get("if-none-match", "").split(",")
        if {self.tag, "*"} & {one.strip().removeprefix("W/") for one in known}:
            return Response(status_code=304, headers=headers)
        return Response(self.content, media_type=self.media_type, headers=headers)


def page_files() -> Iterator[tuple[str, PageFile]]:
    """The path and the content of all that the page is made of."""
    for path, file in _below(files("understudy.serving") / "page", "/page/"):
        media_type = TYPES.get(path.rpartition(".")[2])
        if media_type is not None:
            address = "/" if path == "/page/index.html" else path
            yield address, PageFile(file.read_bytes(), media_type)


def _below(folder: Traversable, path: str) -> Iterator[tuple[str, Traversable]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _below(entry, f"{path}{entry.name}/")
        else:
            yield path + entry.name, entry


def small_png(image: NDArray[np.uint8]) -> bytes:
    """An image (C, H, W) as PNG of at most 96 pixels per side; smaller ones keep their size.

    Grey, RGB and RGBA are shown as such; of other numbers of channels the first one.

    >>> small_png(np.zeros((3, 400, 300), np.uint8))[1:4]
    b'PNG'
    """
    from PIL.Image import Resampling

    picture = _picture(image)
    picture.thumbnail((SIDE, SIDE), Resampling.BILINEAR, reducing_gap=2.0)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _picture(image: NDArray[np.uint8]) -> Image:
    from PIL.Image import fromarray

    if len(image) in {3, 4}:
        return fromarray(np.ascontiguousarray(np.moveaxis(image, 0, -1)))
    return fromarray(np.ascontiguousarray(image[0]))
