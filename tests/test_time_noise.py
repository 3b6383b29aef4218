"""What measured times are worth: intervals, cautious times, and what is remarked of them."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.errors import TableError
from understudy.outcome import evaluate
from understudy.policy import Policy, PolicyStage
from understudy.scores import ScoreTable
from understudy.sitting import Sitting, median_interval
from understudy.time_noise import (
    noise_of,
    saving_interval,
    time_remarks,
    with_cautious_times,
    within_noise,
)

UNIT = "ms@8"


def sitting(
    times: dict[str, tuple[float, float, float]], *, date: str = "2026-01-02T03:04:05+00:00"
) -> Sitting:
    """Low, median and high by part."""
    low, median, high = ({part: row[end] for part, row in times.items()} for end in range(3))
    return Sitting(UNIT, date, "cpu", 2, 1, 3.5, 0.9, 9, median, low, high)


def table_of(
    times: dict[str, tuple[float, float, float]], *, parts: dict[str, list[str]] | None = None
) -> ScoreTable:
    names = list(parts or times)
    rows = {name: ([0] * 10, [0.9] * 5 + [0.5] * 5) for name in names}
    macs = {part: 10.0 ** (number + 1) for number, part in enumerate(times)}
    table = ScoreTable.from_predictions(rows, [0] * 10, costs=macs, parts=parts)
    one = sitting(times)
    return replace(table, times={UNIT: one.median}, sittings=(one,))


def test_the_interval_of_a_median_covers_it() -> None:
    """Of 2,000 medians at most a handful, where 1 in 1,000 may be outside."""
    random = np.random.default_rng(0)
    for count in (11, 25, 50):
        draws = random.exponential(size=(2000, count)).tolist()
        ends = np.array([median_interval(rows) for rows in draws])
        assert ((ends[:, 0] > np.log(2)) | (ends[:, 1] < np.log(2))).sum() <= 8


def test_few_rounds_have_wide_intervals() -> None:
    assert median_interval([2.0]) == (2.0, 2.0)
    assert median_interval([2.0, 3.0]) == (1.0, 4.0)
    assert median_interval([1.0, 4.0, 2.0]) == (0.0, 7.0)


ends = st.tuples(*[st.floats(0.1, 10)] * 3).map(lambda row: tuple(sorted(row)))


@given(st.lists(ends, min_size=5, max_size=5), st.integers(0, 10), st.integers(0, 10))
def test_the_interval_of_a_saving_is_that_of_all_corners(
    rows: list[tuple[float, float, float]], first: int, second: int
) -> None:
    names = ["saver", "trunk", "head", "rest", "other"]
    exits = {
        "saver": ["saver"],
        "early": ["trunk", "head"],
        "end": ["trunk", "rest"],
        "other": ["other"],
    }
    table = table_of(dict(zip(names, rows, strict=True)), parts=exits)
    paid = {"saver": 1.0, "trunk": first / 10, "head": first / 10, "rest": second / 10}
    low, high = saving_interval(table, UNIT, paid, "end")
    corners = [dict(zip(names, corner, strict=True)) for corner in product((0, 2), repeat=5)]
    savings = []
    for corner in corners:
        t = {name: row[corner[name]] for name, row in zip(names, rows, strict=True)}
        savings.append(
            1 - sum(share * t[p] for p, share in paid.items()) / (t["trunk"] + t["rest"])
        )
    assert low == pytest.approx(min(savings))
    assert high == pytest.approx(max(savings))


def test_outcomes_have_the_interval_of_their_saving() -> None:
    table = table_of({"tiny": (1.0, 2.0, 4.0), "big": (8.0, 10.0, 16.0)})
    outcome = evaluate(table, Policy.pair("tiny", "big", 0.7), reference="big")
    assert outcome.saving[UNIT] == pytest.approx(1 - (2 + 5) / 10)
    assert outcome.saving_intervals[UNIT] == pytest.approx((0.0, 0.5 - 1 / 16))
    assert outcome.saving_text(UNIT) == "within noise"
    assert outcome.saving_text("MACs") == "40.0 %"
    alone = evaluate(table, Policy.single("tiny"), reference="big")
    assert alone.saving_text(UNIT) == "80.0 %\n50.0 to 93.8"
    assert evaluate(table, Policy.single("big"), reference="big").saving_text(UNIT) == "0.0 %"


def test_outcomes_without_a_spread_are_as_they_were() -> None:
    table = replace(table_of({"tiny": (1.0, 2.0, 4.0), "big": (8.0, 10.0, 16.0)}), sittings=())
    policy = Policy((PolicyStage("tiny", 0.7), PolicyStage("big", None)))
    outcome = evaluate(table, policy, reference="big")
    assert outcome.saving_intervals == {}
    assert "saving_intervals" not in outcome.to_dict()
    assert outcome.saving_text(UNIT) == "30.0 %"
    assert with_cautious_times(table, "big") is table


def test_cautious_times_speak_against_a_saving() -> None:
    parts = {"early": ["trunk", "head"], "end": ["trunk", "rest"]}
    times = {"trunk": (1.0, 2.0, 3.0), "head": (0.1, 0.2, 0.3), "rest": (4.0, 5.0, 6.0)}
    cautious = with_cautious_times(table_of(times, parts=parts), "end")
    assert cautious.times == {UNIT: {"trunk": 1.0, "head": 0.3, "rest": 4.0}}


def test_what_is_known_of_each_exit() -> None:
    table = table_of({"a": (1.9, 2.0, 2.1), "b": (1.0, 1.9, 2.2), "c": (1.8, 2.1, 2.2)})
    assert noise_of(table, "a", UNIT) == pytest.approx(0.05)
    assert noise_of(table, "a", "MACs") == 0
    assert within_noise(table, UNIT, "c") == ["a", "b"]
    assert within_noise(table, UNIT, "b") == []
    (remark,) = time_remarks(table, UNIT)
    assert "ms@8 of b is known to no better than ±10 % (load 3.5 on 2 cores)" in remark


def test_several_sittings_are_remarked() -> None:
    table = table_of({"a": (1.9, 2.0, 2.1), "b": (2.0, 2.1, 2.2)})
    later = sitting({"b": (2.0, 2.1, 2.2)}, date="2026-01-03T03:04:05+00:00")
    together = replace(table, sittings=(*table.sittings, later))
    (remark,) = time_remarks(together, UNIT)
    assert "ms@8 was measured in 2 sittings (2026-01-02 03:04 UTC" in remark
    assert list(time_remarks(table, UNIT)) == []
    assert list(time_remarks(together, "MACs")) == []


def test_a_time_that_contradicts_the_macs_is_remarked() -> None:
    table = table_of({"small": (2.9, 3.0, 3.1), "large": (2.0, 2.1, 2.2)})
    (remark,) = time_remarks(table, UNIT)
    assert "small has 10 times fewer MACs than large and takes 1.4 times as long in ms@8" in remark
    near = table_of({"small": (2.9, 3.0, 3.1), "large": (2.7, 2.9, 3.0)})
    assert list(time_remarks(near, UNIT)) == []


@pytest.mark.parametrize(("longer", "remarked"), [(9.0, False), (12.0, True)])
def test_a_time_ten_times_as_long_for_as_many_macs_is_remarked(
    longer: float, remarked: bool
) -> None:
    table = table_of({"slow": (longer, longer, longer), "fast": (1.0, 1.0, 1.0)})
    table = replace(table, costs={"MACs": {"slow": 1e6, "fast": 1e6}})
    remarks = [remark for remark in time_remarks(table, UNIT) if "as many MACs as fast" in remark]
    assert len(remarks) == remarked


def test_a_time_lies_in_its_interval() -> None:
    with pytest.raises(TableError, match=r"lies within its interval, found 2.0 for 'a'"):
        sitting({"a": (2.5, 2.0, 3.0)})
