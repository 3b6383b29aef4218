"""The default search over all families of plans: what it uses, leaves out, proves and verifies."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from fakes import scored
from tables import pair_table, synthetic
from understudy.deferral import scores_of
from understudy.ensemble import ensemble_of
from understudy.errors import PolicyError
from understudy.exit import LazyDetails
from understudy.outcome import evaluate
from understudy.policy import Policy
from understudy.result import Result
from understudy.scores import ScoreTable
from understudy.searching.certify import certify
from understudy.searching.fitted_exits import fitted_ensembles, with_fitted
from understudy.searching.search import search, search_jointly, search_within_cost
from understudy.searching.search_data import FAMILIES, SearchData, SearchOptions
from understudy.searching.verify import verify

DROPS = [-2.0, 0.0, 1.0, 8.0, 25.0]


@cache
def zoo(count: int = 2000) -> ScoreTable:
    """Three models on four classes, with kept logits: all families have something to find."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 4, count)
    rows = {
        name: rng.normal(size=(count, 4)) + skill * np.eye(4)[label]
        for name, skill in (("tiny", 1.2), ("mid", 1.6), ("big", 2.0))
    }
    return scored(rows, label)


@cache
def searched(*without: str) -> Result:
    return search(zoo(), max_drop=DROPS, without=without)


def used(result: Result) -> set[str]:
    return {name for choice in result.choices for name in choice.policy.exits}


def test_by_default_all_families_are_searched() -> None:
    result = searched()
    assert any("+" in name for name in used(result))
    assert max(len(choice.policy.stages) for choice in result.choices) > 2
    confidences = {s.confidence for one in result.choices for s in one.policy.stages[:-1]}
    assert confidences == {"deferral"}
    assert result.reference == "big"
    costs = [choice.on["tune"].cost["MACs"] for choice in result.choices]
    assert costs == sorted(costs, reverse=True)


def test_an_ensemble_comes_with_what_makes_it() -> None:
    """The exits alone have its origin, from which a cascade is built."""
    result = searched()
    singles = {single.name: single for single in result.singles}
    ensembles = {name: ensemble_of(single.origin) for name, single in singles.items()}
    for name in used(result) - set(zoo().names):
        ensemble = ensembles[name]
        assert ensemble is not None
        assert ensemble.name == name
        assert set(ensemble.exits) <= set(zoo().names)
        assert set(singles[name].on) == {"tune", "certify"}
    deferring = {stage.exit for one in result.choices for stage in one.policy.stages[:-1]}
    assert deferring <= set(result.table["provenance"]["deferral"])
    assert Result.from_dict(result.to_dict()) == result


@pytest.mark.parametrize("without", [(), *((name,) for name in FAMILIES), FAMILIES])
def test_a_family_is_left_out_and_the_rest_verified(without: tuple[str, ...]) -> None:
    """Also where a path leads through an ensemble to an exit alone."""
    result = searched(*without)
    assert [check for check in verify(result, zoo()) if not check.holds] == []
    policies = [p for one in result.choices if one.certificate for p in one.certificate.path]
    assert policies
    stages = [stage for policy in policies for stage in policy.stages[:-1]]
    exits = {name for policy in policies for name in policy.exits}
    assert ({stage.confidence for stage in stages} == {"max_softmax"}) is ("learned" in without)
    assert any("+" in name for name in exits) is ("ensembles" not in without)
    assert any(len(policy.stages) > 2 for policy in policies) is ("chains" not in without)
    assert result.arguments["without"] == list(without)


def test_at_most_so_many_stages() -> None:
    two = search(zoo(), max_drop=DROPS, at_most_stages=2)
    assert [one.policy for one in two.choices] == [one.policy for one in searched("chains").choices]
    with pytest.raises(PolicyError, match="at least two stages, found 1"):
        search(zoo(), max_drop=1.0, at_most_stages=1)


def test_an_unknown_family_is_one_sentence() -> None:
    for find in (search, search_jointly):
        with pytest.raises(PolicyError, match="no family of policies 'chain'; did you mean"):
            find(zoo(), max_drop=[1.0], without=["chain"])
    with pytest.raises(PolicyError, match="there are: 'learned', 'ensembles', 'chains'"):
        search_within_cost(zoo(), max_cost=5.0, without=["everything"])


def test_within_a_cost_all_families_are_searched() -> None:
    result = search_within_cost(zoo(), max_cost=60.0)
    assert [check for check in verify(result, zoo()) if not check.holds] == []
    choice = result.choice()
    assert choice.on["tune"].cost["MACs"] <= 60.0
    assert choice.max_drop < 0  # an ensemble is better than the reference
    plain = search_within_cost(zoo(), max_cost=60.0, without=FAMILIES).choice()
    assert choice.on["tune"].drop < plain.on["tune"].drop


# -- budgets at and below zero --------------------------------------------------------------------


def better_on_easy(count: int, *, seed: int) -> ScoreTable:
    """The large model errs on 4 % of the easy half, the little one on the hard half."""
    rng = np.random.default_rng(seed)
    sure = rng.random(count)
    easy = sure > 0.5
    little = rng.random(count) < np.where(easy, 0.998, 0.6)
    big = rng.random(count) < np.where(easy, 0.96, 0.95)
    return pair_table(little, big, sure, split=None)


@pytest.mark.parametrize("without", [(), ("learned",)])
def test_better_than_the_reference_can_be_proved(without: tuple[str, ...]) -> None:
    table = better_on_easy(4000, seed=0)
    result = search(table, max_drop=[-0.5, 0.0], without=without)
    for choice in result.choices:
        certificate = choice.certificate
        assert certificate is not None
        assert not certificate.falls_back
        assert choice.policy.exits == ("tiny", "big")
        assert choice.outcome.saving["MACs"] > 0.2
        assert choice.outcome.drop < choice.max_drop
        fresh = better_on_easy(20_000, seed=1)
        fresh = with_fitted(fresh, scores=scores_of(result.table["provenance"]), ensembles={})
        assert evaluate(fresh, choice.policy, reference="big").drop < choice.max_drop
    assert all(check.holds for check in verify(result, table))


def test_what_is_not_better_is_not_proved_to_be() -> None:
    result = search(synthetic(3000, exits=2), max_drop=-5.0, confidence="max_softmax")
    assert result.choice().policy == Policy.single("net1")


# -- the guarantee, by simulation -----------------------------------------------------------------

BUDGETS = (-0.5, 0.0, 0.5, 2.0)
DRAWS = 2000


def tied_models(count: int = 1500) -> ScoreTable:
    """Logits of few levels, three classes; the large model errs where the little one is sure."""
    rng = np.random.default_rng(5)
    label = rng.integers(0, 3, count)
    truth = np.eye(3)[label]
    rows = {
        name: rng.normal(size=(count, 3)) + skill * truth
        for name, skill in (("tiny", 1.5), ("mid", 1.9), ("big", 2.6))
    }
    odd = (rows["tiny"].max(1) > 3) & (rng.random(count) < 0.2)
    rows["big"][odd] = -2 * truth[odd]
    return scored({name: np.round(2 * values) / 2 for name, values in rows.items()}, label)


POPULATIONS = {"smooth": zoo, "tied": tied_models}


def drawn_from(population: ScoreTable, rows: np.ndarray) -> ScoreTable:
    """These samples under new ids, a fifth of them tune and the rest certify."""
    assert population.label is not None
    return replace(
        population,
        prediction=population.prediction[:, rows],
        confidence={name: values[:, rows] for name, values in population.confidence.items()},
        label=population.label[rows],
        ids=np.arange(len(rows)).astype(object),
        split=(np.arange(len(rows)) >= len(rows) // 5).astype(int),
        details=LazyDetails.of(population.details).rows(rows),
    )


def broken_budgets(
    population: ScoreTable, *, samples: int, draws: int, without: tuple[str, ...], delta: float
) -> np.ndarray:
    """The share of draws, by budget, in which the certified policy's drop on the whole population
    exceeds the budget, and the share in which something is certified."""
    rng = np.random.default_rng(11)
    options = SearchOptions("big", "MACs", without=without)
    counts = np.zeros((2, len(BUDGETS)))
    for _ in range(draws):
        drawn = drawn_from(population, rng.integers(0, len(population), samples))
        data = SearchData.of(drawn, BUDGETS, delta=delta, options=options)
        data, sequences, _ = data.chosen()
        certify_on, scores = data.splits["certify"], data.scores
        for number, (budget, sequence) in enumerate(zip(BUDGETS, sequences, strict=True)):
            policy = certify(
                sequence, certify_on, reference="big", max_drop=budget, delta=delta
            ).policy
            ensembles = fitted_ensembles(data.searched, [policy])
            everywhere = with_fitted(population, scores=scores, ensembles=ensembles)
            drop = evaluate(everywhere, policy, reference="big").drop
            if policy != Policy.single("big"):
                counts[:, number] += drop > budget + 1e-9, 1
    return counts / draws


@pytest.mark.parametrize("population", POPULATIONS)
def test_the_guarantee_is_kept_at_a_large_level(population: str) -> None:
    broken, proved = broken_budgets(
        POPULATIONS[population](), samples=300, draws=15, without=(), delta=0.2
    )
    assert (broken <= 0.2 + 3 * math.sqrt(0.2 * 0.8 / 15)).all()
    assert proved[-1] > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("without", [(), *((name,) for name in FAMILIES)])
def test_the_guarantee_is_kept_in_many_draws(without: tuple[str, ...]) -> None:
    """2,000 draws, a quarter of them of each population and size."""
    found = {
        (name, samples): broken_budgets(
            population(), samples=samples, draws=DRAWS // 4, without=without, delta=0.05
        )
        for name, population in POPULATIONS.items()
        for samples in (300, 1000)
    }
    broken = np.array([one[0] for one in found.values()])
    assert (broken <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / (DRAWS // 4))).all(), found
    assert (broken.mean(0) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / DRAWS)).all(), found
    assert all(proved[-1] > 0.5 for _, proved in found.values()), found
