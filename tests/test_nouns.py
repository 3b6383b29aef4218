"""Every noun that a user meets: short reprs, tables in notebooks, data frames, copies."""

from __future__ import annotations

import copy
import json
import pickle
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cache
from html.parser import HTMLParser
from types import ModuleType
from typing import Any

import joblib
import numpy as np
import polars as pl
import pytest

from understudy.deciles import difficulty
from understudy.errors import UnderstudyError
from understudy.exit import Exit, LazyDetails
from understudy.operating_point import operating_points_of
from understudy.outcome import class_gaps, decide, evaluate
from understudy.policy import Policy, PolicyStage
from understudy.result import Result
from understudy.scores import ScoreTable
from understudy.searching.best_savers import best_savers
from understudy.searching.labels_needed import labels_needed
from understudy.searching.optimism import optimism
from understudy.searching.pairs import pair_curve, search_pairs
from understudy.searching.policy_sequences import pair_sequence
from understudy.searching.search import search
from understudy.searching.verify import verify
from understudy.split import SHARES_OF_MANY
from understudy.tabular import Tabular

EXITS, CLASSES, SAMPLES = 50, 1000, 2000
NAMES = tuple(f"<model {number} {'of a long name ' * 12}>" for number in range(EXITS))


@cache
def table() -> ScoreTable:
    """50 exits of long names, 1,000 classes, two units; the last exits are the best ones."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, CLASSES, SAMPLES)
    hard = rng.random(SAMPLES)
    skill = np.linspace(0.5, 0.9, EXITS)
    answers = np.where(hard < skill[:, None], label, (label + 1) % CLASSES)
    sure = np.clip(1 - hard + 0.1 * rng.standard_normal((EXITS, SAMPLES)), 0, 1)
    costs = dict(zip(NAMES, 1.5 ** np.arange(EXITS), strict=True))
    made = ScoreTable.from_predictions(
        dict(zip(NAMES, zip(answers, sure, strict=True), strict=True)),
        label,
        costs={"MACs": costs, "a unit of a long name": costs},
        split=SHARES_OF_MANY,
        provenance={"data": "x" * 10_000, "runs": [{"spec": "y" * 1000}] * 50},
    )
    return made.with_classes([f"class {number}" for number in range(CLASSES)])


@cache
def result() -> Result:
    few = table().only([*NAMES[::5], NAMES[-1]])
    return search(few, max_drop=[1.0, 2.0, 5.0, 10.0, 20.0], confidence="max_softmax")


LONG_POLICY = Policy(
    (*(PolicyStage(name, 0.1 + 0.2) for name in NAMES[:-1]), PolicyStage(NAMES[-1]))
)
PAIR = Policy.pair(NAMES[0], NAMES[-1], 0.5)

NOUNS: dict[str, Callable[[], Any]] = {
    "ScoreTable": table,
    "ScoreTable without labels": lambda: replace(table(), label=None),
    "Exit": lambda: Exit(NAMES[0], NAMES, {"spec": "z" * 5000}),
    "LazyDetails": lambda: LazyDetails.of({}, ()),
    "Policy": lambda: LONG_POLICY,
    "Decisions": lambda: decide(table(), LONG_POLICY),
    "Outcome": lambda: evaluate(table(), LONG_POLICY),
    "ClassGap": lambda: class_gaps(table(), table(), PAIR, reference=NAMES[-1])[0],
    "Frontier": lambda: search_pairs(table().only([*NAMES[:5], NAMES[-1]])),
    "Difficulty": lambda: difficulty(table()),
    "Result": result,
    "Certificate": lambda: result().choice(5.0).certificate,
    "operating points": lambda: operating_points_of(result())[-1],
    "PairCurve": lambda: pair_curve(
        table(), NAMES[0], NAMES[-1], confidence="max_softmax", unit="MACs"
    ),
    "PolicySequence": lambda: pair_sequence(
        pair_curve(table(), NAMES[0], NAMES[-1], confidence="max_softmax", unit="MACs")
    ),
    "Savers": lambda: best_savers(table().only([*NAMES[:4], NAMES[-1]]), [1.0, 5.0]),
    "LabelsNeeded": lambda: labels_needed(
        replace(table().only([NAMES[0], NAMES[-1]]), label=None),
        max_drop=1.0,
        confidence="max_softmax",
    ),
    "Optimism": lambda: optimism(
        table().only([NAMES[0], NAMES[-1]]), max_drop=5.0, confidence="max_softmax", resamples=2
    ),
    "Check": lambda: verify(result(), table().only([*NAMES[::5], NAMES[-1]]))[0],
}


@cache
def built(name: str) -> Any:
    return NOUNS[name]()


def parts(value: Any, depth: int = 6) -> Iterator[Any]:
    """A value and all nouns that its fields hold, a few of each collection."""
    if is_dataclass(value):
        yield value
        if depth:
            for one in fields(value):
                yield from parts(getattr(value, one.name), depth - 1)
    elif isinstance(value, Mapping):
        for key in list(value)[:3]:
            yield from parts(value[key], depth)
    elif isinstance(value, tuple | list):
        for entry in [*value[:2], *value[-1:]]:
            yield from parts(entry, depth)


@pytest.mark.parametrize("name", NOUNS)
def test_reprs_are_short(name: str) -> None:
    noun = built(name)
    assert len(repr(noun)) <= 700
    lengths = [len(repr(part)) for part in parts(noun)]
    assert all(length <= 700 for length in lengths)
    assert sorted(lengths or [0])[len(lengths) // 2] <= 300


def test_small_nouns_are_shown_whole() -> None:
    stage = PolicyStage("tiny", 0.30000000000000004)
    assert eval(repr(stage)) == stage
    assert eval(repr(Policy((stage, PolicyStage("big"))))) == Policy((stage, PolicyStage("big")))


class _Tags(HTMLParser):
    """The tags of a page, the closed ones counted down, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: Counter[str] = Counter()
        self.seen: set[str] = set()
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[tag] += 1
        self.seen.add(tag)
        assert {name for name, _ in attrs} <= {"style"}
        assert not any("color" in (value or "") or "url" in (value or "") for _, value in attrs)

    def handle_endtag(self, tag: str) -> None:
        self.open[tag] -= 1

    def handle_data(self, data: str) -> None:
        self.words.append(data)


TABULAR = [name for name in NOUNS if isinstance(built(name), Tabular)]
VIEWS = [*TABULAR, "Certificate"]


def test_what_prints_a_table_is_tabular() -> None:
    assert {"ScoreTable", "Outcome", "Frontier", "Difficulty", "Result", "Savers", "Optimism"} <= {
        *TABULAR
    }


@pytest.mark.parametrize("name", VIEWS)
def test_notebooks_show_tables(name: str) -> None:
    """Names are escaped, and nothing but tables and paragraphs without colours is there."""
    page = built(name)._repr_html_()
    tags = _Tags(page)
    assert tags.seen <= {"div", "table", "thead", "tbody", "tr", "th", "td", "p", "b"}
    assert "table" in tags.seen
    assert not +tags.open
    assert "<model" not in page
    assert len(page) < 150_000


def test_a_certificate_shows_what_it_proves() -> None:
    proof = result().choice(5.0).certificate
    assert proof is not None
    words = " ".join(_Tags(proof._repr_html_()).words)
    assert not proof.falls_back
    for figure in ("≤ 5", f"{proof.samples:,}", f"{proof.losses:,}, {proof.gains:,}"):
        assert figure in words
    assert proof.words() in words
    alone = replace(proof, path=(), policy=Policy.single(proof.reference), p_value=None)
    assert "Nothing cheaper" in alone._repr_html_()
    assert "≤ 5" not in alone._repr_html_()


@pytest.mark.parametrize("name", TABULAR)
def test_rows_are_data_frames(name: str) -> None:
    noun = built(name)
    frame = pl.DataFrame(noun)  # by the Arrow PyCapsule interface
    assert frame.equals(noun.to_polars())
    assert frame.columns == list(noun.columns())
    assert len(frame) == len(next(iter(noun.columns().values()))) > 0


def test_rows_have_the_figures() -> None:
    rows = result().to_polars()
    choice = result().choice(5.0)
    row = rows.row(by_predicate=pl.col("max_drop") == 5.0, named=True)
    assert row["saving MACs"] == choice.outcome.saving["MACs"]
    assert (row["drop_low"], row["drop_high"]) == choice.outcome.drop_interval
    assert row["policy"] == choice.policy.describe()
    assert row["certified"] is True
    exits = table().to_polars()
    assert exits["exit"].to_list() == list(NAMES)
    assert exits["cost MACs"].to_list() == table().exit_costs("MACs").tolist()
    assert exits["accuracy"][-1] == evaluate(table(), Policy.single(NAMES[-1])).accuracy
    assert table().rows(slice(0, 9)).to_polars()["accuracy"].null_count() == 0
    assert replace(table(), label=None).to_polars()["accuracy"][0] is None


def test_pandas_gets_the_same_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    stub = ModuleType("pandas")
    stub.DataFrame = dict  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pandas", stub)
    assert result().to_pandas() == result().columns()
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UnderstudyError, match=r"needs pandas, .*: pip install pandas, or use"):
        result().to_pandas()


def same(noun: Any, other: Any) -> bool:
    if isinstance(noun, ScoreTable):
        return bool(noun.hash == other.hash and noun.provenance == other.provenance)
    if hasattr(noun, "to_dict"):
        return json.dumps(plain_of(noun)) == json.dumps(plain_of(other))
    return repr(noun) == repr(other)


def plain_of(noun: Any) -> Any:
    try:
        return noun.to_dict()
    except TypeError:  # a saver's needs its unit
        return noun.to_dict("MACs")


@pytest.mark.parametrize("name", NOUNS)
def test_copies_are_the_same(name: str) -> None:
    """Ray, Optuna and joblib pickle what they pass on."""
    noun = built(name)
    pickled = pickle.loads(pickle.dumps(noun))  # noqa: S301
    for other in (pickled, copy.deepcopy(noun), copy.copy(noun)):
        assert type(other) is type(noun)
        assert same(noun, other)


@pytest.mark.slow
def test_joblib_hands_them_to_other_processes() -> None:
    jobs = (joblib.delayed(repr)(noun) for noun in (table(), result()))
    assert joblib.Parallel(n_jobs=2)(jobs) == [repr(table()), repr(result())]
