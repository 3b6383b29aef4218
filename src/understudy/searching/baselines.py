"""What a cascade must beat, and the verdict: a single exit, deferral at random, and the oracle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.certificate import Certificate
from understudy.choice import DECIDED, Baselines, Choice
from understudy.display import cost_text, least_percent, percent, probability_text, signed
from understudy.errors import listed
from understudy.exit import Exit
from understudy.outcome import Outcome, decide, points
from understudy.policy import Policy
from understudy.scores import ScoreTable

Array = npt.NDArray[Any]
TIME = "ms@"  # what the names of measured times begin with


def baselines(
    policy: Policy,
    *,
    tune: ScoreTable,
    measured: ScoreTable,
    reference: str,
    unit: str,
    cost: float,
) -> Baselines:
    """The baselines of a policy of mean cost `cost`: chosen on `tune`, measured on `measured`.

    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": ([0, 1, 1, 0], [.9, .8, .6, .7]), "big": ([0, 1, 0, 0], [.9, .9, .9, .9])},
    ...     [0, 1, 0, 0], costs={"tiny": 1, "big": 9})
    >>> found = baselines(Policy.pair("tiny", "big", 0.65), tune=table, measured=table,
    ...                   reference="big", unit="MACs", cost=3.25)
    >>> found.single, found.single_drop, found.random_drop, found.oracle_drop
    ('tiny', 25.0, 18.75, 0.0)
    """
    right = measured.right(reference)
    reference_right = right[measured.index(reference)]
    drop = 100.0 * (reference_right.sum() - right.sum(1)) / len(measured)
    counts = stage_counts(measured, policy)
    rows = [measured.index(name) for name in policy.exits]
    oracle_right = _oracle_right(right[rows], counts)
    single = best_single(tune, reference=reference, unit=unit, cost=cost)
    return Baselines(
        single=single,
        single_drop=None if single is None else float(drop[measured.index(single)]),
        random_drop=float(counts @ drop[rows] / counts.sum()),
        oracle_drop=100.0 * (int(reference_right.sum()) - oracle_right) / len(measured),
    )


def best_single(table: ScoreTable, *, reference: str, unit: str, cost: float) -> str | None:
    """The most accurate exit that costs at most `cost`, of equals the cheapest; None for none."""
    costs = table.exit_costs(unit)
    right = table.right(reference).sum(1)
    fitting = np.flatnonzero(costs <= cost * (1 + 1e-12))
    if not len(fitting):
        return None
    best = min(fitting.tolist(), key=lambda row: (-right[row], costs[row]))
    return table.names[best]


def dominating(table: ScoreTable, *, reference: str, unit: str) -> Exit | None:
    """A single exit that costs less than the reference and is right at least as often, if any.

    None without labels, which alone tell who is right.
    """
    if table.label is None:
        return None
    full = table.cost_of([reference], unit)
    best = best_single(table, reference=reference, unit=unit, cost=full)
    if best is None or table.cost_of([best], unit) >= full:
        return None
    return table.exits[table.index(best)]


def verdict(
    choice: Choice,
    *,
    unit: str,
    max_cost: float | None,
    better: Exit | None,
    alike: Sequence[str] = (),
    labelled: bool = True,
    least: bool = False,
) -> str:
    """The verdict on a choice from its headline figures.

    Args:
        max_cost: a mean cost per sample that the verdict compares with.
        better: a single exit that makes the reference a poor one; see `dominating`.
        alike: exits that are faster than the reference by no more than the noise.
        labelled: whether any sample has a label; without, a drop is disagreement.
        least: whether no exit costs less than the reference.
    """
    outcome, certificate = choice.outcome, choice.certificate
    reference = outcome.reference
    if choice.policy == Policy.single(reference):
        words = _alone(choice, unit, alike, labelled=labelled, least=least)
    else:
        figures = (
            f"saves {percent(outcome.saving[unit])} of {unit}{_noise(outcome, unit)} "
            f"{_gap(choice, labelled)}{_measured(choice)}{_excess(choice, labelled)}; "
            f"{_bound(certificate, unit)}."
        )
        words = _comparison(choice, figures, labelled) + _lost_time(outcome, unit)
        if max_cost is not None:
            words += _within_cost(choice, unit, max_cost)
    return words if better is None else f"{words} {_poor(reference, better)}"


def _poor(reference: str, better: Exit) -> str:
    """What is said of a reference that a cheaper exit equals."""
    name = better.name
    if better.root == reference:
        return (
            f"{name}, an exit inside {reference}, was right at least as often on tune: the rest of "
            f"{reference} gains nothing there."
        )
    return (
        f"{name} costs less than {reference} and was right at least as often on tune: search with "
        f"--reference {name}, so that a poor reference flatters nobody."
    )


def _alone(choice: Choice, unit: str, alike: Sequence[str], *, labelled: bool, least: bool) -> str:
    """The verdict where the reference itself was chosen."""
    reference, certificate = choice.outcome.reference, choice.certificate
    budget = points(choice.max_drop)
    loses = f"drops at most {budget}" if labelled else f"disagrees on at most {budget}"
    reason = (
        f"Nothing cheaper {loses}. In-sample: nothing is certified."
        if certificate is None
        else certificate.words()
    )
    if least:
        reason = "It costs least of all exits, so there is nothing to save."
    few = certificate is not None and certificate.unprovable and not least
    head = "Too few samples to certify a cascade" if few else "A cascade does not pay here"
    words = f"{head}: use {reference}. {reason}"
    if alike:
        words += (
            f" In {unit} {listed(alike)} {'is' if len(alike) == 1 else 'are'} faster than "
            f"{reference} by no more than the noise of the times, which is no saving."
        )
    return words


def _gap(choice: Choice, labelled: bool) -> str:
    """The measured drop or gain; without labels the share of samples answered otherwise."""
    outcome = choice.outcome
    if not labelled:
        return f"and disagrees with {outcome.reference} on {outcome.drop:.2f} % of the samples"
    return f"at a {'gain' if outcome.drop < 0 else 'drop'} of {abs(outcome.drop):.2f} points"


def _excess(choice: Choice, labelled: bool) -> str:
    """Where the test split shows more than was certified: whether chance alone may."""
    drop, certificate = choice.outcome.drop, choice.certificate
    if certificate is None or drop <= certificate.budget + 1e-9:
        return ""
    low = choice.outcome.drop_interval[0]
    least = signed(low) if labelled else f"{max(low, 0):.2f} %"
    side = "more than the budget" if certificate.budget >= 0 else "short of the budget"
    if low > certificate.budget:
        return f", {side}, which chance hardly explains (95 % interval from {least})"
    return f", {side}, as chance allows (95 % interval from {least})"


def _within_cost(choice: Choice, unit: str, max_cost: float) -> str:
    """How the certified and the measured cost compare with the one that was allowed."""
    outcome, certificate = choice.outcome, choice.certificate
    allowed, words = cost_text(max_cost, unit), ""
    least = None if certificate is None else certificate.saving_bounds.get(unit)
    if least is not None:
        full = outcome.cost[unit] / (1 - outcome.saving[unit]) if outcome.saving[unit] < 1 else 0.0
        words = f" Its mean cost is certified to be {_against((1 - least) * full, max_cost, unit)}."
    if outcome.cost[unit] > max_cost:
        more = f"{_more(outcome.cost[unit], max_cost)} more than the {allowed} allowed"
        words += (
            f" It costs {cost_text(outcome.cost[unit], unit)} {unit} as measured, {more}: allow a "
            "larger drop, or score a smaller model."
        )
    return words


def _against(cost: float, max_cost: float, unit: str) -> str:
    """A certified upper limit beside the cost that was allowed."""
    limit = f"at most {cost_text(cost, unit)} {unit}"
    allowed = cost_text(max_cost, unit)
    if cost <= max_cost:
        return f"{limit}, within the {allowed} allowed"
    return f"{limit}, {_more(cost, max_cost)} more than the {allowed} allowed"


def _more(cost: float, max_cost: float) -> str:
    return f"{100 * (cost / max_cost - 1):.2g} %"


def _noise(outcome: Outcome, unit: str) -> str:
    """What the noise of measured times leaves of the saving."""
    low, high = outcome.saving_interval(unit)
    if low == high:
        return ""
    none = ": within the noise, which is no saving" if low <= 0 else ""
    return f" ({percent(low)} to {percent(high)} by the noise of the times{none})"


def stage_counts(table: ScoreTable, policy: Policy) -> Array:
    """How many samples each stage of the policy answers, (S,)."""
    return np.bincount(decide(table, policy).stage, minlength=len(policy.stages))


def _oracle_right(right: Array, counts: Array) -> int:
    """The most right answers when any `counts[s]` samples go to stage s."""
    stages, samples = right.shape
    if stages == 1:
        return int(right.sum())
    if stages == 2:
        gains, losses = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
        first = int(counts[0])
        return int(right[1].sum()) + min(first, gains) - max(0, first + losses - int(samples))
    return _matched(right, counts)


def _matched(right: Array, counts: Array) -> int:
    """The same for any number of stages: the maximum flow from the samples, those alike in which
    stages are right taken together, through these stages."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_flow

    stages = len(counts)
    marks = np.ascontiguousarray(np.packbits(right, axis=0).T)
    kinds = marks.view(f"V{marks.shape[1]}").ravel()
    _, first, sizes = np.unique(kinds, return_index=True, return_counts=True)
    kind, stage = np.nonzero(right[:, first].T)
    source, sink = stages + len(sizes), stages + len(sizes) + 1
    start = np.concatenate([np.full(len(sizes), source), stages + kind, np.arange(stages)])
    end = np.concatenate([stages + np.arange(len(sizes)), stage, np.full(stages, sink)])
    room = np.concatenate([sizes, sizes[kind], counts]).astype(np.int32)
    ends = (start.astype(np.int32), end.astype(np.int32))  # SciPy 1.13 takes no wider ones
    network = csr_array((room, ends), shape=(sink + 1, sink + 1))
    return int(maximum_flow(network, source, sink).flow_value)


def _measured(choice: Choice) -> str:
    """Where the figures were measured, if on the samples that decided."""
    return f" (measured on certify, {DECIDED})" if choice.measured_on == "certify" else ""


def _bound(certificate: Certificate | None, unit: str) -> str:
    if certificate is None:
        return "in-sample, so these figures promise too much and nothing is certified"
    look = f" (look {certificate.looks})" if certificate.looks > 1 else ""
    gap = "drop" if certificate.kind == "gap" else "disagreement"
    drop = f"its {gap} is certified to be at most {points(certificate.budget)}{look}"
    if certificate.budget < 0:
        drop = f"its gain is certified to be at least {points(-certificate.budget)}{look}"
    least = certificate.saving_bounds.get(unit)
    each = "" if least is None else " each"
    saving = "" if least is None else f" and its saving at least {least_percent(least)}"
    return f"with probability {probability_text(certificate.delta)}{each}, {drop}{saving}"


def _comparison(choice: Choice, figures: str, labelled: bool) -> str:
    """The figures of a policy after a comparison with its baselines."""
    exits, outcome, single = choice.policy.exits, choice.outcome, choice.baselines.single
    drop = choice.baselines.single_drop
    if len(exits) == 1:
        return f"A cascade does not pay here: use {exits[0]}, which alone {figures}"
    if drop is not None and drop <= outcome.drop:
        loses = f"drops {drop:.2f} points" if labelled else f"disagrees on {drop:.2f} %"
        if drop < 0:
            loses = f"gains {-drop:.2f} points"
        return (
            f"A cascade hardly pays here: {single} alone costs no more and {loses}. The cascade "
            f"{figures}"
        )
    if choice.baselines.random_drop <= outcome.drop:
        return (
            f"Deferring at random does as well: the confidence tells nothing. The cascade {figures}"
        )
    return f"The cascade {' → '.join(exits)} {figures}"


def _lost_time(outcome: Outcome, unit: str) -> str:
    """The measured time that is lost most where another unit is saved."""
    times = [name for name in outcome.saving if name.startswith(TIME) and name != unit]
    name = min(times, key=outcome.saving.__getitem__, default=None)
    if name is None or not outcome.saving_interval(name)[1] < 0:
        return ""
    return (
        f" It takes {-100 * outcome.saving[name]:.0f} % more {name} than {outcome.reference}: "
        f"where time is what counts, search with --unit {name}, or use {outcome.reference} alone."
    )
