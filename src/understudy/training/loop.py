"""The loop: all heads learn side by side, and each keeps what was its best epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import cos, isfinite, pi
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from understudy.errors import DataError, ModelError
from understudy.training.checkpoint import Checkpoint
from understudy.training.config import TrainingConfig
from understudy.training.hold_out import HoldOut, Order
from understudy.training.targets import Targets, TargetSet, losses, weights
from understudy.training.trainables import Trainable

OnEpoch = Callable[[int, Mapping[str, "Score"]], None]
"""Called after every epoch with its number and the scores of all exits in it."""


LEAST_STEPS, LEAST_BATCH = 50, 32  # an epoch has so many steps, but none of fewer images


@dataclass(frozen=True)
class Score:
    """How an exit does on the images held out, after an epoch; epoch 0 is before the first.

    Without labels the accuracy is the agreement with the backbone.
    """

    accuracy: float
    loss: float
    epoch: int


@dataclass
class _LoopState:
    """Where training stands: whole epochs done, those in a row without gain, the best so far."""

    epoch: int
    stale: int
    best: list[list[Score]]
    weights: list[dict[str, Tensor]]


def fit(
    learners: Sequence[Trainable],
    lessons: TargetSet,
    parts: HoldOut,
    *,
    recipe: TrainingConfig,
    work: Checkpoint,
    name: str,
    on_epoch: OnEpoch,
) -> dict[str, Score]:
    """Train learners until they get no better; each ends with the weights of its best epoch.

    The state after every epoch is kept, and every epoch has random numbers of its own, so that an
    interrupted training ends as an undisturbed one.

    Args:
        learners: what learns, on the device of the lessons.
        lessons: what is learnt.
        parts: who is learnt from, and who is held out.
        recipe: how.
        work: where the state is kept, under `name`.
        name: of this training.
        on_epoch: called after every epoch.

    Raises:
        DataError: too few images, or unfinished work that is damaged.
        ModelError: a loss that is not finite.
    """
    if len(parts.train) < 2 or not len(parts.held_out):
        raise DataError(
            "exits are trained on at least 2 images that can be decoded and checked on others, "
            f"found {len(parts.train)} and {len(parts.held_out)}: mend the data"
        )
    modules = nn.ModuleList(learner.module for learner in learners).requires_grad_(True)
    optimizer = torch.optim.AdamW(_groups(modules, recipe), lr=recipe.lr)
    state = _resumed(work.load(name), modules, optimizer)
    if state is None:
        first = _check(learners, lessons, parts.check(), recipe, epoch=0)
        state = _LoopState(0, 0, first, [_copied(module) for module in modules])
    on_epoch(state.epoch, _by_exit(learners, state.best))
    while state.epoch < recipe.epochs and state.stale < recipe.patience:
        _epoch(learners, lessons, parts, recipe, optimizer, number=state.epoch)
        state.epoch += 1
        scores = _check(learners, lessons, parts.check(), recipe, epoch=state.epoch)
        _note_best(state, scores, modules)
        work.keep(name, _kept(state, modules, optimizer))
        on_epoch(state.epoch, _by_exit(learners, scores))
    for module, best in zip(modules, state.weights, strict=True):
        module.load_state_dict(best)
    optimizer.zero_grad()
    return _by_exit(learners, state.best)


def _epoch(
    learners: Sequence[Trainable],
    lessons: TargetSet,
    parts: HoldOut,
    recipe: TrainingConfig,
    optimizer: torch.optim.Optimizer,
    *,
    number: int,
) -> None:
    """See every image once, in steps of one size: what is left over is left out."""
    size = min(recipe.batch, len(parts.train), max(len(parts.train) // LEAST_STEPS, LEAST_BATCH))
    steps = len(parts.train) // size
    for learner in learners:
        learner.module.train()
    with _random(recipe.seed, number, lessons.device) as random:
        order = parts.epoch(random, views=recipe.views)
        whole = Order(order.positions[: steps * size], order.views[: steps * size])
        for step, lesson in enumerate(lessons.of(whole, size=size)):
            if len(lesson) < 2:
                continue
            share = (number * steps + step + 0.5) / (recipe.epochs * steps)
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * _rate(share, recipe.warmup)
            with torch.autocast(lessons.device.type, torch.bfloat16, enabled=_fast(lessons)):
                answers = [learner.answer(lesson.features) for learner in learners]
            loss = _loss(answers, lesson, recipe)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()


def _loss(answers: Sequence[Tensor], lesson: Targets, recipe: TrainingConfig) -> Tensor:
    """The sum over all exits of their mean losses; no exit's gradient reaches another's weights."""
    each = [
        (weight * losses(answer, lesson, recipe, smoothing=recipe.label_smoothing)).mean(0).sum()
        for answer, weight in zip(answers, weights(lesson, answers, recipe), strict=True)
    ]
    return torch.stack(each).sum()


@torch.no_grad()
def _check(
    learners: Sequence[Trainable],
    lessons: TargetSet,
    order: Order,
    recipe: TrainingConfig,
    *,
    epoch: int,
) -> list[list[Score]]:
    """The scores of each learner's exits on the images held out."""
    for learner in learners:
        learner.module.eval()
    sums, count = [torch.zeros(2, 1, device=lessons.device, dtype=torch.float64)] * len(learners), 0
    for lesson in lessons.of(order, size=recipe.batch):
        count += len(lesson)
        for place, learner in enumerate(learners):
            logits = learner.answer(lesson.features)
            right = logits.argmax(2) == lesson.truth()[:, None]
            sums[place] = sums[place] + torch.stack(
                [right.double().sum(0), losses(logits, lesson, recipe).double().sum(0)]
            )
    scores = [
        [Score(right / count, loss / count, epoch) for right, loss in total.T.tolist()]
        for total in sums
    ]
    for exit, score in _by_exit(learners, scores).items():
        if not isfinite(score.loss):
            raise ModelError(
                f"losses are finite, that of {exit!r} is {score.loss} after epoch {epoch} with the "
                f"learning rate {recipe.lr:g}: lower it"
            )
    return scores


def _note_best(
    state: _LoopState, scores: Sequence[Sequence[Score]], modules: nn.ModuleList
) -> None:
    better = False
    for place, (now, before) in enumerate(zip(scores, state.best, strict=True)):
        if sum(score.loss for score in now) < sum(score.loss for score in before):
            state.best[place], state.weights[place] = list(now), _copied(modules[place])
            better = True
    state.stale = 0 if better else state.stale + 1


def _by_exit(learners: Sequence[Trainable], scores: Sequence[Sequence[Score]]) -> dict[str, Score]:
    pairs = zip(learners, scores, strict=True)
    return {
        exit: score
        for learner, own in pairs
        for exit, score in zip(learner.exits, own, strict=True)
    }


def _groups(modules: nn.Module, recipe: TrainingConfig) -> list[dict[str, Any]]:
    """Matrices and filters decay; biases and gains do not."""
    parameters = list(modules.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _rate(share: float, warmup: float) -> float:
    """The learning rate, as a share of the highest, after a share of all steps."""
    if share < warmup:
        return share / warmup
    return 0.5 * (1 + cos(pi * (share - warmup) / (1 - warmup)))


def _fast(lessons: TargetSet) -> bool:
    return lessons.device.type == "cuda"


@contextmanager
def _random(seed: int, epoch: int, device: torch.device) -> Iterator[np.random.Generator]:
    """Random numbers of an epoch, whatever was drawn before it."""
    random = np.random.default_rng([seed, epoch])
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(int(random.integers(2**62)))
        yield random


def _copied(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().cpu().clone() for key, value in module.state_dict().items()}


def _kept(
    state: _LoopState, modules: nn.ModuleList, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    return {
        "epoch": state.epoch,
        "stale": state.stale,
        "best": [[asdict(score) for score in scores] for scores in state.best],
        "weights": state.weights,
        "modules": [_copied(module) for module in modules],
        "optimizer": optimizer.state_dict(),
    }


def _resumed(
    kept: dict[str, Any] | None, modules: nn.ModuleList, optimizer: torch.optim.Optimizer
) -> _LoopState | None:
    """The state that was kept, put into the modules and the optimizer."""
    if kept is None:
        return None
    for module, last in zip(modules, kept["modules"], strict=True):
        module.load_state_dict(last)
    optimizer.load_state_dict(kept["optimizer"])
    best = [[Score(**score) for score in scores] for scores in kept["best"]]
    return _LoopState(kept["epoch"], kept["stale"], best, kept["weights"])
