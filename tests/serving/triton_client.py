"""What `tritonclient[http]` gets from a server: a program, run by test_protocol_clients.py."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from array_cascade import CLASSES, image, logits

MODEL = "arrays"
IMAGES = np.stack([image(3), image(5, easy=False, seed=1)])


def given(binary: bool = True, name: str = "image") -> list[triton.InferInput]:
    """The images as an input."""
    one = triton.InferInput(name, list(IMAGES.shape), "UINT8")
    one.set_data_from_numpy(IMAGES, binary_data=binary)
    return [one]


def texts(values: Any) -> list[str]:
    """The elements of a BYTES tensor, which come as texts where they come as JSON."""
    return [one.decode() if isinstance(one, bytes) else str(one) for one in values.ravel()]


def check_health(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert client.is_model_ready(MODEL, "1")
    assert not client.is_model_ready("other")


def check_metadata(client: triton.InferenceServerClient) -> None:
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    found = client.get_model_metadata(MODEL, "1")
    assert found["inputs"][0]["shape"] == [-1, *IMAGES.shape[1:]]


def check_inference(client: triton.InferenceServerClient) -> None:
    for binary in (True, False):
        found = client.infer(MODEL, given(binary), request_id="7")
        assert found.as_numpy("prediction").tolist() == [3, 5]
        assert texts(found.as_numpy("exit")) == ["tiny", "big"]
        assert found.as_numpy("confidence").dtype == np.float32
        assert found.get_response()["id"] == "7"
        wanted = [
            triton.InferRequestedOutput("logits", binary_data=binary),
            triton.InferRequestedOutput("exit", binary_data=not binary),
        ]
        found = client.infer(MODEL, given(not binary), outputs=wanted, model_version="1")
        expected = np.stack([logits(3), logits(5, easy=False)])
        np.testing.assert_array_equal(found.as_numpy("logits"), expected)
        assert texts(found.as_numpy("exit")) == ["tiny", "big"]


def check_classification(client: triton.InferenceServerClient) -> None:
    for binary in (True, False):
        wanted = [triton.InferRequestedOutput("logits", binary_data=binary, class_count=5)]
        found = client.infer(MODEL, given(), outputs=wanted).as_numpy("logits")
        assert found.shape == (2, 5)
        assert texts(found)[0] == f"8.0:3:{CLASSES[3]}"


def check_compression(client: triton.InferenceServerClient) -> None:
    for name in ("gzip", "deflate"):
        found = client.infer(
            MODEL, given(), request_compression_algorithm=name, response_compression_algorithm=name
        )
        assert found.as_numpy("prediction").tolist() == [3, 5]


def check_async(client: triton.InferenceServerClient) -> None:
    waiting = [client.async_infer(MODEL, given()) for _ in range(8)]
    for one in waiting:
        assert one.get_result().as_numpy("prediction").tolist() == [3, 5]


def check_statistics(client: triton.InferenceServerClient) -> None:
    [found] = client.get_inference_statistics(MODEL)["model_stats"]
    assert found["inference_count"] > 0
    assert found["inference_stats"]["success"]["count"] > 0
    assert client.get_inference_statistics()["model_stats"][0]["name"] == MODEL


def check_errors(client: triton.InferenceServerClient) -> None:
    def status(call: object, *values: object) -> tuple[str, str]:
        try:
            call(*values)  # type: ignore[operator]
        except InferenceServerException as error:
            return str(error.status()), error.message()
        return "200", ""

    refused = [
        (status(client.infer, "other", given()), "404"),
        (status(client.infer, MODEL, given(name="pixels")), "400"),
        (status(client.get_model_metadata, MODEL, "2"), "404"),
        (status(client.get_model_repository_index), "501"),
        (status(client.get_system_shared_memory_status), "501"),
        (status(client.get_model_config, MODEL), "501"),
    ]
    for (found, message), expected in refused:
        assert found == expected, (found, message)
        assert "found" in message, message


def main() -> None:
    with triton.InferenceServerClient(sys.argv[1], concurrency=4) as client:
        check_health(client)
        check_metadata(client)
        check_inference(client)
        check_classification(client)
        check_compression(client)
        check_async(client)
        check_statistics(client)
        check_errors(client)


if __name__ == "__main__":
    main()
