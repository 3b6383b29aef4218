"""Is what an operating point promised still kept? Two tests by betting, of the agreement with the
reference and, where labels come later, of the drop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from understudy.betting import MeanTest
from understudy.errors import PolicyError
from understudy.json_codec import Stored, stored
from understudy.monitoring.settings import WatchSettings
from understudy.monitoring.watched_points import Watched, WatchedPoint

MOST_PAIRS = 1000
Pairs = Mapping[tuple[int, int], int]


def _pair_rows(pairs: Pairs) -> list[list[int]]:
    return [[*pair, count] for pair, count in pairs.items()]


def _pairs_of(rows: tuple[tuple[int, ...], ...]) -> dict[tuple[int, int], int]:
    return {(first, second): count for first, second, count in rows}


@dataclass(frozen=True, eq=False)
class Promise(Stored, what="the promise of an operating point", error=PolicyError):
    """What was seen of an operating point since the watch began or was reset.

    Attributes:
        agreement: the test of "the cascade and the reference differ in at most the budget", on
            the requests whose shadow was drawn.
        drop: the test of "the reference is right more often by at most the drop that was
            certified", on those of them whose label came.
        pairs: how often the cascade gave one class and the reference another; at most 1,000 pairs.
        labelled, right: the labels that came, and how many of them the cascade had answered.
        broken: whether it was judged broken.

    """

    agreement: MeanTest
    drop: MeanTest
    pairs: Pairs = field(
        default_factory=dict,
        metadata=stored(shape=tuple[tuple[int, ...], ...], pack=_pair_rows, unpack=_pairs_of),
    )
    labelled: int = 0
    right: int = 0
    broken: bool = False

    @staticmethod
    def of(point: WatchedPoint, watched: Watched, settings: WatchSettings) -> Promise:
        """The promise of a point before the first request."""
        budget = watched.budget(point, settings)
        drop = min(max(point.max_drop / 100, -0.999), 0.999)
        return Promise(MeanTest.of(budget, low=0.0), MeanTest.of(drop))

    def shadowed(self, answer: int, reference: int) -> Promise:
        """The promise after a request whose shadow was drawn: both answers."""
        agreement = self.agreement.update([float(answer != reference)])
        pairs, pair = self.pairs, (answer, reference)
        if answer != reference and (pair in pairs or len(pairs) < MOST_PAIRS):
            pairs = {**pairs, pair: pairs.get(pair, 0) + 1}
        return replace(self, agreement=agreement, pairs=pairs)

    def with_label(self, label: int, answer: int, reference: int | None) -> Promise:
        """The promise after a label; `reference` is its answer where the shadow was drawn."""
        counted = replace(self, labelled=self.labelled + 1, right=self.right + int(answer == label))
        if reference is None:
            return counted
        gap = float(reference == label) - float(answer == label)
        return replace(counted, drop=self.drop.update([gap]))
