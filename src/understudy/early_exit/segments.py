"""The parts that exits of a network share: segments, tokens and heads, each run once per sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from understudy.early_exit.esn import ExitSequence
from understudy.early_exit.heads import Head, pool
from understudy.early_exit.taps import Tap
from understudy.graph.partition import Trunk
from understudy.nn.device import Images
from understudy.nn.stage import Stage, StagePart
from understudy.runtime.state import StageState, StateKey

REST = "(rest)"
"""The last segment in names of parts: it has no tap."""


@dataclass(frozen=True, eq=False)
class Segments:
    """The segments of a network under a name.

    Attributes:
        name: the network among the exits; it keeps the states of two networks apart.
        taps: where the network is cut, in the order of execution.
        prepare: images -> the input of the first segment.
        trunk: the segments as they are now.
        keeps_pooled: whether the state keeps the pooled feature of every tap.
    """

    name: str
    taps: Sequence[Tap]
    prepare: Callable[[Images], Tensor]
    trunk: Callable[[], Trunk]
    keeps_pooled: bool

    def until(self, number: int) -> tuple[StagePart, ...]:
        """The segments up to a tap; all of them where the number is that of the taps."""
        paths = [*(tap.path for tap in self.taps), REST]
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
        values = self._features(number - 1, state) if number else (self.prepare(images),)
        outputs = self.trunk().run(number, values)
        if number == len(self.taps):
            return {**rest, StateKey.logits(self.name): outputs[0]}
        if self.keeps_pooled:
            pooled = pool(outputs[0], self.taps[number].layout)
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
        name, paths = self.segments.name, [tap.path for tap in self.segments.taps]
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
