"""Operating points of a running cascade: certified policies, each with its bound and its cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from understudy.certificate import Certificate
from understudy.errors import PolicyError, listed
from understudy.json_codec import Stored, stored
from understudy.policy import Policy
from understudy.result import Result


@dataclass(frozen=True)
class OperatingPoint(Stored, what="an operating point", error=PolicyError):
    """A policy that a cascade can be switched to while it runs.

    Attributes:
        policy: the policy that is executed.
        max_drop: the drop in points that was proved; 0 for the reference itself.
        delta: the chance that this proof is wrong; 0 for the reference itself.
        cost: mean cost per sample, measured on the split of the result's headline figures.
        unit: the unit of the cost.
        certificate: the proof; None for the reference itself, and in older files.

    Raises:
        PolicyError: the certificate is that of another policy or budget.
    """

    policy: Policy
    max_drop: float
    delta: float
    cost: float
    unit: str
    certificate: Certificate | None = field(default=None, metadata=stored(optional=True))

    def __post_init__(self) -> None:
        if self.certificate is not None:
            self.certificate.check(
                self.policy,
                self.max_drop,
                what="the policy of an operating point",
                remedy="take it from the search result",
            )


def operating_points_of(result: Result) -> tuple[OperatingPoint, ...]:
    """The certified points of a result, and the reference itself; cheapest first.

    Certificates of several budgets hold all at once where the search was `search_jointly`.
    """
    unit, reference = result.unit, result.reference
    single = next(single for single in result.singles if single.name == reference)
    outcome = single.on[result.measured_on]
    points = [OperatingPoint(Policy.single(reference), 0.0, 0.0, outcome.cost[unit], unit)]
    for choice in result.choices:
        proof = choice.certificate
        if proof is not None and not proof.falls_back:
            cost = choice.outcome.cost[unit]
            points.append(
                OperatingPoint(choice.policy, proof.budget, proof.delta, cost, unit, proof)
            )
    return tuple(sorted(points, key=lambda point: (point.cost, point.max_drop)))


def reference_of(points: Iterable[OperatingPoint]) -> str | None:
    """The exit that drops are measured against: the one whose drop needs no proof; None where no
    point is that of an exit by itself.

    >>> whole = OperatingPoint(Policy.single("big"), 0.0, 0.0, 9.0, "MACs")
    >>> reference_of([OperatingPoint(Policy.single("tiny"), 1.0, 0.05, 2.0, "MACs"), whole])
    'big'
    """
    alone = (p.policy for p in points if p.delta == 0 and len(p.policy.stages) == 1)
    return next((policy.exits[-1] for policy in alone), None)


def select_operating_point(
    points: Sequence[OperatingPoint], *, max_drop: float | None = None, cost: float | None = None
) -> OperatingPoint:
    """The cheapest operating point within a drop, or the one with the least drop within a cost.

    >>> small = OperatingPoint(Policy.pair("tiny", "big", 0.9), 0.5, 0.05, 2.0, "MACs")
    >>> whole = OperatingPoint(Policy.single("big"), 0.0, 0.0, 9.0, "MACs")
    >>> points = [small, whole]
    >>> select_operating_point(points, max_drop=1.0).cost
    2.0
    >>> select_operating_point(points, cost=100).cost
    9.0

    Raises:
        PolicyError: no point fits, or not exactly one of the two is given.
    """
    if (max_drop is None) == (cost is None):
        raise PolicyError(
            f"an operating point is selected by one of max_drop and cost, found "
            f"max_drop={max_drop} and cost={cost}: give one"
        )
    if max_drop is not None:
        fitting = [one for one in points if one.max_drop <= max_drop + 1e-9]
        if fitting:
            return min(fitting, key=lambda one: (one.cost, one.max_drop))
    elif cost is not None:
        fitting = [one for one in points if one.cost <= cost]
        if fitting:
            return min(fitting, key=lambda one: (one.max_drop, one.cost))
    offers = [f"{one.max_drop:g} points at {one.cost:.4g} {one.unit}" for one in points]
    requested = f"a drop of {max_drop:g} points" if cost is None else f"a cost of {cost:g}"
    raise PolicyError(
        f"no certified operating point lies within {requested}, this cascade has "
        f"{listed(offers, 12) or 'none'}: build it from a search for that budget (--max-drop)"
    )
