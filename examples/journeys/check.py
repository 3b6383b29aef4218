"""Checks that the end of a journey is reached.

    python check.py RESULT TABLE [ANSWERS]

Every certificate of the result is proved, and proved again from the table; every answer of the
cascade, if there are any, is the one that the table predicts, from the same exit.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from understudy import Result, load_table
from understudy.outcome import decide
from understudy.searching.verify import verify_file


def proved(result: str, table: str) -> None:
    """The result has a cascade that is certified to lose no more than its budget."""
    choice = Result.load(result).choice()
    assert choice.certificate is not None, choice.verdict
    assert not choice.certificate.falls_back, choice.verdict
    assert len(choice.policy.stages) > 1, choice.policy.describe()
    failed = [check for check in verify_file(result, table) if not check.holds]
    assert not failed, failed


def agrees(result: str, table: str, answers: str) -> None:
    """The running cascade gave the answers that the table predicts, sample by sample."""
    found = Result.load(result)
    scores = found.with_fitted(load_table(table))
    expected = decide(scores, found.choice().policy)
    exits = found.choice().policy.exits
    with Path(answers).open(newline="") as file:
        given = {row["id"]: row for row in csv.DictReader(file)}
    for row, name in enumerate(scores.ids):
        assert int(given[name]["prediction"]) == expected.prediction[row], name
        assert given[name]["exit"] == exits[expected.stage[row]], name


if __name__ == "__main__":
    proved(*sys.argv[1:3])
    if len(sys.argv) > 3:
        agrees(*sys.argv[1:])
    print("reached: certified" + ", and every answer is the table's" * (len(sys.argv) > 3))
