"""Check certificates again from scratch, against their table."""

from __future__ import annotations

from dataclasses import dataclass

from understudy.errors import PolicyError
from understudy.json_codec import Stored
from understudy.outcome import evaluate
from understudy.result import Choice, Result
from understudy.scores import ScoreTable
from understudy.searching.exact_test import drop_p_value
from understudy.searching.search import search, search_within_cost, with_learned_score


@dataclass(frozen=True)
class Check(Stored):
    """One claim of a certificate, whether it holds, and what was found."""

    max_drop: float
    claim: str
    holds: bool
    found: str


def verify(result: Result, table: ScoreTable) -> tuple[Check, ...]:
    """Check every certificate of a result: same samples, same policy, same counts, same proof.

    The policy is searched again on `tune`; losses and gains of every proved policy are counted
    again by `evaluate`, the specification; every p-value is computed again.

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
    confidence = result.arguments["confidence"]
    table = with_learned_score(table, result.reference, confidence=confidence, unit=result.unit)
    certify = table.on("certify")
    pairs = zip(result.choices, again.choices, strict=True)
    return tuple(check for one, second in pairs for check in _checks(one, second, certify))


def _searched_again(result: Result, table: ScoreTable) -> Result:
    spec = {**result.arguments, "reference": result.reference, "unit": result.unit}
    name = spec.pop("by", None)
    if name == "search":
        return search(table, delta=result.delta, **spec)
    if name == "search_within_cost":
        return search_within_cost(table, delta=result.delta, **spec)
    raise PolicyError(f"a certified result names its search function, found {name!r}: search again")


def _checks(choice: Choice, again: Choice, certify: ScoreTable) -> list[Check]:
    """The checks of one choice, given what was chosen `again` and the certify samples."""
    certificate, policy = choice.certificate, choice.policy
    if certificate is None:
        raise PolicyError(f"the choice for {choice.max_drop:g} points has no certificate")
    path, reference = certificate.path, certificate.reference
    budget, delta = certificate.budget, certificate.delta

    def counted(table: ScoreTable, budget: float) -> tuple[list[tuple[int, int]], float]:
        """Losses and gains of every proved policy, and the largest p-value; 0 for none."""
        outcomes = [evaluate(table, policy, reference=reference) for policy in path]
        counts = [(outcome.losses, outcome.gains) for outcome in outcomes]
        p_values = [drop_p_value(*one, len(table), budget, delta) for one in counts]
        return counts, max(p_values, default=0.0)

    counts, worst = counted(certify, budget)
    losses, gains = counts[-1] if counts else (0, 0)
    described = policy.describe()
    same_samples = certificate.table == certify.hash
    same_counts = (losses, gains) == (certificate.losses, certificate.gains)
    steps = f"each of {len(counts)} steps proved at {delta:g}"
    second = again.policy
    checks = [
        Check(budget, "same certify samples", same_samples, certify.hash[:16]),
        Check(budget, "same policy when searched again", second == policy, second.describe()),
        Check(budget, "the policy is the certified one", certificate.policy == policy, described),
        Check(budget, "same losses and gains", same_counts, f"{losses:,} and {gains:,}"),
        Check(budget, steps, worst <= delta, f"largest p = {worst:.4g}"),
    ]
    for name, bound in certificate.classes.items():
        _, worst = counted(certify.of_class(name), bound.budget)
        claim = f"class {name} within {bound.budget:g} points"
        checks.append(Check(budget, claim, worst <= delta, f"largest p = {worst:.4g}"))
    return checks
