"""Which little models are worth a sequence: the expected ends of all pairs of a zoo, counted fast.

A sequence of policies takes milliseconds per pair, and a zoo of M models has M (M - 1) / 2. Here
the samples are sorted once per little model, and counted in bits for all large ones together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.lazy_table import PREDICTION, LazyTable
from understudy.searching.little_steps import steps_of
from understudy.searching.right_bits import RightBits
from understudy.searching.search_spec import SearchSpec
from understudy.time_noise import with_cautious_times

PROMISING = 3  # little models per large one, budget and order of testing
Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class PromisingPairs:
    """All pairs of M models on the N tune samples, and what their tests are expected to cost.

    Attributes:
        tune: the samples.
        bigs: the B large models.
        spec: the budgets, the level and the number of certify samples; its reference is not used.
        bits: which answers are right, among the labelled samples.
        unlabelled: (M, U) the predictions for the U samples without a label.

    >>> from understudy.scores import ScoreTable
    >>> table = ScoreTable.from_predictions(
    ...     {"poor": ([1] * 900, [.9] * 900), "good": ([0] * 900, [.9] * 900),
    ...      "big": ([0] * 900, [.9] * 900)},
    ...     [0] * 900, costs={"poor": 1, "good": 2, "big": 9})
    >>> spec = SearchSpec("big", "MACs", "max_softmax", (1.0,), 0.05, 900)
    >>> pairs = PromisingPairs.of(LazyTable.of(table), ["big"], spec)
    >>> pairs.best(map(pairs.ends_of, range(3)))
    {'big': ['poor', 'good']}
    """

    tune: LazyTable
    bigs: tuple[str, ...]
    spec: SearchSpec
    bits: RightBits
    unlabelled: Array

    @staticmethod
    def of(tune: LazyTable, bigs: Sequence[str], spec: SearchSpec) -> PromisingPairs:
        """The pairs of a table; the predictions of every exit are read once.

        Raises:
            TableError: an unknown name, a missing cost, or scores that cannot be read.
        """
        without = np.flatnonzero(~tune.first.labelled)
        unlabelled = np.empty((len(tune.exits), len(without)), np.int32)

        def right(model: int) -> npt.NDArray[np.bool_]:
            answers = tune.column(tune.names[model], PREDICTION)
            unlabelled[model] = answers[without]
            return tune.is_right(answers)

        bits = RightBits.of(right, tune.exit_costs(spec.unit), len(tune))
        return PromisingPairs(tune, tuple(bigs), spec, bits, unlabelled)

    def ends_of(self, little: int) -> npt.NDArray[np.float64]:
        """Shares of each large model's cost at which its test would end, (B, 2 D); 1 for nothing.

        First from the safe end, then step by step, for every budget; infinite where the little
        model is not cheaper.
        """
        spec, samples = self.spec, len(self.tune)
        ends = np.full((len(self.bigs), 2 * len(spec.drops)), np.inf)
        dearer = np.flatnonzero(self._costs.full > self._costs.alone[:, little])
        if not len(dearer):
            return ends
        accepted, losses, gains = self._counts(little, dearer)
        n, z = spec.certify_samples, NormalDist().inv_cdf(1 - spec.delta)
        gap, discordant = (losses - gains) / samples, (losses + gains) / samples
        bound = gap + z * np.sqrt(discordant / n + 4 / n**2)
        cost = self._costs.of_steps(little, dearer, accepted / samples)
        saves = cost < 1
        for number, drop in enumerate(spec.drops):
            proved = bound <= drop / 100
            in_order = np.logical_and.accumulate(proved | ~saves, axis=1)
            for column, some in ((number, in_order), (number + len(spec.drops), proved)):
                ends[dearer, column] = np.where(some & saves, cost, 1.0).min(1)
        return ends

    def best(self, ends: Iterable[npt.NDArray[np.float64]]) -> dict[str, list[str]]:
        """For every large model the few cheaper ones whose sequences may end cheapest on certify.

        Both ways of testing are ranked. `ends` are those of all models (`ends_of`), in order.
        """
        ranked = np.argsort(np.stack(list(ends)), axis=0, kind="stable")[:PROMISING]
        return {
            big: [
                self.tune.names[little]
                for little in np.unique(ranked[:, number]).tolist()
                if self._costs.alone[number, little] < self._costs.full[number]
            ]
            for number, big in enumerate(self.bigs)
        }

    @cached_property
    def _costs(self) -> _PairCosts:
        return _PairCosts.of(self.tune, self.bigs, self.spec.unit)

    def _counts(self, little: int, dearer: Array) -> tuple[Array, Array, Array]:
        """How many samples each step accepts, (P,), and losses and gains for some of the large
        models, (B', P) each."""
        from understudy.searching import _all_pairs_kernels as kernels

        scores = self.tune.column(self.tune.names[little], self.spec.confidence)
        order = kernels.rising_order(scores)[::-1].copy()
        accepted = steps_of(scores[order])
        rows = np.array([self.tune.index(self.bigs[number]) for number in dearer.tolist()])
        places = self.bits.position[rows]
        own = kernels.pack_row(self.bits.row(little)[order])
        ranked = kernels.RankedSamples(order, own, own)
        counts = kernels.discordant_counts(self.bits.words, ranked, accepted, int(places.min()))
        losses, gains = counts[:, :, places].transpose(0, 2, 1).astype(np.int64)
        if self.unlabelled.shape[1]:
            losses += self._differing(little, rows, order, accepted)
        return accepted, losses, gains

    def _differing(self, little: int, rows: Array, order: Array, accepted: Array) -> Array:
        """How many of the first samples lack a label and are answered otherwise by each large
        model, (B', P): each counts as a loss."""
        without = np.flatnonzero(~self.tune.first.labelled)
        rank = np.empty(len(order), np.intp)
        rank[order] = np.arange(len(order))
        step = np.searchsorted(accepted, rank[without], side="right")
        differs = self.unlabelled[rows] != self.unlabelled[little]
        counts = [np.bincount(step[row], minlength=len(accepted)) for row in differs]
        return np.cumsum(np.stack(counts)[:, : len(accepted)], axis=1)


@dataclass(frozen=True, eq=False)
class _PairCosts:
    """What M models cost before each of B large ones: by the times that are cautious for that one.

    Attributes:
        alone: (B, M) of each model by itself.
        full: (B,) of the large model.
        both: gives the cost of a little model, by number, and of some large ones behind it.
    """

    alone: npt.NDArray[np.float64]
    full: npt.NDArray[np.float64]
    both: Callable[[int, Array], npt.NDArray[np.float64]]

    @staticmethod
    def of(tune: LazyTable, bigs: Sequence[str], unit: str) -> _PairCosts:
        rows, names = [tune.index(big) for big in bigs], tune.names
        if unit in tune.times and tune.sittings:
            tables = [with_cautious_times(tune, big) for big in bigs]
            alone = np.stack([table.exit_costs(unit) for table in tables])
        else:
            tables = [tune] * len(bigs)
            alone = np.tile(tune.exit_costs(unit), (len(bigs), 1))
        full = alone[np.arange(len(bigs)), rows]

        def summed(little: int, chosen: Array) -> npt.NDArray[np.float64]:
            return np.asarray(alone[chosen, little] + full[chosen])

        def united(little: int, chosen: Array) -> npt.NDArray[np.float64]:
            pairs = ((tables[number], bigs[number]) for number in chosen.tolist())
            return np.array([table.cost_of([names[little], big], unit) for table, big in pairs])

        whole = all(len(exit.parts) == 1 for exit in tune.exits) and not tune.shares_parts
        return _PairCosts(alone, full, summed if whole else united)

    def of_steps(self, little: int, bigs: Array, share: Array) -> npt.NDArray[np.float64]:
        """The cost of every step, which answers a share (P,), for some large models, (B', P): as a
        share of the large model's."""
        alone, both = self.alone[bigs, little], self.both(little, bigs)
        paid = share * alone[:, None] + (1 - share) * both[:, None]
        return np.asarray(paid / self.full[bigs, None])
