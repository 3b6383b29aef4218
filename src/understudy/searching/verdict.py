"""The verdict on a choice in words, also where a cascade does not pay."""

from __future__ import annotations

from understudy.certificate import Certificate
from understudy.outcome import Outcome, points
from understudy.policy import Policy
from understudy.result import Baselines

TIME = "ms@"
"""What the names of measured times begin with."""


def verdict(
    policy: Policy,
    outcome: Outcome,
    baselines: Baselines,
    *,
    certificate: Certificate | None,
    max_drop: float,
    unit: str,
    max_cost: float | None,
    better: str | None,
) -> str:
    """The verdict on a policy from its figures on test, or on all samples of a search in-sample.

    Args:
        certificate: the proof; None for a search in-sample.
        max_drop: the budget in points.
        max_cost: a mean cost per sample that the verdict compares with.
        better: a single exit that makes the reference a poor one; see `dominating`.
    """
    reference = outcome.reference
    if policy == Policy.single(reference):
        reason = (
            f"Nothing cheaper drops at most {points(max_drop)}. In-sample: nothing is certified."
            if certificate is None
            else certificate.words()
        )
        words = f"A cascade does not pay here: use {reference}. {reason}"
    else:
        figures = (
            f"saves {100 * outcome.saving[unit]:.1f} % of {unit} at a drop of "
            f"{outcome.drop:.2f} points; {_bound(certificate)}."
        )
        words = _comparison(policy, outcome, baselines, figures) + _lost_time(outcome, unit)
        if max_cost is not None and outcome.cost[unit] > max_cost:
            words += (
                f" It costs {outcome.cost[unit]:.4g} {unit}, more than the {max_cost:g} allowed: "
                "allow a larger drop, or score a smaller model."
            )
    if better is not None:
        words += (
            f" {better} costs less than {reference} and was right at least as often on tune: "
            f"search with --reference {better}, so that a poor reference flatters nobody."
        )
    return words


def _bound(certificate: Certificate | None) -> str:
    if certificate is None:
        return "in-sample, so these figures promise too much and nothing is certified"
    if certificate.budget >= 0:
        return f"its drop is certified to be at most {points(certificate.budget)}"
    return f"its gain is certified to be at least {points(-certificate.budget)}"


def _comparison(policy: Policy, outcome: Outcome, baselines: Baselines, figures: str) -> str:
    """The figures of a policy after a comparison with its baselines."""
    single, drop = baselines.single, baselines.single_drop
    if len(policy.stages) == 1:
        return f"A cascade does not pay here: use {policy.exits[0]}, which alone {figures}"
    if drop is not None and drop <= outcome.drop:
        return (
            f"A cascade hardly pays here: {single} alone costs no more and drops {drop:.2f} "
            f"points. The cascade {figures}"
        )
    if baselines.random_drop <= outcome.drop:
        return (
            f"Deferring at random does as well: the confidence tells nothing. The cascade {figures}"
        )
    return f"The cascade {' → '.join(policy.exits)} {figures}"


def _lost_time(outcome: Outcome, unit: str) -> str:
    """The measured time that is lost most where another unit is saved."""
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
