"""What KServe's client gets from a server: a program, run by test_protocol_clients.py."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable
from typing import Any

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

MODEL = "arrays"


def request(images: Any, *, binary: bool, **more: Any) -> InferRequest:
    """A request for some images."""
    one = InferInput("image", list(images.shape), "UINT8")
    one.set_data_from_numpy(images, binary_data=binary)
    return InferRequest(model_name=MODEL, infer_inputs=[one], **more)


async def check(url: str, images: Any, classes: list[int], exits: list[str]) -> None:
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        assert await client.is_server_live(url)
        assert await client.is_server_ready(url)
        assert await client.is_model_ready(url, MODEL)
        assert not await client.is_model_ready(url, "other")
        for binary in (True, False):
            for output in (True, False):
                wish = {"binary_data_output": output}
                sent = request(images, binary=binary, request_id="7", parameters=wish)
                found = await client.infer(url, sent, model_name=MODEL)
                outputs = {one.name: one.as_numpy() for one in found.outputs}
                assert outputs["prediction"].tolist() == classes
                assert outputs["confidence"].dtype == np.float32
                assert [*map(str, texts(outputs["exit"]))] == exits
                assert found.id == "7"
        named = request(images, binary=True, request_outputs=[RequestedOutput("logits")])
        found = await client.infer(url, named, model_name=MODEL)
        assert found.outputs[0].as_numpy().argmax(1).tolist() == classes
        refused = await error_of(client.infer(url, request(images[:, :2], binary=True), MODEL))
        assert refused is not None
        assert refused.response.status_code == 400
        assert "found UINT8" in str(refused)


async def error_of(work: Awaitable[Any]) -> httpx.HTTPStatusError | None:
    """The error of a request."""
    try:
        await work
    except httpx.HTTPStatusError as error:
        return error
    return None


def texts(values: Any) -> list[str]:
    """The elements of a BYTES tensor."""
    return [one.decode() if isinstance(one, bytes) else str(one) for one in values.ravel()]


if __name__ == "__main__":
    pixels, classes, exits = json.loads(sys.argv[2])
    asyncio.run(check(sys.argv[1], np.array(pixels, np.uint8), classes, exits))
