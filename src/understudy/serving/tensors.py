"""Tensors of the Open Inference Protocol: from JSON and from bytes, and back.

Every size is checked before memory is allocated for it, and numbers that come as bytes are not
copied. Whatever is malformed is a `ProtocolError`.

Source: Open Inference Protocol v2 (`inference_rest.md`), and Triton's binary tensor data extension.
"""

from __future__ import annotations

import math
import struct
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Sequence
from itertools import chain
from reprlib import repr as short
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.errors import listed
from understudy.serving.request_errors import RequestError

Array = npt.NDArray[Any]

Tensor = Array | list[bytes]
"""Numbers as an array of the tensor's shape; BYTES as a list of its elements, row-major."""

DATATYPES = {
    "BOOL": np.dtype("?"),
    **{f"UINT{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
    **{f"INT{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"FP{8 * size}": np.dtype(f"<f{size}") for size in (2, 4, 8)},
}
"""Datatype of the protocol -> dtype of NumPy; BYTES has none."""

BYTES = "BYTES"
MOST_DIMENSIONS = 16
_LENGTH = struct.Struct("<I")
_JSON_TYPES: dict[str, set[type]] = {"b": {bool}, "u": {int}, "i": {int}, "f": {int, float}}


class ProtocolError(RequestError):
    """A request that the protocol does not allow, or that this server cannot answer.

    Args:
        message: the rule, what was found, and the way out.
        status: the HTTP status.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def checked_datatype(datatype: object) -> str:
    """A datatype of the protocol.

    Raises:
        ProtocolError: something else.
    """
    if isinstance(datatype, str) and (datatype in DATATYPES or datatype == BYTES):
        return datatype
    raise ProtocolError(
        f"a tensor has a datatype such as UINT8, FP32 or BYTES, found {short(datatype)}"
    )


def checked_shape(shape: object) -> tuple[int, ...]:
    """The shape of a tensor.

    >>> checked_shape([2, 3])
    (2, 3)

    Raises:
        ProtocolError: no list of whole numbers from 0, or too many of them.
    """
    if not isinstance(shape, list) or len(shape) > MOST_DIMENSIONS:
        raise ProtocolError(
            f"the shape of a tensor is a list of at most {MOST_DIMENSIONS} whole numbers, found "
            f"{_kind(shape)}"
        )
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ProtocolError(f"the shape of a tensor has whole numbers from 0, found {_kind(shape)}")
    return tuple(shape)


def tensor_from_json(
    datatype: str, shape: tuple[int, ...], data: object, *, base64: bool
) -> Tensor:
    """A tensor from its `data` in JSON, flat or nested as its shape.

    Args:
        datatype: one of the protocol's.
        shape: its shape.
        data: lists of numbers, of true and false, or of texts.
        base64: whether texts are bytes in base 64, rather than UTF-8.

    >>> tensor_from_json("UINT8", (2, 2), [[1, 2], [3, 4]], base64=False)
    array([[1, 2],
           [3, 4]], dtype=uint8)
    >>> tensor_from_json("BYTES", (1,), ["aGk="], base64=True)
    [b'hi']

    Raises:
        ProtocolError: other values, more or fewer of them than the shape has, or numbers that the
            datatype cannot hold; FP16, which has no place in JSON.
    """
    values = _flat(data, shape)
    if datatype == BYTES:
        return _texts(values, base64=base64)
    if datatype == "FP16":
        raise ProtocolError("FP16 has no values in JSON, found `data`: send it as binary data")
    try:
        numbers = _numbers(values, DATATYPES[datatype])
    except (OverflowError, FloatingPointError, TypeError, ValueError):
        kinds = listed(sorted({type(one).__name__ for one in values}))
        raise ProtocolError(
            f"the data of a {datatype} tensor are numbers that it holds, found {kinds}"
        ) from None
    return _shaped(numbers, shape)


def _numbers(values: list[Any], dtype: np.dtype[Any]) -> Array:
    """The numbers of a list, refused where they are no numbers of a dtype."""
    if dtype == np.uint8:  # three times as fast
        return np.frombuffer(bytes(values), np.uint8)
    if not set(map(type, values)) <= _JSON_TYPES[dtype.kind]:
        raise TypeError
    with np.errstate(over="raise"):
        wide = np.float64 if dtype.kind == "f" else dtype
        return np.array(values, wide).astype(dtype, copy=False)


def tensor_from_bytes(datatype: str, shape: tuple[int, ...], data: memoryview) -> Tensor:
    """A tensor from its binary data; an array shares their memory.

    >>> tensor_from_bytes("UINT8", (2,), memoryview(b"ab"))
    array([97, 98], dtype=uint8)
    >>> tensor_from_bytes("BYTES", (2,), memoryview(b"\\x02\\0\\0\\0hi\\0\\0\\0\\0"))
    [b'hi', b'']

    Raises:
        ProtocolError: more or fewer bytes than the shape has.
    """
    count = math.prod(shape)
    if datatype == BYTES:
        return _elements(data, count)
    dtype = DATATYPES[datatype]
    if count * dtype.itemsize != len(data):
        raise ProtocolError(
            f"a {datatype} tensor of shape {list(shape)} has {count * dtype.itemsize:,} bytes, "
            f"found {len(data):,}"
        )
    if datatype == "BOOL":
        return _shaped(np.frombuffer(data, np.uint8) != 0 if count else np.empty(0, dtype), shape)
    return _shaped(np.frombuffer(data, dtype) if count else np.empty(0, dtype), shape)


def bytes_of(tensor: Tensor) -> bytes:
    """The binary data of a tensor.

    >>> bytes_of(np.array([1, 2], np.int16)), bytes_of([b"hi"])
    (b'\\x01\\x00\\x02\\x00', b'\\x02\\x00\\x00\\x00hi')
    """
    if isinstance(tensor, list):
        return b"".join([part for one in tensor for part in (_LENGTH.pack(len(one)), one)])
    return tensor.astype(tensor.dtype.newbyteorder("<"), copy=False).tobytes()


def _shaped(values: Array, shape: tuple[int, ...]) -> Array:
    try:
        return values.reshape(shape)
    except ValueError:  # of no values, but with a size that no array has
        raise ProtocolError(f"a tensor has a shape of moderate size, found {list(shape)}") from None


def _flat(data: object, shape: tuple[int, ...]) -> list[Any]:
    """The values of lists that are flat, or nested as the shape is."""
    if not isinstance(data, list):
        raise ProtocolError(f"the data of a tensor are a list, found {_kind(data)}")
    values: list[Any] = data
    if values and type(values[0]) is list:
        for depth, size in enumerate(shape):
            if depth and not all(type(one) is list and len(one) == size for one in values):
                raise _other_size(shape)
            if depth:
                values = list(chain.from_iterable(values))
            elif len(values) != size:
                raise _other_size(shape)
    if len(values) != math.prod(shape):
        raise _other_size(shape)
    return values


def _other_size(shape: Sequence[int]) -> ProtocolError:
    return ProtocolError(
        f"the data of a tensor are a list of all its values, or lists nested as its shape "
        f"{list(shape)} is, found others: give as many as the shape has"
    )


def _texts(values: list[Any], *, base64: bool) -> list[bytes]:
    if not all(type(one) is str for one in values):
        raise ProtocolError("the data of a BYTES tensor in JSON are texts, found something else")
    if not base64:
        return [one.encode() for one in values]
    try:
        return [b64decode(one, validate=True) for one in values]
    except (Base64Error, ValueError):
        raise ProtocolError(
            'with "content_type": "base64" the data are texts in base 64, found another one'
        ) from None


def _elements(data: memoryview, count: int) -> list[bytes]:
    """The elements of a BYTES tensor: each its length (u32), and so many bytes."""
    if count * _LENGTH.size > len(data):
        raise ProtocolError(
            f"each element of a BYTES tensor has a length of 4 bytes before it, found "
            f"{len(data):,} bytes for {count:,} elements"
        )
    elements, start = [], 0
    for _ in range(count):
        if start + _LENGTH.size > len(data):
            raise _cut_off()
        end = start + _LENGTH.size + _LENGTH.unpack_from(data, start)[0]
        if end > len(data):
            raise _cut_off()
        elements.append(bytes(data[start + _LENGTH.size : end]))
        start = end
    if start != len(data):
        raise ProtocolError(
            f"a BYTES tensor of {count:,} elements ends with the last one, found "
            f"{len(data) - start:,} bytes behind it"
        )
    return elements


def _cut_off() -> ProtocolError:
    return ProtocolError("an element of a BYTES tensor has the length before it, found fewer bytes")


def _kind(value: object) -> str:
    """A value as an error message has it: short, whatever it is."""
    return f"{type(value).__name__} {short(value)}"
