"""Tensors of the protocol: what is written is read again, and whatever is malformed is refused."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

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

NUMBERS = [name for name in DATATYPES if name != "FP16"]
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


def size_of(tensor: Tensor) -> int:
    """The number of values of a tensor."""
    return len(tensor) if isinstance(tensor, list) else tensor.size


@st.composite
def arrays(draw: st.DrawFn, names: list[str]) -> tuple[str, Array]:
    """A datatype, and an array of it whose numbers are finite."""
    name = draw(st.sampled_from(names))
    elements = hnp.from_dtype(DATATYPES[name], allow_nan=False, allow_infinity=False)
    return name, draw(hnp.arrays(DATATYPES[name], draw(SHAPES), elements=elements))


@given(arrays([*DATATYPES]))
def test_numbers_come_back_from_bytes(tensor: tuple[str, Array]) -> None:
    name, values = tensor
    read = tensor_from_bytes(name, values.shape, memoryview(bytes_of(values)))
    assert isinstance(read, np.ndarray)
    assert read.dtype == values.dtype
    np.testing.assert_array_equal(read, values)


@given(arrays(NUMBERS), st.booleans())
def test_numbers_come_back_from_json(tensor: tuple[str, Array], nested: bool) -> None:
    name, values = tensor
    shown = values if nested and values.ndim else values.ravel()
    data = orjson.loads(
        orjson.dumps(np.ascontiguousarray(shown), option=orjson.OPT_SERIALIZE_NUMPY)
    )
    read = tensor_from_json(name, values.shape, data, base64=False)
    assert isinstance(read, np.ndarray)
    assert read.dtype == values.dtype
    np.testing.assert_array_equal(read, values)


@given(st.lists(st.binary(max_size=20), max_size=5))
def test_elements_come_back_from_bytes(elements: list[bytes]) -> None:
    data = memoryview(bytes_of(elements))
    assert tensor_from_bytes(BYTES, (len(elements),), data) == elements


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=5))
def test_texts_come_from_json(texts: list[str]) -> None:
    read = tensor_from_json(BYTES, (len(texts),), texts, base64=False)
    assert read == [text.encode() for text in texts]


@given(
    st.sampled_from([*DATATYPES, BYTES]),
    st.lists(st.integers(0, 2**63), max_size=6),
    st.binary(max_size=64),
)
@example("UINT8", [0, 2**62, 2**62], b"")
@example("BYTES", [2**62], b"\xff\xff\xff\xff")
@example("BYTES", [2], b"\x00\x00\x00\x00\xff\xff\xff\xff")
@example("FP64", [2**61], b"")
def test_any_bytes_are_a_tensor_or_refused(name: str, shape: list[int], data: bytes) -> None:
    with suppress(ProtocolError):
        read = tensor_from_bytes(name, tuple(shape), memoryview(data))
        assert size_of(read) == math.prod(shape)
        assert bytes_of(read) == data or name == "BOOL"


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)


@given(
    st.sampled_from([*DATATYPES, BYTES]),
    st.lists(st.integers(0, 4), max_size=4),
    JSON,
    st.booleans(),
)
@example("FP32", [1], [1e300], False)
@example("FP32", [2], [[1.0], 2.0], False)
@example("UINT8", [1], [256], False)
@example("INT64", [1], [2**64 - 1], False)
@example("UINT8", [1], ["1"], False)
@example("BYTES", [1], ["é"], True)
def test_any_json_is_a_tensor_or_refused(
    name: str, shape: list[int], data: Any, base64: bool
) -> None:
    with suppress(ProtocolError):
        read = tensor_from_json(name, tuple(shape), data, base64=base64)
        assert size_of(read) == math.prod(shape)


@given(JSON)
@example([2**64 - 1] * 16)
def test_any_json_is_a_shape_or_refused(value: Any) -> None:
    with suppress(ProtocolError):
        assert list(checked_shape(value)) == value


@given(JSON)
def test_any_json_is_a_datatype_or_refused(value: Any) -> None:
    with pytest.raises(ProtocolError):
        checked_datatype(value)


def test_numbers_are_not_copied() -> None:
    body = bytes(range(12))
    read = tensor_from_bytes("UINT8", (2, 6), memoryview(body))
    assert isinstance(read, np.ndarray)
    assert np.shares_memory(read, np.frombuffer(body, np.uint8))


def test_numbers_are_little_endian() -> None:
    assert bytes_of(np.array([1], ">i4")) == b"\x01\0\0\0"


def test_infinity_is_no_overflow_in_bytes() -> None:
    data = memoryview(bytes_of(np.array([np.inf, -np.inf], np.float32)))
    read = tensor_from_bytes("FP32", (2,), data)
    assert isinstance(read, np.ndarray)
    assert np.isinf(read).all()
