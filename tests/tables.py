"""Random score tables, small and full of ties, for tests against the oracle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from understudy.policy import Policy, PolicyStage
from understudy.scores import Exit, ScoreTable
from understudy.split import SHARES_OF_MANY

CONFIDENCES = ("max_softmax", "margin")
LEVELS = (0.0, 0.1, 0.25, 0.5, 0.5, 0.7, 0.9, 1.0)
Split = Mapping[str, float] | Sequence[str] | None
COSTS = (0.0, 0.1, 1.0, 1.0, 2.0, 3.7, 10.0)


@st.composite
def score_tables(
    draw: st.DrawFn, *, most: int = 12, least_exits: int = 1, labelled: bool | None = None
) -> ScoreTable:
    """2 to 4 classes, few levels of confidence, parts that exits share, two units; labels of all
    samples, of some or of none, and several for each where they are sets."""
    count, exits = draw(st.integers(1, most)), draw(st.integers(least_exits, 4))
    classes = draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    names = [f"e{number}" for number in range(exits)]
    shared = draw(st.booleans())
    parts = {n: (["trunk", n] if shared and rng.random() < 0.6 else [n]) for n in names}
    if shared and exits > 2:
        parts[names[-1]] = [*parts[names[-1]], names[0]]
    priced = sorted({"trunk", *names})
    share = draw(st.sampled_from([0.0, 0.5, 1.0])) if labelled is None else float(labelled)
    label = np.where(rng.random(count) < share, rng.integers(0, classes, count), -1)
    further = rng.integers(-1, classes, (count, 2))
    further[:, 1] = np.where(further[:, 0] < 0, -1, further[:, 1])
    sets = np.column_stack([label, np.where(label[:, None] < 0, -1, further)])
    return ScoreTable(
        exits=tuple(Exit(n, tuple(parts[n])) for n in names),
        prediction=rng.integers(0, classes, (exits, count)),
        confidence={c: rng.choice(LEVELS, (exits, count)).astype(dtype) for c in CONFIDENCES},
        label=label,
        ids=np.array([f"s{i}" for i in range(count)], dtype=object),
        split=rng.integers(0, 3, count),
        costs={unit: {p: float(rng.choice(COSTS)) for p in priced} for unit in ("MACs", "joules")},
        times={"ms@8": {p: float(rng.random()) for p in priced}},
        provenance={"split": {"by": "column"}},
        label_sets=sets if draw(st.booleans()) else None,
    )


@st.composite
def policies(draw: st.DrawFn, table: ScoreTable) -> Policy:
    """Any policy on a table: 1 to E stages, thresholds on, between and outside the levels."""
    order = draw(st.permutations(table.names))
    stages = draw(st.integers(1, len(order)))
    level = st.sampled_from([*LEVELS, 0.3, float("inf"), float("-inf")])
    steps = [
        PolicyStage(exit, draw(level), draw(st.sampled_from(CONFIDENCES)))
        for exit in order[: stages - 1]
    ]
    return Policy((*steps, PolicyStage(order[stages - 1])))


def pair_table(
    little: Any,
    big: Any,
    sure: Any,
    *,
    costs: tuple[float, float] = (1.0, 10.0),
    split: Split = SHARES_OF_MANY,
    **rest: Any,
) -> ScoreTable:
    """Two exits whose answers are right (1) or wrong (0); the truth is class 1 everywhere."""
    answers = [np.asarray(rows, int) for rows in (little, big)]
    return ScoreTable.from_predictions(
        {
            "tiny": (answers[0], np.asarray(sure, float)),
            "big": (answers[1], np.ones(len(answers[1]))),
        },
        np.ones(len(answers[0]), int),
        costs=dict(zip(("tiny", "big"), costs, strict=True)),
        split=split,
        **rest,
    )


def synthetic(
    count: int, *, seed: int = 0, exits: int = 3, split: Split = SHARES_OF_MANY, **rest: Any
) -> ScoreTable:
    """A plausible pool: later exits are better and dearer, confidence informs."""
    rng = np.random.default_rng(seed)
    hard = rng.random(count)
    names = [f"net{number}" for number in range(exits)]
    predictions = {}
    for number, name in enumerate(names):
        skill = 0.75 + 0.2 * (number + 1) / exits
        right = hard + 0.15 * rng.standard_normal(count) < skill
        sure = np.clip(1 - hard * 0.8 + 0.1 * rng.standard_normal(count), 0.1, 1).astype(np.float32)
        predictions[name] = (right.astype(int), np.round(sure, 2))
    return ScoreTable.from_predictions(
        predictions,
        np.ones(count, int),
        costs={"MACs": {name: 10.0**number for number, name in enumerate(names)}},
        split=split,
        **rest,
    )


def record(count: int, *, places: int = 3, types: int = 2, seed: int = 0) -> ScoreTable:
    """A made-up network: exits get better with depth, two types at each place."""
    rng = np.random.default_rng(seed)
    hard = rng.random(count)
    predictions, parts, costs = {}, {}, {}
    for place in range(places):
        costs[f"trunk{place}"] = 10.0
        for kind in range(types):
            name = f"place{place}/type{kind}"
            right = hard + 0.2 * rng.standard_normal(count) < 0.5 + 0.1 * place + 0.03 * kind
            sure = np.round(1 - hard + 0.15 * rng.standard_normal(count), 2)
            predictions[name] = (right.astype(int), sure)
            parts[name] = [*(f"trunk{i}" for i in range(place + 1)), f"head {name}"]
            costs[f"head {name}"] = 0.5 + kind
    costs["rest"] = 20.0
    predictions["full"] = ((hard < 0.87).astype(int), 1 - hard)
    parts["full"] = [*(f"trunk{i}" for i in range(places)), "rest"]
    return ScoreTable.from_predictions(
        predictions, np.ones(count, int), costs={"MACs": costs}, parts=parts, split=SHARES_OF_MANY
    )
