"""What a little model and its teacher have to be: trainable, of the same classes, and a saving."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from understudy.confidence_functions import are_probabilities
from understudy.display import cost_text
from understudy.errors import DataError, ModelError
from understudy.nn.class_names import class_names_of
from understudy.nn.cost import count_parts
from understudy.nn.execution_mode import ModelInMode
from understudy.nn.stage import Images, Stage
from understudy.training.saver_config import LABELS, SaverConfig
from understudy.training.targets import check_targets
from understudy.zoo.data import DataSet

MACS = "MACs"


def check_trainable(little: Stage, large: Stage) -> None:
    """Refuse what PyTorch cannot train as it is."""
    model = little.model
    if isinstance(model, ModelInMode):
        raise ModelError(
            f"a model is taught as it is, found one in the execution mode {model.mode.name!r}: "
            "teach it without, and run it in that mode afterwards"
        )
    if not any(weights.is_floating_point() for weights in model.parameters()):
        raise ModelError(
            "a model that is taught has weights that PyTorch can train, found none in a "
            f"{type(model).__name__}: take another, which may be small"
        )
    if little.dtype != torch.float32:
        raise ModelError(
            f"a model is taught in float32, found weights in {little.dtype}: convert it with "
            "model.float()"
        )
    if little.device != large.device:
        raise ModelError(
            f"both models are on one device, found {little.device} and {large.device}: move one"
        )


def common_classes(little: Stage, large: Stage, sample: Images) -> int:
    """The number of classes of both models, whose names are in no other order."""
    answers = [stage(sample) for stage in (little, large)]
    found, classes = (int(logits.shape[1]) for logits in answers)
    if any(are_probabilities(logits) for logits in answers):
        raise ModelError(
            "a model gives logits, one of the pair gives probabilities (from 0 to 1, with the sum "
            "1): leave out its softmax"
        )
    if found != classes:
        raise ModelError(
            f"a little model has the classes of its teacher, found {found} and {classes}: give it "
            f"as many, such as with ?classes={classes}"
        )
    names, known = (class_names_of(stage) or () for stage in (little, large))
    places = {name: number for number, name in enumerate(known)}
    moved = [name for number, name in enumerate(names) if places.get(name, number) != number]
    if moved:
        raise ModelError(
            f"a little model has the classes of its teacher in the same order, found {moved[0]!r} "
            f"as class {names.index(moved[0])} and class {places[moved[0]]}: number them as the "
            "teacher does"
        )
    return classes


def checked_macs(little: Stage, large: Stage, sample: Images) -> tuple[float, float]:
    """The MACs of both models, where the little one has fewer."""
    first, second = (
        sum(part.total for part in count_parts({"one": stage}, sample[0]).values())
        for stage in (little, large)
    )
    if first >= second:
        raise ModelError(
            f"a little model costs less than its teacher, found {cost_text(first, MACS)} "
            f"and {cost_text(second, MACS)} MACs: exchange them, or take a smaller one"
        )
    return first, second


def check_data(
    data: DataSet, config: SaverConfig, *, classes: int, stages: Sequence[Stage]
) -> None:
    """Refuse data with other classes, and data without labels where these are learned."""
    if data.labels is None and config.objective == LABELS:
        raise DataError(
            f"the objective {LABELS!r} learns from labels, {data.spec!r} has none: choose another, "
            "which learns the large model's answers, or give labelled images"
        )
    for stage in stages:
        data.check_classes(classes, names=class_names_of(stage))
    fitting = config.for_data(labelled=data.labels is not None).teaching
    check_targets(data, classes, fitting, classifier=False)
