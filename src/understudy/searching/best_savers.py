"""The best saver for every large model of a table, certified: which little model, which threshold.

The page of all large models is one promise: every line is proved at a share of delta, so that with
probability 1 - delta all of them hold at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from understudy.certificate import Certificate
from understudy.display import probability_text
from understudy.errors import TableError
from understudy.json_codec import encode
from understudy.lazy_table import LazyTable
from understudy.outcome import Outcome
from understudy.policy import DEFAULT_CONFIDENCE, Policy
from understudy.progress_bars import Advance, no_bar
from understudy.scores import ScoreTable
from understudy.searching.certify import certify_counted
from understudy.searching.joint_certificates import certify_jointly
from understudy.searching.pairs import checked_drops
from understudy.searching.saver_lines import SaverLine, SaverLines, Workers, in_threads
from understudy.searching.search_spec import SearchSpec
from understudy.short_repr import clipped, short_repr
from understudy.split import headline_split
from understudy.tabular import Tabular


@dataclass(frozen=True)
class Saver:
    """The cheapest pair that was proved for one large model and one budget.

    Attributes:
        big: the large model.
        certificate: the proof; its policy is little -> big, the little model alone, or the large
            one alone where nothing was proved. Its level is the share of delta of this line.
        on: the outcome of the policy by split: tune, certify, and test where there is one.
    """

    big: str
    certificate: Certificate
    on: Mapping[str, Outcome]

    __repr__ = short_repr

    @property
    def max_drop(self) -> float:
        """The budget in points."""
        return self.certificate.budget

    @property
    def policy(self) -> Policy:
        return self.certificate.policy

    @property
    def outcome(self) -> Outcome:
        """The headline figures: those on `measured_on`."""
        return self.on[self.measured_on]

    @property
    def measured_on(self) -> str:
        """The split of the headline figures: test, or certify where there is no test split."""
        return headline_split(self.on)

    @property
    def little(self) -> str | None:
        """The little model; None where nothing cheaper was proved."""
        return None if self.certificate.falls_back else self.policy.exits[0]

    @property
    def threshold(self) -> float:
        """The little model's threshold: -inf where it always answers, inf where it never does."""
        threshold = self.policy.stages[0].threshold
        alone = -np.inf if self.little else np.inf
        return alone if threshold is None else threshold

    @property
    def share(self) -> float:
        """The fraction of samples that the little model answers."""
        return self.outcome.shares[self.little] if self.little else 0.0

    def to_dict(self, unit: str) -> dict[str, Any]:
        """Plain JSON; the certificate without its words, which speak of one line alone."""
        proof = self.certificate.to_dict()
        del proof["words"]
        return {
            "big": self.big,
            "max_drop": self.max_drop,
            "little": self.little,
            "threshold": encode(self.threshold),
            "policy": self.policy.to_dict(),
            "share": self.share,
            "saving": self.outcome.saving[unit],
            "drop": self.outcome.drop,
            "drop_interval": list(self.outcome.drop_interval),
            "on": {split: outcome.to_dict() for split, outcome in self.on.items()},
            "certificate": proof,
        }


@dataclass(frozen=True)
class Savers(Tabular):
    """The best saver of every large model, dearest model first, its budgets together.

    Attributes:
        unit: the unit of cost that was minimised.
        confidence: the stored confidence that thresholds apply to.
        delta: the chance that any line is wrong.
        rows: one per large model and budget.
    """

    unit: str
    confidence: str
    delta: float
    rows: tuple[Saver, ...]

    def __repr__(self) -> str:
        proved = sum(row.little is not None for row in self.rows)
        return f"<Savers: {proved} proved of {len(self)}, {clipped(self.unit)}>"

    def columns(self) -> dict[str, list[Any]]:
        """A row per large model and budget, with its little model and the headline figures."""
        outcomes = [row.outcome for row in self.rows]
        return {
            "big": [row.big for row in self.rows],
            "max_drop": [row.max_drop for row in self.rows],
            "little": [row.little for row in self.rows],
            "threshold": [row.threshold for row in self.rows],
            "share": [row.share for row in self.rows],
            "saving": [one.saving[self.unit] for one in outcomes],
            "drop": [one.drop for one in outcomes],
            "drop_low": [one.drop_interval[0] for one in outcomes],
            "drop_high": [one.drop_interval[1] for one in outcomes],
            "p_value": [row.certificate.p_value for row in self.rows],
            "level": [row.certificate.delta for row in self.rows],
        }

    def __iter__(self) -> Iterator[Saver]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def measured_on(self) -> str:
        """The split of the headline figures of every row."""
        return self.rows[0].measured_on

    def words(self) -> str:
        """What holds with which probability, and what the figures are."""
        proof, measured = self.rows[0].certificate, self.rows[0].outcome
        proved = sum(row.little is not None for row in self)
        budget = "drop" if proof.kind == "gap" else "disagreement"
        look = f" This is look {proof.looks} at the certify samples"
        again = (
            ": the best of several looks is wrong with a probability of up to the sum of their δ"
        )
        decided = "" if self.measured_on == "test" else ", which decided: slightly optimistic"
        if not proved:
            claim = f"Nothing could be proved with {proof.samples:,} certify samples."
        else:
            several = f"all {proved} proved plans hold at once"
            plans = several if proved > 1 else "the proved plan holds"
            claim = (
                f"With probability {probability_text(self.delta)} {plans}: on new "
                f"samples like the {proof.samples:,} certify samples the {budget} "
                "of each against its model is within its budget. The promise ends when the data "
                f"change. Shares, savings and {budget}s are measured on the {measured.samples:,} "
                f"{self.measured_on} samples{decided}."
            )
        return claim + look + (again if proof.looks > 1 else "") + "."

    def to_dict(self) -> dict[str, Any]:
        return {
            "unit": self.unit,
            "confidence": self.confidence,
            "certified": True,
            "delta": self.delta,
            "jointly": True,
            "measured_on": self.measured_on,
            "words": self.words(),
            "savers": [row.to_dict(self.unit) for row in self.rows],
        }


def best_savers(
    table: ScoreTable | LazyTable,
    max_drop: float | Sequence[float],
    *,
    unit: str | None = None,
    confidence: str = DEFAULT_CONFIDENCE,
    delta: float = 0.05,
    looks: int = 1,
    workers: Workers = in_threads,
    advance: Advance = no_bar,
) -> Savers:
    """For every model that has a cheaper one, the cheapest pair that is proved within each budget.

    Every ordered pair is tried at every threshold, exactly, on `tune`. For each large model and
    budget the little model is taken whose sequence is expected to end cheapest; all sequences are
    tested on `certify`, jointly (`certify_jointly`), and what is proved is measured on `test`, or
    on `certify` where there is no test split. A plan that was proved for a smaller budget is taken
    for a larger one too where it is cheaper on `certify`.

    A table on disk (`store.open_table`) may be larger than memory: its exits are read a few at a
    time. The result does not depend on the workers.

    Args:
        table: with the splits tune and certify.
        max_drop: budget(s) in points against each large model.
        unit, confidence: as for `search`.
        delta: the chance that any line is wrong.
        looks: how often the certify split has been read, this time included.
        workers: who do the steps that stand for themselves; the cores of this machine by default.
        advance: told of the progress of work.

    Raises:
        TableError: an unknown name, a missing cost, an empty split, no exit cheaper than another.
        PolicyError: no budget, one beyond 100 points, or a level that is no probability.

    Source: TinySaver's choice of savers (arXiv 2403.17726), with its first crossing made exact;
    fixed-sequence testing as in Learn then Test (2110.01052), jointly as in Holm (1979).

    >>> right = np.arange(3000) % 10 < 9
    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": (1 - right, np.where(right, .9, .6)), "big": (0 * right, np.ones(3000))},
    ...     np.zeros(3000, int), costs={"tiny": 1, "big": 9})
    >>> [(s.big, s.little, round(s.share, 1), s.certificate.delta) for s in best_savers(table, 1.0)]
    [('big', 'tiny', 0.9, 0.05)]
    """
    drops = checked_drops(max_drop)
    lazy = LazyTable.of(table) if isinstance(table, ScoreTable) else table
    unit = lazy.unit(unit)
    bigs = _large_models(lazy, unit)
    certified_on = lazy.on("certify")
    spec = SearchSpec(bigs[0], unit, confidence, drops, delta, len(certified_on))
    share = replace(spec, delta=delta / (len(bigs) * len(drops)))
    with workers(SaverLines(lazy, tuple(bigs), share)) as work:
        pairs = work.promising(advance)
        lines = [line for found in work.lines(pairs, advance) for line in found]
        tests = [
            partial(certify_counted, line.test, max_drop=line.drop, looks=looks) for line in lines
        ]
        proofs = certify_jointly(tests, delta)
    about = {"table": certified_on.hash, "split": certified_on.first.provenance.get("split", {})}
    rows = [
        _saver(line, replace(proof, **about), unit)
        for line, proof in zip(lines, proofs, strict=True)
    ]
    by_big: dict[str, list[tuple[SaverLine, Saver]]] = {}
    for line, row in zip(lines, rows, strict=True):
        by_big.setdefault(row.big, []).append((line, row))
    cheapest = [_cheapest_proved(row, by_big[row.big], unit) for row in rows]
    return Savers(unit, confidence, delta, tuple(cheapest))


def _saver(line: SaverLine, proof: Certificate, unit: str) -> Saver:
    """The row of a line; the large model alone where what was proved saves nothing on certify."""
    step = len(proof.path) - 1
    if line.drop >= 0 and line.outcome("certify", step).saving[unit] <= 0:
        proof, step = proof.of_reference(), -1
    return Saver(line.big, proof, {split: line.outcome(split, step) for split in line.counts})


def _cheapest_proved(row: Saver, lines: Sequence[tuple[SaverLine, Saver]], unit: str) -> Saver:
    """The row, with the plan of a smaller budget of the same model where that is cheaper on
    certify: what loses at most that budget loses at most the larger one, and all hold at once."""
    smaller = [(line, one) for line, one in lines if one.max_drop < row.max_drop]
    line, best = min([(None, row), *smaller], key=lambda pair: pair[1].on["certify"].cost[unit])
    if line is None:
        return row
    proof = best.certificate
    test = line.at(len(proof.path) - 1).test
    again = certify_counted(test, max_drop=row.max_drop, delta=proof.delta, looks=proof.looks)
    return Saver(row.big, replace(again, table=proof.table, split=proof.split), best.on)


def _large_models(table: LazyTable, unit: str) -> list[str]:
    """The exits that have a cheaper one, dearest first."""
    costs = table.exit_costs(unit)
    if (costs == costs.min()).all():
        raise TableError("a saver is cheaper than its large model, all exits cost alike")
    order = np.argsort(-costs, kind="stable")
    return [table.names[row] for row in order.tolist() if costs[row] > costs.min()]
