"""Several sequences of policies with a budget each, whose certificates hold all at once.

Of L sequences each is tested at delta / L. Where k of them are proved to their ends, nothing is
left to test there, and the others are tested at delta / (L - k) (Holm 1979, for sequences; a
graphical procedure in the sense of Bretz et al. 2009). The chance that any certificate is wrong is
at most delta: see docs/certificates.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol

from understudy.certificate import Certificate


class SequenceTest(Protocol):
    """Tests a sequence that was frozen beforehand at the level that it is given (`certify`)."""

    def __call__(self, *, delta: float) -> Certificate: ...


def certify_jointly(tests: Sequence[SequenceTest], delta: float) -> tuple[Certificate, ...]:
    """The certificates of all sequences, in order; with probability 1 - delta all of them hold.

    Each certificate states the level at which it was proved at last.

    >>> from understudy.scores import ScoreTable
    >>> from understudy.searching.certify import certify
    >>> from understudy.searching.pairs import pair_curve
    >>> from understudy.searching.policy_sequences import pair_sequence
    >>> right = [0] * 1000
    >>> table = ScoreTable.from_predictions(
    ...     {"a": (right, [.9] * 1000), "b": (right, [.9] * 1000), "c": ([1] * 1000, [.9] * 1000)},
    ...     right, costs={"c": 1, "a": 2, "b": 9})
    >>> tests = [
    ...     partial(certify, pair_sequence(pair_curve(table, little, "b")), table, reference="b",
    ...             max_drop=1.0)
    ...     for little in ("a", "c")]
    >>> [(found.policy.describe(), found.delta) for found in certify_jointly(tests, 0.05)]
    [('a', 0.025), ('b', 0.05)]
    """
    found: dict[int, Certificate] = {}
    left = list(range(len(tests)))
    with ThreadPoolExecutor() as pool:
        while left:
            at_level = partial(_certificate, delta=delta / len(left))
            found |= zip(left, pool.map(at_level, [tests[row] for row in left]), strict=True)
            unended = [row for row in left if len(found[row].path) < found[row].steps]
            left = unended if len(unended) < len(left) else []
    return tuple(found[row] for row in range(len(tests)))


def _certificate(test: SequenceTest, *, delta: float) -> Certificate:
    return test(delta=delta)
