"""The three papers' claims on real ImageNet predictions: 21 networks, all 50,000 images.

    python benchmarks/imagenet_zoo.py [--only resnet152,vgg19] [--cuts 5] [--json] [--record]

Every network that has a cheaper one is the large model in turn. Its best saver and its best cascade
are chosen and measured on all images, as the papers report; then the best saver, the best cascade
and the plan by default are chosen on tune, certified on certify and measured on test, where their
thresholds are judged on the ReaL labels too. TinySaver's own choice stands beside them. Certified
plans of several random cuts (20 / 60 / 20) count how often the measured drop exceeds the budget by
more than its noise.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache
from multiprocessing import get_context
from typing import Any

import numpy as np
import polars as pl

import harness
from populations import GMACS, SHARES
from understudy import Policy, Result, ScoreTable, evaluate, search
from understudy.deciles import Difficulty, difficulty
from understudy.intervals import wilson
from understudy.outcome import Outcome
from understudy.searching.all_pairs import search_all_pairs
from understudy.searching.published_rules import first_crossing
from understudy.searching.search import search_in_sample

DROPS = (0.0, 0.5, 1.0)
UNIT, MAIN, BUDGET, GOAL = "MACs", "resnet152", 0.5, 0.66
LABEL, REAL = "label", "real_labels"
WAYS: Mapping[str, Mapping[str, Any]] = {
    "saver": {"confidence": "max_softmax", "without": ("ensembles", "chains")},
    "chain": {"confidence": "max_softmax", "without": ("ensembles",)},
    "default": {},
}
LADDER = ("squeezenet1_1", "resnet18", "densenet121", "densenet201", "resnet152")
DYCE = {"v1, v2": 0.235, "v3": 0.262}  # of ResNet-152's MACs, by exits, at a drop below 0.5 points


@cache
def zoo(labels: str = LABEL) -> ScoreTable:
    """The 21 networks with their max softmax and margins, by ImageNet's labels or by ReaL's sets,
    which leave out the images where no label was agreed on."""
    data = harness.shared()
    rows = pl.read_parquet(data / "imagenet_zoo" / "predictions.parquet")
    if labels == REAL:
        sets = pl.read_parquet(data / "imagenet" / "labels.parquet").drop("label")
        rows = rows.join(sets, on="file_name").filter(pl.col(REAL).list.len() > 0)
    scores = {"max_softmax": "confidence", "margin": "margin"}
    return ScoreTable.from_predictions(
        {
            name: (
                rows[f"{name}_prediction"],
                {score: rows[f"{name}_{column}"] for score, column in scores.items()},
            )
            for name in GMACS
        },
        rows[labels].to_list(),
        costs={UNIT: {name: 1e9 * cost for name, cost in GMACS.items()}},
        ids=rows["file_name"].to_list(),
    )


def bigs(table: ScoreTable) -> list[str]:
    """The networks that have a cheaper one, dearest first."""
    costs = table.exit_costs(UNIT)
    order = np.argsort(-costs, kind="stable")
    return [table.names[row] for row in order.tolist() if costs[row] > costs.min()]


def cut(table: ScoreTable, seed: int) -> ScoreTable:
    """The table with a random cut into tune, certify and test."""
    ends = np.round(np.cumsum(SHARES)[:-1] * len(table))
    codes = np.searchsorted(ends, np.arange(len(table)), side="right").astype(np.uint8)
    split = np.empty(len(table), np.uint8)
    split[np.random.default_rng(seed).permutation(len(table))] = codes
    return replace(table, split=split)


# -- one large model ------------------------------------------------------------------------------


def of_model(big: str) -> dict[str, Any]:
    """Everything about one large model but the random cuts."""
    table = zoo()
    littles = [n for n in table.names if table.cost_of([n], UNIT) < table.cost_of([big], UNIT)]
    pool = table.only([*littles, big])
    in_sample = {
        way: search_in_sample(pool, reference=big, max_drop=DROPS, without=WAYS[way]["without"])
        for way in ("saver", "chain")
    }
    certified = {
        way: search(pool, reference=big, max_drop=DROPS, **options) for way, options in WAYS.items()
    }
    return {
        "big": big,
        "gmacs": GMACS[big],
        "littles": len(littles),
        "in_sample": {way: plans(result) for way, result in in_sample.items()},
        "certified": {way: plans(result) for way, result in certified.items()},
        "real": {way: on_real(result) for way, result in certified.items()},
        "tinysaver": tinysaver(pool, big, littles),
    }


def plans(result: Result) -> list[dict[str, Any]]:
    """What a search found for every budget, where the result measures it."""
    return [
        {
            "max_drop": choice.max_drop,
            "policy": choice.policy.describe(),
            "exits": list(choice.policy.exits),
            **measured(choice.outcome),
            "holds": choice.outcome.drop_interval[0] <= choice.max_drop,
        }
        for choice in result.choices
    ]


def measured(outcome: Outcome) -> dict[str, Any]:
    return {
        "saving": round(outcome.saving[UNIT], 4),
        "drop": round(outcome.drop, 3),
        "drop_interval": [round(edge, 3) for edge in outcome.drop_interval],
    }


def on_real(result: Result) -> list[dict[str, Any]]:
    """The same policies on the test images that have ReaL labels, by either kind of label."""
    real = result.with_fitted(zoo(REAL)).on("test")
    label = result.with_fitted(zoo()).on("test")
    known = set(real.ids)
    label = label.rows(np.flatnonzero([one in known for one in label.ids]))
    return [
        {
            "max_drop": choice.max_drop,
            "samples": len(real),
            **{
                f"by_{kind}": measured(evaluate(table, choice.policy, reference=result.reference))
                for kind, table in ((LABEL, label), ("real", real))
            },
        }
        for choice in result.choices
    ]


def tinysaver(table: ScoreTable, big: str, littles: Sequence[str]) -> dict[str, Any]:
    """TinySaver's choice: of the first crossings on tune the one of least delta C = c - r."""
    tune, test = table.on("tune"), table.on("test")
    full = table.cost_of([big], UNIT)
    ranked = []
    for little in littles:
        policy = first_crossing(tune, little, big)
        share = evaluate(tune, policy, reference=big).shares.get(little, 0.0)
        ranked.append((table.cost_of([little], UNIT) / full - share, little, policy))
    ranked.sort(key=lambda row: row[0])
    best, little, policy = ranked[0]
    return {
        "saver": little if little in policy.exits else None,
        "delta_c": round(best, 4) if little in policy.exits else 0.0,
        "policy": policy.describe(),
        "top_5": {name: round(delta, 4) for delta, name, _ in ranked[:5]},
        **measured(evaluate(test, policy, reference=big)),
    }


# -- several cuts, all pairs, difficulty ----------------------------------------------------------


def of_cut(job: tuple[str, int]) -> list[dict[str, Any]]:
    """The plans by default of one large model and one random cut, as certified and measured."""
    big, seed = job
    table = cut(zoo(), seed)
    found = search(table, reference=big, max_drop=DROPS)
    proved = [choice.policy != Policy.single(big) for choice in found.choices]
    return [
        {"big": big, "cut": seed, "proved": one} | plan
        for one, plan in zip(proved, plans(found), strict=True)
    ]


def held(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """How many certified plans hold on test, as measured and within their noise."""
    proved = [row for row in rows if row["proved"]]
    within = sum(row["drop"] <= row["max_drop"] for row in proved)
    holds = sum(row["holds"] for row in proved)
    return {
        "plans": len(proved),
        "measured_within_budget": within,
        "within_noise": holds,
        "share_within_noise": round(holds / max(len(proved), 1), 4),
        "interval": [round(edge, 4) for edge in wilson(holds, len(proved))],
    }


def main_model(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """ResNet-152 at 0.5 points over the random cuts, beside what DyCE published for it."""
    some = [row for row in rows if row["big"] == MAIN and row["max_drop"] == BUDGET]
    savings = np.array([row["saving"] for row in some])
    return {
        "cuts": len(some),
        "saving": round(float(savings.mean()), 4),
        "standard_deviation": round(float(savings.std()), 4),
        "drop": round(float(np.mean([row["drop"] for row in some])), 3),
        "largest_drop": max(row["drop"] for row in some),
        "beyond_noise": sum(not row["holds"] for row in some),
        "goal": GOAL,
        "dyce_published": DYCE,
    }


def heat(table: ScoreTable) -> dict[str, Any]:
    """The saving of every pair within the budget, on all images, as a share of the large model's
    MACs; null where the little model is not cheaper or saves nothing."""
    order = np.argsort(table.exit_costs(UNIT), kind="stable").tolist()
    names, costs = [table.names[row] for row in order], table.exit_costs(UNIT)[order]
    right = table.right(MAIN)[order]
    scores = table.scores("max_softmax")[order]
    share = search_all_pairs(right, scores, costs, [BUDGET]).accepted[:, :, 0] / len(table)
    little, big = costs[:, None], costs[None, :]
    saving = share - little / big
    used = (little < big) & (saving > 0)
    saved = [
        [round(float(saving[row, of]), 4) if used[row, of] else None for of in range(len(names))]
        for row in range(len(names))
    ]
    accuracy = [round(float(share), 4) for share in right.mean(1)]
    return {"max_drop": BUDGET, "models": names, "accuracy": accuracy, "saving": saved}


def tenths() -> dict[str, Any]:
    """Accuracy and points per further GMAC by difficulty, along a ladder of networks, by the labels
    of ImageNet and by ReaL's; and in how many of the easiest tenths each is as good as the last."""
    found = {kind: difficulty(zoo(kind).only(LADDER), reference=MAIN) for kind in (LABEL, REAL)}
    return {
        "by": f"the confidence of {LADDER[0]}",
        "label": tenth_rows(found[LABEL]),
        "real": tenth_rows(found[REAL]),
        "helps": dict(difficulty(zoo(), reference=MAIN).helps),
        "helps_by_real": dict(difficulty(zoo(REAL), reference=MAIN).helps),
    }


def tenth_rows(found: Difficulty) -> list[dict[str, Any]]:
    return [
        {
            "tenth": int(one.name),
            "accuracy": {name: round(value, 4) for name, value in one.accuracy.items()},
            "points_per_gmac": {
                name: round(1e9 * gain, 2) for name, gain in one.gain_per_cost.items()
            },
        }
        for one in found.by_confidence
    ]


# -- the benchmark --------------------------------------------------------------------------------


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    table = zoo()
    chosen = arguments.only.split(",") if arguments.only else bigs(table)
    jobs = [(big, seed) for big in chosen for seed in range(arguments.cuts)]
    jobs += [(MAIN, seed) for seed in range(arguments.cuts, arguments.main_cuts) if MAIN in chosen]
    workers = arguments.workers or os.cpu_count()
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        models = list(pool.map(of_model, chosen))
        rows = [row for found in pool.map(of_cut, jobs) for row in found]
    every = held(row for row in rows if row["cut"] < arguments.cuts)
    main = main_model(rows) if MAIN in chosen else None
    return {
        "samples": len(table),
        "max_drops": DROPS,
        "models": models,
        "cuts": arguments.cuts,
        "certified_plans": every | {"broken": [row for row in rows if not row["holds"]]},
        MAIN: main,
        "pairs": heat(table),
        "difficulty": tenths(),
        "met": every["share_within_noise"] >= 0.95
        and (main is None or (main["saving"] >= GOAL and not main["beyond_noise"])),
    }


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", help="large models, separated by commas; all by default")
    parser.add_argument("--cuts", type=int, default=5, help="random cuts of every large model")
    parser.add_argument("--main-cuts", type=int, default=20, help=f"random cuts of {MAIN}")
    parser.add_argument("--workers", type=int, help="processes; one per core by default")


if __name__ == "__main__":
    harness.main(
        measure,
        claim=f"{MAIN}, certified {BUDGET:g} points, 20 random cuts: the plan by default saves at "
        f"least {100 * GOAL:g} % of the MACs in the mean, and no measured drop exceeds the budget "
        "by more than its noise; of all large models' certified plans 95 % hold within it",
        options=options,
    )
