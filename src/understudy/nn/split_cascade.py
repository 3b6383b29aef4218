"""A cascade some of whose models run elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from torch import Tensor, nn

from understudy.errors import ModelError
from understudy.nn.cascade import Cascade, TorchRunner
from understudy.nn.stage import Stage
from understudy.policy import Policy
from understudy.runtime.base_cascade import AcceptanceRule
from understudy.runtime.remote import RemoteModel, RemoteRunner


class ModelElsewhere(nn.Module):
    """In the place of a model that this process does not hold."""

    def forward(self, images: Tensor) -> Tensor:  # noqa: ARG002
        """Nothing is computed here.

        Raises:
            ModelError: always.
        """
        raise ModelError("a model that runs elsewhere is not run here: load the cascade whole")


class SplitCascade(Cascade):
    """A cascade that holds its other models, and asks for the logits of those that run elsewhere.

    It takes the stages of the whole cascade, which lets go of these models. Answers are those of
    the whole cascade: ensembles are formed and rows accepted here.

    Args:
        whole: the cascade.
        elsewhere: exit -> what runs its model; the exits are whole models.

    Raises:
        ModelError: an exit that is no whole model, which cannot run by itself.
    """

    def __init__(self, whole: Cascade, elsewhere: Mapping[str, RemoteModel]) -> None:
        self._elsewhere = dict(elsewhere)
        stages = whole.stages
        for name in self._elsewhere:
            if type(stages[name]) is not Stage:
                raise ModelError(f"a whole model runs elsewhere, {name!r} is none: leave it here")
            stages[name].model = ModelElsewhere()
        super().__init__(
            stages,
            whole.policy,
            operating_points=whole.operating_points,
            scores=whole.scores,
            classes=whole.classes,
        )

    def _runners(self, rules: Sequence[AcceptanceRule], policy: Policy) -> tuple[TorchRunner, ...]:
        here = super()._runners(rules, policy)
        return cast("tuple[TorchRunner, ...]", tuple(map(self._asking, here)))

    def _asking(self, runner: TorchRunner) -> TorchRunner | RemoteRunner:
        names = tuple(runner.stage.members) or (runner.name,)
        models = {name: self._elsewhere[name] for name in names if name in self._elsewhere}
        return RemoteRunner(runner, models) if models else runner


def released(cascade: Cascade, exit: str) -> Cascade:
    """One model of a cascade by itself, which can be kept without the others.

    >>> import torch
    >>> whole = Cascade({"tiny": nn.Linear(4, 3), "big": nn.Linear(4, 3)}, Policy.single("tiny"))
    >>> released(whole, "big").answer(torch.zeros(2, 4)).exit_names()
    ['big', 'big']
    """
    return Cascade({exit: cascade.stages[exit]}, Policy.single(exit), classes=cascade.classes)
