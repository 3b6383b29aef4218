"""Which networks can be split, and what a split costs where no row leaves.

    python benchmarks/split_models.py [--only TEXT] [--threads N] [--json] [--record]

All architectures have random weights.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, fx, nn
from torch.export import Dim, export

import cifar_nets
import harness
from understudy.early_exit.taps import even_taps, list_taps
from understudy.graph.partition import Trunk, partition
from understudy.nn.stage import Stage

ARCHITECTURES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "timm:resnet18": {"size": 64},
        "timm:resnext50_32x4d": {"size": 64},
        "timm:convnextv2_atto": {"size": 64},
        "timm:swin_tiny_patch4_window7_224": {"size": 112, "img_size": 112},
        "timm:swinv2_cr_tiny_ns_224": {"size": 224},
        "timm:vit_tiny_patch16_224": {"size": 64, "img_size": 64},
        "timm:deit3_small_patch16_224": {"size": 64, "img_size": 64},
        "timm:efficientnet_b0": {"size": 64},
        "timm:efficientvit_b0": {"size": 64},
        "timm:efficientvit_m0": {"size": 224},
        "timm:efficientformerv2_s0": {"size": 224},
        "timm:mobilenetv3_small_050": {"size": 64},
        "timm:mobilenetv4_conv_small": {"size": 64},
        "timm:mobilenetv4_hybrid_medium": {"size": 64},
        "timm:regnety_002": {"size": 64},
        "timm:maxvit_rmlp_pico_rw_256": {"size": 256},
        "timm:coatnet_pico_rw_224": {"size": 224},
        "timm:davit_tiny": {"size": 64},
        "timm:fastvit_t8": {"size": 64},
        "timm:levit_128s": {"size": 224, "momentum": 0.99},  # 1: rounding grows 1e6-fold
        "timm:eva02_tiny_patch14_224": {"size": 56, "img_size": 56},
        "timm:xcit_nano_12_p16_224": {"size": 64},
        "timm:mobilevit_xxs": {"size": 64},
        "timm:mobileone_s0": {"size": 64},
        "timm:tiny_vit_5m_224": {"size": 224},
        "timm:pvt_v2_b0": {"size": 64},
        "timm:mambaout_femto": {"size": 64},
        "timm:hiera_tiny_224": {"size": 224},
        "timm:repvit_m0_9": {"size": 64},
        "timm:poolformer_s12": {"size": 64},
        "torchvision:resnet18": {"size": 64},
        "torchvision:mobilenet_v3_small": {"size": 64},
        "torchvision:efficientnet_b0": {"size": 64},
        "torchvision:regnet_y_400mf": {"size": 64},
        "torchvision:shufflenet_v2_x0_5": {"size": 64},
        "torchvision:densenet121": {"size": 64},
        "torchvision:vgg11": {"size": 64},
        "torchvision:convnext_tiny": {"size": 64},
        "torchvision:swin_v2_t": {"size": 64},
        "torchvision:vit_b_16": {"size": 64, "image_size": 64},
        "torchvision:maxvit_t": {"size": 224},
    }
)
"""The smallest of each family -> the side of its images here, how far its batch norms move to the
statistics of noise, and how it is made."""


def untrained(name: str) -> tuple[nn.Module, int]:
    """A network with random weights whose answers differ from image to image, and its image side.

    What is constant at first (norms, layer scales, heads of zeros) becomes random, and batch norms
    take their statistics from noise.
    """
    hub, _, model_name = name.partition(":")
    options = dict(ARCHITECTURES[name])
    size, momentum = options.pop("size"), options.pop("momentum", 1.0)
    factory = timm.create_model if hub == "timm" else torchvision.models.get_model
    with torch.random.fork_rng(devices=[]), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = factory(model_name, **options)
        for path, weight in model.named_parameters():
            if not path.endswith("bias") and weight.numel() > 1 and not weight.std():
                weight.copy_(
                    (1 + torch.randn_like(weight) / 10) / weight.shape[-1] ** (weight.ndim > 1)
                )
        norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        for norm in norms:
            norm.momentum = momentum
        model.train()(torch.randn(8, 3, size, size))
    return model.eval(), size


def measure(options: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(options.threads)
    names = [name for name in ARCHITECTURES if options.only in name]
    captures = {name: _captures(name) for name in names}
    times = {name: _times(*untrained(name), batch=8) for name in names}
    times["resnet56 of CIFAR"] = _times(cifar_nets.resnet56().eval(), 32, batch=256)
    traced, exported = (
        sum(one[way]["agrees"] for one in captures.values()) for way in ("symbolic_trace", "export")
    )
    slower = {name: one["slower_percent"] for name, one in times.items()}
    return {
        "architectures": len(names),
        "agree": {"symbolic_trace": traced, "export": exported},
        "slower_percent": {
            "median": statistics.median(slower.values()),
            "most": max(slower.values()),
            "resnet56 of CIFAR": slower["resnet56 of CIFAR"],
        },
        "captures": captures,
        "times": times,
        "met": exported == len(names) and slower["resnet56 of CIFAR"] <= 3,
    }


def _captures(name: str) -> dict[str, Any]:
    model, size = untrained(name)
    x = torch.randn(5, 3, size, size, generator=torch.Generator().manual_seed(0))
    return {
        "symbolic_trace": _captured(lambda: fx.symbolic_trace(model), model, x),
        "export": _captured(lambda: _exported(model, x), model, x),
    }


def _exported(model: nn.Module, x: Tensor) -> nn.Module:
    dynamic = ({0: Dim("batch")},)
    return export(model, (x[:3],), dynamic_shapes=dynamic, strict=False).module()


@torch.no_grad()
def _captured(how: Callable[[], nn.Module], model: nn.Module, x: Tensor) -> dict[str, Any]:
    """Whether a way to capture works, gives the same for another batch size, and its seconds."""
    start = time.perf_counter()
    try:
        captured = how()
        seconds = time.perf_counter() - start
        truth = model(x)
        agrees = bool((captured(x) - truth).abs().max() <= 1e-4 * truth.abs().max())
    except Exception as error:  # noqa: BLE001 whatever it is, it is what is reported
        return {"agrees": False, "error": f"{type(error).__name__}: {str(error)[:120]}"}
    return {"agrees": agrees, "seconds": round(seconds, 2)}


@torch.inference_mode()
def _times(model: nn.Module, size: int, *, batch: int) -> dict[str, Any]:
    """Median ms of the network and of its trunk, in turns; how many percent the trunk is slower."""
    x = torch.randn(batch, 3, size, size)
    taps = even_taps(list_taps(Stage(model), x[0]), 3)
    trunk = partition(model, x[:1], [tap.path for tap in taps])
    runs: dict[str, list[float]] = {"whole": [], "split": []}
    ways = {"whole": lambda: model(x), "split": lambda: _through(trunk, x)}
    for round_number in range(24):
        for way in ("whole", "split") if round_number % 2 else ("split", "whole"):
            start = time.perf_counter()
            ways[way]()
            runs[way].append(time.perf_counter() - start)
    ratios = [b / a for a, b in zip(runs["whole"][2:], runs["split"][2:], strict=True)]
    whole, parts = (1000 * statistics.median(times[2:]) for times in runs.values())
    return {
        "taps": [tap.path for tap in taps],
        "batch": batch,
        "whole_ms": round(whole, 2),
        "split_ms": round(parts, 2),
        "slower_percent": round(100 * (statistics.median(ratios) - 1), 2),
    }


def _through(trunk: Trunk, x: Tensor) -> Tensor:
    values: tuple[Tensor, ...] = (x,)
    for number in range(len(trunk.segments)):
        values = trunk.run(number, values)
    return values[0]


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", default="", help="architectures whose name contains this")
    parser.add_argument("--threads", type=int, default=2)


if __name__ == "__main__":
    harness.main(
        measure,
        claim="every architecture here is split, and without rows leaving the trunk of a CIFAR "
        "resnet56 at batch 256 is at most 3 % slower than the network itself",
        options=_options,
    )
