"""Requests that a server should refuse, or survive: what is sent, byte by byte, and how."""

from __future__ import annotations

import gzip
import io
import json
import random
import struct
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from understudy.serving.open_inference import HEADER_LENGTH
from understudy.serving.tensors import DATATYPES

End = Literal["wait", "leave", "close", "reset"]


class Attack(NamedTuple):
    """What a hostile client does.

    Attributes:
        kind: what is wrong with it.
        pieces: what it sends, one after another.
        pause: seconds between two pieces.
        end: whether it waits for the response, leaves where none comes soon, closes its connection
            at once, or resets it.
    """

    kind: str
    pieces: tuple[bytes, ...]
    pause: float = 0.0
    end: End = "wait"


class Target(NamedTuple):
    """What is attacked: the host, the model, and the shape (C, H, W) of an image that it takes."""

    host: str
    model: str
    shape: tuple[int, int, int]

    @property
    def infer(self) -> str:
        return f"/v2/models/{self.model}/infer"


Maker = Callable[[Target, random.Random], Attack]


def http(
    target: Target,
    path: str,
    body: bytes = b"",
    headers: Mapping[str, Any] | None = None,
    *,
    method: str = "POST",
    length: object = None,
) -> bytes:
    """A request; `length` in place of the true Content-Length, "" for none."""
    size = len(body) if length is None else length
    lines = [f"{method} {path} HTTP/1.1", f"Host: {target.host}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if size != "":
        lines.append(f"Content-Length: {size}")
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + body


def infer(
    target: Target, head: object, data: bytes = b"", headers: Mapping[str, Any] | None = None
) -> bytes:
    """A request of inference with JSON and binary data."""
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    own = {HEADER_LENGTH: len(text)} if data else {}
    return http(target, target.infer, text + data, {**own, **(headers or {})})


def valid(target: Target, r: random.Random) -> tuple[dict[str, Any], bytes]:
    """The JSON and the data of a request that is right."""
    count = r.randint(1, 3)
    data = r.randbytes(count * int(np.prod(target.shape)))
    tensor = {
        "name": "image",
        "datatype": "UINT8",
        "shape": [count, *target.shape],
        "parameters": {"binary_data_size": len(data)},
    }
    return {"inputs": [tensor]}, data


def encoded(target: Target, *files: bytes) -> bytes:
    """A request with encoded images."""
    data = b"".join(struct.pack("<I", len(file)) + file for file in files)
    tensor = {
        "name": "image",
        "datatype": "BYTES",
        "shape": [len(files)],
        "parameters": {"binary_data_size": len(data)},
    }
    return infer(target, {"inputs": [tensor]}, data)


def honest(target: Target, r: random.Random) -> Attack:
    """No attack: it must be answered."""
    return Attack("honest", (infer(target, *valid(target, r)),))


def changed(target: Target, r: random.Random) -> Attack:
    head, data = valid(target, r)
    text = bytearray(json.dumps(head).encode())
    for _ in range(r.randint(1, 8)):
        place = r.randrange(len(text))
        match r.randrange(3):
            case 0:
                text[place] = r.randrange(256)
            case 1:
                del text[place : place + r.randint(1, 9)]
            case _:
                text[place:place] = r.randbytes(r.randint(1, 5))
    return Attack("changed bytes", (infer(target, bytes(text), data),))


def truncated(target: Target, r: random.Random) -> Attack:
    whole = infer(target, *valid(target, r))
    end: End = r.choice(["close", "reset"])
    return Attack("truncated", (whole[: r.randrange(1, len(whole))],), end=end)


def cut_tensors(target: Target, r: random.Random) -> Attack:
    head, data = valid(target, r)
    cut = data[: r.randrange(1, len(data))] if r.random() < 0.5 else data + r.randbytes(9)
    return Attack("other data than declared", (infer(target, head, cut),))


def huge_sizes(target: Target, r: random.Random) -> Attack:
    huge = r.choice([2**31, 2**32, 2**40, 2**62, 2**63 - 1, 2**64 - 1, 10**30, -1, 1e308])
    shape = [r.choice([huge, 1, 0, 3]) for _ in range(r.randint(1, 20))]
    tensor: dict[str, Any] = {
        "name": "image",
        "datatype": r.choice([*DATATYPES, "BYTES"]),
        "shape": shape,
    }
    if r.random() < 0.5:
        tensor["parameters"] = {"binary_data_size": r.choice([huge, 8])}
    else:
        tensor["data"] = [0] * r.randint(0, 9)
    data = struct.pack("<I", r.choice([0, 2**32 - 1])) * 2
    return Attack("huge sizes", (infer(target, {"inputs": [tensor]}, data),))


def other_tensors(target: Target, r: random.Random) -> Attack:
    odd: list[Any] = [0, 1, 255, 256, -1, 0.5, 1e300, True, None, "x", [], {}, [1]]
    values = [r.choice(odd) for _ in range(4)]
    shapes = [[4], [2, 2], [1, 3, 1, 1], [0, *target.shape], [], None, "4", [4.0], [True]]
    parameters = [{}, None, 7, {"content_type": "base64"}, {"shared_memory_region": "x"}]
    tensor = {
        "name": r.choice(["image", "image", "image", "mask", "", "\U0001f600", 3, None]),
        "datatype": r.choice([*DATATYPES, "BYTES", "STRING", "BF16", "", 8, None]),
        "shape": r.choice(shapes),
        "data": r.choice([values, [values], values[:1] * 3, values[0], {"b64": ""}]),
        "parameters": r.choice(parameters),
    }
    wishes = {
        "classification": r.choice([0, 5, 10**9, -1, "x", None]),
        "binary_data": r.choice([True, 1]),
    }
    output = {"name": r.choice(["logits", "exit", "nothing", None]), "parameters": wishes}
    head = {"inputs": [tensor] * r.choice([1, 1, 2]), "outputs": [output], "id": r.choice(["a", 1])}
    return Attack("wrong dtypes and shapes", (infer(target, head),))


NESTED = b"[" + b"[]," * 2_000_000 + b"[]]"
KEYS = b"{" + b",".join(b'"%d":1' % n for n in range(50_000)) + b"}"


def odd_json(target: Target, r: random.Random) -> Attack:
    text = r.choice(
        [
            b"[" * 100_000,
            b'{"a":' * 5000,
            NESTED,
            b'{"inputs":' + b"[" * 900 + b"]" * 900 + b"}",
            b"\xff\xfe{}",
            b'{"inputs": [1e400, -0, 1E+2, 0x10]}',
            b'{"id": "\\ud800"}',
            KEYS,
            b'{"inputs": NaN}',
            b"null",
            b"",
            b"\x00" * 1000,
            b"1" * 1_000_000,
        ]
    )
    return Attack("odd JSON", (infer(target, text),))


@cache
def packed(name: str, zeros: int) -> bytes:
    """Many zeros in few bytes."""
    return (gzip.compress if name == "gzip" else zlib.compress)(bytes(zeros))


def compressed(target: Target, r: random.Random) -> Attack:
    zeros = r.choice([10**5, 10**7, 10**8])
    whole = gzip.compress(json.dumps(valid(target, r)[0]).encode())
    makers: list[tuple[str, Callable[[], bytes]]] = [
        ("gzip", lambda: packed("gzip", zeros)),
        ("deflate", lambda: packed("deflate", zeros)),
        ("gzip", lambda: gzip.compress(packed("gzip", zeros))),
        ("gzip", lambda: whole[: r.randrange(len(whole))]),
        ("gzip", lambda: whole + whole),
        ("gzip", lambda: gzip.compress(b"") * 5000),
        ("gzip", lambda: r.randbytes(500)),
        *((name, lambda: whole) for name in ("deflate", "br", "gzip, gzip", "identity")),
    ]
    name, body = r.choice(makers)
    return Attack("compression", (infer(target, body(), headers={"Content-Encoding": name}),))


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, pixels: bytes, *, depth: int = 1, more: bytes = b"") -> bytes:
    """A PNG of grey pixels, with further chunks in front of them."""
    head = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [png_chunk(b"IHDR", head), more, png_chunk(b"IDAT", pixels), png_chunk(b"IEND", b"")]
    )


def image_file(kind: str, size: tuple[int, int], **more: Any) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (9, 99, 199)).save(file, kind, **more)
    return file.getvalue()


def resized_jpeg(width: int, height: int) -> bytes:
    """A JPEG that says it is larger than it is."""
    data = bytearray(image_file("JPEG", (16, 16)))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def bomb(r: random.Random) -> bytes:
    """An image that is much larger than its file, or none."""
    blank, long = packed("deflate", 501 * 4000), packed("deflate", 10**7)
    text, profile = (png_chunk(name, b"a\0\0" + long) for name in (b"zTXt", b"iCCP"))
    small = image_file(r.choice(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]), (40, 30))
    broken = bytearray(small)
    for _ in range(5):
        broken[r.randrange(len(broken))] = r.randrange(256)
    makers: list[Callable[[], bytes]] = [
        lambda: png(50_000, 50_000, blank),
        lambda: png(2**31 - 1, 2**31 - 1, b""),
        lambda: png(0, 10, b""),
        lambda: png(4000, 4000, blank),
        lambda: png(4000, 4000, blank[:100]),
        lambda: png(2_000_000, 1, zlib.compress(bytes(250_001))),
        lambda: png(200_000, 1, zlib.compress(bytes(25_001))),
        lambda: png(1, 2_000_000, packed("deflate", 4_000_000)),
        lambda: png(8, 8, zlib.compress(bytes(16)), more=text),
        lambda: png(8, 8, zlib.compress(bytes(16)), more=profile),
        lambda: png(8, 8, long),
        lambda: resized_jpeg(65_000, 65_000),
        lambda: resized_jpeg(60_000, 2),
        lambda: b"P6 100000 100000 255\n" + bytes(99),
        lambda: b"P5 " + b"9" * 200 + b" 1 255\n",
        lambda: b"BM" + struct.pack("<IIIIii", 99, 0, 54, 40, 2**30, 2**30) + bytes(40),
        lambda: b"GIF89a" + struct.pack("<HH", 65535, 65535) + bytes(60),
        lambda: small[: r.randrange(len(small))],
        lambda: bytes(broken),
        lambda: r.randbytes(300),
        lambda: b"",
        lambda: b"\xff\xd8\xff" + r.randbytes(200),
        lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99999 99999\n",
    ]
    return r.choice(makers)()


def images(target: Target, r: random.Random) -> Attack:
    files = [bomb(r) for _ in range(r.choice([1, 1, 1, 2, 5]))]
    match r.randrange(3):
        case 0:
            whole = encoded(target, *files)
        case 1:
            kind = {"Content-Type": r.choice(["image/png", "application/octet-stream", "image/x"])}
            whole = http(target, "/classify", files[0], kind)
        case _:
            body = b"".join(part(b"image", file) for file in files) + b"--b--\r\n"
            whole = http(target, "/classify", body, _FORM)
    return Attack("image bombs", (whole,))


_FORM = {"Content-Type": "multipart/form-data; boundary=b"}


def part(name: bytes, data: bytes) -> bytes:
    return b'--b\r\nContent-Disposition: form-data; name="%s"; filename="f"\r\n\r\n%s\r\n' % (
        name,
        data,
    )


def forms(target: Target, r: random.Random) -> Attack:
    body, headers = r.choice(
        [
            (b"", _FORM),
            (b"--b--\r\n", _FORM),
            (b"--b\r\n" * 1000, _FORM),
            (part(b"a", b"") * 2000 + b"--b--\r\n", _FORM),
            (b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n--b--\r\n' * 100, _FORM),
            (b"--b\r\n" + b"X: y\r\n" * 10_000 + b"\r\n\r\n--b--\r\n", _FORM),
            (b"--b\r\nContent-Disposition: " + b"a" * 10**6, _FORM),
            (part(b"image", b"x")[:-10], _FORM),
            (b"x", {"Content-Type": "multipart/form-data"}),
            (b"x", {"Content-Type": "multipart/form-data; boundary=" + "b" * 5000}),
            (b"x", {"Content-Type": "application/x-www-form-urlencoded"}),
            (b"x", {"Content-Type": "text/plain"}),
        ]
    )
    return Attack("forms", (http(target, "/classify", body, headers),))


def lengths(target: Target, r: random.Random) -> Attack:
    head, data = valid(target, r)
    text = json.dumps(head).encode()
    odd = r.choice(
        ["-1", "0", "1", "+5", "1e3", "0x10", " ", "", "9" * 40, str(2**63), "٣", "5, 6"]
    )
    whole = http(target, target.infer, text + data, {HEADER_LENGTH: odd})
    if r.random() < 0.3:
        twice = f"{HEADER_LENGTH}: {len(text)}\r\n{HEADER_LENGTH}: {odd}\r\n\r\n".encode()
        whole = http(target, target.infer, text + data).replace(b"\r\n\r\n", b"\r\n" + twice, 1)
    return Attack("Inference-Header-Content-Length", (whole,))


ODD_LENGTHS = ("-1", "9" * 20, str(2**40), str(2**63), "1x", "0x10", "+3", "5, 6")
CHUNKED = {"Transfer-Encoding": "chunked"}


def framing(target: Target, r: random.Random) -> Attack:
    head, data = valid(target, r)
    body = json.dumps(head).encode() + data
    host = b"Host: " + target.host.encode() + b"\r\n"
    bodies = [b"5\r\nab", b"F" * 16 + b"\r\nab\r\n", b"-5\r\nab\r\n0\r\n\r\n", b"zz\r\n"]
    headers = [
        {"Content-Length": "3"},
        CHUNKED,
        {"Transfer-Encoding": "gzip, chunked"},
        {"X-" + "a" * 9: "b" * 100_000},
        {f"X-{n}": "b" * 90 for n in range(1000)},
        {"Expect": "100-continue"},
    ]
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Range": "bytes=0-1"}
    raw = [
        http(target, "/" + "a" * 100_000, method="GET"),
        http(target, "/v2", method="G\0T"),
        http(target, "/v2", method="BREW"),
        http(target, "/v2", headers=upgrade, method="GET"),
        b"GET /v2\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\n\r\n",
        b"GET /v2 HTTP/9.9\r\n" + host + b"\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + r.randbytes(200),
        b"GET /v2 HTTP/1.1\n" + host + b" folded\n\n",
        r.randbytes(400),
    ]
    makers = [
        lambda: http(target, target.infer, body, length=r.choice(ODD_LENGTHS)),
        lambda: http(target, target.infer, r.choice(bodies), CHUNKED, length=""),
        lambda: http(target, target.infer, body, r.choice(headers)),
        lambda: r.choice(raw),
    ]
    return Attack("HTTP framing", (r.choice(makers)(),), end="leave")


def chunks(target: Target, r: random.Random) -> Attack:
    head, data = valid(target, r)
    text = json.dumps(head).encode()
    body, pieces = text + data, []
    while body:
        size = r.choice([1, 7, 300])
        pieces.append(b"%x\r\n%s\r\n" % (len(body[:size]), body[:size]))
        body = body[size:]
    headers = {"Transfer-Encoding": "chunked", HEADER_LENGTH: len(text)}
    start = http(target, target.infer, b"", headers, length="")
    return Attack("chunked", (start, b"".join(pieces), b"0\r\n\r\n"))


def gone(target: Target, r: random.Random) -> Attack:
    end: End = r.choice(["close", "reset"])
    return Attack("clients that go away", (infer(target, *valid(target, r)),), end=end)


def slow(target: Target, r: random.Random) -> Attack:
    """A byte a second, or nothing after the headers or a part of them."""
    whole = infer(target, *valid(target, r))
    start = whole[: r.choice([10, 60, whole.index(b"\r\n\r\n") + 4, whole.index(b"\r\n\r\n") + 30])]
    bytes_a_second = tuple(whole[len(start) + n : len(start) + n + 1] for n in range(100))
    return Attack("slow clients", (start, *r.choice([(), bytes_a_second])), pause=1.0)


PATHS = (
    *("/../../etc/passwd", "/latest/../../x.png", "/latest/%2e%2e%2fx.png", "/page/../x", "*"),
    *("/v2/models/%00", "/v2/models/" + "%F0%9F%98%80" * 50, "//", "/v2//health/live", "/%"),
    *("/v2/models/x/versions/-1", "/v2/health/", "/openapi.json/", "/?" + "&" * 999, "/metrics/x"),
    *("/v2/repository/models/x/load", "/v2/systemsharedmemory/region/a/register", "http://a/v2"),
)
METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "CONNECT")


def paths(target: Target, r: random.Random) -> Attack:
    path, method = r.choice(PATHS), r.choice(METHODS)
    end: End = "leave" if method == "CONNECT" else "wait"
    return Attack("paths", (http(target, path, method=method),), end=end)


def changes(target: Target, r: random.Random) -> Attack:
    values: list[Any] = [
        {},
        [],
        None,
        {"max_drop": -1},
        {"max_drop": "0"},
        {"cost": 1e308},
        {"name": "x" * 9999},
    ]
    values += [
        {"name": None},
        {"a": 1},
        [{"request_id": "x", "label": 1}],
        [{"request_id": 1}],
        [[]],
    ]
    kind = r.choice(["application/json", "text/plain", "application/json; charset=utf-16"])
    host = r.choice([target.host, "evil.example", "[::1", "", "localhost:99999"])
    method, path = r.choice(
        [("PUT", "/operating-point"), ("POST", "/feedback"), ("POST", "/watch/reset")]
    )
    body = r.choice([json.dumps(r.choice(values)).encode(), r.randbytes(50), b""])
    other = target._replace(host=host)
    return Attack("changes", (http(other, path, body, {"Content-Type": kind}, method=method),))


SHARES: Mapping[Maker, int] = {
    honest: 10, changed: 10, truncated: 6, cut_tensors: 6, huge_sizes: 10, other_tensors: 12,
    odd_json: 5, compressed: 6, images: 8, forms: 4, lengths: 7, framing: 8, chunks: 4, gone: 6,
    paths: 6, changes: 5,
}  # fmt: skip
"""How often each of them comes; slow clients stand beside them."""


def attacks(target: Target, count: int, seed: int) -> list[Attack]:
    """Some attacks, always the same ones."""
    r = random.Random(seed)
    makers = r.choices([*SHARES], [*SHARES.values()], k=count)
    return [maker(target, r) for maker in makers]
