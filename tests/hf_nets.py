"""Small image classifiers of transformers with random weights, in folders of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

CLASSES = 10


def save_vit(folder: Path, *, seed: int = 0, names: list[str] | None = None, **more: Any) -> Path:
    """A transformer of two layers for images of 32 x 32, with its processor."""
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
        **_labels(names),
        **more,
    )
    return _save(config, folder, transformers.ViTImageProcessor(size=_square(32)), seed)


def save_resnet(folder: Path, *, seed: int = 0, names: list[str] | None = None) -> Path:
    """A ResNet of two blocks for images of 32 x 32, cropped from 36, with its processor."""
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", **_labels(names)
    )
    processor = transformers.ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=32 / 36)
    return _save(config, folder, processor, seed)


def _labels(names: list[str] | None) -> dict[str, Any]:
    if names is None:
        return {"num_labels": CLASSES}
    return {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}


def _square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


def _save(config: Any, folder: Path, processor: Any, seed: int) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = transformers.AutoModelForImageClassification
        model = model.from_config(config)
        for weights in model.parameters():  # so that answers differ from image to image
            torch.nn.init.normal_(weights, std=0.3)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
