"""Stages: what a model receives and returns, its dtype and device, and where it comes from."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from understudy.errors import DataError, ModelError, PolicyError
from understudy.nn.confidence_functions import confidence_functions
from understudy.nn.stage import Preprocess, Stage, as_stage, usable_device
from understudy.runtime.protocol import StageState, StateKey


class Fixed(nn.Module):
    """Returns what it was made with."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, images: Tensor) -> Any:
        return self.output


class Small(nn.Sequential):
    """A convolution, a batch norm and a linear layer of 5 classes; the same weights every time."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        super().__init__(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), pooled, nn.Linear(4, 5))

    @property
    def mean(self) -> Tensor:
        """The running mean of the batch norm."""
        return self.get_buffer("1.running_mean")


def test_a_plain_stage_passes_tensors_through() -> None:
    inputs: list[Tensor] = []
    model = nn.Identity()
    model.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    batch = torch.randn(2, 3)
    stage = Stage(model)
    for _ in range(2):  # the first batch is run on a copy
        assert torch.equal(stage(batch), batch)
    assert inputs[1] is batch
    assert torch.equal(Stage(model)(list(batch)), batch)


def test_stays_in_eval_mode() -> None:
    model = Small().train()
    before = model.mean.clone()
    stage = Stage(model)
    assert not model.training
    stage.train()
    stage(torch.randn(4, 3, 8, 8))
    assert not any(module.training for module in model.modules())
    assert torch.equal(model.mean, before)


def test_runs_without_gradients() -> None:
    assert not Stage(Small())(torch.randn(2, 3, 8, 8)).requires_grad


@pytest.mark.parametrize("name", confidence_functions)
def test_run_gives_logits_the_named_confidence_and_the_state(name: str) -> None:
    stage, batch = Stage(Small()), torch.randn(6, 3, 8, 8)
    state: StageState = {StateKey("logits", "other"): torch.ones(6, 5)}
    logits, confidence, after = stage.run(batch, state, confidence=name)
    assert torch.equal(logits, stage(batch))
    assert torch.equal(confidence, confidence_functions[name](logits))
    assert after is state


def test_preprocesses_into_the_models_dtype() -> None:
    preprocess = Preprocess(size=(8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)
    stage = Stage(Small().to(torch.bfloat16), preprocess=preprocess)
    assert stage.dtype == torch.bfloat16
    assert stage.device == torch.device("cpu")
    images = [torch.zeros(3, 9, 7, dtype=torch.uint8), torch.zeros(3, 8, 8, dtype=torch.uint8)]
    assert stage.prepare(images).dtype == torch.bfloat16
    logits, confidence, _ = stage.run(images)
    assert (logits.dtype, confidence.dtype) == (torch.bfloat16, torch.float32)


def test_the_dtype_is_that_of_the_first_floating_tensor() -> None:
    model = nn.Module()
    model.register_buffer("counts", torch.zeros(1, dtype=torch.int64))
    assert Stage(model).dtype == torch.float32
    model.register_buffer("weights", torch.zeros(1, dtype=torch.float64))
    assert Stage(model).dtype == torch.float64


def test_the_weights_hash_is_over_the_state() -> None:
    assert Stage(Small()).weights_hash == Stage(Small()).weights_hash
    model = Small()
    stage = Stage(model)
    before = stage.weights_hash
    model.mean[0] += 1
    assert stage.weights_hash != before
    model.mean[0] -= 1
    assert stage.weights_hash == before
    assert Stage(Small().to(torch.bfloat16)).weights_hash != before


def test_origin_is_plain_json() -> None:
    preprocess = Preprocess(size=(8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)
    stage = Stage(Small(), preprocess=preprocess, origin={"spec": "py:nets:small", "note": 1})
    assert stage.spec == "py:nets:small"
    assert json.loads(json.dumps(stage.to_origin())) == {
        "spec": "py:nets:small",
        "note": 1,
        "weights_hash": stage.weights_hash,
        "preprocess": preprocess.to_dict(),
        "dtype": "float32",
    }
    assert Stage(Small()).spec is None
    assert Stage(Small()).to_origin()["preprocess"] is None


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (torch.zeros(2), r"found the shape \(2,\) of torch.float32"),
        (torch.zeros(2, 3, 4), r"\(2, 3, 4\)"),
        (torch.zeros(3, 4), r"here N = 2, found the shape \(3, 4\)"),
        (torch.zeros(2, 4, dtype=torch.int64), "torch.int64"),
        (torch.zeros(2, 0), "at least one class"),
        ((torch.zeros(2, 4), torch.zeros(2, 3)), r"found tuple of \(2, 4\), \(2, 3\): wrap it"),
        ({"scores": torch.zeros(2, 4)}, "found dict with 'scores': wrap it in a module"),
        ("cat", "its `logits`, found str"),
    ],
)
def test_outputs_that_are_no_logits(output: object, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Stage(Fixed(output))(torch.zeros(2, 1))


def test_unknown_confidence() -> None:
    with pytest.raises(PolicyError, match="did you mean 'margin'"):
        Stage(nn.Identity()).run(torch.zeros(1, 2), confidence="margins")


def test_lists_that_a_plain_stage_cannot_stack() -> None:
    with pytest.raises(DataError, match=r"found \(2,\), \(3,\)"):
        Stage(nn.Identity())([torch.zeros(2), torch.zeros(3)])
    with pytest.raises(DataError, match="at least one sample"):
        Stage(nn.Identity())([])


def test_as_stage() -> None:
    stage = Stage(nn.Identity())
    assert as_stage(stage) is stage
    assert as_stage(stage.model).model is stage.model
    with pytest.raises(ModelError, match="found str"):
        as_stage("resnet18")  # type: ignore[arg-type]


@pytest.mark.parametrize("device", ["meta", "abacus", "cuda:99", "hpu", "\0"])
def test_devices_that_compute_nothing_are_refused(device: str) -> None:
    with pytest.raises(ModelError, match="cannot be used"):
        usable_device(device)
