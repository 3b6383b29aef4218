"""The precision and the memory format of a frozen backbone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from exit_digits import Block
from understudy.early_exit.network import attach
from understudy.errors import ModelError
from understudy.nn.execution_mode import ExecutionMode
from understudy.nn.stage import Preprocess, Stage
from understudy.training import backbone
from understudy.training.backbone import BackboneSettings, tf32
from understudy.training.features import LOGITS, FeatureExtractor

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
PLAIN = ExecutionMode()
IMAGES = torch.randint(256, (5, 3, 8, 8), dtype=torch.uint8)
COLOUR = Preprocess(size=(8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)


def coloured() -> Stage:
    """Two convolutions; those of one channel have one memory format."""
    pooled = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    return Stage(nn.Sequential(Block(3, 8, 1), Block(8, 8, 2), *pooled), preprocess=COLOUR)


class Viewing(nn.Module):
    """A convolution, and a view that fails on channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.linear = nn.Linear(4 * 64, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.conv(x).view(-1, 4 * 64))
        return logits


def formats_of(stage: Stage, path: str) -> list[bool]:
    """Whether the module's outputs are channels last, one per run from now on."""
    found: list[bool] = []

    def note(_module: nn.Module, _args: Any, output: Tensor) -> None:
        found.append(output.is_contiguous(memory_format=torch.channels_last))

    stage.model.get_submodule(path).register_forward_hook(note)
    return found


def test_convolutions_run_on_channels_last_and_weights_stay() -> None:
    stage = coloured()
    network = attach(stage, {"1": "conv4"})
    before = {name: value.stride() for name, value in stage.model.state_dict().items()}
    weights = stage.weights_hash
    expected = stage(IMAGES)
    formats = formats_of(stage, "0")
    found = FeatureExtractor(network, classifier=None, logits=True)(IMAGES)
    assert formats == [False, True, True]  # tried on two images in both formats, and run
    torch.testing.assert_close(found[LOGITS].float(), expected, rtol=2e-3, atol=1e-3)
    assert all(value.is_contiguous() for value in found.values())
    assert stage.weights_hash == weights
    assert before == {name: value.stride() for name, value in stage.model.state_dict().items()}


def test_a_model_that_cannot_take_channels_last_gets_images_as_they_are() -> None:
    stage = Stage(Viewing(), preprocess=COLOUR)
    network = attach(stage, {"conv": "linear"})
    formats = formats_of(stage, "conv")
    found = FeatureExtractor(network, classifier=None, logits=True)(IMAGES)
    assert formats == [False, True, False]
    torch.testing.assert_close(found[LOGITS].float(), stage(IMAGES), rtol=2e-3, atol=1e-3)


def test_networks_without_convolutions_and_other_devices_keep_their_format(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = BackboneSettings(PLAIN, CPU)
    assert settings.channels_last_pays(coloured().model)
    assert not settings.channels_last_pays(nn.Linear(4, 3))
    half = ExecutionMode.parse("float16")
    for capability, pays in (((6, 1), (False, False)), ((7, 5), (False, True)), ((9, 0), (1, 1))):
        monkeypatch.setattr(backbone, "_capability", lambda _, found=capability: found)
        found = [
            BackboneSettings(mode, CUDA).channels_last_pays(coloured().model)
            for mode in (PLAIN, half)
        ]
        assert found == list(pays)


def test_products_are_in_tf32_where_the_device_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    matmul: Any = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    for capability, expected in (((8, 0), "tf32"), ((7, 5), before)):
        monkeypatch.setattr(backbone, "_capability", lambda _, found=capability: found)
        with BackboneSettings(PLAIN, CUDA).running():
            assert matmul.fp32_precision == expected
            assert torch.is_inference_mode_enabled()
        assert matmul.fp32_precision == before
    with pytest.raises(ZeroDivisionError), tf32():
        1 / 0  # noqa: B018
    assert matmul.fp32_precision == before


def test_features_are_made_in_the_precision_of_the_mode_unless_another_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert BackboneSettings(PLAIN, CPU).dtype is None
    for mode, precision in (("bfloat16", None), ("bfloat16", "bfloat16"), ("folded", "bfloat16")):
        settings = BackboneSettings(ExecutionMode.parse(mode), CPU, precision=precision)
        assert settings.dtype is torch.bfloat16
        with settings.running():
            assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype is torch.bfloat16
    network = attach(coloured(), {"1": "linear"})
    plain, rounded = (
        FeatureExtractor(network, classifier=None, logits=True, precision=precision)(IMAGES)
        for precision in (None, "bfloat16")
    )
    assert not torch.equal(plain[LOGITS], rounded[LOGITS])
    torch.testing.assert_close(plain[LOGITS], rounded[LOGITS], rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("mode", "device", "precision", "words"),
    [
        ("folded", CPU, "float64", "is one of bfloat16, float16, found 'float64'"),
        ("bfloat16", CPU, "float16", "execution mode 'bfloat16', found 'float16'"),
        ("folded", CPU, "float16", "the device 'cpu' has units, found 'float16'"),
        ("folded", CPU, "bfloat16", "the device 'cpu' has units, found 'bfloat16'"),
        ("folded", CUDA, "bfloat16", "the device 'cuda' has units, found 'bfloat16'"),
    ],
)
def test_a_precision_that_cannot_be_had_is_refused(
    monkeypatch: pytest.MonkeyPatch, mode: str, device: torch.device, precision: str, words: str
) -> None:
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False)
    monkeypatch.setattr(backbone, "_capability", lambda _: (7, 5))
    with pytest.raises(ModelError, match=words):
        BackboneSettings(ExecutionMode.parse(mode), device, precision=precision)
