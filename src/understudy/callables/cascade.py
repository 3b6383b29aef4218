"""Cascades of functions and estimators, without PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.callables.samples import as_request, as_rows, samples_of
from understudy.callables.stage import CallableStage, as_callable_stage
from understudy.class_logits import class_name, counted_from_0
from understudy.confidence_functions import softmax
from understudy.deferral import DeferralScore
from understudy.ensemble import Ensemble
from understudy.errors import ModelError
from understudy.operating_point import OperatingPoint
from understudy.policy import Policy
from understudy.result import Result
from understudy.runtime.pipeline import Pipeline
from understudy.runtime.planned import (
    check_complete,
    check_members,
    ensembles_within,
    planned_within,
)
from understudy.runtime.protocol import NotANumber, RunnerOutput, StageRunner
from understudy.runtime.value_graph import (
    IMAGES,
    ArrayCascade,
    Computation,
    ValueGraph,
    logits_of,
    mean_of,
)

Array = npt.NDArray[Any]


class CallableCascade(ArrayCascade):
    """Executes a policy with functions and estimators, and can switch it while running.

    A drop-in for its last model, with `predict` and `predict_proba`. Each stage is called with the
    samples that the stages before have deferred, in the type in which they came.

    Args:
        stages: exit name -> `CallableStage`, or what it is made of; an `Ensemble` names others and
            reuses the logits that they have computed for a sample.
        policy: which stages are run, in which order, and the threshold of each.
        operating_points: the certified points that it can be set to.
        scores: exit name -> the learned score behind its confidence `deferral`.
        classes: the names of the classes; by default those of the stages, where they have names.

    >>> stages = {"tiny": lambda x: x, "big": lambda x: np.eye(2)[[1] * len(x)]}
    >>> cascade = CallableCascade(stages, Policy.pair("tiny", "big", 0.9))
    >>> cascade.predict(np.array([[0.95, 0.05], [0.6, 0.4]])).tolist()
    [0, 1]
    >>> cascade.answer(np.array([[0.95, 0.05], [0.6, 0.4]])).exit_names()
    ['tiny', 'big']

    Raises:
        ModelError: no stage, something that cannot be called, or stages of different classes.
        PolicyError: the policy names an exit or a confidence that the cascade lacks.
    """

    def __init__(
        self,
        stages: Mapping[str, Any],
        policy: Policy,
        *,
        operating_points: Sequence[OperatingPoint] = (),
        scores: Mapping[str, DeferralScore] = MappingProxyType({}),
        classes: Sequence[Any] | None = None,
    ) -> None:
        if not stages:
            raise ModelError("a cascade has at least one stage, found none: give it the models")
        ensembles = {name: one for name, one in stages.items() if isinstance(one, Ensemble)}
        self.stages = callable_stages({n: m for n, m in stages.items() if n not in ensembles})
        for name, ensemble in ensembles.items():
            check_members(name, ensemble, self.stages)
        order = class_order(self.stages, classes)
        computations = [
            *(_computation(name, stage, order) for name, stage in self.stages.items()),
            *(mean_of(name, ensemble) for name, ensemble in ensembles.items()),
        ]
        super().__init__(
            ValueGraph(computations),
            policy,
            exits=tuple(stages),
            operating_points=operating_points,
            scores=scores,
            classes=order,
        )

    def samples_in(self, loaded: Any) -> Any:
        """The samples of ``(samples, labels)``, of a dictionary of both, or samples alone.

        Raises:
            DataError: no sample, or no rows that can be indexed.
        """
        return as_rows(samples_of(loaded).images)

    def request(self, sample: Any) -> Any:
        """One sample: a row of numbers, a text, a dictionary, or a data frame of one row.

        Raises:
            DataError: a data frame or matrix of another number of rows.
        """
        return as_request(sample)

    def prepare(self, samples: Any) -> Any:
        """Samples as the runtime handles them.

        Raises:
            DataError: no sample, or no rows that can be indexed.
        """
        return as_rows(samples)

    def predict(self, samples: Any) -> Array:
        """The class of each sample (N,): as the estimators name it, or its number.

        Raises:
            DataError: no sample, or no rows that can be indexed.
            StageFailed: a function raised.
            ModelError: what a function returned is no answer.
            NotANumber: a sample that the last stage did not answer.
        """
        answers = self.answer(samples)
        if answers.failed:
            raise NotANumber(self.policy.exits[-1])
        if self.classes is None:
            return answers.prediction
        known = [value for stage in self.stages.values() for value in stage.classes or ()]
        named = {class_name(value): value for value in reversed(known)}
        return np.array([named.get(name, name) for name in self.classes])[answers.prediction]

    def predict_proba(self, samples: Any) -> Array:
        """The probabilities of the classes (N, C) float32, of the exit that answered; NaN where the
        last stage did not answer.

        Raises:
            DataError: no sample, or no rows that can be indexed.
            StageFailed: a function raised.
            ModelError: what a function returned is no answer.
        """
        rows, sink = self.samples_in(samples), _LastLogits()
        Pipeline(self.runners, sink).run_batch(rows)
        return softmax(sink.logits)

    __call__ = predict_proba


def callable_stages(models: Mapping[str, Any]) -> dict[str, CallableStage]:
    """The stages by exit.

    Raises:
        ModelError: something that is neither a function nor an estimator.
    """
    return {name: as_callable_stage(model) for name, model in models.items()}


def class_order(
    stages: Mapping[str, CallableStage], classes: Sequence[Any] | None
) -> tuple[str, ...] | None:
    """The names of the classes in the order of all logits; None where they are numbered only.

    By default those of the first stage that has names.
    """
    if classes is not None:
        return tuple(map(class_name, classes))
    known = (stage.class_names for stage in stages.values())
    return next((names for names in known if names and not counted_from_0(names)), None)


def build_callables(
    plan: Policy | Result, models: Mapping[str, Any], *, max_drop: float | None = None
) -> CallableCascade:
    """A cascade of functions and estimators that executes a policy, or the choice of a search.

    Ensembles and learned scores are those of the result. A function has no hash: that it is the one
    that was scored cannot be checked. What is known is compared: the kind of output, the number of
    classes, and of estimators their type and the number of features.

    Args:
        plan: the policy, or a result with one choice per budget.
        models: exit name -> function, estimator or `CallableStage`.
        max_drop: the budget in points whose choice is taken; by default the first.

    Raises:
        ModelError: a model that the policy names is missing, or is certainly not the one that was
            scored.
        PolicyError: no choice for that budget.
    """
    plain = {name: one for name, one in models.items() if not isinstance(one, Ensemble)}
    stages = {**models, **callable_stages(plain)}
    if isinstance(plan, Policy):
        check_complete(plan, stages)
        return CallableCascade(stages, plan)
    policy = plan.choice(max_drop).policy
    stages |= ensembles_within(plan, tuple(stages))
    check_complete(policy, stages)
    for single in plan.singles:
        if isinstance(stage := stages.get(single.name), CallableStage):
            _check_scored(single.name, single.origin, stage)
    return CallableCascade(stages, policy, **planned_within(plan, stages))


def _computation(name: str, stage: CallableStage, order: tuple[str, ...] | None) -> Computation:
    """The logits of a stage from the rows of a batch."""
    return Computation((IMAGES,), (logits_of(name),), partial(_run, stage, name, order))


def _run(
    stage: CallableStage, name: str, order: tuple[str, ...] | None, values: Sequence[Any]
) -> list[Array]:
    return [stage.logits(values[0], name=name, classes=order)]


def _check_scored(name: str, origin: Mapping[str, Any], stage: CallableStage) -> None:
    """Compare what is known of a stage with what was recorded when it was scored."""
    found = stage.to_origin()
    if stage.classes is not None:
        found["classes"] = len(stage.classes)
    for key, what in (
        ("outputs", "output is"),
        ("classes", "number of classes is"),
        ("estimator", "type is"),
        ("features", "number of features is"),
    ):
        if key in origin and key in found and origin[key] != found[key]:
            raise ModelError(
                f"{name!r} is not the model that was scored, its {what} {found[key]!r} and was "
                f"{origin[key]!r}: restore it, or score it again"
            )


class _LastLogits:
    """Collects the logits of a batch, whose ids are its row numbers."""

    logits: Array

    def visited(self, runner: StageRunner, ids: Array, output: RunnerOutput) -> None:  # noqa: ARG002
        """Write the logits of the stage; a later stage overwrites the rows that were deferred."""
        if not hasattr(self, "logits"):
            self.logits = np.array(output.logits, np.float32)
        else:
            self.logits[ids] = output.logits

    def failed(self, runner: StageRunner, ids: Array, error: Exception) -> None:
        """Rows of NaN keep their logits."""
