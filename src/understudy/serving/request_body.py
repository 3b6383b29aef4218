"""The body of a request, read within limits of size and time, and decompressed."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from understudy.serving.content_encoding import decompressed
from understudy.serving.tensors import ProtocolError

IN_THREAD = 2**16
"""Compressed bodies of more bytes than these are decompressed in a thread."""

_DIGITS = 18  # of a length


async def read_body(scope: Scope, receive: Receive, *, max_bytes: int, seconds: float) -> bytes:
    """The body of a request, as it came where it came in one piece.

    Args:
        scope: of ASGI.
        receive: of ASGI.
        max_bytes: of the body at most, compressed or not.
        seconds: in which it arrives.

    Raises:
        ProtocolError: 413 for too many bytes, 408 for too many seconds, 400 or 415 for an
            encoding that is damaged or unknown.
        ClientDisconnect: the client has gone.
    """
    encoding = ""
    for name, value in scope["headers"]:
        if name == b"content-length":
            _check_length(value, max_bytes)
        elif name == b"content-encoding":
            encoding = value.decode("latin-1")
    try:
        async with asyncio.timeout(seconds):
            body = await _received(receive)
    except TimeoutError:
        raise ProtocolError(
            f"a body arrives within {seconds:g} s, this one did not: try again", 408
        ) from None
    if not encoding:
        return body
    if len(body) > IN_THREAD:
        return await asyncio.to_thread(decompressed, body, encoding, max_bytes=max_bytes)
    return decompressed(body, encoding, max_bytes=max_bytes)


async def _received(receive: Receive) -> bytes:
    pieces = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _check_length(value: bytes, max_bytes: int) -> None:
    if not value.isdigit() or len(value) > _DIGITS or int(value) > max_bytes:
        raise ProtocolError(
            f"a body has at most {max_bytes:,} bytes, found a Content-Length of "
            f"{value.decode('latin-1')[:_DIGITS]}: send several requests",
            413,
        )
