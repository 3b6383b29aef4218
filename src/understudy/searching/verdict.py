"""What a choice amounts to, in words; honest where a cascade does not pay."""

from __future__ import annotations

from understudy.certificate import Certificate
from understudy.outcome import Outcome, points
from understudy.policy import Policy
from understudy.result import Baselines

TIME = "ms@"
"""What the names of measured times begin with."""


def certified_verdict(
    certificate: Certificate,
    test: Outcome,
    beside: Baselines,
    *,
    unit: str,
    max_cost: float | None,
    better: str | None,
) -> str:
    """The verdict on a certified choice, with its figures on test.

    `better` is a single exit that makes the reference a poor one; see `dominating`.
    """
    if certificate.falls_back:
        words = f"A cascade does not pay here: use {certificate.reference}. {certificate.words()}"
        return words + _fairer(better, certificate.reference)
    bound = (
        f"its drop is certified to be at most {points(certificate.budget)}"
        if certificate.budget >= 0
        else f"its gain is certified to be at least {points(-certificate.budget)}"
    )
    words = _verdict(certificate.policy, test, beside, bound=bound, unit=unit, max_cost=max_cost)
    return words + _fairer(better, certificate.reference)


def in_sample_verdict(
    policy: Policy,
    outcome: Outcome,
    beside: Baselines,
    *,
    max_drop: float,
    unit: str,
    max_cost: float | None,
    better: str | None,
) -> str:
    """The verdict on a choice that was made and measured on the same samples."""
    if policy == Policy.single(outcome.reference):
        return (
            f"A cascade does not pay here: use {outcome.reference}. Nothing cheaper drops at most "
            f"{points(max_drop)}. In-sample: nothing is certified."
        ) + _fairer(better, outcome.reference)
    bound = "in-sample, so these figures promise too much and nothing is certified"
    words = _verdict(policy, outcome, beside, bound=bound, unit=unit, max_cost=max_cost)
    return words + _fairer(better, outcome.reference)


def _fairer(better: str | None, reference: str) -> str:
    if better is None:
        return ""
    return (
        f" {better} costs less than {reference} and was right at least as often on tune: search "
        f"with --reference {better}, so that a poor reference flatters nobody."
    )


def _verdict(
    policy: Policy,
    outcome: Outcome,
    beside: Baselines,
    *,
    bound: str,
    unit: str,
    max_cost: float | None,
) -> str:
    saving = 100 * outcome.saving[unit]
    figures = f"saves {saving:.1f} % of {unit} at a drop of {outcome.drop:.2f} points; {bound}."
    if len(policy.stages) == 1:
        words = f"A cascade does not pay here: use {policy.exits[0]}, which alone {figures}"
    elif (
        beside.single is not None
        and beside.single_drop is not None
        and beside.single_drop <= outcome.drop
    ):
        words = (
            f"A cascade hardly pays here: {beside.single} alone costs no more and drops "
            f"{beside.single_drop:.2f} points. The cascade {figures}"
        )
    elif beside.random_drop <= outcome.drop:
        words = (
            f"Deferring at random does as well: the confidence tells nothing. The cascade {figures}"
        )
    else:
        words = f"The cascade {' → '.join(policy.exits)} {figures}"
    words += _in_time(outcome, unit)
    if max_cost is not None and outcome.cost[unit] > max_cost:
        words += (
            f" It costs {outcome.cost[unit]:.4g} {unit}, more than the {max_cost:g} allowed: allow "
            "a larger drop, or score a smaller model."
        )
    return words


def _in_time(outcome: Outcome, unit: str) -> str:
    """What measured times say where another unit was saved and time is lost."""
    slower = {
        name: -100 * saving
        for name, saving in outcome.saving.items()
        if name.startswith(TIME) and name != unit and saving < 0
    }
    if not slower:
        return ""
    name = max(slower, key=lambda found: slower[found])
    return (
        f" It takes {slower[name]:.0f} % more {name} than {outcome.reference}: where time is what "
        f"counts, search with --unit {name}, or use {outcome.reference} alone."
    )
