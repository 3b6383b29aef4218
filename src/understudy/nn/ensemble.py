"""Ensemble stages: the weighted mean of the logits of other stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from understudy.ensemble import ORIGIN_KEY, Ensemble
from understudy.errors import ModelError, listed
from understudy.nn.device import Images
from understudy.nn.stage import Stage, stages_of
from understudy.runtime.pipeline import check_classes
from understudy.runtime.state import StageState, StateKey

Models = Mapping[str, nn.Module | Ensemble]
"""Exit name -> model; an ensemble names others, a network stands for all its exits."""


class EnsembleStage(Stage):
    """The ensemble of other stages: it runs those that a sample has not visited yet.

    The logits of stages that ran before are taken from the state. Members are shared with the
    cascade, not copied; images go to each as they came.

    Args:
        ensemble: the exits of the members, and their temperatures.
        members: the stage of each of these exits.

    >>> stages = {"tiny": Stage(nn.Identity()), "big": Stage(nn.Identity())}
    >>> EnsembleStage(Ensemble(("tiny", "big"), (1.0, 0.5)), stages)(torch.ones(1, 2))
    tensor([[1.5000, 1.5000]])
    """

    def __init__(self, ensemble: Ensemble, members: Mapping[str, Stage]) -> None:
        stages = nn.ModuleList(members[name] for name in ensemble.exits)
        super().__init__(stages, origin={ORIGIN_KEY: ensemble.to_dict()})
        self.ensemble = ensemble

    @property
    def members(self) -> dict[str, Stage]:
        """The member stages by exit."""
        stages = cast("nn.ModuleList", self.model)
        return dict(zip(self.ensemble.exits, stages, strict=True))  # type: ignore[arg-type]

    @property
    def device(self) -> torch.device:
        """Where the last member runs: the one that in general is left to run."""
        return self.members[self.ensemble.exits[-1]].device

    @torch.inference_mode()
    def resume(self, images: Images, state: StageState) -> tuple[Tensor, StageState]:
        """The weighted mean of logits (N, C) float32, and the state with all members' logits."""
        for name, member in self.members.items():
            if StateKey.logits(name) not in state:
                logits, state = member.resume(images, state)
                state = {**state, StateKey.logits(name): logits}
        return self._mean([state[StateKey.logits(name)] for name in self.members]), state

    def _mean(self, logits: Sequence[Tensor]) -> Tensor:
        """The weighted sum (N, C) float32, in the order of the members, as in `with_ensemble`."""
        for name, rows in zip(self.members, logits, strict=True):
            check_classes(self.ensemble.exits[0], logits[0].shape[1], name, rows.shape[1])
        terms = [
            rows.to(self.device).float() * weight
            for rows, weight in zip(logits, self.ensemble.weights, strict=True)
        ]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total


def build_stages(models: Models) -> dict[str, Stage]:
    """The stages by name: models as they are, the exits of networks, and ensembles of them.

    Raises:
        ModelError: not a module, or an ensemble whose member is missing or an ensemble itself.
    """
    plain = stages_of({n: m for n, m in models.items() if not isinstance(m, Ensemble)})
    stages = dict(plain)
    for name, model in models.items():
        if isinstance(model, Ensemble):
            missing = [one for one in model.exits if one not in plain]
            if missing:
                raise ModelError(
                    f"an ensemble has models as members, {listed(map(repr, missing))} of {name!r} "
                    f"are none; given are {listed(map(repr, plain)) or 'none'}: add what is missing"
                )
            stages[name] = EnsembleStage(model, plain)
    return stages
