"""Exits inside a network as stages of a cascade; work that the state holds is not repeated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from understudy.early_exit.segments import Refinement, Segments
from understudy.errors import ModelError
from understudy.nn.device import Images
from understudy.nn.stage import Stage, StagePart
from understudy.runtime.state import StageState, StateKey

if TYPE_CHECKING:
    from understudy.early_exit.network import ExitNetwork, SaverBranch

ESN = "esn"
"""The name of the exits of an Exit Sequence Network."""


class ExitStage(Stage):
    """One exit of a network. Segments whose output is in the state are not run again.

    Run after a deeper exit of its network it starts from the images again: order exits from shallow
    to deep.

    Args:
        network: the network that the exit is in.
        name: the name of the network among the exits.
        exit: the name of the exit.
        parts: the work until it can answer, in order.
        members: the stages whose logits the exit refines.
        root: the name of the network that contains this one, for a saver's.
    """

    def __init__(
        self,
        network: ExitNetwork,
        name: str,
        exit: str,
        parts: Sequence[StagePart],
        *,
        members: Mapping[str, Stage],
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
        if begun or self.network.variant.folded:
            return super().resume(images, state)
        return self.network.stage.model(self.network.prepare(images)), state


def stages_of_network(network: ExitNetwork, name: str) -> dict[str, Stage]:
    """A stage per exit in the order of execution; the saver first where there is one."""
    segments = _segments(network, name, keeps_pooled=network.saver_branch is not None)
    stages: dict[str, Stage] = {}
    refinement: Refinement | None = None
    if network.saver_branch is not None:
        branch = network.saver_branch
        branch.saver.origin = network.origin
        stages[branch.name] = _saver(branch, root=name)
        refinement = Refinement(segments, stages[branch.name], branch.name, branch.sequence)

    def refining(exit: str, parts: Sequence[StagePart]) -> Stage:
        assert refinement is not None
        members = {refinement.saver_name: refinement.saver}
        return ExitStage(network, name, exit, parts, members=members)

    for number, tap in enumerate(network.taps):
        for point in network.points:
            if point.tap == number:
                exit, head = f"{name}/{tap.path}/{point.head}", network.head(point)
                if refinement is not None and head.told:
                    stages[exit] = refining(exit, refinement.conditioned(head, number, exit))
                else:
                    parts = (*segments.until(number), segments.head(head, number, exit))
                    stages[exit] = ExitStage(network, name, exit, parts, members={})
        if refinement is not None:
            exit = f"{name}/{tap.path}/{ESN}"
            stages[exit] = refining(exit, refinement.exit(number, exit))
    if name in stages:
        raise ModelError(
            f"a network and its saver have names of their own, both are {name!r}: rename one"
        )
    stages[name] = WholeNetwork(network, name, name, segments.until(len(network.taps)), members={})
    return stages


def _segments(network: ExitNetwork, name: str, *, keeps_pooled: bool) -> Segments:
    return Segments(name, network.taps, network.prepare, lambda: network.trunk, keeps_pooled)


def _saver(branch: SaverBranch, *, root: str) -> Stage:
    """The saver as a stage that keeps its pooled last feature."""
    segments = _segments(branch.saver, branch.name, keeps_pooled=True).until(1)

    def whole(images: Images, state: StageState) -> StageState:
        for segment in segments:
            state = segment.run(images, state)
        return state

    part = StagePart(branch.name, whole)
    return ExitStage(branch.saver, branch.name, branch.name, (part,), members={}, root=root)
