"""Models that write into their input leave it as it is for everyone else."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from understudy.early_exit.network import attach
from understudy.ensemble import Ensemble
from understudy.errors import ModelError
from understudy.nn.cascade import Cascade
from understudy.nn.stage import Stage
from understudy.policy import Policy, PolicyStage
from understudy.runtime.executor import Executor
from understudy.scoring.in_memory import score


class Writer(nn.Module):
    """Writes into its input, then answers from it."""

    def __init__(self, write: Callable[[Tensor], object]) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.write, self.linear = write, nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.write(x)
        return self.linear(x)


def plain(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Linear(6, 4)


def rows(count: int = 400) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(3))


def write_by_numpy(x: Tensor) -> None:
    x.numpy()[:] *= -1


WRITES: Mapping[str, Callable[[Tensor], object]] = {
    "sub_": lambda x: x.sub_(0.5),
    "a view": lambda x: x.view(-1).mul_(-2),
    "an index": lambda x: x.__setitem__((slice(None), 0), 0),
    "relu": lambda x: nn.functional.relu(x, inplace=True),
    "out=": lambda x: torch.neg(x, out=x),
    "NumPy": write_by_numpy,
    ".data": lambda x: x.data.mul_(-3),
}


@pytest.mark.parametrize("write", WRITES)
def test_scores_are_those_of_models_by_themselves(write: str) -> None:
    models = {"a": Writer(WRITES[write]), "b": plain()}
    given = rows()
    batches = list(given.clone().split(100))
    table = score(models, batches)
    assert torch.equal(torch.cat(batches), given)
    for name, model in models.items():
        alone = score({name: model}, given.clone().split(100))
        assert np.array_equal(alone.prediction[0], table.prediction[table.index(name)])


def cascades() -> dict[str, Cascade]:
    stages = {"a": Writer(WRITES["sub_"]), "b": Writer(WRITES["relu"]), "c": plain()}
    three = Policy(
        (PolicyStage("a", 0.6), PolicyStage("b", 0.7), PolicyStage("c", None)),
    )
    ensemble = Ensemble(("a", "b", "c"), (1.0, 1.0, 1.0))
    return {
        "chain": Cascade(stages, three),
        "ensemble": Cascade({**stages, "all": ensemble}, Policy.pair("a", "all", 0.6)),
    }


@pytest.mark.parametrize("kind", ["chain", "ensemble"])
@pytest.mark.parametrize("inference", [False, True])
def test_later_stages_see_the_images_as_they_were(kind: str, inference: bool) -> None:
    cascade, given = cascades()[kind], rows(200)
    with torch.inference_mode(inference):
        images = given.clone()
    expected = [answer_alone(cascade, row) for row in given.split(1)]
    for _ in range(2):
        assert cascade.answer(images).prediction.tolist() == expected
        assert torch.equal(images, given)
    with Executor(cascade, max_batch=16) as executor:
        found = [p for answers in executor.map(images.split(50)) for p in answers.prediction]
    assert found == expected
    assert torch.equal(images, given)


@torch.no_grad()
def answer_alone(cascade: Cascade, row: Tensor) -> int:
    """The specification: each stage on a fresh copy of one row."""
    for stage in cascade.policy.stages:
        model = cascade.stages[stage.exit]
        members = list(model.members.values()) or [model]
        logits = torch.stack([one.model(row.clone()) for one in members]).mean(0)
        confidence = float(logits.softmax(1).max())
        if stage.threshold is None or confidence >= stage.threshold:
            break
    return int(logits.argmax())


def test_the_whole_network_of_exits_writes_into_a_copy() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(64, 3))
    network = attach(model, {"1": "linear"}, image=torch.zeros(2, 6, 6))
    given = torch.randn(8, 2, 6, 6)
    for stage in reversed(list(network.stages("net").values())):
        images = given.clone()
        first, again = stage(images), stage(images)
        assert torch.equal(images, given)
        assert torch.equal(first, again)


def test_models_that_do_not_write_get_the_batch_itself() -> None:
    seen: list[int] = []
    stage = Stage(Writer(lambda x: seen.append(x.data_ptr())))
    images = rows(8)
    for _ in range(3):
        stage(images)
    assert seen[1:] == [images.data_ptr()] * 2


def test_a_model_that_begins_to_write_later_is_refused_once() -> None:
    stage = Stage(Writer(lambda x: x.mul_(0.5) if float(x.max()) > 10 else None))
    stage(torch.zeros(2, 6))
    with pytest.raises(ModelError, match="found Writer writing into a later one alone"):
        stage(torch.full((2, 6), 20.0))
    large = torch.full((2, 6), 20.0)
    stage(large)
    assert float(large.min()) == 20


def test_a_head_of_ones_own_writes_into_a_copy_of_its_feature() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
    head = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(8, 4))
    stages = attach(model, {"1": head}, image=torch.zeros(6)).stages("net")
    early, end = stages["net/1/head"], stages["net"]
    _, state = early.resume(rows(8), {})
    assert torch.allclose(end.resume(rows(8), state)[0], model(rows(8)), atol=1e-6)
