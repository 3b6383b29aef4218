"""A cascade of NumPy alone behind HTTP: its answers are written in the pixels of an image.

python tests/array_cascade.py   serves it, and prints the URL and the process as JSON
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from understudy.onnx.bundle import Value
from understudy.onnx.cascade import OnnxCascade
from understudy.operating_point import OperatingPoint
from understudy.policy import Policy, PolicyStage
from understudy.runtime.value_graph import IMAGES, Computation, ValueGraph, logits_of

Array = npt.NDArray[Any]

SHAPE = (3, 8, 8)
CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
REFERENCE = OperatingPoint(Policy.single("big"), 0.0, 0.0, 9.0, "MACs")
SURE = 8.0
"""The logit of the class where an exit is sure; 0.5 where it is not."""


def image(label: int, *, easy: bool = True, seed: int = 0) -> Array:
    """An image (3, 8, 8) of a class, which `tiny` answers where it is easy."""
    pixels = np.random.default_rng(seed).integers(0, 256, SHAPE, dtype=np.uint8)
    pixels[0, 0, :2] = label, 0 if easy else 255
    return pixels


def logits(label: int, *, easy: bool = True) -> Array:
    """The logits (10,) of the exit that answers such an image."""
    row = np.zeros(len(CLASSES), np.float32)
    row[label] = SURE if easy else SURE + 1
    return row


def array_cascade() -> OnnxCascade:
    """`tiny` answers the easy images, `big` the others."""

    def run(values: Sequence[Array], *, big: bool) -> list[Array]:
        images = values[0].astype(np.int64)
        labels, easy = images[:, 0, 0, 0] % len(CLASSES), images[:, 0, 0, 1] < 128
        found = np.zeros((len(images), len(CLASSES)), np.float32)
        found[np.arange(len(images)), labels] = np.where(easy, SURE, SURE + 1 if big else 0.5)
        return [found]

    graph = ValueGraph(
        [
            Computation((IMAGES,), (logits_of("tiny"),), lambda values: run(values, big=False)),
            Computation((IMAGES,), (logits_of("big"),), lambda values: run(values, big=True)),
        ]
    )
    policy = Policy((PolicyStage("tiny", 0.9), PolicyStage("big")))
    return OnnxCascade(
        graph,
        policy,
        images=Value(IMAGES, "uint8", SHAPE),
        exits=("tiny", "big"),
        operating_points=[REFERENCE],
        classes=CLASSES,
    )


def serve() -> None:
    """Serve it until a signal ends the process."""
    from understudy.serving.asgi import app
    from understudy.serving.server import DrainingServer, listening_socket, url_of
    from understudy.serving.settings import ServingSettings

    limits = {"max_bytes": 2**22, "max_pixels": 2**20, "arrival": 1.0}
    given = orjson.loads(os.environ.get("ARRAY_CASCADE_SETTINGS", "{}"))
    settings = ServingSettings(name="arrays", **{**limits, **given})
    listener = listening_socket("127.0.0.1", 0)
    facts = {"url": url_of(listener, "127.0.0.1"), "pid": os.getpid()}

    def started() -> None:
        sys.stdout.write(f"{orjson.dumps(facts).decode()}\n")
        sys.stdout.flush()

    DrainingServer(app(array_cascade(), settings=settings), listener, started).serve_until_stopped()


if __name__ == "__main__":
    serve()
