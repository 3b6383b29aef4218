"""Files of every format ever released: read, checked, and written again byte by byte."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from understudy.frontier import Frontier
from understudy.outcome import evaluate
from understudy.policy import Policy, PolicyStage
from understudy.result import Result
from understudy.store import load_table, save_table

GOLD = Path(__file__).parent / "gold"


@pytest.mark.parametrize("version", [1, 2])
def test_tables(version: int) -> None:
    table = load_table(GOLD / f"table-v{version}")
    assert table.hash == "7203dd200601c6f037b87fe6cb2b52aff86ef7b3dc7c5187f52f185909036769"
    assert table.names == ("tiny", "head", "large")
    assert table.exits[2].parts == ("trunk", "rest")
    assert table.exits[0].origin == {
        "spec": "timm:tiny?checkpoint=t.safetensors",
        "weights": "ab12",
    }
    assert table.prediction.tolist()[0] == [0, 1, 2, 0, 1, 1]
    assert table.label is not None
    assert table.label.tolist() == [0, 1, 2, 2, 1, 1]
    assert table.ids.tolist() == ["cats/1.jpg", "cats/2.jpg", "dögs/1.jpg", "dögs/2.jpg", "5", "6"]
    assert table.split.tolist() == [0, 1, 2, 1, 0, 2]
    assert list(table.confidence) == ["max_softmax", "margin"]
    assert table.confidence["max_softmax"].dtype == np.float32
    assert table.confidence["max_softmax"][0, 0] == np.float32(0.9)
    assert table.confidence["margin"].dtype == np.float64
    assert table.cost_of(["head", "large"], "MACs") == 10_001_000.0
    assert table.cost_of(["tiny"], "ms@8") == 0.25
    assert table.units == ("MACs", "joules", "ms@8")
    assert table.classes == ("cat", "dog", "ü")
    assert table.provenance["data"] == {"spec": "folder:pets"}
    detail = table.details["tiny"]
    assert detail.top_classes.tolist()[2] == [2, 1]
    assert detail.top_probabilities.tolist()[4] == [0.75, 0.25]
    assert detail.logits is not None
    assert detail.logits.dtype == np.float16
    assert detail.logits[5].tolist() == [3.75, 4.0, 4.25]
    assert list(table.details) == ["tiny"]
    outcome = evaluate(table, Policy.pair("tiny", "large", 0.125), reference="large")
    assert (outcome.losses, outcome.gains) == (1, 1)


def test_policy_v1() -> None:
    assert Policy.load(GOLD / "policy-v1.json") == Policy(
        (
            PolicyStage("tiny", 0.30000000000000004, "margin"),
            PolicyStage("head", math.inf),
            PolicyStage("mid", -math.inf, "energy"),
            PolicyStage("large"),
        )
    )


@pytest.mark.parametrize("version", [1, 2])
def test_frontiers(version: int) -> None:
    frontier = Frontier.load(GOLD / f"frontier-v{version}.json")
    assert (frontier.unit, frontier.reference) == ("MACs", "net1")
    assert [point.cost for point in frontier] == pytest.approx(
        [1.0, 1.856164384, 2.952054795, 4.116438356, 5.520547945, 6.890410959, 8.054794521]
    )
    assert frontier.points[0].policy == Policy.single("net0")
    assert frontier.points[1].policy.stages[0].threshold == 0.2500000074505806
    assert Result.load(GOLD / f"result-v{version}.json").frontier == frontier


@pytest.mark.parametrize("version", [1, 2])
def test_results(version: int) -> None:
    result = Result.load(GOLD / f"result-v{version}.json")
    assert (result.unit, result.reference, result.delta) == ("MACs", "net1", 0.1)
    assert (result.searched_on, result.in_sample) == ("tune", False)
    strict, loose = result.choices
    assert strict.policy == Policy.single("net1")
    assert strict.certificate is not None
    assert strict.certificate.falls_back
    assert strict.certificate.samples_needed == 1288
    assert loose.max_drop == 2.0
    assert loose.policy.exits == ("net0", "net1")
    proof = loose.certificate
    assert proof is not None
    assert proof.path[-1] == proof.policy == loose.policy
    assert (proof.losses, proof.gains, proof.samples, proof.looks) == (14, 8, 902, 2)
    assert loose.on["certify"].losses == proof.losses
    assert loose.outcome.cost == loose.on["test"].cost
    assert set(loose.outcome.cost) == {"MACs", "ms@8"}
    assert loose.baselines.single == "net0"
    assert [single.name for single in result.singles] == ["net0", "net1"]
    assert result.singles[0].origin == {"spec": "timm:net0"}
    assert result.difficulty is not None
    assert len(result.difficulty.by_confidence) == 10
    assert result.table["samples"] == {"tune": 292, "certify": 902, "test": 306}
    assert str(result)


def test_written_again_they_are_the_same(tmp_path: Path) -> None:
    Policy.load(GOLD / "policy-v1.json").save(tmp_path / "policy-v1.json")
    Frontier.load(GOLD / "frontier-v2.json").save(tmp_path / "frontier-v2.json")
    save_table(load_table(GOLD / "table-v2"), tmp_path / "table-v2")
    for file in ("policy-v1.json", "frontier-v2.json", "table-v2/times.json"):
        assert (tmp_path / file).read_bytes() == (GOLD / file).read_bytes(), file
    older, newer = (read_json(root / "table-v2/table.json") for root in (GOLD, tmp_path))
    for key in ("files", "content_hash"):  # of Parquet's bytes, which change with its library
        assert older.pop(key)
        assert newer.pop(key)
    assert older == newer


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_result_written_again_keeps_all_but_its_words(tmp_path: Path) -> None:
    """Words and intervals are made anew from its figures, and may be made better one day; later
    versions may add entries."""
    Result.load(GOLD / "result-v1.json").save(tmp_path / "result.json")
    paths = GOLD / "result-v1.json", tmp_path / "result.json"
    older, newer = map(read_json, paths)
    assert_kept(older, newer)


def assert_kept(older: Any, newer: Any) -> None:
    """Every entry of the older JSON but versions, words and intervals is in the newer, in order."""
    if isinstance(older, dict):
        assert [key for key in newer if key in older] == list(older)
        for key in older.keys() - {"words", "interval", "drop_interval", "version"}:
            assert_kept(older[key], newer[key])
    elif isinstance(older, list):
        assert len(older) == len(newer)
        for one, other in zip(older, newer, strict=True):
            assert_kept(one, other)
    else:
        assert older == newer


def test_a_gold_table_can_be_copied_and_read_anywhere(tmp_path: Path) -> None:
    shutil.copytree(GOLD / "table-v1", tmp_path / "elsewhere")
    assert load_table(tmp_path / "elsewhere").hash == load_table(GOLD / "table-v1").hash
