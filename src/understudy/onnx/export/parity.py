"""Whether an exported cascade decides like the one it was made from, sample by sample."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from understudy.errors import DataError, PolicyError
from understudy.nn.cascade import Cascade
from understudy.nn.images import Images
from understudy.onnx.cascade import OnnxCascade
from understudy.onnx.runner import taken
from understudy.runtime.buffer import RowBatch
from understudy.runtime.protocol import Array, Runnable

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Agreement:
    """What came of asking two cascades the same.

    Attributes:
        samples: how many were asked.
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
    """Ask both cascades the same images and count where they differ.

    Args:
        cascade: the PyTorch cascade, set to the policy of the other.
        exported: what was made of it.
        batches: images as both take them.
        tolerance: how near to a threshold or a tie rounding may decide.

    Raises:
        PolicyError: the cascades are set to different policies.
        DataError: no batch, or images that the exported cascade cannot take.
    """
    if cascade.policy != exported.policy:
        raise PolicyError(
            f"cascades that are compared have one policy, found {cascade.policy.describe()!r} and "
            f"{exported.policy.describe()!r}: dial both alike"
        )
    blocks = [_compared(cascade, exported, images, tolerance) for images in batches]
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


def _compared(
    cascade: Cascade, exported: OnnxCascade, images: Images, tolerance: float
) -> tuple[Array, Array, Array]:
    """Per sample: whether the answers differ, whether rounding may decide, how far confidences."""
    array = taken(images, exported.images)
    batch = torch.from_numpy(array)
    ours, theirs = _Trace.of(cascade, batch), _Trace.of(exported, array)
    names = np.array([*cascade.exits]), np.array([*exported.exits])
    other_exit = names[0][ours.exit] != names[1][theirs.exit]
    differs = other_exit | (ours.prediction != theirs.prediction)
    best = cascade(batch).float().cpu().numpy()
    near = (np.minimum(ours.gap, theirs.gap) <= tolerance) | (_lead(best) <= tolerance)
    off = np.where(other_exit, np.nan, np.abs(ours.confidence - theirs.confidence))
    return differs, near, off


@dataclass(frozen=True, eq=False)
class _Trace:
    """How samples went through a cascade: answers, and how near to a threshold any came."""

    prediction: Array
    confidence: Array
    exit: Array
    gap: Array

    @staticmethod
    def of(cascade: Runnable, images: Any) -> _Trace:
        count = len(images)
        rows: npt.NDArray[np.int64] = np.arange(count)
        walk = _Trace(
            np.empty(count, np.int64),
            np.empty(count, np.float32),
            np.empty(count, np.int64),
            np.full(count, np.inf),
        )
        load = RowBatch(images, {}, rows)
        for runner, rule in zip(cascade.runners, cascade.policy.stages, strict=True):
            rows = load.ids
            said = runner.run_stage(load.images, load.state)
            walk.prediction[rows] = said.prediction
            walk.confidence[rows] = said.confidence
            walk.exit[rows] = runner.number
            if rule.threshold is not None:
                gap = np.abs(said.confidence.astype(np.float64) - rule.threshold)
                walk.gap[rows] = np.fmin(walk.gap[rows], gap / max(1.0, abs(rule.threshold)))
            if not len(said.left):
                break
            load = RowBatch(said.images, said.state, rows).select(said.left, runner)
        return walk


def _lead(logits: Array) -> Array:
    """By how much the best class leads, as a share of the largest logit."""
    if logits.shape[1] == 1:
        return np.full(len(logits), np.inf)
    top = np.partition(logits, -2, axis=1)[:, -2:]
    size = np.maximum(np.abs(logits).max(1), np.finfo(np.float32).tiny)
    lead: Array = (top[:, 1] - top[:, 0]) / size
    return lead
