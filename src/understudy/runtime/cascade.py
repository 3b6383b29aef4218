"""The plan of a cascade of any backend, which is switched as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from understudy.operating_point import OperatingPoint, select_operating_point
from understudy.policy import Policy
from understudy.runtime.protocol import StageRunner

J = TypeVar("J", bound=StageRunner)


@dataclass(frozen=True)
class Plan(Generic[J]):
    """A policy, and the stages that it asks in order."""

    policy: Policy
    runners: tuple[J, ...]


class BaseCascade(Generic[J]):
    """What executes a policy, and can switch it while running.

    Attributes:
        frontier: the certified settings that it can be dialled to.
    """

    frontier: tuple[OperatingPoint, ...]
    _plan: Plan[J]

    def _judged(self, policy: Policy) -> tuple[J, ...]:
        """The stages of a policy, each with its rule.

        Raises:
            PolicyError: an exit or a confidence that there is not.
        """
        raise NotImplementedError

    @property
    def policy(self) -> Policy:
        """What is executed. Setting it takes effect at the next batch, in whatever thread.

        A batch reads the policy once, when it starts, so none is answered by half of two.

        Raises:
            PolicyError: on setting, an exit or a confidence that there is not.
        """
        return self._plan.policy

    @policy.setter
    def policy(self, policy: Policy) -> None:
        self._plan = Plan(policy, self._judged(policy))

    def set_operating_point(
        self, *, max_drop: float | None = None, cost: float | None = None
    ) -> OperatingPoint:
        """Switch to the cheapest certified setting within a drop (points), or the one with the
        least drop within a mean cost per sample; from the next batch on, in whatever thread.

        Raises:
            PolicyError: no setting of the frontier fits, or not exactly one of the two is given.
        """
        setting = select_operating_point(self.frontier, max_drop=max_drop, cost=cost)
        self.policy = setting.policy
        return setting

    @property
    def runners(self) -> tuple[J, ...]:
        """The stages of the policy in the order they are asked, each with its rule."""
        return self._plan.runners
