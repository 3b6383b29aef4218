"""Scoring functions and estimators on samples in memory, without PyTorch."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from operator import length_hint
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_info

from understudy.callables.cascade import callable_stages, class_order
from understudy.callables.samples import as_rows, samples_of
from understudy.callables.stage import CallableStage
from understudy.class_logits import class_name, class_places
from understudy.class_outputs import entries, is_missing, one_column
from understudy.confidence_functions import are_probabilities, confidence_functions, softmax
from understudy.errors import DataError, ModelError, listed, unknown
from understudy.exit import Detail, Exit
from understudy.measured_rounds import (
    BRIEF,
    RoundTimes,
    batch_sizes,
    rounds,
    seconds_after,
    unit_of,
)
from understudy.progress_bars import Advance, no_bar, progress_bars
from understudy.runtime.pipeline import check_classes
from understudy.scores import ScoreTable
from understudy.sitting import Sitting
from understudy.table_validation import NO_LABEL

Array = npt.NDArray[Any]
BATCH = 256
CHECKED = 8  # samples that are given twice
ROUNDING = 1e-4  # of a probability, between one call and another


def score_callables(
    models: Mapping[str, Any],
    data: Any,
    labels: Any = None,
    *,
    costs: Mapping[str, Any] | None = None,
    classes: Sequence[Any] | None = None,
    ids: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    split: Mapping[str, float] | Sequence[str] | None = None,
    keep_logits: bool = True,
    measure: int | Sequence[int] = (),
    progress: bool = True,
    batch_size: int = BATCH,
) -> ScoreTable:
    """Call every model on all samples and keep the outputs; see `understudy.score`.

    Args:
        models: exit name -> function, estimator or `CallableStage`.
        data: samples by rows, or an iterable of batches of them.
        labels: (N,) the class of each sample, by its number or name, None where it is missing;
            None altogether without labels, or where batches bring them.
        costs: {unit: {exit: cost of a sample}}; by default those of the stages.
        classes: the names of the classes in one order for all; by default an estimator's.
        ids: (N,) unique names of the samples; row numbers by default.
        groups: (N,) names; samples of one group share a split.
        split: shares of tune, certify and test, or (N,) split names.
        keep_logits: keep all logits, as float16.
        measure: batch sizes at which ms per sample are measured afterwards, as the units
            ``ms@SIZE``, on the first samples; each model is called 8 to 51 times for it.
        progress: show a bar of the batches, where stderr is a terminal or in a notebook.
        batch_size: the most samples that a function is given at once.

    >>> rows = np.array([[0.9, 0.1], [0.4, 0.6]])
    >>> table = score_callables({"tiny": lambda x: x, "big": lambda x: x**0 / 2}, rows, [0, 1],
    ...                         costs={"tiny": 1, "big": 9})
    >>> table.prediction.tolist()
    [[0, 1], [0, 0]]

    Raises:
        ModelError: something that is neither function nor estimator, a sample without an answer,
            or models of different classes.
        StageFailed: a function raised.
        DataError: no sample, no rows that can be indexed, or labels that are no classes.
        TableError: ids, groups, splits or costs that do not fit.
    """
    if not models:
        raise ModelError("scoring needs at least one model, found none: name some")
    sizes = batch_sizes(measure)
    stages = callable_stages(models)
    run = _CallableRun(stages, class_order(stages, classes))
    batches, count = _batches(data, labels, batch_size)
    bars = progress_bars("batches", measuring="rounds") if progress else nullcontext(no_bar)
    with bars as advance:
        start = perf_counter()
        for number, (rows, some) in enumerate(batches, start=1):
            run.add(rows, some)
            advance("scoring", number, count)
        sittings = run.measured(sizes, seconds_after(perf_counter() - start), advance)
    if costs is None:
        costs = _costs(stages) or ({} if sizes else None)
    table = run.table(keep_logits=keep_logits, costs=costs, ids=ids, groups=groups, split=split)
    return replace(table, times={one.unit: one.median for one in sittings}, sittings=sittings)


@dataclass
class _CallableRun:
    """The logits of all batches so far, by exit, and their labels.

    Attributes:
        stages: the stages by exit.
        classes: the names of the classes in the order of the logits.
    """

    stages: Mapping[str, CallableStage]
    classes: tuple[str, ...] | None
    logits: dict[str, list[Array]] = field(default_factory=dict)
    labels: list[Any] = field(default_factory=list)
    first: Any = ()

    def add(self, rows: Any, labels: Any) -> None:
        """Call all models on a batch."""
        first_batch = not self.logits
        self.first = rows if first_batch else self.first
        for name, stage in self.stages.items():
            logits = _answered(stage, name, rows, self.classes)
            if first_batch:
                _check_repeats(stage, name, rows, logits, self.classes)
            self.logits.setdefault(name, []).append(logits)
            first = next(iter(self.logits))
            check_classes(first, self.logits[first][0].shape[1], name, logits.shape[1])
        self.labels += [] if labels is None else _checked_labels(labels, len(rows))

    def measured(
        self, sizes: Sequence[int], seconds: float, on_progress: Advance
    ) -> tuple[Sitting, ...]:
        """The times of all models at some batch sizes, on the first samples."""
        return tuple(self._sitting(size, seconds, on_progress) for size in sizes if self.logits)

    def _sitting(self, size: int, seconds: float, on_progress: Advance) -> Sitting:
        rows = _picked(self.first, np.arange(size) % len(self.first))
        timers = {
            name: partial(_timed, stage, name, rows, self.classes)
            for name, stage in self.stages.items()
        }
        record, unit = RoundTimes(), unit_of(size)
        for done, left, found in rounds(timers, seconds=seconds):
            record.add(found)
            on_progress(f"measuring {unit}", done, done + left)
        threads = max((one["num_threads"] for one in threadpool_info()), default=1)
        return record.sitting(unit, device="cpu", threads=threads)

    def table(self, **options: Any) -> ScoreTable:
        """The table of all batches, without times.

        Raises:
            DataError: no batch, or labels of some batches only.
        """
        if not self.logits:
            raise DataError("scoring needs at least one sample, found none")
        found = {name: np.concatenate(pieces) for name, pieces in self.logits.items()}
        total, width = next(iter(found.values())).shape
        if len(self.labels) not in {0, total}:
            raise DataError(
                f"either every batch has labels or none has, found {len(self.labels)} labels for "
                f"{total} samples"
            )
        labels = _codes(self.labels, self.classes, width) if self.labels else None
        return table_of_logits(self.stages, found, labels, classes=self.classes, **options)


def table_of_logits(
    stages: Mapping[str, CallableStage],
    logits: Mapping[str, Array],
    labels: Array | None,
    *,
    classes: tuple[str, ...] | None,
    keep_logits: bool = True,
    **options: Any,
) -> ScoreTable:
    """The table of stages whose logits are there already.

    Args:
        stages: exit name -> the stage, which says what the logits were made of.
        logits: exit name -> (N, C) float32, as `CallableStage.logits` returns them.
        labels: (N,) class numbers, -1 where one is missing; or None.
        classes: (C,) the names of the classes, in the order of the logits.
        keep_logits: keep all logits, as float16.
        options: further ones of `ScoreTable.from_predictions`.

    >>> stages = {"tiny": CallableStage(lambda x: x)}
    >>> logits = {"tiny": np.log(np.float32([[0.9, 0.1], [0.4, 0.6]]))}
    >>> table = table_of_logits(stages, logits, np.array([0, 1]), classes=None, costs={"tiny": 1})
    >>> table.prediction.tolist(), "energy" in table.confidence
    ([[0, 1]], False)

    Raises:
        TableError: as `ScoreTable.from_predictions`.
    """
    table = ScoreTable.from_predictions(
        {n: (rows.argmax(1), _confidences(rows, stages[n])) for n, rows in logits.items()},
        labels,
        classes=classes,
        **options,
    )
    exits = (
        Exit(name, (name,), {**stages[name].to_origin(), "classes": rows.shape[1]})
        for name, rows in logits.items()
    )
    details = {name: Detail.of(rows, keep_logits=keep_logits) for name, rows in logits.items()}
    return replace(table, exits=tuple(exits), details=details)


def measured_times(
    stages: Mapping[str, CallableStage], samples: Any, size: int, *, seconds: float = BRIEF
) -> Sitting:
    """The milliseconds per sample of all stages in batches of some size, as `score` measures them.

    Args:
        stages: exit name -> the stage; each is called 4 to 51 times.
        samples: in any form that `as_rows` takes; the first `size` of them, or all again and again.
        size: the samples of a batch.
        seconds: after which few rounds have to do.

    >>> sitting = measured_times({"tiny": CallableStage(lambda x: x)}, np.ones((3, 1)), 8)
    >>> sitting.unit, list(sitting.median)
    ('ms@8', ['tiny'])

    Raises:
        StageFailed: a function raised.
    """
    return _CallableRun(stages, None, first=as_rows(samples))._sitting(size, seconds, no_bar)


def _batches(data: Any, labels: Any, size: int) -> tuple[Iterator[tuple[Any, Any]], int]:
    """Rows and labels of each batch, and the number of batches; 0 where it is not known."""
    if size < 1:
        raise DataError(f"a batch has at least one sample, found batch_size={size}")
    if labels is None and not _is_rows(data):
        found = map(samples_of, _iterable(data))
        return ((as_rows(one.images), one.labels) for one in found), length_hint(data)
    rows = as_rows(data)
    truth = None if labels is None else _checked_labels(labels, len(rows))
    starts = range(0, len(rows), size)
    return (
        (rows[at : at + size], None if truth is None else truth[at : at + size]) for at in starts
    ), len(starts)


def _is_rows(data: Any) -> bool:
    """Whether data are samples, rather than batches of them: a list of ``(samples, labels)``, or
    what can only be iterated."""
    if hasattr(data, "shape"):
        return True
    if not hasattr(data, "__getitem__") or not hasattr(data, "__len__"):
        return False
    if not isinstance(data, list | tuple) or not data or isinstance(data[0], Mapping):
        return True
    return samples_of(data[0]).labels is None


def _iterable(data: Any) -> Iterable[Any]:
    if not hasattr(data, "__iter__"):
        raise DataError(
            f"data are samples by rows, or batches of them, found one {type(data).__name__}: give "
            "an array, a data frame or a list"
        )
    found: Iterable[Any] = data
    return found


def _checked_labels(labels: Any, count: int) -> list[Any]:
    """The labels as a list."""
    found = entries(one_column(labels.cpu() if hasattr(labels, "cpu") else labels, "labels"))
    if len(found) != count or any(isinstance(one, list) for one in found):
        raise DataError(
            f"labels are one class per sample, ({count},), found "
            f"{getattr(labels, 'shape', len(found))}: give class numbers or names"
        )
    return found


def _codes(labels: list[Any], classes: tuple[str, ...] | None, width: int) -> Array:
    """Labels as class numbers, -1 where one is missing."""
    names = tuple(map(str, range(width))) if classes is None else classes
    places = class_places(names)
    missing = {None, class_name(NO_LABEL)}
    found = [None if is_missing(one) else class_name(one) for one in labels]
    strange = [name for name in found if name not in places and name not in missing]
    if strange:
        raise DataError(
            f"labels are classes of the models, {len(strange)} are none: "
            f"{unknown('class', str(strange[0]), names)}"
        )
    return np.array([NO_LABEL if name is None else places.get(name, NO_LABEL) for name in found])


def _answered(stage: CallableStage, name: str, rows: Any, order: tuple[str, ...] | None) -> Array:
    """The logits of a batch, finite."""
    logits = stage.logits(rows, name=name, classes=order)
    wrong = np.flatnonzero(~np.isfinite(logits).all(1)).tolist()
    if wrong:
        raise ModelError(
            f"every sample of a table has an answer, {name!r} gives none for {len(wrong)} of "
            f"{len(logits)} samples of a batch (rows {listed(wrong)}): let it try again, or leave "
            "these samples out"
        )
    if stage.outputs == "logits" and are_probabilities(logits):
        raise ModelError(
            f"logits are not normalised, {name!r} gives probabilities (from 0 to 1, with the sum "
            "1): say outputs='probabilities'"
        )
    return logits


def _check_repeats(
    stage: CallableStage, name: str, rows: Any, logits: Array, order: tuple[str, ...] | None
) -> None:
    """Warn where some samples get other answers when they are given again, in two halves."""
    places = np.arange(min(len(rows), CHECKED))[::-1]
    halves = [half for half in np.array_split(places, 2) if len(half)]
    again = [stage.logits(_picked(rows, half), name=name, classes=order) for half in halves]
    off = float(np.abs(softmax(np.concatenate(again)) - softmax(logits[places])).max())
    if not off <= ROUNDING:
        warnings.warn(
            f"a cascade answers as its table says where a model's answers depend neither on chance "
            f"nor on the rest of a batch, the probabilities of {name!r} for the same samples "
            f"differ by {off:.2g}: turn off dropout and sampling, if you can",
            stacklevel=5,
        )


def _picked(rows: Any, places: Array) -> Any:
    """Some rows, in any order."""
    array = isinstance(rows, np.ndarray)
    return rows[places] if array else [rows[one] for one in places.tolist()]


def _timed(
    stage: CallableStage, name: str, rows: Any, order: tuple[str, ...] | None
) -> dict[str, float]:
    """Milliseconds per sample of one call."""
    start = perf_counter()
    stage.logits(rows, name=name, classes=order)
    return {name: 1000 * (perf_counter() - start) / len(rows)}


def _confidences(logits: Array, stage: CallableStage) -> dict[str, Array]:
    """All confidences; log-probabilities carry no energy."""
    return {
        name: function(logits)
        for name, function in confidence_functions.items()
        if name != "energy" or stage.outputs == "logits"
    }


def _costs(stages: Mapping[str, CallableStage]) -> dict[str, dict[str, float]] | None:
    """{unit: {exit: cost}} of the stages' own costs; None where none has any."""
    units = {
        name: dict(stage.cost) if isinstance(stage.cost, Mapping) else {"cost": stage.cost}
        for name, stage in stages.items()
        if stage.cost is not None
    }
    if not units:
        return None
    kinds = {name: sorted(units.get(name, {})) for name in stages}
    if len({tuple(kind) for kind in kinds.values()}) > 1:
        raise ModelError(f"all stages have a cost in the same units, found {kinds}: complete them")
    some = next(iter(units.values()))
    return {unit: {name: float(units[name][unit]) for name in stages} for unit in some}
