"""Sequences of policies whose stages all accept the same expected loss per cost that they save.

An exit should answer a sample where the accuracy that its answer is expected to lose is worth the
cost that it saves (Chow 1970; for cascades Jitkrittum et al. 2023, arXiv 2307.02764). The expected
loss given the exit's confidence is fitted on tune with four coefficients per exit, so one number,
the loss accepted per cost, gives the thresholds of all stages. Thresholds that are optimised one by
one fit the noise of few samples, and certify then does not confirm what they reach.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from understudy.policy import PolicyStage
from understudy.scores import ScoreTable
from understudy.searching.policy_sequences import STEPS, ThresholdPath
from understudy.searching.search_spec import SearchSpec

Floats = npt.NDArray[np.float64]
_PLACES = 256  # where a curve is kept, at even quantiles of the confidence
_LEVELS = 150  # losses per cost, of either sign, that thresholds are computed for
_SAMPLES = 2500  # by which shares of deferred samples are estimated
_ROUNDS = 2  # of thresholds and shares, each computed from the other
_CLIP = 1e-4
_RIDGE = 1.0
MOST_TRIED = 24  # exits that are all combined in pairs
KEPT, GROWN = 12, 4  # of as many exits: paths that are kept, and those that grow by one exit


@dataclass(frozen=True, eq=False)
class LossCurve:
    """The expected loss of an exit's answers by its confidence: P(only the last exit is right) -
    P(only this exit is right), (G,), which never rises with the confidence (G,)."""

    confidence: Floats
    loss: Floats

    @staticmethod
    def of(
        confidence: Floats, losses: npt.NDArray[np.bool_], gains: npt.NDArray[np.bool_]
    ) -> LossCurve:
        """The difference of two logistic curves, made monotone; all arrays are (N,)."""
        from scipy.optimize import isotonic_regression

        at = np.quantile(confidence, np.linspace(0, 1, _PLACES))
        lost, gained = (_chance(confidence, marks, at) for marks in (losses, gains))
        return LossCurve(at, np.asarray(isotonic_regression(lost - gained, increasing=False).x))

    def threshold(self, level: Floats) -> Floats:
        """The least confidence at which the expected loss is at most `level`; inf for none."""
        first = np.searchsorted(-self.loss, -level)
        place = np.clip(first, 1, _PLACES - 1)
        above, below = self.loss[place - 1], self.loss[place]
        share = np.clip((above - level) / np.maximum(above - below, 1e-12), 0, 1)
        left, right = self.confidence[place - 1], self.confidence[place]
        between = left + share * (right - left)
        edges = np.where(first == 0, -np.inf, np.where(first == _PLACES, np.inf, between))
        return np.asarray(edges, np.float64)


@dataclass(frozen=True, eq=False)
class EqualLossSearch:
    """The search for the exits, before one last exit, whose path of equal loss may end cheapest.

    Attributes:
        table: where policies are chosen.
        spec: what is searched for.
        order: the exits in visiting order.
        last: the reference, or the ensemble of it and `member`, which then is one of the stages.
        curves: the expected loss of every exit against the last one.
    """

    table: ScoreTable
    spec: SearchSpec
    order: tuple[str, ...]
    last: str
    member: str | None
    curves: Mapping[str, LossCurve]

    @staticmethod
    def of(
        table: ScoreTable,
        spec: SearchSpec,
        order: Sequence[str],
        last: str,
        *,
        member: str | None = None,
    ) -> EqualLossSearch:
        names = {"reference": spec.reference, "confidence": spec.confidence}
        curves = loss_curves(table, order, last, **names)
        return EqualLossSearch(table, spec, tuple(order), last, member, curves)

    def paths(self) -> list[ThresholdPath]:
        """The promising paths of two exits before the last one, and of more.

        Of many exits those are combined that are best by themselves; longer paths grow from the
        best shorter ones.
        """
        shorter: list[tuple[str, ...]] = [()]
        found: list[ThresholdPath] = []
        for length in range(1, self.spec.stages):
            longer = self._longer(shorter)
            if length == 1 and len(longer) <= MOST_TRIED:
                shorter = longer
                continue
            tried = {exits: self._path(exits) for exits in longer}
            best = self._promising(tried)
            found += [tried[exits] for exits in best[:KEPT] if length > 1]
            shorter = best[: MOST_TRIED if length == 1 else GROWN]
        return found

    def _path(self, exits: tuple[str, ...]) -> ThresholdPath:
        return equal_loss_path(self.table, exits, self.last, self.curves, **self.spec.names)

    def _longer(self, shorter: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
        """These exits and one more, in visiting order, the member of the last one first of all."""
        place = {name: row for row, name in enumerate(self.order)}
        more = self.order if shorter != [()] or self.member is None else [self.member]
        longer = (
            tuple(sorted((*exits, one), key=lambda name: place[name]))
            for exits in shorter
            for one in more
            if one not in exits
        )
        return list(dict.fromkeys(longer))

    def _promising(self, paths: Mapping[tuple[str, ...], ThresholdPath]) -> list[tuple[str, ...]]:
        """Those that may end cheapest first: the best for every budget in turn."""
        ranked = []
        for drop in self.spec.drops:
            costs = {exits: self.spec.least_cost(path, drop) for exits, path in paths.items()}
            ranked.append(sorted(costs, key=lambda exits: costs[exits]))
        return list(dict.fromkeys(exits for row in zip(*ranked, strict=True) for exits in row))


def loss_curves(
    table: ScoreTable, exits: Sequence[str], last: str, *, reference: str, confidence: str
) -> dict[str, LossCurve]:
    """The curve of every exit against the `last` one, on all samples of a table."""
    right = {name: table.right(reference, table.index(name)) for name in (*exits, last)}
    return {
        name: LossCurve.of(
            _on_logit_scale(table, name, confidence),
            right[last] & ~right[name],
            right[name] & ~right[last],
        )
        for name in exits
    }


def equal_loss_path(
    table: ScoreTable,
    exits: Sequence[str],
    last: str,
    curves: Mapping[str, LossCurve],
    *,
    reference: str,
    confidence: str,
    unit: str,
    steps: int = STEPS,
) -> ThresholdPath:
    """The policies exits -> last, from the least expected loss per cost saved to the first exit
    alone: `steps` steps of even shares that are not deferred to `last`, and half as many behind.

    `last` is the reference or an ensemble with it; losses and gains count against the reference.
    """
    scaled = np.stack([_on_logit_scale(table, name, confidence) for name in exits])
    names = [*exits, last]
    paid = [0.0, *(table.cost_of(names[: stage + 1], unit) for stage in range(len(names)))]
    price = np.maximum(np.diff(paid), 0)  # sums of the same parts may differ in their last bits
    some = scaled[:, :: -(-len(table) // _SAMPLES)]
    thresholds = _thresholds(some, [curves[name] for name in exits], price)
    thresholds = _evenly(some, thresholds, price, steps)
    if _is_probability(table, confidence):
        thresholds = 1 / (1 + np.exp(-thresholds))
    alone = np.concatenate([[-np.inf], thresholds[1:, -1]])
    stages = [PolicyStage(name, -np.inf, confidence) for name in exits]
    ends = [] if last == reference else [PolicyStage(last, -np.inf, confidence)]
    rows = np.column_stack([thresholds, alone])
    rows = np.vstack([rows, *(np.full((1, rows.shape[1]), -np.inf) for _ in ends)])
    return ThresholdPath.of(table, (*stages, *ends), rows, reference=reference, unit=unit)


def _thresholds(scaled: Floats, curves: Sequence[LossCurve], price: Floats) -> Floats:
    """The thresholds (S, L) of S stages for L losses per cost, none of which rises.

    What a stage saves is the price of the next one and, for the share that it defers, what that
    saves in turn.
    """
    size = np.exp(np.linspace(-9, 0.3, _LEVELS))
    levels = np.concatenate([-size[::-1], [0.0], size])
    deferred = np.full((len(curves), len(levels)), 0.7)
    found = np.empty((len(curves), len(levels)))
    share = price / max(float(price.sum()), 1e-300)
    for _ in range(_ROUNDS):
        saved = np.full(len(levels), share[-1])
        for stage in reversed(range(len(curves))):
            found[stage] = curves[stage].threshold(levels * saved)
            saved = share[stage] + deferred[stage] * saved
        found = np.minimum.accumulate(found, axis=1)
        left = _deferred(scaled, found) + 1
        deferred = left[1:] / (left[:-1] + 1)
    return found


def _deferred(scaled: Floats, thresholds: Floats) -> npt.NDArray[np.int64]:
    """How many samples the first 0, 1, … S stages have deferred at each level, (S + 1, L)."""
    samples, levels = scaled.shape[1], thresholds.shape[1]
    start = np.full(samples, levels)
    counts = [np.full(levels, samples)]
    for row, falling in zip(scaled, thresholds, strict=True):
        start = np.minimum(start, np.searchsorted(-falling, -row))
        answered = np.cumsum(np.bincount(start, minlength=levels + 1)[:levels])
        counts.append(samples - answered)
    return np.asarray(counts, np.int64)


def _evenly(scaled: Floats, thresholds: Floats, price: Floats, steps: int) -> Floats:
    """The thresholds (S, P) between those given at which even shares are not deferred to the last
    exit; and from where none is, those at which half as many even shares of the cost are saved."""
    levels, deferred = np.arange(thresholds.shape[1]), _deferred(scaled, thresholds)
    kept = 1 - deferred[-1] / scaled.shape[1]
    saved = 1 - price @ deferred / (scaled.shape[1] * max(float(price.sum()), 1e-300))
    place = _places(kept, kept[-1] * np.linspace(0, 1, steps + 1)[1:])
    reached = float(np.interp(place[-1], levels, saved))
    further = np.linspace(reached, saved[-1], steps // 2 + 1)[1:]
    place = np.append(place, np.maximum(_places(saved, further), place[-1]))
    bounded = np.clip(thresholds, scaled.min() - 1e-3, scaled.max() + 1e-3)
    return np.stack([np.interp(place, levels, row) for row in bounded])


def _places(rising: Floats, values: Floats) -> Floats:
    """Where along its index (L,) something that never falls reaches some values."""
    index = np.arange(len(rising))
    return np.asarray(np.interp(values, rising + 1e-9 * index, index), np.float64)


def _is_probability(table: ScoreTable, confidence: str) -> bool:
    scores = table.scores(confidence)
    return bool(scores.min() >= 0 and scores.max() <= 1)


def _on_logit_scale(table: ScoreTable, exit: str, confidence: str) -> Floats:
    """The confidence of one exit (N,), as log-odds where it lies between 0 and 1; always finite."""
    scores = np.asarray(table.scores(confidence)[table.index(exit)], np.float64)
    if not _is_probability(table, confidence):
        finite = scores[np.isfinite(scores)] if np.isfinite(scores).any() else np.zeros(1)
        return np.clip(scores, finite.min() - 1, finite.max() + 1)
    inside = np.clip(scores, _CLIP, 1 - _CLIP)
    return np.asarray(np.log(inside / (1 - inside)), np.float64)


def _chance(x: Floats, marks: npt.NDArray[np.bool_], at: Floats) -> Floats:
    """The probability of a mark at some x, by a logistic regression with a small ridge."""
    centre, scale = float(x.mean()), float(x.std()) + 1e-9
    rows = (x - centre) / scale
    count, total = int(marks.sum()), len(x)
    bias, slope = np.log((count + 0.5) / (total - count + 0.5)), 0.0
    for _ in range(25):
        chance = 1 / (1 + np.exp(-(bias + slope * rows)))
        residual, weight = marks - chance, chance * (1 - chance)
        g0, g1 = residual.sum() - 1e-6 * bias, (residual * rows).sum() - _RIDGE * slope
        h00, h01 = weight.sum() + 1e-6, (weight * rows).sum()
        h11 = (weight * rows * rows).sum() + _RIDGE
        determinant = h00 * h11 - h01 * h01
        step0 = np.clip((h11 * g0 - h01 * g1) / determinant, -3, 3)
        step1 = np.clip((h00 * g1 - h01 * g0) / determinant, -3, 3)
        bias, slope = bias + step0, slope + step1
        if max(abs(step0), abs(step1)) < 1e-8:
            break
    return np.asarray(1 / (1 + np.exp(-(bias + slope * (at - centre) / scale))), np.float64)
