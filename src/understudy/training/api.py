"""Training exits: from specs to a folder (resumable), or those of a network in memory."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from understudy.early_exit.exit_sequence import SEQUENCE, SequenceSize
from understudy.early_exit.network import ExitNetwork, attach, example_image
from understudy.early_exit.serialization import check_replaceable, save_exits
from understudy.early_exit.taps import Tap, even_taps, list_taps, tap_at, useful_taps
from understudy.errors import ModelError, UnderstudyError
from understudy.files import only_writer
from understudy.folders import remove_folder
from understudy.json_codec import Stored, stored
from understudy.nn.preprocess import pixels_of
from understudy.nn.stage import Stage, usable_device
from understudy.progress_bars import Advance, no_bar
from understudy.training.augmentation import Augmentation, fresh_augmentation
from understudy.training.checkpoint import Checkpoint, free_bytes, state_bytes
from understudy.training.config import TrainingConfig
from understudy.training.feature_cache import (
    CacheRows,
    FeatureCache,
    kinds_of,
    wide_words,
)
from understudy.training.features import (
    LOGITS,
    WIDE,
    Extractor,
    FeatureExtractor,
    FeatureSource,
    StreamedFeatures,
    TrainingImages,
    find_classifier,
)
from understudy.training.joint import TuningInputs, trained_together
from understudy.training.loop import (
    HeldOutMetrics,
    fit,
    training_dtype,
)
from understudy.training.named_config import ALL, Taps
from understudy.training.sampling import HoldOut, hold_out
from understudy.training.targets import TargetSet, Teacher, check_targets
from understudy.training.trainables import (
    CLASSIFIER,
    Trainable,
    classifier_logits,
    trainable_of_classifier,
    trainables_of,
)
from understudy.zoo.batches import first_images, stacked
from understudy.zoo.data import DataSet, open_data
from understudy.zoo.model_specs import modules_of
from understudy.zoo.models import load_network, load_stage, named_models, plain_and_mode

Note = Callable[[str], None]
"""Called with remarks for people."""

DEFAULT = TrainingConfig()
USUAL_TAPS = 6
EXITS = "exits"
_FIRST = 32  # images that show what the features are
_FREE_SHARE = 0.9  # of the free disk that a cache may take


def train_exits(
    model: str,
    data: str,
    into: str | Path,
    *,
    taps: Taps | None = None,
    heads: Sequence[str] = ("linear",),
    saver: str | None = None,
    sequence: SequenceSize = SEQUENCE,
    classifier: bool = False,
    config: TrainingConfig = DEFAULT,
    cache_gb: float = 8.0,
    workers: int | None = None,
    device: str | None = None,
    precision: str | None = None,
    on_progress: Advance = no_bar,
    on_note: Note = no_bar,
) -> ExitNetwork:
    """Train exits for the model that a spec names, write them into a folder, and read it back.

    Unfinished work lies in ``INTO.partial``: the same call resumes where it was interrupted, and
    ends with the weights of an undisturbed run. Score the exits as ``exits:INTO``, on other data
    than these, which they were trained on.

    Args:
        model: model spec (`zoo.load_stage`); NAME=SPEC names the network. With ``?run=MODE`` the
            network is stored in that execution mode, in which its exits are then scored and run.
        data: data spec (`zoo.open_data`).
        into: the folder; a folder of exits that is there is replaced.
        taps: module paths; "all" for every block before the end of the network; or how many taps,
            spread evenly over its cost; by default 6, or as many as it has.
        heads: kinds of heads (`nn.heads.make_head`); one of each at every tap.
        saver: model spec of a saver, which an Exit Sequence Network refines at every tap.
        sequence: the size of that network.
        classifier: train the backbone's last linear layer anew, on the labels, first.
        config: how exits are trained.
        cache_gb: the most disk space for features, in 10^9 bytes; where they need more, the network
            runs anew in every epoch.
        workers: threads that decode ahead; one per core and at most 8 unless given.
        device: where to run, as torch names it; an NVIDIA GPU if there is one, else the CPU.
        precision: in which the backbone runs, as in `fit_exits`.
        on_progress: called as work proceeds.
        on_note: called with remarks.

    Raises:
        ModelError: models that cannot be loaded or split, an unknown tap or kind of head, a saver
            of other classes, and what `fit_exits` raises.
        DataError: data that cannot be used, or unfinished work of another plan.
        InUse: another process trains into the same folder.
        UnderstudyError: `into` is something else, or cannot be written.
    """
    target = Path(into)
    check_replaceable(target)
    images = open_data(data)
    image = pixels_of(*first_images(images, 1))
    ((name, spec),) = named_models([model]).items()
    with _seeded(config.seed):
        network = _network(spec, image, taps=taps, heads=heads, saver=saver, sequence=sequence)
    network.stages(name)  # refuses a saver of the same name
    _ = network.trunk  # refuses what cannot be split, before hours of work
    folder = target.with_name(f"{target.name}.partial")
    with only_writer(folder, wait=False):
        trained = fit_exits(
            network.to(usable_device(device)),
            images,
            config=config,
            classifier=classifier,
            folder=folder,
            cache_gb=cache_gb,
            workers=workers,
            precision=precision,
            on_progress=on_progress,
            on_note=on_note,
        )
        save_exits(
            network.cpu(),
            target,
            name=name,
            classifier=trained.classifier,
            backbone=config.backbone_lr > 0,
            training=trained.to_dict(),
        )
        remove_folder(folder)
    return load_network(f"exits:{target}", allow_code=modules_of(filter(None, (model, saver))))


def _network(
    spec: str,
    image: Tensor,
    *,
    taps: Taps | None,
    heads: Sequence[str],
    saver: str | None,
    sequence: SequenceSize,
) -> ExitNetwork:
    plain, mode = plain_and_mode(spec)
    stage = load_stage(plain)
    sample = _sample(stage, image)
    kinds = {kind: kind for kind in heads}
    savers = {} if saver is None else named_models([saver])
    network = attach(
        stage,
        {tap.path: kinds for tap in _taps(stage, sample, taps)},
        image=sample,
        saver={name: load_stage(one) for name, one in savers.items()} or None,
        sequence=sequence,
    )
    return network.with_mode(mode)


def _sample(stage: Stage, image: Tensor) -> Tensor:
    """One sample of the size that the stage takes."""
    preprocess = stage.preprocess
    return image if preprocess is None or preprocess.size is None else example_image(stage)


def _taps(stage: Stage, sample: Tensor, taps: Taps | None) -> tuple[Tap, ...]:
    if taps is not None and taps != ALL and not isinstance(taps, int):
        return tap_at(stage, sample, taps)
    found = list_taps(stage, sample)
    useful = len(useful_taps(found))
    if isinstance(taps, int):
        return even_taps(found, taps)
    return even_taps(found, max(useful if taps == ALL else min(USUAL_TAPS, useful), 1))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@dataclass(frozen=True)
class TrainingSummary(Stored):
    """The outcome of a training.

    Attributes:
        config: how exits were trained.
        data: the fingerprint of the data.
        samples: training images.
        held_out: images that were held out.
        corrupt: images that could not be decoded, and were left out.
        cached: whether features were cached, or made anew in every epoch.
        classifier: the module path of the backbone's last layer, where it was trained anew.
        exits: every exit's metrics, at the epoch whose weights it has.
        seconds: how long it took, since it was last resumed.
    """

    config: TrainingConfig = field(metadata=stored(key="recipe"))
    data: str
    samples: int
    held_out: int
    corrupt: int
    cached: bool
    classifier: str | None
    exits: Mapping[str, HeldOutMetrics]
    seconds: float


def fit_exits(
    network: ExitNetwork,
    data: DataSet,
    *,
    config: TrainingConfig = DEFAULT,
    classifier: bool = False,
    folder: str | Path | None = None,
    cache_gb: float = 8.0,
    workers: int | None = None,
    precision: str | None = None,
    on_progress: Advance = no_bar,
    on_note: Note = no_bar,
) -> TrainingSummary:
    """Train the exits of a network in place; its saver stays as it is, and so does its backbone,
    unless `config.backbone_lr` is above 0.

    A backbone that stays as it is runs once over every view of every image, and the features that
    the heads need are cached on disk; where they need too much space, it runs anew in every epoch,
    as one does that is tuned. Images that cannot be decoded are left out. The network ends in eval
    mode.

    A backbone that is tuned is held to the answers that it gave before, on the same views. It keeps
    the running statistics of batch normalisation. Its last answer changes all the same: measure the
    drop against the network as it was, which is scored beside it.

    A share of the data is held out: no exit is trained on it, it chooses each exit's best epoch. Do
    not score the exits on this data, which they, and perhaps the backbone, were trained on.

    Args:
        network: what `attach` made, on the device where it is to be trained.
        data: images with labels; without them exits learn the backbone's answers.
        config: how exits are trained.
        classifier: train the backbone's last linear layer anew, on the labels, first.
        folder: for unfinished work, which the same call resumes; by default a temporary one.
        cache_gb: the most disk space for features, in 10^9 bytes.
        workers: threads that decode ahead; one per core and at most 8 unless given.
        precision: "bfloat16" or "float16": the backbone runs under autocast, for speed, where its
            device has units for it. By default features are made in the precision in which the
            exits get them when they run (`backbone.BackboneSettings`).
        on_progress: called as work proceeds.
        on_note: called with remarks.

    >>> from understudy.nn.stage import Preprocess
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    >>> stage = Stage(net, preprocess=Preprocess(size=(8, 8), mean=(0.5,), std=(0.5,)))
    >>> network = attach(stage, {"2": "linear"})
    >>> quick = TrainingConfig(epochs=4, batch=64, lr=0.01, flip=False)
    >>> summary = fit_exits(network, open_data("digits:train"), config=quick)
    >>> summary.exits["2/linear"].accuracy > 0.5
    True

    Raises:
        ModelError: a network without exits, weights that need a saver where there is none, a
            backbone whose last layer is no linear one, or that is tuned while that layer is to be
            trained anew or samples have other weights than even ones, features or a loss that are
            not finite, or a precision that the device or the network's mode does not have.
        DataError: data without labels where these are a target, with other classes than the
            network's, that are too few, or unfinished work of another plan.
        UnderstudyError: the folder cannot be written, or has no room for checkpoints.
    """
    start = time.perf_counter()
    images = first_images(data, 1)
    path = find_classifier(network.stage, images) if classifier else None
    _check_exits(network, config, path)
    classes = int(network.stage(images).shape[1])
    check_targets(data, classes, config, classifier=classifier)
    parts = hold_out(data, share=config.held_out, seed=config.seed)
    plan = _plan(network, data, config, classifier=path, precision=precision)
    with checkpoint_in(folder, plan) as checkpoint:
        modules = _trained_modules(network, config, path)
        checkpoint.check_room(modules)
        train = TrainingImages(
            data,
            Augmentation(shift=config.shift, flip=config.flip, seed=config.seed),
            _extractor(network, config, path, precision),
            workers,
            fresh_augmentation(config, _stages(network)),
        )
        source: FeatureSource = (
            StreamedFeatures(train)
            if config.backbone_lr
            else _feature_source(
                train,
                parts,
                folder=checkpoint.features,
                views=config.views,
                space=cache_gb * 1e9,
                apart=2 * state_bytes(modules),
                on_progress=on_progress,
                on_note=on_note,
            )
        )
        trainer = _Trainer(network, data, classes, source, parts, checkpoint, on_progress, on_note)
        exits = trainer.train(config, classifier=path)
    network.eval()
    network.forget_segments()
    corrupt = source.corrupt()
    used = parts.without(corrupt)
    return TrainingSummary(
        config=config,
        data=data.fingerprint,
        samples=len(used.train),
        held_out=len(used.held_out),
        corrupt=len(corrupt),
        cached=isinstance(source, FeatureCache),
        classifier=path,
        exits=exits,
        seconds=time.perf_counter() - start,
    )


@dataclass(frozen=True, eq=False)
class _Trainer:
    """What the training of a network's classifier and that of its exits share."""

    network: ExitNetwork
    data: DataSet
    classes: int
    source: FeatureSource
    hold_out: HoldOut
    checkpoint: Checkpoint
    on_progress: Advance
    on_note: Note

    def train(self, config: TrainingConfig, *, classifier: str | None) -> dict[str, HeldOutMetrics]:
        """Train the classifier on the labels, where there is one, and then the exits.

        Where the backbone's answers are a target, they are those with the new classifier.
        """
        metrics: dict[str, HeldOutMetrics] = {}
        teacher: Teacher = _stored_logits
        if classifier is not None:
            layer = self.network.stage.model.get_submodule(classifier)
            on_labels = replace(config, targets="labels", weights="even")
            metrics = self._fit(
                CLASSIFIER, [trainable_of_classifier(layer, on_labels)], None, on_labels
            )
            teacher = torch.no_grad()(partial(classifier_logits, layer))
        needed = teacher if config.targets != "labels" or config.backbone_lr else None
        return metrics | self._fit(EXITS, _trained_exits(self.network, config), needed, config)

    def _fit(
        self,
        name: str,
        trainables: Sequence[Trainable],
        teacher: Teacher | None,
        config: TrainingConfig,
    ) -> dict[str, HeldOutMetrics]:
        def on_epoch(epoch: int, metrics: Mapping[str, HeldOutMetrics]) -> None:
            self.on_progress(name, epoch, config.epochs)
            right = sorted(100 * own.accuracy for own in metrics.values())
            found = f"{right[0]:.1f}" + (f" to {right[-1]:.1f}" if len(right) > 1 else "")
            self.on_note(f"{name}, epoch {epoch}: {found} % of the images held out are right")

        fitted = fit(
            trainables,
            TargetSet(
                self.source, self.data.labels, teacher, self.network.stage.device, self.classes
            ),
            self.hold_out.without(self.source.corrupt()),
            config=config,
            checkpoint=self.checkpoint,
            name=name,
            on_epoch=on_epoch,
        )
        return dict(fitted.best)


def _stored_logits(features: Mapping[str, Tensor]) -> Tensor:
    return features[LOGITS]


def _extractor(
    network: ExitNetwork, config: TrainingConfig, classifier: str | None, precision: str | None
) -> Extractor:
    """Makes what the exits of a network are trained on."""
    if config.backbone_lr:
        return TuningInputs(network, training_dtype(config, network.stage.device))
    logits = config.targets != "labels" and classifier is None
    return FeatureExtractor(network, classifier=classifier, logits=logits, precision=precision)


def _check_exits(network: ExitNetwork, config: TrainingConfig, classifier: str | None) -> None:
    """Refuse a network without exits, weights that need a saver where there is none, and what a
    backbone that is tuned leaves no place for."""
    if config.backbone_lr and (classifier is not None or config.weights != "even"):
        found = "its last layer to be trained anew first" if classifier else config.weights
        raise ModelError(
            "a backbone that is tuned (backbone_lr above 0) is held to its answers to all samples "
            f"alike, found {found!r}: leave that out, or set backbone_lr to 0"
        )
    if not network.locations and network.saver_branch is None:
        raise ModelError(
            "a network that is trained has exits, found neither heads nor a saver: add some"
        )
    if config.weights == "tinysaver" and network.saver_branch is None:
        raise ModelError(
            "samples weigh by a saver's confidence with the weights 'tinysaver', found no saver: "
            "name one, or choose other weights"
        )


def _feature_source(
    images: TrainingImages,
    parts: HoldOut,
    *,
    folder: Path,
    views: int,
    space: float,
    apart: int,
    on_progress: Advance,
    on_note: Note,
) -> FeatureSource:
    """A cache of all features, filled; or a stream of them, where views are drawn anew or a cache
    needs too much space.

    `apart` are bytes that stay free for checkpoints.
    """
    if images.fresh is not None:
        on_note(
            "images are augmented anew in every epoch, so the network runs in each of them: no "
            "features are cached"
        )
        return StreamedFeatures(images)
    some = first_images(images.data, min(_FIRST, len(images.data)))
    example = images.extract(stacked(some))
    kinds = kinds_of(example)
    rows = CacheRows(parts, images=len(images.data), views=views)
    size = rows.bytes(kinds)
    space = min(space, _FREE_SHARE * (free_bytes(folder) - apart))
    if size > space and not FeatureCache.begun(folder):
        on_note(
            f"features would take {size / 1e9:.1f} GB where there is room for {space / 1e9:.1f}: "
            "the network runs anew in every epoch; --cache-gb gives more, fewer views need less"
        )
        return StreamedFeatures(images)
    for name, value in example.items():
        if value.dtype == WIDE:
            on_note(wide_words(name, value, len(some)))
    cache = FeatureCache(folder, kinds, rows)
    cache.fill(images, on_progress=partial(on_progress, "features"), on_note=on_note)
    return cache


def _stages(network: ExitNetwork) -> list[Stage]:
    """The network and, where there is one, its saver."""
    saver_branch = network.saver_branch
    return [network.stage, *([] if saver_branch is None else [saver_branch.saver.stage])]


def _trained_exits(network: ExitNetwork, config: TrainingConfig) -> Sequence[Trainable]:
    """The exits of a network: each by itself, or all as one where they learn from each other."""
    if config.targets == "exits" or config.backbone_lr:
        return [trained_together(network, config)]
    return trainables_of(network, config)


def _trained_modules(
    network: ExitNetwork, config: TrainingConfig, classifier: str | None
) -> list[nn.Module]:
    """All modules whose states are saved while they are trained."""
    modules = [one.module for one in _trained_exits(network, config)]
    if classifier is not None:
        modules.append(network.stage.model.get_submodule(classifier))
    return modules


def _plan(
    network: ExitNetwork,
    data: DataSet,
    config: TrainingConfig,
    *,
    classifier: str | None,
    precision: str | None,
) -> dict[str, Any]:
    """Plain JSON that determines the weights; an error names the first key that differs."""
    stage, saver_branch = network.stage, network.saver_branch
    return {
        **({} if precision is None else {"precision": precision}),
        "data": data.fingerprint,
        "backbone": stage.weights_hash,
        "preprocess": None if stage.preprocess is None else stage.preprocess.to_dict(),
        "taps": [tap.path for tap in network.taps],
        "heads": [[p.tap, p.head, network.head(p).to_dict()] for p in network.locations],
        "saver": None
        if saver_branch is None
        else [saver_branch.saver.weights_hash, saver_branch.sequence.spec.to_dict()],
        "classifier": classifier,
        **config.to_dict(),
        "device": stage.device.type,
        "first weights": network.weights_hash,
    }


@contextmanager
def checkpoint_in(folder: str | Path | None, plan: Mapping[str, Any]) -> Iterator[Checkpoint]:
    """A folder for unfinished work under a plan, a temporary one if None; one process at a time."""
    if folder is None:
        with tempfile.TemporaryDirectory(
            prefix="understudy-", ignore_cleanup_errors=True
        ) as temporary:
            yield Checkpoint(Path(temporary), plan)
        return
    with only_writer(folder, wait=False):
        checkpoint = Checkpoint(Path(folder), plan)
        try:
            yield checkpoint
        except UnderstudyError:
            checkpoint.remove_if_empty()
            raise
