"""The last layer of a backbone: the linear layer whose output is the network's answer."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from understudy.errors import ModelError
from understudy.graph.capture import hooked
from understudy.nn.device import Images
from understudy.nn.stage import Stage


@torch.no_grad()
def find_classifier(stage: Stage, images: Images) -> str:
    """The module path of the linear layer that gives the network's answer.

    >>> find_classifier(Stage(nn.Sequential(nn.ReLU(), nn.Linear(4, 3))), torch.zeros(2, 4))
    '1'

    Raises:
        ModelError: the answer comes from something else.
    """
    linear = {
        path: module
        for path, module in stage.model.named_modules()
        if path and isinstance(module, nn.Linear)
    }
    outputs: dict[str, list[Tensor]] = {path: [] for path in linear}
    with hooked(stage.model, {path: partial(_keep, outputs[path]) for path in linear}):
        answer = stage.model(stage.prepare(images))
    for path, given in outputs.items():
        if len(given) == 1 and given[0] is answer:
            return path
    raise ModelError(
        "a classifier that is trained anew is a torch.nn.Linear whose output is the network's "
        f"answer, {type(stage.model).__name__} has {len(linear)} linear layers and none is: train "
        "the exits without it"
    )


def _keep(into: list[Tensor], output: Tensor) -> None:
    into.append(output)
