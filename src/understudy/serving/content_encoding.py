"""Compressed bodies: of requests, with a limit against bombs; and of responses, on wish."""

from __future__ import annotations

import gzip
import zlib

from understudy.serving.tensors import ProtocolError

WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""Encoding -> what zlib calls it; deflate is the format of zlib (RFC 9110, 8.4.1.2)."""

LEAST_BYTES = 1024
"""Shorter responses are sent as they are."""


def decompressed(body: bytes, encoding: str, *, max_bytes: int) -> bytes:
    """A body without its encoding (`Content-Encoding`).

    >>> decompressed(gzip.compress(b"abc"), "gzip", max_bytes=3)
    b'abc'

    Raises:
        ProtocolError: 415 for another encoding, 413 for more bytes than the limit, 400 for data
            that are damaged, cut off or followed by others.
    """
    name = encoding.strip().lower()
    if name == "identity":
        return body
    if name not in WINDOWS:
        raise ProtocolError(
            f"a body is encoded by {' or '.join(WINDOWS)}, found {encoding[:40]!r}", 415
        )
    stream = zlib.decompressobj(WINDOWS[name])
    try:
        plain = stream.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise ProtocolError(f"a body is encoded as it says, found no {name}: {error}") from None
    if len(plain) > max_bytes:
        raise ProtocolError(
            f"a body has at most {max_bytes:,} bytes, found more once decompressed", 413
        )
    if not stream.eof or stream.unused_data:
        raise ProtocolError(f"a body is one whole stream of {name}, found it cut off or continued")
    return plain


def accepted_encoding(accepted: str) -> str | None:
    """The encoding of a response that a client accepts (`Accept-Encoding`); None for as it is.

    >>> accepted_encoding("br, deflate;q=0.5"), accepted_encoding("gzip;q=0")
    ('deflate', None)
    """
    for choice in accepted.lower().split(","):
        name, _, quality = choice.partition(";")
        if name.strip() in WINDOWS and quality.replace(" ", "") not in {"q=0", "q=0.0", "q=0.00"}:
            return name.strip()
    return None


def compressed(body: bytes, encoding: str) -> bytes:
    """A body in an encoding.

    >>> zlib.decompress(compressed(b"abc", "deflate"))
    b'abc'
    """
    return gzip.compress(body, 1, mtime=0) if encoding == "gzip" else zlib.compress(body, 1)
