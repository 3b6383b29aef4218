"""Exits inside a network as stages of a cascade; work that the state holds is not repeated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor

from understudy.early_exit.backbone import Backbone, Segments
from understudy.early_exit.esn import ExitSequence
from understudy.early_exit.heads import Head
from understudy.nn.device import Images
from understudy.nn.stage import Stage, StagePart
from understudy.runtime.protocol import StageState, StateKey

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
        super().__init__(network, preprocess=network.stage.preprocess, origin=origin)
        self.network, self.name, self.exit = network, name, exit
        self._parts = tuple(parts)
        self._members = dict(members)

    @property
    def members(self) -> Mapping[str, Stage]:
        """The saver, for the exits of an Exit Sequence Network."""
        return self._members

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
        return rest.pop(StateKey.logits(self.exit)), rest


class WholeNetwork(ExitStage):
    """The end of a network; run first it is the network as it is, not its segments, unless the
    segments are the faster ones."""

    @torch.inference_mode()
    def resume(self, images: Images, state: StageState) -> tuple[Tensor, StageState]:
        """Logits (N, C) of the network, and the state without its features."""
        begun = any(key.kind == "feature" and key.owner == self.name for key in state)
        if begun or self.network.mode.folded:
            return super().resume(images, state)
        return self.network.stage.model(self.network.prepare(images)), state


def saver_stage(saver: Backbone, name: str, *, root: str) -> Stage:
    """A saver as a stage that keeps its pooled last feature in the state.

    Args:
        saver: with one tap.
        name: of its exit.
        root: the name of the network that contains it.
    """
    segments = Segments(saver, name, keeps_pooled=True).until(1)

    def whole(images: Images, state: StageState) -> StageState:
        for segment in segments:
            state = segment.run(images, state)
        return state

    return ExitStage(saver, name, name, (StagePart(name, whole),), root=root)


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

        def run(_images: Images, state: StageState) -> StageState:
            features = [state[self._pooled(0)], state[StateKey.logits(self.saver_name)]]
            logits = head(self.segments.reduced(head, tap, state), torch.cat(features, 1))
            return {**state, StateKey.logits(exit): logits}

        return (
            StagePart(self.saver_name, partial(self._run_saver, tap)),
            *self.segments.until(tap),
            StagePart(exit, run),
        )

    def _run_saver(self, tap: int, images: Images, state: StageState) -> StageState:
        """Run the saver, unless its output is known; tokens behind this exit are dropped."""
        cache = state.get(self._cache)
        if cache is not None and cache.shape[1] > tap + 2:
            state = {key: value for key, value in state.items() if key != self._cache}
        if StateKey.logits(self.saver_name) in state and self._pooled(0) in state:
            return state
        logits, state = self.saver.resume(images, state)
        return {**state, StateKey.logits(self.saver_name): logits}

    def _token(self, number: int, _images: Images, state: StageState) -> StageState:
        pooled, cache = state[self._pooled(number)], state.get(self._cache)
        if cache is None:
            cache = self.sequence.empty_cache(len(pooled), pooled)
        if cache.shape[1] > number:
            return state
        output, cache = self.sequence.token(number, pooled, cache)
        return {**state, self._cache: cache, self._output: output}

    def _exit(self, tap: int, exit: str, _images: Images, state: StageState) -> StageState:
        saver_logits = state[StateKey.logits(self.saver_name)]
        logits = self.sequence.exit(tap + 1, state[self._output], saver_logits)
        return {**state, StateKey.logits(exit): logits}

    def _pooled(self, token: int) -> StateKey:
        """The feature that a token is computed from: the saver's is token 0."""
        if token == 0:
            return StateKey.pooled(self.saver_name, 0)
        return StateKey.pooled(self.segments.name, token - 1)

    @property
    def _cache(self) -> StateKey:
        return StateKey.esn_cache(self.segments.name)

    @property
    def _output(self) -> StateKey:
        return StateKey.esn_output(self.segments.name)
