"""The benchmark of what is owed on a GPU, small and on the CPU: every part of it runs."""

from __future__ import annotations

import gc
import shutil
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import device_rounds
import gpu
import harness
import made_up

ON_CPU = gpu.Setting(torch.device("cpu"), gpu.SMALL)


@pytest.fixture(autouse=True)
def little_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread, and no search for unused memory among all that other tests have left."""
    monkeypatch.setattr(gc, "collect", int)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def chosen(**options: Any) -> Namespace:
    return Namespace(**{"device": "cpu", "small": True, "record": False, "only": "", **options})


def test_the_pair_defers_a_fifth() -> None:
    found = gpu.offline(ON_CPU)
    assert found["reached"] == {"saver": 20, "large": 4}
    assert found["of_weighted_sum"]["median"] > 0
    assert {"executor", "ideal", "large model alone"} <= found["images_per_second"].keys()


def test_clients_are_answered_by_the_pair_and_by_the_large_model() -> None:
    found = gpu.online(ON_CPU)
    assert found["clients"] == gpu.SMALL.clients
    for contestant in ("executor", "large model alone"):
        assert found["requests_per_second"][contestant] > 0
        assert 0 < found["ms"][contestant]["p50"] <= found["ms"][contestant]["p99"]


def test_training_has_a_rate_in_both_precisions() -> None:
    found = gpu.training(ON_CPU)["networks"]["test_byobnet"]
    assert found["finite"]
    assert found["images_per_second"].keys() == {"float32", "bfloat16, channels-last"}


@pytest.mark.slow
def test_features_stand_beside_plain_passes_of_the_same_precision() -> None:
    found = gpu.features(ON_CPU)["networks"]["test_byobnet"]
    assert len(found["taps"]) == gpu.EXITS
    assert found["of_plain"].keys() == {"float32", "bfloat16"}
    assert len(found["images_per_second"]) == 6


@pytest.mark.slow
def test_every_exit_answers_its_share() -> None:
    found = gpu.exits(ON_CPU)["networks"]["test_resnet"]
    assert list(found["reached"].values()) == [20, 15, 10, 5]
    assert 0 < found["macs_left"] < 1


@pytest.mark.slow
def test_modes_and_onnx_runtime_stand_beside_eager() -> None:
    found = gpu.modes(ON_CPU)
    assert found["networks"]["test_byobnet"]["images_per_second"].keys() == {
        "eager",
        *gpu.SMALL.modes,
    }
    assert found["onnx_runtime"]["test_byobnet"]["provider"] == "CPUExecutionProvider"


def test_what_cannot_run_is_left_out_with_the_reason() -> None:
    def fails() -> None:
        raise RuntimeError("no compiler\nwas found")

    ways, left_out = gpu.usable({"eager": int, "compiled": fails})
    assert list(ways) == ["eager"]
    assert left_out == {"compiled": "RuntimeError: no compiler was found"}


def test_the_next_network_is_taken_where_the_largest_does_not_fit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = made_up.network

    def limited(name: str, device: Any = "cpu") -> torch.nn.Module:
        if name == "huge":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return made(name, device)

    monkeypatch.setattr(made_up, "network", limited)
    images = ON_CPU.images(2)
    sizes = replace(gpu.SMALL, large=("huge", "test_byobnet"))
    name, _ = gpu.fitting(gpu.Setting(ON_CPU.device, sizes), images)
    assert name == "test_byobnet"
    assert "huge does not fit" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="none of huge fits the memory of cpu"):
        gpu.fitting(gpu.Setting(ON_CPU.device, replace(sizes, large=("huge",))), images)


def test_nothing_is_recorded_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for options, words in (
        ({"record": True}, "recorded on an NVIDIA GPU at full size, found small size on cpu"),
        ({"record": True, "small": False}, "found full size on cpu"),
        ({"small": False, "device": None}, "needs an NVIDIA GPU, found none"),
        ({"device": "cuda"}, "device 'cuda' cannot be used"),
    ):
        with pytest.raises(SystemExit, match=words) as raised:
            gpu.measure(chosen(**options))
        assert "\n" not in str(raised.value)


def test_a_small_part_stands_beside_no_recorded_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "PARTS", {"offline": lambda _: {"met": True}, "online": None})
    found = gpu.measure(chosen(only="offline"))
    assert list(found["parts"]) == ["offline"]
    assert found["parts"]["offline"]["device"] == "cpu"
    assert found["met"]


def test_each_exit_answers_the_surest_of_those_that_reach_it() -> None:
    first = np.array([0.9, 0.8, 0.1, 0.2], np.float32)
    second = np.array([0.0, 0.9, 0.7, 0.3], np.float32)
    policy = made_up.policy_of({"a": 0.25, "b": 0.25}, "c", [first, second])
    assert policy.exits == ("a", "b", "c")
    thresholds = [stage.threshold for stage in policy.stages]
    assert thresholds[:2] == pytest.approx([0.85, 0.8])
    assert thresholds[2] is None


def test_images_differ_in_brightness_and_are_the_same_every_time() -> None:
    images = made_up.images_of(300, 4, torch.device("cpu"))
    assert images.shape == (300, 3, 4, 4)
    assert images.dtype == torch.uint8
    assert torch.equal(images, made_up.images_of(300, 4, torch.device("cpu")))
    assert images.float().mean((1, 2, 3)).std() > 20


def test_rounds_alternate_after_runs_to_warm_up() -> None:
    calls: list[str] = []
    ways = {name: (lambda name=name: calls.append(name)) for name in "ab"}
    found = device_rounds.timed(ways, torch.device("cpu"), rounds=2)
    assert "".join(calls) == "aaa" + "bbb" + "ba" + "ab"
    assert [len(values) for values in found.values()] == [2, 2]
    limited = device_rounds.timed(ways, torch.device("cpu"), rounds=9, limit=0.0)
    assert len(limited["a"]) == device_rounds.LEAST


def test_the_machine_has_the_name_of_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        name, total_memory = "NVIDIA H200", 150_000_000_000

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Properties)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91_900)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    found = harness.machine()
    assert (found["accelerator"], found["accelerator_gb"]) == ("NVIDIA H200", 150.0)
    assert found["driver"] == "unknown"
    assert "timm" in found
