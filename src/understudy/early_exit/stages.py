"""Exits inside a network as stages of a cascade: each runs what the stages before it have not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from understudy.early_exit.heads import pool
from understudy.errors import ModelError, PolicyError, unknown
from understudy.nn.confidence import confidence_functions
from understudy.nn.images import Images
from understudy.nn.stage import EMPTY, Stage, StageOutput, StagePart, State, logits_key
from understudy.policy import DEFAULT_CONFIDENCE

if TYPE_CHECKING:
    from understudy.early_exit.network import ExitLocation, ExitNetwork, SaverBranch

ESN = "esn"
"""The name of the exits of an Exit Sequence Network."""


class ExitStage(Stage):
    """One exit of a network. Segments that the state shows as done are not run again.

    Asked behind a deeper exit of its network it starts from the images once more: ask exits from
    shallow to deep.

    Args:
        network: the network that the exit is in.
        name: what the network is called among the exits; it keeps the states of two apart.
        exit: the name of the exit.
        pieces: what runs there, in order.
        members: the stages whose logits the exit refines.
        root: the name of the network that holds it, where that is another: a saver's.
    """

    def __init__(
        self,
        network: ExitNetwork,
        name: str,
        exit: str,
        pieces: Sequence[StagePart],
        *,
        members: Mapping[str, Stage],
        root: str = "",
    ) -> None:
        origin = {"backbone": network.stage.spec, **network.origin, "root": root or name}
        super().__init__(network, preprocess=network.stage.preprocess, origin=origin)
        self.network, self.name, self.exit = network, name, exit
        self._pieces = tuple(pieces)
        self._members = dict(members)

    @property
    def members(self) -> Mapping[str, Stage]:
        """The saver, for the exits of an Exit Sequence Network."""
        return self._members

    @property
    def weights_hash(self) -> str:
        """SHA-256 over all weights of the network."""
        return self.network.weights_hash

    def pieces(self, name: str) -> tuple[StagePart, ...]:  # noqa: ARG002
        """The segments, tokens and the head that run there; `name` is known already."""
        return self._pieces

    def forward(self, images: Images) -> Tensor:
        """Logits (N, C) of this exit, everything being run."""
        return self.run(images).logits

    @torch.inference_mode()
    def run(
        self, images: Images, state: State = EMPTY, *, confidence: str = DEFAULT_CONFIDENCE
    ) -> StageOutput:
        """Logits, the named confidence, and the state with what later exits of the network need."""
        if confidence not in confidence_functions:
            raise PolicyError(unknown("confidence", confidence, confidence_functions))
        for piece in self._pieces:
            state = piece.run(images, state)
        left = dict(state)
        logits = left.pop(logits_key(self.exit))
        return StageOutput(logits, confidence_functions[confidence](logits), left)


def _saver(saver_branch: SaverBranch, *, root: str) -> Stage:
    """The saver as a stage that hands on its last feature."""
    line = _Line(saver_branch.saver, saver_branch.name, hands_on=True)
    segments = line.until(1)

    def whole(images: Images, state: State) -> State:
        for segment in segments:
            state = segment.run(images, state)
        return state

    return ExitStage(
        saver_branch.saver,
        saver_branch.name,
        saver_branch.name,
        (StagePart(saver_branch.name, whole),),
        members={},
        root=root,
    )


class WholeNetwork(ExitStage):
    """The end of a network; asked first it is the network as it is, not its segments, unless these
    are the faster ones."""

    @torch.inference_mode()
    def run(
        self, images: Images, state: State = EMPTY, *, confidence: str = DEFAULT_CONFIDENCE
    ) -> StageOutput:
        """Logits, the named confidence, and the state as it came."""
        begun = any(key.startswith(f"{self.name}@") for key in state)
        if begun or self.network.mode.folded:
            return super().run(images, state, confidence=confidence)
        logits = self.network.stage.model(self.network.prepare(images))
        return StageOutput(logits, confidence_functions[confidence](logits), state)


def stages_of_network(network: ExitNetwork, name: str) -> dict[str, Stage]:
    """A stage per exit in the order of execution; the saver first where there is one."""
    line = _Line(network, name, hands_on=network.saver_branch is not None)
    stages: dict[str, Stage] = {}
    refining: _Refining | None = None
    if network.saver_branch is not None:
        saver_branch = network.saver_branch
        saver_branch.saver.origin = network.origin
        stages[saver_branch.name] = _saver(saver_branch, root=name)
        refining = _Refining(line, saver_branch, stages[saver_branch.name])
    for number, tap in enumerate(network.taps):
        for point in network.locations:
            if point.tap == number:
                exit = f"{name}/{tap.path}/{point.head}"
                if refining is not None and network.head(point).saver_width:
                    stages[exit] = refining.stage(exit, refining.telling(point, exit))
                else:
                    pieces = (
                        *line.until(number),
                        StagePart(exit, partial(line.answer, point, exit)),
                    )
                    stages[exit] = ExitStage(network, name, exit, pieces, members={})
        if refining is not None:
            exit = f"{name}/{tap.path}/{ESN}"
            stages[exit] = refining.stage(exit, refining.until(number, exit))
    if name in stages:
        raise ModelError(
            f"a network and its saver have names of their own, both are {name!r}: rename one"
        )
    stages[name] = WholeNetwork(network, name, name, line.until(len(network.taps)), members={})
    return stages


@dataclass(frozen=True, eq=False)
class _Line:
    """The segments of a network under a name, and where the state keeps what they hand on."""

    network: ExitNetwork
    name: str
    hands_on: bool

    def until(self, number: int) -> tuple[StagePart, ...]:
        """The segments up to a tap; those up to the end where the number is that of the taps."""
        paths = [*(tap.path for tap in self.network.taps), "(rest)"]
        return tuple(
            StagePart(f"{self.name}/{paths[k]}", partial(self._segment, k, number))
            for k in range(number + 1)
        )

    def pooled(self, number: int) -> str:
        """Where the state holds the pooled feature of a tap."""
        return f"{self.name}~{number}"

    def answer(self, point: ExitLocation, exit: str, _images: Images, state: State) -> State:
        """Let a head answer from the feature of its tap."""
        head = self.network.head(point)
        return {**state, logits_key(exit): head(self.reduced(point, state))}

    def reduced(self, point: ExitLocation, state: State) -> Tensor:
        """The feature at a point as its head takes it."""
        return self.network.head(point).reduce(state[self._key(point.tap, 0)])

    def _segment(self, number: int, last: int, images: Images, state: State) -> State:
        """Run a segment on the way to the tap `last`, unless it is done."""
        reached, rest = self._reached(state), self._without(state)
        if number <= reached <= last:
            return state
        taps = self.network.taps
        made = self.network.trunk.run(
            number,
            tuple(self._values(number - 1, state)) if number else (self.network.prepare(images),),
        )
        if number == len(taps):
            return {**rest, logits_key(self.name): made[0]}
        if self.hands_on:
            rest[self.pooled(number)] = pool(made[0], taps[number].layout)
        return rest | {self._key(number, i): value for i, value in enumerate(made)}

    def _without(self, state: State) -> dict[str, Tensor]:
        """The state without what a segment handed on; pooled features stay."""
        return {key: value for key, value in state.items() if not key.startswith(f"{self.name}@")}

    def _reached(self, state: State) -> int:
        reached = [k for k in range(len(self.network.taps)) if self._key(k, 0) in state]
        return max(reached, default=-1)

    def _values(self, number: int, state: State) -> list[Tensor]:
        values: list[Tensor] = []
        while (key := self._key(number, len(values))) in state:
            values.append(state[key])
        return values

    def _key(self, number: int, place: int) -> str:
        return f"{self.name}@{number}.{place}"


@dataclass(frozen=True, eq=False)
class _Refining:
    """An Exit Sequence Network at work: tokens one by one, against those before them."""

    line: _Line
    saver_branch: SaverBranch
    saver: Stage

    def until(self, number: int, exit: str) -> tuple[StagePart, ...]:
        """The saver, the segments up to a tap with a token for each, and the exit there."""
        name, paths = self.line.name, [tap.path for tap in self.line.network.taps]
        pieces = [
            StagePart(self.saver_branch.name, partial(self._ask, number)),
            StagePart(f"{name}/{self.saver_branch.name}/token", partial(self._token, 0)),
        ]
        for place, segment in enumerate(self.line.until(number)):
            token = partial(self._token, place + 1)
            pieces += [segment, StagePart(f"{name}/{paths[place]}/token", token)]
        return (*pieces, StagePart(exit, partial(self._answer, number, exit)))

    def telling(self, point: ExitLocation, exit: str) -> tuple[StagePart, ...]:
        """The saver, the segments up to a point, and its head, which is told what it says."""
        return (
            StagePart(self.saver_branch.name, partial(self._ask, point.tap)),
            *self.line.until(point.tap),
            StagePart(exit, partial(self._answer_told, point, exit)),
        )

    def stage(self, exit: str, pieces: Sequence[StagePart]) -> Stage:
        """An exit that refines the saver's answer."""
        members = {self.saver_branch.name: self.saver}
        return ExitStage(self.line.network, self.line.name, exit, pieces, members=members)

    def _answer_told(self, point: ExitLocation, exit: str, _images: Images, state: State) -> State:
        told = torch.cat([state[self._feature(0)], state[logits_key(self.saver_branch.name)]], 1)
        head = self.line.network.head(point)
        return {**state, logits_key(exit): head(self.line.reduced(point, state), told)}

    def _ask(self, number: int, images: Images, state: State) -> State:
        """Let the saver answer, unless it has; tokens behind this exit are dropped."""
        cache = state.get(self._cache)
        if cache is not None and cache.shape[1] > number + 2:
            state = {key: value for key, value in state.items() if key != self._cache}
        if logits_key(self.saver_branch.name) in state and self._feature(0) in state:
            return state
        output = self.saver.run(images, state)
        return {**output.state, logits_key(self.saver_branch.name): output.logits}

    def _token(self, number: int, _images: Images, state: State) -> State:
        sequence, pooled = self.saver_branch.sequence, state[self._feature(number)]
        cache = state.get(self._cache)
        if cache is None:
            cache = sequence.empty_cache(len(pooled), pooled)
        if cache.shape[1] > number:
            return state
        out, cache = sequence.token(number, pooled, cache)
        return {**state, self._cache: cache, self._out: out}

    def _answer(self, number: int, exit: str, _images: Images, state: State) -> State:
        said = state[logits_key(self.saver_branch.name)]
        logits = self.saver_branch.sequence.exit(number + 1, state[self._out], said)
        return {**state, logits_key(exit): logits}

    def _feature(self, number: int) -> str:
        """Where the state holds what a token is made of: the saver's is token 0."""
        return f"{self.saver_branch.name}~0" if number == 0 else self.line.pooled(number - 1)

    @property
    def _cache(self) -> str:
        return f"{self.line.name} keys and values"

    @property
    def _out(self) -> str:
        return f"{self.line.name} last token"
