"""Train networks on the JPEG CIFAR-10: ``python benchmarks/train_zoo.py large``.

One tenth of the training images, the share that `set_aside` names, is kept out: searches use it.
The project's own networks start afresh; those of cifar_nets.py start from their published weights
and are adapted to the JPEGs, all layers of them, into benchmarks/work/adapted. Weights are kept as
float16, and judged as they are kept.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

import cifar_nets
import jpeg_nets
from harness import ROOT, machine, shared
from understudy.malloc import keep_freed_memory
from understudy.split import uniform
from understudy.zoo.batches import batches
from understudy.zoo.data import DataSet, open_data

ZOO, ADAPTED = ROOT / "benchmarks" / "zoo", ROOT / "benchmarks" / "work" / "adapted"
OWN = ("small", "medium", "large")
PUBLISHED = {"resnet8": "resnet8_mlperftiny", "resnet20": "resnet20", "resnet56": "resnet56"}
RECIPE: dict[str, Any] = {
    "batch": 512,
    "peak_lr": 0.4,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "warmup": 0.2,
    "crop": 3,
    "cutout": 8,
    "ema": 0.99,
    "label_smoothing": 0.0,
    "seed": 0,
}


def set_aside(data: DataSet) -> np.ndarray:
    """(N,) bool: the tenth of the images, by a hash of their names, that is not trained on."""
    return uniform(data.ids, salt=b"set aside") < 0.1


def pixels(data: DataSet, rows: np.ndarray) -> tuple[Tensor, Tensor]:
    """Images uint8 (n, 3, 32, 32) and labels of some rows."""
    images = [batch.images for batch in batches(data, rows.tolist(), size=1000)]
    return torch.cat(images), torch.from_numpy(data.labels[rows].astype(np.int64))


def whitening(images: Tensor) -> tuple[Tensor, Tensor]:
    """Weights and biases of the 2x2 filters, with their negatives, that decorrelate patches."""
    patches = F.unfold(images, 2).transpose(1, 2).reshape(-1, 12).double()
    covariance = patches.T @ patches / len(patches)
    values, vectors = torch.linalg.eigh(covariance)
    filters = (vectors / (values + 5e-4).sqrt()).T.reshape(12, 3, 2, 2).float()
    return torch.cat([filters, -filters]), torch.zeros(24)


def views(images: Tensor, recipe: dict[str, Any]) -> Tensor:
    """Each image shifted, perhaps mirrored, with a square cut out."""
    count, _, side, _ = images.shape
    crop, cut = recipe["crop"], recipe["cutout"]
    padded = F.pad(images, (crop,) * 4, mode="reflect")
    spot = torch.randint(0, 2 * crop + 1, (2, count, 1))
    line = torch.arange(side)[None]
    rows, columns = spot[0] + line, spot[1] + line
    columns = torch.where(torch.rand(count, 1) < 0.5, columns.flip(1), columns)
    shifted = padded[
        torch.arange(count)[:, None, None, None],
        torch.arange(3)[None, :, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]
    corner = torch.randint(0, side - cut + 1, (2, count, 1))
    inside = [(line >= corner[i]) & (line < corner[i] + cut) for i in (0, 1)]
    hole = inside[0][:, :, None] & inside[1][:, None, :]
    return shifted.masked_fill(hole[:, None], 0.0)


def epochs(images: Tensor, labels: Tensor, recipe: dict[str, Any]) -> Iterator[tuple[Tensor, ...]]:
    """Batches in random order, without the last short one."""
    order = torch.randperm(len(images))
    for rows in order.split(recipe["batch"]):
        if len(rows) == recipe["batch"]:
            yield views(images[rows], recipe), labels[rows]


def accuracy(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    net.eval()
    with torch.inference_mode():
        right = [
            (net(x.contiguous(memory_format=torch.channels_last)).argmax(1) == y).sum().item()
            for x, y in zip(images.split(500), labels.split(500), strict=True)
        ]
    return sum(right) / len(labels)


def started(name: str, images: Tensor) -> nn.Module:
    """A network with its first weights; `images` are a sample of those it is trained on."""
    if name in PUBLISHED:
        net = getattr(cifar_nets, name)()
        weights = shared() / "cifar10" / "weights" / f"{PUBLISHED[name]}.safetensors"
        net.load_state_dict(load_file(weights))
        return net
    net = getattr(jpeg_nets, name)()
    with torch.no_grad():
        for own, made in zip(net.whiten.parameters(), whitening(images), strict=True):
            own.copy_(made)
            own.requires_grad_(False)
    return net


def train(name: str, count: int, peak_lr: float) -> None:
    recipe = {**RECIPE, "epochs": count, "peak_lr": peak_lr, "dtype": "bfloat16 (autocast)"}
    torch.manual_seed(recipe["seed"])
    folder = shared() / "cifar10"
    data, test = (open_data(f"parquet:{folder / part}.parquet") for part in ("train", "test"))
    aside = set_aside(data)
    kind = getattr(cifar_nets if name in PUBLISHED else jpeg_nets, name)()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (kind.mean, kind.std))

    def ready(images: Tensor) -> Tensor:
        return (images.float() / kind.scale - mean) / std

    images, labels = pixels(data, np.flatnonzero(~aside))
    held, held_labels = pixels(data, np.flatnonzero(aside))
    exam, exam_labels = pixels(test, np.arange(len(test)))
    images, held, exam = ready(images), ready(held), ready(exam)
    net = started(name, images[:5000]).to(memory_format=torch.channels_last)
    averaged = copy.deepcopy(net)
    steps = count * (len(images) // recipe["batch"])
    optimizer = torch.optim.SGD(
        [p for p in net.parameters() if p.requires_grad],
        lr=recipe["peak_lr"],
        momentum=recipe["momentum"],
        weight_decay=recipe["weight_decay"],
        nesterov=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(
            (step + 1) / (recipe["warmup"] * steps),
            (steps - step) / ((1 - recipe["warmup"]) * steps),
        ),
    )
    start, log = time.perf_counter(), []
    for epoch in range(count):
        net.train()
        for x, y in epochs(images, labels, recipe):
            with torch.autocast("cpu", torch.bfloat16):
                logits = net(x.contiguous(memory_format=torch.channels_last))
            loss = F.cross_entropy(logits.float(), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            with torch.no_grad():
                for kept, new in zip(
                    averaged.state_dict().values(), net.state_dict().values(), strict=True
                ):
                    if kept.is_floating_point():
                        kept.lerp_(new, 1 - recipe["ema"])
        seconds = time.perf_counter() - start
        log.append({"epoch": epoch + 1, "set_aside": accuracy(averaged, held, held_labels)})
        print(f"{name} {epoch + 1}/{count} {log[-1]['set_aside']:.4f} {seconds:.0f} s", flush=True)
    folder = ADAPTED if name in PUBLISHED else ZOO
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        key: value.half().contiguous() if value.is_floating_point() else value
        for key, value in averaged.state_dict().items()
    }
    save_file(weights, folder / f"{name}.safetensors")
    averaged.load_state_dict(
        {k: v.float() if v.is_floating_point() else v for k, v in weights.items()}
    )
    told = {
        "recipe": recipe,
        "trained_on": len(images),
        "set_aside": {"images": len(held), "accuracy": accuracy(averaged, held, held_labels)},
        "test": {"images": len(exam), "accuracy": accuracy(averaged, exam, exam_labels)},
        "seconds": round(time.perf_counter() - start),
        "machine": machine(),
        "log": log,
    }
    (folder / f"{name}.json").write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps({key: told[key] for key in ("set_aside", "test", "seconds")}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("net", choices=(*OWN, *PUBLISHED))
    parser.add_argument("--epochs", type=int, default=18)
    parser.add_argument("--peak-lr", type=float, default=RECIPE["peak_lr"])
    arguments = parser.parse_args()
    keep_freed_memory()
    train(arguments.net, arguments.epochs, arguments.peak_lr)
