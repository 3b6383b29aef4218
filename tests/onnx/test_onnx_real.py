"""Real architectures and real images in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from exit_nets import images
from onnx_nets import everything
from understudy.early_exit.network import attach
from understudy.nn.cascade import Cascade
from understudy.onnx.cascade import load_onnx
from understudy.onnx.export import export_onnx
from understudy.onnx.parity import agreement
from understudy.policy import Policy, PolicyStage
from understudy.zoo.batches import batches
from understudy.zoo.data import open_data
from understudy.zoo.models import load_stage

pytestmark = pytest.mark.slow


def median_threshold(cascade: Cascade, exit: str, pixels: torch.Tensor) -> float:
    """A threshold that half of the images reach, halfway between two confidences."""
    confidence = cascade.stages[exit].run(pixels).confidence.double().sort().values
    middle = len(confidence) // 2
    return float(confidence[middle - 1 : middle + 1].mean())


def test_all_exits_of_two_networks(tmp_path: Path) -> None:
    cascade = everything()
    bundle = export_onnx(cascade, tmp_path / "onnx", exits=cascade.exits)
    assert bundle.exits == cascade.exits
    assert bundle.difference < 1e-5
    loaded = load_onnx(tmp_path / "onnx", threads=1)
    inner = [name for name in cascade.exits if name not in {"net", "other"}]
    pixels = images(50, seed=3)
    stages = [PolicyStage(name, median_threshold(cascade, name, pixels)) for name in inner]
    cascade.policy = loaded.policy = Policy((*stages, PolicyStage("net")))
    found = agreement(cascade, loaded, [pixels, images(1), images(33)])
    assert (found.differing, found.unexplained) == (0, 0)


def timm(name: str) -> torch.nn.Module:
    pytest.importorskip("timm")
    return load_stage(f"timm:{name}?weights=random")


@pytest.mark.parametrize(
    ("little", "big"),
    [
        ("mobilenetv3_small_050", "efficientnet_b1"),
        ("convnext_atto", "swin_tiny_patch4_window7_224"),
    ],
)
def test_timm_models_of_different_sizes(little: str, big: str, tmp_path: Path) -> None:
    cascade = Cascade({"little": timm(little), "big": timm(big)}, Policy.pair("little", "big", 0.5))
    bundle = export_onnx(cascade, tmp_path / "onnx")
    assert bundle.difference < 1e-4
    loaded = load_onnx(tmp_path / "onnx", threads=1)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (6, *bundle.images.shape), dtype=torch.uint8, generator=generator)
    policy = Policy.pair("little", "big", median_threshold(cascade, "little", pixels))
    cascade.policy = loaded.policy = policy
    found = agreement(cascade, loaded, [pixels[:1], pixels[1:]])
    assert (found.differing, found.unexplained) == (0, 0)


def test_exits_inside_a_vision_transformer(tmp_path: Path) -> None:
    heads = {"blocks.3": "linear", "blocks.7": "mlp1x64+saver"}
    saver = {"saver": timm("mobilenetv3_small_050")}
    network = attach(timm("vit_tiny_patch16_224"), heads, saver=saver)
    exits = ["vit/blocks.3/linear", "vit/blocks.7/mlp1x64+saver", "vit/blocks.7/esn"]
    policy = Policy((*(PolicyStage(name, 0.9) for name in exits), PolicyStage("vit")))
    cascade = Cascade({"vit": network}, policy)
    bundle = export_onnx(cascade, tmp_path / "onnx")
    assert bundle.exits == (*exits, "vit")
    assert bundle.difference < 1e-4
    loaded = load_onnx(tmp_path / "onnx", threads=1)
    pixels = torch.randint(256, (5, *bundle.images.shape), dtype=torch.uint8)
    found = agreement(cascade, loaded, [pixels[:2], pixels[2:]])
    assert (found.differing, found.unexplained) == (0, 0)


def test_decisions_on_cifar10(shared: Path, tmp_path: Path) -> None:
    folder = shared / "cifar10"
    stages = {
        name: load_stage(f"py:cifar_nets:{name}?checkpoint={folder}/weights/{name}.safetensors")
        for name in ("resnet20", "resnet56")
    }
    cascade = Cascade(stages, Policy.pair("resnet20", "resnet56", 0.7))
    bundle = export_onnx(cascade, tmp_path / "onnx")
    assert bundle.difference < 1e-5
    loaded = load_onnx(tmp_path / "onnx", threads=1)
    data = open_data(f"parquet:{folder}/test.parquet")
    blocks = (block.images for block in batches(data, range(1000), size=200, workers=0))
    found = agreement(cascade, loaded, blocks)
    assert (found.samples, found.unexplained) == (1000, 0)
    assert found.differing <= 1
    assert found.difference < 1e-4
