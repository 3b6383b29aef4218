"""Teaching a little model to be the saver of a large one."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from understudy.errors import ModelError
from understudy.files import only_writer, replacing
from understudy.folders import check_own_folder, remove_folder, replacing_folder
from understudy.graph.model_output import logits_in
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
    TrainingDiverged,
    check_enough,
    fit,
    training_dtype,
)
from understudy.training.pair_checks import (
    check_data,
    check_trainable,
    checked_macs,
    common_classes,
)
from understudy.training.pair_saving import LITTLE, PairSaving
from understudy.training.sampling import HoldOut, hold_out
from understudy.training.saver_config import GATEKEEPER, LABELS, SaverConfig
from understudy.training.saver_record import (
    RECORD,
    WEIGHTS,
    Pair,
    SaverFolder,
    SaverSummary,
    taught_spec,
)
from understudy.training.targets import TargetSet, joined
from understudy.training.teacher_answers import (
    IMAGES,
    HeldOutAnswers,
    StudentImages,
    TeacherAnswers,
)
from understudy.training.trainables import (
    Losses,
    Trainable,
    classifier_logits,
    losses_of,
    trainable_of_classifier,
)
from understudy.zoo.batches import first_images
from understudy.zoo.data import DataSet, open_data
from understudy.zoo.models import load_stage, named_models, plain_and_mode

TEACH, TUNE = "teaching", "tuning"
FEW = 200
"""Images held out, below which the savings of epochs are compared by chance."""

_BEFORE, _TAUGHT = "before", "taught"
_AS_IS, _ADAPTED = "as it is", "last layer trained"
_DEFAULT = SaverConfig()


def train_saver(
    little: str,
    large: str,
    data: str,
    into: str | Path,
    *,
    config: SaverConfig = _DEFAULT,
    workers: int | None = None,
    device: str | None = None,
    on_progress: Advance = no_bar,
    on_note: Note = no_bar,
) -> SaverFolder:
    """Teach the little model that a spec names to answer in front of a large one.

    Its weights are written into a folder, as is a record of the training. Unfinished work lies in
    ``INTO.partial``: the same call resumes where it was interrupted, and ends with the weights of
    an undisturbed run. Score the result as the record's `spec`, on other data than these, which it
    was trained on.

    Args:
        little: model spec of the model that is taught, pretrained or with random weights. With
            ``?run=MODE`` it is taught as it is, and its `spec` runs in that mode.
        large: model spec of its teacher, which stays as it is.
        data: data spec (`zoo.open_data`).
        into: the folder; a taught model that is there is replaced.
        config: how it is taught.
        workers: threads that decode ahead; one per core and at most 8 unless given.
        device: where to run, as torch names it; an NVIDIA GPU if there is one, else the CPU.
        on_progress: called as work proceeds.
        on_note: called with remarks.

    ```python
    config = SaverConfig(max_drop=1.0, tuning_epochs=1)
    config = replace(config, teaching=replace(config.teaching, epochs=2))
    record = train_saver("py:nets:small", "py:nets:large", "digits:train", "taught", config=config)
    ```

    Raises:
        ModelError, DataError: as `fit_saver`, and models that cannot be loaded.
        InUse: another process trains into the same folder.
        UnderstudyError: `into` is something else, or cannot be written.
    """
    target = Path(into)
    check_own_folder(target, mark=RECORD, rule="a taught model goes into a folder of its own")
    (small,), (big,) = (named_models([one]).values() for one in (little, large))
    spec = taught_spec(small, target)
    images = open_data(data)
    where = usable_device(device)
    student, teacher = (load_stage(one).to(where) for one in (plain_and_mode(small)[0], big))
    folder = target.with_name(f"{target.name}.partial")
    with only_writer(folder, wait=False):
        try:
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
        except TrainingDiverged as error:
            if not folder.exists():  # there was nothing to keep
                raise
            _write_weights(student, folder)
            raise ModelError(
                f"{error}; they are in {str(folder / WEIGHTS)!r}: another rate goes into another "
                "folder, or into this one when that is deleted"
            ) from error
        record = SaverFolder(spec, small, big, trained)
        with replacing_folder(target) as place:
            _write_weights(student, place)
            record.save(place / RECORD)
        remove_folder(folder)
    return record


def _write_weights(student: Stage, folder: Path) -> None:
    """The weights in rows, as a file wants them, and those that a model has twice written twice."""
    weights = student.model.cpu().state_dict()
    copies = {key: one.clone(memory_format=torch.contiguous_format) for key, one in weights.items()}
    with replacing(folder / WEIGHTS) as file:
        save_file(copies, file)


def fit_saver(
    little: Stage,
    large: Stage,
    data: DataSet,
    *,
    config: SaverConfig = _DEFAULT,
    folder: str | Path | None = None,
    workers: int | None = None,
    on_progress: Advance = no_bar,
    on_note: Note = no_bar,
) -> SaverSummary:
    """Teach a little model in place; the large one, on the same device, stays as it is.

    The large model answers every image in the view that the little one sees. A share of the images
    is held out: on them the certified saving of the pair chooses the best epoch. Beside it the
    large model's last layer is trained on the same images and labels, so that the gain of teaching
    is not mistaken for that of new data. With the objective "labels" the large model answers the
    images held out alone, and its last layer is left out.

    Args:
        little: the model that is taught, in float32, on the device where it is to be trained.
        large: its teacher.
        data: images; without labels the large model's answers are right.
        config: how it is taught.
        folder: for unfinished work, which the same call resumes; by default a temporary one.
        workers: threads that decode ahead; one per core and at most 8 unless given.
        on_progress: called as work proceeds.
        on_note: called with remarks.

    >>> from understudy.nn.stage import Preprocess
    >>> digit = Preprocess(size=(8, 8), mean=(0.5,), std=(0.5,))
    >>> little = Stage(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), preprocess=digit)
    >>> layers = (nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    >>> large = Stage(nn.Sequential(nn.Flatten(), *layers), preprocess=digit)
    >>> quick = TrainingConfig(epochs=4, batch=64, lr=0.01, flip=False)
    >>> config = SaverConfig(objective="labels", teaching=quick)
    >>> before, after = fit_saver(little, large, open_data("digits:train"), config=config).pairs
    >>> (before.little, after.little), after.accuracy > 0.5
    (('before', 'taught'), True)

    Raises:
        ModelError: models of different classes, a little model that is costlier than its teacher or
            cannot be trained, or a loss that is not finite.
        DataError: data with other classes, too few images, or unfinished work of another plan.
        UnderstudyError: the folder cannot be written, or has no room for checkpoints.
    """
    start = time.perf_counter()
    check_trainable(little, large)
    sample = first_images(data, 1)
    classes = common_classes(little, large, sample)
    macs = checked_macs(little, large, sample)
    check_data(data, config, classes=classes, stages=(little, large))
    config = config.for_data(labelled=data.labels is not None)
    parts = hold_out(data, share=config.teaching.held_out, seed=config.teaching.seed)
    classifier = _classifier(large, sample, data, config, on_note)
    with checkpoint_in(folder, _plan(little, large, data, config)) as checkpoint:
        targets, held = _target_sets(
            little, large, data, config, workers, classes=classes, classifier=classifier
        )
        measure = PairSaving(macs, config.max_drop)
        trainer = _SaverTrainer(
            little, large, classifier, targets, held, parts, measure, checkpoint, on_progress,
            on_note,
        )  # fmt: skip
        pairs, epochs = trainer.train(config)
    little.eval()
    used = trainer.used()
    return SaverSummary(
        config=config,
        data=data.fingerprint,
        samples=len(used.train),
        held_out=len(used.held_out),
        corrupt=len(data) - len(used.train) - len(used.held_out),
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
        targets, held: of the training images, and of those held out.
        measure: what a pair saves.
    """

    little: Stage
    large: Stage
    classifier: str | None
    targets: TargetSet
    held: TargetSet
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
        tunes = config.objective == GATEKEEPER
        beside = [] if layer is None else [trainable_of_classifier(layer, _on_labels(config))]
        trained = [self.little.model] * (2 if tunes else 1)
        self.checkpoint.check_room([*trained, *(one.module for one in beside)])
        before = self._pairs(_BEFORE, None)
        self._note_few(len(self.used().held_out))
        learned, measured = losses_of(config.teaching)
        taught = self._trainable(learned, measured)
        found = {TEACH: self._fit(TEACH, [taught, *beside], config.teaching)}
        if tunes:
            tuned = self._trainable(partial(gatekeeper_losses, alpha=config.alpha), measured)
            found[TUNE] = self._fit(TUNE, [tuned], config.tuning)
        epochs = {
            phase: tuple(metrics[LITTLE] for metrics in fitted.epochs)
            for phase, fitted in found.items()
        }
        return (*before, *self._pairs(_TAUGHT, layer)), epochs

    def used(self) -> HoldOut:
        """The images, without those that could not be decoded."""
        corrupt = [self.targets.source.corrupt(), self.held.source.corrupt()]
        return self.hold_out.without(np.concatenate(corrupt))

    def _note_few(self, held_out: int) -> None:
        if held_out < FEW:
            self.on_note(
                f"{held_out} images are held out, too few to tell epochs apart by what the pair "
                "saves: give more, or a larger held_out"
            )

    def _trainable(self, learned: Losses, measured: Losses) -> Trainable:
        model = self.little.model
        logits = partial(_little_logits, model)
        return Trainable(model, (LITTLE,), logits, learned, measured, saving=self.measure)

    def _copied_classifier(self) -> nn.Module | None:
        """A copy of the large model's last layer, in full precision."""
        if self.classifier is None:
            return None
        return copy.deepcopy(self.large.model.get_submodule(self.classifier)).float()

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
            self.used(),
            config=config,
            checkpoint=self.checkpoint,
            name=phase,
            on_epoch=on_epoch,
            checked_on=self.held,
        )

    @torch.no_grad()
    def _pairs(self, little: str, layer: nn.Module | None) -> tuple[Pair, ...]:
        """The pair on the images held out; also with the large model's last layer trained."""
        self.little.model.eval()
        answers, found, others = [], [], []
        for batch in self.held.batches(self.used().held_out_order(), size=256):
            answers.append(_little_logits(self.little.model, batch.features)[:, 0].float())
            found.append(batch.without_features())
            if layer is not None:
                others.append(classifier_logits(layer.eval(), batch.features).float())
        check_enough(self.used())
        whole, own = joined(found), _finite(torch.cat(answers))
        assert whole.backbone is not None, "the teacher answers every image held out"
        large = {_AS_IS: whole.backbone} | ({_ADAPTED: torch.cat(others)} if others else {})
        truth = whole.truth()
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


def _target_sets(
    little: Stage,
    large: Stage,
    data: DataSet,
    config: SaverConfig,
    workers: int | None,
    *,
    classes: int,
    classifier: str | None,
) -> tuple[TargetSet, TargetSet]:
    """Features and targets of the training images, and of those held out."""
    teaching, device = config.teaching, large.device
    student = StudentImages(little)
    dtype = training_dtype(teaching, device)
    teacher = TeacherAnswers(large, student, dtype=dtype, classifier=classifier)
    augmentation = Augmentation(shift=teaching.shift, flip=teaching.flip, seed=teaching.seed)
    fresh = fresh_augmentation(teaching, [little, large])
    images = TrainingImages(data, augmentation, student, workers, fresh)
    alone = config.objective == LABELS
    source = StreamedFeatures(images if alone else images.by(teacher))
    answers = None if alone else _stored_logits
    held = HeldOutAnswers(images, teacher, student)
    return (
        TargetSet(source, data.labels, answers, device, classes),
        TargetSet(held, data.labels, _stored_logits, device, classes),
    )


def _little_logits(model: nn.Module, features: Features) -> Tensor:
    return logits_in(model(features[IMAGES])).unsqueeze(1)


def _stored_logits(features: Features) -> Tensor:
    return features[LOGITS]


def _finite(logits: Tensor) -> Tensor:
    lacking = int((~logits.isfinite()).sum())
    if lacking:
        raise ModelError(
            f"the logits of a model that is taught are finite numbers, found {lacking} that are "
            f"not in {len(logits)} answers: check its weights"
        )
    return logits


def _share_right(logits: Tensor, truth: Tensor) -> float:
    return float((logits.argmax(1) == truth).float().mean())


def _on_labels(config: SaverConfig) -> TrainingConfig:
    return replace(config.teaching, targets="labels")


def _classifier(
    large: Stage, sample: Images, data: DataSet, config: SaverConfig, on_note: Note
) -> str | None:
    """The module path of the large model's last layer, where it is trained beside."""
    if config.objective == LABELS or data.labels is None:
        return None
    try:
        return find_classifier(large, sample)
    except ModelError as error:
        on_note(f"the large model's last layer is not trained beside: {error}")
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
