"""Teaching a little model to be the saver of a large one."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from understudy.errors import ModelError, unknown
from understudy.files import only_writer
from understudy.folders import check_own_folder, remove_folder, replacing_folder
from understudy.graph.model_output import logits_in
from understudy.json_codec import Stored, StoredFile
from understudy.nn.class_names import class_names_of
from understudy.nn.cost import count_parts
from understudy.nn.stage import Images, Stage, usable_device
from understudy.progress_bars import Advance, no_bar
from understudy.training.api import Note, checkpoint_in
from understudy.training.augmentation import Augmentation, fresh_augmentation
from understudy.training.checkpoint import Checkpoint
from understudy.training.config import TrainingConfig
from understudy.training.features import (
    LOGITS,
    Features,
    StreamedFeatures,
    TrainingImages,
    find_classifier,
)
from understudy.training.gatekeeper import gatekeeper_losses
from understudy.training.loop import (
    Fitted,
    HeldOutMetrics,
    Losses,
    Trainable,
    classifier_logits,
    fit,
    trainable_of_classifier,
    training_dtype,
)
from understudy.training.pair_saving import LITTLE, PairSaving
from understudy.training.sampling import HoldOut, hold_out
from understudy.training.targets import TargetSet, check_targets, joined, losses
from understudy.training.teacher_answers import IMAGES, TeacherAnswers
from understudy.zoo.batches import first_images
from understudy.zoo.data import DataSet, open_data
from understudy.zoo.model_specs import named_specs
from understudy.zoo.models import load_stage

WEIGHTS, RECORD = "weights.safetensors", "saver.json"
OBJECTIVES = ("labels", "distillation", "gatekeeper")
TEACHING = TrainingConfig(
    epochs=30, batch=256, lr=1e-3, views=1000, targets="both", share=0.9, temperature=2.0,
    held_out=0.1, patience=10,
)  # fmt: skip
TEACH, TUNE = "teaching", "tuning"
_BEFORE, _TAUGHT = "before", "taught"
_AS_IS, _ADAPTED = "as it is", "last layer trained"


@dataclass(frozen=True)
class SaverConfig(Stored, what="a saver's configuration", error=ModelError, remedy="correct it"):
    """How a little model is taught.

    Attributes:
        objective: what it learns. labels: the labels alone. distillation: the large model's
            answers, and the labels as `teaching.share` says. gatekeeper: distillation, then
            Gatekeeper's loss (arXiv 2502.19335).
        teaching: how it is trained.
        tuning_epochs: with Gatekeeper's loss, from the best weights of before.
        tuning_lr: the highest learning rate of these.
        alpha: the weight of right answers in Gatekeeper's loss, wrong ones have the rest.
        max_drop: the budget in points at which the certified saving chooses the best epoch.

    Raises:
        ModelError: a setting out of its range.
    """

    objective: str = "gatekeeper"
    teaching: TrainingConfig = TEACHING
    tuning_epochs: int = 6
    tuning_lr: float = 1e-4
    alpha: float = 0.5
    max_drop: float = 0.5

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ModelError(unknown("objective", self.objective, OBJECTIVES))
        if not 0 < self.alpha < 1:
            raise ModelError(f"alpha lies between 0 and 1, found {self.alpha!r}: correct it")
        if not 0 <= self.max_drop <= 100:
            raise ModelError(
                f"max_drop lies between 0 and 100 points, found {self.max_drop!r}: correct it"
            )
        if self.teaching.weights != "even":
            raise ModelError(
                f"the weights {self.teaching.weights!r} are for exits, a little model is taught "
                "with 'even' ones: correct it"
            )
        _ = self.tuning

    @property
    def tuning(self) -> TrainingConfig:
        """How it is trained with Gatekeeper's loss."""
        return replace(self.teaching, epochs=self.tuning_epochs, lr=self.tuning_lr)


@dataclass(frozen=True)
class Pair(Stored):
    """A little and a large model on the images held out.

    Attributes:
        little: which weights: "before" or "taught".
        large: which weights: "as it is", or "last layer trained" on the same images and labels.
        accuracy: of the little model.
        large_accuracy: of the large one.
        saving: the mean certified saving of draws of samples (`PairSaving`).
    """

    little: str
    large: str
    accuracy: float
    large_accuracy: float
    saving: float


@dataclass(frozen=True)
class SaverSummary(Stored):
    """The outcome of teaching.

    Attributes:
        config: how the little model was taught.
        data: the fingerprint of the data.
        samples: training images.
        held_out: images that were held out.
        corrupt: images that could not be decoded, and were left out.
        macs: of the little and of the large model, for one sample.
        pairs: before and after, with the large model as it is and with its last layer trained.
        epochs: phase -> metrics of the little model after every epoch, first those before.
        seconds: how long it took, since it was last resumed.
    """

    config: SaverConfig
    data: str
    samples: int
    held_out: int
    corrupt: int
    macs: tuple[float, float]
    pairs: tuple[Pair, ...]
    epochs: Mapping[str, tuple[HeldOutMetrics, ...]]
    seconds: float


@dataclass(frozen=True)
class SaverFolder(StoredFile, what="a taught model", error=ModelError, remedy="teach it again"):
    """What the folder of a taught model says of it, beside its weights.

    Attributes:
        spec: of the model with its taught weights, as `score` takes it.
        little: the spec that it began as.
        large: the spec of its teacher.
        training: how it was taught, and what came of it.
    """

    spec: str
    little: str
    large: str
    training: SaverSummary


def train_saver(
    little: str,
    large: str,
    data: str,
    into: str | Path,
    *,
    config: SaverConfig = SaverConfig(),
    workers: int | None = None,
    device: str | None = None,
    on_progress: Advance = no_bar,
    on_note: Note = no_bar,
) -> SaverFolder:
    """Teach the little model that a spec names to answer in front of a large one.

    Its weights are written into a folder, as is a record of the training. Unfinished work lies in
    ``INTO.partial``: the same call resumes where it was interrupted. Score the result as the
    record's `spec`, on other data than these, which it was trained on.

    Args:
        little: model spec of the model that is taught, pretrained or with random weights.
        large: model spec of its teacher, which stays as it is.
        data: data spec (`zoo.open_data`).
        into: the folder; a taught model that is there is replaced.
        config: how it is taught.
        workers: threads that decode ahead; one per core and at most 8 unless given.
        device: where to run, as torch names it; an NVIDIA GPU if there is one, else the CPU.
        on_progress: called as work proceeds.
        on_note: called with remarks.

    Raises:
        ModelError, DataError: as `fit_saver`, and models that cannot be loaded.
        InUse: another process trains into the same folder.
        UnderstudyError: `into` is something else, or cannot be written.
    """
    target = Path(into)
    check_own_folder(target, mark=RECORD, rule="a taught model goes into a folder of its own")
    images = open_data(data)
    where = usable_device(device)
    student, teacher = (load_stage(spec).to(where) for spec in (little, large))
    folder = target.with_name(f"{target.name}.partial")
    with only_writer(folder, wait=False):
        trained = fit_saver(
            student,
            teacher,
            images,
            config=config,
            folder=folder,
            workers=workers,
            on_progress=on_progress,
            on_note=on_note,
        )
        record = SaverFolder(_taught_spec(little, target), little, large, trained)
        with replacing_folder(target) as place:
            weights = student.model.cpu().state_dict()
            save_file({key: one.contiguous() for key, one in weights.items()}, place / WEIGHTS)
            record.save(place / RECORD)
        remove_folder(folder)
    return record


def _taught_spec(little: str, folder: Path) -> str:
    """The spec of a model with the weights in a folder."""
    ((_, spec),) = named_specs([little]).items()
    options = {
        key: value for key, value in spec.options.items() if key not in ("weights", "checkpoint")
    }
    options["checkpoint"] = str(folder / WEIGHTS)
    return f"{spec.scheme}:{spec.target}?" + "&".join(f"{k}={v}" for k, v in options.items())


def fit_saver(
    little: Stage,
    large: Stage,
    data: DataSet,
    *,
    config: SaverConfig = SaverConfig(),
    folder: str | Path | None = None,
    workers: int | None = None,
    on_progress: Advance = no_bar,
    on_note: Note = no_bar,
) -> SaverSummary:
    """Teach a little model in place; the large one, on the same device, stays as it is.

    The large model answers every image in the view that the little one sees. A share of the images
    is held out: on them the certified saving of the pair chooses the best epoch. Beside it the
    large model's last layer is trained on the same images and labels, so that the gain of teaching
    is not mistaken for that of new data.

    Args:
        little: the model that is taught, on the device where it is to be trained.
        large: its teacher.
        data: images; without labels the large model's answers are right.
        config: how it is taught.
        folder: for unfinished work, which the same call resumes; by default a temporary one.
        workers: threads that decode ahead; one per core and at most 8 unless given.
        on_progress: called as work proceeds.
        on_note: called with remarks.

    Raises:
        ModelError: models of different classes, a little model that is costlier than its teacher,
            or a loss that is not finite.
        DataError: data with other classes, too few images, or unfinished work of another plan.
        UnderstudyError: the folder cannot be written.
    """
    start = time.perf_counter()
    sample = first_images(data, 1)
    macs = _checked_macs(little, large, sample)
    config = _fitting(config, data)
    classes = int(large(sample).shape[1])
    check_targets(data, classes, config.teaching, classifier=False)
    parts = hold_out(data, share=config.teaching.held_out, seed=config.teaching.seed)
    classifier = _classifier(large, sample, data, on_note)
    channels_last(large.model)
    with checkpoint_in(folder, _plan(little, large, data, config)) as checkpoint:
        images = TrainingImages(
            data,
            Augmentation(
                shift=config.teaching.shift, flip=config.teaching.flip, seed=config.teaching.seed
            ),
            TeacherAnswers(
                large,
                little.prepare,
                dtype=training_dtype(config.teaching, large.device),
                classifier=classifier,
            ),
            workers,
            fresh_augmentation(config.teaching, [little, large]),
        )
        targets = TargetSet(
            StreamedFeatures(images), data.labels, _stored_logits, large.device, classes
        )
        measure = PairSaving(macs, config.max_drop)
        trainer = _SaverTrainer(
            little, large, classifier, targets, parts, measure, checkpoint, on_progress, on_note
        )
        pairs, epochs = trainer.train(config)
    little.eval()
    corrupt = targets.source.corrupt()
    used = parts.without(corrupt)
    return SaverSummary(
        config=config,
        data=data.fingerprint,
        samples=len(used.train),
        held_out=len(used.held_out),
        corrupt=len(corrupt),
        macs=macs,
        pairs=pairs,
        epochs=epochs,
        seconds=time.perf_counter() - start,
    )


@dataclass(frozen=True, eq=False)
class _SaverTrainer:
    """What the phases of teaching share.

    Attributes:
        classifier: the module path of the large model's last layer, which is trained beside, or
            None.
        measure: what a pair saves.
    """

    little: Stage
    large: Stage
    classifier: str | None
    targets: TargetSet
    hold_out: HoldOut
    measure: PairSaving
    checkpoint: Checkpoint
    on_progress: Advance
    on_note: Note

    def train(
        self, config: SaverConfig
    ) -> tuple[tuple[Pair, ...], dict[str, tuple[HeldOutMetrics, ...]]]:
        """Teach, then tune if that is wanted; pairs before and after, and the metrics by phase."""
        layer = self._copied_classifier()
        before = self._pairs(_BEFORE, None)
        taught = self._trainable(_losses_of(config))
        adapted = None if layer is None else trainable_of_classifier(layer, _on_labels(config))
        beside = [] if adapted is None else [adapted]
        found = {TEACH: self._fit(TEACH, [taught, *beside], config.teaching)}
        if config.objective == "gatekeeper":
            tuned = self._trainable(partial(gatekeeper_losses, alpha=config.alpha))
            found[TUNE] = self._fit(TUNE, [tuned], config.tuning)
        epochs = {
            phase: tuple(metrics[LITTLE] for metrics in fitted.epochs)
            for phase, fitted in found.items()
        }
        return (*before, *self._pairs(_TAUGHT, layer)), epochs

    def _trainable(self, learned: Losses) -> Trainable:
        model = channels_last(self.little.model)
        logits = partial(_little_logits, model)
        return Trainable(model, (LITTLE,), logits, learned, saving=self.measure)

    def _copied_classifier(self) -> nn.Module | None:
        """A copy of the large model's last layer, which stays as it is."""
        if self.classifier is None:
            return None
        return copy.deepcopy(self.large.model.get_submodule(self.classifier))

    def _fit(self, phase: str, trainables: Sequence[Trainable], config: TrainingConfig) -> Fitted:
        def on_epoch(epoch: int, metrics: Mapping[str, HeldOutMetrics]) -> None:
            self.on_progress(phase, epoch, config.epochs)
            own = metrics[LITTLE]
            self.on_note(
                f"{phase}, epoch {epoch}: {100 * own.accuracy:.1f} % of the images held out are "
                f"right, the pair saves {100 * (own.saving or 0):.1f} %"
            )

        return fit(
            trainables,
            self.targets,
            self.hold_out.without(self.targets.source.corrupt()),
            config=config,
            checkpoint=self.checkpoint,
            name=phase,
            on_epoch=on_epoch,
        )

    @torch.no_grad()
    def _pairs(self, little: str, layer: nn.Module | None) -> tuple[Pair, ...]:
        """The pair on the images held out; also with the large model's last layer trained."""
        self.little.model.eval()
        batches = self.targets.batches(self.hold_out.held_out_order(), size=256)
        answers, found, others = [], [], []
        for batch in batches:
            answers.append(_little_logits(self.little.model, batch.features)[:, 0].float())
            found.append(batch.without_features())
            if layer is not None:
                others.append(classifier_logits(layer.eval(), batch.features).float())
        whole = joined(found)
        assert whole.backbone is not None, "the teacher answers every image"
        large = {_AS_IS: whole.backbone} | ({_ADAPTED: torch.cat(others)} if others else {})
        own, truth = torch.cat(answers), whole.truth()
        return tuple(
            Pair(
                little,
                name,
                _share_right(own, truth),
                _share_right(logits, truth),
                self.measure.of(own, logits, truth),
            )
            for name, logits in large.items()
        )


def _little_logits(model: nn.Module, features: Features) -> Tensor:
    images = features[IMAGES]
    if images.ndim == 4:
        images = images.contiguous(memory_format=torch.channels_last)
    return logits_in(model(images)).unsqueeze(1)


def _stored_logits(features: Features) -> Tensor:
    return features[LOGITS]


def _share_right(logits: Tensor, truth: Tensor) -> float:
    return float((logits.argmax(1) == truth).float().mean())


def _losses_of(config: SaverConfig) -> Losses:
    teaching = config.teaching
    if config.objective == "labels":
        teaching = replace(teaching, targets="labels")
    return partial(losses, config=teaching, smoothing=teaching.label_smoothing)


def _on_labels(config: SaverConfig) -> TrainingConfig:
    return replace(config.teaching, targets="labels")


def channels_last(model: nn.Module) -> nn.Module:
    """The model, its convolutions in the memory format in which they are fast."""
    return model.to(memory_format=torch.channels_last)


def _checked_macs(little: Stage, large: Stage, sample: Images) -> tuple[float, float]:
    """The MACs of both models, and a check that they are a pair."""
    classes = [int(stage(sample).shape[1]) for stage in (little, large)]
    if classes[0] != classes[1]:
        raise ModelError(
            f"a little model has the classes of its teacher, found {classes[0]} and {classes[1]}: "
            f"give it as many, such as with ?classes={classes[1]}"
        )
    names = [class_names_of(stage) for stage in (little, large)]
    if None not in names and names[0] != names[1]:
        raise ModelError(
            "a little model has the classes of its teacher, in the same order, found other names: "
            "give it the teacher's"
        )
    image = sample[0]
    found = [
        sum(part.total for part in count_parts({"one": stage}, image).values())
        for stage in (little, large)
    ]
    if found[0] >= found[1]:
        raise ModelError(
            f"a little model costs less than its teacher, found {found[0] / 1e6:,.1f} and "
            f"{found[1] / 1e6:,.1f} million MACs: exchange them, or take a smaller one"
        )
    return found[0], found[1]


def _fitting(config: SaverConfig, data: DataSet) -> SaverConfig:
    """Without labels the large model's answers are the only target."""
    if data.labels is not None or config.objective == "labels":
        return config
    return replace(config, teaching=replace(config.teaching, targets="backbone"))


def _classifier(large: Stage, sample: Images, data: DataSet, on_note: Note) -> str | None:
    """The module path of the large model's last layer, where it can be trained beside."""
    if data.labels is None:
        return None
    try:
        return find_classifier(large, sample)
    except ModelError as error:
        on_note(f"nothing is said of the large model on the new data: {error}")
        return None


def _plan(little: Stage, large: Stage, data: DataSet, config: SaverConfig) -> dict[str, Any]:
    """Plain JSON that determines the weights; an error names the first key that differs."""
    return {
        "data": data.fingerprint,
        "little": little.weights_hash,
        "large": large.weights_hash,
        "preprocess": [
            None if stage.preprocess is None else stage.preprocess.to_dict()
            for stage in (little, large)
        ],
        **config.to_dict(),
        "device": large.device.type,
    }
