"""Operating points of a running cascade: certified policies, each with its bound and its cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from understudy.baseline import Baseline
from understudy.certificate import Certificate
from understudy.errors import PolicyError, listed, unknown
from understudy.json_codec import Stored, stored
from understudy.policy import Policy
from understudy.result import Result

REFERENCE = "reference"
"""The name of the operating point that is the reference itself."""


@dataclass(frozen=True)
class OperatingPoint(
    Stored,
    what="an operating point",
    error=PolicyError,
    keys=("name", "policy", "max_drop", "delta", "cost", "unit", "certificate", "baseline"),
):
    """A policy that a cascade can be switched to while it runs.

    Attributes:
        policy: the policy that is executed.
        max_drop: the drop in points that was proved; 0 for the reference itself.
        delta: the chance that this proof is wrong; 0 for the reference itself.
        cost: mean cost per sample, measured on the split of the result's headline figures.
        unit: the unit of the cost.
        certificate: the proof; None for the reference itself, and in older files.
        baseline: what is normal of the policy on the certify samples; None in older files.

    >>> OperatingPoint(Policy.pair("tiny", "big", 0.9), 0.5, 0.05, 2.0, "MACs").name
    'drop-0.5'

    Raises:
        PolicyError: the certificate is that of another policy or budget, or the baseline that of
            another policy.
    """

    policy: Policy
    max_drop: float
    delta: float
    cost: float
    unit: str
    certificate: Certificate | None = field(default=None, metadata=stored(optional=True))
    baseline: Baseline | None = field(default=None, metadata=stored(optional=True, sparse=True))

    def __post_init__(self) -> None:
        if self.baseline is not None:
            self.baseline.check(self.policy)
        if self.certificate is not None:
            self.certificate.check(
                self.policy,
                self.max_drop,
                what="the policy of an operating point",
                remedy="take it from the search result",
            )

    @property
    def name(self) -> str:
        """Its name in a cascade: ``reference``, or ``drop-`` and the budget in points."""
        if self.delta == 0:
            return REFERENCE
        short = f"{self.max_drop or 0:g}"  # one name for 0 and -0
        return f"drop-{short if float(short) == self.max_drop else self.max_drop}"


def operating_points_of(result: Result) -> tuple[OperatingPoint, ...]:
    """The certified points of a result, and the reference itself; cheapest first.

    All bounds hold at once with a probability of at least 1 less the sum of their `delta`: so do
    those of any traffic that is switched between them. `search_jointly` divides one level so.
    """
    unit, reference = result.unit, result.reference
    single = next(single for single in result.singles if single.name == reference)
    outcome = single.on[result.measured_on]
    alone = Policy.single(reference), 0.0, 0.0, outcome.cost[unit], unit
    points = {REFERENCE: OperatingPoint(*alone, baseline=single.monitoring)}
    for choice in result.choices:
        proof = choice.certificate
        if proof is not None and not proof.falls_back:
            cost = choice.outcome.cost[unit]
            certified = choice.policy, proof.budget, proof.delta, cost, unit, proof
            point = OperatingPoint(*certified, choice.monitoring)
            points.setdefault(point.name, point)
    return tuple(sorted(points.values(), key=lambda point: (point.cost, point.max_drop)))


def reference_of(points: Iterable[OperatingPoint]) -> str | None:
    """The exit that drops are measured against: the one whose drop needs no proof; None where no
    point is that of an exit by itself.

    >>> whole = OperatingPoint(Policy.single("big"), 0.0, 0.0, 9.0, "MACs")
    >>> reference_of([OperatingPoint(Policy.single("tiny"), 1.0, 0.05, 2.0, "MACs"), whole])
    'big'
    """
    alone = (p.policy for p in points if p.delta == 0 and len(p.policy.stages) == 1)
    return next((policy.exits[-1] for policy in alone), None)


def checked_points(points: Iterable[OperatingPoint]) -> tuple[OperatingPoint, ...]:
    """The operating points of a cascade, each with a name of its own.

    Raises:
        PolicyError: two have the same name.
    """
    found = tuple(points)
    names = [point.name for point in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise PolicyError(
            f"a cascade has one operating point for a budget, found {names.count(twice)} of the "
            f"name {twice!r}: leave out all but one"
        )
    return found


def safer_than(points: Iterable[OperatingPoint], point: OperatingPoint) -> OperatingPoint | None:
    """The operating point with the next smaller drop, and the reference after all others.

    None for the reference itself, and where no point is safer.

    >>> loose = OperatingPoint(Policy.pair("tiny", "big", 0.7), 1.0, 0.05, 1.5, "MACs")
    >>> tight = OperatingPoint(Policy.pair("tiny", "big", 0.9), 0.5, 0.05, 2.0, "MACs")
    >>> whole = OperatingPoint(Policy.single("big"), 0.0, 0.0, 9.0, "MACs")
    >>> points = [loose, tight, whole]
    >>> [getattr(safer_than(points, one), "name", None) for one in points]
    ['drop-0.5', 'reference', None]
    """
    if point.name == REFERENCE:
        return None
    others = list(points)
    smaller = [one for one in others if one.name != REFERENCE and one.max_drop < point.max_drop]
    if smaller:
        return max(smaller, key=lambda one: one.max_drop)
    return next((one for one in others if one.name == REFERENCE), None)


def select_operating_point(
    points: Sequence[OperatingPoint],
    *,
    max_drop: float | None = None,
    cost: float | None = None,
    name: str | None = None,
) -> OperatingPoint:
    """The cheapest operating point within a drop, the one with the least drop within a cost, or the
    one of that name.

    >>> small = OperatingPoint(Policy.pair("tiny", "big", 0.9), 0.5, 0.05, 2.0, "MACs")
    >>> whole = OperatingPoint(Policy.single("big"), 0.0, 0.0, 9.0, "MACs")
    >>> points = [small, whole]
    >>> select_operating_point(points, max_drop=1.0).cost
    2.0
    >>> select_operating_point(points, cost=100).cost
    9.0
    >>> select_operating_point(points, name="drop-0.5").cost
    2.0

    Raises:
        PolicyError: no point fits, or not exactly one of the three is given.
    """
    if sum(one is not None for one in (max_drop, cost, name)) != 1:
        raise PolicyError(
            f"an operating point is selected by one of max_drop, cost and name, found "
            f"max_drop={max_drop}, cost={cost} and name={name!r}: give one"
        )
    if name is not None:
        found = next((one for one in points if one.name == name), None)
        if found is None:
            names = [one.name for one in points]
            raise PolicyError(unknown("operating point", name, names, where="this cascade"))
        return found
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
