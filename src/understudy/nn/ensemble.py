"""Exits that are derived from others, as they run: averages of stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from understudy.early_exit.network import stages_of
from understudy.ensemble import ORIGIN_KEY, Ensemble
from understudy.errors import ModelError, PolicyError, listed, unknown
from understudy.nn.confidence import confidence_functions
from understudy.nn.images import Images
from understudy.nn.stage import EMPTY, Stage, StageOutput, State, check_classes, logits_key
from understudy.policy import DEFAULT_CONFIDENCE

Models = Mapping[str, nn.Module | Ensemble]
"""Exit name -> what runs there; an average names others, a network brings all its exits."""


class EnsembleStage(Stage):
    """The average of other stages: it runs those that a sample has not visited yet.

    The logits of stages that ran before come with the state, under the key that `logits_key` gives.
    Members are shared with the cascade, not copied; images go to each as they came.

    Args:
        recipe: which exits are averaged, at which temperatures.
        members: the stage of each of these exits.

    >>> stages = {"tiny": Stage(nn.Identity()), "big": Stage(nn.Identity())}
    >>> EnsembleStage(Ensemble(("tiny", "big"), (1.0, 0.5)), stages)(torch.ones(1, 2))
    tensor([[1.5000, 1.5000]])
    """

    def __init__(self, recipe: Ensemble, members: Mapping[str, Stage]) -> None:
        stages = nn.ModuleList(members[name] for name in recipe.exits)
        super().__init__(stages, origin={ORIGIN_KEY: recipe.to_dict()})
        self.recipe = recipe

    @property
    def members(self) -> dict[str, Stage]:
        """The stages that are averaged, by exit."""
        stages = cast("nn.ModuleList", self.model)
        return dict(zip(self.recipe.exits, stages, strict=True))  # type: ignore[arg-type]

    @property
    def device(self) -> torch.device:
        """Where the last member runs: the one that mostly is left to run."""
        return self.members[self.recipe.exits[-1]].device

    @torch.inference_mode()
    def forward(self, images: Images) -> Tensor:
        """Averaged logits (N, C) float32, all members being run."""
        return self.run(images).logits

    def run(
        self, images: Images, state: State = EMPTY, *, confidence: str = DEFAULT_CONFIDENCE
    ) -> StageOutput:
        """Averaged logits, the named confidence, and the state with all members' logits."""
        if confidence not in confidence_functions:
            raise PolicyError(unknown("confidence", confidence, confidence_functions))
        for name, member in self.members.items():
            if logits_key(name) not in state:
                output = member.run(images, state)
                state = {**output.state, logits_key(name): output.logits}
        with torch.inference_mode():
            logits = self._mean([state[logits_key(name)] for name in self.members])
            return StageOutput(logits, confidence_functions[confidence](logits), state)

    def _mean(self, logits: Sequence[Tensor]) -> Tensor:
        """The weighted sum (N, C) float32, in the order of the members, as in `with_ensemble`."""
        for name, rows in zip(self.members, logits, strict=True):
            check_classes(self.recipe.exits[0], logits[0].shape[1], name, rows.shape[1])
        parts = [
            rows.to(self.device).float() * weight
            for rows, weight in zip(logits, self.recipe.weights, strict=True)
        ]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total


def assembled(models: Models) -> dict[str, Stage]:
    """The stages by name: models as they are, the exits of networks, averages of those beside them.

    Raises:
        ModelError: something that is no module, or an average of an exit that is not there or is
            an average itself.
    """
    plain = stages_of({n: m for n, m in models.items() if not isinstance(m, Ensemble)})
    stages = dict(plain)
    for name, model in models.items():
        if isinstance(model, Ensemble):
            missing = [one for one in model.exits if one not in plain]
            if missing:
                raise ModelError(
                    f"an average is of models beside it, {listed(map(repr, missing))} of {name!r} "
                    f"is none; there are {listed(map(repr, plain)) or 'none'}: add what is missing"
                )
            stages[name] = EnsembleStage(model, plain)
    return stages
