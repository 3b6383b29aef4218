"""What a server tells of itself and of its cascade: metadata, inputs and statistics.

Source: Open Inference Protocol v2 (`inference_rest.md`); Triton's `extension_statistics.md`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from understudy import __version__
from understudy.runtime.metrics import ExecutorStats
from understudy.runtime.protocol import SampleKind
from understudy.serving.open_inference import LOGITS, OUTPUTS, InferInput, InferRequest
from understudy.serving.tensors import BYTES, DATATYPES, Array, ProtocolError, tensor_from_bytes

IMAGE = "image"
ANY = -1
"""A size that differs from image to image."""

EXTENSIONS = ("binary_tensor_data", "classification", "statistics")


@dataclass(frozen=True)
class ImageSpec:
    """The images that a cascade takes, as tensors of the protocol.

    Attributes:
        datatype: of the protocol.
        shape: of an image; -1 for any size.
        known: whether that is known; else the models refuse what they do not take.
        encoded: whether BYTES of encoded images are taken as well.

    >>> ImageSpec().metadata()
    {'name': 'image', 'datatype': 'UINT8', 'shape': [-1, 3, -1, -1]}
    """

    datatype: str = "UINT8"
    shape: tuple[int, ...] = (3, ANY, ANY)
    known: bool = True
    encoded: bool = True

    @classmethod
    def of(cls, cascade: Any) -> ImageSpec:
        """The images of a cascade, by its `sample_kind`."""
        kind: SampleKind | None = getattr(cascade, "sample_kind", None)
        names = {str(dtype): name for name, dtype in DATATYPES.items()}
        if kind is None or kind.dtype not in names:
            return cls("FP32", known=False)
        shape = tuple(ANY if size is None else size for size in kind.shape)
        return cls(names[kind.dtype], shape, encoded=kind.dtype == "uint8")

    def metadata(self) -> dict[str, Any]:
        """The input as the model's metadata have it."""
        return {"name": IMAGE, "datatype": self.datatype, "shape": [ANY, *self.shape]}

    def takes(self, datatype: str, shape: Sequence[int]) -> bool:
        """Whether a batch of a datatype and shape has such images, at least one."""
        if not self.known:
            return datatype != BYTES and len(shape) > 1 and all(size > 0 for size in shape)
        return (
            datatype == self.datatype
            and len(shape) == len(self.shape) + 1
            and all(size > 0 for size in shape)
            and all(want in {ANY, size} for want, size in zip(self.shape, shape[1:], strict=True))
        )


def images_of(request: InferRequest, spec: ImageSpec, *, max_images: int) -> Array | list[bytes]:
    """The images of a request: an array (N, ...), or N encoded ones.

    A raw body is a batch of images where the cascade takes those of one size, else one encoded
    image.

    Raises:
        ProtocolError: other inputs than one, other shapes or datatypes, no image or too many.
    """
    if request.raw is not None:
        return _raw_images(request.raw, spec, max_images=max_images)
    if len(request.inputs) != 1 or request.inputs[0].name != IMAGE:
        names = ", ".join(one.name[:40] for one in request.inputs[:5]) or "none"
        raise ProtocolError(f"a request has the input {IMAGE!r} alone, found {names}")
    images = request.inputs[0]
    if images.datatype == BYTES and spec.encoded:
        if len(images.shape) != 1 and images.shape[1:] != (1,):
            raise _other(images, "BYTES [-1] of encoded images")
    elif not spec.takes(images.datatype, images.shape):
        also = ", or BYTES [-1] of encoded images" if spec.encoded else ""
        raise _other(images, f"{spec.datatype} {[ANY, *spec.shape]}{also}")
    _check_count(len(images.data), max_images)
    return images.data


def server_metadata() -> dict[str, Any]:
    """The metadata of the server."""
    return {"name": "understudy", "version": __version__, "extensions": list(EXTENSIONS)}


def model_metadata(cascade: Any, *, name: str, version: str, classes: int | None) -> dict[str, Any]:
    """The metadata of the model; `cost` is given where costs are known, `logits` and `request_id`
    where they are named.

    Args:
        cascade: what answers.
        name: its name.
        version: its version.
        classes: the number of classes C; None where it is not known before the first answer.
    """
    row = {LOGITS: [ANY, ANY if classes is None else classes]}
    return {
        "name": name,
        "versions": [version],
        "platform": _platform(cascade),
        "inputs": [ImageSpec.of(cascade).metadata()],
        "outputs": [
            {"name": output, "datatype": datatype, "shape": row.get(output, [ANY])}
            for output, datatype in OUTPUTS.items()
        ],
    }


@dataclass(frozen=True)
class InferenceCounts:
    """What a server has counted.

    Attributes:
        images: images that were answered.
        requests: requests that were answered.
        seconds: their time, in all.
        failed: requests that were not answered.
        last: when the last request came, in milliseconds since the epoch; 0 before the first.
        exits: exit -> images that it answered.
    """

    images: int
    requests: int
    seconds: float
    failed: int
    last: int
    exits: Mapping[str, int]


def statistics(
    counts: InferenceCounts, stats: ExecutorStats, *, name: str, version: str
) -> dict[str, Any]:
    """The statistics of the model, in the shape of Triton's.

    `execution_count` are the batches of all stages, `compute_infer` the time that they took. What
    is not measured apart (queue, input, output, cache) is 0, and there is no histogram by the size
    of batches; beside that, `stages` has the counts of each stage.
    """
    batches, seconds = sum(stats.batches.values()), sum(stats.seconds.values())
    stages = [
        {
            "name": exit,
            "answered": counts.exits.get(exit, 0),
            "inference_count": stats.rows[exit],
            "execution_count": stats.batches[exit],
            "compute_infer": _duration(stats.batches[exit], stats.seconds[exit]),
        }
        for exit in stats.rows
    ]
    unmeasured = ("queue", "compute_input", "compute_output", "cache_hit")
    model = {
        "name": name,
        "version": version,
        "last_inference": counts.last,
        "inference_count": counts.images,
        "execution_count": batches,
        "inference_stats": {
            "success": _duration(counts.requests, counts.seconds),
            "fail": _duration(counts.failed, 0.0),
            "compute_infer": _duration(batches, seconds),
            **{one: _duration(0, 0.0) for one in unmeasured},
        },
        "batch_stats": [],
        "stages": stages,
    }
    return {"model_stats": [model]}


def _duration(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": round(seconds * 1e9)}


def _platform(cascade: Any) -> str:
    backends = {"onnx": "onnx", "callables": "callables", "nn": "torch"}
    package = type(cascade).__module__.split(".")[-2:][0]
    return f"understudy_{backends.get(package, 'cascade')}"


def _raw_images(body: memoryview, spec: ImageSpec, *, max_images: int) -> Array | list[bytes]:
    if ANY in spec.shape:
        if not len(body):
            raise ProtocolError("a raw body is one encoded image, found no bytes")
        return [bytes(body)]
    size = DATATYPES[spec.datatype].itemsize * math.prod(spec.shape)
    count, rest = divmod(len(body), size)
    if rest:
        raise ProtocolError(
            f"a raw body has {size:,} bytes for each image {spec.datatype} {list(spec.shape)}, "
            f"found {len(body):,}"
        )
    _check_count(count, max_images)
    return tensor_from_bytes(spec.datatype, (count, *spec.shape), body)


def _check_count(count: int, max_images: int) -> None:
    if not 0 < count <= max_images:
        raise ProtocolError(
            f"a request has 1 to {max_images:,} images, found {count:,}: send several requests"
        )


def _other(images: InferInput, wanted: str) -> ProtocolError:
    shape = list(images.shape)
    return ProtocolError(f"the input {IMAGE!r} is {wanted}, found {images.datatype} {shape}")
