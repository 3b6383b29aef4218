"""A function or an estimator as a stage: from samples to logits, for scoring and for running."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from understudy.callables.samples import as_rows, assembled
from understudy.class_logits import OutputKind, class_logits, class_name
from understudy.errors import ModelError, listed
from understudy.runtime.protocol import StageFailed

Array = npt.NDArray[Any]

METHODS: Mapping[str, OutputKind] = {
    "predict_proba": "probabilities",
    "decision_function": "logits",
    "predict": "classes",
}
"""The methods of estimators, the best one first, and what they return."""


class CallableStage:
    """A function from samples to classes, with its cost.

    Samples are given as they came: an array (n, ...), a data frame, a sparse matrix or a list, with
    the rows alone that the stages before have deferred. What the function returns is read by
    `understudy.class_logits.class_logits`: probabilities (n, C) unless `outputs` says otherwise;
    None, or a row of NaN, is no answer to a sample. The function is called once per batch and never
    again where it raises: it retries by itself.

    Args:
        model: a function, a method such as ``estimator.predict_proba``, or an estimator of
            scikit-learn's interface, whose first of predict_proba, decision_function and predict
            is called.
        outputs: "probabilities", "logits" or "classes", see `class_logits`.
        classes: the classes in the order of the output; by default an estimator's `classes_`, or
            those of a text pipeline's model.
        cost: of one sample, {unit: number}, or a number alone.

    >>> stage = CallableStage(lambda texts: [0.9 if "!" in text else 0.2 for text in texts])
    >>> stage.logits(["hi", "hi!"], name="tiny").argmax(1).tolist()
    [0, 1]

    Raises:
        ModelError: no function and no such estimator, or unknown outputs.
    """

    def __init__(
        self,
        model: Any,
        *,
        outputs: OutputKind | None = None,
        classes: Sequence[Any] | None = None,
        cost: float | Mapping[str, float] | None = None,
    ) -> None:
        if outputs is not None and outputs not in get_args(OutputKind):
            raise ModelError(
                f"outputs are {listed(map(repr, get_args(OutputKind)))}, found {outputs!r}: name "
                "what the function returns"
            )
        self.function = _function_of(model)
        self.outputs: OutputKind = outputs or _outputs_of(self.function)
        known = _classes_of(self.function) if classes is None else classes
        self.classes: tuple[Any, ...] | None = None if known is None else tuple(known)
        self.cost = cost

    @property
    def estimator(self) -> Any:
        """The estimator whose method is called; None for other functions."""
        return _estimator_of(self.function)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes in the order of the output, where they are known."""
        return None if self.classes is None else tuple(map(class_name, self.classes))

    def logits(self, samples: Any, *, name: str, classes: Sequence[str] | None = None) -> Array:
        """Logits (n, C) float32 of some samples, NaN for those without an answer.

        Args:
            samples: in any form that `as_rows` takes.
            name: of the stage, for messages.
            classes: the order of the classes; by default that of the output.

        Raises:
            DataError: no sample, or no rows that can be indexed.
            StageFailed: the function raised.
            ModelError: what it returned is no answer.
        """
        rows = as_rows(samples)
        count = len(rows)
        try:
            output = self.function(assembled(rows))
        except MemoryError:
            raise
        except Exception as error:
            raise StageFailed(name, count, error) from error
        if inspect.isawaitable(output):
            raise ModelError(
                f"a stage is a function that returns its answers, {name!r} is a coroutine: wrap it "
                "in a function that runs it, with asyncio.run"
            )
        logits = class_logits(
            output,
            count,
            model=name,
            outputs=self.outputs,
            columns=self.classes,
            classes=classes,
        )
        return logits.astype(np.float32)

    def to_origin(self) -> dict[str, Any]:
        """Plain JSON of what can be known of it: a function has no hash."""
        estimator = self.estimator
        width = getattr(estimator, "n_features_in_", None)
        return {
            "callable": _described(self.function),
            "outputs": self.outputs,
            **({} if estimator is None else {"estimator": type(estimator).__name__}),
            **({} if width is None else {"features": int(width)}),
        }

    def __repr__(self) -> str:
        return f"<CallableStage: {_described(self.function)}, {self.outputs}>"


def as_callable_stage(model: Any) -> CallableStage:
    """The stage itself, or one around a function or an estimator.

    Raises:
        ModelError: neither.
    """
    return model if isinstance(model, CallableStage) else CallableStage(model)


def _function_of(model: Any) -> Callable[[Any], Any]:
    """What is called with samples."""
    if not isinstance(model, type):
        for method in METHODS:
            if hasattr(model, method) and (method != "predict" or hasattr(model, "classes_")):
                bound: Callable[[Any], Any] = getattr(model, method)
                return bound
        if callable(model):
            called: Callable[[Any], Any] = model
            return called
    raise ModelError(
        "a model is a function, a fitted classifier with predict_proba, decision_function or "
        f"predict, or a torch.nn.Module, found {_kind_of(model)}: give a function from samples to "
        "probabilities"
    )


def _innermost(function: Any) -> Any:
    """The function behind `functools.partial`."""
    while isinstance(function, partial):
        function = function.func
    return function


def _estimator_of(function: Any) -> Any:
    owner = getattr(_innermost(function), "__self__", None)
    return owner if hasattr(owner, "classes_") else None


def _outputs_of(function: Any) -> OutputKind:
    """What a method of an estimator returns; probabilities for other functions."""
    kinds: Mapping[str, OutputKind] = {**METHODS, "predict_log_proba": "logits"}
    if _estimator_of(function) is None:
        return "probabilities"
    return kinds.get(_innermost(function).__name__, "probabilities")


def _classes_of(function: Any) -> Sequence[Any] | None:
    """The classes of an estimator, or of the model in a text pipeline of transformers."""
    estimator = _estimator_of(function)
    if estimator is not None:
        return list(estimator.classes_)
    config = getattr(getattr(_innermost(function), "model", None), "config", None)
    names = getattr(config, "id2label", None)
    return [names[number] for number in sorted(names)] if isinstance(names, Mapping) else None


def _described(function: Any) -> str:
    inner = _innermost(function)
    owner, name = getattr(inner, "__self__", None), getattr(inner, "__qualname__", None)
    if name is None:
        return type(inner).__qualname__
    if owner is None or inspect.ismodule(owner):
        return f"{inner.__module__}.{name}"
    return f"{type(owner).__qualname__}.{inner.__name__}"


def _kind_of(model: Any) -> str:
    return (
        f"the class {model.__name__}" if isinstance(model, type) else f"one {type(model).__name__}"
    )
