"""The cascade that is served in serving.py, its images, and what it must answer.

The ResNet-20 and ResNet-56 of cifar10.py, with three operating points that are certified jointly
and the reference. Made once, in benchmarks/work/serving.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree

import numpy as np
import torch

import cifar10
import harness
from load_records import Array
from serving_checks import Expected
from understudy.app.build_cascade import build_cascade
from understudy.operating_point import OperatingPoint
from understudy.outcome import decide
from understudy.result import Result
from understudy.scores import ScoreTable
from understudy.scoring.on_disk import score_into
from understudy.searching.search import search_jointly
from understudy.store import load_table
from understudy.zoo.data import open_data
from understudy.zoo.saved_cascades import load_cascade

WORK = harness.ROOT / "benchmarks" / "work" / "serving"
NETWORKS = ("resnet20", "resnet56")
DROPS = (0.5, 0.25, 1.0)
"""The first is served; the others can be switched to."""
MARGIN = 1e-3
"""Images whose confidence is this close to a threshold are left out: rounding may move them."""


@dataclass(frozen=True, eq=False)
class Served:
    """A cascade, images (N, 3, 32, 32) uint8, and what each operating point answers on them."""

    folder: Path
    images: Array
    expected: Mapping[str, Expected]
    saving: Mapping[str, float]


def served() -> Served:
    """The cascade as it lies in the folder of work, made where it is absent."""
    sys.path.insert(0, str(harness.ROOT / "benchmarks"))
    folder = WORK / "cascade"
    if not folder.exists():
        rmtree(WORK, ignore_errors=True)
        _make(folder)
    result = Result.load(WORK / "result.json")
    table = result.with_fitted(load_table(WORK / "table"))
    points = {p.name: p for p in load_cascade(folder, allow_code=["cifar_nets"]).operating_points}
    kept = np.flatnonzero(~np.any([_close(table, p) for p in points.values()], axis=0))
    kept = np.random.default_rng(0).permutation(kept)
    images = open_data(_data())
    costs = {name: point.cost for name, point in points.items()}
    return Served(
        folder=folder,
        images=torch.stack([images.image(int(row)) for row in kept]).numpy(),
        expected={name: _expected(table, point, kept) for name, point in points.items()},
        saving={name: 1 - cost / costs["reference"] for name, cost in costs.items()},
    )


def _data() -> str:
    return f"parquet:{harness.shared() / 'cifar10' / 'test.parquet'}"


def _make(folder: Path) -> None:
    specs = {name: cifar10.specs(harness.shared())[name] for name in NETWORKS}
    table = score_into(WORK / "table", specs, _data(), batch=256, measure_batches=(256,))
    result = search_jointly(table, max_drop=DROPS, reference=NETWORKS[-1])
    result.save(WORK / "result.json")
    build_cascade(result, folder, max_drop=None, specs={}, allow_code=["cifar_nets"])


def _close(table: ScoreTable, point: OperatingPoint) -> Array:
    """The samples with a confidence beside the threshold of a stage."""
    close = np.zeros(len(table), bool)
    for rule in point.policy.stages:
        if rule.threshold is not None:
            confidence = table.scores(rule.confidence)[table.index(rule.exit)]
            close |= np.abs(confidence - rule.threshold) < MARGIN
    return close


def _expected(table: ScoreTable, point: OperatingPoint, rows: Array) -> Expected:
    decided = decide(table, point.policy)
    return Expected(
        exit=np.array(point.policy.exits)[decided.stage[rows]],
        prediction=decided.prediction[rows],
        confidence=decided.confidence[rows],
    )
