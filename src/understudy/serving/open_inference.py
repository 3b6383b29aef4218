"""Requests and responses of inference in the Open Inference Protocol v2: bytes in, bytes out.

With the binary tensor data extension (a header of JSON, and the tensors behind it in order), raw
bodies (a header of length 0), and the classification extension. Parameters that are unknown, or
reserved by other servers, are left alone.

Source: Open Inference Protocol v2 (`inference_rest.md`); Triton's `extension_binary_data.md` and
`extension_classification.md`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from reprlib import repr as short
from types import MappingProxyType
from typing import Any

import numpy as np
import orjson

from understudy.serving.tensors import (
    BYTES,
    DATATYPES,
    Array,
    ProtocolError,
    Tensor,
    bytes_of,
    checked_datatype,
    checked_shape,
    tensor_from_bytes,
    tensor_from_json,
)

HEADER_LENGTH = "Inference-Header-Content-Length"
LOGITS, PREDICTION = "logits", "prediction"
BY_DEFAULT = ("prediction", "confidence", "exit", "cost")
"""The outputs of a response to a request that names none; `cost` where it is known."""

OUTPUTS = {
    "prediction": "INT64",
    "confidence": "FP32",
    "exit": BYTES,
    "cost": "FP64",
    "logits": "FP32",
    "request_id": BYTES,
}
"""Output -> its datatype; the names of the attributes of `Outputs`."""

CLASSIFIED = (LOGITS, PREDICTION)

_SHARED_MEMORY = "shared_memory_region"
_JSON = {"content-type": "application/json"}


@dataclass(frozen=True)
class InferInput:
    """An input of a request; see `Tensor` for its data."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Tensor


@dataclass(frozen=True)
class RequestedOutput:
    """An output that a request names.

    Attributes:
        name: one of `OUTPUTS`.
        binary: whether it comes as binary data.
        classes: the number of classes that are wanted in its place; 0 for the output itself.
    """

    name: str
    binary: bool
    classes: int = 0


@dataclass(frozen=True)
class InferRequest:
    """A request.

    Attributes:
        id: its id, which is returned; None where it has none.
        inputs: its inputs.
        outputs: the outputs that it names; none for those by default.
        binary: whether outputs come as binary data that are not named.
        raw: the whole body as one input, in place of `inputs`.
    """

    id: str | None
    inputs: tuple[InferInput, ...]
    outputs: tuple[RequestedOutput, ...] = ()
    binary: bool = False
    raw: memoryview | None = None

    @property
    def needs_logits(self) -> bool:
        """Whether an output is wanted that comes from logits."""
        return any(one.classes or one.name == LOGITS for one in self.outputs)


@dataclass(frozen=True)
class Outputs:
    """The answers to the N images of a request.

    Attributes:
        prediction: N classes, by number.
        confidence: N confidences, float32.
        exit: the N names of the exits that answered.
        request_id: the N ids by which the answers are known.
        cost: N costs; None where they are not known.
        logits: (N, C) float32; None where they are not wanted.
        classes: the C names of the classes; None where they are not known.
        parameters: of the response.
    """

    prediction: Sequence[int]
    confidence: Sequence[float]
    exit: Sequence[str]
    request_id: Sequence[str]
    cost: Sequence[float] | None = None
    logits: Array | None = None
    classes: Sequence[str] | None = None
    parameters: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


def read_infer_request(
    body: bytes,
    header_length: int | None = None,
    *,
    max_elements: int = 2**16,
    max_json_bytes: int = 2**23,
) -> InferRequest:
    """A request from its body.

    Args:
        body: the body.
        header_length: the bytes of JSON in front (`Inference-Header-Content-Length`); None for all
            of them, 0 for a raw body: one input, as the model's metadata describe it.
        max_elements: the elements of a BYTES tensor, at most.
        max_json_bytes: the bytes of JSON, at most; Python needs some 20 times as many for them.

    >>> head = b'{"inputs": [{"name": "image", "datatype": "UINT8", "shape": [2], "data": [1, 2]}]}'
    >>> read_infer_request(head).inputs[0].data
    array([1, 2], dtype=uint8)

    Raises:
        ProtocolError: the body is no request; 413 for too much JSON, 501 for shared memory.
    """
    whole = memoryview(body)
    if header_length == 0:
        return InferRequest(None, (), binary=True, raw=whole)
    length = len(body) if header_length is None else header_length
    if not 0 < length <= len(body):
        raise ProtocolError(
            f"the JSON of a request is a part of its body of {len(body):,} bytes, found a length "
            f"of {length:,}: give it in {HEADER_LENGTH}"
        )
    if length > max_json_bytes:
        raise ProtocolError(
            f"a request has at most {max_json_bytes:,} bytes of JSON, found {length:,}: send its "
            "tensors as binary data",
            413,
        )
    head = _object(_parsed(whole[:length]), "a request")
    parameters = _object(head.get("parameters") or {}, "`parameters`")
    binary = _flag(parameters, "binary_data_output", default=False)
    identity = head.get("id")
    if identity is not None and not isinstance(identity, str):
        raise ProtocolError(f"the id of a request is a text, found {short(identity)}")
    return InferRequest(
        identity,
        _inputs(head.get("inputs"), whole[length:], max_elements),
        _outputs(head.get("outputs"), binary=binary),
        binary,
    )


def write_infer_response(
    request: InferRequest, outputs: Outputs, *, model: str, version: str
) -> tuple[bytes, dict[str, str]]:
    """The body of a response, and its headers.

    The outputs that the request names, in its order, or those by default; each as JSON (the
    shortest decimals that give the same number) or as binary data. Numbers that JSON lacks (NaN,
    infinities) are null there. Classes of `logits` come as `logit:class[:name]`, those of
    `prediction` as `probability:class[:name]`, with the softmax of the logits; highest first.

    Raises:
        ProtocolError: an output that is not there.
    """
    wanted = request.outputs or _default_outputs(outputs, binary=request.binary)
    heads, data = [], []
    for one in wanted:
        datatype, shape, values = _output(one, outputs)
        head: dict[str, Any] = {"name": one.name, "datatype": datatype, "shape": shape}
        if one.binary:
            data.append(bytes_of(values))
            head["parameters"] = {"binary_data_size": len(data[-1])}
        elif isinstance(values, list):
            head["data"] = [value.decode() for value in values]
        else:
            head["data"] = values.ravel()
        heads.append(head)
    response: dict[str, Any] = {"model_name": model, "model_version": version}
    if request.id is not None:
        response["id"] = request.id
    if outputs.parameters:
        response["parameters"] = dict(outputs.parameters)
    response["outputs"] = heads
    text = orjson.dumps(response, option=orjson.OPT_SERIALIZE_NUMPY)
    if not data:
        return text, _JSON
    headers = {"content-type": "application/octet-stream", HEADER_LENGTH.lower(): str(len(text))}
    return b"".join([text, *data]), headers


def _default_outputs(outputs: Outputs, *, binary: bool) -> list[RequestedOutput]:
    names = [name for name in BY_DEFAULT if name != "cost" or outputs.cost is not None]
    return [RequestedOutput(name, binary) for name in names]


def _output(wanted: RequestedOutput, outputs: Outputs) -> tuple[str, list[int], Tensor]:
    """The datatype, the shape and the values of an output."""
    count = len(outputs.prediction)
    if wanted.classes:
        classes = _top_classes(wanted, outputs)
        return BYTES, [count, len(classes) // count], classes
    values = getattr(outputs, wanted.name)
    if values is None:
        raise ProtocolError(
            f"an output is named where the cascade has it, found {wanted.name!r}, which this one "
            "lacks: leave it out"
        )
    datatype = OUTPUTS[wanted.name]
    if datatype == BYTES:
        return BYTES, [count], [name.encode() for name in values]
    numbers = np.ascontiguousarray(values, DATATYPES[datatype])
    return datatype, list(numbers.shape), numbers


def _top_classes(wanted: RequestedOutput, outputs: Outputs) -> list[bytes]:
    """The highest classes of each image, as texts, row-major."""
    values = outputs.logits
    if values is None:
        raise ProtocolError("classes come from logits, which this cascade lacks: ask for none")
    if wanted.name == PREDICTION:
        values = np.exp(values - values.max(axis=1, keepdims=True), dtype=np.float32)
        values /= values.sum(axis=1, keepdims=True)
    tops = np.argsort(-values, axis=1, kind="stable")[:, : wanted.classes]
    names = outputs.classes
    texts = []
    for row, top in zip(values, tops.tolist(), strict=True):
        for number in top:
            name = f":{names[number]}" if names is not None and number < len(names) else ""
            texts.append(f"{row[number]!s}:{number}{name}".encode())
    return texts


def _parsed(text: memoryview) -> object:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ProtocolError(f"a request is JSON in UTF-8, found other text: {error}") from None


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ProtocolError(f"{what} is an object in JSON, found {type(value).__name__}")
    return value


def _list(value: object, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise ProtocolError(f"{what} is a list in JSON, found {type(value).__name__}")
    return value


def _flag(parameters: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise ProtocolError(f"the parameter {name} is true or false, found {short(value)}")
    return value


def _count(parameters: Mapping[str, Any], name: str) -> int:
    value = parameters.get(name, 0)
    if type(value) is not int or value < 0:
        raise ProtocolError(f"the parameter {name} is a whole number from 0, found {short(value)}")
    return value


def _named(value: object, what: str) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """An input or output of a request, its name and its parameters."""
    one = _object(value, f"each of {what}")
    name = one.get("name")
    if not isinstance(name, str):
        raise ProtocolError(f"each of {what} has a text as its name, found {short(name)}")
    parameters = _object(one.get("parameters") or {}, "`parameters`")
    if _SHARED_MEMORY in parameters:
        raise ProtocolError(
            "tensors come in the body, found one in shared memory, which is not supported: send it "
            "as binary data",
            501,
        )
    return one, name, parameters


def _unique(names: Sequence[str], what: str) -> None:
    if len(set(names)) < len(names):
        raise ProtocolError(f"each of {what} has a name of its own, found one twice")


def _inputs(listed: object, data: memoryview, max_elements: int) -> tuple[InferInput, ...]:
    """The inputs, with their binary data behind the JSON."""
    inputs, start = [], 0
    for value in _list(listed, "`inputs`"):
        one, name, parameters = _named(value, "`inputs`")
        datatype, shape = checked_datatype(one.get("datatype")), checked_shape(one.get("shape"))
        if datatype == BYTES and math.prod(shape) > max_elements:
            raise ProtocolError(
                f"an input of BYTES has at most {max_elements:,} elements, found a shape of "
                f"{math.prod(shape):,}: send several requests"
            )
        if "binary_data_size" in parameters:
            size = _count(parameters, "binary_data_size")
            if "data" in one or size > len(data) - start:
                raise ProtocolError(
                    f"an input with binary_data_size has so many bytes behind the JSON, and no "
                    f"`data` in it, found {len(data) - start:,} bytes for {size:,}"
                )
            tensor = tensor_from_bytes(datatype, shape, data[start : start + size])
            start += size
        else:
            base64 = parameters.get("content_type") == "base64"
            tensor = tensor_from_json(datatype, shape, one.get("data"), base64=base64)
        inputs.append(InferInput(name, datatype, shape, tensor))
    if start != len(data):
        raise ProtocolError(
            f"a body ends with the binary data of its inputs, found {len(data) - start:,} bytes "
            "behind them: give binary_data_size"
        )
    _unique([one.name for one in inputs], "`inputs`")
    return tuple(inputs)


def _outputs(listed: object, *, binary: bool) -> tuple[RequestedOutput, ...]:
    outputs = []
    for value in _list(listed if listed is not None else [], "`outputs`"):
        _, name, parameters = _named(value, "`outputs`")
        if name not in OUTPUTS:
            raise ProtocolError(f"the outputs are {', '.join(OUTPUTS)}, found {short(name)}")
        classes = _count(parameters, "classification")
        if classes and name not in CLASSIFIED:
            raise ProtocolError(f"{' and '.join(CLASSIFIED)} have classes, found {name}")
        as_bytes = _flag(parameters, "binary_data", default=binary)
        outputs.append(RequestedOutput(name, as_bytes, classes))
    _unique([one.name for one in outputs], "`outputs`")
    return tuple(outputs)
