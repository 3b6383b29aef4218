"""The watch: what it decides, from what, and what it does not."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from understudy.baseline import baseline_of
from understudy.errors import PolicyError
from understudy.monitoring.settings import WatchSettings
from understudy.monitoring.watch import Watch
from understudy.monitoring.watched_points import watched_points
from understudy.operating_point import OperatingPoint
from understudy.policy import Policy
from understudy.scores import ScoreTable
from watched_cascade import POINTS, live, watch_of


def low(rng: np.random.Generator, size: int) -> np.ndarray:
    found: np.ndarray = rng.random(size) ** 2
    return found


def kinds(watch: Watch) -> list[str]:
    return [one.kind for one in watch.decisions]


def test_a_first_stage_is_one_stream_of_all_points() -> None:
    watched = watched_points(POINTS)
    assert [point.name for point in watched.points] == ["drop-1", "drop-0.5"]
    assert [point.streams for point in watched.points] == [(0, 1), (0, 2)]
    assert [watched.weight(stream) for stream in range(3)] == [0.5, 0.25, 0.25]


def test_a_shift_warns_and_raises_the_share_but_never_falls_back() -> None:
    watch = watch_of(WatchSettings(raised_for=200))
    assert watch.share == 0.05
    live(watch, 300, differing=0.02, confidence=low)
    [warning] = watch.decisions
    assert (warning.kind, warning.before, warning.after) == ("warning", "drop-1", "drop-1")
    assert "'tiny'" in warning.reason
    assert warning.requests < 200
    assert watch.share == 0.5
    live(watch, 4000, differing=0.02, confidence=low, seed=2)
    assert watch.share == 0.05, "after 200 shadows nothing was found"
    assert kinds(watch) == ["warning"]
    assert watch.snapshot()["state"] == "warned"


def test_a_broken_promise_falls_back_to_the_next_safer_point() -> None:
    watch = watch_of(WatchSettings(share=0.5))
    requests = live(watch, 5000, differing=0.12)
    assert requests < 2500
    [decision] = watch.decisions
    assert (decision.kind, decision.after) == ("fall-back", "drop-0.5")
    assert watch.point == "drop-0.5"
    assert watch.snapshot()["state"] == "fallen back"


def test_it_falls_back_again_and_ends_at_the_reference() -> None:
    watch = watch_of(WatchSettings(share=1.0, raised_share=1.0))
    for seed in range(2):
        tickets = [watch.draw(f"{seed}-{k}", watch.point) for k in range(400)]
        for ticket in tickets:
            assert ticket is not None
            watch.shadowed(ticket, ticket.number % 4, 0)
    assert [one.after for one in watch.decisions] == ["drop-0.5", "reference"]
    assert watch.draw("x", "reference") is None
    assert watch.observe("reference", 0, np.ones(3)) == ()
    watch.reset(point="drop-1", reason="a new camera")
    assert (watch.point, watch.snapshot()["state"]) == ("drop-1", "watching")
    assert watch.decisions[-1].reason == "a new camera"


def test_a_promise_that_is_kept_stays() -> None:
    watch = watch_of(WatchSettings(share=1.0, raised_share=1.0))
    live(watch, 3000, differing=0.025)
    assert kinds(watch) == []
    agreement = watch.snapshot()["agreement"]
    assert agreement["shadowed"] == 3000
    assert agreement["interval"][0] < 0.025 < agreement["interval"][1]
    assert agreement["budget"] == pytest.approx(0.03, abs=0.002)
    assert agreement["pairs"] == [
        {"answer": 1, "reference": 0, "count": agreement["disagreements"]}
    ]


def test_labels_that_come_later_break_the_promise_of_the_drop() -> None:
    """The disagreement is within its budget, but each one is a loss: 2.5 points, not one."""
    watch = watch_of(WatchSettings(share=1.0, raised_share=1.0))
    live(watch, 9000, differing=0.027, labels=True)
    assert kinds(watch) == ["fall-back"]
    assert "labelled" in watch.decisions[0].reason
    labels = watch.snapshot()["labels"]
    assert labels["accuracy"] == pytest.approx(0.973, abs=0.01)


def test_a_label_is_counted_once() -> None:
    watch = watch_of()
    watch.answered("a", "drop-1", 3)
    watch.answered("b", "reference", 4)
    found = watch.feedback([("a", 3), ("a", 3), ("b", 0), ("c", 1)])
    assert (found.counted, found.repeated, found.unknown) == (2, 1, ("c",))
    assert watch.feedback([("a", 2)]).repeated == 1
    assert watch.snapshot()["labels"]["accuracy"] == 0.5
    assert watch.snapshot()["labels"]["compared"] == 0, "no shadow was drawn"


def test_a_label_that_comes_before_the_shadow_waits_for_it() -> None:
    """Else the drop is tested where the reference answered anyway, and nothing is lost there."""
    watch = watch_of(WatchSettings(share=1.0, raised_share=1.0))
    first, second = watch.draw("first", "drop-1"), watch.draw("second", "drop-1")
    assert first is not None
    assert second is not None
    watch.answered("second", "drop-1", 0)
    watch.shadowed(second, 0, 0)
    watch.answered("first", "drop-1", 1)
    assert watch.feedback([("first", 0), ("second", 0)]).counted == 2
    assert watch.feedback([("first", 0)]).repeated == 1
    assert watch.state.labelled == 0
    watch.shadowed(first, 1, 0)
    assert watch.snapshot()["labels"]["compared"] == 2
    assert watch.snapshot()["labels"]["gap"] == 0.5
    assert watch.feedback([("first", 0), ("second", 0)]).repeated == 2


def test_a_label_is_counted_where_the_shadow_is_lost() -> None:
    watch = watch_of(WatchSettings(share=1.0, raised_share=1.0))
    ticket = watch.draw("a", "drop-1")
    assert ticket is not None
    assert watch.feedback([("a", 1)]).unknown == ("a",), "it has no answer yet"
    watch.answered("a", "drop-1", 1)
    watch.feedback([("a", 1)])
    watch.lost(ticket)
    labels = watch.snapshot()["labels"]
    assert (labels["accuracy"], labels["compared"]) == (1.0, 0)


def test_what_came_before_a_reset_does_not_count_after_it() -> None:
    watch = watch_of(WatchSettings(share=1.0, raised_share=1.0))
    tickets = [watch.draw(str(k), "drop-1") for k in range(300)]
    for number, ticket in enumerate(tickets):
        watch.answered(str(number), "drop-1", 1)
        assert ticket is not None
        if number < 150:
            watch.shadowed(ticket, 1, 0)
    watch.reset(point="drop-1")
    for ticket in tickets[150:]:
        assert ticket is not None
        watch.shadowed(ticket, 1, 0)
    watch.feedback([(str(number), 0) for number in range(300)])
    assert kinds(watch) == ["fall-back", "reset"], "nothing after the reset"
    found = watch.snapshot()
    assert found["agreement"]["shadowed"] == found["labels"]["compared"] == 0
    assert found["labels"]["accuracy"] == 0.0


def test_shadows_are_judged_in_the_order_in_which_they_were_drawn() -> None:
    watch = watch_of(WatchSettings(share=1.0, raised_share=1.0))
    tickets = [watch.draw(str(k), "drop-1") for k in range(4)]
    first, second, third, fourth = (one for one in tickets if one is not None)
    watch.shadowed(second, 1, 0)
    watch.lost(third)
    watch.shadowed(fourth, 1, 1)
    assert watch.state.shadowed == 0, "the first may differ, and would be late for it"
    watch.shadowed(first, 0, 0)
    assert watch.state.shadowed == 3
    watch.shadowed(second, 1, 0)
    assert watch.state.shadowed == 3, "a ticket ends once"


def test_what_comes_late_from_another_point_is_judged_for_that_point() -> None:
    watch = watch_of(WatchSettings(share=1.0, raised_share=1.0))
    late = [watch.draw(f"late {k}", "drop-1") for k in range(300)]
    watch.choose_point("drop-0.5", reason="the operator")
    for ticket in late:
        assert ticket is not None
        watch.shadowed(ticket, 1, 0)
    chosen, broken = watch.decisions
    assert (chosen.kind, broken.kind) == ("operating-point", "fall-back")
    assert broken.before == broken.after == watch.point == "drop-0.5"
    assert "'drop-1'" in broken.reason


def test_coins_fall_at_the_share_of_the_moment() -> None:
    watch = watch_of(WatchSettings(share=0.05))
    drawn = sum(watch.draw(str(k), "drop-1") is not None for k in range(10_000))
    assert abs(drawn - 500) < 4 * math.sqrt(500)


def test_a_reset_to_the_traffic_does_not_warn_of_it_again() -> None:
    watch = watch_of()
    live(watch, 3000, differing=0.0, confidence=low)
    assert kinds(watch) == ["warning"]
    watch.reset(to_traffic=True, reason="the new cameras are in order")
    live(watch, 3000, differing=0.0, confidence=low, seed=3)
    assert kinds(watch) == ["warning", "reset"]
    watch.reset()
    live(watch, 300, differing=0.0, confidence=low, seed=4)
    assert kinds(watch) == ["warning", "reset", "reset", "warning"]


def test_false_alarms_keep_their_level() -> None:
    """Nothing shifts, the disagreement is that of the certify samples, everything is shadowed."""
    settings = WatchSettings(alpha=0.2, share=0.5)
    warned = fallen = 0
    streams = 40
    for seed in range(streams):
        watch = watch_of(settings, seed=seed)
        live(watch, 600, differing=0.02, seed=seed, batch=50)
        warned += "warning" in kinds(watch)
        fallen += "fall-back" in kinds(watch)
    assert max(warned, fallen) / streams <= 0.2 + 3 * math.sqrt(0.2 * 0.8 / streams)


def test_the_snapshot_is_plain_json() -> None:
    watch = watch_of()
    live(watch, 500, differing=0.02, confidence=low, labels=True)
    found = json.loads(json.dumps(watch.snapshot(), allow_nan=False))
    assert found["shift"]["evidence"] > found["shift"]["threshold"]
    assert len(found["shift"]["series"]["t"]) == len(found["shift"]["series"]["evidence"]) > 1
    assert found["shift"]["series"]["evidence"][-1] == found["shift"]["evidence"]
    assert found["decisions"][0]["from"] == "drop-1"
    watch.choose_point("reference")
    assert watch.snapshot()["agreement"] is None


def test_a_point_without_a_baseline_is_refused_in_a_sentence() -> None:
    bare = OperatingPoint(Policy.pair("tiny", "big", 0.5), 1.0, 0.05, 2.0, "MACs")
    with pytest.raises(PolicyError, match="search and build again"):
        watched_points([bare])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("alpha", 0),
        ("share", 1.6),
        ("raised_share", -0.1),
        ("margin", -1),
        ("raised_for", -1),
        ("seed", -1),
    ],
)
def test_wrong_settings_are_one_sentence(name: str, value: float) -> None:
    with pytest.raises(PolicyError, match=f"found.*{value:g}"):
        WatchSettings(**{name: value})  # type: ignore[arg-type]


def test_unknown_points_are_refused() -> None:
    watch = watch_of()
    for attempt in (watch.choose_point, lambda name: watch.reset(point=name)):
        with pytest.raises(PolicyError, match="did you mean 'drop-1'"):
            attempt("drop-11")


def test_a_baseline_of_the_search_is_watched() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.random((2, 3000))
    right = (rng.random((2, 3000)) < 0.9).astype(int)
    table = ScoreTable.from_predictions(
        {"tiny": (right[0], confidence[0]), "big": (right[1], confidence[1])},
        np.ones(3000, int),
        costs={"tiny": 1, "big": 9},
    )
    policy = Policy.pair("tiny", "big", 0.6)
    baseline = baseline_of(table, table, policy, reference="big")
    point = OperatingPoint(policy, 1.0, 0.05, 2.0, "MACs", None, baseline)
    watch = Watch.of([point], WatchSettings(), point="drop-1")
    watch.observe("drop-1", 0, rng.random(500).astype(np.float32))
    assert [shift.rows for shift in watch.state.shifts] == [500, 0]
    assert watch.decisions == ()
