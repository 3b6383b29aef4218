"""The four charts: their figures are those of the result and of `evaluate`; labels do not touch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tables import synthetic
from understudy import plots
from understudy.app.report import drawing
from understudy.chart_layout import LEADING, text_width
from understudy.deciles import difficulty, policy_by_tenth
from understudy.errors import TableError, UnderstudyError
from understudy.outcome import evaluate
from understudy.plots.pairs_chart import MOST_NAMED, MOST_WRITTEN
from understudy.plots.palette import Palette
from understudy.policy import Policy
from understudy.result import Result
from understudy.scores import ScoreTable
from understudy.searching.search import search, search_in_sample


@cache
def table() -> ScoreTable:
    return synthetic(4000)


@cache
def result() -> Result:
    return search(table(), max_drop=[1.0, 3.0], confidence="max_softmax")


@cache
def zoo(count: int, samples: int = 400) -> ScoreTable:
    """Many models of alike costs and accuracies, as in a real zoo."""
    rng = np.random.default_rng(1)
    hard = rng.random(samples)
    names = [f"model_{number}_of_a_zoo" for number in range(count)]
    answers = {
        name: (
            (hard < 0.6 + 0.3 * (number / count) ** 0.3 + 0.01 * rng.random()).astype(int),
            np.round(1 - hard + 0.1 * rng.standard_normal(samples), 2),
        )
        for number, name in enumerate(names)
    }
    costs = {name: 1e8 * 1.15**number for number, name in enumerate(names)}
    return ScoreTable.from_predictions(answers, np.ones(samples, int), costs={"MACs": costs})


def rows_of(chart: Any) -> list[dict[str, Any]]:
    """All rows that a chart carries."""
    return [row for rows in chart.to_dict()["datasets"].values() for row in rows]


def layers_of(spec: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The layers of one panel."""
    yield from spec.get("layer", [spec])


def boxes(spec: Mapping[str, Any], data: Mapping[str, Any]) -> list[tuple[float, ...]]:
    """The boxes of the labels of a panel, in its pixels, by its own scales."""
    texts = [one for one in layers_of(spec) if one["mark"]["type"] == "text"]
    found: list[tuple[float, ...]] = []
    for layer in texts[-1:]:
        x, y = layer["encoding"]["x"], layer["encoding"]["y"]

        def share(value: float, channel: Mapping[str, Any]) -> float:
            flat = np.log10 if channel["scale"]["type"] == "log" else float
            low, high = (flat(edge) for edge in channel["scale"]["domain"])
            return float((flat(value) - low) / (high - low))

        for row in data[layer["data"]["name"]]:
            at = spec["width"] * share(row[x["field"]], x)
            middle = spec["height"] * (1 - share(row[y["field"]], y))
            width = text_width(row["text"])
            left = at - width * {"left": 0.0, "center": 0.5, "right": 1.0}[row["align"]]
            half = LEADING / 2
            found.append((left, middle - half, left + width, middle + half))
    return found


def apart(found: list[tuple[float, ...]]) -> bool:
    return not any(
        a[0] < b[2] - 1e-6 and b[0] < a[2] - 1e-6 and a[1] < b[3] - 1e-6 and b[1] < a[3] - 1e-6
        for a, b in combinations(found, 2)
    )


def test_a_frontier_has_the_figures_of_its_result() -> None:
    found, rows = result(), rows_of(plots.frontier(result()))
    by_name = {row["name"]: row for row in rows if "name" in row}
    for one in found.singles:
        outcome = one.on[found.measured_on]
        row = by_name[one.name]
        assert (row["cost"], row["level"]) == (outcome.cost["MACs"], -outcome.drop)
        assert row["accuracy"] == outcome.accuracy
    assert by_name[found.reference]["kind"] == f"reference {found.reference}"
    for choice in found.choices:
        row, (low, high) = by_name[f"≤ {choice.max_drop:g}"], choice.outcome.drop_interval
        assert row["kind"] == "certified for a budget, 95 % interval, on test"
        assert (row["level"], row["low"], row["high"]) == (-choice.outcome.drop, -high, -low)
        assert row["saving"] == choice.outcome.saving["MACs"]
        assert row["budget"] == -choice.max_drop
    line = [row for row in rows if row.get("kind", "").startswith("Pareto")]
    expected = [(point.cost, -point.drop) for point in found.frontier]
    assert [(row["cost"], row["level"]) for row in line[: len(expected)]] == expected


def test_a_frontier_of_what_is_not_certified_says_so() -> None:
    kinds = {
        row.get("kind") for row in rows_of(plots.frontier(search_in_sample(table(), max_drop=1)))
    }
    assert "chosen for a budget, 95 % interval, in-sample" in kinds
    assert not any("certified" in (kind or "") for kind in kinds)


def test_agreement_ends_at_full_agreement() -> None:
    found = search(replace(table(), label=None), max_drop=3.0, confidence="max_softmax")
    chart = plots.frontier(found)
    rows = [row for row in rows_of(chart) if "level" in row and "kind" in row]
    assert max(row.get("high", row["level"]) for row in rows) <= 100
    assert f"agreement with {found.reference}, %" in str(chart.to_dict())


def test_the_reference_alone_is_no_certified_point() -> None:
    few = search(synthetic(60), max_drop=0.1, confidence="max_softmax")
    assert [choice.policy.exits for choice in few.choices] == [(few.reference,)]
    assert not any("low" in row for row in rows_of(plots.frontier(few)))


@pytest.mark.parametrize("dark", [False, True])
def test_labels_of_25_models_do_not_collide(dark: bool) -> None:
    found = search_in_sample(zoo(25), max_drop=[0.5, 1.0, 2.0])
    spec = plots.frontier(found, dark=dark).to_dict()
    assert spec["background"] == Palette.of(dark=dark).ground
    for panel in spec.get("vconcat", [spec]):
        labels = boxes(panel, spec["datasets"])
        assert len(labels) > 5
        assert apart(labels)


def test_all_pairs_save_what_their_policies_save() -> None:
    """Each cell is the saving of the cheapest pair of `search_pairs` on that table."""
    from understudy.searching.pairs import pair_curve

    tune = table().on("tune")
    rows = rows_of(plots.pairs(tune, max_drop=1.0))
    assert [(row["little"], row["big"]) for row in rows] == [
        ("net0", "net1"),
        ("net0", "net2"),
        ("net1", "net2"),
    ]
    for row in rows:
        curve = pair_curve(tune, row["little"], row["big"])
        policy = curve.policy(curve.cheapest_within(1.0))
        outcome = evaluate(tune, policy, reference=row["big"])
        assert row["saving"] == pytest.approx(100 * outcome.saving["MACs"])
        assert row["answered"] == pytest.approx(100 * outcome.shares.get(row["little"], 0.0))


@pytest.mark.parametrize(
    ("count", "named", "written"),
    [(MOST_WRITTEN, True, True), (MOST_NAMED, True, False), (MOST_NAMED + 1, False, False)],
)
def test_large_maps_have_fewer_words(count: int, named: bool, written: bool) -> None:
    spec = plots.pairs(zoo(count, 60), max_drop=1.0).to_dict()
    kinds = [layer["mark"]["type"] for layer in layers_of(spec)]
    assert ("text" in kinds) == written
    axis = spec["layer"][0]["encoding"]["x"]["axis"]
    assert axis["labels"] is named
    assert axis["labelAngle"] == (-45 if written else -90)
    assert spec["layer"][0]["mark"]["aria"] is named
    cell = spec["width"] / len(spec["layer"][0]["encoding"]["x"]["sort"])
    assert cell >= 11 or not named
    assert spec["width"] <= 800


def test_a_map_orders_models_by_cost() -> None:
    one = zoo(5)
    shuffled = one.only([one.names[row] for row in (3, 0, 4, 1, 2)])
    encoding = plots.pairs(shuffled, max_drop=1.0).to_dict()["layer"][0]["encoding"]
    assert encoding["x"]["sort"] == list(one.names[:-1])
    assert encoding["y"]["sort"] == list(one.names[:0:-1])


def test_a_map_of_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(TableError, match="4,000 of 4,000 samples have no label"):
        plots.pairs(replace(table(), label=None), max_drop=1.0)
    with pytest.raises(TableError, match=r"at most 400 models, this table has 401: choose some"):
        plots.pairs(zoo(401, 3), max_drop=1.0)
    with pytest.raises(TableError, match="pairs take two exits, found 'net0' alone"):
        plots.pairs(table().only(["net0"]), max_drop=1.0)


def test_deferral_has_the_accuracy_of_its_policies() -> None:
    tune = table().on("tune")
    rows = rows_of(plots.deferral(tune, little="net0", reference="net2"))
    curve = [row for row in rows if row.get("kind") == "max_softmax"]
    assert (curve[0]["deferred"], curve[-1]["deferred"]) == (0.0, 100.0)
    sure = np.unique(tune.scores("max_softmax")[0])
    for threshold in sure[:: len(sure) // 5]:
        outcome = evaluate(tune, Policy.pair("net0", "net2", float(threshold)), reference="net2")
        share = 100 * outcome.shares["net2"]
        near = min(curve, key=lambda row: abs(row["deferred"] - share))
        assert near["deferred"] == pytest.approx(share)
        assert near["accuracy"] == pytest.approx(100 * outcome.accuracy)
    ends = [row["accuracy"] for row in rows if row.get("kind") == "at random"]
    alone = [100 * evaluate(tune, Policy.single(name)).accuracy for name in ("net0", "net2")]
    assert ends == pytest.approx(alone)


def test_no_deferral_exceeds_the_oracle() -> None:
    rows = rows_of(plots.deferral(table(), little="net0", reference="net1"))
    oracle = [row for row in rows if row.get("kind") == "oracle"]
    xs, ys = ([row[key] for row in oracle] for key in ("deferred", "accuracy"))
    for row in rows:
        if row.get("kind") == "max_softmax":
            assert row["accuracy"] <= np.interp(row["deferred"], xs, ys) + 1e-9
    right = table().right("net1")
    assert max(ys) == pytest.approx(100 * (right[0] | right[1]).mean())


def test_an_exit_does_not_defer_to_itself() -> None:
    with pytest.raises(TableError, match="an exit defers to another, found 'net1' twice"):
        plots.deferral(table(), little="net1", reference="net1")


def test_difficulty_has_the_accuracies_of_its_tenths() -> None:
    found = difficulty(table(), reference="net2")
    policy = Policy.pair("net0", "net2", 0.6)
    cascade = policy_by_tenth(table(), policy, little=found.little, reference="net2")
    rows = rows_of(plots.difficulty(found, cascades={"cascade": cascade}))
    for name in table().names:
        values = [row["accuracy"] for row in rows if row.get("name") == name]
        assert values == [100 * one.accuracy[name] for one in found.by_confidence]
    values = [row["accuracy"] for row in rows if row.get("name") == "cascade"]
    assert values == [100 * value for value in cascade]
    assert np.mean(values) == pytest.approx(100 * evaluate(table(), policy).accuracy)


def test_lines_of_many_exits_are_named_apart() -> None:
    found = difficulty(zoo(25))
    spec = plots.difficulty(found, named=[zoo(25).names[7]]).to_dict()
    texts = [row["text"] for row in rows_of(plots.difficulty(found)) if "text" in row]
    assert 4 <= len(set(texts)) <= 8
    assert {found.little, found.reference} <= set(texts)
    labels = boxes(spec, spec["datasets"])
    assert len(labels) == 3
    assert apart(labels)


def test_colours_are_those_of_the_report() -> None:
    css = (Path(drawing.__file__).parent / "page.css").read_text(encoding="utf-8")
    report = {n: both for n, *both in re.findall(r"--(\w+): light-dark\((#\w+), (#\w+)\)", css)}
    for dark in (False, True):
        palette = Palette.of(dark=dark)
        assert palette.ground == report["card"][dark]
        for name in ("ink", "soft", "grid", "axis", "faint", "best", "plan", "single", "budget"):
            assert getattr(palette, name) == report[name][dark]
        assert len({*palette.series}) == 8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ending", "head"), [("svg", b"<svg"), ("png", b"\x89PNG\r\n\x1a\n"), ("pdf", b"%PDF-")]
)
def test_charts_are_written(ending: str, head: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"figure.{ending}"
    size = plots.write_chart(plots.deferral(table().on("tune"), little="net0"), path)
    page = path.read_bytes()
    assert page.startswith(head)
    assert size == len(page) > 5000
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_other_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnderstudyError, match=r"\.svg, \.png or \.pdf, found the path .*gif'"):
        plots.write_chart(plots.deferral(table()), tmp_path / "figure.gif")
    assert not list(tmp_path.iterdir())
