"""A backbone in segments, and its exits as stages; work that the state holds is not repeated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from itertools import chain
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from understudy.early_exit.exit_sequence import ExitSequence
from understudy.early_exit.heads import Head, pool
from understudy.early_exit.taps import Tap
from understudy.errors import ModelError
from understudy.graph.batch_norm_folding import fold
from understudy.graph.partition import Trunk, partition
from understudy.nn.execution_mode import PLAIN, ExecutionMode
from understudy.nn.preprocess import Resizing
from understudy.nn.stage import Images, Stage, StageGroup, StagePart, hash_of, resizings_of
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
        mode: the execution mode of the segments: any but compiled.
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

    def __getstate__(self) -> dict[str, Any]:
        """Without the captured segments: a copy captures its own model."""
        return {**super().__getstate__(), "_captured": None}  # type: ignore[no-untyped-call]

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

    def run_segment(self, number: int, values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The outputs of a segment in the network's mode; logits are float32 in any precision.

        Raises:
            ModelError: the model cannot be partitioned at its taps.
        """
        with self.mode.autocast(self.stage.device):
            outputs = self.trunk.run(number, values)
        return (outputs[0].float(),) if number == len(self.taps) else outputs

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

    def forget_segments(self) -> None:
        """Capture the segments anew on next use: folded ones have copies of the model's weights."""
        self._captured = None

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
        return StagePart(exit, partial(self._head, head, tap, exit))

    def reduced(self, head: Head, tap: int, state: StageState) -> Tensor:
        """The feature of a tap as a head takes it."""
        return head.reduce(state[StateKey("feature", self.name, tap)])

    def _head(
        self, head: Head, tap: int, exit: str, _images: Images, state: StageState
    ) -> StageState:
        return {**state, StateKey("logits", exit): head(self.reduced(head, tap, state))}

    def _run(self, number: int, last: int, images: Images, state: StageState) -> StageState:
        """Run a segment on the way to the tap `last`, unless its output is known."""
        if number <= self._reached(state) <= last:
            return state
        rest = {key: value for key, value in state.items() if not self._is_feature(key)}
        values = self._features(number - 1, state) if number else (self.backbone.prepare(images),)
        outputs = self.backbone.run_segment(number, values)
        if number == len(self.backbone.taps):
            return {**rest, StateKey("logits", self.name): outputs[0]}
        if self.keeps_pooled:
            pooled = pool(outputs[0], self.backbone.taps[number].layout)
            rest[StateKey("pooled", self.name, number)] = pooled
        features = {StateKey("feature", self.name, number, i): v for i, v in enumerate(outputs)}
        return rest | features

    def _is_feature(self, key: StateKey) -> bool:
        return key.kind == "feature" and key.owner == self.name

    def _reached(self, state: StageState) -> int:
        return max((key.tap for key in state if self._is_feature(key)), default=-1)

    def _features(self, tap: int, state: StageState) -> tuple[Tensor, ...]:
        keys = (key for key in state if self._is_feature(key) and key.tap == tap)
        return tuple(state[key] for key in sorted(keys, key=lambda key: key.place))


ESN = "esn"
"""The name of the exits of an Exit Sequence Network."""


class ExitStage(Stage):
    """One exit of a network. Segments whose output is in the state are not run again.

    Run after a deeper exit of its network it starts from the images again: order exits from shallow
    to deep.

    Args:
        network: the backbone with the exit.
        name: the name of the network among the exits.
        exit: the name of the exit.
        parts: the work until it can answer, in order.
        members: the stages whose logits the exit refines.
        root: the name of the network that contains this one, for a saver's.
    """

    def __init__(
        self,
        network: Backbone,
        name: str,
        exit: str,
        parts: Sequence[StagePart],
        *,
        members: Mapping[str, Stage] = MappingProxyType({}),
        root: str = "",
    ) -> None:
        origin = {"backbone": network.stage.spec, **network.origin, "root": root or name}
        if network.mode != PLAIN:
            origin["run"] = network.mode.name
        super().__init__(network, preprocess=network.stage.preprocess, origin=origin)
        self.network, self.name, self.exit = network, name, exit
        self._parts = tuple(parts)
        self._members = dict(members)

    @property
    def members(self) -> Mapping[str, Stage]:
        """The saver, for the exits of an Exit Sequence Network."""
        return self._members

    @property
    def resizings(self) -> frozenset[Resizing | None]:
        """How its network resizes images, and its saver."""
        return super().resizings | resizings_of(self._members.values())

    @property
    def weights_hash(self) -> str:
        """SHA-256 over all weights of the network."""
        return self.network.weights_hash

    def parts(self, name: str) -> tuple[StagePart, ...]:  # noqa: ARG002
        """The segments, tokens and the head of this exit; the name is known already."""
        return self._parts

    @torch.inference_mode()
    def resume(self, images: Images, state: StageState) -> tuple[Tensor, StageState]:
        """Logits (N, C) of this exit, and the state with what later exits of the network need."""
        for part in self._parts:
            state = part.run(images, state)
        rest = dict(state)
        return rest.pop(StateKey("logits", self.exit)), rest


class WholeNetwork(ExitStage):
    """The end of a network; run first it is the network as it is, not its segments, unless these
    run in another mode."""

    @torch.inference_mode()
    def resume(self, images: Images, state: StageState) -> tuple[Tensor, StageState]:
        """Logits (N, C) of the network, and the state without its features."""
        begun = any(key.kind == "feature" and key.owner == self.name for key in state)
        if begun or self.network.mode.folded or self.network.mode.dtype is not None:
            return super().resume(images, state)
        return self.network.stage.run_model(self.network.prepare(images), images), state


def saver_stage(saver: Backbone, name: str, *, root: str) -> Stage:
    """A saver as a stage that keeps its pooled last feature in the state.

    Args:
        saver: with one tap.
        name: of its exit.
        root: the name of the network that contains it.
    """
    segments = Segments(saver, name, keeps_pooled=True).until(1)
    whole = StagePart(name, partial(_one_after_another, segments))
    return ExitStage(saver, name, name, (whole,), root=root)


def _one_after_another(parts: Sequence[StagePart], images: Images, state: StageState) -> StageState:
    for part in parts:
        state = part.run(images, state)
    return state


@dataclass(frozen=True, eq=False)
class Refinement:
    """The parts of exits that use a saver: tokens of an Exit Sequence Network, conditioned heads.

    Attributes:
        segments: of the network that holds the exits.
        saver: the saver as a stage; its state keeps its pooled last feature.
        saver_name: the exit of the saver.
        sequence: the Exit Sequence Network.
    """

    segments: Segments
    saver: Stage
    saver_name: str
    sequence: ExitSequence

    def exit(self, tap: int, exit: str) -> tuple[StagePart, ...]:
        """The saver, the segments up to a tap with a token for each, and the exit there."""
        name, paths = self.segments.name, [tap.path for tap in self.segments.backbone.taps]
        parts = [
            StagePart(self.saver_name, partial(self._run_saver, tap)),
            StagePart(f"{name}/{self.saver_name}/token", partial(self._token, 0)),
        ]
        for number, segment in enumerate(self.segments.until(tap)):
            token = partial(self._token, number + 1)
            parts += [segment, StagePart(f"{name}/{paths[number]}/token", token)]
        return (*parts, StagePart(exit, partial(self._exit, tap, exit)))

    def conditioned(self, head: Head, tap: int, exit: str) -> tuple[StagePart, ...]:
        """The saver, the segments up to a tap, and a head that also takes the saver's output."""
        return (
            StagePart(self.saver_name, partial(self._run_saver, tap)),
            *self.segments.until(tap),
            StagePart(exit, partial(self._conditioned, head, tap, exit)),
        )

    def _conditioned(
        self, head: Head, tap: int, exit: str, _images: Images, state: StageState
    ) -> StageState:
        features = [state[self._pooled(0)], state[StateKey("logits", self.saver_name)]]
        logits = head(self.segments.reduced(head, tap, state), torch.cat(features, 1))
        return {**state, StateKey("logits", exit): logits}

    def _run_saver(self, tap: int, images: Images, state: StageState) -> StageState:
        """Run the saver, unless its output is known; tokens behind this exit are dropped."""
        cache = state.get(self._cache)
        if cache is not None and cache.shape[1] > tap + 2:
            state = {key: value for key, value in state.items() if key != self._cache}
        if StateKey("logits", self.saver_name) in state and self._pooled(0) in state:
            return state
        logits, state = self.saver.resume(images, state)
        return {**state, StateKey("logits", self.saver_name): logits}

    def _token(self, number: int, _images: Images, state: StageState) -> StageState:
        pooled, cache = state[self._pooled(number)], state.get(self._cache)
        if cache is None:
            cache = self.sequence.empty_cache(len(pooled), pooled)
        if cache.shape[1] > number:
            return state
        output, cache = self.sequence.token(number, pooled, cache)
        return {**state, self._cache: cache, self._output: output}

    def _exit(self, tap: int, exit: str, _images: Images, state: StageState) -> StageState:
        saver_logits = state[StateKey("logits", self.saver_name)]
        logits = self.sequence.exit(tap + 1, state[self._output], saver_logits)
        return {**state, StateKey("logits", exit): logits}

    def _pooled(self, token: int) -> StateKey:
        """The feature that a token is computed from: the saver's is token 0."""
        if token == 0:
            return StateKey("pooled", self.saver_name, 0)
        return StateKey("pooled", self.segments.name, token - 1)

    @property
    def _cache(self) -> StateKey:
        return StateKey("esn_cache", self.segments.name)

    @property
    def _output(self) -> StateKey:
        return StateKey("esn_output", self.segments.name)
