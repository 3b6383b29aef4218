"""Requests and responses of the protocol as a client writes and reads them."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson

from understudy.serving.open_inference import HEADER_LENGTH
from understudy.serving.tensors import DATATYPES, Array, tensor_from_bytes


def image_input(
    images: Array | list[bytes], *, binary: bool = True
) -> tuple[dict[str, Any], bytes]:
    """The input `image` as JSON, and its binary data."""
    head: dict[str, Any] = {"name": "image"}
    if isinstance(images, list):
        head |= {"datatype": "BYTES", "shape": [len(images)]}
        data = b"".join(len(one).to_bytes(4, "little") + one for one in images)
    else:
        name = next(name for name, dtype in DATATYPES.items() if dtype == images.dtype)
        head |= {"datatype": name, "shape": list(images.shape)}
        data = images.tobytes()
        if not binary:
            return {**head, "data": images.tolist()}, b""
    return {**head, "parameters": {"binary_data_size": len(data)}}, data


def infer_request(
    images: Array | list[bytes], *, binary: bool = True, **more: Any
) -> tuple[bytes, dict[str, str]]:
    """The body of a request for some images, and its headers; `more` stands beside `inputs`."""
    head, data = image_input(images, binary=binary)
    text = orjson.dumps({**more, "inputs": [head]})
    return text + data, {HEADER_LENGTH: str(len(text))} if data else {}


def outputs_in(body: bytes, header_length: int | None) -> dict[str, Any]:
    """The outputs of a response by name: arrays of their shape, and those of BYTES of texts."""
    length = len(body) if header_length is None else header_length
    start, outputs = length, {}
    for one in orjson.loads(body[:length])["outputs"]:
        size = one.get("parameters", {}).get("binary_data_size")
        if size is None:
            values: Any = one["data"]
        else:
            data = memoryview(body)[start : start + size]
            values = tensor_from_bytes(one["datatype"], tuple(one["shape"]), data)
            start += size
        if one["datatype"] == "BYTES":
            values = [value if isinstance(value, str) else value.decode() for value in values]
        dtype = DATATYPES.get(one["datatype"], np.dtype(object))
        outputs[one["name"]] = np.array(values, dtype).reshape(one["shape"])
    assert start == len(body)
    return outputs
