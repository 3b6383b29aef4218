"""The lines of a page of savers before they are proved: frozen sequences, counted on all splits.

The steps stand for themselves, so that any worker may do any of them: the ends of one little model
before all large ones, then the lines of one large model.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from typing import Protocol, TypeVar

from understudy.lazy_table import LazyTable
from understudy.outcome import Outcome, PolicyCounts, counted_outcome
from understudy.policy import Policy
from understudy.priced_exits import ExitPrices, PricedExits
from understudy.progress_bars import Advance
from understudy.searching.certify import CountedSequence
from understudy.searching.little_steps import LittleSteps, ModelAnswers, reference_counts
from understudy.searching.policy_sequences import PolicySequence, SequenceCounts
from understudy.searching.promising_pairs import PromisingPairs
from understudy.searching.search_spec import SearchSpec
from understudy.searching.strategies import cheapest_expected
from understudy.time_noise import with_cautious_times

Item = TypeVar("Item")
_KEPT = 128  # little models whose steps are kept, 2 bytes per sample each


@dataclass(frozen=True, eq=False)
class SaverLine:
    """A large model and a budget (points), with the sequence that is expected to end cheapest.

    Attributes:
        big, drop: of the line.
        sequence: frozen on tune.
        counts: by split, what its policies do.
        kind: of its certificate.
        exits: the costs of the models of the line.
    """

    big: str
    drop: float
    sequence: PolicySequence
    counts: Mapping[str, SequenceCounts]
    kind: str
    exits: PricedExits

    @property
    def test(self) -> CountedSequence:
        """What a certificate needs; times are those that speak most against a saving."""
        return CountedSequence(
            self.sequence,
            self.big,
            self.counts["certify"],
            self.kind,
            with_cautious_times(self.exits, self.big),
        )

    def at(self, step: int) -> SaverLine:
        """The line of one of its policies alone."""
        return replace(
            self,
            sequence=self.sequence.at(step),
            counts={split: counts.at(step) for split, counts in self.counts.items()},
        )

    def outcome(self, split: str, step: int) -> Outcome:
        """What a policy does on a split; the large model alone for step -1."""
        counts = self.counts[split]
        if step < 0:
            alone = PolicyCounts((counts.samples,), 0, 0, counts.reference_right)
            return counted_outcome(self.exits, Policy.single(self.big), alone, reference=self.big)
        policy = self.sequence.policies[step]
        return counted_outcome(self.exits, policy, counts.of_policy(step), reference=self.big)


@dataclass(frozen=True, eq=False)
class SaverLines:
    """What the lines of all large models of a table need; every method but `pairs` is one step.

    Attributes:
        table: its exits are read when a step needs them.
        bigs: the large models.
        spec: the budgets, the level of a line, and the number of certify samples.
    """

    table: LazyTable
    bigs: tuple[str, ...]
    spec: SearchSpec

    @cached_property
    def parts(self) -> Mapping[str, LazyTable]:
        """The table by split."""
        return {split: self.table.on(split) for split in self.table.splits}

    @cached_property
    def pairs(self) -> PromisingPairs:
        """All pairs on tune; the predictions of every exit are read."""
        return PromisingPairs.of(self.parts["tune"], self.bigs, self.spec)

    def lines_of(self, big: str, littles: Sequence[str]) -> tuple[SaverLine, ...]:
        """The line of a large model for each budget, from its promising little ones."""
        spec, exits = self.spec, ExitPrices.of(self.table, [big, *littles])
        answers = {split: ModelAnswers.of(part, big) for split, part in self.parts.items()}
        cautious = with_cautious_times(exits, big)
        sequences = [
            self._steps_of(little).sequence(big, answers["tune"], cautious, spec.unit)
            for little in littles
        ]
        chosen = {drop: cheapest_expected(sequences, spec, drop) for drop in spec.drops}
        counts = self._counts(answers, chosen.values())
        kind = "disagreement" if self.parts["certify"].first.label is None else "gap"
        return tuple(
            SaverLine(big, drop, sequence, counts(sequence), kind, exits)
            for drop, sequence in chosen.items()
        )

    def _counts(
        self, answers: Mapping[str, ModelAnswers], chosen: Iterable[PolicySequence]
    ) -> Callable[[PolicySequence], Mapping[str, SequenceCounts]]:
        """What the chosen sequences before one large model, with its answers, do on each split.

        Those of one little model end alike, so that the longest of them is counted.
        """
        longest: dict[str | None, PolicySequence] = {}
        for one in sorted(chosen, key=lambda one: len(one.policies)):
            longest[_little_of(one)] = one
        found = {
            name: {
                split: self._steps_of(name).counts(split, own, one.policies)
                if name
                else reference_counts(own)
                for split, own in answers.items()
            }
            for name, one in longest.items()
        }

        def counts(sequence: PolicySequence) -> Mapping[str, SequenceCounts]:
            name = _little_of(sequence)
            step = len(longest[name].policies) - len(sequence.policies)
            return {split: one.starting_at(step) for split, one in found[name].items()}

        return counts

    @cached_property
    def _steps_of(self) -> Callable[[str], LittleSteps]:
        """The steps of a little model; those that were used last are kept."""
        return lru_cache(_KEPT)(
            partial(LittleSteps.of, self.parts, confidence=self.spec.confidence)
        )


def _little_of(sequence: PolicySequence) -> str | None:
    return sequence.policies[0].exits[0] if sequence.policies else None


class Steps(Protocol):
    """The steps of `SaverLines` for all models."""

    def promising(self, advance: Advance) -> Mapping[str, Sequence[str]]:
        """The promising little models of every large one."""

    def lines(
        self, pairs: Mapping[str, Sequence[str]], advance: Advance
    ) -> Iterable[tuple[SaverLine, ...]]:
        """The lines of every large model, in order."""


Workers = Callable[[SaverLines], AbstractContextManager[Steps]]


@contextmanager
def in_threads(lines: SaverLines) -> Iterator[Steps]:
    """The steps on all cores of this machine."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield _Threads(lines, pool)


@dataclass(frozen=True)
class _Threads:
    lines_of_all: SaverLines
    pool: ThreadPoolExecutor

    def promising(self, advance: Advance) -> Mapping[str, Sequence[str]]:
        pairs, models = self.lines_of_all.pairs, range(len(self.lines_of_all.table.exits))
        ends = self.pool.map(pairs.ends_of, models)
        return pairs.best(counted(ends, len(models), "pairs", advance))

    def lines(
        self, pairs: Mapping[str, Sequence[str]], advance: Advance
    ) -> Iterable[tuple[SaverLine, ...]]:
        found = self.pool.map(self.lines_of_all.lines_of, pairs.keys(), pairs.values())
        return counted(found, len(pairs), "sequences", advance)


def counted(done: Iterable[Item], total: int, name: str, advance: Advance) -> Iterator[Item]:
    """The items, each of which moves a bar on."""
    for number, one in enumerate(done, 1):
        advance(name, number, total)
        yield one
