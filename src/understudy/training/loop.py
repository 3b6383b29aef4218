"""The training loop: all heads are trained side by side, and each keeps its best epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from math import cos, isfinite, pi
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from understudy.errors import DataError, ModelError
from understudy.json_codec import stored
from understudy.training.averaging import AveragedWeights
from understudy.training.checkpoint import WEIGHTS, BestWeights, Checkpoint
from understudy.training.config import TrainingConfig
from understudy.training.features import FeatureSource
from understudy.training.sampling import HoldOut, SampleOrder
from understudy.training.targets import Targets, TargetSet, joined, weights
from understudy.training.trainables import Trainable

OnEpoch = Callable[[int, Mapping[str, "HeldOutMetrics"]], None]
"""Called after every epoch with its number and the metrics of all exits in it."""

LEAST_STEPS, LEAST_BATCH = 50, 32  # an epoch has so many steps, but none of fewer images


class TrainingDiverged(ModelError):
    """A loss that is not finite; what was trained has its best weights until then."""


@dataclass(frozen=True)
class HeldOutMetrics:
    """An exit's accuracy and loss on the images held out after an epoch; epoch 0 is untrained.

    Without labels the accuracy is the agreement with the backbone. Where epochs are judged by what
    a cascade saves, that is the saving, else None.
    """

    accuracy: float
    loss: float
    epoch: int
    saving: float | None = field(default=None, metadata=stored(optional=True))


@dataclass(frozen=True)
class Fitted:
    """What `fit` did.

    Attributes:
        best: every exit's metrics, at the epoch whose weights it has.
        epochs: those after every epoch; the first are of the weights before.
    """

    best: Mapping[str, HeldOutMetrics]
    epochs: tuple[Mapping[str, HeldOutMetrics], ...]


@dataclass
class _LoopState:
    """The state of training: epochs in a row without gain, the best so far, and the metrics of each
    trainable's exits after every epoch, the weights before training first."""

    stale: int
    best: list[list[HeldOutMetrics]]
    weights: list[dict[str, Tensor]]
    epochs: list[list[list[HeldOutMetrics]]]

    @property
    def epoch(self) -> int:
        """Whole epochs done."""
        return len(self.epochs) - 1


def fit(
    trainables: Sequence[Trainable],
    targets: TargetSet,
    hold_out: HoldOut,
    *,
    config: TrainingConfig,
    checkpoint: Checkpoint,
    name: str,
    on_epoch: OnEpoch,
    checked_on: TargetSet | None = None,
) -> Fitted:
    """Train until nothing improves; every trainable ends with the weights of its best epoch.

    The state is saved after an epoch where that is due (`Checkpoint.due`), and every epoch has
    random numbers of its own, so that an interrupted training ends as an undisturbed one.

    Args:
        trainables: what is trained, on the device of the targets.
        targets: features and targets of all images.
        hold_out: the training images and those held out.
        config: how.
        checkpoint: where the state is saved, under `name`.
        name: of this training.
        on_epoch: called after every epoch.
        checked_on: features and targets of the images held out, where these need others.

    Raises:
        DataError: too few images, or unfinished work that is damaged.
        TrainingDiverged: a loss that is not finite.
    """
    check_enough(hold_out)
    modules = nn.ModuleList(one.module for one in trainables).requires_grad_(True)
    optimizer = torch.optim.AdamW(_parameter_groups(trainables, config), lr=config.lr)
    average = AveragedWeights(modules, config.ema) if config.ema else None
    order, checked_on = hold_out.held_out_order(), checked_on or targets
    measure = partial(_measure, trainables, checked_on, order, size=config.batch)
    state = _restored(checkpoint.load(name), modules, optimizer, average, targets.source)
    if state is None:
        first = measure(epoch=0)
        state = _LoopState(0, list(first), [_copied(module) for module in modules], [first])
        _check_finite(trainables, first, config)
    on_epoch(state.epoch, _by_exit(trainables, state.best))
    while not _ended(state, config):
        _train_epoch(
            trainables,
            targets,
            hold_out,
            config,
            optimizer,
            number=state.epoch,
            after_step=partial(average.update, modules) if average else _nothing,
        )
        with nullcontext() if average is None else average.applied(modules):
            metrics = measure(epoch=state.epoch + 1)
            if _finite(metrics):
                state.epochs.append(metrics)
                _keep_best(state, metrics, modules)
        if not _finite(metrics):
            _load_best(modules, state)
            _check_finite(trainables, metrics, config)
        if checkpoint.due() or _ended(state, config):
            now = _saved(state, modules, optimizer, average, targets.source)
            checkpoint.save(name, now, best=_best_weights(state))
        on_epoch(state.epoch, _by_exit(trainables, metrics))
    _load_best(modules, state)
    optimizer.zero_grad()
    return Fitted(
        _by_exit(trainables, state.best),
        tuple(_by_exit(trainables, metrics) for metrics in state.epochs),
    )


def check_enough(hold_out: HoldOut) -> None:
    """Refuse too few images.

    Raises:
        DataError: the message has how many there are.
    """
    if len(hold_out.train) < 2 or not len(hold_out.held_out):
        raise DataError(
            "training takes at least 2 images that can be decoded, and others to check it on, "
            f"found {len(hold_out.train)} and {len(hold_out.held_out)}: mend the data"
        )


def _ended(state: _LoopState, config: TrainingConfig) -> bool:
    return state.epoch >= config.epochs or state.stale >= config.patience


def _train_epoch(
    trainables: Sequence[Trainable],
    targets: TargetSet,
    hold_out: HoldOut,
    config: TrainingConfig,
    optimizer: torch.optim.Optimizer,
    *,
    number: int,
    after_step: Callable[[], None],
) -> None:
    """Train on every image once, in steps of one size: what is left over is left out."""
    count = len(hold_out.train)
    size = min(config.batch, count, max(count // LEAST_STEPS, LEAST_BATCH))
    steps = count // size
    for one in trainables:
        one.module.train()
    dtype = training_dtype(config, targets.device)
    with _random_of_epoch(config.seed, number, targets.device) as random:
        order = hold_out.training_order(random, views=config.views)
        if config.fresh:
            order = order.in_view(number + 1)
        whole = SampleOrder(order.positions[: steps * size], order.views[: steps * size])
        for step, batch in enumerate(targets.batches(whole, size=size)):
            if len(batch) < 2:
                continue
            progress = (number * steps + step + 0.5) / (config.epochs * steps)
            for group in optimizer.param_groups:
                group["lr"] = group["highest_lr"] * _lr_factor(progress, config.warmup)
            with torch.autocast(targets.device.type, dtype, enabled=dtype != torch.float32):
                logits = [one.logits(batch.features) for one in trainables]
            loss = _loss(trainables, logits, batch, config)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            after_step()


def _nothing() -> None:
    """What is done after a step where no weights are averaged."""


def training_dtype(config: TrainingConfig, device: torch.device) -> torch.dtype:
    """The dtype of products in training steps: bfloat16 where the device has units for it.

    >>> training_dtype(TrainingConfig(dtype="float32"), torch.device("cpu"))
    torch.float32
    """
    if config.dtype != "auto":
        return torch.bfloat16 if config.dtype == "bfloat16" else torch.float32
    native = torch.cuda.is_bf16_supported() if device.type == "cuda" else _has_matrix_units()
    return torch.bfloat16 if native else torch.float32


def _has_matrix_units() -> bool:
    return bool(torch.cpu._is_amx_tile_supported())


def _loss(
    trainables: Sequence[Trainable],
    logits: Sequence[Tensor],
    batch: Targets,
    config: TrainingConfig,
) -> Tensor:
    """The sum over all exits of their mean losses."""
    each = [
        (weight * one.losses(own, batch)).mean(0).sum()
        for one, own, weight in zip(trainables, logits, weights(batch, logits, config), strict=True)
    ]
    return torch.stack(each).sum()


@torch.no_grad()
def _measure(
    trainables: Sequence[Trainable],
    targets: TargetSet,
    order: SampleOrder,
    *,
    size: int,
    epoch: int,
) -> list[list[HeldOutMetrics]]:
    """The metrics of each trainable's exits on the images held out."""
    for one in trainables:
        one.module.eval()
    zero = torch.zeros(2, 1, device=targets.device, dtype=torch.float64)
    sums, count = [zero] * len(trainables), 0
    judged: list[list[Tensor]] = [[] for _ in trainables]
    seen: list[Targets] = []
    for batch in targets.batches(order, size=size):
        count += len(batch)
        seen.append(batch.without_features())
        for number, one in enumerate(trainables):
            logits = one.logits(batch.features)
            right = logits.argmax(2) == batch.truth()[:, None]
            sums[number] = sums[number] + torch.stack(
                [right.double().sum(0), one.measured(logits, batch).double().sum(0)]
            )
            if one.saving is not None:
                judged[number].append(logits.float())
    metrics = [
        [HeldOutMetrics(right / count, loss / count, epoch) for right, loss in total.T.tolist()]
        for total in sums
    ]
    for number, one in enumerate(trainables):
        if one.saving is not None:
            answers = torch.cat(judged[number])
            saving = one.saving(answers, joined(seen)) if answers.isfinite().all() else 0.0
            metrics[number] = [replace(own, saving=saving) for own in metrics[number]]
    return metrics


def _finite(metrics: Sequence[Sequence[HeldOutMetrics]]) -> bool:
    return all(isfinite(one.loss) for of_exits in metrics for one in of_exits)


def _check_finite(
    trainables: Sequence[Trainable],
    metrics: Sequence[Sequence[HeldOutMetrics]],
    config: TrainingConfig,
) -> None:
    """Refuse losses that are not finite."""
    for exit, own in _by_exit(trainables, metrics).items():
        if not isfinite(own.loss):
            raise TrainingDiverged(
                f"losses are finite, that of {exit!r} is {own.loss} after epoch {own.epoch} with "
                f"the learning rate {config.lr:g}: lower it (the weights are those of the best "
                "epochs before it)"
            )


def _load_best(modules: Iterable[nn.Module], state: _LoopState) -> None:
    for module, best in zip(modules, state.weights, strict=True):
        module.load_state_dict(best)


def _best_weights(state: _LoopState) -> list[BestWeights]:
    pairs = zip(state.best, state.weights, strict=True)
    return [BestWeights(metrics[0].epoch, weights) for metrics, weights in pairs]


def _keep_best(
    state: _LoopState, metrics: Sequence[Sequence[HeldOutMetrics]], modules: nn.ModuleList
) -> None:
    better = False
    for number, (now, before) in enumerate(zip(metrics, state.best, strict=True)):
        if _worth(now) > _worth(before):
            state.best[number], state.weights[number] = list(now), _copied(modules[number])
            better = True
    state.stale = 0 if better else state.stale + 1


def _worth(metrics: Sequence[HeldOutMetrics]) -> tuple[float, float]:
    """What the best epoch has most of: first what a cascade saves, where that is known."""
    savings = [one.saving for one in metrics if one.saving is not None]
    return sum(savings), -sum(one.loss for one in metrics)


def _by_exit(
    trainables: Sequence[Trainable], metrics: Sequence[Sequence[HeldOutMetrics]]
) -> dict[str, HeldOutMetrics]:
    return {
        exit: own
        for one, of_exits in zip(trainables, metrics, strict=True)
        for exit, own in zip(one.exits, of_exits, strict=True)
    }


def _parameter_groups(
    trainables: Sequence[Trainable], config: TrainingConfig
) -> list[dict[str, Any]]:
    """Matrices and filters decay; biases and gains do not. Backbones learn at their own rate."""
    backbones = [one.backbone for one in trainables if one.backbone is not None]
    tuned = dict.fromkeys(p for backbone in backbones for p in backbone.parameters())
    own = [p for one in trainables for p in one.module.parameters() if p not in tuned]
    return [
        {"params": params, "weight_decay": decay, "highest_lr": rate}
        for rate, parameters in ((config.lr, own), (config.backbone_lr, [*tuned]))
        for params, decay in (
            ([p for p in parameters if p.ndim > 1], config.weight_decay),
            ([p for p in parameters if p.ndim <= 1], 0.0),
        )
        if params
    ]


def _lr_factor(progress: float, warmup: float) -> float:
    """The learning rate, as a share of the highest, after a share of all steps."""
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + cos(pi * (progress - warmup) / (1 - warmup)))


@contextmanager
def _random_of_epoch(seed: int, epoch: int, device: torch.device) -> Iterator[np.random.Generator]:
    """The random numbers of an epoch, independent of what was drawn before it."""
    random = np.random.default_rng([seed, epoch])
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(int(random.integers(2**62)))
        yield random


def _copied(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().cpu().clone() for key, value in module.state_dict().items()}


def _saved(
    state: _LoopState,
    modules: nn.ModuleList,
    optimizer: torch.optim.Optimizer,
    average: AveragedWeights | None,
    source: FeatureSource,
) -> dict[str, Any]:
    return {
        "stale": state.stale,
        "best": _as_numbers(state.best),
        "epochs": [_as_numbers(metrics) for metrics in state.epochs],
        "modules": [module.state_dict() for module in modules],
        "optimizer": optimizer.state_dict(),
        "average": None if average is None else average.state_dict(),
        "corrupt": source.corrupt().tolist(),
    }


def _restored(
    saved: dict[str, Any] | None,
    modules: nn.ModuleList,
    optimizer: torch.optim.Optimizer,
    average: AveragedWeights | None,
    source: FeatureSource,
) -> _LoopState | None:
    """The state that was saved, put into the modules, the optimizer, the average and the source."""
    if saved is None:
        return None
    for module, last in zip(modules, saved["modules"], strict=True):
        module.load_state_dict(last)
    optimizer.load_state_dict(saved["optimizer"])
    if average is not None:
        average.load_state_dict(saved["average"])
    source.add_corrupt(np.array(saved.get("corrupt", ()), np.int64))
    epochs = [_as_metrics(numbers) for numbers in saved["epochs"]]
    return _LoopState(saved["stale"], _as_metrics(saved["best"]), saved[WEIGHTS], epochs)


def _as_numbers(metrics: Sequence[Sequence[HeldOutMetrics]]) -> list[list[dict[str, Any]]]:
    return [[asdict(one) for one in of_exits] for of_exits in metrics]


def _as_metrics(numbers: Sequence[Sequence[dict[str, Any]]]) -> list[list[HeldOutMetrics]]:
    return [[HeldOutMetrics(**one) for one in of_exits] for of_exits in numbers]
