"""Is the watch right? False alarms without a shift, and how soon a real shift is found.

    python benchmarks/watch.py [--cache FOLDER --streams 1000 --runs 200 --workers 1]
                               [--json --record]

Populations are tables: tune and certify splits are drawn from them with replacement, the search
runs as it does in the library, and the traffic is drawn from the same table (no shift) or from
another one. CIFAR-10, resnet20 and resnet56: 1,017 images with their exact pixels, on which the
networks were trained, and the 10,000 JPEG images, on which they lose ten points. Both are scored
once, into the folder given by --cache.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

import harness
from populations import drawn
from understudy import ScoreTable, load_table, search
from understudy.monitoring.settings import WatchSettings
from understudy.monitoring.watch import Watch
from understudy.operating_point import OperatingPoint, operating_points_of
from understudy.outcome import decide
from understudy.policy import DEFAULT_CONFIDENCE, Policy

LITTLE, LARGE = "resnet20", "resnet56"
FILES = {"exact": "test_lossless_1017.parquet", "jpeg": "test.parquet"}
DROP = 1.0
TUNE, CERTIFY = 1_000, 5_000
REQUESTS = 20_000
BATCH, LONG_BATCH = 10, 100  # requests; the long one without a shift
NULL_ALPHAS = (0.05, 0.01)
ALPHA = 0.01
SEEN, JUDGED = 200, 1_000  # requests, in the median
MIXES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def main() -> None:
    harness.main(
        measure,
        claim="without a shift at most alpha of the streams warn and at most alpha fall back; the "
        f"real shift is seen within {SEEN} requests and judged within {JUDGED} in the median; a "
        "harmless one warns and falls back in at most alpha",
        options=options,
    )


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(tempfile.gettempdir()) / "understudy-benchmarks",
        help="folder for the scored tables",
    )
    parser.add_argument(
        "--streams", type=int, default=1_000, help="without a shift, for each alpha"
    )
    parser.add_argument("--runs", type=int, default=200, help="of each shift")
    parser.add_argument("--workers", type=int, default=1, help="processes")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    tables = {name: scored(arguments.cache / f"watch-{name}", FILES[name]) for name in FILES}
    exact, jpeg = Population.of(tables["exact"]), Population.of(tables["jpeg"])
    runs = arguments.runs
    null = [without_shift(jpeg, arguments, alpha=alpha) for alpha in NULL_ALPHAS]
    real = shifts(exact, jpeg, runs=runs)
    harmless = shifts(jpeg, exact, runs=runs, requests=REQUESTS)
    others = {
        "certify of 800": shifts(exact, jpeg, runs=runs // 4, certify=800),
        "a budget of half a point": shifts(exact, jpeg, runs=runs // 4, drop=0.5),
        "after 20,000 requests without": shifts(exact, jpeg, runs=runs // 10, before=REQUESTS),
    }
    met = (
        all(max(one["warned"], one["fell_back"]) <= one["alpha"] for one in null)
        and real["seen"]["median"] <= SEEN
        and real["judged"]["median"] <= JUDGED
        and harmless["fell_back"] <= ALPHA
    )
    return {
        "met": bool(met),
        "without_shift": null,
        "real_shift": real,
        "real_shift_otherwise": others,
        "harmless_shift": harmless,
        "share_of_jpeg": [
            {"share": share, **shifts(exact, jpeg, runs=runs // 10, share=share)} for share in MIXES
        ],
    }


def scored(folder: Path, file: str) -> ScoreTable:
    """The two networks on a file of images, scored once."""
    if not (folder / "table.json").is_file():
        from cifar10 import specs
        from understudy.scoring.on_disk import score_into

        folder.parent.mkdir(parents=True, exist_ok=True)
        sys.path.insert(0, str(harness.ROOT / "benchmarks"))
        data = harness.shared()
        networks = {name: spec for name, spec in specs(data).items() if name in (LITTLE, LARGE)}
        score_into(folder, networks, f"parquet:{data}/cifar10/{file}", batch=256)
    return load_table(folder)


@dataclass(frozen=True)
class Population:
    """A table from which samples are drawn, as arrays: those of the little and the large model."""

    table: ScoreTable
    confidence: np.ndarray
    prediction: np.ndarray
    label: np.ndarray

    @staticmethod
    def of(table: ScoreTable) -> Population:
        rows = [table.index(name) for name in (LITTLE, LARGE)]
        assert table.label is not None
        return Population(
            table,
            table.scores(DEFAULT_CONFIDENCE)[rows].astype(np.float32),
            table.prediction[rows],
            table.label,
        )

    def points(
        self, rng: np.random.Generator, *, certify: int, drop: float
    ) -> tuple[OperatingPoint, ...]:
        """The operating points that the search certifies on a draw; again where it proves none."""
        tune = max(certify // 5, 300)
        while True:
            rows = rng.integers(0, len(self.label), tune + certify)
            share = tune / (tune + certify)
            table = drawn(self.table, rows, (share, 1 - share, 0.0))
            points = operating_points_of(
                search(table, max_drop=drop, confidence=DEFAULT_CONFIDENCE)
            )
            if len(points) > 1 and points[0].policy.exits == (LITTLE, LARGE):
                return points

    def truth(self, policy: Policy) -> tuple[float, float]:
        """The disagreement with the reference and the drop, as shares of the whole table."""
        answers = decide(self.table, policy).prediction
        large = self.prediction[1]
        drop = (large == self.label).mean() - (answers == self.label).mean()
        return float((answers != large).mean()), float(drop)


@dataclass
class Seen:
    """When a watch decided, counted in requests of the traffic; infinite: not at all."""

    warning: float = math.inf
    fall_back: float = math.inf


def traffic(
    watch: Watch,
    points: Sequence[OperatingPoint],
    populations: Sequence[tuple[Population, int]],
    rng: np.random.Generator,
    *,
    batch: int = BATCH,
    label: bool = False,
) -> Seen:
    """Requests until they end or the watch falls back.

    Args:
        watch, points: the watch and what it watches.
        populations: where the requests come from, one after another, and how many of each; what
            is decided is counted from the last one's first request.
        rng: draws them.
        batch: requests that come at the same time.
        label: whether the label of every shadowed request comes later.
    """
    seen, done = Seen(), -sum(requests for _, requests in populations[:-1])
    name = points[0].name
    least = np.float32(points[0].policy.stages[0].threshold or 0)
    for population, requests in populations:
        for _ in range(0, requests, batch):
            rows = rng.integers(0, len(population.label), batch)
            decisions = served(watch, name, least, population, rows, prefix=f"{done}", label=label)
            done += batch
            if decisions and done <= 0:
                return seen  # a false alarm, which counts as one that never comes
            for decision in decisions:
                if decision == "warning":
                    seen.warning = done
                if decision == "fall-back":
                    seen.fall_back = done
                    return seen
    return seen


def served(
    watch: Watch,
    name: str,
    least: np.float32,
    population: Population,
    rows: np.ndarray,
    *,
    prefix: str,
    label: bool,
) -> list[str]:
    """A batch of requests, as a server would have it; what was decided."""
    tickets = [watch.draw(f"{prefix} {k}", name) for k in range(len(rows))]
    little, large = population.confidence[:, rows]
    accepted = little >= least
    decisions = [*watch.observe(name, 0, little)]
    if not accepted.all():
        decisions += watch.observe(name, 1, large[~accepted])
    first, reference = population.prediction[:, rows]
    answers = np.where(accepted, first, reference)
    for k, ticket in enumerate(tickets):
        if ticket is not None:
            watch.answered(ticket.request_id, name, int(answers[k]))
            decisions += watch.shadowed(ticket, int(answers[k]), int(reference[k]))
            if label:
                right = int(population.label[rows[k]])
                decisions += watch.feedback([(ticket.request_id, right)]).decisions
    return [decision.kind for decision in decisions]


def without_shift(
    population: Population, arguments: argparse.Namespace, *, alpha: float
) -> dict[str, Any]:
    """Traffic from the population that the policy was certified on: all alarms are false, but for
    policies that break their promise in truth, which are counted apart."""
    started = perf_counter()
    work = partial(stream_without_shift, population, alpha)
    with ProcessPoolExecutor(arguments.workers, mp_context=get_context("fork")) as pool:
        streams = list(pool.map(work, range(arguments.streams), chunksize=25))
    warned, fell_back, budget_wrong, certificate_wrong = np.array(streams).mean(axis=0).tolist()
    return {
        "alpha": alpha,
        "streams": arguments.streams,
        "requests": REQUESTS,
        "warned": warned,
        "fell_back": fell_back,
        "budget_wrong": budget_wrong,
        "certificate_wrong": certificate_wrong,
        "seconds": round(perf_counter() - started),
    }


def stream_without_shift(population: Population, alpha: float, stream: int) -> tuple[bool, ...]:
    """Whether it warned; whether it fell back although the drop is kept; whether the disagreement
    is beyond its budget in truth; whether the drop is."""
    rng = np.random.default_rng((int(alpha * 1000), stream))
    points = population.points(rng, certify=CERTIFY, drop=DROP)
    watch = Watch.of(points, WatchSettings(alpha=alpha, seed=stream), point=points[0].name)
    seen = traffic(watch, points, [(population, REQUESTS)], rng, batch=LONG_BATCH, label=True)
    disagreement, drop = population.truth(points[0].policy)
    kept = drop <= DROP / 100
    beyond = disagreement > watch.state.promises[0].agreement.bound
    return seen.warning < math.inf, kept and seen.fall_back < math.inf, beyond, not kept


def shifts(
    reference: Population,
    live: Population,
    *,
    runs: int,
    requests: int = 10_000,
    certify: int = CERTIFY,
    drop: float = DROP,
    before: int = 0,
    share: float = 1.0,
) -> dict[str, Any]:
    """Policies certified on one population, traffic from another, or from a mixture of both."""
    found, truths = [], []
    mixed = live if share == 1 else mixture(reference, live, share)
    for run in range(runs):
        rng = np.random.default_rng((run, certify))
        points = reference.points(rng, certify=certify, drop=drop)
        watch = Watch.of(points, WatchSettings(alpha=ALPHA, seed=run), point=points[0].name)
        parts = [(reference, before), (mixed, requests)] if before else [(mixed, requests)]
        found.append(traffic(watch, points, parts, rng))
        truths.append([p.truth(points[0].policy) for p in (reference, mixed)])
    disagreement = np.median(np.array(truths)[:, :, 0], axis=0)
    return {
        "runs": runs,
        "disagreement": [round(float(one), 4) for one in disagreement],
        "seen": quantiles([one.warning for one in found]),
        "judged": quantiles([one.fall_back for one in found]),
        "warned": float(np.mean([one.warning < math.inf for one in found])),
        "fell_back": float(np.mean([one.fall_back < math.inf for one in found])),
    }


def mixture(first: Population, second: Population, share: float) -> Population:
    """A population in which a share is of the second one, made of whole copies of both."""
    size = 20_000
    rng = np.random.default_rng(0)
    many = round(share * size)
    rows = [
        rng.integers(0, len(one.label), count)
        for one, count in ((first, size - many), (second, many))
    ]
    both = (first, second)
    columns = {
        name: np.concatenate(
            [getattr(one, name)[..., r] for one, r in zip(both, rows, strict=True)], axis=-1
        )
        for name in ("confidence", "prediction", "label")
    }
    exits = {
        name: (columns["prediction"][k], columns["confidence"][k])
        for k, name in enumerate((LITTLE, LARGE))
    }
    table = ScoreTable.from_predictions(exits, columns["label"], costs={LITTLE: 1, LARGE: 3})
    return Population(table, **columns)


def quantiles(values: Sequence[float]) -> dict[str, float | None]:
    """Median and 90 % quantile; None where it was not decided."""
    ordered = sorted(values)
    picked = {
        "median": ordered[(len(ordered) - 1) // 2],
        "90 %": ordered[min(math.ceil(0.9 * len(ordered)), len(ordered)) - 1],
    }
    return {name: None if value == math.inf else value for name, value in picked.items()}


if __name__ == "__main__":
    main()
