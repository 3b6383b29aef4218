"""A model in segments, cut at its taps; the segments are parts of stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from understudy.early_exit.heads import Head, pool
from understudy.early_exit.taps import Tap
from understudy.errors import ModelError
from understudy.graph.folding import fold
from understudy.graph.partition import Trunk, partition
from understudy.nn.device import Images
from understudy.nn.execution_mode import PLAIN, ExecutionMode
from understudy.nn.stage import Stage, StageGroup, StagePart, hash_of
from understudy.runtime.protocol import StageState, StateKey

REST = "(rest)"
"""The last segment in names of parts: it has no tap."""


@dataclass(frozen=True, eq=False)
class _Captured:
    device: torch.device
    dtype: torch.dtype
    shape: tuple[int, ...]
    trunk: Trunk


class Backbone(StageGroup):
    """A model that runs in segments, so that rows can leave at its taps.

    The model itself is never changed. Segments are captured on first use, and again after a move to
    another device or dtype.

    Args:
        stage: the model with its preprocessing.
        taps: where it is cut, in the order of execution.
        image: one sample as the stage takes it; its shape is the one that the segments take.
        origin: plain JSON: where the exits come from; `spec` names how to load them again.
        mode: the execution mode of the segments: folded and channels_last, or PLAIN.
    """

    def __init__(
        self,
        stage: Stage,
        taps: Sequence[Tap],
        *,
        image: Tensor,
        origin: Mapping[str, Any] | None = None,
        mode: ExecutionMode = PLAIN,
    ) -> None:
        super().__init__()
        self.stage = stage
        self.taps = tuple(taps)
        self.image = torch.zeros_like(image)
        self.origin: Mapping[str, Any] = dict(origin or {})
        self.mode = mode
        self._captured: _Captured | None = None
        self._hashed: tuple[Any, str] | None = None

    def forward(self, images: Images) -> Tensor:
        """The model's logits (N, C), from images as its stage takes them."""
        return cast("Tensor", self.stage(images))

    def prepare(self, images: Images) -> Tensor:
        """The first segment's input.

        Raises:
            DataError: images that the preprocessing cannot take.
            ModelError: another shape than the one that the network is partitioned for.
        """
        ready = self.mode.to_memory_format(self.stage.prepare(images))
        expected = self._capture().shape
        if tuple(ready.shape[1:]) != expected:
            raise ModelError(
                f"a network is partitioned for one shape of input, {expected}, found "
                f"{tuple(ready.shape[1:])}: resize the images, or attach exits for that shape"
            )
        return ready

    @property
    def trunk(self) -> Trunk:
        """The segments on the present device, in the present dtype.

        Raises:
            ModelError: the model cannot be partitioned at its taps.
        """
        return self._capture().trunk

    def _capture(self) -> _Captured:
        device, dtype, known = self.stage.device, self.stage.dtype, self._captured
        if known is None or (known.device, known.dtype) != (device, dtype):
            ready = self.stage.prepare([self.image, self.image])
            with _disable_current_modes():  # counters of operators do not count this
                trunk = partition(self.stage.model, ready, [tap.path for tap in self.taps])
                if self.mode.folded:
                    trunk = replace(trunk, segments=tuple(map(fold, trunk.segments)))
            known = self._captured = _Captured(device, dtype, tuple(ready.shape[1:]), trunk)
        return known

    @property
    def weights_hash(self) -> str:
        """SHA-256 over all weights, those of exits included; computed again when a tensor changes.

        Weights that are changed by hand under `inference_mode` are not noticed.
        """
        tensors = chain(self.parameters(), self.buffers())
        versions = tuple((t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors)
        if self._hashed is None or self._hashed[0] != versions:
            self._hashed = (versions, hash_of(self))
        if self.mode == PLAIN:
            return self._hashed[1]
        return sha256(f"{self._hashed[1]} {self.mode.name}".encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class Segments:
    """The segments of a backbone as parts of stages.

    Attributes:
        backbone: that they belong to.
        name: of its network among the exits; it keeps the states of two networks apart.
        keeps_pooled: whether the state keeps the pooled feature of every tap.
    """

    backbone: Backbone
    name: str
    keeps_pooled: bool

    def until(self, number: int) -> tuple[StagePart, ...]:
        """The segments up to a tap; all of them where the number is that of the taps."""
        paths = [*(tap.path for tap in self.backbone.taps), REST]
        return tuple(
            StagePart(f"{self.name}/{paths[k]}", partial(self._run, k, number))
            for k in range(number + 1)
        )

    def head(self, head: Head, tap: int, exit: str) -> StagePart:
        """A head on the feature of its tap."""

        def run(_images: Images, state: StageState) -> StageState:
            return {**state, StateKey.logits(exit): head(self.reduced(head, tap, state))}

        return StagePart(exit, run)

    def reduced(self, head: Head, tap: int, state: StageState) -> Tensor:
        """The feature of a tap as a head takes it."""
        return head.reduce(state[StateKey.feature(self.name, tap)])

    def _run(self, number: int, last: int, images: Images, state: StageState) -> StageState:
        """Run a segment on the way to the tap `last`, unless its output is known."""
        if number <= self._reached(state) <= last:
            return state
        rest = {key: value for key, value in state.items() if not self._is_feature(key)}
        values = self._features(number - 1, state) if number else (self.backbone.prepare(images),)
        outputs = self.backbone.trunk.run(number, values)
        if number == len(self.backbone.taps):
            return {**rest, StateKey.logits(self.name): outputs[0]}
        if self.keeps_pooled:
            pooled = pool(outputs[0], self.backbone.taps[number].layout)
            rest[StateKey.pooled(self.name, number)] = pooled
        features = {StateKey.feature(self.name, number, i): v for i, v in enumerate(outputs)}
        return rest | features

    def _is_feature(self, key: StateKey) -> bool:
        return key.kind == "feature" and key.owner == self.name

    def _reached(self, state: StageState) -> int:
        return max((key.tap for key in state if self._is_feature(key)), default=-1)

    def _features(self, tap: int, state: StageState) -> tuple[Tensor, ...]:
        keys = (key for key in state if self._is_feature(key) and key.tap == tap)
        return tuple(state[key] for key in sorted(keys, key=lambda key: key.place))
