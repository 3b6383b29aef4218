"""What a pair saves, as the judge of epochs sees it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from understudy.outcome import evaluate
from understudy.policy import Policy
from understudy.scores import ScoreTable
from understudy.searching.search import search
from understudy.training.pair_saving import LARGE, LITTLE, PairSaving
from understudy.training.targets import Targets

COSTS = (1.0, 10.0)
ALL = 1 - COSTS[0] / COSTS[1]  # where the little model answers everything


def logits(labels: Tensor, classes: int, strength: float, seed: int) -> Tensor:
    """Noise, and the right class raised."""
    found = torch.randn(len(labels), classes, generator=torch.Generator().manual_seed(seed))
    found[torch.arange(len(labels)), labels] += strength
    return 2 * found


def pair(samples: int, classes: int, little: float, large: float) -> tuple[Tensor, Tensor, Tensor]:
    """The logits of both models, and labels."""
    labels = torch.randint(0, classes, (samples,), generator=torch.Generator().manual_seed(0))
    return logits(labels, classes, little, 1), logits(labels, classes, large, 2), labels


def table_of(little: Tensor, large: Tensor, labels: Tensor) -> ScoreTable:
    return ScoreTable.from_logits(
        {LITTLE: little.numpy(), LARGE: large.numpy()},
        labels.numpy(),
        costs={LITTLE: COSTS[0], LARGE: COSTS[1]},
        split=["tune"] * len(labels),
    )


@pytest.mark.parametrize(
    ("samples", "classes", "little", "large", "max_drop"),
    [
        (1000, 10, 2.0, 4.0, 1.0),
        (1000, 10, 3.0, 4.0, 0.5),
        (1000, 10, 0.0, 4.0, 1.0),
        (600, 100, 3.0, 3.5, 2.0),
        (500, 2, 1.0, 2.0, 0.0),
    ],
)
def test_a_draw_saves_what_a_search_on_it_finds(
    samples: int, classes: int, little: float, large: float, max_drop: float
) -> None:
    """The whole search, which measures its policy by `evaluate`."""
    table = table_of(*pair(samples, classes, little, large))
    judge = PairSaving(COSTS, max_drop, samples=4000)
    for number in range(2):
        drawn = judge.drawn(table, number)
        assert {name: len(drawn.on(name)) for name in drawn.splits} == {
            "tune": 1000, "certify": 3000,
        }  # fmt: skip
        result = search(
            drawn, max_drop=max_drop, reference=LARGE, without=("ensembles", "chains"), delta=0.05
        )
        expected = result.choices[0].on["certify"].saving["MACs"]
        assert judge.of_draw(drawn) == pytest.approx(expected, abs=1e-12)


def test_the_saving_is_the_mean_of_draws_of_certify_size() -> None:
    little, large, labels = pair(800, 10, 2.5, 4.0)
    judge = PairSaving(COSTS, 1.0, draws=3, samples=2000)
    table = table_of(little, large, labels)
    each = [judge.of_draw(judge.drawn(table, number)) for number in range(3)]
    assert len(set(each)) > 1
    assert judge.of(little, large, labels) == pytest.approx(float(np.mean(each)))
    assert judge(little.unsqueeze(1), Targets({}, labels, large)) == judge.of(little, large, labels)


def test_what_is_certified_holds_on_all_images() -> None:
    """Few draws break the budget on the population that they were drawn from."""
    little, large, labels = pair(2000, 10, 2.5, 4.0)
    table = table_of(little, large, labels)
    judge = PairSaving(COSTS, 1.0, samples=4000)
    saving = judge.of(little, large, labels)
    curve = sorted(
        (
            evaluate(table, Policy.pair(LITTLE, LARGE, threshold), reference=LARGE)
            for threshold in np.linspace(0.2, 1, 200)
        ),
        key=lambda outcome: -outcome.saving["MACs"],
    )
    within = next(one.saving["MACs"] for one in curve if one.drop <= 1.0)
    assert 0.3 * within < saving < 1.2 * within


def test_a_better_little_model_saves_more() -> None:
    savings = [
        PairSaving(COSTS, 1.0, draws=2, samples=4000).of(*pair(1500, 10, strength, 4.0))
        for strength in (0.0, 2.0, 3.0, 4.0)
    ]
    assert savings == sorted(savings)
    assert savings[0] == 0.0
    assert ALL - 0.05 < savings[-1] <= ALL


def test_few_images_and_classes_that_are_missing() -> None:
    judge = PairSaving(COSTS, 1.0, draws=2, samples=1000)
    for samples, classes in ((20, 10), (20, 2), (3, 5), (1, 5)):
        assert 0 <= judge.of(*pair(samples, classes, 3.0, 4.0)) <= ALL + 1e-9
    one_class = torch.zeros(200, dtype=torch.long)
    found = judge.of(logits(one_class, 5, 2.0, 1), logits(one_class, 5, 4.0, 2), one_class)
    assert 0 <= found <= ALL + 1e-9


def test_a_teacher_that_is_worse_need_not_answer() -> None:
    judge = PairSaving(COSTS, 0.0, draws=2, samples=2000)
    assert judge.of(*pair(1000, 10, 4.0, 2.0)) == pytest.approx(ALL)


def test_a_model_that_cannot_tell_its_errors_saves_nothing() -> None:
    """All its confidences are ties."""
    little, large, labels = pair(1000, 10, 2.0, 4.0)
    judge = PairSaving(COSTS, 1.0, draws=2, samples=2000)
    assert judge.of(torch.zeros_like(little), large, labels) == 0.0
    alike = torch.nn.functional.one_hot(little.argmax(1), 10) * 5.0
    assert judge.of(alike, large, labels) < 0.05


def test_the_order_of_the_images_matters_little() -> None:
    little, large, labels = pair(1000, 10, 2.5, 4.0)
    judge = PairSaving(COSTS, 1.0, samples=4000)
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(1))
    moved = judge.of(little[order], large[order], labels[order])
    assert moved == pytest.approx(judge.of(little, large, labels), abs=0.1)
