"""The policies that a server can be set to, each resolved once, with what its exits cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from understudy.errors import PolicyError, listed
from understudy.operating_point import OperatingPoint, reference_of, select_operating_point
from understudy.policy import Policy
from understudy.runtime.protocol import StageRunner


@dataclass(frozen=True, eq=False)
class ServedPolicy:
    """A policy with its runners, which is what a request is answered by.

    Attributes:
        number: its place among the policies of the server.
        name: of the operating point, or None.
        point: the operating point whose policy it is; None where the cascade came with a policy
            that is none of them.
        policy: the policy.
        runners: its stages.
        costs: exit -> what an image costs that it answers, in the point's unit; empty where it is
            not known.
        reference_cost: what an image costs that the reference answers, in that unit.
        known_costs: unit -> the same, for all units.
    """

    number: int
    name: str | None
    point: OperatingPoint | None
    policy: Policy
    runners: tuple[StageRunner, ...]
    costs: Mapping[str, float]
    reference_cost: float | None
    known_costs: Mapping[str, tuple[Mapping[str, float], float]]


class ServedPolicies:
    """The operating points of a cascade, and the policy that it came with.

    Args:
        cascade: a cascade of any backend; one without operating points has its policy alone.
    """

    def __init__(self, cascade: Any) -> None:
        points: Sequence[OperatingPoint] = getattr(cascade, "operating_points", ())
        policies: list[tuple[OperatingPoint | None, Policy]] = [(p, p.policy) for p in points]
        if cascade.policy not in (policy for _, policy in policies):
            policies.append((None, cascade.policy))
        self.points = tuple(points)
        self.all = tuple(
            _served(number, point, policy, cascade)
            for number, (point, policy) in enumerate(policies)
        )
        self.first = next(one for one in self.all if one.policy == cascade.policy)
        self.reference = reference_of(points)

    def of(self, point: OperatingPoint) -> ServedPolicy:
        """The policy of an operating point."""
        return next(one for one in self.all if one.point is point)

    def named(self, name: str | None) -> OperatingPoint | None:
        """The operating point of a name, if there is one."""
        return next((point for point in self.points if point.name == name), None)

    def selected(self, wish: Mapping[str, Any]) -> ServedPolicy:
        """The policy for a wish with one of `name`, `max_drop` and `cost`.

        Raises:
            PolicyError: another key, a value that is none, or no point that fits.
        """
        if len(wish) != 1 or not wish.keys() <= {"name", "max_drop", "cost"}:
            raise PolicyError(
                "an operating point is chosen by one of name, max_drop and cost, found "
                f"{listed(map(repr, wish)) or 'none'}: give one"
            )
        [(key, value)] = wish.items()
        right = str if key == "name" else (int, float)
        if not isinstance(value, right) or isinstance(value, bool):
            kind = "a text" if key == "name" else "a number"
            raise PolicyError(f"{key} is {kind}, found {value!r:.80}")
        chosen: dict[str, Any] = {key: value}
        return self.of(select_operating_point(self.points, **chosen))


def _served(
    number: int, point: OperatingPoint | None, policy: Policy, cascade: Any
) -> ServedPolicy:
    same = policy == cascade.policy
    runners = cascade.runners if same else cascade.runners_of(policy)
    if point is None:
        return ServedPolicy(number, None, None, policy, runners, {}, None, {})
    known: dict[str, tuple[Mapping[str, float], float]] = {}
    if point.baseline is not None:
        costs, reference = point.baseline.costs, point.baseline.reference_costs
        known = {unit: (costs[unit], reference[unit]) for unit in costs}
    elif point.delta == 0:
        known = {point.unit: ({policy.exits[0]: point.cost}, point.cost)}
    own: tuple[Mapping[str, float], float | None] = known.get(point.unit, ({}, None))
    return ServedPolicy(number, point.name, point, policy, runners, *own, known)
