"""Training the exits of a network that is in memory."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from understudy.early_exit.network import ExitNetwork
from understudy.errors import UnderstudyError
from understudy.training.augmentation import Augmentation
from understudy.training.cache import Cache, Rows, Shapes, estimated, free_bytes
from understudy.training.checkpoint import Checkpoint
from understudy.training.checks import check_learnable, check_network, first_image
from understudy.training.classifier import find_classifier
from understudy.training.config import TrainingConfig
from understudy.training.features import LOGITS, FeatureExtractor, Features
from understudy.training.hold_out import HoldOut, part
from understudy.training.loop import OnEpoch, Score, fit
from understudy.training.source import FeatureSource, Streamed, TrainingImages
from understudy.training.targets import TargetSet, Teacher
from understudy.training.trainables import (
    CLASSIFIER,
    classified,
    trainable_of_classifier,
    trainables_of,
)
from understudy.zoo.data import DataSet

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""
Note = Callable[[str], None]
"""Called with remarks for people."""

PLAIN = TrainingConfig()
EXITS = "exits"
_FREE_SHARE = 0.9  # of the free disk that a cache may take


@dataclass(frozen=True)
class Training:
    """What a training did.

    Attributes:
        recipe: how exits were trained.
        data: the fingerprint of the data.
        samples: images that were learnt from.
        held_out: images that were held out.
        corrupt: images that could not be decoded, and were left out.
        cached: whether features were kept, or made anew in every epoch.
        classifier: the module path of the backbone's last layer, where it was trained anew.
        exits: every exit's score, at the epoch whose weights it has.
        seconds: how long it took, since it was last taken up.
    """

    recipe: TrainingConfig
    data: str
    samples: int
    held_out: int
    corrupt: int
    cached: bool
    classifier: str | None
    exits: Mapping[str, Score]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        exits = {name: asdict(score) for name, score in self.exits.items()}
        return {**vars(self), "recipe": self.recipe.to_dict(), "exits": exits}


def silent(*_: object) -> None:
    """Nothing is shown."""


def fit_exits(
    network: ExitNetwork,
    data: DataSet,
    *,
    recipe: TrainingConfig = PLAIN,
    classifier: bool = False,
    folder: str | Path | None = None,
    cache_gb: float = 8.0,
    workers: int = 2,
    on_progress: Progress = silent,
    on_note: Note = silent,
) -> Training:
    """Train the exits of a network where they are; its backbone and its saver stay as they are.

    The backbone is run once over every view of every image, and what the heads need of it is kept
    on disk; where that takes too much room, it is run anew in every epoch. Images that cannot be
    decoded are left out. The network ends in eval mode.

    A part of the data is held out: no exit learns from it, it chooses each exit's best epoch. Do
    not score the exits on this data: they, and perhaps the backbone, know it.

    Args:
        network: what `attach` made, on the device where it is to be trained.
        data: images with labels; without them exits learn the backbone's answers.
        recipe: how exits are trained.
        classifier: train the backbone's last linear layer anew, on the labels, first.
        folder: where unfinished work is kept, to go on from; by default a temporary one.
        cache_gb: the most room that features may take, in 10^9 bytes.
        workers: threads that decode ahead.
        on_progress: called as work proceeds.
        on_note: called with remarks.

    >>> from understudy.nn.preprocess import Preprocess
    >>> from understudy.nn.stage import Stage
    >>> from understudy.early_exit.network import attach
    >>> from understudy.zoo.data import open_data
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    >>> stage = Stage(net, preprocess=Preprocess(size=(8, 8), mean=(0.5,), std=(0.5,)))
    >>> network = attach(stage, {"2": "linear"})
    >>> quick = TrainingConfig(epochs=4, batch=64, lr=0.01, flip=False)
    >>> done = fit_exits(network, open_data("digits:train"), recipe=quick)
    >>> done.exits["2/linear"].accuracy > 0.5
    True

    Raises:
        ModelError: a network without exits, weights that need a saver where there is none, a
            backbone whose last layer is no linear one, or a loss that is not finite.
        DataError: data without labels where these are learnt, with other classes than the
            network's, that are too few, or unfinished work of another plan.
        UnderstudyError: the folder cannot be written.
    """
    begun = time.perf_counter()
    image = first_image(data)
    last = find_classifier(network.stage, [image]) if classifier else None
    check_network(network, recipe)
    check_learnable(data, int(network.stage([image]).shape[1]), recipe, classifier=classifier)
    parts = part(data, held_out=recipe.held_out, seed=recipe.seed)
    with _work(folder, _plan(network, data, recipe, last)) as work:
        take = FeatureExtractor(
            network, classifier=last, logits=recipe.targets != "labels" and last is None
        )
        views = Augmentation(shift=recipe.shift, flip=recipe.flip, seed=recipe.seed)
        source = _source(
            TrainingImages(data, views, take, workers),
            parts,
            work=work,
            views=recipe.views,
            room=cache_gb * 1e9,
            on_progress=on_progress,
            on_note=on_note,
        )
        course = _Trainer(network, data, recipe, source, parts, work, on_progress, on_note)
        scores = course.of_classifier(last) if last is not None else {}
        scores |= course.of_exits(last)
    network.eval()
    corrupt = source.corrupt()
    learnt = parts.without(corrupt)
    return Training(
        recipe=recipe,
        data=data.fingerprint,
        samples=len(learnt.train),
        held_out=len(learnt.held_out),
        corrupt=len(corrupt),
        cached=isinstance(source, Cache),
        classifier=last,
        exits=scores,
        seconds=time.perf_counter() - begun,
    )


@dataclass(frozen=True, eq=False)
class _Trainer:
    """All that two trainings of one network share: that of its classifier, that of its exits."""

    network: ExitNetwork
    data: DataSet
    recipe: TrainingConfig
    source: FeatureSource
    parts: HoldOut
    work: Checkpoint
    on_progress: Progress
    on_note: Note

    def of_classifier(self, path: str) -> dict[str, Score]:
        """Train the backbone's last layer on the labels."""
        learner = trainable_of_classifier(self._classifier(path))
        recipe = replace(self.recipe, targets="labels", weights="even")
        return fit(
            [learner],
            self._lessons(None),
            self.parts.without(self.source.corrupt()),
            recipe=recipe,
            work=self.work,
            name=CLASSIFIER,
            on_epoch=self._on_epoch(CLASSIFIER),
        )

    def of_exits(self, path: str | None) -> dict[str, Score]:
        """Train the exits, on the answers of the backbone as it is now where these are learnt."""
        teacher: Teacher | None = None
        if self.recipe.targets != "labels":
            teacher = _given if path is None else partial(_taught, self._classifier(path))
        return fit(
            trainables_of(self.network),
            self._lessons(teacher),
            self.parts.without(self.source.corrupt()),
            recipe=self.recipe,
            work=self.work,
            name=EXITS,
            on_epoch=self._on_epoch(EXITS),
        )

    def _classifier(self, path: str) -> nn.Module:
        return self.network.stage.model.get_submodule(path)

    def _lessons(self, teacher: Teacher | None) -> TargetSet:
        return TargetSet(self.source, self.data.labels, teacher, self.network.stage.device)

    def _on_epoch(self, what: str) -> OnEpoch:
        def told(epoch: int, scores: Mapping[str, Score]) -> None:
            self.on_progress(what, epoch, self.recipe.epochs)
            right = sorted(100 * score.accuracy for score in scores.values())
            found = f"{right[0]:.1f}" + (f" to {right[-1]:.1f}" if len(right) > 1 else "")
            self.on_note(f"{what}, epoch {epoch}: {found} % of the images held out are right")

        return told


def _given(features: Features) -> Tensor:
    return features[LOGITS]


@torch.no_grad()
def _taught(classifier: nn.Module, features: Features) -> Tensor:
    return classified(classifier, features)


def _source(
    seen: TrainingImages,
    parts: HoldOut,
    *,
    work: Checkpoint,
    views: int,
    room: float,
    on_progress: Progress,
    on_note: Note,
) -> FeatureSource:
    """A cache of all features, filled; or their stream, where a cache takes too much room."""
    shapes: Shapes = {
        name: tuple(value.shape[1:]) for name, value in seen.take([first_image(seen.data)]).items()
    }
    rows = Rows.of(parts, images=len(seen.data), views=views)
    size = estimated(shapes, rows)
    room = min(room, _FREE_SHARE * free_bytes(work.features))
    if size > room and not Cache.begun(work.features):
        on_note(
            f"features would take {size / 1e9:.1f} GB where there is room for {room / 1e9:.1f}: "
            "the network runs anew in every epoch; --cache-gb gives more, fewer views need less"
        )
        return Streamed(seen)
    cache = Cache(work.features, shapes, rows)
    cache.fill(seen, on_progress=partial(on_progress, "features"))
    return cache


def _plan(
    network: ExitNetwork, data: DataSet, recipe: TrainingConfig, classifier: str | None
) -> dict[str, Any]:
    """All that decides the weights, in plain JSON; what differs first is named first."""
    stage, saver_branch = network.stage, network.saver_branch
    return {
        "data": data.fingerprint,
        "backbone": stage.weights_hash,
        "preprocess": None if stage.preprocess is None else stage.preprocess.to_dict(),
        "taps": [tap.path for tap in network.taps],
        "heads": [[p.tap, p.head, network.head(p).to_dict()] for p in network.locations],
        "saver": None
        if saver_branch is None
        else [saver_branch.saver.weights_hash, saver_branch.sequence.spec.to_dict()],
        "classifier": classifier,
        **recipe.to_dict(),
        "device": stage.device.type,
        "first weights": network.weights_hash,
    }


@contextmanager
def _work(folder: str | Path | None, plan: Mapping[str, Any]) -> Iterator[Checkpoint]:
    if folder is None:
        with tempfile.TemporaryDirectory(
            prefix="understudy-", ignore_cleanup_errors=True
        ) as temporary:
            yield Checkpoint(Path(temporary), plan)
        return
    work = Checkpoint(Path(folder), plan)
    try:
        yield work
    except UnderstudyError:
        work.remove_if_bare()
        raise
