"""Logits of what a function or an estimator returns for a batch, without PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from understudy.class_outputs import array_of, entries, is_missing
from understudy.confidence_functions import SUM_TOLERANCE, normalised_logs
from understudy.errors import ModelError, listed, unknown

Array = npt.NDArray[Any]
OutputKind = Literal["probabilities", "logits", "classes"]
"""What a function returns: numbers per class and sample, or the class of each sample."""


def class_name(value: Any) -> str:
    """The name of a class: texts as they are, whole numbers of any type alike.

    >>> [class_name(value) for value in ("cat", np.int64(3), 3.0, np.True_)]
    ['cat', '3', '3', 'True']
    """
    if isinstance(value, float | np.floating) and float(value).is_integer():
        value = int(value)
    return str(value)


def class_places(classes: Sequence[str]) -> dict[str, int]:
    """Name of a class -> its number; numbers stand for themselves where no class has such a name.

    >>> class_places(["cat", "dog"]), class_places(["1", "2"])
    ({'cat': 0, 'dog': 1, '0': 0, '1': 1}, {'1': 0, '2': 1})
    """
    places = {name: place for place, name in enumerate(classes)}
    if not any(name.isdecimal() for name in classes):
        places |= {str(place): place for place in range(len(classes))}
    return places


def class_logits(
    output: Any,
    samples: int,
    *,
    model: str,
    outputs: OutputKind = "probabilities",
    columns: Sequence[Any] | None = None,
    classes: Sequence[Any] | None = None,
) -> Array:
    """What a function or estimator returned for a batch, as logits (N, C) float64.

    They are the logarithms of probabilities (zeros become 1e-12), or logits as they are. A sample
    for which a list has None, or an array NaN, has a row of NaN: no answer.

    Args:
        output: an array, tensor or data frame (N, C); of two classes (N,), the second one's
            probability or a decision value; or a list with an entry for each sample, the labels
            with their scores: ``{"label": "cat", "score": 0.9}`` or several of them, or ``{"cat":
            0.9, "dog": 0.1}``. Classes that a sample has no score for share what is left to 1.
        samples: N.
        model: its name, for messages.
        outputs: "probabilities", "logits" (or decision values), or "classes": the number or name of
            each sample's class (N,), which is taken as certain.
        columns: the classes in the order of the output, such as an estimator's `classes_`; those of
            data frames and scores are their own.
        classes: the classes in the order that is wanted; by default as they come.

    >>> class_logits([[0.5, 0.5], None], 2, model="tiny").round(2).tolist()
    [[-0.69, -0.69], [nan, nan]]
    >>> found = [{"label": "dog", "score": 0.75}]
    >>> np.exp(class_logits(found, 1, model="api", classes=["cat", "dog"])).round(2).tolist()
    [[0.25, 0.75]]

    Raises:
        ModelError: another shape, no numbers, probabilities that are none, or other classes.
    """
    order = None if classes is None else tuple(map(class_name, classes))
    own = None if columns is None else tuple(map(class_name, columns))
    read = _OutputReader(model, samples, own or order)
    if outputs == "classes":
        values, own = read.certain(output), own or order
    elif (listed_scores := _scores_by_label(output)) is not None:
        values, own = read.scores(listed_scores), own or order
    else:
        values, named = read.numbers(output)
        own = own if named is None else named
    if outputs != "logits":
        values = read.logs(values)
    elif values.shape[1] == 1:
        values = np.hstack([-values / 2, values / 2])
    return read.ordered(values, own, order)


@dataclass(frozen=True)
class _OutputReader:
    """Reads the output of one model for n samples; `known` are its classes, where they are."""

    model: str
    samples: int
    known: tuple[str, ...] | None

    def numbers(self, output: Any) -> tuple[Array, tuple[str, ...] | None]:
        """Numbers (n, C), or (n, 1) of two classes, and the names of a data frame's columns."""
        if isinstance(output, list | tuple):
            output = self._with_gaps(output)
        try:
            values, columns = array_of(output)
        except (ValueError, TypeError, RuntimeError) as error:
            raise self._odd(type(output).__name__) from error
        if values.ndim == 1:
            values = values[:, None]
        if values.dtype.kind not in "fiub" or values.ndim != 2 or not values.shape[1]:
            raise self._odd(f"{type(output).__name__} {values.shape} of {values.dtype}")
        self._check_count(len(values))
        return values.astype(np.float64), columns if values.shape[1] > 1 else None

    def _with_gaps(self, output: Sequence[Any]) -> Sequence[Any]:
        """Rows of NaN where a list has None."""
        if all(row is not None for row in output):
            return output
        first = next((row for row in output if row is not None), None)
        width = len(self.known or ()) if first is None else np.size(first)
        if not width:
            raise ModelError(
                f"{self.model!r} answers at least one of its first samples, found none of "
                f"{self.samples} answered: name the classes, or give it other samples"
            )
        gap = np.full(width, np.nan)
        return [gap if row is None else np.ravel(row) for row in output]

    def certain(self, output: Any) -> Array:
        """Probabilities (n, C) of classes that are taken as certain."""
        found = entries(array_of(output)[0]) if hasattr(output, "__len__") else [output]
        if any(isinstance(one, list) for one in found):
            raise self._odd("more than one entry for a sample")
        self._check_count(len(found))
        known = self._known("classes")
        by_name = class_places(known)
        rows = np.zeros((self.samples, len(known)))
        for row, one in enumerate(found):
            if is_missing(one):
                rows[row] = np.nan
            elif class_name(one) in by_name:
                rows[row, by_name[class_name(one)]] = 1
            else:
                raise self._unknown(class_name(one))
        return rows

    def scores(self, samples: Sequence[Mapping[Any, Any] | None]) -> Array:
        """Probabilities (n, C) from scores by label; what is left to 1 is shared by the others."""
        self._check_count(len(samples))
        known = self._known("labels with scores")
        places = {name: place for place, name in enumerate(known)}
        rows = np.full((self.samples, len(known)), np.nan)
        for row, scores in enumerate(samples):
            if scores is None:
                continue
            strange = [label for label in scores if class_name(label) not in places]
            if strange:
                raise self._unknown(class_name(strange[0]))
            left = 1 - sum(map(float, scores.values()))
            rows[row] = max(left, 0) / max(len(known) - len(scores), 1)
            for label, score in scores.items():
                rows[row, places[class_name(label)]] = score
            best = max(map(float, scores.values()), default=0.0)
            if left < -SUM_TOLERANCE or best < rows[row].max():
                raise ModelError(
                    f"the scores of a sample sum to 1 at most and the best label is among them, "
                    f"{self.model!r} gives {dict(scores)} of {len(known)} classes: return "
                    "probabilities of all classes"
                )
        return rows

    def logs(self, values: Array) -> Array:
        """The logarithms of probabilities (n, C); of (n, 1) after that of the other class."""
        if values.shape[1] == 1:
            values = np.hstack([1 - values, values])
        total = values.sum(1)
        outside = (values < 0) | (values > 1 + SUM_TOLERANCE)
        wrong = outside.any(1) | (np.abs(total - 1) > SUM_TOLERANCE)
        if wrong.any():
            row = int(wrong.argmax())
            raise ModelError(
                f"probabilities lie between 0 and 1 and sum to 1, {int(wrong.sum())} of "
                f"{len(values)} rows of {self.model!r} do not (row {row} is from "
                f"{values[row].min():.4g} to {values[row].max():.4g} with the sum "
                f"{total[row]:.4g}): apply a softmax first, or say outputs='logits'"
            )
        return normalised_logs(values)

    def ordered(
        self, values: Array, own: tuple[str, ...] | None, order: tuple[str, ...] | None
    ) -> Array:
        """The columns in the order that is wanted."""
        for names in (own, order):
            if names is not None and len(names) != values.shape[1]:
                raise ModelError(
                    f"{self.model!r} has {len(names)} classes, {listed(map(repr, names))}, found "
                    f"an output with {values.shape[1]}: return a number for each of them"
                )
        if own is None or order is None or own == order or counted_from_0(own):
            return values
        if sorted(own) != sorted(order):
            strange = sorted(set(own) ^ set(order)) or ["names that repeat"]
            raise ModelError(
                f"all models have the same classes, those of {self.model!r} differ in "
                f"{listed(map(repr, strange))}: fit it to samples of all classes, or rename them"
            )
        return values[:, [own.index(one) for one in order]]

    def _check_count(self, found: int) -> None:
        if found != self.samples:
            raise ModelError(
                f"a model returns an answer for each sample, {self.model!r} was given "
                f"{self.samples} and returned {found}: return one row per sample, in their order"
            )

    def _known(self, what: str) -> tuple[str, ...]:
        if self.known is None:
            raise ModelError(
                f"{what} need the names of all classes, none are known of {self.model!r}: name "
                "them with classes=[...]"
            )
        return self.known

    def _unknown(self, name: str) -> ModelError:
        return ModelError(unknown("class", name, self.known or (), where=f"those of {self.model}"))

    def _odd(self, found: str) -> ModelError:
        return ModelError(
            f"a model returns numbers (N, C), one row per sample and one column per class, here "
            f"N = {self.samples}, {self.model!r} returned {found}: return probabilities "
            "as an array, or say outputs='classes' where it returns the class of each sample"
        )


def _scores_by_label(output: Any) -> list[Mapping[Any, Any] | None] | None:
    """Label -> score of each sample, None where a sample has none; None for other outputs."""
    if not isinstance(output, list | tuple):
        return None
    first = next((one for one in output if one is not None), None)
    if isinstance(first, list | tuple) and first:
        first = first[0]
    return list(map(_scores_of, output)) if isinstance(first, Mapping) else None


def _scores_of(one: Any) -> Mapping[Any, Any] | None:
    if isinstance(one, list | tuple):
        return {label: score for part in one for label, score in (_scores_of(part) or {}).items()}
    if isinstance(one, Mapping) and {"label", "score"} <= set(one):
        return {one["label"]: one["score"]}
    return one if isinstance(one, Mapping) else None


def counted_from_0(names: Sequence[str]) -> bool:
    """Whether classes are numbered only, so that other names may stand for the numbers."""
    return tuple(names) == tuple(map(str, range(len(names))))
