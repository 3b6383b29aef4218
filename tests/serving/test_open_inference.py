"""Requests and responses of inference: read, written, and refused where they are malformed."""

from __future__ import annotations

from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from infer_messages import infer_request, outputs_in
from understudy.runtime.protocol import SampleKind
from understudy.serving.model_metadata import ImageSpec, images_of, model_metadata
from understudy.serving.open_inference import (
    HEADER_LENGTH,
    OUTPUTS,
    Outputs,
    read_infer_request,
    write_infer_response,
)
from understudy.serving.tensors import ProtocolError

IMAGES = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)
ANSWERS = Outputs(
    prediction=[2, 0],
    confidence=[float(np.float32(0.9)), 0.25],
    exit=["tiny", "big"],
    request_id=["a.0", "a.1"],
    cost=[0.1, 1e9 / 3],
    logits=np.array([[0.5, -1, 3.3], [2.5, 2.5, -np.inf]], np.float32),
    classes=("apple", "pickle", "pear"),
    parameters={"request_id": "a"},
)


def read(images: Any, **more: Any) -> Any:
    body, headers = infer_request(images, **more)
    return read_infer_request(body, int(headers.get(HEADER_LENGTH, len(body))))


def written(request: Any, answers: Outputs = ANSWERS) -> tuple[dict[str, Any], dict[str, Any]]:
    """The JSON of a response, and its outputs."""
    body, headers = write_infer_response(request, answers, model="m", version="1")
    length = headers.get(HEADER_LENGTH.lower())
    size = len(body) if length is None else int(length)
    return orjson.loads(body[:size]), outputs_in(body, None if length is None else size)


@pytest.mark.parametrize("binary", [True, False])
def test_images_come_as_bytes_or_as_json(binary: bool) -> None:
    request = read(IMAGES, binary=binary, id="42")
    images = images_of(request, ImageSpec(), max_images=2)
    np.testing.assert_array_equal(images, IMAGES)
    assert request.id == "42"


def test_encoded_images_come_as_bytes_or_in_base_64() -> None:
    request = read([b"\xff\xd8", b"\x89PNG"])
    assert images_of(request, ImageSpec(), max_images=2) == [b"\xff\xd8", b"\x89PNG"]
    text = {
        "name": "image", "datatype": "BYTES", "shape": [1, 1],
        "parameters": {"content_type": "base64"}, "data": ["/9g="],
    }  # fmt: skip
    request = read_infer_request(orjson.dumps({"inputs": [text]}))
    assert images_of(request, ImageSpec(), max_images=2) == [b"\xff\xd8"]


def test_a_raw_body_is_images_of_the_one_size_or_an_encoded_image() -> None:
    request = read_infer_request(IMAGES.tobytes(), 0)
    images = images_of(request, ImageSpec(shape=(3, 4, 5)), max_images=2)
    np.testing.assert_array_equal(images, IMAGES)
    assert images_of(request, ImageSpec(), max_images=2) == [IMAGES.tobytes()]
    _, outputs = written(request)
    assert outputs["prediction"].tolist() == [2, 0]
    _, headers = write_infer_response(request, ANSWERS, model="m", version="1")
    assert headers["content-type"] == "application/octet-stream"


@pytest.mark.parametrize("binary", [True, False])
def test_all_outputs_come_back_exactly(binary: bool) -> None:
    names = [{"name": name, "parameters": {"binary_data": binary}} for name in OUTPUTS]
    response, outputs = written(read(IMAGES, outputs=names, id="x"))
    assert [*outputs] == [*OUTPUTS]
    for name in ("prediction", "confidence", "cost", "exit", "request_id"):
        assert outputs[name].tolist() == list(getattr(ANSWERS, name))
    assert ANSWERS.logits is not None
    finite = np.where(np.isinf(ANSWERS.logits), -np.inf if binary else np.nan, ANSWERS.logits)
    np.testing.assert_array_equal(outputs["logits"], finite)  # JSON has no infinity
    assert response["id"] == "x"
    assert response["model_name"], response["model_version"] == ("m", "1")
    assert response["parameters"] == {"request_id": "a"}


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_floats_of_json_are_exact_and_short(values: list[float]) -> None:
    one = Outputs([0] * len(values), values, ["a"] * len(values), ["r"] * len(values))
    _, outputs = written(read(IMAGES), one)
    assert outputs["confidence"].dtype == np.float32
    np.testing.assert_array_equal(outputs["confidence"], np.array(values, np.float32))


@pytest.mark.parametrize(
    ("parameters", "wish", "binary"),
    [
        ({}, {}, False),
        ({"binary_data_output": True}, {}, True),
        ({"binary_data_output": True}, {"binary_data": False}, False),
        ({"binary_data_output": False}, {"binary_data": True}, True),
    ],
)
def test_the_wish_for_an_output_goes_before_that_for_all(
    parameters: dict[str, bool], wish: dict[str, bool], binary: bool
) -> None:
    named = [{"name": "exit", "parameters": wish}]
    response, _ = written(read(IMAGES, parameters=parameters, outputs=named))
    [output] = response["outputs"]
    assert ("data" in output) is not binary
    assert ("parameters" in output) is binary


def test_default_outputs() -> None:
    _, outputs = written(read(IMAGES))
    assert [*outputs] == ["prediction", "confidence", "exit", "cost"]
    free = Outputs([1], [0.5], ["big"], ["r"])
    _, outputs = written(read(IMAGES), free)
    assert [*outputs] == ["prediction", "confidence", "exit"]


def test_classes_of_logits_and_of_the_prediction() -> None:
    names = [
        {"name": "logits", "parameters": {"classification": 2}},
        {"name": "prediction", "parameters": {"classification": 9, "binary_data": True}},
    ]
    request = read(IMAGES, outputs=names)
    assert request.needs_logits
    response, outputs = written(request)
    assert outputs["logits"].tolist() == [
        ["3.3:2:pear", "0.5:0:apple"],
        ["2.5:0:apple", "2.5:1:pickle"],  # of ties the first
    ]
    assert outputs["prediction"].shape == (2, 3)  # as many as there are
    shares = [float(text.split(":")[0]) for text in outputs["prediction"][0]]
    assert sum(shares) == pytest.approx(1)
    assert [one["datatype"] for one in response["outputs"]] == ["BYTES", "BYTES"]


def test_classes_without_names_are_numbers() -> None:
    bare = Outputs([2], [0.5], ["big"], ["r"], logits=np.array([[1, 2, 4]], np.float32))
    named = [{"name": "logits", "parameters": {"classification": 1}}]
    _, outputs = written(read(IMAGES[:1], outputs=named), bare)
    assert outputs["logits"].tolist() == [["4.0:2"]]


def test_unknown_and_reserved_parameters_are_left_alone() -> None:
    kept = {"sequence_id": 3, "priority": [1], "timeout": "x", "triton_x": None, "mine": {}}
    request = read(IMAGES, parameters=kept, outputs=[{"name": "exit", "parameters": kept}])
    assert [one.name for one in request.outputs] == ["exit"]


TENSOR = {"name": "image", "datatype": "UINT8", "shape": [2], "data": [1, 2]}


def asking(output: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """A request for an output."""
    return {"inputs": [TENSOR], "outputs": [{"name": output, "parameters": parameters}]}


BAD: list[tuple[Any, int]] = [
    ({}, 400),
    ([], 400),
    ({"inputs": {}}, 400),
    ({"inputs": [[]]}, 400),
    ({"inputs": [{**TENSOR, "name": 1}]}, 400),
    ({"inputs": [TENSOR, TENSOR]}, 400),
    ({"inputs": [{**TENSOR, "datatype": "STRING"}]}, 400),
    ({"inputs": [{**TENSOR, "datatype": ["UINT8"]}]}, 400),
    ({"inputs": [{**TENSOR, "shape": [True, 2]}]}, 400),
    ({"inputs": [{**TENSOR, "shape": [-1]}]}, 400),
    ({"inputs": [{**TENSOR, "shape": [2.0]}]}, 400),
    ({"inputs": [{**TENSOR, "shape": None}]}, 400),
    ({"inputs": [{**TENSOR, "data": [1]}]}, 400),
    ({"inputs": [{**TENSOR, "data": [1, None]}]}, 400),
    ({"inputs": [{**TENSOR, "data": [1, -1]}]}, 400),
    ({"inputs": [{**TENSOR, "parameters": [1]}]}, 400),
    ({"inputs": [{**TENSOR, "parameters": {"binary_data_size": 2}}]}, 400),
    ({"inputs": [{**TENSOR, "parameters": {"shared_memory_region": "r"}}]}, 501),
    (asking("exit", {"shared_memory_region": 1}), 501),
    ({"inputs": [TENSOR], "id": 42}, 400),
    ({"inputs": [TENSOR], "parameters": 3}, 400),
    ({"inputs": [TENSOR], "parameters": {"binary_data_output": 1}}, 400),
    ({"inputs": [TENSOR], "outputs": [{"name": "nothing"}]}, 400),
    ({"inputs": [TENSOR], "outputs": [{"name": "exit"}, {"name": "exit"}]}, 400),
    (asking("exit", {"classification": 1}), 400),
    (asking("logits", {"classification": -1}), 400),
    (asking("logits", {"classification": "5"}), 400),
    ({"inputs": [{"name": "image", "datatype": "BYTES", "shape": [2**60], "data": []}]}, 400),
]  # fmt: skip


@pytest.mark.parametrize(("request_", "status"), BAD)
def test_malformed_requests_are_refused(request_: Any, status: int) -> None:
    with pytest.raises(ProtocolError) as refused:
        read_infer_request(orjson.dumps(request_))
    assert refused.value.status == status


@given(st.data())
def test_a_cut_or_changed_request_is_read_or_refused(data: st.DataObject) -> None:
    body, headers = infer_request(IMAGES, outputs=[{"name": "logits"}], id="1")
    raw = bytearray(body)
    for _ in range(data.draw(st.integers(0, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(raw[: data.draw(st.integers(0, len(raw)))])
    length = data.draw(
        st.none() | st.integers(-1, len(body) + 1) | st.just(int(headers[HEADER_LENGTH]))
    )
    with suppress(ProtocolError):
        images_of(read_infer_request(cut, length), ImageSpec(), max_images=4)


KEYS = [
    *("name", "shape", "datatype", "data", "parameters", "inputs", "outputs", "id"),
    *("binary_data", "binary_data_size", "classification", "binary_data_output"),
]
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 2**64 - 1) | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS),
            inner | st.sampled_from(["image", "UINT8", "BYTES", "logits"]),
        )
    ),
    max_leaves=15,
)


@given(VALUES)
@example({"inputs": [{"name": "image", "shape": [0, 3, 2, 2], "datatype": "UINT8", "data": []}]})
def test_any_json_is_a_request_or_refused(value: Any) -> None:
    with suppress(ProtocolError):
        images_of(read_infer_request(orjson.dumps(value)), ImageSpec(), max_images=4)


def test_too_much_json_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(ProtocolError) as refused:
        read_infer_request(b"{" * 100, max_json_bytes=99)
    assert refused.value.status == 413


@pytest.mark.parametrize(
    ("images", "found"),
    [
        (IMAGES.astype(np.float32), "FP32"),
        (IMAGES[:, :1], "[2, 1, 4, 5]"),
        (IMAGES[0], "[3, 4, 5]"),
        (IMAGES[:0], "[0, 3, 4, 5]"),
        (IMAGES[:, :, :0], "[2, 3, 0, 5]"),
        (np.repeat(IMAGES, 2, 0), "found 4"),
        ([b""] * 4, "found 4"),
        ([], "found 0"),
    ],
)
def test_other_images_are_refused(images: Any, found: str) -> None:
    with pytest.raises(ProtocolError, match=found.replace("[", r"\[")):
        images_of(read(images), ImageSpec(), max_images=3)


def test_float_images_where_the_cascade_takes_them() -> None:
    images = IMAGES.astype(np.float32)
    spec = ImageSpec("FP32", (3, 4, 5), encoded=False)
    np.testing.assert_array_equal(images_of(read(images), spec, max_images=2), images)
    with pytest.raises(ProtocolError):
        images_of(read([b"png"]), spec, max_images=2)


def test_images_of_an_unknown_kind_are_left_to_the_models() -> None:
    spec = ImageSpec.of(object())
    rows = IMAGES.reshape(2, -1).astype(np.float64)
    np.testing.assert_array_equal(images_of(read(rows), spec, max_images=2), rows)


def test_another_input_is_refused() -> None:
    both = {"inputs": [TENSOR, {**TENSOR, "name": "mask"}]}
    with pytest.raises(ProtocolError, match="found image, mask"):
        images_of(read_infer_request(orjson.dumps(both)), ImageSpec(), max_images=2)


def test_metadata() -> None:
    cascade = SimpleNamespace(sample_kind=SampleKind("uint8", (3, None, None), resized=True))
    found = model_metadata(cascade, name="m", version="1", classes=7)
    assert found["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 3, -1, -1]}]
    assert {one["name"]: (one["datatype"], one["shape"]) for one in found["outputs"]} == {
        "prediction": ("INT64", [-1]),
        "confidence": ("FP32", [-1]),
        "exit": ("BYTES", [-1]),
        "cost": ("FP64", [-1]),
        "logits": ("FP32", [-1, 7]),
        "request_id": ("BYTES", [-1]),
    }
