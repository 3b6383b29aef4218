"""The exit that others are compared with, where none is named: the best one on tune."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from understudy.display import percent
from understudy.exit import Array, Exit


def candidates(exits: Sequence[Exit]) -> list[int]:
    """The exits that may be a reference by default: no ensembles, no exits inside another one.

    An exit that is a head inside a network of the table is compared with that network.

    >>> head = Exit("net/2/linear", ("net/2", "net/2/linear"), {"root": "net"})
    >>> candidates([head, Exit("net", ("net/2", "net/(rest)"), {"root": "net"}), Exit("tiny")])
    [1, 2]
    """
    names = {exit.name for exit in exits}
    return [
        row
        for row, exit in enumerate(exits)
        if not exit.is_ensemble and (exit.root == exit.name or exit.root not in names)
    ]


def most_accurate(rows: Sequence[int], right: Array, costs: npt.NDArray[np.float64]) -> int:
    """The one of `rows` that is right most often; of equals the cheapest that costs something.

    Args:
        right: (E,) how often each exit is right.
        costs: (E,) their costs. Nothing is saved against an exit that costs nothing.

    >>> most_accurate([0, 1, 2], np.array([8, 9, 9]), np.array([1.0, 5.0, 4.0]))
    2
    """
    priced = [row for row in rows if costs[row] > 0] or list(rows)
    return min(priced, key=lambda row: (-right[row], costs[row]))


def reference_words(
    name: str,
    accuracies: Mapping[str, float] | None,
    costs: Mapping[str, float],
    *,
    exits: Sequence[Exit],
    split: str,
) -> str:
    """The reference in one line: its accuracy, and whether that is the highest.

    Args:
        accuracies: by exit, ensembles apart; empty where labels are missing, None where no sample
            has one.
        costs: by exit.
        exits: all of them.
        split: where they were measured.

    >>> costs = {"tiny": 1.0, "big": 9.0}
    >>> exits = [Exit("tiny"), Exit("big")]
    >>> reference_words("big", {"tiny": 0.9, "big": 0.934}, costs, exits=exits, split="tune")
    'reference big: the most accurate on tune (93.4 %)'
    >>> reference_words("tiny", {"tiny": 0.9, "big": 0.934}, costs, exits=exits, split="tune")
    'reference tiny: 90.0 % on tune, where big has 93.4 %'
    """
    if accuracies is None:
        return (
            f"reference {name}: no sample has a label, so all figures are agreement with its "
            "answers"
        )
    if not accuracies and costs[name] == max(costs.values()):
        return f"reference {name}: the costliest (too few labels to tell the most accurate)"
    if name not in accuracies:
        return f"reference {name}"
    best = max(accuracies, key=accuracies.__getitem__)
    if accuracies[name] >= accuracies[best]:
        return f"reference {name}: the most accurate on {split} ({percent(accuracies[name])})"
    inside = any(exit.name == best and exit.root == name for exit in exits)
    network = "the network whose exits these are; " if inside else ""
    return (
        f"reference {name}: {network}{percent(accuracies[name])} on {split}, where {best} has "
        f"{percent(accuracies[best])}"
    )
