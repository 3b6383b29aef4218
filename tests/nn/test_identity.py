"""What is built and run is the model that was scored: every difference is refused and named."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from understudy.ensemble import Ensemble, with_ensemble
from understudy.errors import DataError, ModelError
from understudy.nn.cascade import build
from understudy.nn.execution_mode import ExecutionMode, with_mode
from understudy.nn.identity import check_identity, difference, identity_of
from understudy.nn.stage import Preprocess, Stage
from understudy.result import Result
from understudy.scores import ScoreTable
from understudy.scoring.in_memory import score
from understudy.searching.search import search

PREPROCESS = Preprocess(size=(8, 8), mean=(0.3,), std=(0.4,))


class Net(nn.Module):
    """A network whose code has constants that are not among its weights."""

    def __init__(self, shift: float = 0.0, act: Callable[[Tensor], Tensor] = torch.relu) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 32), nn.Linear(32, 10)
        self.shift, self.act = shift, act

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.act(self.first(x.flatten(1) + self.shift)))


def stage(**code: Any) -> Stage:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Stage(Net(**code), preprocess=PREPROCESS, origin={"spec": "py:nets:net"})


def prepared(**changes: Any) -> Stage:
    return Stage(stage().model, preprocess=replace(PREPROCESS, **changes))


def in_mode(name: str) -> Stage:
    return with_mode(stage(), ExecutionMode.parse(name))


def other_weights() -> Stage:
    changed = stage()
    with torch.no_grad():
        changed.model.last.bias[3] += 1e-6
    return changed


OTHERS: dict[str, tuple[Callable[[], Stage], str]] = {
    "mean": (lambda: prepared(mean=(0.31,)), r"has mean \[0.31\] and had \[0.3\]"),
    "std": (lambda: prepared(std=(0.5,)), r"has std \[0.5\] and had \[0.4\]"),
    "scale": (lambda: prepared(scale=1.0), "has scale 1.0 and had 255.0"),
    "size": (lambda: prepared(size=(16, 4)), r"has size \[16, 4\] and had \[8, 8\]"),
    "crop": (lambda: prepared(crop=0.9), "has crop 0.9 and had 1.0"),
    "resize": (lambda: prepared(interpolation="bicubic"), "interpolation bicubic and had bilin"),
    "squash": (lambda: prepared(squash=True), "has squash True and had False"),
    "none": (lambda: Stage(stage().model), "its preprocessing is None and was {'size'"),
    "precision": (lambda: stage().to(torch.bfloat16), "dtype is 'bfloat16' and was 'float32'"),
    "mode": (lambda: in_mode("channels_last"), "its weights in the mode 'channels_last' have"),
    "weights": (other_weights, "its weights have the hash [0-9a-f]{12} and had [0-9a-f]{12}"),
    "a constant": (lambda: stage(shift=0.7), "its code answers otherwise with the same weights"),
    "a function": (lambda: stage(act=torch.tanh), "its code answers otherwise"),
}


BIG = stage(act=torch.tanh)


def scored(**models: Stage) -> ScoreTable:
    """A table of these models and BIG, scored in memory."""
    images = torch.randint(256, (60, 1, 8, 8), dtype=torch.uint8)
    return score({**models, "big": BIG}, [(images, [0] * 60)])


@pytest.fixture(scope="module")
def result() -> Result:
    return search(scored(net=stage()), reference="big", max_drop=[100.0])


@pytest.mark.parametrize("case", OTHERS)
def test_another_model_is_not_built(result: Result, case: str) -> None:
    make, message = OTHERS[case]
    with pytest.raises(ModelError, match=message) as caught:
        build(result, {"net": make(), "big": BIG})
    assert caught.match("^'net'.* is not the model that was scored, its")


def test_the_models_that_were_scored_are_built() -> None:
    models = {"net": stage(), "fast": in_mode("folded+channels_last")}
    found = search(scored(**models), reference="big", max_drop=[100.0])
    assert build(found, {"big": BIG, **{name: copy.deepcopy(one) for name, one in models.items()}})
    with pytest.raises(ModelError, match=r"its execution mode is '' and was 'folded\+channels"):
        build(found, {**models, "fast": stage(), "big": BIG})


def test_another_ensemble_is_not_built() -> None:
    models = {"net": stage(), "big": BIG}
    table = with_ensemble(scored(net=stage()), ["net", "big"], [1.0, 1.0])
    found = search(table, reference="big", max_drop=[100.0])
    both = replace(found.singles[0], name="net+big", origin=table.exits[2].origin)
    found = replace(found, singles=(*found.singles, both))
    assert build(found, {**models, "net+big": Ensemble(("net", "big"), (1.0, 1.0))})
    with pytest.raises(ModelError, match=r"'net\+big' is not the ensemble that was searched"):
        build(found, {**models, "net+big": Ensemble(("net", "big"), (1.0, 0.123))})


def test_only_what_was_recorded_is_compared() -> None:
    for key, value in identity_of(stage()).items():
        check_identity("net", {key: value}, stage(), past="scored", remedy="")
    older = identity_of(stage())
    older["preprocess"] = {k: v for k, v in older["preprocess"].items() if k != "squash"}
    assert difference(older, stage()) is None
    assert (
        difference(older, prepared(squash=True))
        == "its preprocessing has squash True and had False"
    )
    assert difference({}, other_weights()) is None


@pytest.mark.parametrize("mode", ["bfloat16", "folded", "channels_last", "folded+bfloat16"])
def test_rounding_is_no_difference(mode: str) -> None:
    """The sample answer is that of the plain code, in whatever mode a model runs."""
    recorded = {"sample": identity_of(stage())["sample"]}
    assert difference(recorded, in_mode(mode)) is None
    assert difference(recorded, stage().to(torch.float64)) is None
    assert difference(recorded, stage().to(torch.bfloat16)) is None
    assert difference(recorded, stage(act=torch.tanh)) is not None


def test_logits_that_are_not_finite_are_no_sample() -> None:
    assert "sample" not in identity_of(stage(shift=float("nan")))
    assert "sample" not in identity_of(Stage(nn.Linear(4, 3)))


def ready(**code: Any) -> Net:
    """The same network as a module that takes ready tensors."""
    model = stage(**code).model
    assert isinstance(model, Net)
    return model


def test_modules_of_ready_tensors_are_compared_too() -> None:
    """Their sample answer is one for the kind of tensors that they were scored on."""
    rows = torch.randn(60, 1, 8, 8)
    table = score({"net": ready(), "big": ready(act=torch.tanh)}, [(rows, [0] * 60)])
    assert table.exits[0].origin["input"] == {"shape": [1, 8, 8], "dtype": "float32"}
    found = search(table, reference="big", max_drop=[100.0])
    models = {"net": ready(), "big": ready(act=torch.tanh)}
    cascade = build(found, models)
    with pytest.raises(ModelError, match="'net' is not the model that was scored, its code answe"):
        build(found, {**models, "net": ready(shift=0.7)})
    with pytest.raises(ModelError, match="'net' is not the model that was scored, its weights"):
        build(found, {**models, "net": other_weights().model})
    with pytest.raises(DataError, match=r"scored on ready tensors, torch.float32 \(1, 8, 8\) each"):
        cascade(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    for saved in cascade.stages.values():
        assert identity_of(saved)["input"] == {"shape": [1, 8, 8], "dtype": "float32"}


def test_samples_that_a_model_cannot_answer_are_not_recorded() -> None:
    tokens = torch.randint(0, 7, (40, 5))
    model = nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(20, 3))
    picky = nn.Sequential(Refusing(), nn.Flatten(), nn.Linear(5, 3))
    assert "sample" not in score({"net": model}, [tokens]).exits[0].origin
    assert "input" not in score({"net": picky}, [tokens.float()]).exits[0].origin


class Refusing(nn.Module):
    """Takes no negative number."""

    def forward(self, x: Tensor) -> Tensor:
        if (x < 0).any():
            raise RuntimeError("negative")
        return x
