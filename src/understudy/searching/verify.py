"""A certificate, checked again from scratch against its table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from understudy.certificate import Certificate
from understudy.errors import PolicyError
from understudy.outcome import evaluate
from understudy.policy import Policy
from understudy.result import Result
from understudy.scores import ScoreTable
from understudy.searching.exact_test import drop_p_value
from understudy.searching.search import prepared, search, search_within_cost


@dataclass(frozen=True)
class Check:
    """One thing that a certificate claims, and whether it is so."""

    max_drop: float
    claim: str
    holds: bool
    found: str

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


def verify(result: Result, table: ScoreTable) -> tuple[Check, ...]:
    """Check every certificate of a result: same samples, same plan, same counts, same proof.

    The plan is searched again on `tune`; losses and gains of every proved step are counted again by
    `evaluate`, the specification; every p-value is computed again.

    Raises:
        PolicyError: the result was searched in-sample, so it has no certificate.
        TableError: the table lacks an exit or a split of the result.

    >>> import numpy as np
    >>> right = np.arange(1000) % 10 < 9
    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": (1 - right, np.where(right, .9, .6)), "big": (0 * right, np.ones(1000))},
    ...     np.zeros(1000, int), costs={"tiny": 1, "big": 9})
    >>> all(check.holds for check in verify(search(table, max_drop=2.0), table))
    True
    """
    if result.in_sample:
        raise PolicyError(
            "a result that was searched in-sample certifies nothing: search without --in-sample"
        )
    again = _searched_again(result, table)
    table = prepared(
        table, result.reference, confidence=result.arguments["confidence"], unit=result.unit
    )
    certify = table.on("certify")
    checks: list[Check] = []
    for choice, second in zip(result.choices, again.choices, strict=True):
        certificate = choice.certificate
        if certificate is None:
            raise PolicyError(f"the choice for {choice.max_drop:g} points has no certificate")
        checks += _checks(certificate, certify, second.policy, found=choice.policy)
    return tuple(checks)


def _searched_again(result: Result, table: ScoreTable) -> Result:
    asked = {**result.arguments, "reference": result.reference, "unit": result.unit}
    name = asked.pop("by", None)
    if name == "search":
        return search(table, delta=result.delta, **asked)
    if name == "search_within_cost":
        return search_within_cost(table, delta=result.delta, **asked)
    raise PolicyError(f"a certified result says how it was searched, found {name!r}: search again")


def _checks(
    certificate: Certificate, certify: ScoreTable, again: Policy, *, found: Policy
) -> list[Check]:
    drop = certificate.budget
    counted = [_counts(certify, policy, certificate) for policy in certificate.path]
    p_values = [
        drop_p_value(lost, gained, len(certify), drop, certificate.delta)
        for lost, gained in counted
    ]
    worst = max(p_values, default=0.0)
    last = counted[-1] if counted else (0, 0)
    checks = [
        Check(drop, "same certify samples", certificate.table == certify.hash, certify.hash[:16]),
        Check(drop, "same plan when searched again", again == found, again.describe()),
        Check(drop, "the plan is the certified one", certificate.policy == found, found.describe()),
        Check(
            drop,
            "same losses and gains",
            last == (certificate.losses, certificate.gains),
            f"{last[0]:,} and {last[1]:,}",
        ),
        Check(
            drop,
            f"each of {len(counted)} steps proved at {certificate.delta:g}",
            worst <= certificate.delta,
            f"largest p = {worst:.4g}",
        ),
    ]
    for name, bound in certificate.classes.items():
        part = certify.of_class(name)
        of_class = [_counts(part, policy, certificate) for policy in certificate.path]
        p = max(
            (
                drop_p_value(lost, gained, len(part), bound.budget, certificate.delta)
                for lost, gained in of_class
            ),
            default=0.0,
        )
        claim = f"class {name} within {bound.budget:g} points"
        checks.append(Check(drop, claim, p <= certificate.delta, f"largest p = {p:.4g}"))
    return checks


def _counts(table: ScoreTable, policy: Policy, certificate: Certificate) -> tuple[int, int]:
    outcome = evaluate(table, policy, reference=certificate.reference)
    return outcome.losses, outcome.gains
