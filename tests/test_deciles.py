"""Difficulty: tenths and agreement, counted again by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tables import pair_table, score_tables, synthetic
from understudy.deciles import Difficulty, difficulty
from understudy.deferral import with_deferral
from understudy.errors import TableError


@given(st.data())
def test_bins_hold_every_sample_once(data: st.DataObject) -> None:
    table = data.draw(score_tables(least_exits=2, most=40))
    reference = data.draw(st.sampled_from(table.names))
    found = difficulty(table, reference=reference)
    right = table.right(reference)
    for bins in (found.by_confidence, found.by_agreement):
        assert sum(one.samples for one in bins) == len(table)
        for row, name in enumerate(table.names):
            hits = sum(one.samples * one.accuracy[name] for one in bins)
            assert hits == pytest.approx(int(right[row].sum()))
    hits = right.sum(0)
    for one in found.by_agreement:
        level = int(one.name.split()[0])
        assert one.samples == (hits == level).sum()
        assert sum(one.accuracy.values()) == pytest.approx(level)
    assert Difficulty.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert found.words()


def test_tenths_go_from_sure_to_unsure() -> None:
    sure = np.linspace(1, 0, 100)
    table = pair_table(np.arange(100) < 60, np.arange(100) < 90, sure)
    found = difficulty(table)
    assert (found.little, found.reference) == ("tiny", "big")
    assert [b.accuracy["tiny"] for b in found.by_confidence] == [1.0] * 6 + [0.0] * 4
    assert [b.accuracy["big"] for b in found.by_confidence] == [1.0] * 9 + [0.0]
    assert [round(b.gain_per_cost["big"], 6) for b in found.by_confidence] == [
        *[0.0] * 6,
        *[round(100 / 9, 6)] * 3,
        0.0,
    ]
    assert found.helps == {"tiny": 6}
    assert "tiny is as good as big (within 0.5 points) on the 60 %" in found.words()


def test_the_learned_score_orders_samples_too() -> None:
    table = synthetic(1500)
    found = difficulty(table, confidence="deferral")
    assert found == difficulty(with_deferral(table, "net2"), confidence="deferral")
    assert [one.samples for one in found.by_confidence] == [150] * 10
    accuracy = [one.accuracy["net0"] for one in found.by_confidence]
    assert accuracy[0] > 0.95 > accuracy[-1]


def test_no_little_model_can_help() -> None:
    table = pair_table(np.zeros(100), np.ones(100), np.linspace(1, 0, 100))
    assert difficulty(table).helps == {"tiny": 0}
    assert difficulty(table).words().startswith("No little model can help here")


def test_nothing_is_cheaper() -> None:
    found = difficulty(synthetic(50), reference="net0")
    assert found.helps == {}
    assert "score a smaller model" in found.words()


def test_many_exits_are_counted_in_groups() -> None:
    table = synthetic(3000, exits=23)
    found = difficulty(table)
    hits = (table.prediction == table.label).sum(0)
    assert sum(one.samples for one in found.by_agreement) == 3000
    for one in found.by_agreement:
        low, high = int(one.name.split()[0]), int(one.name.split()[2])
        assert one.samples == ((low <= hits) & (hits <= high)).sum()
    assert found.by_agreement[0].name == "21 to 23 of 23 right"


def test_equal_costs_buy_nothing() -> None:
    table = pair_table([1, 0], [1, 1], [0.9, 0.1], costs=(2, 2))
    assert difficulty(table).by_confidence[0].gain_per_cost == {}


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ({"little": "net9"}, "no exit 'net9'"),
        ({"reference": "net9"}, "no exit 'net9'"),
        ({"unit": "ms"}, "no unit 'ms'"),
        ({"confidence": "margin"}, "no confidence 'margin'"),
    ],
)
def test_unknown_names_are_sentences(names: dict[str, str], words: str) -> None:
    with pytest.raises(TableError, match=words):
        difficulty(synthetic(20), **names)


def test_one_exit_has_nothing_to_compare() -> None:
    with pytest.raises(TableError, match="'net1' alone"):
        difficulty(synthetic(20).only(["net1"]))
