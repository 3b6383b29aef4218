"""Models whose logits for an image change from run to run, or with the other images of a batch.

Neither can be scored: a cascade meets each image in another batch than the score did.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from understudy.confidence_functions import are_probabilities
from understudy.errors import ModelError, listed
from understudy.graph.partition import distance, tolerance
from understudy.nn.cost import run_eagerly
from understudy.nn.stage import EMPTY, Images, Stage

CHECKED = 8  # images, run REPEATS times together and once in two halves
REPEATS = 4  # a coin tossed once per batch falls alike in all runs with a probability of 1 in 32


def check_repeatable(stages: Mapping[str, Stage], images: Images) -> None:
    """Refuse models whose logits for an image depend on chance, or on the rest of its batch.

    The images are run together several times, and in two halves in reverse order. Logits may differ
    by rounding: as far as in the validation of a partition, in the coarsest dtype that was used.

    >>> check_repeatable({"tiny": Stage(torch.nn.Linear(4, 3))}, torch.ones(8, 4))

    Raises:
        ModelError: the message names the exit, and what its logits depend on; or it gives
            probabilities.
    """
    with run_eagerly(), _CoarsestDtype() as used:
        runs = [_logits_of(stages, images) for _ in range(REPEATS)]
        order, batches = _other_batches(len(images))
        others = [_logits_of(stages, _rows(images, rows)) for rows in batches]
    for name, logits in runs[0].items():
        if are_probabilities(logits):
            raise ModelError(
                f"a model gives logits, {name!r} gives probabilities (from 0 to 1, with the sum "
                "1): leave out its softmax, or take the logarithm of what it gives"
            )
        allowed = max(tolerance(logits), 8 * used.eps)
        off = max(distance(other[name], one[name]) for one, other in pairwise(runs))
        if not off <= allowed:
            raise ModelError(
                f"a model gives an image the same logits in every run, {name!r} does not (a batch "
                f"run again is off by {off:.1e} of the largest logit{_in_training(stages[name])}): "
                "turn off dropout, random crops and other chance in its evaluation"
            )
        off = distance(torch.cat([other[name] for other in others]), logits[order])
        if not off <= allowed:
            raise ModelError(
                "a model gives an image the same logits whatever the rest of its batch is, "
                f"{name!r} does not (in other batches it is off by {off:.1e} of the largest logit"
                f"{_in_training(stages[name])}): normalise by stored statistics, not by those of "
                "the batch"
            )


def _other_batches(count: int) -> tuple[list[int], list[list[int]]]:
    """The rows in another order, and the batches that they are run in: halves, or one row twice."""
    order = [*range(count)][::-1]
    if count == 1:
        return [0, 0], [[0, 0]]
    return order, [order[: count // 2], order[count // 2 :]]


def _logits_of(stages: Mapping[str, Stage], images: Images) -> dict[str, Tensor]:
    state, found = EMPTY, {}
    for name, stage in stages.items():
        found[name], _, state = stage.run(images, state)
    return found


def _rows(images: Images, rows: Sequence[int]) -> Images:
    return images[list(rows)] if isinstance(images, Tensor) else [images[row] for row in rows]


def _in_training(stage: Stage) -> str:
    """Which parts are left in training mode, for the message."""
    paths = [repr(path) for path, module in stage.model.named_modules() if module.training]
    return f"; in training mode: {listed(paths)}" if paths else ""


class _CoarsestDtype(TorchDispatchMode):
    """Notes the coarsest floating dtype of all results while it is on.

    Attributes:
        eps: its rounding, as in `torch.finfo`.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Not to load the compiler, which takes seconds; what it has compiled runs eagerly."""
        return False

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.eps = 0.0

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor) and value.is_floating_point():
                self.eps = max(self.eps, torch.finfo(value.dtype).eps)
        return result
