"""Networks with random weights, and images that are noise: for figures of speed alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import timm
import torch
from torch import Tensor, nn

from understudy import Policy
from understudy.nn.stage import EMPTY, Preprocess, Stage
from understudy.policy import PolicyStage, midpoint

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
CHUNK = 256  # images that are made at a time

Array = npt.NDArray[np.floating[Any]]


def network(name: str, device: torch.device | str = "cpu") -> nn.Module:
    """A network of timm with random weights, made on a device; the same ones every time."""
    torch.manual_seed(0)
    with torch.device(device):
        made: nn.Module = timm.create_model(name, pretrained=False)
    return made.eval()


def stage_of(model: nn.Module, side: int) -> Stage:
    """A network as a stage that takes uint8 images of a size, and normalises them."""
    return Stage(model, preprocess=Preprocess((side, side), MEAN, STD))


def images_of(count: int, side: int, device: torch.device) -> Tensor:
    """Noise of random brightness and contrast, uint8 (N, 3, side, side), made on a device."""
    generator = torch.Generator(device).manual_seed(0)
    made = torch.empty(count, 3, side, side, dtype=torch.uint8, device=device)
    for part in made.split(CHUNK):
        noise = torch.rand(part.shape, generator=generator, device=device) - 0.5
        level, contrast = torch.rand(2, len(part), 1, 1, 1, generator=generator, device=device)
        part.copy_((255 * (level + contrast * noise)).clamp_(0, 255))
    return made


def on_host(images: Tensor) -> Tensor:
    """The images in host memory, pinned where they come from an accelerator."""
    return images.cpu().pin_memory() if images.is_cuda else images


def confidences(stages: Sequence[Stage], images: Tensor, *, batch: int) -> list[Array]:
    """The confidence of every stage for every image, each (N,): run one after another, in batches,
    on the states of those before them."""
    found: list[list[Tensor]] = [[] for _ in stages]
    for some in images.split(batch):
        state = EMPTY
        for number, stage in enumerate(stages):
            output = stage.run(some, state)
            state = output.state
            found[number].append(output.confidence.cpu())
    return [torch.cat(parts).numpy() for parts in found]


def policy_of(shares: Mapping[str, float], last: str, found: Sequence[Array]) -> Policy:
    """The policy by which each exit answers its share of all images, the surest of those that reach
    it, and the last one the rest.

    Args:
        shares: exit -> the share of all images, in the order of execution.
        last: the exit that answers whatever is left.
        found: the confidence of each exit but the last for every image, (N,).
    """
    left, stages = np.arange(len(found[0])), []
    for (exit, share), confidence in zip(shares.items(), found, strict=True):
        order = left[np.argsort(-confidence[left], kind="stable")]
        taken = round(share * len(confidence))
        below, above = confidence[order[taken]], confidence[order[taken - 1]]
        stages.append(PolicyStage(exit, float(midpoint(below, above))))
        left = order[taken:]
    return Policy((*stages, PolicyStage(last)))
