"""What heads learn from: named features of a frozen network, taken in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from understudy.early_exit.heads import PooledHead, pool
from understudy.early_exit.network import ExitNetwork
from understudy.errors import ModelError
from understudy.graph.capture import hooked
from understudy.nn.device import Images
from understudy.nn.stage import Stage

Features = Mapping[str, Tensor]
"""Named features of some samples, each (N, ...)."""

LOGITS = "logits"
CLASSIFIED = "input of the classifier"
SAVER, SAVER_LOGITS = "saver", "saver logits"
KEPT = torch.float16
"""The dtype in which features are kept."""

Reductions = Mapping[str, Mapping[str, Callable[[Tensor], Tensor]]]
"""Module path -> name of a feature -> what makes it of the module's output."""


class _Enough(Exception):
    """All that was wanted is there: the rest of the network need not run."""


class FeatureExtractor:
    """Takes the features that the heads of a network learn from, in one pass of its backbone and of
    its saver.

    It listens at the tapped modules of the frozen network, which runs as it is, in eval mode, and
    no further than needed.

    Args:
        network: its heads and its saver decide what is taken.
        classifier: the module path of a layer whose input is taken as well.
        logits: whether the backbone's logits are taken.
    """

    def __init__(self, network: ExitNetwork, *, classifier: str | None, logits: bool) -> None:
        self._network = network
        self._classifier = classifier
        self._logits = logits
        self._reductions = _reductions_of(network)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self._network.stage.device

    @torch.no_grad()
    def __call__(self, images: Images) -> dict[str, Tensor]:
        """The features of some images: name -> (N, ...), float16, where the network is.

        Raises:
            ModelError: a feature that is not finite.
        """
        found = _taken(
            self._network.stage,
            images,
            self._reductions,
            input_of=self._classifier,
            logits=LOGITS if self._logits else None,
        )
        saver_branch = self._network.saver_branch
        if saver_branch is not None:
            (tap,) = saver_branch.saver.taps
            mean = {tap.path: {SAVER: partial(pool, layout=tap.layout)}}
            found |= _taken(saver_branch.saver.stage, images, mean, logits=SAVER_LOGITS)
        return {name: _kept(name, value) for name, value in found.items()}


def feature_of(path: str, reduction: str) -> str:
    """The name of what a reduction makes of the feature at a tap.

    >>> feature_of("layer1.3", "mean")
    'layer1.3: mean'
    """
    return f"{path}: {reduction}"


def _reductions_of(network: ExitNetwork) -> Reductions:
    wanted: dict[str, dict[str, Callable[[Tensor], Tensor]]] = {}
    for point in network.points:
        head, path = network.head(point), network.taps[point.tap].path
        wanted.setdefault(path, {})[feature_of(path, head.reduction)] = head.reduce
    for tap in network.taps if network.saver_branch is not None else ():
        mean = {feature_of(tap.path, PooledHead.reduction): partial(pool, layout=tap.layout)}
        wanted[tap.path] = {**mean, **wanted.get(tap.path, {})}
    return wanted


def _taken(
    stage: Stage,
    images: Images,
    reductions: Reductions,
    *,
    input_of: str | None = None,
    logits: str | None = None,
) -> dict[str, Tensor]:
    """Run a network as far as needed; what is taken is copied, since layers may write in place."""
    found: dict[str, Tensor] = {}
    left = set(reductions)
    whole = logits is not None or input_of is not None

    def note(path: str, output: Tensor) -> None:
        for name, reduce in reductions[path].items():
            found[name] = reduce(output).to(KEPT, copy=True)
        left.discard(path)
        if not left and not whole:
            raise _Enough

    def note_input(_module: Any, args: tuple[Tensor, ...]) -> None:
        found[CLASSIFIED] = args[0].to(KEPT, copy=True)

    stage.model.eval()
    hooks = {path: partial(note, path) for path in reductions}
    with hooked(stage.model, hooks), _input_hooked(stage, input_of, note_input):
        try:
            answer = stage.model(stage.prepare(images))
        except _Enough:
            return found
    if logits is not None:
        found[logits] = answer.to(KEPT, copy=True)
    return found


@contextmanager
def _input_hooked(stage: Stage, path: str | None, hook: Callable[..., None]) -> Iterator[None]:
    if path is None:
        yield
        return
    handle = stage.model.get_submodule(path).register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _kept(name: str, value: Tensor) -> Tensor:
    if value.isnan().any():
        raise ModelError(
            f"features are numbers, {name!r} has {int(value.isnan().sum())} that are none (NaN): "
            "check the weights of the network"
        )
    largest = torch.finfo(KEPT).max
    return value.clamp_(-largest, largest)
