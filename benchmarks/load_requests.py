"""Requests made beforehand, as bytes: JSON, images alone, tensors of the protocol v2."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from load_records import Array

DIGITS = 12
"""Of the number of a request."""


@dataclass(frozen=True)
class Requests:
    """What is sent: `before`, the number of the request in 12 digits, and one of `after`."""

    before: bytes
    after: tuple[bytes, ...]

    def save(self, file: Path) -> None:
        joined = np.frombuffer(b"".join(self.after), np.uint8)
        ends = np.cumsum([len(part) for part in self.after])
        np.savez(file, before=np.frombuffer(self.before, np.uint8), after=joined, ends=ends)

    @classmethod
    def load(cls, file: Path) -> Requests:
        with np.load(file) as kept:
            joined, ends = kept["after"].tobytes(), kept["ends"].tolist()
            before = kept["before"].tobytes()
        starts = [0, *ends[:-1]]
        return cls(before, tuple(joined[a:b] for a, b in zip(starts, ends, strict=True)))


def http_head(path: str, headers: Sequence[tuple[str, str]]) -> bytes:
    """The first lines of a POST, without the empty one."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", *(f"{k}: {v}" for k, v in headers)]
    return ("\r\n".join(lines) + "\r\n").encode()


def json_requests(path: str, bodies: Sequence[bytes]) -> Requests:
    """JSON documents; the number of the request stands in a header."""
    before = http_head(path, [("Content-Type", "application/json")]) + b"X-Number: "
    return Requests(
        before, tuple(b"\r\nContent-Length: %d\r\n\r\n%b" % (len(b), b) for b in bodies)
    )


def raw_requests(path: str, images: Array) -> Requests:
    """The bytes of images alone; the number of the request stands in a header."""
    before = http_head(path, [("Content-Type", "application/octet-stream")]) + b"X-Number: "
    bodies = [image.tobytes() for image in images]
    return Requests(
        before, tuple(b"\r\nContent-Length: %d\r\n\r\n%b" % (len(b), b) for b in bodies)
    )


def tensor_requests(path: str, images: Array, *, outputs: Sequence[str] = ()) -> Requests:
    """Requests of the open inference protocol v2, with a binary tensor of images each.

    Args:
        path: that of the model's inference.
        images: (N, C, H, W) uint8, or (N, B, C, H, W) for B images a request.
        outputs: the outputs asked for, as JSON; all that the server gives where there are none.
    """
    size = images[0].nbytes
    told: dict[str, Any] = {
        "inputs": [
            {
                "name": "image",
                "shape": [*(images.shape[1:-3] or (1,)), *images.shape[-3:]],
                "datatype": "UINT8",
                "parameters": {"binary_data_size": size},
            }
        ]
    }
    if outputs:
        told["outputs"] = [{"name": name, "parameters": {"binary_data": False}} for name in outputs]
    tail = b'",' + json.dumps(told, separators=(",", ":")).encode()[1:]
    opening = b'{"id":"'
    length = len(opening) + DIGITS + len(tail)
    head = http_head(
        path,
        [
            ("Content-Type", "application/octet-stream"),
            ("Inference-Header-Content-Length", str(length)),
            ("Content-Length", str(length + size)),
        ],
    )
    return Requests(head + b"\r\n" + opening, tuple(tail + image.tobytes() for image in images))
