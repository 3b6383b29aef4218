"""Benchmarks of cascades: contestants and their rows, ratios of rounds, verdicts; not the times."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from understudy import Cascade, Policy
from understudy.app.bench import FEW, ROUNDS, bench
from understudy.app.bench_result import (
    EXECUTOR,
    IDEAL,
    LARGE,
    LITTLE,
    NAIVE,
    Bench,
    ClientLoad,
)
from understudy.app.cli.bench import bench_view
from understudy.display import plain
from understudy.ensemble import Ensemble
from understudy.errors import DataError
from understudy.files import write_json
from understudy.operating_point import OperatingPoint


def pair() -> tuple[Cascade, torch.Tensor]:
    """A cascade of two random models, and rows for it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tiny, big = nn.Linear(4, 3), nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        rows = torch.randn(300, 4)
    return Cascade({"tiny": tiny, "big": big}, Policy.pair("tiny", "big", 0.5)), rows


def seconds(**by_name: float) -> dict[str, tuple[float, ...]]:
    """Two rounds per contestant: these seconds, and three times as many."""
    names = {"large": LARGE, "little": LITTLE, "naive": NAIVE, "executor": EXECUTOR, "ideal": IDEAL}
    return {full: (by_name[short], 3 * by_name[short]) for short, full in names.items()}


def test_all_contestants_run_on_the_same_images(tmp_path: Path) -> None:
    cascade, rows = pair()
    deferred = cascade.answer(rows).exit_names().count("big")
    assert 0 < deferred < 300
    progress: list[tuple[str, int, int]] = []
    found = bench(
        cascade, rows, batch=32, rounds=2, clients=5, on_progress=lambda *now: progress.append(now)
    )
    assert found.reached == {"tiny": 300, "big": deferred}
    assert {len(times) for times in found.seconds.values()} == {2}
    assert set(found.seconds) == {LARGE, LITTLE, NAIVE, EXECUTOR, IDEAL}
    assert set(found.online) == {LARGE, EXECUTOR}
    assert all(clients.requests == 300 for clients in found.online.values())
    assert all(list(clients.ms) == ["p50", "p95", "p99"] for clients in found.online.values())
    assert progress[-1][1:] == (16, 16)
    assert found.accuracy == {}
    write_json(tmp_path / "bench.json", found.to_dict())
    assert Bench.load(tmp_path / "bench.json") == found
    assert cascade.policy == Policy.pair("tiny", "big", 0.5)


def test_images_in_a_list() -> None:
    cascade, _ = pair()
    images = [torch.rand(4) for _ in range(10)]
    found = bench(cascade, images, batch=4, rounds=1)
    assert found.reached["tiny"] == 10


def test_ratios_are_medians_over_rounds() -> None:
    found = Bench(100, 10, seconds(large=4, little=1, naive=3, executor=2.5, ideal=2), {}, "big")
    assert found.rate(LARGE) == pytest.approx(100 / 8)
    assert found.speedup == pytest.approx(1.6)
    assert found.of_ideal == pytest.approx(0.8)
    assert found.verdict == (
        "The cascade answers 1.60 × as many images per second as big alone. Its stages by "
        "themselves, in full batches, could answer 2.00 × as many as big: 80 % of that is reached."
    )


TIMES = st.floats(0.01, 100)


@given(st.lists(st.tuples(TIMES, TIMES, TIMES, TIMES, TIMES), min_size=1, max_size=6))
def test_rates_ratios_and_verdict_agree(rounds: list[tuple[float, ...]]) -> None:
    names = (LARGE, LITTLE, NAIVE, EXECUTOR, IDEAL)
    times = {name: tuple(row[place] for row in rounds) for place, name in enumerate(names)}
    found = Bench(100, 10, times, {"tiny": 100, "big": 3}, "big")
    for one, other in product(names, names):
        assert found.ratio(one, other) == pytest.approx(found.rate(one) / found.rate(other))
        assert found.ratio(one, other) == pytest.approx(1 / found.ratio(other, one))
    assert found.speedup == pytest.approx(found.ratio(EXECUTOR, LARGE))
    if "does not pay" in found.verdict:
        assert found.rate(LARGE) >= found.rate(EXECUTOR)
    if " noise " not in found.verdict:
        ratio = f"{max(found.speedup, 1 / found.speedup):.2f} × as many images per second"
        assert ratio in found.verdict


def test_a_difference_within_the_noise_is_none() -> None:
    times = seconds(large=2, little=1, naive=3, executor=2, ideal=1)
    times[EXECUTOR] = (1.9, 6.6)
    assert Bench(8, 4, times, {"tiny": 8, "big": 2}, "big").verdict.startswith(
        "The cascade is as fast as big alone, within the noise of these rounds (0.91 × to 1.05 ×"
    )


def test_rounds_end_where_they_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    cascade, rows = pair()
    assert len(bench(cascade, rows, batch=32).seconds[LARGE]) == ROUNDS
    monkeypatch.setattr("understudy.app.bench.SECONDS", 0.0)
    assert len(bench(cascade, rows, batch=32).seconds[LARGE]) == FEW
    assert len(bench(cascade, rows, batch=32, rounds=4).seconds[LARGE]) == 4


def test_a_cascade_that_is_slower_than_its_large_model() -> None:
    found = Bench(100, 10, seconds(large=2, little=1, naive=3, executor=2.5, ideal=2.4), {}, "big")
    assert found.verdict.startswith("The cascade does not pay in time: use big alone")
    assert "Search with --unit ms@10" in found.verdict
    late = Bench(100, 10, seconds(large=2, little=1, naive=3, executor=2.5, ideal=1.5), {}, "big")
    assert "does not pay in time" in late.verdict
    assert "--unit" not in late.verdict


def test_accuracies_of_the_same_images() -> None:
    cascade, rows = pair()
    labels = cascade.answer(rows).prediction
    with torch.inference_mode():
        predictions = {
            name: stage(rows).argmax(1).numpy() for name, stage in cascade.stages.items()
        }
    found = bench(cascade, rows, batch=32, rounds=1, labels=labels)
    assert found.accuracy == {
        LARGE: (predictions["big"] == labels).mean(),
        LITTLE: (predictions["tiny"] == labels).mean(),
        EXECUTOR: 1.0,
    }
    assert 0 < found.accuracy[LITTLE] < 1


def test_a_first_stage_that_is_as_good_is_named() -> None:
    times = seconds(large=4, little=1, naive=3, executor=2.5, ideal=2)
    accuracy = {LARGE: 0.9, LITTLE: 0.875, EXECUTOR: 0.875}
    found = Bench(8, 4, times, {"tiny": 8, "big": 2}, "big", accuracy=accuracy)
    assert found.verdict.endswith(
        "On these images tiny alone is as accurate (87.50 %, the cascade 87.50 %) and answers "
        "2.50 × as many: use it."
    )
    better = Bench(8, 4, times, {"tiny": 8}, "big", accuracy={**accuracy, EXECUTOR: 0.88})
    assert "use it" not in better.verdict


def test_a_policy_of_one_stage_is_not_compared_with_itself() -> None:
    times = seconds(large=2, little=2, naive=3, executor=2.5, ideal=2)
    accuracy = dict.fromkeys((LARGE, LITTLE, EXECUTOR), 0.9)
    found = Bench(8, 4, times, {"big": 8}, "big", accuracy=accuracy)
    assert found.verdict.startswith("This cascade is big alone, so there is no time to be saved")


def test_a_single_stage_is_timed_once() -> None:
    cascade, rows = pair()
    alone = Cascade({"big": cascade.stages["big"]}, Policy.single("big"))
    labels = alone.answer(rows).prediction
    found = bench(alone, rows, batch=32, rounds=1, clients=3, labels=labels)
    assert set(found.seconds) == {LARGE, EXECUTOR, IDEAL}
    assert set(found.accuracy) == {LARGE, EXECUTOR}
    assert found.one_stage
    assert found.online_words == ""


@pytest.mark.parametrize("policy", [Policy.pair("tiny", "both", 0.5), Policy.single("tiny")])
def test_the_large_model_is_the_reference_of_the_search(policy: Policy) -> None:
    """A last stage that is an ensemble is dearer than the reference, and no model to compare with;
    nor is a single cheap stage."""
    two, rows = pair()
    models: dict[str, nn.Module | Ensemble] = {
        **two.stages,
        "both": Ensemble(("tiny", "big"), (1.0, 1.0)),
    }
    cascade = Cascade(
        models,
        policy,
        operating_points=[OperatingPoint(Policy.single("big"), 0.0, 0.0, 9.0, "MACs")],
    )
    labels = two.stages["big"](rows).argmax(1).numpy()
    found = bench(cascade, rows, batch=32, rounds=1, clients=3, labels=labels)
    assert found.large == "big"
    assert found.accuracy[LARGE] == 1
    assert "big alone" in found.verdict
    assert not found.one_stage


def test_an_ideal_that_was_slower_is_noise() -> None:
    times = seconds(large=4, little=1, naive=3, executor=2, ideal=2.5)
    assert Bench(100, 10, times, {"tiny": 100, "big": 9}, "big").verdict.endswith(
        "Its stages by themselves, in full batches, were timed at 1.60 × as many as big, fewer "
        "than the cascade: the difference is noise, and all that they could is reached."
    )


@pytest.mark.parametrize("width", [60, 80])
def test_the_view_is_in_the_style_of_all_others(width: int) -> None:
    times = seconds(large=4, little=1, naive=3, executor=2.5, ideal=2)
    ms = {"p50": 1.0, "p95": 2.0, "p99": 3.25}
    online = {name: ClientLoad(64, 100, (2.0, 3.0), ms) for name in (LARGE, EXECUTOR)}
    right = {LARGE: 0.9, LITTLE: 0.875, EXECUTOR: 0.875}
    found = Bench(
        *(2000, 256, times, {"tiny": 2000, "big": 200}, "big", online, (1.0, 1.5)),
        accuracy=right,
        memory={LARGE: 2**30, EXECUTOR: 2**31},
    )
    text = plain(bench_view(found), width=width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    words = " ".join(text.split())
    assert "With 64 clients the cascade reaches 50 % of what its stages by themselves" in words
    assert found.verdict in words
    at = next(n for n, line in enumerate(lines) if line.startswith("  The cascade answers"))
    assert all(line.startswith("  ") for line in lines[at:] if line)
    assert not any(line.endswith(("1.60", "2.50", "80")) for line in lines[at:])
    assert "─" in text


def test_the_rate_of_clients() -> None:
    assert ClientLoad(4, 100, (2.0, 1.0, 4.0), {}).rate == 50


def test_a_file_that_is_no_benchmark(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    for data, message in (
        ({"format": "understudy.policy"}, "is no understudy.bench file"),
        ({"format": "understudy.bench", "version": 9}, "upgrade understudy"),
        ({"format": "understudy.bench", "version": 1}, "is damaged"),
    ):
        write_json(file, data)
        with pytest.raises(DataError, match=message):
            Bench.load(file)


@pytest.mark.parametrize(
    "wrong", [{"rounds": 0}, {"batch": 0}, {"clients": -1}, {"images": torch.zeros(0, 4)}]
)
def test_invalid_options(wrong: dict[str, Any]) -> None:
    cascade, rows = pair()
    options: dict[str, Any] = {"images": rows, **wrong}
    with pytest.raises(DataError, match="a benchmark has images"):
        bench(cascade, **options)
