"""How far ONNX models and exported cascades are from the PyTorch modules they were made from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from understudy.errors import DataError, PolicyError
from understudy.nn.cascade import Cascade
from understudy.nn.preprocess import ResizedImage, Resizing, as_tensor, pixels_of
from understudy.nn.stage import Images
from understudy.onnx.cascade import OnnxCascade, as_batch
from understudy.runtime.pipeline import Pipeline
from understudy.runtime.protocol import Runnable, RunnerOutput, StageRunner

Array = npt.NDArray[Any]

TOLERANCE = 1e-4
_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Agreement:
    """The result of comparing two cascades on the same images.

    Attributes:
        samples: how many were compared.
        differing: for how many the prediction or the exit differs.
        unexplained: how many of these lie away from every threshold that they met, and from a tie
            of the two best classes, by more than the tolerance; there should be none.
        difference: the largest difference of confidence where the exit is the same.
        tolerance: what counts as near: to a threshold in units of the confidence (for those above 1
            as a share), to a tie as a share of the largest logit.
    """

    samples: int
    differing: int
    unexplained: int
    difference: float
    tolerance: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def agreement(
    cascade: Cascade,
    exported: OnnxCascade,
    batches: Iterable[Images],
    *,
    tolerance: float = TOLERANCE,
) -> Agreement:
    """Run both cascades on the same images and count where they differ.

    The PyTorch cascade takes images as they are. For the exported one, images of another size are
    resized and cropped to its size as its largest stage does, so that what smaller stages see
    differently is counted.

    Args:
        cascade: the PyTorch cascade, set to the policy of the other.
        exported: the exported cascade.
        batches: images as the PyTorch cascade takes them.
        tolerance: how near to a threshold or a tie rounding may decide.

    ```python
    compared = agreement(cascade, load_onnx("out"), [images])
    print(compared.samples, compared.unexplained)
    ```

    Raises:
        PolicyError: the cascades are set to different policies.
        DataError: no batch, or images that the exported cascade cannot take.
    """
    if cascade.policy != exported.policy:
        raise PolicyError(
            f"cascades that are compared have one policy, found {cascade.policy.describe()!r} and "
            f"{exported.policy.describe()!r}: set both to the same policy"
        )
    resizing = export_resizing(cascade, exported)
    blocks = [
        _compared(cascade, exported, images, resizing, tolerance=tolerance) for images in batches
    ]
    if not blocks:
        raise DataError("cascades are compared on at least one batch, found none")
    differs, near, off = (np.concatenate(rows) for rows in zip(*blocks, strict=True))
    return Agreement(
        samples=len(differs),
        differing=int(differs.sum()),
        unexplained=int((differs & ~near).sum()),
        difference=float(off.max(initial=0, where=~np.isnan(off))),
        tolerance=tolerance,
    )


def export_resizing(cascade: Cascade, exported: OnnxCascade) -> Resizing | None:
    """How images become those that an exported cascade takes: as its largest stage resizes them
    before it crops; None where no stage resizes."""
    stages = [cascade.stages[name] for name in exported.exits]
    found = [how for stage in stages for how in stage.resizings if how is not None]
    if not found or len(exported.images.shape) != 3:
        return None
    largest = max(found, key=lambda how: math.prod(how.size) / how.crop**2)
    _, height, width = exported.images.shape
    return replace(largest, size=(height, width), crop=1.0)


def random_rows(image: Tensor, rows: int) -> Tensor:
    """Random images like one: pixels for uint8, normal numbers for floats."""
    generator = torch.Generator().manual_seed(rows)
    shape = (rows, *image.shape)
    if image.is_floating_point():
        return torch.randn(shape, generator=generator, dtype=image.dtype)
    return torch.randint(256, shape, generator=generator).to(image.dtype)


@torch.no_grad()
def run_module(module: nn.Module, values: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The outputs of a module, on the CPU; the values are moved to where its parameters are."""
    first = next(module.parameters(), torch.empty(0))
    outputs: tuple[Tensor, ...] = module(*(value.to(first.device) for value in values))
    return tuple(value.cpu() for value in outputs)


def distance(found: Array, truth: Array) -> float:
    """The largest difference, as a share of the largest value; infinite where shapes differ.

    >>> distance(np.array([2.0, 4.0]), np.array([2.0, 5.0])), distance(np.zeros(2), np.zeros(2))
    (0.2, 0.0)
    """
    if found.shape != truth.shape or not np.isfinite(found).all():
        return math.inf
    off = float(np.abs(found - truth).max(initial=0))
    return off / max(float(np.abs(truth).max(initial=0)), _TINY) if off else 0.0


def _compared(
    cascade: Cascade,
    exported: OnnxCascade,
    images: Images,
    resizing: Resizing | None,
    *,
    tolerance: float,
) -> tuple[Array, Array, Array]:
    """Per sample: whether the answers differ, whether rounding may decide, how far confidences."""
    array = as_batch(_in_one_size(images, resizing), exported.images)
    ours, theirs = _Trace.of(cascade, images), _Trace.of(exported, array)
    names = np.array([*cascade.exits]), np.array([*exported.exits])
    other_exit = names[0][ours.exit] != names[1][theirs.exit]
    differs = other_exit | (ours.prediction != theirs.prediction)
    best = cascade(images).float().cpu().numpy()
    near = (np.minimum(ours.gap, theirs.gap) <= tolerance) | (_lead(best) <= tolerance)
    off = np.where(other_exit, np.nan, np.abs(ours.confidence - theirs.confidence))
    return differs, near, off


def _in_one_size(images: Any, resizing: Resizing | None) -> Any:
    """Images in the size that the exported cascade takes, where they have another."""
    if resizing is None or not len(images):
        return images
    if not isinstance(images, Sequence):
        pixels = as_tensor(images)
        return resizing(pixels).numpy() if pixels.dtype == torch.uint8 else images
    return [_resized(image, resizing) for image in images]


def _resized(image: Any, resizing: Resizing) -> Any:
    if isinstance(image, ResizedImage) and resizing in image.sizes:
        return image.sizes[resizing]
    pixels = as_tensor(pixels_of(image))
    return resizing(pixels) if pixels.dtype == torch.uint8 else pixels


class _Trace:
    """The way of a batch through a cascade: answers, and the distance to the nearest threshold."""

    def __init__(self, cascade: Runnable, count: int) -> None:
        self._thresholds = {stage.exit: stage.threshold for stage in cascade.policy.stages}
        self.prediction: Array = np.empty(count, np.int64)
        self.confidence: Array = np.empty(count, np.float32)
        self.exit: Array = np.empty(count, np.int64)
        self.gap: Array = np.full(count, np.inf)

    @staticmethod
    def of(cascade: Runnable, images: Any) -> _Trace:
        trace = _Trace(cascade, len(images))
        Pipeline(cascade.runners, trace).run_batch(images)
        return trace

    def visited(self, runner: StageRunner, ids: Array, output: RunnerOutput) -> None:
        self.prediction[ids] = output.prediction
        self.confidence[ids] = output.confidence
        self.exit[ids] = runner.number
        threshold = self._thresholds[runner.name]
        if threshold is not None:
            gap = np.abs(output.confidence.astype(np.float64) - threshold)
            self.gap[ids] = np.fmin(self.gap[ids], gap / max(1.0, abs(threshold)))

    def failed(self, runner: StageRunner, ids: Array, error: Exception) -> None:
        """Rows of NaN keep the output of the last stage."""


def _lead(logits: Array) -> Array:
    """By how much the best class leads, as a share of the largest logit."""
    if logits.shape[1] == 1:
        return np.full(len(logits), np.inf)
    top = np.partition(logits, -2, axis=1)[:, -2:]
    size = np.maximum(np.abs(logits).max(1), np.finfo(np.float32).tiny)
    lead: Array = (top[:, 1] - top[:, 0]) / size
    return lead
